/** Durations of the newest events in a ring, and their percentiles on request. */
import type { TimingStats } from '../types.js'

const RING_LENGTH = 2048

export class Durations {
  readonly #ring = new Float64Array(RING_LENGTH)
  #total = 0

  add(durationUs: number): void {
    this.#ring[this.#total++ % RING_LENGTH] = durationUs
  }

  stats(): TimingStats {
    const length = Math.min(this.#total, RING_LENGTH)
    const sorted = this.#ring.slice(0, length).sort()
    const at = (share: number): number => sorted[Math.min(length - 1, Math.floor(length * share))] ?? 0
    return { count: this.#total, p50: at(0.5), p99: at(0.99), max: at(1) }
  }
}
