/**
 * Which executions go to another thread, which are kept so that they can be taken back, and what is noted.
 */
import t from 'tap'
import { Executor } from '../../../src/engine/commit/executor.js'
import { StageTimings } from '../../../src/engine/stage-timings.js'
import type { ExecuteResult, NativeContext } from '../../../src/ffi/context.js'
import type { Plan } from '../../../src/graph/graph.js'
import { PLAN_ASYNC_THRESHOLD_NS } from '../../../src/limits.js'

const planOf = (fields: Partial<Plan>): Plan =>
  ({ steps: Uint32Array.of(1), pages: [], costNs: 0, observedNs: 0, ...fields }) as Plan

/** A context that writes down what it is told. */
function bench({ keepsOverwritten = true, hasThreads = true, executions = undefined as never } = {}) {
  const calls: string[] = []
  const result = { execNs: 400 } as ExecuteResult
  const context = {
    keepsOverwritten,
    keep: (on: boolean) => calls.push(`keep ${on}`),
    cancel: (on: boolean) => calls.push(`cancel ${on}`),
    undo: (steps: Uint32Array) => calls.push(`undo ${[...steps]}`),
    execute: (steps: Uint32Array, frames: Uint8Array) => {
      calls.push(`execute ${[...steps]} ${frames.length}`)
      return result
    },
    executeAsync: async (steps: Uint32Array, frames: Uint8Array) => {
      calls.push(`start ${[...steps]} ${frames.length}`)
      return result
    },
    waitSync: () => {
      calls.push('wait')
      return result
    },
  } as unknown as NativeContext
  const timings = new StageTimings()
  const executor = new Executor(context, timings, { hasThreads, executions })
  executor.observer = { absorb: () => calls.push('absorb'), saveWhole: () => {} }
  return { executor, calls, result, timings, said: () => calls.splice(0).join('; ') }
}

const NONE = new Uint8Array(0)

t.test('what is estimated to take long goes to another thread', async (t) => {
  const { executor } = bench()
  const at = PLAN_ASYNC_THRESHOLD_NS
  t.notOk(executor.needsThread(planOf({ costNs: at }), NONE))
  t.ok(executor.needsThread(planOf({ costNs: at + 1 }), NONE))
  t.notOk(executor.needsThread(planOf({ costNs: at + 1, observedNs: at }), NONE), 'as it was seen before')
  t.ok(executor.needsThread(planOf({ costNs: 1, observedNs: at + 1 }), NONE))
  t.notOk(executor.needsThread(planOf({}), new Uint8Array(2 * at)))
  t.ok(executor.needsThread(planOf({}), new Uint8Array(2 * at + 2)))
  t.ok(executor.needsThread(planOf({}), new Uint8Array(at), at + 2), 'new pages count like frames')
  t.notOk(executor.needsThread(planOf({}), new Uint8Array(at), at))
  t.ok(executor.needsThread(planOf({ costNs: at }), new Uint8Array(2)), 'all of it together')
  const { executor: single } = bench({ hasThreads: false })
  t.notOk(single.needsThread(planOf({ costNs: 1e12 }), NONE))
})

t.test('a host may decide otherwise', async (t) => {
  let ended = 0
  const executions = {
    goesToThread: () => true,
    ended: (execution: Promise<ExecuteResult>) => {
      ended++
      return execution
    },
  }
  const { executor, result } = bench({ hasThreads: false, executions: executions as never })
  t.ok(executor.needsThread(planOf({}), NONE))
  t.equal(await executor.start(planOf({}), NONE), result)
  t.equal(ended, 1)
})

t.test('on this thread', async (t) => {
  const { executor, said, result, timings } = bench()
  const plan = planOf({ steps: Uint32Array.of(7, 8) })
  t.equal(executor.run(plan, new Uint8Array(3)), result)
  t.equal(said(), 'execute 7,8 3; absorb')
  t.equal(plan.observedNs, 400)
  executor.run({ ...plan, steps: new Uint32Array(0) } as Plan, NONE)
  t.equal(said(), 'execute  0; absorb')
  t.equal(timings.summary().execute.count, 2)
})

t.test('what was seen is a running mean', async (t) => {
  const { executor, result } = bench()
  const plan = planOf({ observedNs: 800 })
  executor.noteEnd(plan, result)
  t.equal(plan.observedNs, 700)
})

t.test('on another thread, kept or not', async (t) => {
  const { executor, said, result } = bench()
  const plan = planOf({ steps: Uint32Array.of(5) })
  t.equal(await executor.start(plan, new Uint8Array(2)), result)
  t.equal(said(), 'start 5 2')
  await executor.start(plan, NONE, true)
  t.equal(said(), 'keep true; start 5 0', 'kept from its start on')
  executor.noteEnd(plan, result, true)
  t.equal(said(), 'absorb; keep false', 'observed before it is forgotten')
  executor.noteEnd(plan, result)
  t.equal(said(), 'absorb')
  t.equal(executor.waitSync(true), result)
  t.equal(said(), 'wait; absorb; keep false')
  executor.waitSync()
  t.equal(said(), 'wait; absorb')
  executor.cancel()
  t.equal(said(), 'cancel true')
  executor.takeBack(plan)
  t.equal(said(), 'cancel false; undo 5; keep false')
  executor.forgetCancel()
  t.equal(said(), 'cancel false')
  executor.observer = undefined
  executor.noteEnd(plan, result)
  t.equal(said(), '')
})

t.test('only what may take long, and overwrites little, is kept', async (t) => {
  const { executor } = bench()
  const MiB = 1024 ** 2
  const keeps = (costMs: number, maxMs: number, overwritten = 0): boolean =>
    executor.mustKeep(planOf({ costNs: costMs * 1e6 }), maxMs, () => overwritten)
  t.notOk(keeps(100, 10_000), 'four times as much as 100 ms is not above 400')
  t.ok(keeps(100.001, 10_000))
  t.notOk(keeps(25, 100))
  t.ok(keeps(25.001, 100))
  t.ok(keeps(1_000, 10_000, 512 * MiB))
  t.notOk(keeps(1_000, 10_000, 512 * MiB + 1))
  const { executor: device } = bench({ keepsOverwritten: false })
  t.notOk(
    device.mustKeep(planOf({ costNs: 1e12 }), 1, () => 0),
    'a device keeps nothing',
  )
})
