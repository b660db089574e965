/** What one login of a principal uses of the limits of the principal. */
import type { Admission } from '../../engine/call-types.js'
import type { PastOptions } from '../../engine/types.js'
import type { PrincipalUsage } from './usage.js'
import type { Limited, PrincipalUsages } from './usages.js'

export class Metering {
  readonly #principal: Limited
  readonly #usages: PrincipalUsages | undefined
  #usage: PrincipalUsage | undefined

  constructor(principal: Limited, usages: PrincipalUsages | undefined) {
    this.#principal = principal
    this.#usages = usages
  }

  /** Undefined where nothing is counted. */
  get usage(): PrincipalUsage | undefined {
    if (this.#usage === undefined || this.#usage.isEnded) this.#usage = this.#usages?.of(this.#principal)
    return this.#usage
  }

  /** Undefined while nothing limits its commits. */
  get admission(): Admission | undefined {
    return this.usage?.admission
  }

  /** Options of a request that may have the past replayed. @throws MmsbError RATE_LIMITED */
  past(options: PastOptions): PastOptions {
    const { usage } = this
    if (usage?.limits.replaySecondsPerMinute === undefined) return options
    usage.refuseReplay()
    return { ...options, onServed: usage.replayed }
  }
}
