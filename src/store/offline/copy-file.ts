/**
 * Copies one file of a data folder or backup, durably, and hashes what it copies.
 *
 * Invariants: a link is not followed, and what is not a plain file is refused. The copy is a new file that
 * only its owner can read.
 */
import { createHash } from 'node:crypto'
import fs from 'node:fs'
import { busFailed, textOf } from '../os/errors.js'
import { PRIVATE_FILE } from '../os/private-files.js'

const PIECE_BYTES = 1024 ** 2

export interface Copied {
  readonly bytes: number
  readonly sha256: string
}

/** Gets the bytes of a file that are copied, and its path, after each piece. */
export type OnCopied = (bytes: number, file: string) => void

/** Copies a file, or its first `length` bytes. Throws BUS_FAILED. */
export function copyFile(
  from: string,
  to: string,
  length = Number.POSITIVE_INFINITY,
  onCopied: OnCopied = () => {},
): Copied {
  try {
    const source = fs.openSync(from, fs.constants.O_RDONLY | fs.constants.O_NOFOLLOW)
    try {
      if (!fs.fstatSync(source).isFile()) throw new Error('it is not a plain file')
      return copyOpen(source, to, length, (bytes) => onCopied(bytes, from))
    } finally {
      fs.closeSync(source)
    }
  } catch (error) {
    throw busFailed(`${from} cannot be copied to ${to}: ${textOf(error)}`, error)
  }
}

function copyOpen(source: number, to: string, length: number, onPiece: (bytes: number) => void): Copied {
  const target = fs.openSync(to, 'wx', PRIVATE_FILE)
  try {
    const hash = createHash('sha256')
    const piece = new Uint8Array(PIECE_BYTES)
    let bytes = 0
    while (bytes < length) {
      const got = fs.readSync(source, piece, 0, Math.min(PIECE_BYTES, length - bytes), bytes)
      if (got === 0) break
      hash.update(piece.subarray(0, got))
      for (let done = 0; done < got; ) done += fs.writeSync(target, piece, done, got - done)
      bytes += got
      onPiece(bytes)
    }
    fs.fsyncSync(target)
    return { bytes, sha256: hash.digest('hex') }
  } finally {
    fs.closeSync(target)
  }
}
