/**
 * The outside as the engine sees it: clocks, the scheduler and what the store is opened with. Handed in, so that a test can
 * run the whole engine in a world of its own, under one seed.
 */
import type { StoreOptions } from '../store/options.js'

export interface World {
  /** Milliseconds since 1970. */
  nowMs(): number
  /** Milliseconds that never go back. */
  ticksMs(): number
  /** Calls back once, after what the event loop has ready. */
  soon(callback: () => void): void
  /** Executions that take long may run on another thread. */
  readonly hasThreads: boolean
  /** Disk, randomness, timers, lock, catalogue and checkpoints, where they are not the real ones. */
  readonly store: Partial<StoreOptions>
}

export const REAL_WORLD: World = {
  nowMs: Date.now,
  ticksMs: () => performance.now(),
  soon: setImmediate,
  hasThreads: true,
  store: {},
}
