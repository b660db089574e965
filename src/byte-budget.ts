/**
 * A budget of bytes: how many may be in flight at once, in all and for each owner.
 *
 * Invariants: what is more than a budget is let in while nothing else uses that budget, so that nothing is
 * refused for ever. Everything taken is given back once. A refusal does not say how much others use. Knows
 * nothing of what the bytes are.
 */
import type { LimitGuard, LimitName } from './operator-limits.js'

/** Bytes taken from a budget. */
export interface Lease {
  /** Takes more. Throws OVERLOADED. */
  grow(bytes: number): void
  /** Gives everything back. Idempotent. */
  release(): void
}

export class ByteBudget {
  readonly #limits: LimitGuard
  readonly #all: LimitName
  readonly #each: LimitName
  readonly #what: string
  readonly #byOwner = new Map<object, number>()
  #used = 0

  /** `all` and `each` name the limits in bytes; `what` is counted, for the texts of refusals. */
  constructor(limits: LimitGuard, { all, each, what }: { all: LimitName; each: LimitName; what: string }) {
    this.#limits = limits
    this.#all = all
    this.#each = each
    this.#what = what
    limits.measure(all, () => this.#used)
  }

  /** Bytes in flight. */
  get used(): number {
    return this.#used
  }

  /** Throws OVERLOADED when these bytes are not to be had now. */
  take(owner: object, bytes: number): Lease {
    let held = 0
    let isOpen = true
    const grow = (more: number): void => {
      this.#take(owner, more, held)
      held += more
    }
    grow(bytes)
    const release = (): void => {
      if (!isOpen) return
      isOpen = false
      this.#give(owner, held)
    }
    return { grow, release }
  }

  /** Throws OVERLOADED when these bytes are not to be had now. Takes nothing. */
  refuseWithoutRoom(owner: object, bytes: number): void {
    this.#refuse(owner, bytes, 0)
  }

  /** `held` bytes are the taker's own: beside them it may be alone. */
  #take(owner: object, bytes: number, held: number): void {
    this.#refuse(owner, bytes, held)
    this.#used += bytes
    this.#byOwner.set(owner, (this.#byOwner.get(owner) ?? 0) + bytes)
  }

  #refuse(owner: object, bytes: number, held: number): void {
    const { values } = this.#limits
    const own = this.#byOwner.get(owner) ?? 0
    if (own > held && own + bytes > values[this.#each]) {
      throw this.#limits.refusal(this.#each, `${own} bytes of ${this.#what} are in flight on this connection`)
    }
    if (this.#used > held && this.#used + bytes > values[this.#all]) {
      throw this.#limits.refusal(this.#all, `too many bytes of ${this.#what} are in flight`)
    }
  }

  #give(owner: object, bytes: number): void {
    this.#used -= bytes
    const left = (this.#byOwner.get(owner) ?? 0) - bytes
    if (left > 0) this.#byOwner.set(owner, left)
    else this.#byOwner.delete(owner)
  }
}
