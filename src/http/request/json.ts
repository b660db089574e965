/**
 * Parses JSON that a client sent: bodies and messages.
 *
 * JSON.parse holds the event loop for as long as it runs, and a text of a few megabytes that is made for it
 * can take seconds. So a large text is parsed in pieces of JSON_PIECE_BYTES, and other work runs in between.
 *
 * Invariants: bytes that are not UTF-8 are refused, never replaced. Size, nesting depth and the number of
 * objects and arrays are checked before anything is parsed. Parsing in pieces gives what JSON.parse gives. A
 * field called `__proto__` is a field like any other. Knows nothing of schemas.
 */
import { isUtf8 } from 'node:buffer'
import { MmsbError } from '../../errors.js'
import { JSON_CONTAINERS_MAX, JSON_MEMBERS_MAX, JSON_PIECE_BYTES, JSON_SLICE_MS } from '../../limits.js'
import type { LimitGuard } from '../../operator-limits.js'
import { Slices } from '../../slices.js'
import { setOwn } from '../../state/own-field.js'

/** Texts up to this size are parsed at once. */
export const isSmallJson = (bytes: Uint8Array): boolean => bytes.length <= JSON_PIECE_BYTES

/**
 * Parses a text of any size. The detail of an error begins with `where`, such as `body`.
 * @throws MmsbError INVALID_REQUEST, PAYLOAD_TOO_LARGE
 */
export async function parseJson(given: Buffer, where: string, limits: LimitGuard): Promise<unknown> {
  if (isSmallJson(given)) return parseSmallJson(given, where, limits)
  const bytes = checkedText(given, where, limits)
  const scan = new Scan(bytes, where, limits)
  const slices = new Slices(undefined, undefined, JSON_SLICE_MS)
  while (!scan.advance(JSON_PIECE_BYTES)) await slices.giveWay()
  return new Pieces(bytes, where, scan.large, slices).parse()
}

/**
 * Parses a small text. Part of most requests, so it looks at the bytes again only where the text gives a
 * reason to. @throws MmsbError INVALID_REQUEST, PAYLOAD_TOO_LARGE
 */
export function parseSmallJson(given: Buffer, where: string, limits: LimitGuard): unknown {
  const { maxJsonBytes, maxJsonDepth } = limits.values
  if (given.length > maxJsonBytes) throw tooLargeJson(where, limits)
  const text = given.toString()
  if (text.includes(REPLACED) && !isUtf8(given)) throw notUtf8(where)
  const hasMark = text.charCodeAt(0) === BYTE_ORDER_MARK
  // Each level has two brackets.
  if (text.length > 2 * maxJsonDepth && hasOpeners(text, maxJsonDepth)) {
    const bytes = checkedText(given, where, limits)
    new Scan(bytes, where, limits).advance(bytes.length)
  }
  return parseText(hasMark ? text.slice(1) : text, where)
}

/** Stands in a decoded text for what was not UTF-8, or for itself. */
const REPLACED = '\ufffd'
const BYTE_ORDER_MARK = 0xfeff

const notUtf8 = (where: string): MmsbError => new MmsbError('INVALID_REQUEST', `${where}: is not UTF-8`)

/** Checks size and encoding; returns the bytes without a byte order mark. */
function checkedText(bytes: Buffer, where: string, limits: LimitGuard): Buffer {
  if (bytes.length > limits.values.maxJsonBytes) throw tooLargeJson(where, limits)
  if (!isUtf8(bytes)) throw notUtf8(where)
  const hasMark = bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf
  return hasMark ? bytes.subarray(3) : bytes
}

/** Whether a text has more than so many opening brackets, in strings too: fewer cannot be nested deeper. */
function hasOpeners(text: string, most: number): boolean {
  let count = 0
  for (let at = text.indexOf('['); at >= 0; at = text.indexOf('[', at + 1)) if (++count > most) return true
  for (let at = text.indexOf('{'); at >= 0; at = text.indexOf('{', at + 1)) if (++count > most) return true
  return false
}

/** The error for a JSON text over the limit. */
export const tooLargeJson = (where: string, limits: LimitGuard): MmsbError =>
  limits.refusal('maxJsonBytes', `${where}: JSON of more than ${limits.values.maxJsonBytes} bytes`)

function parseText(text: string, where: string): unknown {
  try {
    return JSON.parse(text)
  } catch (error) {
    throw new MmsbError('INVALID_REQUEST', `${where}: is not JSON: ${shown((error as Error).message)}`)
  }
}

/** Messages of JSON.parse quote the text. */
const shown = (message: string): string => message.slice(0, 200)

const notJson = (where: string, what: string): MmsbError =>
  new MmsbError('INVALID_REQUEST', `${where}: is not JSON: ${what}`)

const QUOTE = 0x22
const COMMA = 0x2c
const COLON = 0x3a
const BACKSLASH = 0x5c
const ARRAY = 0x5b
const ARRAY_END = 0x5d
const OBJECT = 0x7b
const OBJECT_END = 0x7d

/** Index behind the string that begins at `at`; beyond the end when the string does not end. */
function stringEnd(bytes: Uint8Array, at: number): number {
  for (let i = at + 1; i < bytes.length; i++) {
    const byte = bytes[i]
    if (byte === BACKSLASH) i++
    else if (byte === QUOTE) return i + 1
  }
  return bytes.length + 1
}

/** The first look at a text: it checks depth and counts, and finds the objects and arrays that are large. */
class Scan {
  /** Where each large object or array begins, and the index behind its end. */
  readonly large = new Map<number, number>()
  readonly #bytes: Uint8Array
  readonly #where: string
  readonly #limits: LimitGuard
  readonly #starts: number[] = []
  #containers = 0
  #at = 0

  constructor(bytes: Uint8Array, where: string, limits: LimitGuard) {
    this.#bytes = bytes
    this.#where = where
    this.#limits = limits
  }

  /** Looks at about so many more bytes. Returns true at the end. @throws MmsbError INVALID_REQUEST */
  advance(count: number): boolean {
    const bytes = this.#bytes
    const end = Math.min(bytes.length, this.#at + count)
    let at = this.#at
    while (at < end) {
      const byte = bytes[at]
      if (byte === QUOTE) {
        at = stringEnd(bytes, at)
        continue
      }
      if (byte === ARRAY || byte === OBJECT) this.#open(at)
      else if (byte === ARRAY_END || byte === OBJECT_END) this.#close(at + 1)
      at++
    }
    this.#at = at
    if (at < bytes.length) return false
    if (this.#starts.length > 0 || at > bytes.length) throw notJson(this.#where, 'it ends too early')
    return true
  }

  #open(at: number): void {
    const { maxJsonDepth } = this.#limits.values
    if (this.#starts.push(at) > maxJsonDepth) {
      throw this.#limits.refusal('maxJsonDepth', `${this.#where}: is nested deeper than ${maxJsonDepth}`)
    }
    if (++this.#containers > JSON_CONTAINERS_MAX) {
      throw new MmsbError(
        'INVALID_REQUEST',
        `${this.#where}: has more than ${JSON_CONTAINERS_MAX} objects and arrays`,
      )
    }
  }

  #close(end: number): void {
    const start = this.#starts.pop()
    if (start === undefined) throw notJson(this.#where, 'a bracket closes nothing')
    if (end - start > JSON_PIECE_BYTES) this.large.set(start, end)
  }
}

/** An array or object that is put together from pieces. */
interface Assembly {
  readonly open: number
  /** Takes in the elements or members of a piece of text. */
  add(text: string): void
}

/** The second look: parses the text piece by piece. */
class Pieces {
  readonly #bytes: Buffer
  readonly #where: string
  readonly #large: ReadonlyMap<number, number>
  readonly #slices: Slices

  constructor(bytes: Buffer, where: string, large: ReadonlyMap<number, number>, slices: Slices) {
    this.#bytes = bytes
    this.#where = where
    this.#large = large
    this.#slices = slices
  }

  parse(): Promise<unknown> {
    return this.#value(0, this.#bytes.length)
  }

  /** The value between two indices, with white space around it. */
  async #value(from: number, to: number): Promise<unknown> {
    const start = this.#skipSpace(from)
    const end = this.#large.get(start)
    if (end === undefined) return this.#parse(from, to)
    if (this.#skipSpace(end) < to) throw notJson(this.#where, 'text follows a value')
    return this.#bytes[start] === ARRAY ? this.#array(start, end) : this.#object(start, end)
  }

  async #array(start: number, end: number): Promise<unknown[]> {
    const out: unknown[] = []
    const add = (text: string): void => {
      for (const item of parseText(`[${text}]`, this.#where) as unknown[]) out.push(item)
    }
    await this.#assemble(start, end, { open: ARRAY, add }, async (from, to) => {
      out.push(await this.#value(from, to))
    })
    return out
  }

  async #object(start: number, end: number): Promise<object> {
    const out: Record<string, unknown> = {}
    let members = 0
    const set = (name: string, value: unknown): void => {
      if (++members > JSON_MEMBERS_MAX) {
        throw new MmsbError(
          'INVALID_REQUEST',
          `${this.#where}: an object has more than ${JSON_MEMBERS_MAX} fields`,
        )
      }
      setOwn(out, name, value)
    }
    const add = (text: string): void => {
      const piece = parseText(`{${text}}`, this.#where) as object
      for (const [name, value] of Object.entries(piece)) set(name, value)
    }
    await this.#assemble(start, end, { open: OBJECT, add }, async (from, to) => {
      const name = this.#skipSpace(from)
      const colon = this.#bytes[name] === QUOTE ? this.#skipSpace(stringEnd(this.#bytes, name)) : to
      if (this.#bytes[colon] !== COLON) throw notJson(this.#where, 'a field has no name')
      set(this.#parse(name, colon) as string, await this.#value(colon + 1, to))
    })
    return out
  }

  /**
   * Hands the parts between the brackets at `start` and before `end` to `assembly`, as many as make a piece
   * at a time, and each part that holds a large object or array to `addLarge`.
   */
  async #assemble(
    start: number,
    end: number,
    assembly: Assembly,
    addLarge: (from: number, to: number) => Promise<void>,
  ): Promise<void> {
    const last = end - 1
    if (this.#bytes[last] !== assembly.open + 2) throw notJson(this.#where, 'brackets do not match')
    // Large for its white space alone.
    if (this.#skipSpace(start + 1) === last) return
    for (let piece = start + 1; piece <= last; ) {
      const { part, next, isLarge } = this.#cut(piece, last)
      if (!isLarge) this.#addPiece(piece, next, assembly)
      else {
        // The parts before it, without the comma between them.
        if (part > piece) this.#addPiece(piece, part - 1, assembly)
        await addLarge(part, next)
      }
      await this.#slices.giveWay()
      piece = next + 1
    }
  }

  #addPiece(from: number, to: number, { add }: Assembly): void {
    if (this.#skipSpace(from) >= to) throw notJson(this.#where, 'a comma has no value beside it')
    add(this.#bytes.toString('utf8', from, to))
  }

  /**
   * Finds the end of the piece that begins at `from`: behind a large part, else behind the part that fills
   * the piece, else at `last`. `part` is where its last part begins; `next` is a comma, or `last`.
   */
  #cut(from: number, last: number): { part: number; next: number; isLarge: boolean } {
    const bytes = this.#bytes
    let part = from
    let depth = 0
    let isLarge = false
    for (let at = from; at < last; ) {
      const byte = bytes[at]
      if (byte === QUOTE) {
        at = stringEnd(bytes, at)
        continue
      }
      if (byte === COMMA && depth === 0) {
        if (isLarge || at - from >= JSON_PIECE_BYTES) return { part, next: at, isLarge }
        part = at + 1
      } else if (byte === ARRAY || byte === OBJECT) {
        const end = this.#large.get(at)
        if (end !== undefined) {
          isLarge = true
          at = end
          continue
        }
        depth++
      } else if (byte === ARRAY_END || byte === OBJECT_END) depth--
      at++
    }
    return { part, next: last, isLarge }
  }

  #parse(from: number, to: number): unknown {
    return parseText(this.#bytes.toString('utf8', from, to), this.#where)
  }

  #skipSpace(from: number): number {
    let at = from
    while (at < this.#bytes.length && isSpace(this.#bytes[at]!)) at++
    return at
  }
}

const isSpace = (byte: number): boolean => byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09
