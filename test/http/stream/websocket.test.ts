/**
 * The stream over a real WebSocket: subscriptions, transactions, and messages that clients send by mistake.
 */
import { once } from 'node:events'
import fc from 'fast-check'
import t from 'tap'
import { WebSocket } from 'ws'
import { OPERATOR_LIMITS } from '../../../src/operator-limits.js'
import { STREAM_MESSAGE_MAX_BYTES } from '../../../src/wire/limits.js'
import { sleep } from '../../lib/wait.js'
import { Mirror } from '../../stream/helpers.js'
import { streamServer } from './stream-server.js'

const SUBSCRIPTIONS_MAX = OPERATOR_LIMITS.maxSubscriptionsPerConnection.standard

t.test('a change: every page that moved, in one message', async (t) => {
  const { bus, connect } = await streamServer(t)
  const client = await connect()
  const subscribe = {
    type: 'subscribe',
    id: 's1',
    pages: ['risk.*', 'prices'],
    from: 'now',
    data: 'values',
    policy: 'lossless',
  }
  t.same(await client.ask(subscribe), { type: 'subscribed', id: 's1', epoch: 3, history: bus.historyId })
  await bus.patch('prices', { offset: 1, values: [1.5, Number.NaN] })
  const change = await client.next((m) => m.type === 'change')
  t.same(change, {
    type: 'change',
    id: 's1',
    epoch: 4,
    first: 4,
    changes: [
      { page: 'prices', kind: 'source', ranges: [[1, 2]], values: [1.5, 'NaN'] },
      { page: 'risk.a', kind: 'derived', ranges: [[1, 2]], values: [3, 'NaN'] },
      { page: 'risk.b', kind: 'derived', ranges: [[0, 1]], values: ['NaN'] },
    ],
  })
})

t.test('data none, ranges, values; and the defaults', async (t) => {
  const { bus, connect } = await streamServer(t)
  const client = await connect()
  await client.ask({ type: 'subscribe', id: 'none', pages: ['prices'], data: 'none' })
  await client.ask({ type: 'subscribe', id: 'ranges', pages: ['prices'], data: 'ranges' })
  await client.ask({ type: 'subscribe', id: 'default', pages: ['prices'] })
  await bus.patch('prices', { indices: [0, 3], values: [1, 2] })
  await client.until(() => client.changes('default').length === 1)
  const of = (id: string) => client.changes(id)[0]?.changes
  t.same(of('none'), [{ page: 'prices', kind: 'source' }])
  t.same(of('ranges'), [
    {
      page: 'prices',
      kind: 'source',
      ranges: [
        [0, 1],
        [3, 1],
      ],
    },
  ])
  t.same(of('default'), [
    {
      page: 'prices',
      kind: 'source',
      ranges: [
        [0, 1],
        [3, 1],
      ],
      values: [1, 2],
    },
  ])
})

t.test('a snapshot first; then pages that come, change and go', async (t) => {
  const { bus, connect } = await streamServer(t)
  const client = await connect()
  await bus.patch('prices', { values: [1, 2, 3, 4] })
  client.send({ type: 'subscribe', id: 's', pages: ['risk.*', 'new.*'], from: 'snapshot', data: 'values' })
  const snapshot = await client.next((m) => m.type === 'snapshot')
  t.same(
    client.messages.map(({ type, epoch }) => [type, epoch]),
    [
      ['subscribed', 4],
      ['snapshot', 4],
    ],
  )
  t.same(snapshot.pages, {
    'risk.a': { dtype: 'f32', shape: [4], version: 4, values: [2, 4, 6, 8] },
    'risk.b': { dtype: 'f32', shape: [], version: 4, values: [20] },
  })
  await bus.create('new.u', { dtype: 'u64', shape: [2], fill: 7 })
  await bus.create('other', { dtype: 'u64', shape: [2] })
  await bus.patch('new.u', { offset: 1, values: [2n ** 64n - 1n] })
  await bus.delete('new.u')
  await client.until(() => client.changes('s').length === 3)
  t.same(
    client.changes('s').map(({ epoch, changes }) => [epoch, changes]),
    [
      [
        5,
        [{ page: 'new.u', kind: 'created', dtype: 'u64', shape: [2], ranges: [[0, 2]], values: ['7', '7'] }],
      ],
      [7, [{ page: 'new.u', kind: 'source', ranges: [[1, 1]], values: ['18446744073709551615'] }]],
      [8, [{ page: 'new.u', kind: 'deleted', ranges: [], values: [] }]],
    ],
  )
})

t.test('from an epoch: the newest, one to come, one gone by', async (t) => {
  const { bus, connect } = await streamServer(t)
  const client = await connect()
  t.match(await client.ask({ type: 'subscribe', id: 'a', pages: ['*'], from: 3 }), {
    type: 'subscribed',
    epoch: 3,
  })
  t.match(await client.ask({ type: 'subscribe', id: 'b', pages: ['*'], from: 4 }), {
    type: 'error',
    code: 'EPOCH_NOT_FOUND',
  })
  t.same(await client.ask({ type: 'subscribe', id: 'c', pages: ['*'], from: 2 }), {
    type: 'compacted',
    id: 'c',
    minEpoch: 3,
  })
  await bus.patch('prices', { values: [1] })
  await client.until(() => client.changes('a').length === 1)
  t.same(
    client.messages.filter((m) => m.type === 'change').map((m) => m.id),
    ['a'],
  )
  t.match(
    await client.ask({ type: 'subscribe', id: 'c', pages: ['*'], from: 4 }),
    { type: 'subscribed' },
    'the id is free',
  )
})

t.test('unsubscribe', async (t) => {
  const { bus, connect } = await streamServer(t)
  const client = await connect()
  await client.ask({ type: 'subscribe', id: 'a', pages: ['prices'] })
  t.match(await client.ask({ type: 'subscribe', id: 'a', pages: ['prices'] }), {
    type: 'error',
    code: 'INVALID_REQUEST',
  })
  t.same(await client.ask({ type: 'unsubscribe', id: 'a' }), { type: 'unsubscribed', id: 'a', epoch: 3 })
  t.match(await client.ask({ type: 'unsubscribe', id: 'a' }), { type: 'error', code: 'INVALID_REQUEST' })
  await bus.patch('prices', { values: [1] })
  t.match(await client.ask({ type: 'subscribe', id: 'b', pages: ['prices'] }), { type: 'subscribed' })
  t.same(client.changes('a'), [])
})

t.test('transactions: an ack or an error for each', async (t) => {
  const { bus, connect } = await streamServer(t)
  const client = await connect()
  const ops = [{ page: 'prices', values: [1] }]
  t.same(await client.ask({ type: 'transaction', id: 't1', ops }), { type: 'ack', id: 't1', epoch: 4 })
  const cases: [Record<string, unknown>, string][] = [
    [{ ops, expect: [{ page: 'prices', version: 1 }] }, 'PRECONDITION_FAILED'],
    [{ ops: [{ page: 'none', values: [1] }] }, 'PAGE_NOT_FOUND'],
    [{ ops: [{ page: 'risk.a', values: [1] }] }, 'PAGE_READ_ONLY'],
    [{ ops: [{ page: 'prices', values: ['x'] }] }, 'INVALID_DELTA'],
    [{ ops: [{ page: 'prices', offset: 4, values: [1] }] }, 'INVALID_DELTA'],
    [{ ops, colour: 1 }, 'INVALID_REQUEST'],
    [{}, 'INVALID_REQUEST'],
  ]
  for (const [body, code] of cases) {
    const answer = await client.ask({ type: 'transaction', id: 'bad', ...body })
    t.match(answer, { type: 'error', id: 'bad', code, detail: String, hint: String }, JSON.stringify(body))
  }
  t.equal(bus.epoch, 4)
  const repeat = { type: 'transaction', ops: [{ page: 'prices', values: [1], merge: 'add' }], key: 'k' }
  t.same((await client.ask({ ...repeat, id: 'r1' })).epoch, (await client.ask({ ...repeat, id: 'r2' })).epoch)
  t.equal(bus.read('prices')[0], 2)
})

t.test('many transactions in flight: each is answered once, none is lost', async (t) => {
  const { bus, connect } = await streamServer(t)
  const client = await connect()
  const count = 10_000
  for (let i = 0; i < count; i++) {
    client.send({
      type: 'transaction',
      id: `t${i}`,
      ops: [{ page: 'prices', offset: 1, values: [1], merge: 'add' }],
    })
  }
  await client.until(() => client.messages.length === count)
  t.ok(client.messages.every((m) => m.type === 'ack'))
  t.equal(new Set(client.messages.map((m) => m.id)).size, count)
  t.equal(bus.read('prices')[1], count)
})

t.test('whatever is sent by mistake is answered, and the connection goes on', async (t) => {
  const { bus, connect } = await streamServer(t)
  const { epoch, digest } = bus.status()
  const client = await connect()
  const good = { type: 'subscribe', id: 's', pages: ['*'] }
  const cases: [unknown, RegExp, string?][] = [
    ['', /not JSON/],
    ['{', /not JSON/],
    ['[]', /not a JSON object/],
    ['null', /not a JSON object/],
    ['7', /not a JSON object/],
    ['{}', /message\.type/],
    [{ type: 'fly', id: 'x' }, /message\.type/, 'x'],
    [{ type: 'toString', id: 'x' }, /message\.type/, 'x'],
    [{ type: ['subscribe'], id: 'x' }, /message\.type/, 'x'],
    [{ type: 'subscribe', pages: ['*'] }, /missing "id"/],
    [{ ...good, id: 5 }, /message\.id/],
    [{ ...good, id: '' }, /message\.id/, ''],
    [{ ...good, id: 'x'.repeat(201) }, /message\.id/, 'x'.repeat(201)],
    [{ type: 'subscribe', id: 's' }, /missing "pages"/, 's'],
    [{ ...good, pages: [] }, /pages/, 's'],
    [{ ...good, pages: [''] }, /pages/, 's'],
    [{ ...good, pages: ['a b'] }, /pages/, 's'],
    [{ ...good, pages: 'prices' }, /pages/, 's'],
    [{ ...good, pages: [1] }, /pages/, 's'],
    [{ ...good, from: 'then' }, /from/, 's'],
    [{ ...good, from: '3' }, /from: must be one of "now", "snapshot"; or must be integer/, 's'],
    [{ ...good, from: -1 }, /from: must be one of "now", "snapshot"; or must be >= 0/, 's'],
    [{ ...good, from: 1.5 }, /from/, 's'],
    [{ ...good, data: 'all' }, /data/, 's'],
    [{ ...good, policy: 'best' }, /policy/, 's'],
    [{ ...good, maxRate: 0 }, /maxRate/, 's'],
    [{ ...good, maxRate: -1 }, /maxRate/, 's'],
    [{ ...good, maxRate: 1e9 }, /maxRate/, 's'],
    [{ ...good, maxRate: 1, policy: 'lossless' }, /maxRate/, 's'],
    [{ ...good, colour: 'red' }, /unknown field "colour"/, 's'],
    [{ type: 'unsubscribe', id: 's', now: true }, /unknown field "now"/, 's'],
    ['{"type":"subscribe","id":"s","pages":["*"],"__proto__":{}}', /unknown field "__proto__"/, 's'],
    [Buffer.from([1, 2, 3]), /mmsb\.v1\.bin/],
  ]
  for (const [message, detail, id] of cases) {
    const before = client.messages.length
    client.send(message)
    await client.until(() => client.messages.length > before, `answer to ${JSON.stringify(message)}`)
    const answer = client.messages[before]!
    t.match(
      answer,
      { type: 'error', code: 'INVALID_REQUEST', detail, hint: /\/asyncapi\.json/ },
      JSON.stringify(message),
    )
    t.equal(answer.id, id)
  }
  t.match(bus.status(), { epoch, digest })
  t.match(await client.ask(good), { type: 'subscribed' })
})

t.test('garbage of every kind never closes the connection', async (t) => {
  const { bus, connect } = await streamServer(t)
  const { digest } = bus.status()
  const client = await connect()
  const word = fc.constantFrom(
    'subscribe',
    'unsubscribe',
    'transaction',
    'now',
    'snapshot',
    'values',
    'latest',
    '*',
    'risk.*',
    'none.*',
    's',
  )
  const field = fc.constantFrom(
    'type',
    'id',
    'pages',
    'from',
    'data',
    'policy',
    'maxRate',
    'ops',
    'expect',
    'source',
    'x',
  )
  const value = fc.oneof(word, fc.array(word, { maxLength: 3 }), fc.jsonValue({ maxDepth: 2 }))
  const message = fc.oneof(
    fc.string(),
    fc.json(),
    fc.dictionary(field, value).map((o) => JSON.stringify(o)),
    fc
      .record({ type: word, id: fc.string(), pages: value, ops: value }, { requiredKeys: ['type'] })
      .map((o) => JSON.stringify(o)),
    fc.uint8Array().map((bytes) => Buffer.from(bytes)),
  )
  await fc.assert(
    fc.asyncProperty(fc.array(message, { maxLength: 5 }), async (messages) => {
      for (const one of messages) client.send(one)
      const id = `end${client.messages.length}`
      const answer = await client.ask({ type: 'unsubscribe', id })
      return answer.code === 'INVALID_REQUEST'
    }),
    { numRuns: 300 },
  )
  // A transaction without ops is a valid tick, and the generator may draw one.
  t.match(bus.status(), { digest }, 'nothing was applied')
  t.equal(client.socket.readyState, WebSocket.OPEN)
})

t.test('too large a message closes with 1009, bad UTF-8 with 1007; others are unaffected', async (t) => {
  const { bus, connect } = await streamServer(t)
  const [big, broken, other] = [await connect(), await connect(), await connect()]
  await other.ask({ type: 'subscribe', id: 's', pages: ['prices'] })
  big.send('x'.repeat(STREAM_MESSAGE_MAX_BYTES + 1))
  t.equal((await once(big.socket, 'close'))[0], 1009)
  broken.socket.send(Buffer.from([0xff, 0xfe]), { binary: false })
  t.equal((await once(broken.socket, 'close'))[0], 1007)
  await bus.patch('prices', { values: [1] })
  await other.until(() => other.changes('s').length === 1)
})

t.test('a connection has so many subscriptions and no more', async (t) => {
  const { bus, connect } = await streamServer(t)
  const client = await connect()
  for (let i = 0; i <= SUBSCRIPTIONS_MAX; i++)
    client.send({ type: 'subscribe', id: `s${i}`, pages: ['prices'], data: 'none' })
  await client.until(() => client.messages.length === SUBSCRIPTIONS_MAX + 1)
  t.match(client.messages.at(-1), {
    type: 'error',
    id: `s${SUBSCRIPTIONS_MAX}`,
    code: 'QUOTA_EXCEEDED',
  })
  await bus.patch('prices', { values: [1] })
  await client.until(() => client.messages.length === 2 * SUBSCRIPTIONS_MAX + 1)
})

t.test('snapshot and changes meet without gap or double, whatever is written meanwhile', async (t) => {
  const { bus, connect } = await streamServer(t)
  let isWriting = true
  let written = 0
  const writer = (async () => {
    while (isWriting) {
      const value = ++written
      const work: Promise<unknown>[] = [
        bus.patch('prices', { offset: value % 4, values: [value] }),
        bus.transact({ ops: [{ page: 'prices', indices: [0, 2], values: [value, -value] }] }),
      ]
      if (value % 5 === 0)
        work.push(bus.create(`risk.new${value}`, { dtype: 'f32', shape: [2], fill: value }))
      if (value % 10 === 0) work.push(bus.delete(`risk.new${value - 5}`))
      await Promise.all(work)
    }
  })()
  const clients = await Promise.all(Array.from({ length: 8 }, () => connect()))
  for (const [i, client] of clients.entries()) {
    await sleep(20)
    const policy = i % 2 === 0 ? { policy: 'lossless' } : { policy: 'latest', maxRate: 50 }
    client.send({ type: 'subscribe', id: 'm', pages: ['*'], from: 'snapshot', data: 'values', ...policy })
  }
  await Promise.all(clients.map((client) => client.until(() => client.changes('m').length > 3, 'changes')))
  isWriting = false
  await writer
  await bus.patch('prices', { values: [1e6] })
  for (const [i, client] of clients.entries()) {
    await client.until(() => client.messages.at(-1)?.epoch === bus.epoch, 'last epoch')
    const mirror = new Mirror()
    for (const message of client.messages) mirror.apply(message)
    t.same(mirror.faults, [], `client ${i}`)
    t.ok(client.changes('m').length > 3, `client ${i} saw ${client.changes('m').length} changes`)
    t.same([...mirror.pages.keys()].sort(), [...bus.pageNames()], `client ${i}: the same pages`)
    for (const [name, values] of mirror.pages) t.same(values, [...bus.read(name)], `client ${i}: ${name}`)
    if (i % 2 === 0)
      t.ok(
        client.changes('m').every(({ first, epoch }) => first === epoch),
        'lossless: one epoch, one message',
      )
  }
})
