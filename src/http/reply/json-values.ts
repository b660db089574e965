/**
 * JSON answers that contain page values.
 *
 * Invariant: an answer of more than JSON_PIECE_ELEMENTS values is made and sent in pieces, so that a large
 * answer does not hold up the others, and its text is never in memory as a whole.
 */
import type { Readable } from 'node:stream'
import type { PageData } from '../../engine/types.js'
import { ANSWER_FREE_BYTES, JSON_PIECE_ELEMENTS } from '../../limits.js'
import type { JsonPart } from '../../state/json-parts.js'
import { valuesToJsonText, valuesToJsonTexts } from '../../state/value.js'
import { joined, partsOf, slicedBody } from './sliced-body.js'

/** The parts of a JSON text: strings are sent as they are, a page as the list of its values. */
export type JsonPieces = readonly (string | Pick<PageData, 'dtype' | 'values'>)[]

/** The body to send: one string, or a stream when there are many values. */
export function renderPieces(pieces: JsonPieces): string | Readable {
  let elements = 0
  for (const piece of pieces) if (typeof piece !== 'string') elements += piece.values.length
  if (elements > JSON_PIECE_ELEMENTS) return slicedBody(joined(jsonTexts(pieces)))
  return pieces
    .map((piece) => (typeof piece === 'string' ? piece : valuesToJsonText(piece.dtype, piece.values)))
    .join('')
}

/** How many bytes these parts hold. */
export const bytesOfParts = (parts: readonly JsonPart[]): number =>
  parts.reduce((sum, part) => sum + (part instanceof Uint8Array ? part : part.values).byteLength, 0)

/** The body to send for parts of JSON: bytes when they are few, or a stream. */
export function renderParts(parts: readonly JsonPart[]): Buffer | Readable {
  const [first] = parts
  const isOne = parts.length === 1 && first instanceof Uint8Array
  if (isOne && first.length <= ANSWER_FREE_BYTES) return Buffer.from(first.buffer, 0, first.length)
  return slicedBody(piecesOf(parts))
}

function* piecesOf(parts: readonly JsonPart[]): Generator<string | Uint8Array> {
  for (const part of parts) {
    if (part instanceof Uint8Array) yield* partsOf(part)
    else yield* jsonTexts([part])
  }
}

/** The text of the pieces, a bounded part at a time. */
export function* jsonTexts(pieces: Iterable<JsonPieces[number]>): Generator<string> {
  for (const piece of pieces) {
    if (typeof piece === 'string') {
      yield piece
      continue
    }
    yield* valuesToJsonTexts(piece.dtype, piece.values)
  }
}
