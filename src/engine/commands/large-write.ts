/**
 * Writes of whole pages that do not fit one frame: pieces, committed one after the other.
 *
 * Invariant: the last piece has the caller's key, so a write that was completed is recognised by it; the
 * pieces before it have keys made from it.
 */
import type { DeltaValues } from '../../state/types.js'
import type { CommitResult, WriteOptions } from '../types.js'

export interface Piece {
  readonly offset: number
  readonly values: DeltaValues
  readonly options: WriteOptions
}

/** The pieces of a page's values, of `step` elements each. */
export function piecesOf(values: DeltaValues, step: number, options: WriteOptions): Piece[] {
  const { key, expectVersion, ...rest } = options
  const pieces: Piece[] = []
  for (let offset = 0; offset < values.length; offset += step) {
    const end = Math.min(offset + step, values.length)
    const isLast = end === values.length
    pieces.push({
      offset,
      values: Array.isArray(values) ? values.slice(offset, end) : partOf(values as never, offset, end),
      options: {
        ...rest,
        ...(key === undefined ? {} : { key: isLast ? key : `${key}#${offset}` }),
        ...(offset === 0 && expectVersion !== undefined ? { expectVersion } : {}),
      },
    })
  }
  return pieces
}

/** A view, no copy. */
function partOf<T extends { subarray(start: number, end: number): T }>(
  values: T,
  start: number,
  end: number,
): T {
  return values.subarray(start, end)
}

/** Commits the pieces in order; each expects the version that the one before it made. */
export async function commitPieces(
  name: string,
  pieces: readonly Piece[],
  commit: (piece: Piece, options: WriteOptions) => Promise<CommitResult>,
): Promise<CommitResult> {
  let result: CommitResult | undefined
  for (const piece of pieces) {
    const version = result?.pages[name]
    const options = version === undefined ? piece.options : { ...piece.options, expectVersion: version }
    result = await commit(piece, options)
  }
  return result as CommitResult
}
