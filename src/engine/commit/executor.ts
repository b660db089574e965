/**
 * Running the plan of an epoch in the native context, on this thread or on another one.
 *
 * Invariants: one execution at a time. The observer of overwritten bytes is called after every execution,
 * before the next.
 */
import type { ExecuteResult, NativeContext } from '../../ffi/context.js'
import type { Plan } from '../../graph/graph.js'
import { PLAN_ASYNC_THRESHOLD_NS } from '../../limits.js'
import type { ExecutionHost, Host } from '../host.js'
import type { StageTimings } from '../stage-timings.js'

/** Follows what executions overwrite (src/engine/checkpoints/snapshot.ts). */
export interface OverwriteObserver {
  /** An execution has ended. */
  absorb(): void
  /** A page is about to be destroyed. */
  saveWhole(pageId: number): void
}

/** Estimates are within this factor of the time taken. */
const ESTIMATE_FACTOR = 4
/** An execution that cannot take longer need not be cancelled. */
const UNKEPT_MAX_MS = 400
/** Bytes of pages that may be kept beside an execution; one that overwrites more is not cancelled. */
const KEPT_MAX_BYTES = 512 * 1024 ** 2

const NO_STEPS = new Uint32Array(0)

export class Executor {
  observer: OverwriteObserver | undefined
  readonly #context: NativeContext
  readonly #timings: StageTimings
  readonly #hasThreads: boolean
  readonly #host: ExecutionHost | undefined

  constructor(
    context: NativeContext,
    timings: StageTimings,
    { hasThreads, executions }: Pick<Host, 'hasThreads' | 'executions'>,
  ) {
    this.#context = context
    this.#timings = timings
    this.#hasThreads = hasThreads
    this.#host = executions
  }

  /** Whether an execution may take too long for the event loop and belongs on another thread. */
  needsThread(plan: Plan, frames: Uint8Array, createdBytes = 0): boolean {
    if (this.#host !== undefined) return this.#host.goesToThread()
    // Filling a new page touches fresh memory, which costs about as much per byte as a delta.
    const payloadNs = (frames.byteLength + createdBytes) / 2
    return this.#hasThreads && (plan.observedNs || plan.costNs) + payloadNs > PLAN_ASYNC_THRESHOLD_NS
  }

  run(plan: Plan, frames: Uint8Array): ExecuteResult {
    const result = this.#context.execute(plan.steps.length === 0 ? NO_STEPS : plan.steps, frames)
    this.noteEnd(plan, result)
    return result
  }

  /**
   * Starts an execution on another thread. The caller calls `noteEnd`, unless it called `waitSync` meanwhile.
   * One that is kept can be taken back after `cancel`.
   */
  start(plan: Plan, frames: Uint8Array, isKept = false): Promise<ExecuteResult> {
    if (isKept) this.#context.keep(true)
    const execution = this.#context.executeAsync(plan.steps, frames)
    return this.#host === undefined ? execution : this.#host.ended(execution)
  }

  /** Blocks until the execution on the other thread has ended. */
  waitSync(isKept = false): ExecuteResult {
    const result = this.#context.waitSync()
    this.#absorb(isKept)
    return result
  }

  noteEnd(plan: Plan, result: ExecuteResult, isKept = false): void {
    this.#absorb(isKept)
    const ns = result.execNs
    plan.observedNs = plan.observedNs === 0 ? ns : plan.observedNs * 0.75 + ns * 0.25
    this.#timings.record('execute', ns / 1e6)
  }

  #absorb(isKept: boolean): void {
    this.observer?.absorb()
    if (isKept) this.#context.keep(false)
  }

  // ---- cancelling -----------------------------------------------------------------------------------------

  /**
   * Whether an execution may take so long that it must be possible to take it back. What it overwrites is
   * then kept beside it.
   */
  mustKeep(plan: Plan, maxMs: number, overwritten: () => number): boolean {
    if (!this.#context.keepsOverwritten) return false
    const leastMs = Math.min(maxMs, UNKEPT_MAX_MS)
    return plan.costNs * ESTIMATE_FACTOR > leastMs * 1e6 && overwritten() <= KEPT_MAX_BYTES
  }

  /** Ends the execution on the other thread soon; it then throws ExecutionCancelled. */
  cancel(): void {
    this.#context.cancel(true)
  }

  /** Takes back an execution that was cancelled and kept. */
  takeBack(plan: Plan): void {
    this.#context.cancel(false)
    this.#context.undo(plan.steps)
    this.#context.keep(false)
  }

  /** The execution ended before it could be cancelled. */
  forgetCancel(): void {
    this.#context.cancel(false)
  }
}
