/**
 * A dry run shows what would be and leaves nothing behind: on this thread or another one, where overwritten
 * bytes are kept and where they are not, whether it ends, fails, or is cancelled.
 */
import { getEventListeners } from 'node:events'
import t, { type Test } from 'tap'
import { pendingOfDelta } from '../../../src/engine/commands/transactions.js'
import { type DryRun, DryRuns } from '../../../src/engine/commit/dry-run.js'
import { Executor } from '../../../src/engine/commit/executor.js'
import { IdleGate } from '../../../src/engine/commit/idle-gate.js'
import { Lifecycle } from '../../../src/engine/commit/lifecycle.js'
import { CostLimits } from '../../../src/engine/pages/cost-limits.js'
import type { EngineState } from '../../../src/engine/pages/engine-state.js'
import { StageTimings } from '../../../src/engine/stage-timings.js'
import type { NativeContext } from '../../../src/ffi/context.js'
import { LimitGuard, type Limits } from '../../../src/operator-limits.js'
import type { Sliced } from '../../../src/slices.js'
import { type Definitions, stateWith } from '../../lib/engine-state.js'
import { turn } from '../../lib/wait.js'

const PAGES = {
  x: { dtype: 'i32', shape: [2], fill: 1 },
  none: { dtype: 'i32', shape: [0] },
  twice: { derive: { op: 'map' as const, inputs: { x: 'x' }, expr: 'x * 2' } },
} as const

interface Options {
  /** The backend keeps what it overwrites. */
  readonly keeps?: boolean
  readonly onThread?: boolean
  readonly limits?: Partial<Limits>
  readonly pages?: Definitions
}

class Bench {
  readonly lifecycle = new Lifecycle()
  readonly stopped: string[] = []
  readonly runs: DryRuns
  readonly context: NativeContext
  undoError: Error | undefined
  #noticed: Promise<void> | undefined
  isIdle = true
  readonly gate = new IdleGate({ isIdle: () => this.isIdle && !this.runs.isRunning, onRelease: () => {} })

  constructor(
    readonly state: EngineState,
    { keeps = true, onThread = false, limits = {} }: Options,
  ) {
    this.context = new Proxy(state.context, {
      get: (target, key) => {
        if (key === 'keepsOverwritten') return keeps
        if (key === 'undo' && this.undoError !== undefined) {
          return () => {
            throw this.undoError
          }
        }
        const value = Reflect.get(target, key, target) as unknown
        return typeof value === 'function' ? value.bind(target) : value
      },
    })
    const executions = {
      goesToThread: () => onThread,
      ended: async <T>(execution: Promise<T>): Promise<T> => {
        const result = await execution
        await this.#noticed
        return result
      },
    }
    this.runs = new DryRuns({
      context: this.context,
      executor: new Executor(this.context, new StageTimings(), { hasThreads: true, executions }),
      gate: this.gate,
      lifecycle: this.lifecycle,
      costs: new CostLimits(new LimitGuard(limits), (id) => `#${id}`),
      ticksMs: () => performance.now(),
      stop: (error) => {
        this.stopped.push((error as Error).message)
        this.lifecycle.fail(error)
      },
    })
  }

  /** From now on the end of an execution is noticed only after the function that this returns was called. */
  hide(): () => void {
    let show: () => void = () => {}
    this.#noticed = new Promise((resolve) => {
      show = resolve
    })
    return show
  }

  value(name: string): number {
    const out = new Int32Array(1)
    this.state.context.readPage(this.state.registry.require(name).id, 0, out)
    return out[0]!
  }

  /** A dry run that writes 5 to x and reads `twice`. */
  prepare(changes: Partial<DryRun<number>> = {}): Omit<DryRun<number>, 'context'> {
    const { registry, graph } = this.state
    const x = registry.require('x')
    const pending = pendingOfDelta(x, { offset: 0, values: [5] }, {})
    const read = (): number => this.value('twice')
    return {
      plan: graph.plan([x.id]),
      frames: pending.frame,
      roots: [registry.require('none'), x],
      isLarge: false,
      *collect(): Sliced<number> {
        yield
        return read()
      },
      ...changes,
    }
  }
}

const bench = async (t: Test, options: Options = {}): Promise<Bench> =>
  new Bench(await stateWith(t, options.pages ?? PAGES), options)

/** Nothing of it is left, and the next one and the next epoch are as ever. */
async function isClean(t: Test, b: Bench, digest: Uint8Array): Promise<void> {
  t.same(b.state.context.stateDigest(), digest)
  t.same([b.value('x'), b.value('twice'), b.state.registry.require('x').version], [1, 2, 1])
  t.notOk(b.runs.isRunning)
  t.notOk(b.gate.isHeld)
  t.equal(await b.runs.run(() => b.prepare()), 10)
  t.same(b.state.context.stateDigest(), digest)
}

for (const keeps of [true, false]) {
  for (const onThread of [false, true]) {
    const what = `${keeps ? 'kept' : 'computed again'}, on ${onThread ? 'another' : 'this'} thread`
    t.test(`it shows what would be, and is undone: ${what}`, async (t) => {
      const b = await bench(t, { keeps, onThread })
      const digest = b.state.context.stateDigest()
      t.equal(await b.runs.run(() => b.prepare()), 10)
      await isClean(t, b, digest)
      const failing = b.prepare({
        *collect(): Sliced<number> {
          yield
          throw new Error('cannot be read')
        },
      })
      await t.rejects(
        b.runs.run(() => failing),
        { message: 'cannot be read' },
      )
      await isClean(t, b, digest)
      t.equal(await b.runs.run(() => b.prepare({ isLarge: true })), 10, 'a large one')
      await isClean(t, b, digest)
      t.same(b.stopped, [])
    })
  }
}

t.test('where nothing is kept, pages that read the past cannot be undone', async (t) => {
  const pages = { ...PAGES, old: { derive: { op: 'map' as const, inputs: { x: { prev: 'x' } }, expr: 'x' } } }
  const b = await bench(t, { keeps: false, pages })
  const digest = b.state.context.stateDigest()
  await t.rejects(
    b.runs.run(() => b.prepare()),
    { code: 'UNSUPPORTED_LOCATION' },
  )
  t.same(b.state.context.stateDigest(), digest)
  const kept = await bench(t, { pages })
  t.equal(await kept.runs.run(() => kept.prepare()), 10)
})

t.test('one that cannot be undone stops the bus', async (t) => {
  for (const onThread of [false, true]) {
    const b = await bench(t, { onThread })
    b.undoError = new Error('lost')
    await t.rejects(
      b.runs.run(() => b.prepare()),
      { code: 'BUS_FAILED' },
    )
    t.same(b.stopped, ['a dry run could not be undone: lost'])
    t.notOk(b.runs.isRunning)
    await t.rejects(
      b.runs.run(() => b.prepare()),
      { code: 'BUS_FAILED' },
    )
    t.equal(b.stopped.length, 1)
  }
})

t.test('what costs too much is not begun', async (t) => {
  const b = await bench(t, { limits: { maxCommitCostMs: 1e-9 } })
  await t.rejects(
    b.runs.run(() => b.prepare()),
    { code: 'COST_EXCEEDED' },
  )
})

t.test('it waits until no epoch is in flight, and is prepared then', async (t) => {
  const b = await bench(t)
  b.isIdle = false
  let prepared = 0
  const run = b.runs.run(() => {
    prepared++
    return b.prepare()
  })
  await turn()
  t.equal(prepared, 0)
  b.isIdle = true
  b.gate.wake()
  t.equal(await run, 10)
  b.isIdle = false
  const late = b.runs.run(() => b.prepare())
  b.lifecycle.beginClose()
  b.gate.wake()
  await t.rejects(late, { code: 'BUS_FAILED' }, 'the bus closes')
})

t.test('a synchronous read ends the one on another thread at once', async (t) => {
  const b = await bench(t, { onThread: true })
  const digest = b.state.context.stateDigest()
  b.runs.settle()
  const show = b.hide()
  const run = b.runs.run(() => b.prepare())
  while (!b.runs.isRunning) await turn()
  t.ok(b.gate.isHeld, 'no epoch starts meanwhile')
  b.runs.settle()
  t.notOk(b.runs.isRunning)
  t.same(b.state.context.stateDigest(), digest)
  show()
  t.equal(await run, 10)
  await isClean(t, b, digest)
})

t.test('one whose caller leaves is cancelled and undone', async (t) => {
  for (const when of ['before it starts', 'while it runs', 'by the bus'] as const) {
    const b = await bench(t, { onThread: true })
    const digest = b.state.context.stateDigest()
    const show = b.hide()
    const left = new AbortController()
    const run = b.runs.run(() => b.prepare(), left.signal)
    run.catch(() => {})
    if (when === 'before it starts') left.abort()
    else {
      while (!b.runs.isRunning) await turn()
      if (when === 'by the bus') b.runs.cancel()
      else left.abort()
    }
    show()
    await t.rejects(run, { code: 'COST_EXCEEDED' }, when)
    t.equal(getEventListeners(left.signal, 'abort').length, 0)
    await isClean(t, b, digest)
    left.abort()
    await isClean(t, b, digest)
  }
  const b = await bench(t, { onThread: true })
  const later = new AbortController()
  t.equal(await b.runs.run(() => b.prepare(), later.signal), 10)
  t.equal(getEventListeners(later.signal, 'abort').length, 0)
  const show = b.hide()
  const next = b.runs.run(() => b.prepare())
  while (!b.runs.isRunning) await turn()
  later.abort()
  show()
  t.equal(await next, 10, 'one that has ended does not cancel the next')
})
