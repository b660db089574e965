/**
 * A decoded frame and its commands.
 *
 * Invariants: only decodeFrame (reader.ts) makes a Frame, so the layout of its commands is sound. Commands
 * stay where they are: a Frame holds views, never copies.
 */
import { MmsbError } from '../../errors.js'
import {
  COMMAND_CREATE_PAGE,
  COMMAND_DEFINE_FUNCTION,
  COMMAND_DELETE_PAGE,
  COMMAND_DELTA,
  COMMAND_REDEFINE_PAGE,
  DELTA_HEADER_BYTES,
} from '../../wire/frame.js'
import type { DeltaFields } from '../delta.js'
import {
  COMMAND_PAGE,
  type CreatePageFields,
  type FramePrecondition,
  REDEFINE_DEFINITION_LENGTH,
  REDEFINE_FIXED_BYTES,
} from './layout.js'
import { readCreatePage, readFunction } from './structural.js'

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

/** Gives a derived page another definition with the same inputs, dtype and shape. */
export interface RedefinePageCommand extends CommandPosition {
  readonly type: typeof COMMAND_REDEFINE_PAGE
  readonly pageId: number
  readonly definition: Uint8Array
}

export interface DeltaCommand extends CommandPosition, DeltaFields {
  readonly type: typeof COMMAND_DELTA
  readonly frame: Frame
}

export type Command =
  | CreatePageCommand
  | DeletePageCommand
  | DefineFunctionCommand
  | RedefinePageCommand
  | DeltaCommand

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

/** The position of eachCommand. One object serves all commands: copy what outlives the visit. */
export class CommandCursor implements DeltaFields {
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

  /** Of every command but define-function. */
  get pageId(): number {
    return this.frame.words[(this.offset >>> 2) + 2]!
  }

  // The rest: of deltas. The positions are those listed in delta.ts.
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

/** The command under the cursor, as an object of its own. */
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
      const start = offset + REDEFINE_FIXED_BYTES
      const length = frame.words[(offset >>> 2) + REDEFINE_DEFINITION_LENGTH]!
      const definition = frame.bytes.subarray(start, start + length)
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

/** Puts the id that the bus chose into a create-page command that came with 0xffffffff. */
export function patchPageId(
  frame: Frame,
  command: Pick<CreatePageCommand, 'type' | 'offset'>,
  id: number,
): void {
  frame.words[(command.offset >>> 2) + COMMAND_PAGE] = id
  if ('id' in command) (command as { id: number }).id = id
}
