/**
 * Which limits a principal has: those that the token file gives it, and for others the defaults, which hold
 * for everybody, whatever way they log in.
 */
import type { PrincipalLimits } from './principal-limits.js'

export interface GivenLimits {
  readonly defaults: PrincipalLimits
  /** By the id of a principal. */
  readonly own?: ReadonlyMap<string, PrincipalLimits> | undefined
}

export class LimitBook {
  readonly #listeners = new Set<() => void>()
  #given: GivenLimits

  constructor(given: GivenLimits) {
    this.#given = given
  }

  limitsOf(id: string): PrincipalLimits {
    const { defaults, own } = this.#given
    return { ...defaults, ...own?.get(id) }
  }

  /** Calls back when limits have changed. */
  onChange(listener: () => void): void {
    this.#listeners.add(listener)
  }

  /** Other limits count from now on. */
  replace(given: GivenLimits): void {
    this.#given = given
    for (const listener of this.#listeners) listener()
  }
}
