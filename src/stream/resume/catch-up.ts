/**
 * The way of one subscription from an old epoch to the present: out of the log while it is far behind, then out of memory,
 * then live.
 *
 * Invariants: the reader sets the pace, and no more than one piece is held for him; epochs come in order, each once, and the
 * step to live is taken when there is none left, in one go with looking; the event loop is given back every few milliseconds.
 */
import { STREAM_CATCH_UP_SLICE_MS } from '../../limits.js'
import type { StreamClock } from '../clock.js'
import type { ChangeMessage } from '../messages.js'
import type { Topic } from '../shared-view.js'
import type { Recent } from './recent-epochs.js'
import type { Past, Piece } from './replayed-epochs.js'

/** Epochs without a word to the reader between two looks at the clock. */
const STEPS_PER_LOOK = 64

export interface CatchUpRooms {
  readonly clock: StreamClock
  readonly recent: Recent
  readonly past: Past
}

export interface CatchUpReader {
  /** False while nothing should be handed over; `pump` is called when that may have changed. */
  hasRoom(): boolean
  take(message: ChangeMessage): void
  live(): void
  fail(error: unknown): void
}

export class CatchUp {
  readonly #rooms: CatchUpRooms
  readonly #topic: Topic
  readonly #needsValues: boolean
  readonly #reader: CatchUpReader
  #isOver = false
  #at: number
  #piece: Piece | undefined
  #next = 0
  /** A piece is on its way, or the event loop has its turn. */
  #isWaiting = false
  #cancelTimer: (() => void) | undefined
  #release: (() => void) | undefined

  constructor(
    rooms: CatchUpRooms,
    { topic, after, needsValues }: { topic: Topic; after: number; needsValues: boolean },
    reader: CatchUpReader,
  ) {
    this.#rooms = rooms
    this.#topic = topic
    this.#needsValues = needsValues
    this.#reader = reader
    this.#at = after
  }

  /** Everything up to this epoch has been handed over. */
  get at(): number {
    return this.#at
  }

  /** Hands over what there is room for. */
  pump(): void {
    const { clock } = this.#rooms
    const untilMs = clock.nowMs() + STREAM_CATCH_UP_SLICE_MS
    for (let steps = 1; !this.#isWaiting && !this.#isOver && this.#reader.hasRoom(); steps++) {
      this.#step()
      if (steps % STEPS_PER_LOOK === 0 && clock.nowMs() >= untilMs) this.#rest()
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
    this.#cancelTimer = this.#rooms.clock.soon(() => {
      this.#isWaiting = false
      this.pump()
    })
  }

  #step(): void {
    const { recent } = this.#rooms
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
      const message = this.#rooms.recent.messageOf(this.#topic, this.#at + 1, this.#needsValues)
      if (message === undefined) this.#ask()
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

  #hand(epoch: number, message: ChangeMessage | null): void {
    this.#at = epoch
    if (message !== null) this.#reader.take(message)
  }

  #ask(): void {
    this.#isWaiting = true
    const { piece, release } = this.#rooms.past.read(this.#topic, this.#at, this.#needsValues)
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
