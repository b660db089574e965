/**
 * The files of an audit folder: one of lines for each day (UTC), and `head`, which names the last line that
 * is known to be durable.
 *
 * Invariants: files are read in the order of their names, which is that of their lines. `head` is never ahead
 * of the lines: it is written after they are durable. So lines that are missing before it were taken away,
 * and a piece of a line behind it is what a crash left.
 */
import fs from 'node:fs'
import path from 'node:path'
import { type ChainEnd, hashOf, NO_LINES } from './line.js'

export const HEAD_NAME = 'head'
const FILE_NAME = /^\d{4,6}-\d\d-\d\d\.jsonl$/
const READ_BYTES = 256 * 1024
const NEWLINE = 0x0a

/** The end of the chain, and the place behind its last line. `file` is empty before there is one. */
export interface Head extends ChainEnd {
  readonly file: string
  readonly bytes: number
}

export const EMPTY: Head = { ...NO_LINES, file: '', bytes: 0 }

/** The name of the file for the lines of a day. */
export const fileOf = (tsMs: number): string => `${new Date(tsMs).toISOString().slice(0, 10)}.jsonl`

/** The names of the files of lines, oldest first. */
export const filesIn = (dir: string): string[] =>
  fs
    .readdirSync(dir)
    .filter((name) => FILE_NAME.test(name))
    .sort()

/** What `head` says; undefined if it is missing or cannot be read. */
export function readHead(dir: string): Head | undefined {
  try {
    const { seq, sha256, file, bytes } = JSON.parse(
      fs.readFileSync(path.join(dir, HEAD_NAME), 'utf8'),
    ) as Head
    const isSound =
      [seq, bytes].every((n) => Number.isSafeInteger(n) && n >= 0) && /^[0-9a-f]{64}$/.test(sha256)
    return isSound && (file === '' || FILE_NAME.test(file)) ? { seq, sha256, file, bytes } : undefined
  } catch {
    return undefined
  }
}

/** Always as long, so that one write replaces it. */
export function headText({ seq, sha256, file, bytes }: Head): string {
  return `${JSON.stringify({ seq, sha256, file, bytes }).padEnd(HEAD_BYTES - 1)}\n`
}

const HEAD_BYTES = 256

/** A complete line, or the bytes behind the last newline of a file. */
export interface FoundLine {
  readonly bytes: Buffer
  readonly isComplete: boolean
}

/** The lines of a file from an offset on. */
export function* linesIn(file: string, from = 0): Generator<FoundLine> {
  const fd = fs.openSync(file, 'r')
  try {
    const piece = Buffer.allocUnsafe(READ_BYTES)
    let parts: Buffer[] = []
    for (let at = from; ; ) {
      const read = fs.readSync(fd, piece, 0, piece.length, at)
      if (read === 0) break
      at += read
      let start = 0
      for (let end = piece.indexOf(NEWLINE); end >= 0 && end < read; end = piece.indexOf(NEWLINE, start)) {
        parts.push(Buffer.from(piece.subarray(start, end)))
        yield { bytes: Buffer.concat(parts), isComplete: true }
        parts = []
        start = end + 1
      }
      if (start < read) parts.push(Buffer.from(piece.subarray(start, read)))
    }
    if (parts.length > 0) yield { bytes: Buffer.concat(parts), isComplete: false }
  } finally {
    fs.closeSync(fd)
  }
}

/** Where the next line goes, and how many bytes of a torn line stand there. */
export function findEnd(dir: string): { head: Head; tornBytes: number } {
  const known = readHead(dir)
  const files = filesIn(dir)
  let head = known ?? { ...EMPTY, file: files.at(-1) ?? '' }
  let tornBytes = 0
  for (const file of files.filter((name) => name >= head.file)) {
    const { size } = fs.statSync(path.join(dir, file))
    // Of a file that was cut, the chain goes on behind what is left: the check names the gap.
    if (file !== head.file || size < head.bytes)
      head = { ...head, file, bytes: file === head.file ? size : 0 }
    tornBytes = 0
    for (const { bytes, isComplete } of linesIn(path.join(dir, file), head.bytes)) {
      if (!isComplete) {
        tornBytes = bytes.length
        continue
      }
      const seq = seqOf(bytes) ?? head.seq + 1
      head = { file, seq, sha256: hashOf(bytes), bytes: head.bytes + bytes.length + 1 }
    }
  }
  // Files that were archived while the server was stopped leave the chain as it was.
  if (head.file !== '' && !files.includes(head.file)) head = { ...head, bytes: 0 }
  return { head, tornBytes }
}

/** The number of a line; undefined if it has none. */
export function seqOf(line: Buffer): number | undefined {
  try {
    const { seq } = Object(JSON.parse(line.toString('utf8'))) as { seq?: unknown }
    return Number.isSafeInteger(seq) && (seq as number) > 0 ? (seq as number) : undefined
  } catch {
    return undefined
  }
}
