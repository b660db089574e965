/** Time, handed in so that tests control it. */

export interface StreamClock {
  nowMs(): number
  /** Calls back every `periodMs` until the returned function is called. Does not keep the process alive. */
  every(periodMs: number, run: () => void): () => void
  /**
   * Calls back once after `delayMs` unless the returned function is called first. Does not keep the
   * process alive.
   */
  after(delayMs: number, run: () => void): () => void
  /**
   * Calls back after pending events were handled, unless the returned function is called first. Keeps the
   * process alive.
   */
  soon(run: () => void): () => void
}

export const systemClock: StreamClock = {
  nowMs: () => performance.now(),
  every: (periodMs, run) => {
    const timer = setInterval(run, periodMs)
    timer.unref()
    return () => clearInterval(timer)
  },
  after: (delayMs, run) => {
    const timer = setTimeout(run, delayMs)
    timer.unref()
    return () => clearTimeout(timer)
  },
  soon: (run) => {
    const timer = setTimeout(run, 1)
    return () => clearTimeout(timer)
  },
}
