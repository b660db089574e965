/**
 * Taking in messages that hold many frames, one behind the other, without a promise for each frame.
 *
 * Invariants: the message is copied. Its frames are queued or refused in order, each under its own number. A
 * frame that is not plain is submitted like any other frame (src/engine/commands/transactions.ts), which says
 * what is wrong with it.
 */

import { MmsbError } from '../../errors.js'
import { RUN_FRAME_MAX_BYTES } from '../../limits.js'
import { frameLengthAt, isPlainFrame } from '../../state/frame/plain.js'
import type { Slab } from '../../state/slab.js'
import { align8 } from '../../wire/align.js'
import { FRAME_HEADER_BYTES } from '../../wire/frame.js'
import type { IngestResult } from '../call-types.js'
import type { PageRecord, Registry } from '../pages/registry.js'
import type { CommitResult, FrameAccess, FrameWatch, Sender } from '../types.js'
import type { Committer } from './committer.js'
import { runSlabs } from './frame-run.js'

export interface FrameIngestDeps {
  readonly registry: Registry
  readonly committer: Committer
  /** Estimated nanoseconds of what a write of this page makes necessary. */
  readonly costNsOf: (pageId: number) => number
  readonly submit: (
    frame: Uint8Array,
    access: FrameAccess | undefined,
    told: ToldPages | undefined,
  ) => Promise<CommitResult>
}

/** Is told the pages of one frame. */
export interface ToldPages {
  readonly withWrites: boolean
  readonly saw: (page: string) => void
}

export class FrameIngest {
  readonly #deps: FrameIngestDeps
  #page: PageRecord | undefined
  #access: FrameAccess | undefined
  /** Is told every page of plain frames, of the frame with this number. */
  #watch: FrameWatch | undefined
  #number = 0

  constructor(deps: FrameIngestDeps) {
    this.#deps = deps
  }

  /** Queues or refuses the frames of a message, numbered from `first` on. Without `access` all is allowed. */
  take(sender: Sender, first: number, message: Uint8Array, access?: FrameAccess): IngestResult {
    const taken: IngestResult = { numbers: 0, frames: 0, bytes: 0 }
    this.#page = undefined
    this.#access = access
    this.#watch = sender.watch?.withWrites === true ? sender.watch : undefined
    for (let at = 0; at < message.length; ) at = this.#takePiece(sender, first, message, at, taken)
    return taken
  }

  /**
   * Queues or refuses the complete frames of the next piece of a message; returns where the piece after it
   * begins.
   */
  #takePiece(sender: Sender, first: number, message: Uint8Array, from: number, taken: IngestResult): number {
    const piece = message.subarray(from, from + RUN_FRAME_MAX_BYTES)
    const slab = runSlabs.withRoom(align8(piece.length))
    const start = slab.used
    const end = start + piece.length
    const messageEnd = start + message.length - from
    slab.bytes.set(piece, start)
    let at = start
    while (at < end) {
      // A frame that the piece cuts is complete in the next piece, unless it is longer than any piece.
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

  /** Queues a plain frame; returns false for any other, and for one that cannot be queued now. */
  #join(sender: Sender, number: number, slab: Slab, at: number, length: number): boolean {
    const { committer } = this.#deps
    if (!committer.lifecycle.isWritable || !committer.hasRoom(length)) return false
    this.#number = number
    const pageOf = this.#watch === undefined ? this.#pageOf : this.#watchedPageOf
    if (!isPlainFrame(slab, at, length, pageOf)) return false
    const admission = this.#access?.admission
    if (admission !== undefined && !admission.admitsPlain(length, this.#costNs)) return false
    committer.commitPlain(sender, number, slab, at, length)
    slab.used = at + length
    return true
  }

  /** Of the page that was looked up last. */
  readonly #costNs = (): number => (this.#page === undefined ? 0 : this.#deps.costNsOf(this.#page.id))

  readonly #pageOf = (id: number): PageRecord | undefined => {
    // Consecutive frames often write the same page: look it up once.
    if (this.#page?.id === id) return this.#page
    const page = this.#deps.registry.byId(id)
    if (page === undefined || page.kind === 'derived') return undefined
    if (this.#access !== undefined && !this.#access.mayWrite(page)) return undefined
    this.#page = page
    return page
  }

  readonly #watchedPageOf = (id: number): PageRecord | undefined => {
    const page = this.#pageOf(id)
    if (page !== undefined) this.#watch?.saw(this.#number, page.name)
    return page
  }

  #submit(sender: Sender, number: number, frame: Uint8Array, taken: IngestResult): void {
    const bytes = frame.byteLength
    try {
      this.#deps.submit(frame, this.#access, told(sender.watch, number)).then(
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

const told = (watch: FrameWatch | undefined, number: number): ToldPages | undefined =>
  watch && { withWrites: watch.withWrites, saw: (page) => watch.saw(number, page) }

const noFrame = (): MmsbError =>
  new MmsbError('INVALID_REQUEST', 'the message holds no frame where one should start')
