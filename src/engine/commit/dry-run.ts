/**
 * Dry runs: deltas are applied and propagated in the live context, the result is read, and everything is
 * undone. The cost is that of the pages derived from the written ones, not of the whole state.
 *
 * Invariants: the caller has the context to itself from start to end. Afterwards every byte, digest and kept
 * partial result is as before, and the result of the newest epoch can still be read. Nothing is logged and no
 * version moves. If the run cannot be undone, the bus stops, because its context no longer holds the newest
 * epoch.
 */
import { MmsbError } from '../../errors.js'
import { type ExecuteResult, isBeforeStep, type NativeContext } from '../../ffi/context.js'
import { ExecutionCancelled } from '../../ffi/library.js'
import type { Plan } from '../../graph/graph.js'
import { FrameWriter } from '../../state/frame/writer.js'
import { DTYPE_INFO } from '../../wire/dtype.js'
import type { CostLimits } from '../pages/cost-limits.js'
import type { PageRecord } from '../pages/registry.js'
import type { Executor } from './executor.js'
import type { IdleGate } from './idle-gate.js'
import type { Lifecycle } from './lifecycle.js'

/** The dry run could not be undone: the context no longer holds the newest epoch. */
class DryRunLost extends Error {}

export interface DryRun<T> {
  readonly context: NativeContext
  readonly plan: Plan
  readonly frames: Uint8Array
  /** The source pages that the frames write. */
  readonly roots: readonly PageRecord[]
  /** Reads the state as it would be. */
  readonly collect: (result: ExecuteResult) => T
}

export interface DryRunsDeps {
  readonly context: NativeContext
  readonly executor: Executor
  readonly gate: IdleGate
  readonly lifecycle: Lifecycle
  readonly costs: CostLimits
  /** The context is lost. */
  readonly stop: (error: unknown) => void
}

/** The dry runs of a bus, one at a time. */
export class DryRuns {
  readonly #deps: DryRunsDeps
  /** The one on another thread; it has the context to itself until it ends. */
  #running: Pick<StartedDryRun<unknown>, 'settle'> | undefined

  constructor(deps: DryRunsDeps) {
    this.#deps = deps
  }

  get isRunning(): boolean {
    return this.#running !== undefined
  }

  /** Ends the dry run on the other thread now: waits for it and undoes it. */
  settle(): void {
    this.#running?.settle()
  }

  /** Cancels the dry run on the other thread; it undoes itself soon. */
  cancel(): void {
    if (this.#running !== undefined) this.#deps.context.cancel(true)
  }

  /** See Committer.dryRun. */
  async run<T>(prepare: () => Omit<DryRun<T>, 'context'>, signal?: AbortSignal): Promise<T> {
    const { context, executor, gate, lifecycle, costs, stop } = this.#deps
    await gate.idle()
    lifecycle.refuseWhenStopped()
    const dryRun = { context, ...prepare() }
    const refusal = costs.refusal(dryRun.plan)
    if (refusal !== undefined) throw refusal
    try {
      if (!executor.needsThread(dryRun.plan, dryRun.frames)) return runDry(dryRun)
      return await gate.hold(async () => {
        // Reads that waited for the same epoch run before the dry run takes the context.
        await new Promise((resolve) => setImmediate(resolve))
        lifecycle.refuseWhenStopped()
        if (signal?.aborted === true) throw callerLeft()
        return this.#start({ context, ...prepare() }, signal)
      })
    } catch (error) {
      if (!(error instanceof DryRunLost)) throw error
      stop(error)
      throw lifecycle.stoppedError()
    }
  }

  async #start<T>(dryRun: DryRun<T>, signal: AbortSignal | undefined): Promise<T> {
    const started = startDry(dryRun, () => {
      this.#running = undefined
      this.#deps.gate.wake()
    })
    this.#running = started
    const onAbort = (): void => {
      if (this.#running === started) this.cancel()
    }
    signal?.addEventListener('abort', onAbort, { once: true })
    try {
      return await started.done
    } catch (error) {
      throw error instanceof ExecutionCancelled ? callerLeft() : error
    } finally {
      signal?.removeEventListener('abort', onAbort)
    }
  }
}

const callerLeft = (): MmsbError =>
  new MmsbError('COST_EXCEEDED', 'The what-if was cancelled: its caller has left, or the bus stops.')

/** Does a dry run on this thread. */
function runDry<T>(dryRun: DryRun<T>): T {
  const { context, plan, frames } = dryRun
  const undo = begin(dryRun)
  try {
    return collectAndUndo(dryRun, undo, () => context.execute(plan.steps, frames))
  } finally {
    end(context)
  }
}

/** A dry run whose execution is on another thread. */
interface StartedDryRun<T> {
  readonly done: Promise<T>
  /** Ends it now, on this thread: waits for the execution, collects, and undoes everything. */
  settle(): void
}

/** Starts a dry run on another thread; `onEnd` is called when the context is free again. */
function startDry<T>(dryRun: DryRun<T>, onEnd: () => void): StartedDryRun<T> {
  const { context, plan, frames } = dryRun
  let outcome: { value: T } | { error: unknown } | undefined
  const undo = begin(dryRun)
  const finish = (take: () => ExecuteResult): void => {
    if (outcome !== undefined) return
    try {
      outcome = { value: collectAndUndo(dryRun, undo, take) }
    } catch (error) {
      outcome = { error }
    }
    // It may have ended before it saw that it was cancelled.
    context.cancel(false)
    end(context)
    onEnd()
  }
  const execution = context.executeAsync(plan.steps, frames).then(
    (result) => finish(() => result),
    (error: unknown) =>
      finish(() => {
        throw error
      }),
  )
  const done = execution.then(() => {
    if (outcome !== undefined && 'value' in outcome) return outcome.value
    throw outcome?.error
  })
  return { done, settle: () => finish(() => context.waitSync()) }
}

function collectAndUndo<T>(dryRun: DryRun<T>, undo: Undo, execute: () => ExecuteResult): T {
  let result: ExecuteResult
  try {
    result = execute()
  } catch (error) {
    if (error instanceof ExecutionCancelled) {
      dryRun.context.cancel(false)
      undoOrLose(undo)
    }
    throw error
  }
  try {
    return dryRun.collect(result)
  } finally {
    undoOrLose(undo)
  }
}

function undoOrLose(undo: Undo): void {
  try {
    undo()
  } catch (error) {
    throw new DryRunLost(`a dry run could not be undone: ${(error as Error).message}`, { cause: error })
  }
}

/** Undoes the execution of the dry run. */
type Undo = () => void

function begin({ context, plan, roots }: DryRun<unknown>): Undo {
  let undo: Undo
  if (context.keepsOverwritten) {
    context.keep(true)
    undo = () => context.undo(plan.steps)
  } else {
    undo = undoByRewriting(context, plan, roots)
  }
  context.swapResult()
  return undo
}

/**
 * A device does not keep what it overwrites. There, the sources are written back and everything derived from
 * them is computed again, to the same bits. The past of a page cannot be restored this way.
 */
function undoByRewriting(context: NativeContext, plan: Plan, roots: readonly PageRecord[]): Undo {
  if (plan.steps.some((step) => isBeforeStep(step)))
    throw new MmsbError('UNSUPPORTED_LOCATION', 'What-if needs the CPU backend when pages read the past.')
  const writer = new FrameWriter({})
  for (const { id, dtype, elements, bytes } of roots) {
    const values = DTYPE_INFO[dtype].view(new ArrayBuffer(bytes), 0, elements)
    if (bytes === 0) continue
    context.readPage(id, 0, values)
    writer.delta(id, dtype, elements, { offset: 0, values })
  }
  const frames = writer.finish()
  return () => context.execute(plan.steps, frames)
}

function end(context: NativeContext): void {
  context.swapResult()
  if (context.keepsOverwritten) context.keep(false)
}
