/** One reader's subscriptions: where they begin, who waits for whom, and that what ends leaves nothing. */
import t from 'tap'
import { MmsbError } from '../../src/errors.js'
import { STREAM_FREE_BYTES, STREAM_QUEUE_MAX_BYTES } from '../../src/limits.js'
import type { CursorRow } from '../../src/store/cursors/cursors.js'
import type { Connection } from '../../src/stream/connection.js'
import type { SubscribeOptions } from '../../src/stream/types.js'
import { turn } from '../lib/wait.js'
import { create, FAKE_HISTORY, FakeCursorStore, type FakeSink, set, setup } from './fakes.js'

const A = { pages: ['a'] }
const OTHER_HISTORY = `${'12'.repeat(16)}.${'34'.repeat(8)}`

t.test('an id is used by one subscription at a time, until it has ended', async (t) => {
  const { bus, hub, connect } = setup()
  const { connection, sink } = connect()
  connection.subscribe('s', A)
  t.throws(() => connection.subscribe('s', { pages: ['b'] }), { code: 'INVALID_REQUEST', message: /"s"/ })
  t.same([hub.held.subscriptions, hub.held.patterns], [1, 1])
  bus.commit(set('a', [0, 1]))
  t.same(sink.types, ['subscribed', 'change'])
  t.equal(connection.unsubscribe('other'), false)
  t.equal(connection.unsubscribe('s'), true)
  t.same(sink.got.at(-1), { type: 'unsubscribed', id: 's', epoch: 2 })
  t.equal(connection.unsubscribe('s'), false)
  bus.commit(set('a', [0, 2]))
  t.equal(sink.types.length, 3, 'nothing comes after the last message')
  connection.subscribe('s', A)
  t.same([hub.held.subscriptions, hub.held.patterns], [1, 1])
})

t.test('where it begins; what cannot be is refused, and not counted', async (t) => {
  const { bus, hub, connect } = setup()
  bus.commit(set('a', [0, 1]))
  const begun = (options: Partial<SubscribeOptions>): readonly unknown[] => {
    const { connection, sink } = connect()
    connection.subscribe('s', { ...A, ...options })
    connection.close()
    return sink.got.map(({ type, epoch, minEpoch }) => [type, epoch ?? minEpoch])
  }
  const subscribed = [['subscribed', 2]]
  t.same(begun({}), subscribed)
  t.same(begun({ from: 'now', history: FAKE_HISTORY }), subscribed)
  t.same(begun({ from: 2 }), subscribed)
  t.same(begun({ from: 'snapshot' }), [...subscribed, ['snapshot', 2]])
  t.throws(() => begun({ from: 3 }), { code: 'EPOCH_NOT_FOUND', message: /3 .* newest is 2/ })
  t.throws(() => begun({ history: OTHER_HISTORY }), { code: 'HISTORY_CHANGED' })
  t.throws(() => begun({ durable: 'w' }), { code: 'INVALID_REQUEST', message: /no data folder/ })
  t.same([hub.held.subscriptions, hub.held.patterns], [0, 0])
  bus.minEpoch = 2
  t.same(begun({ from: 2 }), subscribed)
  const { connection, sink } = connect()
  connection.subscribe('s', { ...A, from: 0 })
  t.same(sink.got, [{ type: 'compacted', id: 's', minEpoch: 2 }])
  t.same([hub.held.subscriptions, hub.held.patterns], [0, 0])
})

t.test('a connection that is closed hears nothing more, and closes once', async (t) => {
  const { bus, hub, connect } = setup()
  const { connection, sink } = connect()
  let closes = 0
  sink.closed = () => closes++
  for (const id of ['1', '2']) connection.subscribe(id, { pages: ['a', 'b'] })
  sink.isCongested = true
  connection.subscribe('3', { ...A, from: 'snapshot' })
  t.same([hub.held.subscriptions, hub.held.patterns, connection.isClosed], [3, 5, false])
  connection.close()
  connection.close()
  t.same([closes, connection.isClosed, hub.stats().connections], [1, true, 0])
  t.same([hub.held.subscriptions, hub.held.patterns, hub.stats().topics], [0, 0, 0])
  sink.isCongested = false
  connection.drained()
  bus.commit(set('a', [0, 1]))
  t.same(sink.types, ['subscribed', 'subscribed'])
})

t.test('one that fails ends them all, and counts none of them', async (t) => {
  const { bus, hub, connect } = setup()
  const { connection, sink } = connect()
  for (const id of ['1', '2', '3']) connection.subscribe(id, { pages: ['a', 'b'] })
  connection.endAll({ type: 'error', error: new MmsbError('INTERNAL', 'over') })
  t.same(
    sink.got.slice(3).map(({ type, id }) => [type, id]),
    ['1', '2', '3'].map((id) => ['error', id]),
  )
  t.same([hub.held.subscriptions, hub.held.patterns], [0, 0])
  bus.commit(set('a', [0, 1]))
  t.equal(sink.got.length, 6)
})

t.test('one that is closed by what ends a subscription counts none of them twice', async (t) => {
  const { bus, hub, connect } = setup()
  const { connection, sink } = connect()
  for (const id of ['1', '2']) connection.subscribe(id, { pages: ['p'], slice: { p: [[0, 9]] } })
  const send = sink.send.bind(sink)
  sink.send = (id, message) => {
    send(id, message)
    if (message.type === 'error') connection.close()
  }
  bus.commit(create('p', 8))
  t.match(sink.got.at(-1), { type: 'error', code: 'SHAPE_MISMATCH' })
  t.same([hub.held.subscriptions, hub.held.patterns], [0, 0])
})

t.test('a full queue gets no progress', async (t) => {
  const { connect } = setup()
  const { connection, sink } = connect()
  connection.subscribe('s', A)
  sink.isCongested = true
  connection.progress(1e9, 1)
  t.same(sink.types, ['subscribed'])
  sink.isCongested = false
  connection.progress(1e9, 1)
  t.same(sink.types, ['subscribed', 'progress'])
})

t.test('a queue may exceed its limit by the snapshot in it, however large it became encoded', async (t) => {
  const queue = STREAM_QUEUE_MAX_BYTES
  const { bus, connect } = setup()
  const begin = (snapshotBytes: number, options: SubscribeOptions): [Connection, FakeSink] => {
    const { connection, sink } = connect()
    const send = sink.send.bind(sink)
    sink.send = (id, message) => {
      if (message.type === 'snapshot') sink.queuedBytes += snapshotBytes
      send(id, message)
    }
    connection.subscribe('s', options)
    return [connection, sink]
  }
  const wholeBytes = queue + 10
  const readers = [wholeBytes, wholeBytes, 10, 10].map((bytes) => begin(bytes, { ...A, from: 'snapshot' }))
  const [fits, tooMuch, grown, notGrown] = readers as [(typeof readers)[0], ...typeof readers]
  fits[1].queuedBytes = wholeBytes + queue - 1
  tooMuch![1].queuedBytes = wholeBytes + queue
  for (const [connection, sink] of [grown!, notGrown!]) {
    sink.queuedBytes = queue + 10
    if (sink === grown![1]) connection.grew()
  }
  const [live, [emptied, emptiedSink]] = [begin(0, A), begin(queue + 10, { ...A, from: 'snapshot' })]
  live[1].queuedBytes = queue
  live[0].grew()
  emptiedSink.queuedBytes = 0
  emptied.subscribe('2', A)
  bus.commit(set('a', [0, 1]))
  emptiedSink.queuedBytes = queue
  bus.commit(set('a', [0, 2]))
  t.same(
    [fits, tooMuch!, grown!, notGrown!, live].map(([, sink]) => sink.types.includes('overflow')),
    [false, true, false, true, true],
  )
  t.same(emptiedSink.types.slice(-4), ['change', 'change', 'overflow', 'overflow'], 'it counts no longer')
})

t.test('a reader that keeps up does not meet the budget of all; its refusal is counted once', async (t) => {
  const { bus, connect, hub } = setup({ streamBudgetBytes: 2 ** 20 })
  hub.queues.hold(connect().sink, new Uint8Array(2 ** 20))
  bus.commit(create('c', STREAM_FREE_BYTES / 4 + 1))
  const { connection, sink } = connect()
  connection.subscribe('s', { pages: ['c'] })
  const refusals = () => new Map(bus.limits.refusals()).get('streamBudgetBytes')
  bus.commit(set('c', [0, 1]))
  bus.commit((fake) => ({ ...fake.fill('c', (i) => i), ranges: Uint32Array.of(0, STREAM_FREE_BYTES / 4) }))
  t.same([sink.types.slice(1), refusals()], [['change', 'change'], 0])
  bus.commit((fake) => fake.fill('c', (i) => i))
  t.same([sink.types.slice(3), refusals()], [['overflow'], 1])
})

// ---- snapshots --------------------------------------------------------------------------------------------

/** A page that takes several slices to gather. */
const LARGE = create('large', 2 ** 20 + 1)

t.test('a connection waits for room once, however often it is asked to', async (t) => {
  const { clock, connect, hub } = setup({ streamBudgetBytes: 2 ** 20 })
  const release = hub.queues.hold(connect().sink, new Uint8Array(2 ** 20))
  const { connection, sink } = connect()
  for (const id of ['1', '2']) connection.subscribe(id, { ...A, from: 'snapshot' })
  let drains = 0
  const { drained } = connection
  connection.drained = () => {
    drains++
    drained.call(connection)
  }
  clock.advance(1)
  t.same([sink.types, drains], [[], 0])
  release()
  clock.advance(1)
  t.equal(drains, 1)
  t.same(
    sink.got.map(({ type, id }) => [type, id]),
    ['1', '2'].flatMap((id) => [
      ['subscribed', id],
      ['snapshot', id],
    ]),
  )
  connection.waitForRoom()
  clock.advance(1)
  t.equal(drains, 2, 'and later again')
})

t.test('a snapshot that takes time: the next ones wait, and changes go on', async (t) => {
  const { bus, clock, connect } = setup()
  bus.commit(LARGE)
  const { connection, sink } = connect()
  connection.subscribe('live', A)
  connection.subscribe('large', { pages: ['large'], from: 'snapshot' })
  connection.subscribe('small', { ...A, from: 'snapshot' })
  bus.commit(set('a', [0, 1]))
  t.same(sink.types, ['subscribed', 'change'])
  clock.advance(1)
  t.same(
    sink.got.slice(2).map(({ type, id }) => [type, id]),
    [
      ['subscribed', 'large'],
      ['snapshot', 'large'],
      ['subscribed', 'small'],
      ['snapshot', 'small'],
    ],
  )
  t.equal(clock.timerCount, 1, 'nothing but the tick of the hub')
})

t.test('who leaves while its snapshot is gathered gets none, and the next is served', async (t) => {
  for (const leaving of ['large', 'small']) {
    const { bus, clock, connect } = setup()
    bus.commit(LARGE)
    const { connection, sink } = connect()
    connection.subscribe('large', { pages: ['large'], from: 'snapshot' })
    connection.subscribe('small', { ...A, from: 'snapshot' })
    t.equal(connection.unsubscribe(leaving), true)
    clock.advance(1)
    const other = leaving === 'large' ? 'small' : 'large'
    t.same(
      sink.got.map(({ type, id }) => [type, id]),
      [
        ['unsubscribed', leaving],
        ['subscribed', other],
        ['snapshot', other],
      ],
    )
  }
})

t.test('a connection closed while its snapshot is gathered: nothing is gathered any more', async (t) => {
  const { bus, clock, connect, hub } = setup()
  bus.commit(LARGE)
  const { connection, sink } = connect()
  connection.subscribe('large', { pages: ['large'], from: 'snapshot' })
  connection.subscribe('small', { ...A, from: 'snapshot' })
  const { gathers } = bus
  connection.close()
  clock.advance(1)
  t.same([sink.types, bus.gathers, hub.stats().topics], [[], gathers, 0])
})

t.test('a snapshot that fails ends its subscription, and the next is served', async (t) => {
  const { bus, clock, connect } = setup()
  bus.commit(LARGE)
  const { connection, sink } = connect()
  connection.subscribe('large', { pages: ['large'], from: 'snapshot' })
  connection.subscribe('small', { ...A, from: 'snapshot' })
  const gather = bus.gather.bind(bus)
  bus.gather = (id, ranges) => {
    if (ranges[1]! > 8) throw new Error('no')
    return gather(id, ranges)
  }
  clock.advance(1)
  t.same(
    sink.got.map(({ type, id }) => [type, id]),
    [
      ['error', 'large'],
      ['subscribed', 'small'],
      ['snapshot', 'small'],
    ],
  )
})

t.test('while a queue is full, no snapshot is begun; between epochs only', async (t) => {
  const { bus, connect } = setup()
  const { connection, sink } = connect()
  const send = sink.send.bind(sink)
  sink.send = (id, message) => {
    send(id, message)
    if (message.type === 'snapshot') sink.isCongested = true
  }
  sink.isCongested = true
  for (const id of ['1', '2']) connection.subscribe(id, { ...A, from: 'snapshot' })
  t.same(sink.types, [])
  sink.isCongested = false
  bus.begin()
  connection.drained()
  t.same(sink.types, [])
  bus.commit(set('a', [0, 7]))
  t.same(sink.types, ['subscribed', 'snapshot'])
  t.equal(sink.got[1]!.pages!.a!.values[0], 7)
  sink.isCongested = false
  connection.drained()
  t.same(sink.types.slice(2), ['subscribed', 'snapshot'])
  connection.subscribe('3', { ...A, policy: 'latest' })
  bus.commit(set('a', [0, 8]))
  t.same(sink.types.slice(4), ['subscribed', 'change', 'change'])
  sink.isCongested = false
  connection.drained()
  t.same(sink.got.at(-1)!.id, '3', 'what was folded meanwhile comes now')
})

t.test('a small snapshot is made at once, and leaves nothing to do', async (t) => {
  const { clock, connect } = setup()
  const { connection, sink } = connect()
  connection.subscribe('s', { ...A, from: 'snapshot' })
  t.same(sink.types, ['subscribed', 'snapshot'])
  t.equal(clock.timerCount, 2, 'the tick of the hub, and the end of the turn')
})

t.test('when a turn has gathered enough, the rest waits for the next', async (t) => {
  const { clock, connect, hub } = setup()
  const { connection, sink } = connect()
  hub.gathering.spend(2 ** 30)
  connection.subscribe('s', { ...A, from: 'snapshot' })
  t.same(sink.types, [])
  clock.advance(1)
  t.same(sink.types, ['subscribed', 'snapshot'])
})

// ---- durable readers --------------------------------------------------------------------------------------

const row = (epoch: number | null, history: string = FAKE_HISTORY, pages: string[] = ['a']): CursorRow => ({
  name: 'w',
  definition: JSON.stringify({ pages, history }),
  epoch,
  createdMs: 0,
  seenMs: 0,
})

t.test('a durable reader begins at its cursor; where it has none, where it asks to', async (t) => {
  type Case = readonly [string, CursorRow | undefined, Partial<SubscribeOptions>, unknown, unknown]
  const live = 'subscribed 3'
  const snapshot = 'subscribed 3,snapshot 3'
  const missed = 'subscribed 1,change 2,change 3'
  // What it is told, and the cursor that is written before; undefined: none is.
  const cases: readonly Case[] = [
    ['new', undefined, {}, live, 3],
    ['new, now', undefined, { from: 'now' }, live, 3],
    ['new, with a snapshot', undefined, { from: 'snapshot' }, snapshot, null],
    ['new, from an epoch', undefined, { from: 1 }, missed, 1],
    ['known', row(1), {}, missed, undefined],
    ['known, whatever it asks for', row(1), { from: 'now' }, missed, undefined],
    ['known, of other pages', row(1, FAKE_HISTORY, ['b']), {}, missed, 1],
    ['known, without a snapshot yet', row(null), {}, snapshot, undefined],
    ['known, without one, now', row(null), { from: 'now' }, live, 3],
    ['gone', row(0), {}, 'compacted 1', undefined],
    ['gone, with a snapshot', row(0), { from: 'snapshot' }, snapshot, null],
    ['gone, now', row(0), { from: 'now' }, live, 3],
    ['of another history', row(3, OTHER_HISTORY), { history: FAKE_HISTORY }, snapshot, null],
    ['of another history, now', row(1, OTHER_HISTORY), { history: FAKE_HISTORY, from: 'now' }, live, 3],
  ]
  for (const [title, known, options, told, written] of cases) {
    const { bus, connect, clock } = setup()
    bus.minEpoch = known?.epoch === null ? 0 : 1
    for (const value of [1, 2]) bus.commit(set('a', [0, value]))
    const store = new FakeCursorStore(known === undefined ? [] : [known])
    await store.attachTo(bus)
    const { connection, sink } = connect()
    connection.subscribe('s', { ...A, durable: 'w', ...options })
    if (written !== undefined) t.same(sink.types, [], `${title}: not before that is durable`)
    for (let i = 0; i < 5; i++) {
      await turn()
      clock.advance(0)
    }
    const got = sink.got.map(({ type, epoch, minEpoch }) => `${type} ${epoch ?? minEpoch}`)
    t.equal(got.join(), told, title)
    t.same(
      store.puts.map(({ epoch }) => epoch),
      written === undefined ? [] : [written],
      title,
    )
  }
})

t.test('a durable reader that must not read is refused, and not counted', async (t) => {
  const { bus, connect, hub } = setup()
  const store = new FakeCursorStore([row(1, OTHER_HISTORY)])
  await store.attachTo(bus)
  const { connection } = connect()
  const subscribe = () => connection.subscribe('s', { ...A, durable: 'w' })
  t.throws(subscribe, { code: 'HISTORY_CHANGED' })
  bus.isReadOnly = true
  t.throws(subscribe, { code: 'READ_ONLY' })
  t.same([hub.held.subscriptions, hub.durables.list()[0]!.connected], [0, false])
})

t.test('who connects again where it was is seen, though nothing else is written', async (t) => {
  const { bus, connect } = setup()
  const store = new FakeCursorStore([row(1)])
  const cursors = await store.attachTo(bus)
  store.nowMs = 1e8
  connect().connection.subscribe('s', { ...A, durable: 'w' })
  t.same([cursors.get('w')!.seenMs, store.puts.length], [1e8, 1])
})

t.test('who leaves before its cursor is durable hears nothing more', async (t) => {
  for (const failure of [undefined, new MmsbError('LOG_FULL', 'no room')]) {
    const { bus, connect, hub } = setup()
    const store = new FakeCursorStore()
    await store.attachTo(bus)
    const [stays, leaves] = [connect(), connect()]
    store.written = failure === undefined ? turn() : turn().then(() => Promise.reject(failure))
    stays.connection.subscribe('s', { ...A, durable: 'w' })
    leaves.connection.subscribe('s', { ...A, durable: 'v' })
    leaves.connection.unsubscribe('s')
    leaves.connection.subscribe('s', { pages: ['b'] })
    for (let i = 0; i < 3; i++) await turn()
    t.same(stays.sink.types, [failure === undefined ? 'subscribed' : 'error'])
    t.same(leaves.sink.types, ['unsubscribed', 'subscribed'])
    t.equal(hub.held.subscriptions, failure === undefined ? 2 : 1)
  }
})

t.test('a durable reader commits what it was told, and no more', async (t) => {
  const { bus, connect } = setup()
  await new FakeCursorStore().attachTo(bus)
  const { connection } = connect()
  connection.subscribe('plain', A)
  connection.subscribe('s', { ...A, durable: 'w' })
  const notDelivered = (last: number) => ({
    code: 'INVALID_REQUEST',
    message: new RegExp(`last was ${last}`),
  })
  await t.rejects(connection.commit('s', 0), notDelivered(0))
  await turn()
  bus.commit(set('a', [0, 1]))
  t.equal(await connection.commit('s', 2), 2)
  t.equal(await connection.commit('s', 1), 2, 'never back')
  await t.rejects(connection.commit('s', 3), notDelivered(2))
  for (const id of ['plain', 'none'])
    await t.rejects(connection.commit(id, 1), { code: 'INVALID_REQUEST', message: /no durable subscription/ })
})

t.test('a name is read by one connection; the older ends, and that does not end the newer', async (t) => {
  const { bus, connect, hub } = setup()
  const store = new FakeCursorStore([row(1)])
  const cursors = await store.attachTo(bus)
  const isConnected = () => hub.durables.list()[0]!.connected
  const [older, newer, plain] = [connect(), connect(), connect()]
  older.connection.subscribe('s', { ...A, durable: 'w' })
  plain.connection.subscribe('s', A)
  newer.connection.subscribe('s', { ...A, durable: 'w' })
  t.match(older.sink.got.at(-1), { type: 'error', code: 'INVALID_REQUEST', detail: /took over "w"/ })
  older.connection.close()
  plain.connection.close()
  t.equal(isConnected(), true)
  store.nowMs = 1e8
  newer.connection.close()
  t.same([isConnected(), cursors.get('w')!.seenMs], [false, 1e8], 'it was seen until then')
  const again = connect().connection
  again.subscribe('s', { ...A, durable: 'w' })
  t.equal(isConnected(), true)
  again.unsubscribe('s')
  t.equal(isConnected(), false)
})
