/** Large and hostile JSON messages on a WebSocket: limits hold, the order stays, the connection goes on. */
import t from 'tap'
import { streamServer } from './stream-server.js'

t.test('messages behind a large one are handled after it', async (t) => {
  const { bus, connect } = await streamServer(t)
  await bus.create('big', { dtype: 'f64', shape: [50_000] })
  const client = await connect()
  const values = Array.from({ length: 50_000 }, (_, i) => i / 3)
  for (const round of [1, 2]) {
    client.send({ type: 'transaction', id: `large${round}`, ops: [{ page: 'big', values }] })
    for (let i = 0; i < 20; i++) {
      const ops = [{ page: 'big', offset: 0, values: [i], merge: i === 0 ? 'add' : 'set' }]
      client.send({ type: 'transaction', id: `small${round}.${i}`, ops })
    }
  }
  await client.until(() => client.messages.length === 42)
  t.ok(client.messages.every((m) => m.type === 'ack'))
  const ids = [1, 2].flatMap((round) => [
    `large${round}`,
    ...Array.from({ length: 20 }, (_, i) => `small${round}.${i}`),
  ])
  t.same(
    client.messages.map((m) => m.id),
    ids,
  )
  t.equal(bus.read('big')[0], 19)
  t.equal(bus.read('big')[49_999], 49_999 / 3)
})

t.test('too large, too deep, not JSON: answered, and the connection goes on', async (t) => {
  const { connect } = await streamServer(t, { limits: { maxJsonBytes: 200_000, maxJsonDepth: 10 } })
  const client = await connect()
  const deep = '['.repeat(11) + ']'.repeat(11)
  const cases: [string, string, RegExp][] = [
    [`{"type":"${'x'.repeat(200_000)}"}`, 'PAYLOAD_TOO_LARGE', /message: JSON of more than 200000 bytes/],
    [`{"id":${deep}}`, 'INVALID_REQUEST', /message: is nested deeper than 10/],
    [`{"id":${deep},"x":"${'x'.repeat(100_000)}"}`, 'INVALID_REQUEST', /message: is nested deeper than 10/],
    [`["${'x'.repeat(100_000)}",]`, 'INVALID_REQUEST', /message: is not JSON/],
  ]
  for (const [text, code, detail] of cases) {
    const before = client.messages.length
    client.send(text)
    await client.until(() => client.messages.length > before)
    t.match(client.messages.at(-1), { type: 'error', code, detail })
  }
  client.send({ type: 'transaction', id: 'on', ops: [] })
  await client.until(() => client.messages.at(-1)?.id === 'on')
  t.equal(client.messages.at(-1)?.type, 'ack')
})
