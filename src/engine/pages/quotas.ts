/**
 * Refuses new pages, definitions and functions once the bus holds as many, or as many bytes of them, as the
 * operator allows.
 *
 * Invariants: only what grows is refused, and only for callers. What the log holds was accepted once:
 * recovery, replay, verification and a migration take it whatever the limits are. An empty page counts too.
 * Knows nothing of queues.
 */
import type { LimitGuard } from '../../operator-limits.js'
import type { EngineState } from './engine-state.js'

/** What a batch has staged, or what a transaction adds; less than none when it deletes more. */
export interface Growth {
  readonly pages: number
  /** Bytes of pages beside their elements, and of functions. */
  readonly ownBytes: number
  /** Bytes of elements that are not allocated yet, those of pasts too. */
  readonly elementBytes: number
}

export class Quotas {
  readonly #limits: LimitGuard
  readonly #state: EngineState

  constructor(limits: LimitGuard, state: EngineState) {
    this.#limits = limits
    this.#state = state
    limits.measure('maxPages', () => state.registry.size)
    limits.measure('maxPageBytes', () => this.#bytes)
    limits.measure('maxFunctions', () => state.registry.functions.size)
  }

  /**
   * Bytes of all pages and functions, those of the batch that is being staged included as far as allocated.
   */
  get #bytes(): number {
    const { registry, context } = this.#state
    return context.memory().pageBytes + registry.ownBytes + registry.functions.bytes
  }

  /** @throws MmsbError QUOTA_EXCEEDED */
  check(staged: Growth, growth: Growth): void {
    const { maxPages, maxPageBytes } = this.#limits.values
    if (growth.pages > 0) {
      const pages = this.#state.registry.size + staged.pages
      if (pages + growth.pages > maxPages)
        throw this.#limits.refusal('maxPages', `There are ${pages} pages; ${growth.pages} more are too many.`)
    }
    const more = growth.ownBytes + growth.elementBytes
    if (more <= 0) return
    const bytes = this.#bytes + staged.ownBytes
    if (bytes + more <= maxPageBytes) return
    throw this.#limits.refusal('maxPageBytes', `The pages have ${bytes} bytes; ${more} more are too many.`)
  }
}
