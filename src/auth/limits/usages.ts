/**
 * The principals that use a server, with their limits.
 *
 * Invariants: there is one usage for each id, whatever way the principal logs in. Limits of the token file
 * come before the defaults, one by one. Usages that hold and owe nothing are forgotten when there are many.
 */
import type { PageTallies } from '../../engine/pages/page-tallies.js'
import { PRINCIPAL_USAGES_KEPT } from '../../limits.js'
import type { Scopes } from '../scopes.js'
import type { LimitBook } from './limit-book.js'
import { PRINCIPAL_LIMIT_NAMES, type PrincipalLimitName } from './principal-limits.js'
import type { Ticks } from './token-bucket.js'
import { PrincipalUsage } from './usage.js'

/** A principal, as far as its limits are concerned. */
export interface Limited {
  readonly id: string
  readonly scopes: Scopes
}

export class PrincipalUsages {
  readonly #book: LimitBook
  readonly #tallies: PageTallies
  readonly #ticks: Ticks | undefined
  /** The one that was asked for last is the last. */
  readonly #usages = new Map<string, PrincipalUsage>()
  readonly #refusals = new Map<PrincipalLimitName, number>()

  constructor(book: LimitBook, tallies: PageTallies, ticks?: Ticks) {
    this.#book = book
    this.#tallies = tallies
    this.#ticks = ticks
    book.onChange(() => {
      for (const [id, usage] of this.#usages) usage.setLimits(book.limitsOf(id))
    })
  }

  of({ id, scopes }: Limited): PrincipalUsage {
    const usage = this.#usages.get(id) ?? this.#add(id)
    usage.mayDefine(scopes.pagesOf('define')?.patterns ?? [])
    return usage
  }

  /** How often each limit has refused something since start; all are listed. */
  refusals(): readonly (readonly [PrincipalLimitName, number])[] {
    return PRINCIPAL_LIMIT_NAMES.map((name) => [name, this.#refusals.get(name) ?? 0])
  }

  get size(): number {
    return this.#usages.size
  }

  #add(id: string): PrincipalUsage {
    if (this.#usages.size >= PRINCIPAL_USAGES_KEPT) this.#forgetIdle()
    const usage = new PrincipalUsage(
      {
        tallies: this.#tallies,
        ticks: this.#ticks,
        onRefusal: (name) => this.#refusals.set(name, (this.#refusals.get(name) ?? 0) + 1),
      },
      this.#book.limitsOf(id),
    )
    this.#usages.set(id, usage)
    return usage
  }

  #forgetIdle(): void {
    for (const [id, usage] of this.#usages) {
      if (!usage.isIdle) continue
      usage.end()
      this.#usages.delete(id)
    }
  }
}
