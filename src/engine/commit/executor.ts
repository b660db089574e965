/**
 * Running the plan of an epoch in the native context, on this thread or on another one.
 *
 * Invariants: one execution at a time. The observer of overwritten bytes is called after every execution,
 * before the next.
 */
import type { ExecuteResult, NativeContext } from '../../ffi/context.js'
import type { Plan } from '../../graph/graph.js'
import { PLAN_ASYNC_THRESHOLD_NS } from '../../limits.js'
import type { StageTimings } from '../stage-timings.js'

/** Follows what executions overwrite (src/engine/checkpoints/snapshot.ts). */
export interface OverwriteObserver {
  /** An execution has ended. */
  absorb(): void
  /** A page is about to be destroyed. */
  saveWhole(pageId: number): void
}

const NO_STEPS = new Uint32Array(0)

export class Executor {
  observer: OverwriteObserver | undefined
  readonly #context: NativeContext
  readonly #timings: StageTimings
  readonly #hasThreads: boolean

  constructor(context: NativeContext, timings: StageTimings, hasThreads: boolean) {
    this.#context = context
    this.#timings = timings
    this.#hasThreads = hasThreads
  }

  /** Whether an execution may take too long for the event loop and belongs on another thread. */
  needsThread(plan: Plan, frames: Uint8Array, createdBytes = 0): boolean {
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
   */
  start(plan: Plan, frames: Uint8Array): Promise<ExecuteResult> {
    return this.#context.executeAsync(plan.steps, frames)
  }

  /** Blocks until the execution on the other thread has ended. */
  waitSync(): ExecuteResult {
    const result = this.#context.waitSync()
    this.observer?.absorb()
    return result
  }

  noteEnd(plan: Plan, result: ExecuteResult): void {
    this.observer?.absorb()
    const ns = result.execNs
    plan.observedNs = plan.observedNs === 0 ? ns : plan.observedNs * 0.75 + ns * 0.25
    this.#timings.record('execute', ns / 1e6)
  }
}
