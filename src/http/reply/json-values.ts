/**
 * JSON answers that hold page values.
 *
 * Invariant: the text is JSON however many values there are; above JSON_PIECE_ELEMENTS it is made and sent in pieces, so
 * that one large answer does not hold up the others.
 */
import { Readable } from 'node:stream'
import type { PageData } from '../../engine/types.js'
import { JSON_PIECE_ELEMENTS } from '../../limits.js'
import { valuesToJsonText } from '../../state/value.js'

/** A JSON text with holes: strings go out as they are, pages as the list of their values. */
export type JsonPieces = readonly (string | PageData)[]

/** What to send for the pieces: one string, or a stream of them. */
export function renderPieces(pieces: JsonPieces): string | Readable {
  let elements = 0
  for (const piece of pieces) if (typeof piece !== 'string') elements += piece.values.length
  if (elements > JSON_PIECE_ELEMENTS) return Readable.from(chunks(pieces), { objectMode: false })
  return pieces
    .map((piece) => (typeof piece === 'string' ? piece : valuesToJsonText(piece.dtype, piece.values)))
    .join('')
}

function* chunks(pieces: JsonPieces): Generator<string> {
  for (const piece of pieces) {
    if (typeof piece === 'string') {
      yield piece
      continue
    }
    const { dtype, values } = piece
    yield '['
    for (let at = 0; at < values.length; at += JSON_PIECE_ELEMENTS) {
      const text = valuesToJsonText(dtype, values.subarray(at, at + JSON_PIECE_ELEMENTS))
      yield at === 0 ? text.slice(1, -1) : `,${text.slice(1, -1)}`
    }
    yield ']'
  }
}
