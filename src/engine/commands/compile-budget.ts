/**
 * The time that one transaction may take to compile its definitions. Compiling goes in slices, between which
 * the event loop runs.
 *
 * Invariant: pauses are not counted. Whoever compiles is refused as soon as the budget is spent, before
 * anything is logged. Knows nothing of what is compiled.
 */
import { performance } from 'node:perf_hooks'
import { COMPILE_SLICE_MS } from '../../limits.js'
import type { LimitGuard } from '../../operator-limits.js'
import { nextSlice } from '../../slices.js'

export class CompileBudget {
  readonly #limits: LimitGuard
  #spentMs = 0
  #sliceMs = 0

  constructor(limits: LimitGuard) {
    this.#limits = limits
  }

  /** Does a piece of the work. Throws COST_EXCEEDED when all pieces together take too long. */
  spend<T>(work: () => T): T {
    const startedMs = performance.now()
    const result = work()
    const ms = performance.now() - startedMs
    this.#spentMs += ms
    this.#sliceMs += ms
    const { maxCompileTimeMs } = this.#limits.values
    if (this.#spentMs > maxCompileTimeMs) {
      const detail = `Compiling these definitions takes more than ${maxCompileTimeMs} ms; use fewer or shorter expressions.`
      const estimateMs = Math.ceil(this.#spentMs)
      throw this.#limits.refusal('maxCompileTimeMs', detail, { estimateMs, limitMs: maxCompileTimeMs })
    }
    return result
  }

  get isSliceOver(): boolean {
    return this.#sliceMs >= COMPILE_SLICE_MS
  }

  /** Lets the event loop run. */
  async pause(): Promise<void> {
    this.#sliceMs = 0
    await nextSlice()
  }
}
