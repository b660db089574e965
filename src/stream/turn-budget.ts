/**
 * How much of some work one turn of the event loop may do, however many callers want it. A caller that
 * comes when it is spent waits for a later turn, which has a budget of its own.
 */
import type { StreamClock } from './clock.js'

export class TurnBudget {
  readonly #perTurn: number
  readonly #clock: StreamClock
  #spent = 0

  constructor(perTurn: number, clock: StreamClock) {
    this.#perTurn = perTurn
    this.#clock = clock
  }

  get isSpent(): boolean {
    return this.#spent >= this.#perTurn
  }

  /** More than is left may be spent at once. */
  spend(amount: number): void {
    if (this.#spent === 0 && amount > 0) {
      this.#clock.soon(() => {
        this.#spent = 0
      })
    }
    this.#spent += amount
  }

  /** Calls back in the next turn, which has a budget of its own. */
  nextTurn(run: () => void): void {
    this.#clock.soon(run)
  }
}
