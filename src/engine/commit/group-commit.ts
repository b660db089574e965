/**
 * When the next epoch starts while writers take turns.
 *
 * Writers who wait for their answers before they write again fall into two groups: one waits for the disk while the other is
 * answered. Where the disk is slow beside their way back, all would do better in one epoch: a turn then takes a sync and the way
 * back, not two syncs. So after an epoch the next one may wait for those who were just answered, for less than a sync takes. Where
 * they do not come back in time, the disk is the quicker of the two and goes on at once; after more and more epochs it is tried
 * again, because disks and loads change.
 *
 * Invariants: who writes alone never waits; nobody waits longer than PACE_WAIT_OF_APPEND of a usual append.
 */
import { PACE_PAUSE_MAX_EPOCHS, PACE_WAIT_MAX_MS, PACE_WAIT_OF_APPEND } from '../../limits.js'

export class Pace {
  #appendMs = 0
  #count = 0
  #untilMs = 0
  #pauseEpochs = 1
  #pausedFor = 0

  /** An epoch of so many transactions took this long to append; as many are queued now. */
  published(appendMs: number, answered: number, queued: number, nowMs: number): void {
    this.#appendMs = this.#appendMs === 0 ? appendMs : this.#appendMs * 0.9 + appendMs * 0.1
    this.#count = 0
    if (this.#pausedFor > 0) {
      this.#pausedFor--
      return
    }
    if (answered + queued < 2) return
    this.#count = answered + queued
    this.#untilMs = nowMs + Math.min(this.#appendMs * PACE_WAIT_OF_APPEND, PACE_WAIT_MAX_MS)
  }

  /** Whether an epoch of those who are queued should wait for more to come. */
  shouldWait(queued: number, nowMs: number): boolean {
    if (this.#count === 0) return false
    if (queued < this.#count && nowMs < this.#untilMs) return true
    if (queued >= this.#count) this.#pauseEpochs = 1
    else {
      this.#pausedFor = this.#pauseEpochs
      this.#pauseEpochs = Math.min(this.#pauseEpochs * 2, PACE_PAUSE_MAX_EPOCHS)
    }
    this.#count = 0
    return false
  }
}
