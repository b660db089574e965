/**
 * Bodies that are made while they are sent: a piece at a time, as the socket takes them.
 *
 * Invariant: making a body never holds the event loop for longer than one piece and a few milliseconds, so
 * pieces must be small. Nothing is made for a client that does not read.
 *
 * Null because a stream of Node ends with it.
 */
import { Readable } from 'node:stream'
import { ANSWER_SLICE_MS, OCTETS_PIECE_BYTES } from '../../limits.js'
import { atNextSlice } from '../../slices.js'

class SlicedBody extends Readable {
  readonly #pieces: Iterator<string | Uint8Array>
  #isScheduled = false

  constructor(pieces: Iterator<string | Uint8Array>) {
    super()
    this.#pieces = pieces
  }

  override _read(): void {
    if (this.#isScheduled) return
    this.#isScheduled = true
    atNextSlice(this.#make)
  }

  readonly #make = (): void => {
    this.#isScheduled = false
    if (this.destroyed) return
    const latestMs = performance.now() + ANSWER_SLICE_MS
    try {
      for (;;) {
        const { done, value } = this.#pieces.next()
        if (done === true) {
          this.push(null)
          return
        }
        if (!this.push(value)) return
        if (performance.now() > latestMs) break
      }
    } catch (error) {
      this.destroy(error as Error)
      return
    }
    this._read()
  }
}

/** A body of these pieces: text or bytes, each made when it is asked for. */
export function slicedBody(pieces: Iterable<string | Uint8Array>): Readable {
  return new SlicedBody(pieces[Symbol.iterator]())
}

/** The entries of a JSON list, each made when it is asked for. */
export function* listed(entries: Iterable<object>): Generator<string> {
  let separator = ''
  for (const entry of entries) {
    yield separator + JSON.stringify(entry)
    separator = ','
  }
}

/** Joins many short texts into pieces that are worth a write of their own. */
export function* joined(texts: Iterable<string>): Generator<string> {
  let piece = ''
  for (const text of texts) {
    piece += text
    if (piece.length < TEXT_PIECE_CHARS) continue
    yield piece
    piece = ''
  }
  yield piece
}

const TEXT_PIECE_CHARS = 16 * 1024

/** The parts of bytes that are sent one by one, so that it shows whether the client still reads. */
export function* partsOf(bytes: Uint8Array): Generator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += OCTETS_PIECE_BYTES) {
    yield bytes.subarray(at, at + OCTETS_PIECE_BYTES)
  }
}
