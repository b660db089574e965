/**
 * A rate: so much a second on average, and some seconds' worth at once after a pause.
 *
 * Invariants: work is let in while anything is left, and then takes all that it costs, even more than is
 * left: so a large piece of work is not refused for ever, and is paid for by the pause after it. What it
 * costs may be known only once it is done. Knows nothing of what is counted.
 */

/** Milliseconds of a clock that never goes back. */
export type Ticks = () => number

const ticks: Ticks = () => performance.now()

export class TokenBucket {
  readonly #ticks: Ticks
  #perMs: number
  #most: number
  #level: number
  #atMs: number

  /** `most` is what may be taken at once after a pause; it is full at first. */
  constructor(perSecond: number, most: number, now: Ticks = ticks) {
    this.#ticks = now
    this.#perMs = perSecond / 1000
    this.#most = most
    this.#level = most
    this.#atMs = now()
  }

  /** Milliseconds until something is left; 0: now. */
  get waitMs(): number {
    this.#fill()
    return this.#level > 0 ? 0 : Math.max(1, Math.ceil(-this.#level / this.#perMs))
  }

  /** Nothing is missing, so that forgetting it changes nothing. */
  get isFull(): boolean {
    this.#fill()
    return this.#level === this.#most
  }

  take(amount: number): void {
    this.#fill()
    this.#level -= amount
  }

  /** Another rate from now on. What was taken too much stays to be paid for, at the new rate. */
  change(perSecond: number, most: number): void {
    this.#fill()
    this.#perMs = perSecond / 1000
    this.#most = most
    this.#level = Math.min(this.#level, most)
  }

  #fill(): void {
    const now = this.#ticks()
    if (now === this.#atMs) return
    this.#level = Math.min(this.#most, this.#level + (now - this.#atMs) * this.#perMs)
    this.#atMs = now
  }
}
