/**
 * The frame: the one binary form of a transaction (docs/internals/FORMAT.md), written and read here and nowhere else in TypeScript.
 *
 * Invariants: what FrameWriter makes, decodeFrame accepts. decodeFrame takes bytes from anybody: it checks every length
 * against the bytes that are there before it uses it, ends in a Frame or an MmsbError, and touches nothing outside its
 * buffer. After it, headers, sizes, names, padding and reserved fields hold; whether a delta fits its page (ranges,
 * indices, mask bits, bool values) is checked by validateDelta in delta.ts, since a frame does not know the pages.
 * Commands stay where they are: a Frame holds views, never copies. Little-endian hosts only.
 */
import { MmsbError } from '../../errors.js'
import {
  DEFINITION_MAX_BYTES,
  FRAME_HEADER_BYTES,
  FRAME_INTENT_MAX_BYTES,
  FRAME_KEY_MAX_BYTES,
  FRAME_MAGIC,
  FRAME_MAX_BYTES,
  FRAME_MAX_COMMANDS,
  FRAME_MAX_PRECONDITIONS,
  FRAME_SOURCE_MAX_BYTES,
  FRAME_VERSION,
  NAME_MAX_LENGTH,
  NAME_PATTERN,
  PAGE_MAX_RANK,
} from '../../limits.js'
import { align8, copyOf, isZero } from '../bytes.js'
import { checkDeltaLayout, DELTA_HEADER_BYTES } from '../delta.js'
import { DTYPE_INFO, type Dtype, dtypeOfCode } from '../dtype.js'
import { checkExtent } from '../shape.js'
import { LOCATIONS, type Location, PAGE_KINDS, type PageKind } from '../types.js'

export const COMMAND_CREATE_PAGE = 1
export const COMMAND_DELETE_PAGE = 2
export const COMMAND_DEFINE_FUNCTION = 3
export const COMMAND_DELTA = 4
export const COMMAND_REDEFINE_PAGE = 5

const CREATE_FIXED_BYTES = 32
const REDEFINE_FIXED_BYTES = 16
const NAME_REGEXP = new RegExp(NAME_PATTERN)
const UTF8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

export interface FramePrecondition {
  readonly pageId: number
  readonly version: number
}

/** What a page is created from. `definition`: see "Derived definition" in docs/internals/FORMAT.md; empty for a source. */
export interface CreatePageFields {
  readonly id: number
  readonly name: string
  readonly dtype: Dtype
  readonly shape: readonly number[]
  readonly location: Location
  readonly kind: PageKind
  /** Bits of one element, zero-extended; 0 for derived pages. */
  readonly fill: bigint
  readonly definition: Uint8Array
}

interface CommandPosition {
  /** Position in the frame's list of commands. */
  readonly index: number
  /** Of the command's first byte, in the frame. */
  readonly offset: number
  readonly byteLength: number
}

export interface CreatePageCommand extends CommandPosition, CreatePageFields {
  readonly type: typeof COMMAND_CREATE_PAGE
}

export interface DeletePageCommand extends CommandPosition {
  readonly type: typeof COMMAND_DELETE_PAGE
  readonly pageId: number
}

export interface DefineFunctionCommand extends CommandPosition {
  readonly type: typeof COMMAND_DEFINE_FUNCTION
  readonly name: string
  /** Empty: the function is deleted. */
  readonly definition: Uint8Array
}

/** A derived page goes on with another definition of the same inputs, dtype and shape. */
export interface RedefinePageCommand extends CommandPosition {
  readonly type: typeof COMMAND_REDEFINE_PAGE
  readonly pageId: number
  readonly definition: Uint8Array
}

/** The header of a delta; the payload stays in the frame. */
export interface DeltaCommand extends CommandPosition {
  readonly type: typeof COMMAND_DELTA
  readonly frame: Frame
  readonly pageId: number
  /** 0 dense, 1 sparse, 2 masked. */
  readonly kind: number
  /** Position in MERGES. */
  readonly merge: number
  readonly dtypeCode: number
  readonly encoding: number
  readonly elementOffset: number
  readonly count: number
  readonly valueCount: number
  /** Of the payload's first byte, in the frame. */
  readonly payloadOffset: number
  readonly payloadLength: number
}

export type Command =
  | CreatePageCommand
  | DeletePageCommand
  | DefineFunctionCommand
  | RedefinePageCommand
  | DeltaCommand

/** A decoded frame. Made by decodeFrame only, so the layout of its commands is sound. */
export class Frame {
  /** The frame's bytes, at a multiple of 8 in their buffer. */
  readonly bytes: Uint8Array
  /** The same bytes as u32. */
  readonly words: Uint32Array
  readonly commandCount: number
  readonly preconditions: readonly FramePrecondition[]
  readonly key: string | undefined
  readonly source: string | undefined
  /** The parsed JSON; undefined when there is none. */
  readonly intent: unknown
  /** Offset of the first command. */
  readonly commandsOffset: number
  #commands: Command[] | undefined

  /** For decodeFrame only. */
  constructor(fields: Omit<Frame, 'commands'>) {
    this.bytes = fields.bytes
    this.words = fields.words
    this.commandCount = fields.commandCount
    this.preconditions = fields.preconditions
    this.key = fields.key
    this.source = fields.source
    this.intent = fields.intent
    this.commandsOffset = fields.commandsOffset
  }

  /** The commands as objects, made on first use. For a frame of many deltas eachCommand is far cheaper. */
  get commands(): readonly Command[] {
    if (this.#commands === undefined) {
      const commands: Command[] = []
      eachCommand(this, (cursor) => commands.push(commandAt(this, cursor)))
      this.#commands = commands
    }
    return this.#commands
  }
}

/** Where eachCommand stands. One object for all commands: copy what outlives the visit. */
export class CommandCursor {
  readonly frame: Frame
  index = -1
  type = 0
  offset = 0
  byteLength = 0

  constructor(frame: Frame) {
    this.frame = frame
    this.offset = frame.commandsOffset
  }

  /** Moves to the next command; false at the end. */
  next(): boolean {
    if (++this.index >= this.frame.commandCount) return false
    this.offset += this.byteLength
    const word = this.offset >>> 2
    this.type = this.frame.words[word]!
    this.byteLength = this.frame.words[word + 1]!
    return true
  }

  // The fields of create-page, delete-page and delta commands. pageId: of those three.
  get pageId(): number {
    return this.frame.words[(this.offset >>> 2) + 2]!
  }
  // The rest: of deltas.
  get kind(): number {
    return this.frame.words[(this.offset >>> 2) + 3]! & 0xff
  }
  get merge(): number {
    return (this.frame.words[(this.offset >>> 2) + 3]! >>> 8) & 0xff
  }
  get dtypeCode(): number {
    return (this.frame.words[(this.offset >>> 2) + 3]! >>> 16) & 0xff
  }
  get encoding(): number {
    return this.frame.words[(this.offset >>> 2) + 3]! >>> 24
  }
  get elementOffset(): number {
    return this.frame.words[(this.offset >>> 2) + 4]!
  }
  get count(): number {
    return this.frame.words[(this.offset >>> 2) + 5]!
  }
  get valueCount(): number {
    return this.frame.words[(this.offset >>> 2) + 6]!
  }
  get payloadLength(): number {
    return this.frame.words[(this.offset >>> 2) + 7]!
  }
  get payloadOffset(): number {
    return this.offset + DELTA_HEADER_BYTES
  }
}

/** Visits the commands in order, without making objects. */
export function eachCommand(frame: Frame, visit: (cursor: CommandCursor) => void): void {
  const cursor = new CommandCursor(frame)
  while (cursor.next()) visit(cursor)
}

/** The command a cursor stands on, as an object of its own. */
export function commandAt(frame: Frame, at: CommandCursor): Command {
  const { type, index, offset, byteLength } = at
  switch (type) {
    case COMMAND_CREATE_PAGE:
      return { type, index, offset, byteLength, ...readCreatePage(frame.bytes, frame.words, offset) }
    case COMMAND_DELETE_PAGE:
      return { type, index, offset, byteLength, pageId: at.pageId }
    case COMMAND_DEFINE_FUNCTION:
      return { type, index, offset, byteLength, ...readFunction(frame.bytes, frame.words, offset) }
    case COMMAND_REDEFINE_PAGE: {
      const definition = frame.bytes.subarray(
        offset + REDEFINE_FIXED_BYTES,
        offset + REDEFINE_FIXED_BYTES + frame.words[(offset >>> 2) + 3]!,
      )
      return { type, index, offset, byteLength, pageId: at.pageId, definition }
    }
    case COMMAND_DELTA:
      return {
        type,
        index,
        offset,
        byteLength,
        frame,
        pageId: at.pageId,
        kind: at.kind,
        merge: at.merge,
        dtypeCode: at.dtypeCode,
        encoding: at.encoding,
        elementOffset: at.elementOffset,
        count: at.count,
        valueCount: at.valueCount,
        payloadOffset: at.payloadOffset,
        payloadLength: at.payloadLength,
      }
    default:
      throw new MmsbError('INTERNAL', `command type ${type} passed the check of its frame`)
  }
}

/** Puts the id the bus chose into a create-page command that came with 0xffffffff. */
export function patchPageId(
  frame: Frame,
  command: Pick<CreatePageCommand, 'type' | 'offset'>,
  id: number,
): void {
  frame.words[(command.offset >>> 2) + 2] = id
  if ('id' in command) (command as { id: number }).id = id
}

// ---- reading ----------------------------------------------------------------------------------------------------------

const malformed = (detail: string): MmsbError => new MmsbError('INVALID_REQUEST', `frame: ${detail}`)
const tooLarge = (detail: string): MmsbError => new MmsbError('PAYLOAD_TOO_LARGE', `frame: ${detail}`)

/**
 * Decodes one frame that fills `bytes` exactly. The frame refers to `bytes`, or to a copy where they do not start at a
 * multiple of 8.
 * @throws MmsbError INVALID_REQUEST, INVALID_DELTA, PAYLOAD_TOO_LARGE
 */
export function decodeFrame(bytes: Uint8Array): Frame {
  if (bytes.length < FRAME_HEADER_BYTES) {
    throw malformed(`${bytes.length} bytes are fewer than a header's ${FRAME_HEADER_BYTES}`)
  }
  if (bytes.length > FRAME_MAX_BYTES) {
    throw tooLarge(`${bytes.length} bytes; at most ${FRAME_MAX_BYTES}`)
  }
  // The magic first, so that foreign bytes of any length are called what they are.
  const magic = bytes[0]! | (bytes[1]! << 8) | (bytes[2]! << 16) | (bytes[3]! << 24)
  if (magic !== FRAME_MAGIC) throw malformed('does not begin with MSF1')
  if (bytes.length % 8 !== 0) throw malformed(`${bytes.length} bytes; not a multiple of 8`)
  const aligned = bytes.byteOffset % 8 === 0 ? bytes : copyOf(bytes)
  const words = new Uint32Array(aligned.buffer, aligned.byteOffset, aligned.length / 4)
  const header = readHeader(words)
  let at = FRAME_HEADER_BYTES
  const preconditions = readPreconditions(words, header.preconditionCount)
  at += header.preconditionCount * 16
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
    const length = bytes.length - at >= FRAME_HEADER_BYTES ? view.getUint32(at + 4, true) : 0
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
  if (words[1] !== bytes) throw malformed(`says it has ${words[1]} bytes, ${bytes} are there`)
  const version = words[2]! & 0xffff
  if (version !== FRAME_VERSION) {
    throw malformed(`version ${version}; this server reads version ${FRAME_VERSION}`)
  }
  if (words[2]! >>> 16 !== 0 || words[7] !== 0) throw malformed('reserved fields of the header are not 0')
  const header = {
    commandCount: words[3]!,
    preconditionCount: words[4]!,
    keyLength: words[5]! & 0xffff,
    sourceLength: words[5]! >>> 16,
    intentLength: words[6]!,
  }
  checkLimit('commands', header.commandCount, FRAME_MAX_COMMANDS)
  checkLimit('preconditions', header.preconditionCount, FRAME_MAX_PRECONDITIONS)
  checkLimit('bytes of key', header.keyLength, FRAME_KEY_MAX_BYTES)
  checkLimit('bytes of source', header.sourceLength, FRAME_SOURCE_MAX_BYTES)
  checkLimit('bytes of intent', header.intentLength, FRAME_INTENT_MAX_BYTES)
  const head =
    FRAME_HEADER_BYTES +
    header.preconditionCount * 16 +
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
    const at = FRAME_HEADER_BYTES / 4 + i * 4
    if (words[at + 1] !== 0) throw malformed(`precondition ${i}: its reserved field is not 0`)
    const high = words[at + 3]!
    if (high >= 2 ** 21) throw malformed(`precondition ${i}: no version is as large as 2^53`)
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
    throw new MmsbError('INVALID_REQUEST', `frame: ${what} is not UTF-8`, undefined, { cause })
  }
}

function parseIntent(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new MmsbError('INVALID_REQUEST', 'frame: intent is not JSON', undefined, { cause })
  }
}

function checkCommands(bytes: Uint8Array, words: Uint32Array, start: number, count: number): void {
  let at = start
  for (let index = 0; index < count; index++) {
    if (bytes.length - at < 8) {
      throw malformed(`command ${index} of ${count}: the frame ends at byte ${at}`)
    }
    const type = words[at >>> 2]!
    const byteLength = words[(at >>> 2) + 1]!
    if (byteLength < 8 || byteLength % 8 !== 0 || byteLength > bytes.length - at) {
      throw malformed(`command ${index}: length ${byteLength}; ${bytes.length - at} bytes are left`)
    }
    // The reserved half of the first word is 0 in every known type, so it is checked with it.
    if (type === COMMAND_DELTA) checkDeltaLayout(bytes, words, at, byteLength, index)
    else checkStructural(bytes, words, at, byteLength, index, type)
    at += byteLength
  }
  if (at !== bytes.length) throw malformed(`${bytes.length - at} bytes follow the last command`)
}

function checkStructural(
  bytes: Uint8Array,
  words: Uint32Array,
  at: number,
  byteLength: number,
  index: number,
  type: number,
): void {
  const fail = (why: string): MmsbError => malformed(`command ${index}: ${why}`)
  switch (type) {
    case COMMAND_CREATE_PAGE:
      checkCreatePage(bytes, words, at, byteLength, fail)
      break
    case COMMAND_DELETE_PAGE:
      if (byteLength !== 16) throw fail(`a delete has 16 bytes, not ${byteLength}`)
      if (words[(at >>> 2) + 3] !== 0) throw fail('its reserved field is not 0')
      break
    case COMMAND_DEFINE_FUNCTION:
      checkFunction(bytes, words, at, byteLength, fail)
      break
    case COMMAND_REDEFINE_PAGE:
      checkRedefine(bytes, words, at, byteLength, fail)
      break
    default:
      throw fail(
        type > 0xffff ? 'the reserved field of its header is not 0' : `there is no command type ${type}`,
      )
  }
}

type Fail = (why: string) => MmsbError

function checkCreatePage(
  bytes: Uint8Array,
  words: Uint32Array,
  at: number,
  byteLength: number,
  fail: Fail,
): void {
  if (byteLength < CREATE_FIXED_BYTES) throw fail(`a create needs ${CREATE_FIXED_BYTES} bytes`)
  const rank = bytes[at + 13]!
  const dtype = dtypeOfCode(bytes[at + 12]!)
  const kind = PAGE_KINDS[bytes[at + 15]!]
  if (dtype === undefined) throw fail(`there is no dtype code ${bytes[at + 12]}`)
  if (rank > PAGE_MAX_RANK) throw fail(`rank ${rank}; at most ${PAGE_MAX_RANK}`)
  if (LOCATIONS[bytes[at + 14]!] === undefined) throw fail(`there is no location code ${bytes[at + 14]}`)
  if (kind === undefined) throw fail(`there is no page kind ${bytes[at + 15]}`)
  const nameLength = words[(at >>> 2) + 6]!
  const definitionLength = words[(at >>> 2) + 7]!
  checkNameAndDefinition(nameLength, definitionLength, fail)
  const nameAt = at + CREATE_FIXED_BYTES + align8(rank * 4)
  const definitionAt = nameAt + align8(nameLength)
  if (definitionAt + align8(definitionLength) !== at + byteLength) {
    throw fail(`its parts do not add up to its ${byteLength} bytes`)
  }
  checkPadding(bytes, at + CREATE_FIXED_BYTES + rank * 4, nameAt, fail)
  checkNameBytes(bytes, nameAt, nameLength, fail)
  checkPadding(bytes, definitionAt + definitionLength, at + byteLength, fail)
  if ((kind === 'derived') !== definitionLength > 0) {
    throw fail(kind === 'derived' ? 'a derived page needs a definition' : 'a source page has no definition')
  }
  checkFill(bytes, at + 16, dtype, kind, fail)
  const shapeAt = (at + CREATE_FIXED_BYTES) >>> 2
  checkExtent(Array.from(words.subarray(shapeAt, shapeAt + rank)), dtype, 'frame: shape')
}

function checkNameAndDefinition(nameLength: number, definitionLength: number, fail: Fail): void {
  if (nameLength < 1 || nameLength > NAME_MAX_LENGTH) {
    throw fail(`a name has 1 to ${NAME_MAX_LENGTH} bytes, not ${nameLength}`)
  }
  if (definitionLength > DEFINITION_MAX_BYTES) {
    throw tooLarge(`a definition of ${definitionLength} bytes; at most ${DEFINITION_MAX_BYTES}`)
  }
}

function checkPadding(bytes: Uint8Array, from: number, to: number, fail: Fail): void {
  if (!isZero(bytes, from, to)) throw fail('its padding is not 0')
}

function checkNameBytes(bytes: Uint8Array, at: number, length: number, fail: Fail): void {
  checkPadding(bytes, at + length, at + align8(length), fail)
  if (!NAME_REGEXP.test(latin1(bytes, at, length))) {
    throw fail(`its name does not match ${NAME_PATTERN}`)
  }
}

/** Names are ASCII; a byte above 127 becomes a character that the pattern refuses. */
function latin1(bytes: Uint8Array, at: number, length: number): string {
  return String.fromCharCode(...bytes.subarray(at, at + length))
}

function checkFill(bytes: Uint8Array, at: number, dtype: Dtype, kind: PageKind, fail: Fail): void {
  if (!isZero(bytes, kind === 'derived' ? at : at + DTYPE_INFO[dtype].sizeBytes, at + 8)) {
    throw fail(kind === 'derived' ? 'a derived page has no fill' : `its fill is wider than ${dtype}`)
  }
  if (dtype === 'bool' && bytes[at]! > 1) throw fail('the fill of a bool page is 0 or 1')
}

function checkFunction(
  bytes: Uint8Array,
  words: Uint32Array,
  at: number,
  byteLength: number,
  fail: Fail,
): void {
  if (byteLength < 16) throw fail('a function needs 16 bytes')
  const nameLength = words[(at >>> 2) + 2]!
  const definitionLength = words[(at >>> 2) + 3]!
  checkNameAndDefinition(nameLength, definitionLength, fail)
  if (16 + align8(nameLength) + align8(definitionLength) !== byteLength) {
    throw fail(`its parts do not add up to its ${byteLength} bytes`)
  }
  checkNameBytes(bytes, at + 16, nameLength, fail)
  checkPadding(bytes, at + 16 + align8(nameLength) + definitionLength, at + byteLength, fail)
}

function checkRedefine(
  bytes: Uint8Array,
  words: Uint32Array,
  at: number,
  byteLength: number,
  fail: Fail,
): void {
  if (byteLength < REDEFINE_FIXED_BYTES) throw fail(`a redefinition needs ${REDEFINE_FIXED_BYTES} bytes`)
  const definitionLength = words[(at >>> 2) + 3]!
  if (definitionLength === 0 || definitionLength > DEFINITION_MAX_BYTES) {
    throw fail(`a definition of ${definitionLength} bytes`)
  }
  if (REDEFINE_FIXED_BYTES + align8(definitionLength) !== byteLength) {
    throw fail(`its parts do not add up to its ${byteLength} bytes`)
  }
  checkPadding(bytes, at + REDEFINE_FIXED_BYTES + definitionLength, at + byteLength, fail)
}

function readCreatePage(bytes: Uint8Array, words: Uint32Array, at: number): CreatePageFields {
  const word = at >>> 2
  const rank = bytes[at + 13]!
  const nameAt = at + CREATE_FIXED_BYTES + align8(rank * 4)
  const nameLength = words[word + 6]!
  const definitionAt = nameAt + align8(nameLength)
  return {
    id: words[word + 2]!,
    name: latin1(bytes, nameAt, nameLength),
    dtype: dtypeOfCode(bytes[at + 12]!)!,
    shape: Array.from(words.subarray(word + CREATE_FIXED_BYTES / 4, word + CREATE_FIXED_BYTES / 4 + rank)),
    location: LOCATIONS[bytes[at + 14]!]!,
    kind: PAGE_KINDS[bytes[at + 15]!]!,
    fill: BigInt(words[word + 4]!) | (BigInt(words[word + 5]!) << 32n),
    definition: bytes.subarray(definitionAt, definitionAt + words[word + 7]!),
  }
}

function readFunction(
  bytes: Uint8Array,
  words: Uint32Array,
  at: number,
): { name: string; definition: Uint8Array } {
  const nameLength = words[(at >>> 2) + 2]!
  const definitionAt = at + 16 + align8(nameLength)
  return {
    name: latin1(bytes, at + 16, nameLength),
    definition: bytes.subarray(definitionAt, definitionAt + words[(at >>> 2) + 3]!),
  }
}

/**
 * One create-page command by itself, as a checkpoint keeps it.
 * @throws MmsbError INVALID_REQUEST, PAYLOAD_TOO_LARGE
 */
export function decodeCreatePage(command: Uint8Array): CreatePageFields {
  const bytes = command.byteOffset % 8 === 0 ? command : copyOf(command)
  if (bytes.length < 8 || bytes.length % 8 !== 0) throw malformed('a command has a multiple of 8 bytes')
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4)
  if (words[0] !== COMMAND_CREATE_PAGE || words[1] !== bytes.length) throw malformed('no create-page command')
  checkCreatePage(bytes, words, 0, bytes.length, (why) => malformed(`create page: ${why}`))
  return readCreatePage(bytes, words, 0)
}
