/**
 * The structural commands of a frame: create, delete and redefine a page, define a function. Checks them and
 * reads their fields.
 *
 * Invariants: a check looks at every length before it uses it and reads nothing outside the command; a read
 * expects a command that passed its check.
 */
import type { MmsbError } from '../../errors.js'
import { DEFINITION_MAX_BYTES } from '../../limits.js'
import { align8 } from '../../wire/align.js'
import { DTYPE_INFO, type Dtype, dtypeOfCode } from '../../wire/dtype.js'
import {
  COMMAND_CREATE_PAGE,
  COMMAND_DEFINE_FUNCTION,
  COMMAND_DELETE_PAGE,
  COMMAND_REDEFINE_PAGE,
} from '../../wire/frame.js'
import {
  LOCATIONS,
  NAME_MAX_LENGTH,
  NAME_PATTERN,
  PAGE_KINDS,
  PAGE_MAX_RANK,
  type PageKind,
} from '../../wire/page.js'
import { copyOf, isZero } from '../bytes.js'
import { checkExtent } from '../shape.js'
import { malformed, tooLarge } from './errors.js'
import {
  COMMAND_HEADER_BYTES,
  COMMAND_LENGTH,
  COMMAND_PAGE,
  COMMAND_TYPE,
  CREATE_CODES,
  CREATE_DEFINITION_LENGTH,
  CREATE_FILL,
  CREATE_FIXED_BYTES,
  CREATE_NAME_LENGTH,
  CREATE_SHAPE,
  type CreatePageFields,
  DELETE_BYTES,
  DELETE_RESERVED,
  FUNCTION_DEFINITION_LENGTH,
  FUNCTION_FIXED_BYTES,
  FUNCTION_NAME_LENGTH,
  REDEFINE_DEFINITION_LENGTH,
  REDEFINE_FIXED_BYTES,
} from './layout.js'

const NAME_REGEXP = new RegExp(NAME_PATTERN)

/** A command of `byteLength` bytes at byte `at` of a frame. */
interface RawCommand {
  readonly bytes: Uint8Array
  readonly words: Uint32Array
  readonly at: number
  readonly byteLength: number
  /** The error for what is wrong with this command. */
  fail(why: string): MmsbError
}

/**
 * Checks the structural command of `byteLength` bytes at `at`, the `index`-th of its frame. All of them are
 * in `bytes`.
 * @throws MmsbError INVALID_REQUEST, PAYLOAD_TOO_LARGE
 */
export function checkStructural(
  bytes: Uint8Array,
  words: Uint32Array,
  at: number,
  byteLength: number,
  index: number,
): void {
  const fail = (why: string): MmsbError => malformed(`command ${index}: ${why}`)
  const command = { bytes, words, at, byteLength, fail }
  const type = words[at >>> 2]!
  switch (type) {
    case COMMAND_CREATE_PAGE:
      checkCreatePage(command)
      break
    case COMMAND_DELETE_PAGE:
      if (byteLength !== DELETE_BYTES) throw fail(`a delete has ${DELETE_BYTES} bytes, not ${byteLength}`)
      if (words[(at >>> 2) + DELETE_RESERVED] !== 0) throw fail('its reserved field is not 0')
      break
    case COMMAND_DEFINE_FUNCTION:
      checkFunction(command)
      break
    case COMMAND_REDEFINE_PAGE:
      checkRedefine(command)
      break
    default:
      throw fail(
        type > 0xffff ? 'the reserved field of its header is not 0' : `there is no command type ${type}`,
      )
  }
}

function checkCreatePage(command: RawCommand): void {
  const { bytes, words, at, byteLength, fail } = command
  if (byteLength < CREATE_FIXED_BYTES) throw fail(`a create needs ${CREATE_FIXED_BYTES} bytes`)
  const codes = at + CREATE_CODES * 4
  const rank = bytes[codes + 1]!
  const dtype = dtypeOfCode(bytes[codes]!)
  const kind = PAGE_KINDS[bytes[codes + 3]!]
  if (dtype === undefined) throw fail(`there is no dtype code ${bytes[codes]}`)
  if (rank > PAGE_MAX_RANK) throw fail(`rank ${rank}; at most ${PAGE_MAX_RANK}`)
  if (LOCATIONS[bytes[codes + 2]!] === undefined) throw fail(`there is no location code ${bytes[codes + 2]}`)
  if (kind === undefined) throw fail(`there is no page kind ${bytes[codes + 3]}`)
  const word = at >>> 2
  const nameLength = words[word + CREATE_NAME_LENGTH]!
  const definitionLength = words[word + CREATE_DEFINITION_LENGTH]!
  checkNameAndDefinition(command, nameLength, definitionLength)
  const nameAt = at + CREATE_FIXED_BYTES + align8(rank * 4)
  const definitionAt = nameAt + align8(nameLength)
  if (definitionAt + align8(definitionLength) !== at + byteLength) {
    throw fail(`its parts do not add up to its ${byteLength} bytes`)
  }
  checkPadding(command, at + CREATE_FIXED_BYTES + rank * 4, nameAt)
  checkNameBytes(command, nameAt, nameLength)
  checkPadding(command, definitionAt + definitionLength, at + byteLength)
  if ((kind === 'derived') !== definitionLength > 0) {
    throw fail(kind === 'derived' ? 'a derived page needs a definition' : 'a source page has no definition')
  }
  checkFill(command, dtype, kind)
  const shape = words.subarray(word + CREATE_SHAPE, word + CREATE_SHAPE + rank)
  checkExtent(Array.from(shape), dtype, 'frame: shape')
}

function checkFill({ bytes, at, fail }: RawCommand, dtype: Dtype, kind: PageKind): void {
  const fillAt = at + CREATE_FILL * 4
  const used = kind === 'derived' ? 0 : DTYPE_INFO[dtype].sizeBytes
  if (!isZero(bytes, fillAt + used, fillAt + 8)) {
    throw fail(kind === 'derived' ? 'a derived page has no fill' : `its fill is wider than ${dtype}`)
  }
  if (dtype === 'bool' && bytes[fillAt]! > 1) throw fail('the fill of a bool page is 0 or 1')
}

function checkFunction(command: RawCommand): void {
  const { words, at, byteLength, fail } = command
  if (byteLength < FUNCTION_FIXED_BYTES) throw fail(`a function needs ${FUNCTION_FIXED_BYTES} bytes`)
  const nameLength = words[(at >>> 2) + FUNCTION_NAME_LENGTH]!
  const definitionLength = words[(at >>> 2) + FUNCTION_DEFINITION_LENGTH]!
  checkNameAndDefinition(command, nameLength, definitionLength)
  if (FUNCTION_FIXED_BYTES + align8(nameLength) + align8(definitionLength) !== byteLength) {
    throw fail(`its parts do not add up to its ${byteLength} bytes`)
  }
  const nameAt = at + FUNCTION_FIXED_BYTES
  checkNameBytes(command, nameAt, nameLength)
  checkPadding(command, nameAt + align8(nameLength) + definitionLength, at + byteLength)
}

function checkRedefine(command: RawCommand): void {
  const { words, at, byteLength, fail } = command
  if (byteLength < REDEFINE_FIXED_BYTES) throw fail(`a redefinition needs ${REDEFINE_FIXED_BYTES} bytes`)
  const definitionLength = words[(at >>> 2) + REDEFINE_DEFINITION_LENGTH]!
  if (definitionLength === 0 || definitionLength > DEFINITION_MAX_BYTES) {
    throw fail(`a definition of ${definitionLength} bytes`)
  }
  if (REDEFINE_FIXED_BYTES + align8(definitionLength) !== byteLength) {
    throw fail(`its parts do not add up to its ${byteLength} bytes`)
  }
  checkPadding(command, at + REDEFINE_FIXED_BYTES + definitionLength, at + byteLength)
}

function checkNameAndDefinition({ fail }: RawCommand, nameLength: number, definitionLength: number): void {
  if (nameLength < 1 || nameLength > NAME_MAX_LENGTH) {
    throw fail(`a name has 1 to ${NAME_MAX_LENGTH} bytes, not ${nameLength}`)
  }
  if (definitionLength > DEFINITION_MAX_BYTES) {
    throw tooLarge(`a definition of ${definitionLength} bytes; at most ${DEFINITION_MAX_BYTES}`)
  }
}

function checkPadding({ bytes, fail }: RawCommand, from: number, to: number): void {
  if (!isZero(bytes, from, to)) throw fail('its padding is not 0')
}

function checkNameBytes(command: RawCommand, at: number, length: number): void {
  checkPadding(command, at + length, at + align8(length))
  if (!NAME_REGEXP.test(latin1(command.bytes, at, length))) {
    throw command.fail(`its name does not match ${NAME_PATTERN}`)
  }
}

/** Names are ASCII; a byte above 127 becomes a character that the pattern refuses. */
function latin1(bytes: Uint8Array, at: number, length: number): string {
  return String.fromCharCode(...bytes.subarray(at, at + length))
}

/** The fields of the create-page command at `at`. */
export function readCreatePage(bytes: Uint8Array, words: Uint32Array, at: number): CreatePageFields {
  const word = at >>> 2
  const codes = at + CREATE_CODES * 4
  const rank = bytes[codes + 1]!
  const nameAt = at + CREATE_FIXED_BYTES + align8(rank * 4)
  const nameLength = words[word + CREATE_NAME_LENGTH]!
  const definitionAt = nameAt + align8(nameLength)
  const definitionLength = words[word + CREATE_DEFINITION_LENGTH]!
  return {
    id: words[word + COMMAND_PAGE]!,
    name: latin1(bytes, nameAt, nameLength),
    dtype: dtypeOfCode(bytes[codes]!)!,
    shape: Array.from(words.subarray(word + CREATE_SHAPE, word + CREATE_SHAPE + rank)),
    location: LOCATIONS[bytes[codes + 2]!]!,
    kind: PAGE_KINDS[bytes[codes + 3]!]!,
    fill: BigInt(words[word + CREATE_FILL]!) | (BigInt(words[word + CREATE_FILL + 1]!) << 32n),
    definition: bytes.subarray(definitionAt, definitionAt + definitionLength),
  }
}

/** Name and definition of the define-function command at `at`. */
export function readFunction(
  bytes: Uint8Array,
  words: Uint32Array,
  at: number,
): { name: string; definition: Uint8Array } {
  const nameLength = words[(at >>> 2) + FUNCTION_NAME_LENGTH]!
  const definitionLength = words[(at >>> 2) + FUNCTION_DEFINITION_LENGTH]!
  const nameAt = at + FUNCTION_FIXED_BYTES
  const definitionAt = nameAt + align8(nameLength)
  return {
    name: latin1(bytes, nameAt, nameLength),
    definition: bytes.subarray(definitionAt, definitionAt + definitionLength),
  }
}

/**
 * Reads one create-page command by itself, as a checkpoint keeps it.
 * @throws MmsbError INVALID_REQUEST, PAYLOAD_TOO_LARGE
 */
export function decodeCreatePage(command: Uint8Array): CreatePageFields {
  const bytes = command.byteOffset % 8 === 0 ? command : copyOf(command)
  const byteLength = bytes.length
  if (byteLength < COMMAND_HEADER_BYTES || byteLength % 8 !== 0) {
    throw malformed('a command has a multiple of 8 bytes')
  }
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset, byteLength / 4)
  if (words[COMMAND_TYPE] !== COMMAND_CREATE_PAGE || words[COMMAND_LENGTH] !== byteLength) {
    throw malformed('no create-page command')
  }
  const fail = (why: string): MmsbError => malformed(`create page: ${why}`)
  checkCreatePage({ bytes, words, at: 0, byteLength, fail })
  return readCreatePage(bytes, words, 0)
}
