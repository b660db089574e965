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
import { atOnce, type Sliced, Slices } from '../../slices.js'
import { FrameWriter } from '../../state/frame/writer.js'
import { DTYPE_INFO } from '../../wire/dtype.js'
import type { Admission } from '../call-types.js'
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
  /** Reads the state as it would be, in slices. */
  readonly collect: (result: ExecuteResult) => Sliced<T>
  /** It reads so much that the event loop needs its turns meanwhile. */
  readonly isLarge: boolean
}

/** What it adds to the bus. */
const NOTHING = { bytes: 0, creates: [], functions: undefined }

export interface DryRunsDeps {
  readonly context: NativeContext
  readonly executor: Executor
  readonly gate: IdleGate
  readonly lifecycle: Lifecycle
  readonly costs: CostLimits
  /** Milliseconds of a clock that never goes back. */
  readonly ticksMs: () => number
  /** The context is lost. */
  readonly stop: (error: unknown) => void
}

/** The dry runs of a bus, one at a time. */
export class DryRuns {
  readonly #deps: DryRunsDeps
  /**
   * The one on another thread, or that is being read in slices; it has the context to itself until it ends.
   */
  #running: Pick<StartedDryRun<unknown>, 'settle' | 'cancel'> | undefined

  constructor(deps: DryRunsDeps) {
    this.#deps = deps
  }

  get isRunning(): boolean {
    return this.#running !== undefined
  }

  /** Ends the dry run that goes on now: waits for it, reads it and undoes it. */
  settle(): void {
    this.#running?.settle()
  }

  /** Cancels the dry run that goes on; it undoes itself soon. */
  cancel(): void {
    this.#running?.cancel()
  }

  /** See Committer.dryRun. */
  async run<T>(
    prepare: () => Omit<DryRun<T>, 'context'>,
    signal?: AbortSignal,
    admission?: Admission,
  ): Promise<T> {
    const { context, executor, gate, lifecycle, costs, stop } = this.#deps
    await gate.idle()
    lifecycle.refuseWhenStopped()
    const dryRun = { context, ...prepare() }
    const refusal = costs.refusal(dryRun.plan)
    if (refusal !== undefined) throw refusal
    admission?.admit({ ...NOTHING, costNs: () => dryRun.plan.costNs })
    try {
      if (!dryRun.isLarge && !executor.needsThread(dryRun.plan, dryRun.frames)) return runDry(dryRun)
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
    const started = new StartedDryRun(dryRun, {
      execute: () => this.#deps.executor.start(dryRun.plan, dryRun.frames),
      ticksMs: this.#deps.ticksMs,
      onEnd: () => {
        this.#running = undefined
        this.#deps.gate.wake()
      },
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

function collectAndUndo<T>(dryRun: DryRun<T>, undo: Undo, execute: () => ExecuteResult): T {
  const result = executeOrUndo(dryRun, undo, execute)
  try {
    return atOnce(dryRun.collect(result))
  } finally {
    undoOrLose(undo)
  }
}

function executeOrUndo(
  { context }: DryRun<unknown>,
  undo: Undo,
  execute: () => ExecuteResult,
): ExecuteResult {
  try {
    return execute()
  } catch (error) {
    if (error instanceof ExecutionCancelled) {
      context.cancel(false)
      undoOrLose(undo)
    }
    throw error
  }
}

interface DryRunDeps {
  /** Starts its execution. */
  readonly execute: () => Promise<ExecuteResult>
  readonly ticksMs: () => number
  /** The context is free again. */
  readonly onEnd: () => void
}

/** A dry run whose execution is on another thread. What it changed is read in slices. */
class StartedDryRun<T> {
  readonly done: Promise<T>
  readonly #dryRun: DryRun<T>
  readonly #deps: DryRunDeps
  readonly #undo: Undo
  #outcome: { value: T } | { error: unknown } | undefined
  /** Set once the execution has ended. */
  #reading: Sliced<T> | undefined
  #isCancelled = false

  constructor(dryRun: DryRun<T>, deps: DryRunDeps) {
    this.#dryRun = dryRun
    this.#deps = deps
    this.#undo = begin(dryRun)
    this.done = this.#complete(deps.execute())
  }

  async #complete(execution: Promise<ExecuteResult>): Promise<T> {
    try {
      const result = await execution
      this.#executed(() => result)
    } catch (error) {
      this.#executed(() => {
        throw error
      })
    }
    const slices = new Slices(undefined, this.#deps.ticksMs)
    while (this.#outcome === undefined) {
      this.#read()
      const pause = this.#outcome === undefined ? slices.giveWay() : undefined
      if (pause !== undefined) await pause
    }
    if ('value' in this.#outcome) return this.#outcome.value
    throw this.#outcome.error
  }

  /** Ends it soon, with an error. */
  cancel(): void {
    this.#isCancelled = true
    this.#dryRun.context.cancel(true)
  }

  /** Ends it now, on this thread: waits for the execution, reads, and undoes everything. */
  settle(): void {
    this.#executed(() => this.#dryRun.context.waitSync())
    while (this.#outcome === undefined) this.#read()
  }

  #executed(take: () => ExecuteResult): void {
    if (this.#outcome !== undefined || this.#reading !== undefined) return
    try {
      const result = executeOrUndo(this.#dryRun, this.#undo, take)
      this.#reading = this.#dryRun.collect(result)
    } catch (error) {
      this.#end({ error })
    }
  }

  /** Reads a piece; undoes everything after the last one. */
  #read(): void {
    const reading = this.#reading as Sliced<T>
    let outcome: { value: T } | { error: unknown }
    try {
      if (this.#isCancelled) throw callerLeft()
      const step = reading.next()
      if (step.done !== true) return
      outcome = { value: step.value }
    } catch (error) {
      outcome = { error }
    }
    // It may have been read before it saw that it was cancelled.
    this.#dryRun.context.cancel(false)
    try {
      undoOrLose(this.#undo)
    } catch (error) {
      outcome = { error }
    }
    this.#end(outcome)
  }

  #end(outcome: { value: T } | { error: unknown }): void {
    const { context } = this.#dryRun
    this.#outcome = outcome
    context.cancel(false)
    end(context)
    this.#deps.onEnd()
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
