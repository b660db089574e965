/**
 * The layout of a frame (docs/internals/FORMAT.md): sizes, word positions and the fields that a command is
 * written from and read into. Shared by the writer and the readers. Command types and what else a client
 * knows of frames is in src/wire.
 *
 * A frame is a header, the preconditions, key, source and intent as padded text, then the commands. Every
 * part begins at a multiple of 8 bytes. Word positions count u32 words from the start of the header or the
 * command.
 */
import { align8 } from '../../wire/align.js'
import type { Dtype } from '../../wire/dtype.js'
import { FRAME_HEADER_BYTES, FRAME_PRECONDITION_BYTES } from '../../wire/frame.js'
import type { Location, PageKind } from '../../wire/page.js'

/** Words of the frame's header. Word 0 is the magic. */
export const HEADER_LENGTH = 1
/** Low half: version; high half: reserved. */
export const HEADER_VERSION = 2
export const HEADER_COMMANDS = 3
export const HEADER_PRECONDITIONS = 4
/** Low half: bytes of key; high half: bytes of source. */
export const HEADER_TEXTS = 5
export const HEADER_INTENT = 6
export const HEADER_RESERVED = 7

/** Every command begins with its type and its length in bytes. */
export const COMMAND_HEADER_BYTES = 8
export const COMMAND_TYPE = 0
export const COMMAND_LENGTH = 1
/** The page of create, delete, redefine and delta commands. */
export const COMMAND_PAGE = 2

/** A create-page command without its shape, name and definition. */
export const CREATE_FIXED_BYTES = 32
/** One byte each: dtype, rank, location, kind. */
export const CREATE_CODES = 3
/** Two words: the bits of the fill. */
export const CREATE_FILL = 4
export const CREATE_NAME_LENGTH = 6
export const CREATE_DEFINITION_LENGTH = 7
export const CREATE_SHAPE = 8

export const DELETE_BYTES = 16
export const DELETE_RESERVED = 3

/** A define-function command without its name and definition. */
export const FUNCTION_FIXED_BYTES = 16
export const FUNCTION_NAME_LENGTH = 2
export const FUNCTION_DEFINITION_LENGTH = 3

/** A redefine-page command without its definition. */
export const REDEFINE_FIXED_BYTES = 16
export const REDEFINE_DEFINITION_LENGTH = 3

/** Where the first command of the frame at `at` begins, by the frame's header. */
export function firstCommandAt(view: DataView, at: number): number {
  const texts = view.getUint32(at + HEADER_TEXTS * 4, true)
  const preconditions = view.getUint32(at + HEADER_PRECONDITIONS * 4, true) * FRAME_PRECONDITION_BYTES
  const intent = align8(view.getUint32(at + HEADER_INTENT * 4, true))
  const textBytes = align8(texts & 0xffff) + align8(texts >>> 16) + intent
  return at + FRAME_HEADER_BYTES + preconditions + textBytes
}

export interface FramePrecondition {
  readonly pageId: number
  readonly version: number
}

/**
 * The fields of a new page. `definition`: see "Derived definition" in docs/internals/FORMAT.md; empty for a
 * source page.
 */
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
