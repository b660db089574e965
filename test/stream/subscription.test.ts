/** One subscription by itself: what it was told, when it sends, folds or waits, and how it ends. */
import t from 'tap'
import { MmsbError } from '../../src/errors.js'
import {
  STREAM_CATCH_UP_QUEUE_BYTES,
  STREAM_CHANGE_MAX_BYTES,
  STREAM_QUEUE_MAX_BYTES,
  STREAM_RATE_MAX_HZ,
} from '../../src/limits.js'
import { ChangeMessage, PagePart } from '../../src/stream/messages.js'
import { endOf, Subscription } from '../../src/stream/subscription.js'
import type { SubscribeOptions } from '../../src/stream/types.js'
import { STREAM_PROGRESS_INTERVAL_MS } from '../../src/wire/limits.js'
import { turn } from '../lib/wait.js'
import { create, set, setup } from './fakes.js'

/** A subscription that its connection does not know, so that the test calls it. */
function single(options: Partial<SubscribeOptions> = {}, limits: Parameters<typeof setup>[0] = {}) {
  const all = setup(limits)
  const { connection, sink } = all.connect()
  const subscription = new Subscription(connection, 's', { pages: ['a'], ...options })
  return { ...all, connection, sink, subscription }
}

/** A change of so many bytes, which nobody gathers. */
function changeOf(epoch: number, bytes: number): ChangeMessage {
  const ranges = Uint32Array.of(0, bytes)
  const change = { pageId: 1, page: 'a', kind: 'source', dtype: 'u8', shape: [bytes], ranges } as const
  return new ChangeMessage(epoch, epoch, [new PagePart(change, () => new Uint8Array(0))], 'values')
}

const write = (value: number) => set('a', [0, value])

t.test('rates that there are not, and rates that forbid what the policy asks for', async (t) => {
  const rate = (maxRate: number, policy?: 'latest' | 'lossless') => () =>
    single(policy === undefined ? { maxRate } : { maxRate, policy })
  for (const bad of [0, -1, Number.NaN, STREAM_RATE_MAX_HZ + 1])
    t.throws(rate(bad), { code: 'INVALID_REQUEST', message: /maxRate: .* is not in/ })
  t.throws(rate(10, 'lossless'), { code: 'INVALID_REQUEST', message: /lossless/ })
  for (const good of [0.001, STREAM_RATE_MAX_HZ]) t.doesNotThrow(rate(good))
  t.doesNotThrow(rate(10, 'latest'))
  t.doesNotThrow(() => single({ policy: 'lossless' }))
})

t.test('its weight is its patterns and windows; it counts before it begins', async (t) => {
  const { subscription } = single({ pages: ['a', 'b*'], slice: { a: [[0, 1]] } })
  t.same([subscription.weight, subscription.id, subscription.durable], [3, 's', undefined])
  t.same([subscription.told, subscription.toldOfChange], [-1, -1])
  t.equal(single({ durable: 'w' }).subscription.durable, 'w')
  t.throws(() => single({ pages: ['a', 'c'] }, { maxPatternsPerConnection: 1 }), { code: 'QUOTA_EXCEEDED' })
  t.throws(() => single({ slice: { a: [[0, 9]] } }), { code: 'SHAPE_MISMATCH' })
})

t.test('which missed epochs need their values', async (t) => {
  t.equal(single().subscription.needsValues, true)
  t.equal(single({ policy: 'lossless' }).subscription.needsValues, true)
  for (const options of [{ data: 'ranges' }, { data: 'none' }, { policy: 'latest' }, { maxRate: 1 }] as const)
    t.equal(single(options).subscription.needsValues, false)
})

t.test('what it was told, and of which change', async (t) => {
  const { bus, hub, subscription, sink } = single()
  subscription.start()
  t.same([subscription.told, subscription.toldOfChange, subscription.position], [1, -1, 1])
  bus.commit(write(1))
  t.same([subscription.told, subscription.toldOfChange], [2, 2])
  bus.commit(set('b', [0, 1]))
  t.same([subscription.told, subscription.position], [2, 3])
  subscription.progress(1e9, 3)
  t.same([subscription.told, subscription.toldOfChange], [3, 2])
  t.same(sink.types, ['subscribed', 'change', 'progress'])
  t.same(hub.counters, { delivered: 1, conflated: 0, overflows: 0 })
})

t.test('with a snapshot it was told of everything; a snapshot for others is not its own', async (t) => {
  const { hub, subscription, sink, connect } = single()
  t.throws(() => subscription.start(true), { code: 'INTERNAL' })
  t.same(sink.types, [])
  const taken = hub.snapshots.take(subscription.view, {
    ready: () => subscription.start(true),
    fail: (error) => t.fail(String(error)),
  })
  t.equal(taken, undefined)
  t.same(sink.types, ['subscribed', 'snapshot'])
  t.same([subscription.told, subscription.toldOfChange], [1, 1])
  const other = connect()
  new Subscription(other.connection, 'o', { pages: ['a'] }).start()
  t.same(other.sink.types, ['subscribed'])
})

t.test('an epoch that it has is not delivered again', async (t) => {
  const { subscription, sink } = single()
  subscription.start()
  subscription.offer(changeOf(1, 0), 0)
  subscription.offer(changeOf(2, 0), 0)
  subscription.offer(changeOf(2, 0), 0)
  t.same(sink.types, ['subscribed', 'change'])
})

t.test('what is made ready ahead: what it will get as it is', async (t) => {
  const prepared = (options: Partial<SubscribeOptions>, bytes: number): number => {
    const { subscription, sink } = single(options)
    subscription.start()
    subscription.prepare(changeOf(2, bytes))
    return sink.prepared.length
  }
  t.equal(prepared({}, STREAM_CHANGE_MAX_BYTES), 1)
  t.equal(prepared({}, STREAM_CHANGE_MAX_BYTES + 1), 0)
  t.equal(prepared({ policy: 'latest' }, 1), 0)
  const { subscription, sink } = single()
  subscription.resume(0)
  subscription.prepare(changeOf(2, 1))
  t.equal(sink.prepared.length, 0, 'not while it catches up')
})

t.test('a change may have so many bytes', async (t) => {
  for (const [bytes, last] of [
    [STREAM_CHANGE_MAX_BYTES, 'change'],
    [STREAM_CHANGE_MAX_BYTES + 1, 'error'],
  ] as const) {
    const { subscription, sink } = single()
    const types: string[] = []
    sink.send = (_id, { type }) => types.push(type)
    subscription.start()
    subscription.offer(changeOf(2, bytes), 0)
    t.equal(types.at(-1), last)
  }
})

t.test('without room a lossless one ends with where to resume, and is counted', async (t) => {
  const { bus, hub, subscription, sink } = single()
  subscription.start()
  sink.queuedBytes = STREAM_QUEUE_MAX_BYTES
  bus.commit(set('b', [0, 1]))
  bus.commit(write(1))
  t.same(sink.got.at(-1), { type: 'overflow', id: 's', resumeFrom: 2 })
  t.same(hub.counters, { delivered: 0, conflated: 0, overflows: 1 })
})

// ---- latest -----------------------------------------------------------------------------------------------

t.test('latest: folds while the queue is full, then tells it as one change', async (t) => {
  const { bus, clock, hub, subscription, sink } = single({ policy: 'latest' })
  subscription.start()
  bus.commit(write(1))
  sink.isCongested = true
  const timers = clock.timerCount
  bus.commit(write(2))
  bus.commit(write(3))
  t.equal(clock.timerCount, timers, 'it waits for its queue only')
  t.equal(subscription.position, 2, 'resuming would tell both again')
  subscription.drained()
  subscription.progress(1e9, 4)
  t.same(sink.types, ['subscribed', 'change'], 'still full; what is folded comes before progress')
  sink.isCongested = false
  bus.commit(write(4))
  t.same(sink.types, ['subscribed', 'change'], 'what is folded is not overtaken')
  subscription.drained()
  t.match(sink.got.at(-1), { type: 'change', first: 3, epoch: 5, changes: [{ values: [4] }] })
  t.same([subscription.told, subscription.toldOfChange, subscription.position], [5, 5, 5])
  t.same(hub.counters, { delivered: 2, conflated: 3, overflows: 0 })
  subscription.drained()
  t.equal(sink.types.length, 3, 'once')
})

t.test('latest: without room in the budget of all it folds, and waits for room', async (t) => {
  const { bus, hub, clock, connect, connection, sink } = single({}, { streamBudgetBytes: 2 ** 20 })
  bus.commit(create('large', 2 ** 15))
  connection.subscribe('l', { pages: ['large'], policy: 'latest' })
  const release = hub.queues.hold(connect().sink, new Uint8Array(2 ** 20))
  const fill = (value: number) => bus.commit((fake) => fake.fill('large', () => value))
  fill(1)
  clock.advance(1)
  t.same(sink.types, ['subscribed'])
  release()
  clock.advance(1)
  t.match(sink.got.at(-1), { type: 'change', first: 3, epoch: 3 })
  sink.isCongested = true
  fill(2)
  const releaseAgain = hub.queues.hold(connect().sink, new Uint8Array(2 ** 20))
  sink.isCongested = false
  connection.drained()
  clock.advance(1)
  t.equal(sink.types.length, 2)
  releaseAgain()
  clock.advance(1)
  t.match(sink.got.at(-1), { type: 'change', first: 4, epoch: 4 }, 'nor when its own queue has drained')
})

t.test('a rate: at once, then as one change when its time has come, and then at once again', async (t) => {
  const { bus, clock, subscription, sink, hub } = single({ maxRate: 10 })
  subscription.start()
  const timers = clock.timerCount
  bus.commit(write(1))
  t.equal(sink.types.length, 2)
  clock.advance(60)
  bus.commit(write(2))
  bus.commit(write(3))
  subscription.drained()
  clock.advance(39)
  t.equal(sink.types.length, 2)
  t.equal(clock.timerCount, timers + 1, 'one timer for both')
  clock.advance(1)
  t.match(sink.got[2], { first: 3, epoch: 4 })
  clock.advance(100)
  bus.commit(write(4))
  t.match(sink.got[3], { first: 5, epoch: 5 }, 'at the very end of its time')
  t.same(hub.counters, { delivered: 3, conflated: 2, overflows: 0 })
  bus.commit(write(5))
  sink.isCongested = true
  clock.advance(100)
  t.equal(sink.types.length, 4)
  sink.isCongested = false
  subscription.drained()
  t.match(sink.got[4], { first: 6, epoch: 6 }, 'due, but the queue was full')
})

t.test('a rate: what waits for its time is not sent by a queue that drains before', async (t) => {
  const { bus, clock, subscription, sink } = single({ maxRate: 10 })
  subscription.start()
  bus.commit(write(1))
  sink.isCongested = true
  clock.advance(150)
  bus.commit(write(2))
  sink.isCongested = false
  subscription.drained()
  t.match(sink.got.at(-1), { first: 3, epoch: 3 })
  clock.advance(50)
  sink.isCongested = true
  subscription.offer(changeOf(9, 0), clock.nowMs())
  subscription.drained()
  clock.advance(49)
  t.equal(sink.types.length, 3)
})

t.test('what is folded is read between epochs, and not from a bus that has stopped', async (t) => {
  for (const isFailed of [false, true]) {
    const { bus, clock, subscription, sink } = single({ maxRate: 10 })
    subscription.start()
    bus.commit(write(1))
    bus.commit(write(2))
    bus.begin()
    clock.advance(100)
    subscription.drained()
    t.equal(sink.types.length, 2)
    if (isFailed) bus.failure = 'over'
    bus.commit(set('b', [0, 1]))
    t.equal(sink.types.length, isFailed ? 2 : 3)
  }
})

t.test('folded changes of which nothing is left are no message', async (t) => {
  const { bus, subscription, sink } = single({ pages: ['*'], policy: 'latest' })
  subscription.start()
  sink.isCongested = true
  bus.commit(create('c', 1))
  bus.commit((fake) => fake.delete('c'))
  sink.isCongested = false
  subscription.drained()
  t.same([sink.types, subscription.told], [['subscribed'], 1])
})

t.test('what is folded and cannot be sent ends it with an error', async (t) => {
  const { bus, subscription, sink } = single({ policy: 'latest' })
  subscription.start()
  sink.isCongested = true
  bus.commit(write(1))
  bus.gather = () => {
    throw new MmsbError('OVERLOADED', 'no memory')
  }
  sink.isCongested = false
  subscription.drained()
  t.match(sink.got.at(-1), { type: 'error', code: 'OVERLOADED' })
})

// ---- progress ---------------------------------------------------------------------------------------------

t.test('progress after a quiet time, from the last message on', async (t) => {
  const { bus, clock, subscription, sink } = single()
  const half = STREAM_PROGRESS_INTERVAL_MS / 2
  const startMs = clock.nowMs()
  subscription.progress(1e9, 1)
  t.same(sink.types, [], 'not before it has begun')
  subscription.start()
  subscription.progress(startMs + half - 1, 1)
  t.same(sink.types, ['subscribed'])
  subscription.progress(startMs + half, 7)
  t.same(sink.got.at(-1), { type: 'progress', id: 's', epoch: 7 })
  subscription.progress(startMs + 2 * half - 1, 8)
  t.equal(sink.types.length, 2)
  clock.advance(2 * half)
  bus.commit(write(1))
  subscription.progress(clock.nowMs() + half - 1, 9)
  t.equal(sink.types.length, 3, 'a change counts too')
  subscription.stop()
  subscription.progress(1e9, 9)
  t.equal(sink.types.length, 3)
})

// ---- from an old epoch ------------------------------------------------------------------------------------

t.test('it catches up as far as it has room, and is live after that', async (t) => {
  const { bus, clock, connect, hub, subscription, sink } = single()
  connect().connection.subscribe('keeps', { pages: ['a'] })
  for (const value of [1, 2, 3]) bus.commit(write(value))
  sink.queuedBytes = STREAM_CATCH_UP_QUEUE_BYTES
  subscription.resume(1)
  t.same([sink.types, subscription.told, subscription.position], [['subscribed'], 1, 1])
  t.match(sink.got[0], { epoch: 1 })
  const send = sink.send.bind(sink)
  sink.queuedBytes = 0
  sink.send = (id, message) => {
    send(id, message)
    sink.queuedBytes = STREAM_CATCH_UP_QUEUE_BYTES
  }
  subscription.drained()
  t.same([sink.types.length, subscription.told, subscription.position], [2, 2, 2])
  bus.commit(write(4))
  t.equal(sink.types.length, 2, 'live changes wait too')
  subscription.progress(clock.nowMs() + STREAM_PROGRESS_INTERVAL_MS, bus.epoch)
  t.same(sink.got[2], { type: 'progress', id: 's', epoch: 2 })
  sink.send = send
  sink.queuedBytes = STREAM_CATCH_UP_QUEUE_BYTES - 1
  subscription.drained()
  bus.commit(write(5))
  t.same(
    sink.got.slice(3).map(({ epoch }) => epoch),
    [3, 4, 5, 6],
  )
  t.same([subscription.position, hub.counters.delivered], [6, 5 + 5])
})

t.test('progress while it catches up, after as quiet a time', async (t) => {
  const { clock, subscription, sink } = single()
  sink.queuedBytes = STREAM_CATCH_UP_QUEUE_BYTES
  subscription.resume(0)
  subscription.progress(clock.nowMs() + STREAM_PROGRESS_INTERVAL_MS / 2 - 1, 1)
  t.same(sink.types, ['subscribed'])
  subscription.progress(clock.nowMs() + STREAM_PROGRESS_INTERVAL_MS / 2, 1)
  t.same(sink.got.at(-1), { type: 'progress', id: 's', epoch: 0 })
})

t.test('the epoch in which it becomes live is delivered once', async (t) => {
  const { bus, connect, subscription, sink } = single()
  const other = connect()
  other.connection.subscribe('first', { pages: ['a'] })
  bus.commit(write(1))
  sink.queuedBytes = STREAM_CATCH_UP_QUEUE_BYTES
  subscription.resume(1)
  const send = other.sink.send.bind(other.sink)
  other.sink.send = (id, message) => {
    send(id, message)
    sink.queuedBytes = 0
    subscription.drained()
  }
  bus.commit(write(2))
  t.same(
    sink.got.map(({ epoch }) => epoch),
    [1, 2, 3],
  )
})

t.test('it catches up no further while the budget of all is used up', async (t) => {
  const { bus, clock, connect, hub, connection, sink } = single({}, { streamBudgetBytes: 2 ** 20 })
  connect().connection.subscribe('keeps', { pages: ['a'] })
  bus.commit(write(1))
  const release = hub.queues.hold(connect().sink, new Uint8Array(2 ** 20))
  connection.subscribe('s', { pages: ['a'], from: 1 })
  clock.advance(1)
  t.same(sink.types, ['subscribed'])
  release()
  clock.advance(1)
  t.same(sink.types, ['subscribed', 'change'])
})

t.test('one that takes the latest gets what it missed as one, though its queue is long', async (t) => {
  const { bus, connect, subscription, sink } = single({ policy: 'latest' })
  connect().connection.subscribe('keeps', { pages: ['a'] })
  for (const value of [1, 2, 3]) bus.commit(write(value))
  sink.queuedBytes = STREAM_CATCH_UP_QUEUE_BYTES
  subscription.resume(1)
  t.match(sink.got.slice(1), [{ type: 'change', first: 2, epoch: 4, changes: [{ values: [3] }] }])
})

t.test('what it missed and cannot be sent ends it with an error', async (t) => {
  const { bus, connect, subscription, sink } = single()
  connect().connection.subscribe('keeps', { pages: ['a'] })
  bus.commit(write(1))
  const send = sink.send.bind(sink)
  sink.send = (id, message) => {
    if (message.type === 'change') throw new Error('no')
    send(id, message)
  }
  subscription.resume(1)
  t.match(sink.got.at(-1), { type: 'error', code: 'INTERNAL' })
})

// ---- the end ----------------------------------------------------------------------------------------------

t.test('what cannot be sent ends it with an error', async (t) => {
  const { bus, subscription, sink } = single()
  subscription.start()
  const send = sink.send.bind(sink)
  sink.send = (id, message) => {
    if (message.type === 'change') throw new Error('no')
    send(id, message)
  }
  bus.commit(write(1))
  bus.commit(write(2))
  t.match(sink.got.slice(1), [{ type: 'error', code: 'INTERNAL' }])
  t.equal(sink.got.length, 2, 'it hears nothing more')
})

t.test('once stopped it sends nothing, and nothing is kept for it', async (t) => {
  const { bus, clock, hub, subscription, sink } = single({ maxRate: 10 })
  subscription.start()
  const timers = clock.timerCount
  bus.commit(write(1))
  bus.commit(write(2))
  t.equal(clock.timerCount, timers + 1)
  subscription.stop()
  t.same([clock.timerCount, hub.stats().topics], [timers, 0])
  subscription.stop()
  subscription.drained()
  bus.commit(write(3))
  clock.advance(200)
  t.same(sink.types, ['subscribed', 'change'])
})

t.test('once stopped it catches up no further', async (t) => {
  const { bus, connect, subscription, sink } = single()
  connect().connection.subscribe('keeps', { pages: ['a'] })
  bus.commit(write(1))
  sink.queuedBytes = STREAM_CATCH_UP_QUEUE_BYTES
  subscription.resume(0)
  subscription.stop()
  sink.queuedBytes = 0
  subscription.drained()
  const asks = new Subscription(connect().connection, 's', { pages: ['a'] })
  const { asked } = bus
  asks.resume(0)
  asks.stop()
  t.equal(bus.asked, asked + 1)
  for (let i = 0; i < 3; i++) await turn()
  t.same([sink.types, asks.told], [['subscribed'], 0])
})

t.test('the last message says why', async (t) => {
  const gone = new MmsbError('EPOCH_COMPACTED', 'gone', { minEpoch: 7 })
  t.same(endOf(gone), { type: 'compacted', minEpoch: 7 })
  for (const error of [
    new MmsbError('EPOCH_COMPACTED', 'gone'),
    new MmsbError('NOT_FOUND', 'no', { minEpoch: 7 }),
  ])
    t.same(endOf(error), { type: 'error', error })
  const cause = new Error('odd')
  const { error } = endOf(cause) as { error: MmsbError }
  t.match([error.code, error.cause], ['INTERNAL', cause])
})
