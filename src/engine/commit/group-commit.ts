/**
 * Group commit: whether the next epoch should wait for more writers.
 *
 * Writers that wait for an answer before they write again fall into two groups: one waits for the disk while
 * the other is answered. When a sync takes longer than a writer's way back, one shared epoch is better for
 * all: a turn then costs one sync and the way back instead of two syncs. So after an epoch, the next one may
 * wait for the writers that were just answered, for less time than a sync takes. If they do not come back in
 * time, epochs start at once again. The wait is retried after more and more epochs, because disks and loads
 * change.
 *
 * Invariants: a single writer never waits; no writer waits longer than PACE_WAIT_OF_APPEND of a usual append.
 */
import { PACE_PAUSE_MAX_EPOCHS, PACE_WAIT_MAX_MS, PACE_WAIT_OF_APPEND } from '../../limits.js'

export class GroupCommit {
  #appendMs = 0
  #count = 0
  #untilMs = 0
  #pauseEpochs = 1
  #pausedFor = 0

  /** An epoch with `answered` transactions took `appendMs` to append; `queued` transactions wait now. */
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

  /** Whether an epoch of the queued transactions should wait for more. */
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
