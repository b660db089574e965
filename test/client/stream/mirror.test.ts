/**
 * Mirrors on a connection whose other end is the test: their epoch, who waits for it, what ends them, and
 * pages too large for a message.
 */
import { getEventListeners } from 'node:events'
import t, { type Test } from 'tap'
import { MmsbError } from '../../../src/client/errors.js'
import { SILENCE_MAX_MS } from '../../../src/client/limits.js'
import type { WholePages } from '../../../src/client/stream/large-snapshot.js'
import {
  type MirrorDeps,
  type MirrorOptions,
  type MirrorSet,
  mirrorOf,
  mirrorSetOf,
} from '../../../src/client/stream/mirror.js'
import { turns } from '../../lib/wait.js'
import { clockOf, fate, type Json, played } from '../played.js'

const OTHER = `${'12'.repeat(16)}.${'34'.repeat(8)}`

function mirroring(t: Test, options: MirrorOptions = {}, readWhole?: MirrorDeps['readWhole']) {
  const clock = clockOf(t)
  const all = played(t)
  const ended: unknown[] = []
  const { ready, close } = mirrorSetOf(
    {
      connection: all.connection,
      readWhole: readWhole ?? (() => Promise.reject(new Error('not expected'))),
      onEnd: (end) => ended.push(end),
    },
    ['a', 'b*'],
    options,
  )
  ready.catch(() => {})
  t.teardown(close)
  all.sockets[0]?.accept()
  const say = async (message: Json): Promise<void> => {
    all.socket.say({ id: all.socket.told.at(-1)?.id, ...message })
    await turns()
  }
  return {
    ...all,
    clock,
    ready,
    close,
    ended,
    get socket() {
      return all.socket
    },
    say,
    /** The server says that the snapshot is too large. */
    tooLarge: () => say({ type: 'error', code: 'PAYLOAD_TOO_LARGE', detail: '' }),
    snapshot: (epoch: number, values: number[]) =>
      say({ type: 'snapshot', epoch, pages: { a: { dtype: 'u8', shape: [values.length], values } } }),
    change: (epoch: number, value: number) =>
      say({
        type: 'change',
        epoch,
        first: epoch,
        changes: [{ page: 'a', kind: 'source', ranges: [[0, 1]], values: [value] }],
      }),
  }
}

/** A mirror that has its first snapshot, of epoch 5. */
async function mirrored(t: Test, options?: MirrorOptions) {
  const all = mirroring(t, options)
  await all.snapshot(5, [1, 2])
  return { ...all, set: await all.ready }
}

const valuesOf = (set: MirrorSet): number[] => [...(set.pages.get('a')!.values as Uint8Array)]

/** What became of each promise. */
const fates = (promises: readonly Promise<unknown>[]): Promise<unknown[]> =>
  Promise.all(promises.map((promise) => fate(promise, () => 'reached')))

t.test('it is ready with the first snapshot, and then follows', async (t) => {
  const all = mirroring(t, { maxRate: 4 })
  t.match(all.socket.told, [
    { type: 'subscribe', pages: ['a', 'b*'], from: 'snapshot', data: 'values', policy: 'latest', maxRate: 4 },
  ])
  t.same(await fates([all.ready]), ['pending'])
  await all.say({ type: 'subscribed', epoch: 5 })
  t.same(await fates([all.ready]), ['pending'])
  await all.snapshot(5, [1, 2])
  const set = await all.ready
  t.same([set.epoch, set.isConnected, valuesOf(set)], [5, true, [1, 2]])
  const told: unknown[] = []
  const stop = set.onChange(({ epoch }) => told.push([epoch, set.epoch, ...valuesOf(set)]))
  set.onChange(({ type }) => told.push(type))
  await all.change(6, 7)
  t.same(told.splice(0), [[6, 6, 7, 2], 'change'], 'a listener sees the pages of the epoch')
  stop()
  await all.say({ type: 'progress', epoch: 9 })
  t.equal(set.epoch, 9)
  t.same(told, [])
  await all.change(10, 8)
  t.same(told, ['change'])
  all.socket.lose()
  t.equal(set.isConnected, false)
  t.notOk('maxRate' in mirroring(t).socket.told[0]!)
})

t.test('who waits for an epoch waits no longer than for it', async (t) => {
  const { set, change, say } = await mirrored(t)
  const controller = new AbortController()
  const { signal } = controller
  const waits = [
    set.until(5),
    set.until(6),
    set.until(7),
    set.until(7, { signal }),
    set.until(8),
    set.until(6, { signal }),
  ]
  t.same(await fates(waits), ['reached', 'pending', 'pending', 'pending', 'pending', 'pending'])
  await change(6, 1)
  t.same(await fates(waits), ['reached', 'reached', 'pending', 'pending', 'pending', 'reached'])
  controller.abort('enough')
  t.same(await fates(waits), ['reached', 'reached', 'pending', 'enough', 'pending', 'reached'])
  await say({ type: 'progress', epoch: 7 })
  t.same(await fates(waits), ['reached', 'reached', 'reached', 'enough', 'pending', 'reached'])
  t.same(await fates([set.until(9, { signal }), set.until(2, { signal })]), ['enough', 'enough'])
  for (const [epoch, options, detail] of [
    [-1, {}, /^until: -1/],
    ['x', {}, /^until: "x"/],
    [1, { odd: 1 }, /^odd/],
    [1, { signal: 1 }, /^signal: 1/],
  ] as const)
    await t.rejects(set.until(epoch as number, options as object), { code: 'INVALID_REQUEST', detail })
  t.equal(getEventListeners(signal, 'abort').length, 0)
  const long = new AbortController().signal
  const last = [set.until(8, { signal: long }), set.until(9, { signal: long })]
  t.equal(getEventListeners(long, 'abort').length, 1)
  await say({ type: 'progress', epoch: 9 })
  t.same(await fates(last), ['reached', 'reached'])
  t.equal(getEventListeners(long, 'abort').length, 0, 'nobody waits for the signal any more')
  t.throws(() => set.onChange(5 as never), { detail: /^listener: 5 is not a function/ } as never)
  t.throws(() => set.onHistoryChange(5 as never), { detail: /^listener: 5 is not a function/ } as never)
})

t.test('closed, it keeps its values, and whoever waits is told', async (t) => {
  for (const how of ['set', 'client', 'signal', 'error'] as const) {
    const controller = new AbortController()
    const { set, change, close, ended, say, sockets } = await mirrored(t, { signal: controller.signal })
    const told: unknown[] = []
    set.onChange(() => told.push('change'))
    const wait = set.until(6)
    wait.catch(() => {})
    if (how === 'set') set.close()
    else if (how === 'client') close()
    else if (how === 'signal') controller.abort('enough')
    else await say({ type: 'error', code: 'FORBIDDEN', detail: '' })
    const why = { set: 'CLOSED', client: 'CLOSED', signal: 'enough', error: 'FORBIDDEN' }[how]
    t.same(await fates([wait, set.until(6), set.until(5)]), [why, why, 'reached'], how)
    t.equal(set.isConnected, false)
    t.same(sockets[0]!.ended, [1000])
    await change(6, 9)
    set.close()
    controller.abort('late')
    t.same([told, set.epoch, valuesOf(set)], [[], 5, [1, 2]])
    t.same(ended, [close], 'its client hears of it once')
  }
  const { set, close } = await mirrored(t)
  set.close()
  await t.rejects(set.until(9), { detail: /mirror/ } as never)
  const other = await mirrored(t)
  other.close()
  await t.rejects(other.set.until(9), { detail: /client/ } as never)
  close()
  const signal = AbortSignal.abort('before')
  const never = mirroring(t, { signal })
  t.same([await fates([never.ready]), never.sockets.length], [['before'], 0], 'it never begins')
})

t.test('a new snapshot replaces the pages, and goes back in epochs only on another history', async (t) => {
  const { set, snapshot, connection, clock, socket, sockets, say } = await mirrored(t)
  connection.learn(`${'ab'.repeat(16)}.${'cd'.repeat(8)}`)
  const told: unknown[] = []
  const stop = set.onHistoryChange(({ code }) => told.push([code, set.epoch, valuesOf(set)]))
  const silent: unknown[] = []
  set.onHistoryChange((error) => silent.push(error))()
  const waits = [set.until(9), set.until(5)]
  for (const wait of waits) wait.catch(() => {})
  connection.learn(OTHER)
  t.same(told, [['HISTORY_CHANGED', 0, [1, 2]]], 'it keeps its last state')
  t.same(silent, [])
  t.same(await fates(waits), ['HISTORY_CHANGED', 'reached'])
  const again = set.until(3)
  clock.pass(clock.waits[0]!)
  sockets.at(-1)!.accept()
  t.match(sockets.at(-1)!.told, [{ type: 'subscribe', from: 'snapshot' }])
  await snapshot(3, [8])
  t.same([set.epoch, valuesOf(set)], [3, [8]])
  t.same(await fates([again]), ['reached'])
  stop()
  connection.learn(`${'ab'.repeat(16)}.${'cd'.repeat(8)}`)
  t.equal(told.length, 1)
  t.equal(socket.ended.length, 1)
  await say({})
  const early = mirroring(t)
  early.connection.learn(`${'ab'.repeat(16)}.${'cd'.repeat(8)}`)
  await early.say({ type: 'subscribed', epoch: 2, history: OTHER })
  early.connection.learn(OTHER)
  t.same(await fates([early.ready]), ['pending'], 'it has nothing yet that could be void')
})

t.test('a page of its own: live, and as it was after its deletion', async (t) => {
  const { set, change, say, snapshot } = await mirrored(t)
  const page = mirrorOf<Uint8Array>(set, 'a')
  const { values } = page
  t.match(page, { name: 'a', dtype: 'u8', shape: [2], isDeleted: false, epoch: 5, isConnected: true })
  const told: number[] = []
  page.onChange(({ epoch }) => told.push(epoch))()
  page.onHistoryChange(() => told.push(-1))()
  const wait = page.until(6)
  await change(6, 9)
  t.same([await fates([wait]), [...values], told], [['reached'], [9, 2], []], 'in the same array')
  await say({ type: 'change', epoch: 7, first: 7, changes: [{ page: 'a', kind: 'deleted' }] })
  t.same([page.isDeleted, [...page.values], page.epoch], [true, [9, 2], 7])
  await snapshot(8, [1, 2, 3])
  t.same([page.isDeleted, [...page.values], page.shape], [false, [1, 2, 3], [3]])
  page.close()
  t.equal(page.isConnected, false)
  const other = await mirrored(t)
  t.throws(() => mirrorOf(other.set, 'none'), { code: 'PAGE_NOT_FOUND', status: 404 })
  t.equal(other.ended.length, 1, 'nobody could close it')
})

// --- too large for a message ---

const wholeOf = (from: number, version: number, values: number[]): WholePages => ({
  from,
  pages: [
    {
      name: 'a',
      kind: 'source',
      dtype: 'u8',
      shape: [values.length],
      epoch: version,
      version,
      values: Uint8Array.from(values),
    },
  ],
})

t.test('pages too large for a message are read one by one, and brought to one epoch', async (t) => {
  const reads: { patterns: readonly string[]; signal: AbortSignal; end: (whole: WholePages) => void }[] = []
  const all = mirroring(
    t,
    {},
    (patterns, signal) => new Promise((end) => reads.push({ patterns, signal, end })),
  )
  const { ready, tooLarge, change, snapshot } = all
  await tooLarge()
  t.same(
    reads.map(({ patterns }) => patterns),
    [['a', 'b*']],
  )
  reads[0]!.end(wholeOf(7, 9, [1, 2]))
  await turns()
  t.match(all.socket.told.at(-1), { type: 'subscribe', from: 7, policy: 'latest' })
  await change(8, 5)
  t.same(await fates([ready]), ['pending'], 'its pages belong to different epochs')
  await change(9, 6)
  const set = await ready
  t.same([set.epoch, valuesOf(set)], [9, [1, 2]], 'what it was read with is not applied again')
  await change(10, 7)
  t.same([set.epoch, valuesOf(set)], [10, [7, 2]])
  t.equal(set.isConnected, true)
  const told: unknown[] = []
  set.onChange(({ type, epoch, changes }) => told.push([type, epoch, changes.length]))
  await tooLarge()
  t.equal(set.isConnected, false)
  t.equal(reads.length, 2, 'at once: it had worked')
  reads[1]!.end(wholeOf(12, 12, [3]))
  await turns()
  t.same([set.epoch, valuesOf(set), told], [12, [3], [['snapshot', 12, 1]]], 'complete at once')
  await tooLarge()
  t.equal(reads.length, 3)
  reads[2]!.end(wholeOf(13, 15, [3]))
  await turns()
  await snapshot(14, [9, 9])
  t.same([set.epoch, valuesOf(set)], [14, [9, 9]], 'a snapshot is whole')
  await change(15, 8)
  t.same([set.epoch, valuesOf(set)], [15, [8, 9]])
})

t.test('of the changes meanwhile, each page takes those it was read before', async (t) => {
  const page = wholeOf(7, 9, [1, 2]).pages[0]!
  const whole = { from: 7, pages: [page, { ...page, name: 'b1', version: 7, values: Uint8Array.of(3, 4) }] }
  const { ready, say, tooLarge } = mirroring(t, {}, async () => whole)
  await tooLarge()
  const known = { kind: 'source', dtype: 'u8', shape: [2], ranges: [[0, 1]] }
  for (const [epoch, value] of [
    [8, 50],
    [9, 60],
  ] as const) {
    const changes = ['a', 'b1'].map((name) => ({ ...known, page: name, values: [value] }))
    await say({ type: 'change', epoch, first: epoch, changes })
  }
  const set = await ready
  t.same(
    [...set.pages].map(([name, { values }]) => [name, ...(values as Uint8Array)]),
    [
      ['a', 1, 2],
      ['b1', 60, 4],
    ],
  )
})

t.test('a listener that throws keeps the change from nobody', async (t) => {
  const { set, change } = await mirrored(t)
  const told: unknown[] = []
  const later: (() => void)[] = []
  const { restore } = t.intercept(globalThis, 'queueMicrotask', {
    value: (run: () => void) => later.push(run),
  })
  set.onChange(() => {
    throw new Error('mine')
  })
  set.onChange(({ epoch }) => told.push(epoch))
  await change(6, 1)
  await change(7, 1)
  restore()
  t.same([told, set.epoch], [[6, 7], 7])
  t.equal(later.length, 2)
  for (const run of later) t.throws(run, /mine/, 'it is uncaught')
})

t.test('a progress message completes it too', async (t) => {
  const { ready, say, tooLarge } = mirroring(t, {}, async () => wholeOf(7, 9, [1, 2]))
  await tooLarge()
  await say({ type: 'progress', epoch: 8 })
  t.same(await fates([ready]), ['pending'])
  await say({ type: 'progress', epoch: 9 })
  t.equal((await ready).epoch, 9)
})

t.test('the connection stays while the pages are read, and carries the next subscription', async (t) => {
  let read = (_whole: WholePages): void => {}
  const all = mirroring(t, {}, () => {
    return new Promise((resolve) => {
      read = resolve
    })
  })
  for (const round of [1, 2]) {
    await all.tooLarge()
    // Nothing has to arrive meanwhile.
    all.clock.pass(10 * SILENCE_MAX_MS)
    await turns()
    t.same([all.sockets.length, all.socket.ended], [1, []], `round ${round}`)
    read(wholeOf(7, 7, [1]))
    await turns()
    t.match(all.socket.told.at(-1), { type: 'subscribe', from: 7 })
    t.equal((await all.ready).isConnected, true)
    t.same([all.sockets.length, all.socket.ended], [1, []], `round ${round}`)
    t.equal(all.ended.length, 0)
  }
  all.close()
  t.same(all.socket.ended, [1000], 'nobody else holds it')
})

t.test('who waits listens to its signal no longer than it waits', async (t) => {
  for (const how of ['reached', 'closed', 'aborted']) {
    const { set, change } = await mirrored(t)
    const controller = new AbortController()
    const { signal } = controller
    const wait = set.until(6, { signal }).catch(() => {})
    t.equal(getEventListeners(signal, 'abort').length, 1)
    if (how === 'reached') await change(6, 1)
    else if (how === 'closed') set.close()
    else controller.abort()
    await wait
    t.equal(getEventListeners(signal, 'abort').length, 0, how)
  }
})

t.test('pages that are too large again and again are read later each time', async (t) => {
  t.intercept(Math, 'random', { value: () => 1 })
  let reads = 0
  const { tooLarge, clock, ended, close, ready } = mirroring(t, {}, async () => {
    reads++
    return wholeOf(7, 9, [1])
  })
  await tooLarge()
  t.equal(reads, 1)
  for (const waitMs of [200, 400, 800]) {
    const before = reads
    await tooLarge()
    clock.pass(waitMs - 1)
    await turns()
    t.equal(reads, before)
    clock.pass(1)
    await turns()
    t.equal(reads, before + 1)
  }
  await tooLarge()
  close()
  await turns()
  t.same(await fates([ready]), ['CLOSED'])
  t.equal(ended.length, 1)
  clock.pass(10_000)
  t.equal(reads, 4, 'the wait has ended with the mirror')
})

t.test('what ends it while its pages are read', async (t) => {
  const failing = mirroring(t, {}, () => Promise.reject(new MmsbError({ code: 'NETWORK', detail: '' })))
  await failing.tooLarge()
  t.same(await fates([failing.ready]), ['NETWORK'])
  t.same(failing.socket.ended, [1000], 'nothing holds the connection')
  let signal: AbortSignal | undefined
  let end = (_whole: WholePages): void => {}
  const closed = mirroring(t, {}, (_patterns, given) => {
    signal = given
    return new Promise((resolve) => {
      end = resolve
    })
  })
  await closed.tooLarge()
  closed.close()
  t.equal(signal!.aborted, true)
  end(wholeOf(7, 7, [1]))
  await turns()
  t.same(await fates([closed.ready]), ['CLOSED'])
  t.same(closed.socket.ended, [1000])
  t.equal(closed.socket.told.filter(({ type }) => type === 'subscribe').length, 1, 'no other subscription')
  const refused = mirroring(t, {}, () => new Promise(() => {}))
  await refused.tooLarge()
  refused.connection.failAll(new MmsbError({ code: 'FORBIDDEN', detail: '' }))
  t.same(await fates([refused.ready]), ['FORBIDDEN'])
})

t.test('wrong patterns and options', (t) => {
  const deps = {} as MirrorDeps
  for (const [patterns, options, detail] of [
    ['a', {}, /^patterns: "a"/],
    [['a', 5], {}, /^patterns\[1\]: 5/],
    [['a'], { maxRate: 0 }, /^maxRate: 0/],
    [['a'], { signal: 5 }, /^signal: 5/],
    [['a'], { odd: 5 }, /^odd/],
  ] as const)
    t.throws(() => mirrorSetOf(deps, patterns as unknown as [], options as object), {
      code: 'INVALID_REQUEST',
      detail,
    })
  t.end()
})
