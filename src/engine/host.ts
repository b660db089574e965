/**
 * What the engine needs from its host: clocks, the event loop and the store's options. Handed in, so that a
 * test can run the whole engine in a simulation under one seed.
 */
import type { StoreOptions } from '../store/options.js'

export interface Host {
  /** Milliseconds since 1970. */
  nowMs(): number
  /** Milliseconds of a clock that never goes back. */
  ticksMs(): number
  /** Calls back once, after everything that is ready on the event loop. */
  soon(callback: () => void): void
  /** Long executions may run on another thread. */
  readonly hasThreads: boolean
  /** Disk, randomness, timers, lock, catalog and checkpoints, where they are not the real ones. */
  readonly store: Partial<StoreOptions>
}

export const REAL_HOST: Host = {
  nowMs: Date.now,
  ticksMs: () => performance.now(),
  soon: setImmediate,
  hasThreads: true,
  store: {},
}
