/**
 * A subscription as a program sees it: the queue between the connection, whose other end is the test,
 * and the reader.
 */
import t, { type Test } from 'tap'
import { type Subscription, subscriptionOf } from '../../../src/client/stream/subscription.js'
import type { SubscribeOptions } from '../../../src/client/types.js'
import { turns } from '../../lib/wait.js'
import { fate, type Json, played } from '../played.js'

/** What the queue counts for a change of one page, besides its values. */
const OVERHEAD = 128

function reading(t: Test, options: Partial<SubscribeOptions> = {}, queueMaxBytes?: number) {
  const all = played(t)
  const ended: (() => void)[] = []
  const made: SubscribeOptions = { pages: ['a'], from: 0, ...options }
  const subscription = subscriptionOf(all.connection, made, {
    queueMaxBytes,
    onEnd: (end) => ended.push(end),
  })
  t.teardown(() => subscription.close())
  all.sockets[0]?.accept()
  const say = async (message: Json): Promise<void> => {
    all.socket.say({ id: all.socket.told.at(-1)?.id, epoch: 0, ...message })
    await turns()
  }
  return {
    subscription,
    ended,
    sockets: all.sockets,
    say,
    /** A change with so many bytes of values. */
    change: (epoch: number, bytes = 0): Promise<void> => {
      const changes = [{ page: 'a', kind: 'source', values: Array(bytes).fill(1) }]
      return say({ type: 'change', epoch, first: epoch, changes })
    },
    /** Whether the server was asked to pause. */
    isPaused: () => all.socket.told.at(-1)?.type === 'unsubscribe',
  }
}

/** What the reader gets next: an epoch, `done`, a code, or `pending`. */
async function next(subscription: Subscription): Promise<unknown> {
  return readOf(subscription.next())
}

const readOf = (promise: Promise<IteratorResult<{ readonly epoch: number }>>): Promise<unknown> =>
  fate(promise, ({ done, value }) => (done === true ? 'done' : value.epoch))

t.test('changes wait for the reader, and readers for changes, in order', async (t) => {
  const { subscription, change, say } = reading(t)
  t.equal(subscription[Symbol.asyncIterator](), subscription)
  t.equal(subscription.epoch, undefined)
  await change(1)
  await change(2)
  await say({ type: 'progress', epoch: 3 })
  t.equal(subscription.epoch, undefined, 'nothing has been read')
  t.equal(await next(subscription), 1)
  t.equal(subscription.epoch, 1)
  await say({ type: 'progress', epoch: 4 })
  t.equal(subscription.epoch, 1, 'one still waits')
  t.equal(await next(subscription), 2)
  await say({ type: 'progress', epoch: 5 })
  t.equal(subscription.epoch, 5)
  const waiting = [subscription.next(), subscription.next()]
  await change(6)
  t.equal(subscription.epoch, 6)
  await change(7)
  t.same(await Promise.all(waiting.map(readOf)), [6, 7])
  t.equal(await next(subscription), 'pending')
})

t.test('it knows whether the connection is open', async (t) => {
  const all = played(t)
  const subscription = subscriptionOf(all.connection, { pages: ['a'] }, { onEnd: () => {} })
  t.equal(subscription.isConnected, false)
  all.socket.accept()
  t.equal(subscription.isConnected, true)
  all.socket.lose()
  t.equal(subscription.isConnected, false)
  const { subscription: other, sockets } = reading(t)
  other.close()
  t.equal(other.isConnected, false)
  t.same(sockets[0]!.ended, [1000])
})

t.test('a reader that is slow puts the server off, until half of the queue is read', async (t) => {
  const bytes = 1000
  const cost = bytes + OVERHEAD
  const { subscription, change, isPaused, sockets } = reading(t, {}, 4 * cost)
  for (const epoch of [1, 2, 3, 4]) await change(epoch, bytes)
  t.equal(isPaused(), false, 'as much as is allowed')
  await change(5)
  t.equal(isPaused(), true)
  t.equal(await next(subscription), 1)
  t.equal(await next(subscription), 2)
  t.equal(isPaused(), true, 'a little more than half')
  t.equal(await next(subscription), 3)
  t.equal(isPaused(), false)
  t.match(sockets[0]!.told.at(-1), { type: 'subscribe', from: 5 })
  t.same([await next(subscription), await next(subscription)], [4, 5])
  t.equal(sockets[0]!.told.length, 3, 'it does so once')
  for (const epoch of [6, 7, 8, 9]) await change(epoch, bytes)
  t.equal(isPaused(), false, 'what was read no longer counts')
  for (const epoch of [6, 7]) t.equal(await next(subscription), epoch)
  await change(10, bytes)
  await change(11, bytes)
  await change(12)
  t.equal(isPaused(), true)
  for (const epoch of [8, 9]) t.equal(await next(subscription), epoch)
  t.equal(isPaused(), true)
})

t.test('at exactly half of the queue it goes on', async (t) => {
  const { subscription, change, isPaused } = reading(t, {}, 2 * OVERHEAD)
  for (const epoch of [1, 2, 3]) await change(epoch)
  t.equal(isPaused(), true)
  await next(subscription)
  t.equal(isPaused(), true)
  await next(subscription)
  t.equal(isPaused(), false)
})

t.test('a change of several pages costs as much as all of them', async (t) => {
  const { say, isPaused } = reading(t, {}, 3 * OVERHEAD)
  const changes = ['a', 'b', 'c'].map((page) => ({ page, kind: 'source', dtype: 'u8', shape: [1] }))
  await say({ type: 'change', epoch: 1, first: 1, changes })
  t.equal(isPaused(), false)
  await say({ type: 'change', epoch: 2, first: 2, changes: changes.slice(0, 1) })
  t.equal(isPaused(), true)
})

t.test('closed, it is done: also for who waits, whatever was queued', async (t) => {
  for (const end of ['close', 'return'] as const) {
    const { subscription, ended, change } = reading(t)
    const waiting = [subscription.next(), subscription.next()]
    await change(1)
    if (end === 'close') subscription.close()
    else t.same(await subscription.return?.(), { done: true, value: undefined })
    t.same(await Promise.all(waiting.map(readOf)), [1, 'done'], end)
    t.equal(await next(subscription), 'done')
    subscription.close()
    t.same(ended, [subscription.close], 'its client hears of it once')
  }
  const { subscription, change } = reading(t)
  await change(1)
  subscription.close()
  t.equal(await next(subscription), 'done')
})

t.test('an error comes after what was queued, once', async (t) => {
  const { subscription, say, change, ended } = reading(t)
  await change(1)
  await say({ type: 'error', code: 'FORBIDDEN', detail: '' })
  t.equal(subscription.isConnected, false)
  t.same(ended, [subscription.close])
  t.same(
    [await next(subscription), await next(subscription), await next(subscription)],
    [1, 'FORBIDDEN', 'done'],
  )
  const other = reading(t)
  const waiting = [other.subscription.next(), other.subscription.next()]
  for (const read of waiting) read.catch(() => {})
  await other.say({ type: 'error', code: 'FORBIDDEN', detail: '' })
  t.same(await Promise.all(waiting.map(readOf)), ['FORBIDDEN', 'done'])
})

t.test('a signal ends it with its reason, and drops what was queued', async (t) => {
  const controller = new AbortController()
  const { subscription, change, ended, sockets } = reading(t, { signal: controller.signal })
  await change(1)
  controller.abort('enough')
  t.same(ended, [subscription.close])
  t.same(sockets[0]!.ended, [1000])
  t.same([await next(subscription), await next(subscription)], ['enough', 'done'])
  const late = reading(t, { signal: controller.signal })
  t.equal(late.sockets.length, 0, 'it never began')
  t.same([await next(late.subscription), await next(late.subscription)], ['enough', 'done'])
  const second = new AbortController()
  const closed = reading(t, { signal: second.signal })
  closed.subscription.close()
  second.abort('late')
  t.equal(await next(closed.subscription), 'done', 'a signal after the end means nothing')
  t.equal(closed.ended.length, 1)
})

t.test('a commit is of what was read, unless it says otherwise', async (t) => {
  const { subscription, change, sockets } = reading(t, { durable: 'd', from: 'now' })
  await t.rejects(subscription.commit(), { code: 'INVALID_REQUEST', detail: /nothing has been delivered/ })
  await change(1)
  await change(2)
  await change(3)
  await next(subscription)
  subscription.commit().catch(() => {})
  subscription.commit(2).catch(() => {})
  t.match(sockets[0]!.told.slice(1), [
    { type: 'commit', epoch: 1 },
    { type: 'commit', epoch: 2 },
  ])
})

t.test('options are what they may be, and nothing else', async (t) => {
  const good: Partial<SubscribeOptions>[] = [
    { from: 'now' },
    { from: 'snapshot' },
    { from: 0 },
    { data: 'none' },
    { data: 'ranges' },
    { data: 'values' },
    { policy: 'lossless' },
    { policy: 'latest' },
    { maxRate: 0.5 },
    { slice: {} },
    {
      slice: {
        a: [],
        b: [
          [0, 1],
          [0, 0],
        ],
      },
    },
    { durable: 'd' },
    { history: 'h' },
    { signal: new AbortController().signal },
    { signal: undefined, from: undefined } as object,
  ]
  for (const options of good) t.equal(reading(t, options).sockets.length, 1, JSON.stringify(options))
  const bad: [unknown, RegExp][] = [
    [{ pages: 'a' }, /^pages: "a" is not a list/],
    [{ pages: ['a', 5] }, /^pages\[1\]: 5/],
    [{ pages: undefined }, /^pages: is missing/],
    [{ from: 'then' }, /^from: "then" is neither 'now' nor 'snapshot' nor an epoch/],
    [{ from: -1 }, /^from: -1/],
    [{ data: 'all' }, /^data: "all" is not one of none, ranges, values/],
    [{ policy: 'some' }, /^policy: "some"/],
    [{ maxRate: 0 }, /^maxRate: 0/],
    [{ maxRate: Infinity }, /^maxRate: Infinity/],
    [{ slice: [] }, /^slice: a list is not an object/],
    [{ slice: { a: 5 } }, /^slice\.a: must be a list of \[start, stop\]/],
    [{ slice: { a: [[0, 1], 5] } }, /^slice\.a/],
    [{ slice: { a: [[0]] } }, /^slice\.a/],
    [{ slice: { a: [[0, 1, 2]] } }, /^slice\.a/],
    [{ slice: { a: [[0, -1]] } }, /^slice\.a/],
    [{ slice: { a: [], b: [['0', 1]] } }, /^slice\.b/],
    [{ durable: 5 }, /^durable: 5/],
    [{ history: 5 }, /^history: 5/],
    [{ signal: 5 }, /^signal: 5/],
    [{ odd: 5 }, /^odd: options has no such field/],
  ]
  for (const [options, detail] of bad) {
    t.throws(() => reading(t, options as object), { code: 'INVALID_REQUEST', detail }, String(detail))
  }
})
