/**
 * The small parts of a commit: which executions go to another thread and which can be taken back, waiting for
 * idle moments and holding them, and how a bus ends.
 */
import t from 'tap'
import { Executor } from '../../../src/engine/commit/executor.js'
import { IdleGate } from '../../../src/engine/commit/idle-gate.js'
import { Lifecycle } from '../../../src/engine/commit/lifecycle.js'
import { StageTimings } from '../../../src/engine/stage-timings.js'
import type { ExecuteResult, NativeContext } from '../../../src/ffi/context.js'
import type { Plan } from '../../../src/graph/graph.js'
import { PLAN_ASYNC_THRESHOLD_NS } from '../../../src/limits.js'
import { turn } from '../../lib/wait.js'

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

// ---- waiting and holding ----------------------------------------------------------------------------------

function gateOf() {
  const order: string[] = []
  const state = { isIdle: false }
  const gate = new IdleGate({ isIdle: () => state.isIdle, onRelease: () => order.push('released') })
  const note = (what: string) => () => {
    order.push(what)
  }
  return { gate, order, state, note }
}

t.test('between: now, or when it is woken', async (t) => {
  const { gate, order, state, note } = gateOf()
  gate.between(note('later'))
  t.ok(gate.hasWaiters)
  t.same(order, [])
  state.isIdle = true
  gate.between(note('now'))
  t.same(order, ['now'])
  gate.wake()
  t.same(order, ['now', 'later'])
  t.notOk(gate.hasWaiters)
  gate.wake()
  t.same(order, ['now', 'later'], 'once')
})

t.test('idle and next', async (t) => {
  const { gate, order, state, note } = gateOf()
  void gate.idle().then(note('idle'))
  void gate.next().then(note('next'))
  await turn()
  t.same(order, [])
  gate.wake()
  await turn()
  t.same(order, ['idle', 'next'])
  state.isIdle = true
  void gate.idle().then(note('idle at once'))
  void gate.next().then(note('next one'))
  await turn()
  t.same(order.slice(2), ['idle at once'])
  gate.wake()
  await turn()
  t.equal(order.at(-1), 'next one')
})

t.test('one that waits again while it is woken is woken the next time', async (t) => {
  const { gate } = gateOf()
  let count = 0
  const again = (): void => {
    count++
    gate.between(again)
  }
  gate.between(again)
  gate.wake()
  t.equal(count, 1)
  gate.wake()
  t.equal(count, 2)
})

t.test(
  'a hold waits until it is idle, and the next for the one before, whether it fails or not',
  async (t) => {
    const { gate, order, state } = gateOf()
    let end: () => void = () => {}
    const first = gate.hold(async () => {
      order.push('first')
      await new Promise<void>((resolve) => {
        end = resolve
      })
      throw new Error('broken')
    })
    const second = gate.hold(async () => {
      order.push('second')
      return 2
    })
    t.ok(gate.isHeld, 'from the call on')
    await turn()
    gate.wake()
    await turn()
    t.same(order, [], 'it is not idle yet')
    state.isIdle = true
    gate.wake()
    await turn()
    t.same(order, ['first'])
    end()
    await t.rejects(first, { message: 'broken' })
    t.equal(await second, 2)
    t.same(order, ['first', 'released', 'second', 'released'])
    t.notOk(gate.isHeld)
  },
)

t.test('a pause holds, and waits for nothing', async (t) => {
  const { gate, order } = gateOf()
  gate.pause()
  gate.pause()
  gate.resume()
  t.ok(gate.isHeld)
  gate.resume()
  t.notOk(gate.isHeld)
  t.same(order, [])
})

// ---- lifecycle --------------------------------------------------------------------------------------------

/** What a bus in this state answers: writes, reads. */
function answers(lifecycle: Lifecycle): string[] {
  const ask = (refuse: () => void): string => {
    try {
      refuse()
      return 'fine'
    } catch (error) {
      return `${(error as { code: string }).code} ${(error as Error).message}`
    }
  }
  return [
    String(lifecycle.isWritable),
    ask(() => lifecycle.refuseWrites()),
    ask(() => lifecycle.refuseWhenStopped()),
    ask(() => lifecycle.refuseWhenFailed()),
  ]
}

t.test('a bus that runs, is read-only, closes, is closed', async (t) => {
  const lifecycle = new Lifecycle()
  t.same(answers(lifecycle), ['true', 'fine', 'fine', 'fine'])
  t.notOk(lifecycle.isReadOnly)
  const only = new Lifecycle()
  only.beReadOnly()
  t.ok(only.isReadOnly)
  const [writable, write, ...reads] = answers(only)
  t.same([writable, reads], ['false', ['fine', 'fine']])
  t.match(write, /^READ_ONLY /)
  lifecycle.beginClose()
  const closing = 'BUS_FAILED The bus is closing.'
  t.same(answers(lifecycle), ['false', closing, closing, 'fine'], 'reads go on')
  lifecycle.endClose()
  const closed = 'BUS_FAILED The bus has stopped: the bus is closed'
  t.same(answers(lifecycle), ['false', closed, closed, closed])
})

t.test('the first failure stays', async (t) => {
  const lifecycle = new Lifecycle()
  const told: string[] = []
  const end = lifecycle.onFailure((reason) => told.push(`ended ${reason}`))
  lifecycle.onFailure((reason) => told.push(reason))
  end()
  t.equal(lifecycle.failure, undefined)
  t.ok(lifecycle.fail(new Error('disk')))
  t.notOk(lifecycle.fail('other'))
  lifecycle.endClose()
  t.equal(lifecycle.failure, 'disk')
  t.same(told, [], 'nobody is told before it is cleaned up')
  lifecycle.tellFailure()
  t.same(told, ['disk'])
  const stopped = 'BUS_FAILED The bus has stopped: disk'
  t.same(answers(lifecycle), ['false', stopped, stopped, stopped])
  const other = new Lifecycle()
  other.fail('a text')
  t.equal(other.failure, 'a text')
})
