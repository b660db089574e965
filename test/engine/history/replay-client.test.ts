/**
 * Requests about the past on their way to a thread and back. The thread is played by the test, which says
 * when it answers.
 */
import { getEventListeners } from 'node:events'
import t, { type Test } from 'tap'
import {
  ReplayClient,
  type ReplayMessage,
  type ReplayOptions,
  type ReplayWorkerData,
} from '../../../src/engine/history/replay-client.js'
import type { PastOptions } from '../../../src/engine/types.js'
import { MmsbError } from '../../../src/errors.js'
import { LimitGuard } from '../../../src/operator-limits.js'
import { playThreads } from '../../lib/played-worker.js'
import { turn, until } from '../../lib/wait.js'

const PLACE = { dir: '/nowhere', identity: undefined, isReadOnly: false, quotaBytes: 64 }

function played(t: Test, options: Partial<ReplayOptions> = {}) {
  const threads = playThreads<ReplayMessage, ReplayWorkerData>(t)
  const client = new ReplayClient({ ...PLACE, ...options })
  t.teardown(() => {
    const closed = client.close()
    for (const thread of threads) thread.exit()
    return closed
  })
  /** How each request ended, in order. */
  const ended: string[] = []
  const ask = (epoch: number, pastOptions?: PastOptions): Promise<unknown> => {
    const asked = client.ask<unknown>({ kind: 'peek', epoch, name: 'x' }, pastOptions)
    return asked.then(
      (value) => ended.push(`${epoch}: ${value}`),
      (error: unknown) => ended.push(`${epoch}: ${error instanceof MmsbError ? error.code : error}`),
    )
  }
  const news = async (): Promise<string[]> => {
    await turn()
    return ended.splice(0)
  }
  /** The epoch that the newest message asks for. */
  const served = (): number | undefined => (threads.at(-1)?.last?.request as { epoch: number })?.epoch
  const thread = () => threads.at(-1)!
  const answer = (value: string): void => thread().answer({ value })
  const fail = (code: string, extra?: object): void =>
    thread().answer({ failure: { code, detail: `${code} it is`, extra } })
  return { threads, client, ask, news, served, thread, answer, fail }
}

const errorOf = (work: Promise<unknown>): Promise<MmsbError> =>
  work.then(
    () => {
      throw new Error('no error')
    },
    (error: MmsbError) => error,
  )

t.test('the thread starts with the first request, and serves one at a time', async (t) => {
  const { threads, client, ask, news, served, thread, answer } = played(t)
  await turn()
  t.equal(threads.length, 0)
  void ask(1)
  void ask(2)
  await turn()
  const { cancelled, ended, progress, ...place } = thread().data
  t.strictSame(place, PLACE, 'it gets what it needs to find the folder')
  t.strictSame([cancelled[0], ended[0], progress[0]], [0, 0, 0n])
  t.match(thread().last, { number: 1, request: { kind: 'peek', epoch: 1, name: 'x' } })
  t.notOk('limitMs' in thread().last)
  t.equal(thread().sent.length, 1)
  t.strictSame(await news(), [])
  answer('a')
  t.strictSame(await news(), ['1: a'])
  t.match(thread().last, { number: 2, request: { epoch: 2 } })
  answer('b')
  t.strictSame(await news(), ['2: b'])
  void ask(3)
  await turn()
  t.equal(served(), 3, 'when it was idle')
  t.equal(threads.length, 1, 'the same thread')
  Atomics.store(progress, 0, 77n)
  t.equal(client.progressEpoch, 77)
})

t.test('callers take turns, and have numbers', async (t) => {
  const { threads, ask, thread, answer } = played(t)
  const [crowd, polite] = [{}, {}]
  void ask(1)
  for (const epoch of [2, 3]) void ask(epoch, { caller: crowd })
  for (const epoch of [4, 5]) void ask(epoch, { caller: 'named' })
  void ask(6, { caller: polite })
  void ask(7, { caller: 'other' })
  void ask(8)
  for (let i = 0; i < 8; i++) {
    await turn()
    answer('')
  }
  const epochs = thread().sent.map(({ request }) => (request as { epoch: number }).epoch)
  t.strictSame(epochs, [1, 2, 4, 6, 7, 8, 3, 5])
  const numbers = thread().sent.map(({ caller }) => caller)
  const [program, one, named, two, other] = numbers
  t.equal(new Set([program, one, named, two, other]).size, 5, 'each its own')
  t.strictSame(numbers.slice(5), [program, one, named], 'and the same again')
  t.equal(threads.length, 1)
})

t.test('what a failure becomes', async (t) => {
  const limits = new LimitGuard({ maxReplayTimeMs: 50_000 })
  const guard = new LimitGuard({ maxReplayBytes: 64 })
  const failing = async (options: Partial<ReplayOptions>, code: string, extra?: object) => {
    const { client, fail } = played(t, options)
    const asked = errorOf(client.ask({ kind: 'epoch', epoch: 1 }))
    await turn()
    fail(code, extra)
    const { code: found, message, extra: more } = await asked
    return [found, message, more]
  }
  t.strictSame(await failing({}, 'PAGE_NOT_FOUND'), ['PAGE_NOT_FOUND', 'PAGE_NOT_FOUND it is', {}])
  t.strictSame((await failing({}, 'INTERNAL', { epoch: 3 })).at(-1), { epoch: 3 })
  const tooLong = 'COST_EXCEEDED it is'
  t.strictSame((await failing({}, 'COST_EXCEEDED')).slice(0, 2), ['COST_EXCEEDED', tooLong])
  t.strictSame(await failing({ limits }, 'COST_EXCEEDED'), [
    'COST_EXCEEDED',
    tooLong,
    { limit: '--max-replay-time', max: 50_000, limitMs: 50_000 },
  ])
  t.equal(new Map(limits.refusals()).get('maxReplayTimeMs'), 1)
  for (const [maxReplayBytes, extra] of [
    [63, { limit: '--max-replay-bytes', max: 63 }],
    [64, { limit: '--max-replay-bytes', max: 64 }],
    [65, undefined],
  ] as const) {
    const guard = new LimitGuard({ maxReplayBytes })
    const [code, message, more] = await failing({ guard }, 'OUT_OF_MEMORY')
    t.equal(code, 'OUT_OF_MEMORY')
    t.match(message, /more than the 64 bytes/)
    t.strictSame(more, extra, `of at most ${maxReplayBytes} bytes`)
    t.equal(new Map(guard.refusals()).get('maxReplayBytes'), extra === undefined ? 0 : 1)
  }
  t.strictSame((await failing({}, 'OUT_OF_MEMORY')).at(-1), undefined)
  t.strictSame((await failing({ guard }, 'PAGE_NOT_FOUND')).at(0), 'PAGE_NOT_FOUND')
})

t.test('requests that wait are bounded, in all and of each caller but the program', async (t) => {
  const limits = new LimitGuard({ maxPastRequests: 4, maxPastRequestsPerConnection: 2, maxReplayTimeMs: 5e4 })
  const { client, ask, news, thread, answer } = played(t, { limits })
  void ask(1)
  await turn()
  t.equal(thread().last.limitMs, 50_000)
  const caller = {}
  for (const epoch of [2, 3, 4]) void ask(epoch, { caller })
  t.strictSame(await news(), ['4: OVERLOADED'], 'the one that is served does not count')
  t.match(await errorOf(client.ask({ kind: 'epoch', epoch: 1 }, { caller })), {
    message: '2 requests of this connection about the past are waiting.',
    extra: { limit: '--max-past-requests-per-connection', max: 2, retryAfterS: 1 },
  })
  for (const epoch of [5, 6, 7]) void ask(epoch)
  t.strictSame(await news(), ['7: OVERLOADED'])
  t.match(await errorOf(client.ask({ kind: 'epoch', epoch: 1 }, { caller: 'new' })), {
    message: 'Too many requests about the past are waiting.',
    extra: { limit: '--max-past-requests', max: 4, retryAfterS: 1 },
  })
  answer('a')
  t.strictSame(await news(), ['1: a'])
  void ask(8)
  t.strictSame(await news(), [], 'there is room again')
  const refusals = new Map(limits.refusals())
  t.strictSame([refusals.get('maxPastRequestsPerConnection'), refusals.get('maxPastRequests')], [2, 2])
})

t.test('a program may have more requests waiting than a connection', async (t) => {
  const { ask, news } = played(t, { limits: new LimitGuard({ maxPastRequestsPerConnection: 1 }) })
  for (let epoch = 1; epoch <= 5; epoch++) void ask(epoch)
  t.strictSame(await news(), [])
})

t.test('a request is cancelled while it waits, and while it is served', async (t) => {
  const { threads, ask, news, served, thread, answer, fail } = played(t)
  void ask(1)
  await turn()
  const { cancelled, ended } = thread().data
  const [first, second, third] = [new AbortController(), new AbortController(), new AbortController()]
  void ask(2, { signal: first.signal })
  void ask(3, { signal: second.signal })
  void ask(4, { signal: third.signal })
  void ask(5)
  first.abort()
  t.strictSame(await news(), ['2: INVALID_REQUEST'], 'at once')
  t.strictSame([cancelled[0], ended[0]], [0, 0], 'the one that is served goes on')
  answer('a')
  t.strictSame(await news(), ['1: a'])
  t.equal(served(), 3)
  second.abort()
  t.strictSame([cancelled[0], ended[0]], [2, 1], 'its number, and its step')
  t.strictSame(await news(), [], 'the thread says when it has ended')
  fail('INTERNAL')
  t.strictSame(await news(), ['3: INVALID_REQUEST'])
  t.equal(served(), 4)
  t.strictSame([cancelled[0], ended[0]], [2, 0], 'the next one is not cancelled')
  answer('b')
  t.strictSame(await news(), ['4: b'])
  third.abort()
  t.strictSame([cancelled[0], ended[0]], [2, 0], 'after its answer nothing is left to cancel')
  t.equal(served(), 5)
  answer('c')
  t.strictSame(await news(), ['5: c'])
  for (const { signal } of [first, second, third]) t.equal(getEventListeners(signal, 'abort').length, 0)
  t.equal(threads.length, 1)
})

t.test('an answer that came although the request was cancelled', async (t) => {
  const { ask, news, answer } = played(t)
  const controller = new AbortController()
  void ask(1, { signal: controller.signal })
  await turn()
  controller.abort()
  answer('a')
  t.strictSame(await news(), ['1: a'])
})

t.test('a request that was cancelled before reaches no thread', async (t) => {
  const { threads, ask, news } = played(t)
  void ask(1, { signal: AbortSignal.abort() })
  t.strictSame(await news(), ['1: INVALID_REQUEST'])
  t.equal(threads.length, 0)
})

t.test('a thread that dies takes its request along, and the next one starts another', async (t) => {
  const { threads, client, ask, news, served, thread, answer } = played(t)
  const lost = errorOf(client.ask({ kind: 'epoch', epoch: 1 }))
  void ask(2)
  await turn()
  thread().emit('error', new Error('out of luck'))
  await turn()
  t.ok(thread().isEnding)
  t.equal(threads.length, 1, 'not before the dead one has ended')
  thread().exit()
  t.match(await lost, { code: 'INTERNAL', message: 'The replay thread has ended: out of luck' })
  await turn()
  t.equal(threads.length, 2)
  t.equal(served(), 2)
  answer('b')
  t.strictSame(await news(), ['2: b'])
})

t.test('a step of a request that takes too long is ended, and that of the next one is not', async (t) => {
  const limits = new LimitGuard({ maxReplayTimeMs: 5 })
  const { ask, news, thread, answer, fail } = played(t, { limits })
  void ask(1)
  await turn()
  const { ended, cancelled } = thread().data
  t.equal(thread().last.limitMs, 5)
  await until(() => ended[0] === 1, 'its end')
  t.equal(cancelled[0], 0)
  fail('COST_EXCEEDED')
  t.strictSame(await news(), ['1: COST_EXCEEDED'])
  const idle = process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length
  void ask(2)
  await turn()
  t.equal(ended[0], 0)
  answer('b')
  t.strictSame(await news(), ['2: b'])
  const now = process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length
  t.ok(now <= idle, 'nothing is left to end')
})

t.test('a thread that has nothing to do ends', async (t) => {
  const { threads, ask, news, thread, answer } = played(t, { idleMs: 5 })
  const timers = () => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length
  const before = timers()
  void ask(1)
  await turn()
  answer('a')
  t.strictSame(await news(), ['1: a'])
  t.ok(timers() <= before, 'and does not keep the process alive until then')
  await until(() => thread().isEnding, 'its end')
  void ask(2)
  await turn()
  t.equal(threads.length, 2)
})

t.test('a thread that has something to do does not', async (t) => {
  const idleMs = 5
  const { threads, ask, news, thread, answer } = played(t, { idleMs })
  void ask(1)
  await turn()
  answer('a')
  await news()
  void ask(2)
  let isOver = false
  setTimeout(() => {
    isOver = true
  }, idleMs + 1)
  await until(() => isOver, 'the time after the first answer')
  t.notOk(thread().isEnding)
  answer('b')
  t.strictSame(await news(), ['2: b'])
  t.equal(threads.length, 1)
})

t.test('closing', async (t) => {
  const { threads, client, ask, news, thread } = played(t, { idleMs: 5 })
  void ask(1)
  void ask(2)
  await turn()
  let isClosed = false
  const closed = client.close().then(() => {
    isClosed = true
  })
  const { cancelled, ended } = thread().data
  t.strictSame([cancelled[0], ended[0]], [0x7fff_ffff, 1], 'what is being served ends')
  t.strictSame(await news(), ['2: BUS_FAILED'], 'what waits fails at once')
  t.ok(thread().isEnding)
  t.notOk(isClosed, 'not before the thread has ended')
  thread().exit()
  await closed
  t.strictSame(await news(), ['1: BUS_FAILED'])
  void ask(3)
  t.strictSame(await news(), ['3: BUS_FAILED'])
  t.equal(threads.length, 1)
  await client.close()
})

t.test('closing without a thread', async (t) => {
  const { threads, client } = played(t)
  await client.close()
  t.equal(threads.length, 0)
})
