/**
 * Callers share the past: they take turns, their requests are bounded, and nobody waits for a verification. A
 * request ends within an epoch, in the middle of a step: when its caller leaves, when it takes too long, and
 * when the bus closes.
 */
import t, { type Test } from 'tap'
import { EngineBus } from '../../../src/engine/bus.js'
import { Bus, MmsbError } from '../../../src/index.js'
import { folder } from '../../lib/folder.js'
import { shortestMs, sleep } from '../../lib/wait.js'

t.setTimeout(120_000)

type Limits = NonNullable<NonNullable<Parameters<typeof Bus.open>[0]>['limits']>

/** A bus whose every epoch takes some milliseconds to replay. */
async function slowBus(t: Test, epochs: number, limits: Limits = {}): Promise<Bus> {
  const bus = await Bus.open({ dataDir: folder(t), backend: 'cpu', threads: 1, fsync: 'off', limits })
  t.teardown(() => bus.close())
  await bus.create('x', { dtype: 'f64', shape: [160, 160], fill: 1 })
  await bus.derive('m', { op: 'matmul', inputs: { a: 'x', b: 'x' } })
  for (let i = 0; i < epochs; i++)
    await bus.patch('x', { offset: 0, values: new Float64Array(25_600).fill(i) })
  return bus
}

/** The code of the error, or 'answered'. */
const outcomeOf = (request: Promise<unknown>): Promise<string> =>
  request.then(
    () => 'answered',
    (error: { code: string }) => error.code,
  )

t.test('one caller with many requests delays another by one request', async (t) => {
  const bus = await slowBus(t, 20, { maxPastRequestsPerConnection: 1_000 })
  let served = 0
  const crowd = {}
  const many = Array.from({ length: 24 }, (_, i) =>
    bus.data('m', { epoch: i % 2 === 0 ? 3 : 21, caller: crowd }).then(() => {
      served++
    }),
  )
  await bus.data('x', { epoch: 10, caller: 'polite' })
  t.ok(served <= 3, `${served} requests of the crowd came first`)
  await Promise.all(many)
})

t.test('waiting requests are bounded, in all and of each caller', async (t) => {
  const bus = await slowBus(t, 5, { maxPastRequests: 8, maxPastRequestsPerConnection: 3 })
  const ask = (caller?: object | string): Promise<string> =>
    outcomeOf(bus.data('m', { epoch: 4, ...(caller === undefined ? {} : { caller }) }))
  const [a, b] = [{}, 'b']
  const running = ask('first')
  const ofA = [ask(a), ask(a), ask(a), ask(a)]
  const ofB = [ask(b), ask(b), ask(b), ask(b)]
  const ofProgram = [ask(), ask(), ask(), ask()]
  t.same(await Promise.all(ofA), ['answered', 'answered', 'answered', 'OVERLOADED'])
  t.same(await Promise.all(ofB), ['answered', 'answered', 'answered', 'OVERLOADED'])
  t.same(await Promise.all(ofProgram), ['answered', 'answered', 'OVERLOADED', 'OVERLOADED'])
  t.equal(await running, 'answered')
  const refusals = new Map(bus.limits.refusals())
  t.equal(refusals.get('maxPastRequestsPerConnection'), 2)
  t.equal(refusals.get('maxPastRequests'), 2)
})

t.test('a replay has a time limit, and the next try goes on from there', async (t) => {
  const bus = await slowBus(t, 60, { maxReplayTimeMs: 40 })
  const { epoch } = bus
  await t.rejects(bus.data('m', { epoch: epoch - 1 }), {
    code: 'COST_EXCEEDED',
    extra: { limitMs: 40, limit: '--max-replay-time' },
  })
  let tries = 1
  while ((await outcomeOf(bus.data('m', { epoch: epoch - 1 }))) === 'COST_EXCEEDED' && tries < 200) tries++
  t.equal((await bus.data('m', { epoch: epoch - 1 })).values[0], 160 * 58 * 58)
  t.match(await bus.verify(), { ok: true }, 'a verification has no such limit')
})

t.test('reads do not wait for verifications, and these end with their caller', async (t) => {
  const bus = await slowBus(t, 90)
  const controller = new AbortController()
  const order: string[] = []
  const verifications = [1, 2, 3].map((i) =>
    outcomeOf(bus.verify({}, { signal: controller.signal, caller: `v${i}` })).then((outcome) => {
      order.push(outcome)
    }),
  )
  await bus.data('x', { epoch: 4 })
  order.push('read')
  controller.abort()
  await Promise.all(verifications)
  // The first verification may be done before the read on a busy machine; the others wait their turn.
  t.ok(order.indexOf('read') <= 1, order.join(' '))
  t.same(order.slice(2), ['INVALID_REQUEST', 'INVALID_REQUEST'])
})

t.test('past changes come as they are replayed, to all readers in turn', async (t) => {
  const bus = await slowBus(t, 90)
  const query = { to: bus.epoch, pages: ['m'], values: false }
  await bus.pastChanges({ ...query, after: 0, to: 1 }, { caller: 'warm' })
  const pieces: string[] = []
  const read = async (name: string, after: number): Promise<number[]> => {
    const epochs: number[] = []
    for (let at = after; at < query.to; ) {
      const piece = await bus.pastChanges({ ...query, after: at }, { caller: name })
      at = piece.through
      epochs.push(...piece.epochs.map(({ epoch }) => epoch))
      if (piece.epochs.length > 0) pieces.push(name)
    }
    return epochs
  }
  const [early, late] = await Promise.all([read('early', 1), read('late', 40)])
  t.same(
    early,
    Array.from({ length: query.to - 1 }, (_, i) => i + 2),
  )
  t.same(
    late,
    Array.from({ length: query.to - 40 }, (_, i) => i + 41),
  )
  const counts = (name: string): number => pieces.filter((piece) => piece === name).length
  // How many pieces there are depends on the machine.
  t.ok(counts('early') >= 2 && counts('late') >= 1, `in pieces: ${pieces.join(' ')}`)
  t.ok(pieces.indexOf('late') < pieces.lastIndexOf('early'), `in turn: ${pieces.join(' ')}`)
})

// ---- within a step ----------------------------------------------------------------------------------------

const NO_COST_LIMITS = { maxStepCostMs: 86_400_000, maxCommitCostMs: 86_400_000 }
/** Side of x: its conv with itself is one step of a second or two. */
const SIDE = 220

const dataDir = folder(t)
/** How long the step took when it was committed, with as many threads as a replay has. */
let stepMs = 0

t.before(async () => {
  const bus = await EngineBus.open({ dataDir, backend: 'cpu', threads: 1, limits: NO_COST_LIMITS })
  await bus.create('x', { dtype: 'f64', shape: [SIDE, SIDE], fill: 1 })
  const startedMs = performance.now()
  await bus.derive('y', { op: 'conv', inputs: { x: 'x', kernel: 'x' }, boundary: 'wrap' })
  stepMs = performance.now() - startedMs
  await bus.create('z', { dtype: 'u8', shape: [1] })
  // Opening need not compute it again; a replay to epoch 2 must.
  await bus.checkpoint()
  await bus.close()
})

const codeOf = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => 'done',
    (error: unknown) => (error instanceof MmsbError ? error.code : error),
  )

t.test('when its caller leaves', async (t) => {
  const bus = await EngineBus.open({ dataDir, backend: 'cpu', limits: NO_COST_LIMITS })
  t.teardown(() => bus.close())
  const requests: Record<string, (signal: AbortSignal) => Promise<unknown>> = {
    read: (signal) => bus.data('y', { epoch: 2, signal }),
    diff: (signal) => bus.diff({ from: 1, to: 2 }, { signal }),
    epoch: (signal) => bus.epochInfo(2, { signal }),
    verify: (signal) => bus.verify({}, { signal }),
  }
  for (const [name, ask] of Object.entries(requests)) {
    const endsMs = await shortestMs(stepMs / 2, async () => {
      // The thread and its state are ready.
      await bus.data('x', { epoch: 1 })
      const controller = new AbortController()
      const asked = codeOf(ask(controller.signal))
      await sleep(stepMs / 8)
      const leftMs = performance.now()
      controller.abort()
      t.equal(await asked, 'INVALID_REQUEST', name)
      t.equal((await bus.data('x', { epoch: 1 })).version, 1)
      return performance.now() - leftMs
    })
    t.ok(endsMs < stepMs / 2, `${name} ends soon, and the next request need not wait`)
  }
  t.equal((await bus.epochInfo(2)).epoch, 2, 'and what was cancelled can be asked again')
})

t.test('when it takes too long', async (t) => {
  const limits = { ...NO_COST_LIMITS, maxReplayTimeMs: Math.ceil(stepMs / 10) }
  const bus = await EngineBus.open({ dataDir, backend: 'cpu', limits })
  t.teardown(() => bus.close())
  let refusals = 0
  const endsMs = await shortestMs(stepMs, async () => {
    const startedMs = performance.now()
    t.equal(await codeOf(bus.data('y', { epoch: 2 })), 'COST_EXCEEDED')
    refusals++
    return performance.now() - startedMs
  })
  t.ok(endsMs < stepMs, 'within the step')
  t.match(
    bus.limits.refusals().find(([name]) => name === 'maxReplayTimeMs'),
    ['maxReplayTimeMs', refusals],
  )
  t.equal((await bus.data('x', { epoch: 1 })).version, 1, 'others go on')
})

t.test('when the bus closes', async (t) => {
  const endsMs = await shortestMs(stepMs / 2, async () => {
    const bus = await EngineBus.open({ dataDir, backend: 'cpu', limits: NO_COST_LIMITS })
    const asked = codeOf(bus.data('y', { epoch: 2 }))
    const verified = codeOf(bus.verify())
    await sleep(stepMs / 8)
    const startedMs = performance.now()
    await bus.close()
    t.same([await asked, await verified], ['BUS_FAILED', 'BUS_FAILED'])
    return performance.now() - startedMs
  })
  t.ok(endsMs < stepMs / 2)
})
