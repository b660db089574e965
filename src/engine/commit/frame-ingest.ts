/**
 * The door for senders of many frames: messages of frames one behind the other, taken in without a promise for each.
 *
 * Invariants: a message is copied; its frames are taken or refused in their order, each under a number of its own; what is not
 * plain goes the way of any frame (src/engine/commands/transactions.ts), where it is told what is wrong.
 */
import { MmsbError } from '../../errors.js'
import { RUN_FRAME_MAX_BYTES } from '../../limits.js'
import { frameLengthAt, isPlainFrame } from '../../state/frame/plain.js'
import type { Slab } from '../../state/slab.js'
import { align8 } from '../../wire/align.js'
import { FRAME_HEADER_BYTES } from '../../wire/frame.js'
import type { PageRecord, Registry } from '../pages/registry.js'
import type { CommitResult, Sender } from '../types.js'
import type { Committer } from './committer.js'
import { runSlabs } from './frame-run.js'

export interface IntakeRooms {
  readonly registry: Registry
  readonly committer: Committer
  readonly submit: (frame: Uint8Array) => Promise<CommitResult>
}

/** What became of a message. */
export interface Taken {
  /** Numbers used up: frames, and one for what is none. */
  numbers: number
  /** Frames of which the sender will hear. */
  frames: number
  bytes: number
}

export class Intake {
  readonly #rooms: IntakeRooms
  #page: PageRecord | undefined

  constructor(rooms: IntakeRooms) {
    this.#rooms = rooms
  }

  /** Takes the frames of a message, numbered from `first` on. */
  take(sender: Sender, first: number, message: Uint8Array): Taken {
    const taken: Taken = { numbers: 0, frames: 0, bytes: 0 }
    this.#page = undefined
    for (let at = 0; at < message.length; ) at = this.#takePiece(sender, first, message, at, taken)
    return taken
  }

  /** Takes the whole frames of the next piece of a message; returns where the piece after it begins. */
  #takePiece(sender: Sender, first: number, message: Uint8Array, from: number, taken: Taken): number {
    const piece = message.subarray(from, from + RUN_FRAME_MAX_BYTES)
    const slab = runSlabs.withRoom(align8(piece.length))
    const start = slab.used
    const end = start + piece.length
    const messageEnd = start + message.length - from
    slab.bytes.set(piece, start)
    let at = start
    while (at < end) {
      // What the piece cuts is whole in the next one, unless it is longer than any.
      if (at > start && end < messageEnd && end - at < FRAME_HEADER_BYTES) break
      const length = frameLengthAt(slab, at, end)
      const number = first + taken.numbers
      if (length === 0 || length > messageEnd - at) {
        taken.numbers++
        sender.refused(number, noFrame())
        return message.length
      }
      if (at > start && at + length > end) break
      taken.numbers++
      const isWhole = at + length <= end
      if (!isWhole || !this.#join(sender, number, slab, at, length)) {
        const frame = message.subarray(from + at - start, from + at - start + length)
        this.#submit(sender, number, frame, taken)
      } else {
        taken.frames++
        taken.bytes += length
      }
      at += length
    }
    return from + at - start
  }

  /** Queues a frame if it is plain. */
  #join(sender: Sender, number: number, slab: Slab, at: number, length: number): boolean {
    const { committer } = this.#rooms
    if (committer.isStopped || !committer.hasRoom(length)) return false
    if (!isPlainFrame(slab, at, length, this.#pageOf)) return false
    committer.commitPlain(sender, number, slab, at, length)
    slab.used = at + length
    return true
  }

  readonly #pageOf = (id: number): PageRecord | undefined => {
    // Runs of deltas to one page are common: look it up once.
    if (this.#page?.id === id) return this.#page
    const page = this.#rooms.registry.byId(id)
    if (page === undefined || page.kind === 'derived') return undefined
    this.#page = page
    return page
  }

  #submit(sender: Sender, number: number, frame: Uint8Array, taken: Taken): void {
    const bytes = frame.byteLength
    try {
      this.#rooms.submit(frame).then(
        ({ epoch }) => sender.committed(number, 1, bytes, epoch),
        (error: unknown) => sender.failed(number, 1, bytes, error),
      )
    } catch (error) {
      sender.refused(number, error)
      return
    }
    taken.frames++
    taken.bytes += bytes
  }
}

const noFrame = (): MmsbError =>
  new MmsbError('INVALID_REQUEST', 'the message holds no frame where one should start')
