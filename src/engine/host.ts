/**
 * What the engine needs from its host: clocks, the event loop and the store's options. Handed in, so that a
 * test can run the whole engine in a simulation under one seed.
 */
import type { ExecuteResult } from '../ffi/context.js'
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
  /** Decides about executions on another thread. Absent: their estimates do, and they end when they end. */
  readonly executions?: ExecutionHost
  /** Is told of every epoch that is published. Must be quick and must not throw. Absent: nobody is. */
  readonly onEpoch?: (times: EpochTimes) => void
  /** Disk, randomness, timers, lock, catalog and checkpoints, where they are not the real ones. */
  readonly store: Partial<StoreOptions>
}

/** When something began, and when it ended, by `ticksMs`. */
export type Stretch = readonly [startMs: number, endMs: number]

/** When the stages of an epoch ran. */
export interface EpochTimes {
  readonly epoch: number
  /** Undefined in memory. */
  readonly append: Stretch | undefined
  readonly execute: Stretch
  readonly publish: Stretch
}

export interface ExecutionHost {
  /** Whether the next execution goes to another thread, however short it is. */
  goesToThread(): boolean
  /** Resolves when the end of an execution is noticed, which is at or after its end. */
  ended(execution: Promise<ExecuteResult>): Promise<ExecuteResult>
}

export const REAL_HOST: Host = {
  nowMs: Date.now,
  ticksMs: () => performance.now(),
  soon: setImmediate,
  hasThreads: true,
  store: {},
}
