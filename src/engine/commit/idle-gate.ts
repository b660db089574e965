/**
 * Waiting for the moments when no epoch is in flight, and keeping epochs from starting.
 *
 * Invariants: holds come one after another; while one lasts, no epoch starts. All waiters are woken at the
 * next publish, abandonment or failure, and check again.
 */
const DONE = Promise.resolve()

export interface IdleGateDeps {
  /** No epoch is in flight and no dry run is under way. */
  readonly isIdle: () => boolean
  /** A hold has ended; epochs may start again. */
  readonly onRelease: () => void
}

export class IdleGate {
  readonly #deps: IdleGateDeps
  #waiters: (() => void)[] = []
  #holds = 0
  /** Settles when the newest hold has ended. */
  #lastHold: Promise<void> = DONE

  constructor(deps: IdleGateDeps) {
    this.#deps = deps
  }

  get isHeld(): boolean {
    return this.#holds > 0
  }

  get hasWaiters(): boolean {
    return this.#waiters.length > 0
  }

  /**
   * Calls `run` at the next idle moment: now, or when the epoch in flight is published, abandoned or has
   * failed.
   */
  between(run: () => void): void {
    if (this.#deps.isIdle()) run()
    else this.#waiters.push(run)
  }

  /** Resolves at the next idle moment; the caller then has the state to itself until it awaits again. */
  idle(): Promise<void> {
    return this.#deps.isIdle() ? DONE : this.next()
  }

  /** Resolves at the next publish, abandonment or failure. */
  next(): Promise<void> {
    return new Promise((resolve) => {
      this.#waiters.push(resolve)
    })
  }

  wake(): void {
    if (this.#waiters.length === 0) return
    const waiters = this.#waiters
    this.#waiters = []
    for (const resolve of waiters) resolve()
  }

  /** Runs `work` with no epoch in flight, none starting and no other hold. */
  async hold<T>(work: () => Promise<T>): Promise<T> {
    const before = this.#lastHold
    let release: () => void = () => {}
    this.#lastHold = new Promise((resolve) => {
      release = resolve
    })
    this.#holds++
    try {
      await before
      while (!this.#deps.isIdle()) await this.next()
      return await work()
    } finally {
      this.#holds--
      release()
      this.#deps.onRelease()
    }
  }

  /** Keeps epochs from starting until `resume`; unlike `hold` it waits for nothing. */
  pause(): void {
    this.#holds++
  }

  resume(): void {
    this.#holds--
  }
}
