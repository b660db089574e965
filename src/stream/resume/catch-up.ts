/**
 * Brings one subscription from an old epoch to the present: from the log while it is far behind, then from
 * memory, then live.
 *
 * Invariants: epochs are delivered in order, each once, as fast as the reader takes them; at most one piece
 * is held. The check that no epoch is left and the switch to live happen in one synchronous step. The event
 * loop runs every few milliseconds.
 */
import { STREAM_CATCH_UP_SLICE_MS } from '../../limits.js'
import type { StreamClock } from '../clock.js'
import type { ChangeMessage } from '../messages.js'
import type { ReaderLimits } from '../reader-limits.js'
import type { SharedView } from '../views/shared-view.js'
import { type RecentEpochs, VALUES_MISSING } from './recent-epochs.js'
import type { Piece, ReplayedEpochs } from './replayed-epochs.js'

/** Steps between two looks at the clock. */
const STEPS_PER_LOOK = 64

export interface CatchUpDeps {
  readonly clock: StreamClock
  readonly recent: RecentEpochs
  readonly replayed: ReplayedEpochs
}

export interface CatchUpOptions {
  readonly view: SharedView
  readonly after: number
  readonly needsValues: boolean
  readonly limits?: ReaderLimits | undefined
}

export interface CatchUpReader {
  /** False while the reader takes no messages; it calls `pump` when that may have changed. */
  hasRoom(): boolean
  take(message: ChangeMessage): void
  /** Nothing is left to catch up on: commits are delivered directly from now on. */
  live(): void
  fail(error: unknown): void
}

export class CatchUp {
  readonly #deps: CatchUpDeps
  readonly #view: SharedView
  readonly #needsValues: boolean
  readonly #limits: ReaderLimits | undefined
  readonly #reader: CatchUpReader
  #isOver = false
  #at: number
  #piece: Piece | undefined
  #next = 0
  /** A piece was asked for, or the event loop runs first. */
  #isWaiting = false
  #cancelTimer: (() => void) | undefined
  #release: (() => void) | undefined

  constructor(
    deps: CatchUpDeps,
    { view, after, needsValues, limits }: CatchUpOptions,
    reader: CatchUpReader,
  ) {
    this.#deps = deps
    this.#view = view
    this.#needsValues = needsValues
    this.#limits = limits
    this.#reader = reader
    this.#at = after
  }

  /** Every epoch up to this one has been delivered. */
  get at(): number {
    return this.#at
  }

  /** Delivers as much as the reader has room for. */
  pump(): void {
    const { clock } = this.#deps
    const untilMs = clock.nowMs() + STREAM_CATCH_UP_SLICE_MS
    for (let steps = 0; !this.#isWaiting && !this.#isOver && this.#reader.hasRoom(); steps++) {
      // Before a step: a step may have asked for a piece, and only its arrival ends that waiting.
      if (steps > 0 && steps % STEPS_PER_LOOK === 0 && clock.nowMs() >= untilMs) this.#rest()
      else this.#step()
    }
  }

  stop(): void {
    this.#isOver = true
    this.#cancelTimer?.()
    this.#release?.()
    this.#release = undefined
    this.#piece = undefined
  }

  #rest(): void {
    this.#isWaiting = true
    this.#cancelTimer = this.#deps.clock.soon(() => {
      this.#isWaiting = false
      this.pump()
    })
  }

  #step(): void {
    const { recent } = this.#deps
    if (this.#piece !== undefined) this.#stepInPiece(this.#piece)
    else if (this.#at < recent.after) this.#ask()
    else if (this.#at === recent.last) {
      this.stop()
      this.#reader.live()
    } else {
      this.#stepInMemory()
    }
  }

  #stepInMemory(): void {
    try {
      const message = this.#deps.recent.messageOf(this.#view, this.#at + 1, this.#needsValues)
      if (message === VALUES_MISSING) this.#ask()
      else this.#hand(this.#at + 1, message)
    } catch (error) {
      this.#reader.fail(error)
    }
  }

  #stepInPiece({ messages, through }: Piece): void {
    const message = messages[this.#next++]
    if (message !== undefined) {
      this.#hand(message.epoch, message)
      return
    }
    this.#at = through
    this.#piece = undefined
  }

  #hand(epoch: number, message: ChangeMessage | undefined): void {
    this.#at = epoch
    if (message !== undefined) this.#reader.take(message)
  }

  #ask(): void {
    this.#isWaiting = true
    const waitMs = this.#limits?.replayWaitMs ?? 0
    if (waitMs === 0) {
      this.#askNow()
      return
    }
    // What the reader has used up comes back by itself.
    this.#cancelTimer = this.#deps.clock.after(waitMs, () => this.#ask())
  }

  #askNow(): void {
    const { piece, release } = this.#deps.replayed.read(
      this,
      this.#view,
      this.#at,
      this.#needsValues,
      this.#limits?.replayed,
    )
    this.#release = release
    piece.then(
      (got) => {
        if (this.#isOver) return
        this.#release?.()
        this.#release = undefined
        this.#isWaiting = false
        this.#piece = got
        this.#next = 0
        this.pump()
      },
      (error: unknown) => {
        if (this.#isOver) return
        this.#release = undefined
        this.#reader.fail(error)
      },
    )
  }
}
