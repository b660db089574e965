/**
 * The pulse of the main thread in shared memory: another thread sees how long its event loop has not run,
 * without asking it.
 */
import { ADMIN_BEAT_MS } from '../../limits.js'

/** Nanoseconds of a clock that all threads share. */
type Beats = BigInt64Array<SharedArrayBuffer>

const MS_NS = 1e6

/** A pulse that has just beaten. */
export function newPulse(): SharedArrayBuffer {
  const shared = new SharedArrayBuffer(BigInt64Array.BYTES_PER_ELEMENT)
  beat(shared)
  return shared
}

/** The event loop of this thread runs. To be called every ADMIN_BEAT_MS. */
export function beat(shared: SharedArrayBuffer): void {
  const beats: Beats = new BigInt64Array(shared)
  Atomics.store(beats, 0, process.hrtime.bigint())
}

/** How long the event loop has been held, in ms: 0 while it runs. */
export function stalledMs(shared: SharedArrayBuffer): number {
  const beats: Beats = new BigInt64Array(shared)
  const sinceNs = Number(process.hrtime.bigint() - Atomics.load(beats, 0))
  // A beat that is late by less than the time between two says nothing.
  return Math.max(0, Math.round(sinceNs / MS_NS) - 2 * ADMIN_BEAT_MS)
}
