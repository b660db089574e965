/**
 * A request about the past ends within an epoch, in the middle of a step: when its caller leaves, when it
 * takes too long, and when the bus closes.
 */
import t from 'tap'
import { EngineBus } from '../../../src/engine/bus.js'
import { MmsbError } from '../../../src/errors.js'
import { folder } from '../../lib/folder.js'
import { shortestMs, sleep } from '../../lib/wait.js'

const NO_COST_LIMITS = { maxStepCostMs: 86_400_000, maxCommitCostMs: 86_400_000 }
/** Side of x: its conv with itself is one step of a second or two. */
const SIDE = 220

t.setTimeout(120_000)

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
