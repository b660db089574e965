/**
 * Large messages. To clients: encoded in slices, once for all, to the same bytes as in one go. From clients,
 * hostile ones too: limits hold, the order stays, the connection goes on.
 */
import t from 'tap'
import { messageBody } from '../../../src/http/stream/binary-messages.js'
import { type Encoding, encodingOf } from '../../../src/http/stream/large-messages.js'
import { OCTETS_PIECE_BYTES, STREAM_LARGE_BYTES } from '../../../src/limits.js'
import { ChangeMessage, jsonTail, PagePart, SnapshotMessage } from '../../../src/stream/messages.js'
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

const HISTORY = `${'ab'.repeat(16)}.${'cd'.repeat(8)}`

/** A change of one page of u8, and how often its values were taken. */
function changed(bytes: number, fail = false) {
  const taken: number[] = []
  const ranges = Uint32Array.of(0, bytes)
  const change = { pageId: 7, page: 'a', kind: 'source', dtype: 'u8', shape: [bytes], ranges } as const
  const part = new PagePart(change, () => {
    if (fail) throw new Error('gone')
    taken.push(bytes)
    return Uint8Array.from({ length: bytes }, (_, i) => i % 251)
  })
  return { message: new ChangeMessage(2, 3, [part], 'values'), taken }
}

function snapshot(bytes: number): SnapshotMessage {
  const values = new Uint8Array(bytes).fill(7)
  const page = { name: 'a', id: 1, kind: 'source', dtype: 'u8', shape: [bytes], version: 3, values } as const
  return new SnapshotMessage(5, HISTORY, [page, { ...page, name: 'b' }])
}

/** What was encoded; encoding it now would fail the test. */
const encodedOf = (message: ChangeMessage | SnapshotMessage, encoding: Encoding): Buffer[] =>
  message.encoded(encoding, (): Buffer[] => {
    throw new Error('not encoded')
  })

t.test('small messages, and those without pages, need no waiting', (t) => {
  for (const encoding of ['json', 'bin'] as const) {
    const { message, taken } = changed(STREAM_LARGE_BYTES)
    t.equal(encodingOf(encoding, message), undefined)
    t.equal(message.isEncoded(encoding), false)
    t.same(taken, [])
    t.equal(encodingOf(encoding, { type: 'progress', epoch: 1 }), undefined)
  }
  t.end()
})

t.test('large ones are encoded in slices, to the same bytes, once for all who wait', async (t) => {
  const bytes = STREAM_LARGE_BYTES + 1
  for (const encoding of ['json', 'bin'] as const) {
    for (const make of [() => changed(bytes).message, () => snapshot(bytes)]) {
      const message = make()
      const done = encodingOf(encoding, message)
      t.type(done, Promise)
      t.equal(encodingOf(encoding, message), done)
      t.equal(message.isEncoded(encoding), false)
      await done
      t.equal(encodingOf(encoding, message), undefined, 'it is there')
      const pieces = encodedOf(message, encoding)
      const wanted = encoding === 'json' ? Buffer.from(jsonTail(make())) : messageBody(make())
      t.ok(Buffer.concat(pieces).equals(wanted), `${encoding} ${message.type}`)
      t.ok(pieces.length > 1)
      if (encoding === 'json') t.ok(pieces.slice(0, -1).every(({ length }) => length >= OCTETS_PIECE_BYTES))
    }
  }
})

t.test('one is encoded at a time, of what there was when it was asked for', async (t) => {
  const messages = [1, 2, 3].map((i) => changed(STREAM_LARGE_BYTES + i))
  const broken = changed(STREAM_LARGE_BYTES + 9, true)
  const order: number[] = []
  const all = messages.map(({ message, taken }, i) => {
    const done = encodingOf('json', message)!
    t.equal(taken.length, 1, 'taken at once')
    if (i === 0) t.throws(() => encodingOf('json', broken.message), { message: 'gone' })
    return done.then(() => {
      t.equal(messages[i + 1]?.message.isEncoded('json') ?? false, false)
      order.push(i)
    })
  })
  await Promise.all(all)
  t.same(order, [0, 1, 2])
  const after = changed(STREAM_LARGE_BYTES + 4)
  await encodingOf('bin', after.message)
  t.equal(after.message.isEncoded('bin'), true)
  t.equal(after.message.isEncoded('json'), false)
})
