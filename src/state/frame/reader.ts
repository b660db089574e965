/**
 * Decodes frames, the one binary form of a transaction (docs/internals/FORMAT.md).
 *
 * Invariants: decodeFrame accepts what FrameWriter writes. It takes bytes from untrusted senders: it checks
 * every length against the bytes that are there before it uses it, ends in a Frame or an MmsbError, and
 * touches nothing outside its buffer. It checks headers, sizes, names, padding and reserved fields. Whether a
 * delta fits its page (ranges, indices, mask bits, bool values) is left to validateDelta in delta.ts, because
 * a frame does not know the pages. Little-endian hosts only.
 */

import { align8 } from '../../wire/align.js'
import {
  COMMAND_DELTA,
  FRAME_HEADER_BYTES,
  FRAME_INTENT_MAX_BYTES,
  FRAME_KEY_MAX_BYTES,
  FRAME_MAGIC,
  FRAME_MAX_BYTES,
  FRAME_MAX_COMMANDS,
  FRAME_MAX_PRECONDITIONS,
  FRAME_PRECONDITION_BYTES,
  FRAME_SOURCE_MAX_BYTES,
  FRAME_VERSION,
} from '../../wire/frame.js'
import { copyOf, isZero } from '../bytes.js'
import { checkDeltaLayout } from '../delta.js'
import { malformed, tooLarge } from './errors.js'
import { Frame } from './frame.js'
import {
  COMMAND_HEADER_BYTES,
  COMMAND_LENGTH,
  type FramePrecondition,
  HEADER_COMMANDS,
  HEADER_INTENT,
  HEADER_LENGTH,
  HEADER_PRECONDITIONS,
  HEADER_RESERVED,
  HEADER_TEXTS,
  HEADER_VERSION,
} from './layout.js'
import { checkStructural } from './structural.js'

const UTF8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/**
 * Decodes one frame that fills `bytes` exactly. The frame refers to `bytes`, or to a copy when they do not
 * start at a multiple of 8.
 * @throws MmsbError INVALID_REQUEST, INVALID_DELTA, PAYLOAD_TOO_LARGE
 */
export function decodeFrame(bytes: Uint8Array): Frame {
  if (bytes.length < FRAME_HEADER_BYTES) {
    throw malformed(`${bytes.length} bytes are fewer than a header's ${FRAME_HEADER_BYTES}`)
  }
  if (bytes.length > FRAME_MAX_BYTES) {
    throw tooLarge(`${bytes.length} bytes; at most ${FRAME_MAX_BYTES}`)
  }
  // The magic comes first, so that bytes of another format get the error that helps, whatever their length.
  const magic = bytes[0]! | (bytes[1]! << 8) | (bytes[2]! << 16) | (bytes[3]! << 24)
  if (magic !== FRAME_MAGIC) throw malformed('does not begin with MSF1')
  if (bytes.length % 8 !== 0) throw malformed(`${bytes.length} bytes; not a multiple of 8`)
  const aligned = bytes.byteOffset % 8 === 0 ? bytes : copyOf(bytes)
  const words = new Uint32Array(aligned.buffer, aligned.byteOffset, aligned.length / 4)
  const header = readHeader(words)
  let at = FRAME_HEADER_BYTES
  const preconditions = readPreconditions(words, header.preconditionCount)
  at += header.preconditionCount * FRAME_PRECONDITION_BYTES
  const key = readText(aligned, at, header.keyLength, 'key')
  at += align8(header.keyLength)
  const source = readText(aligned, at, header.sourceLength, 'source')
  at += align8(header.sourceLength)
  const intentText = readText(aligned, at, header.intentLength, 'intent')
  at += align8(header.intentLength)
  checkCommands(aligned, words, at, header.commandCount)
  return new Frame({
    bytes: aligned,
    words,
    commandCount: header.commandCount,
    preconditions,
    key,
    source,
    intent: intentText === undefined ? undefined : parseIntent(intentText),
    commandsOffset: at,
  })
}

/**
 * Splits frames that follow each other, as in the body of a log record. Looks only at their lengths.
 * @throws MmsbError INVALID_REQUEST
 */
export function splitFrames(bytes: Uint8Array): Uint8Array[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const frames: Uint8Array[] = []
  let at = 0
  while (at < bytes.length) {
    const isHeaderThere = bytes.length - at >= FRAME_HEADER_BYTES
    const length = isHeaderThere ? view.getUint32(at + HEADER_LENGTH * 4, true) : 0
    if (length < FRAME_HEADER_BYTES || length % 8 !== 0 || length > bytes.length - at) {
      throw malformed(`no whole frame at byte ${at} of ${bytes.length}`)
    }
    frames.push(bytes.subarray(at, at + length))
    at += length
  }
  return frames
}

interface FrameHeader {
  readonly commandCount: number
  readonly preconditionCount: number
  readonly keyLength: number
  readonly sourceLength: number
  readonly intentLength: number
}

function readHeader(words: Uint32Array): FrameHeader {
  const bytes = words.length * 4
  const length = words[HEADER_LENGTH]
  if (length !== bytes) throw malformed(`says it has ${length} bytes, ${bytes} are there`)
  const version = words[HEADER_VERSION]! & 0xffff
  if (version !== FRAME_VERSION) {
    throw malformed(`version ${version}; this server reads version ${FRAME_VERSION}`)
  }
  if (words[HEADER_VERSION]! >>> 16 !== 0 || words[HEADER_RESERVED] !== 0) {
    throw malformed('reserved fields of the header are not 0')
  }
  const header = {
    commandCount: words[HEADER_COMMANDS]!,
    preconditionCount: words[HEADER_PRECONDITIONS]!,
    keyLength: words[HEADER_TEXTS]! & 0xffff,
    sourceLength: words[HEADER_TEXTS]! >>> 16,
    intentLength: words[HEADER_INTENT]!,
  }
  checkLimit('commands', header.commandCount, FRAME_MAX_COMMANDS)
  checkLimit('preconditions', header.preconditionCount, FRAME_MAX_PRECONDITIONS)
  checkLimit('bytes of key', header.keyLength, FRAME_KEY_MAX_BYTES)
  checkLimit('bytes of source', header.sourceLength, FRAME_SOURCE_MAX_BYTES)
  checkLimit('bytes of intent', header.intentLength, FRAME_INTENT_MAX_BYTES)
  const head =
    FRAME_HEADER_BYTES +
    header.preconditionCount * FRAME_PRECONDITION_BYTES +
    align8(header.keyLength) +
    align8(header.sourceLength) +
    align8(header.intentLength)
  if (head > bytes) {
    throw malformed(`preconditions, key, source and intent need ${head} bytes, ${bytes} are there`)
  }
  return header
}

function checkLimit(what: string, count: number, most: number): void {
  if (count > most) throw tooLarge(`${count} ${what}; at most ${most}`)
}

function readPreconditions(words: Uint32Array, count: number): FramePrecondition[] {
  const list: FramePrecondition[] = []
  for (let i = 0; i < count; i++) {
    const at = (FRAME_HEADER_BYTES + i * FRAME_PRECONDITION_BYTES) / 4
    if (words[at + 1] !== 0) throw malformed(`precondition ${i}: its reserved field is not 0`)
    const high = words[at + 3]!
    if (high >= 2 ** 21) throw malformed(`precondition ${i}: a version is below 2^53`)
    list.push({ pageId: words[at]!, version: high * 2 ** 32 + words[at + 2]! })
  }
  return list
}

function readText(bytes: Uint8Array, at: number, length: number, what: string): string | undefined {
  if (length === 0) return undefined
  if (!isZero(bytes, at + length, at + align8(length))) throw malformed(`padding after ${what} is not 0`)
  try {
    return UTF8.decode(bytes.subarray(at, at + length))
  } catch (cause) {
    throw malformed(`${what} is not UTF-8`, cause)
  }
}

function parseIntent(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw malformed('intent is not JSON', cause)
  }
}

function checkCommands(bytes: Uint8Array, words: Uint32Array, start: number, count: number): void {
  let at = start
  for (let index = 0; index < count; index++) {
    const left = bytes.length - at
    if (left < COMMAND_HEADER_BYTES) {
      throw malformed(`command ${index} of ${count}: the frame ends at byte ${at}`)
    }
    const type = words[at >>> 2]!
    const byteLength = words[(at >>> 2) + COMMAND_LENGTH]!
    if (byteLength < COMMAND_HEADER_BYTES || byteLength % 8 !== 0 || byteLength > left) {
      throw malformed(`command ${index}: length ${byteLength}; ${left} bytes are left`)
    }
    // The reserved upper half of the first word is 0 in every known type, so comparing the type checks it
    // too.
    if (type === COMMAND_DELTA) checkDeltaLayout(bytes, words, at, byteLength, index)
    else checkStructural(bytes, words, at, byteLength, index)
    at += byteLength
  }
  if (at !== bytes.length) throw malformed(`${bytes.length - at} bytes follow the last command`)
}
