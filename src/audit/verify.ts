/**
 * Checks an audit trail: finds lines that were edited, cut, inserted or put into another order, and names
 * them.
 *
 * What it cannot find by itself: who can write to the folder can also write every line and `head` anew. An
 * anchor, that is the number and hash of a line, kept on another machine, finds that too.
 */
import fs from 'node:fs'
import path from 'node:path'
import { filesIn, HEAD_NAME, type Head, linesIn, readHead, seqOf } from './files.js'
import { type ChainEnd, hashOf, NO_LINES } from './line.js'

export interface TrailReport extends ChainEnd {
  readonly files: number
  readonly lines: number
  /** The trail is not as it was written. */
  readonly problems: readonly string[]
  /** What a crash or an archive explains. */
  readonly notes: readonly string[]
}

export interface Anchors {
  /** The last line of the files that were archived: the trail goes on behind it. */
  readonly after?: ChainEnd | undefined
  /** A line that must be in the trail. */
  readonly known?: ChainEnd | undefined
}

/** Problems that are listed; the others are counted. */
const LISTED_MAX = 100

/** Checks all files of the folder. Throws errors of the system. */
export function verifyTrail(dir: string, { after = NO_LINES, known }: Anchors = {}): TrailReport {
  // Before the lines, because a server may be writing.
  const head = readHead(dir)
  const files = filesIn(dir)
  const check = new Check(after, known, head)
  for (const file of files) {
    const isNewest = file === files.at(-1)
    let number = 0
    for (const { bytes, isComplete } of linesIn(path.join(dir, file))) {
      const place = `${file}:${++number}`
      if (isComplete) check.line(bytes, place)
      else check.rest(bytes.length, place, isNewest)
    }
  }
  check.end(fs.existsSync(path.join(dir, HEAD_NAME)), files.length)
  const { seq, sha256 } = check.last
  return {
    files: files.length,
    lines: check.lines,
    seq,
    sha256,
    problems: check.problems,
    notes: check.notes,
  }
}

class Check {
  readonly problems: string[] = []
  readonly notes: string[] = []
  lines = 0
  last: ChainEnd
  #lastPlace = 'the beginning'
  #unlisted = 0
  readonly #known: ChainEnd | undefined
  readonly #head: Head | undefined
  #hasKnown = false
  #hasHead = false

  constructor(after: ChainEnd, known: ChainEnd | undefined, head: Head | undefined) {
    this.last = after
    this.#known = known
    this.#head = head
    this.#hasKnown = known === undefined || known.seq === after.seq
    this.#hasHead = head === undefined || head.seq <= after.seq
  }

  #complain(problem: string): void {
    if (this.problems.length < LISTED_MAX) this.problems.push(problem)
    else this.#unlisted++
  }

  line(bytes: Buffer, place: string): void {
    const sha256 = hashOf(bytes)
    const expected = this.last.seq + 1
    const seq = seqOf(bytes)
    this.lines++
    if (seq === undefined)
      this.#complain(`${place}: line ${expected} was edited: it is not a line of a trail`)
    else if (seq > expected)
      this.#complain(`${place}: ${missing(expected, seq - 1)} missing before line ${seq}`)
    else if (seq < expected)
      this.#complain(`${place}: line ${seq} was inserted or moved: it stands behind line ${this.last.seq}`)
    else if (prevOf(bytes) !== this.last.sha256)
      this.#complain(
        this.last.seq === 0
          ? `${place}: line ${seq} was edited: it is the first, and names a line before it`
          : `${this.#lastPlace}: line ${this.last.seq} was edited: line ${seq} (${place}) carries another hash of it`,
      )
    this.last = { seq: seq ?? expected, sha256 }
    this.#lastPlace = place
    this.#compare(place)
  }

  /** Lines whose hash is known from elsewhere. */
  #compare(place: string): void {
    const { seq, sha256 } = this.last
    for (const [other, what] of [
      [this.#head, 'head'],
      [this.#known, 'the given hash'],
    ] as const) {
      if (other?.seq !== seq) continue
      if (other === this.#head) this.#hasHead = true
      else this.#hasKnown = true
      if (other.sha256 !== sha256) this.#complain(`${place}: line ${seq} was edited: ${what} says otherwise`)
    }
  }

  /** Bytes behind the last newline of a file. */
  rest(bytes: number, place: string, isNewest: boolean): void {
    if (isNewest)
      this.notes.push(`${place}: ${bytes} bytes of a line that a crash has torn, or that is being written`)
    else this.#complain(`${place}: ${bytes} bytes that are no line, in a file that is complete`)
  }

  end(hasHeadFile: boolean, files: number): void {
    const { seq } = this.last
    if (this.#head === undefined && files > 0)
      this.#complain(
        `${HEAD_NAME} ${hasHeadFile ? 'was edited' : 'is missing'}: it would say whether lines at the end are missing`,
      )
    if (!this.#hasHead && this.#head !== undefined)
      this.#complain(`${this.#lastPlace}: ${missing(seq + 1, this.#head.seq)} missing at the end`)
    if (!this.#hasKnown && this.#known !== undefined)
      this.#complain(`line ${this.#known.seq}, whose hash was given, is not there`)
    if (this.#unlisted > 0) this.problems.push(`and ${this.#unlisted} more problems`)
  }
}

const missing = (from: number, to: number): string =>
  from === to ? `line ${from} is` : `lines ${from} to ${to} are`

/** The hash of the line before that a line carries. */
function prevOf(line: Buffer): unknown {
  return (JSON.parse(line.toString('utf8')) as { prev?: unknown }).prev
}
