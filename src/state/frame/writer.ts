/**
 * Writes frames (docs/internals/FORMAT.md). Input from JSON or the library is checked while it is encoded, so
 * the finished frame needs no second check.
 *
 * Invariants: a method that throws leaves the frame as it was. Padding inside a command is zeroed before
 * anything else is written, so bytes of a refused command never show. Small frames lie side by side in one
 * ArrayBuffer, so a frame's buffer must not be transferred or read beyond the frame.
 */
import { MmsbError } from '../../errors.js'
import { align8 } from '../../wire/align.js'
import { DTYPE_INFO, type Dtype } from '../../wire/dtype.js'
import {
  COMMAND_CREATE_PAGE,
  COMMAND_DEFINE_FUNCTION,
  COMMAND_DELETE_PAGE,
  COMMAND_DELTA,
  COMMAND_REDEFINE_PAGE,
  DELTA_DENSE,
  DELTA_HEADER_BYTES,
  DELTA_MASKED,
  DELTA_SPARSE,
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
  MASK_RAW,
  MASK_RUNS,
  SPARSE_U32,
} from '../../wire/frame.js'
import { LOCATIONS, PAGE_KINDS } from '../../wire/page.js'
import { scanBits } from '../bytes.js'
import { writeRuns } from '../delta.js'
import { SlabAllocator } from '../slab.js'
import type { DeltaInput, DeltaValues } from '../types.js'
import { showValue, writeValues } from '../value.js'
import { invalid, malformed, maskBits, mergeCode, refuseDetached, writeIndices } from './delta-input.js'
import {
  COMMAND_LENGTH,
  COMMAND_PAGE,
  CREATE_CODES,
  CREATE_DEFINITION_LENGTH,
  CREATE_FILL,
  CREATE_FIXED_BYTES,
  CREATE_NAME_LENGTH,
  CREATE_SHAPE,
  type CreatePageFields,
  DELETE_BYTES,
  DELETE_RESERVED,
  type FramePrecondition,
  FUNCTION_DEFINITION_LENGTH,
  FUNCTION_FIXED_BYTES,
  FUNCTION_NAME_LENGTH,
  HEADER_COMMANDS,
  HEADER_INTENT,
  HEADER_LENGTH,
  HEADER_PRECONDITIONS,
  HEADER_TEXTS,
  HEADER_VERSION,
  REDEFINE_DEFINITION_LENGTH,
  REDEFINE_FIXED_BYTES,
} from './layout.js'

export interface FrameWriterOptions {
  /** Idempotency key. */
  readonly key?: string | undefined
  readonly source?: string | undefined
  /** Any JSON value; undefined: none. */
  readonly intent?: unknown
  readonly expect?: readonly FramePrecondition[] | undefined
}

/** Room for the header and one small delta; a frame that needs more doubles. */
const INITIAL_BYTES = 256
const slabs = new SlabAllocator(16 * 1024)
const NO_BYTES = new Uint8Array(0)
const NO_PRECONDITIONS: readonly FramePrecondition[] = []

export class FrameWriter {
  #bytes: Uint8Array<ArrayBuffer>
  #words: Uint32Array
  /** Where the frame begins, where it ends so far, and how far it may go; all in #bytes. */
  #start: number
  #end: number
  #limit: number
  #commandCount = 0

  /** @throws MmsbError PAYLOAD_TOO_LARGE, INVALID_REQUEST (an intent that is not JSON) */
  constructor(options: FrameWriterOptions = {}) {
    const slab = slabs.withRoom(INITIAL_BYTES)
    this.#bytes = slab.bytes
    this.#words = slab.words
    this.#start = slab.used
    this.#end = slab.used + FRAME_HEADER_BYTES
    slab.used += INITIAL_BYTES
    this.#limit = slab.used
    const { key, source, intent, expect = NO_PRECONDITIONS } = options
    if (key !== undefined || source !== undefined || intent !== undefined || expect.length > 0) {
      this.#writeHead(expect, key, source, intent)
    }
    const word = this.#start >>> 2
    this.#words[word] = FRAME_MAGIC
    this.#words[word + HEADER_VERSION] = FRAME_VERSION
  }

  #writeHead(
    expect: readonly FramePrecondition[],
    key: string | undefined,
    source: string | undefined,
    intent: unknown,
  ): void {
    const keyBytes = textBytes(key, 'key', FRAME_KEY_MAX_BYTES)
    const sourceBytes = bytesOfSource(source)
    const intentBytes = textBytes(intentText(intent), 'intent', FRAME_INTENT_MAX_BYTES)
    if (expect.length > FRAME_MAX_PRECONDITIONS) {
      throw new MmsbError(
        'PAYLOAD_TOO_LARGE',
        `${expect.length} preconditions; at most ${FRAME_MAX_PRECONDITIONS}`,
      )
    }
    const textsBytes = align8(keyBytes.length) + align8(sourceBytes.length) + align8(intentBytes.length)
    let at = this.#reserve(expect.length * FRAME_PRECONDITION_BYTES + textsBytes)
    const words = this.#words
    const word = this.#start >>> 2
    words[word + HEADER_PRECONDITIONS] = expect.length
    words[word + HEADER_TEXTS] = keyBytes.length | (sourceBytes.length << 16)
    words[word + HEADER_INTENT] = intentBytes.length
    for (const { pageId, version } of expect) {
      words[at >>> 2] = pageId
      words[(at >>> 2) + 1] = 0
      words[(at >>> 2) + 2] = version >>> 0
      words[(at >>> 2) + 3] = Math.floor(version / 2 ** 32)
      at += FRAME_PRECONDITION_BYTES
    }
    at = this.#putPadded(at, keyBytes)
    at = this.#putPadded(at, sourceBytes)
    this.#end = this.#putPadded(at, intentBytes)
  }

  /** Adds a create-page command. `definition` is empty for a source page. */
  createPage(page: CreatePageFields): void {
    const name = Buffer.from(page.name, 'latin1')
    const rank = page.shape.length
    const shapeBytes = align8(rank * 4)
    const total = CREATE_FIXED_BYTES + shapeBytes + align8(name.length) + align8(page.definition.length)
    const at = this.#startCommand(COMMAND_CREATE_PAGE, total)
    const word = at >>> 2
    const words = this.#words
    words[word + COMMAND_PAGE] = page.id
    words[word + CREATE_CODES] =
      DTYPE_INFO[page.dtype].code |
      (rank << 8) |
      (LOCATIONS.indexOf(page.location) << 16) |
      (PAGE_KINDS.indexOf(page.kind) << 24)
    words[word + CREATE_FILL] = Number(page.fill & 0xffff_ffffn)
    words[word + CREATE_FILL + 1] = Number(page.fill >> 32n)
    words[word + CREATE_NAME_LENGTH] = name.length
    words[word + CREATE_DEFINITION_LENGTH] = page.definition.length
    if (rank % 2 === 1) words[word + CREATE_SHAPE + rank] = 0
    words.set(page.shape, word + CREATE_SHAPE)
    const nameAt = at + CREATE_FIXED_BYTES + shapeBytes
    this.#putPadded(this.#putPadded(nameAt, name), page.definition)
    this.#commit(total)
  }

  deletePage(pageId: number): void {
    const word = this.#startCommand(COMMAND_DELETE_PAGE, DELETE_BYTES) >>> 2
    this.#words[word + COMMAND_PAGE] = pageId
    this.#words[word + DELETE_RESERVED] = 0
    this.#commit(DELETE_BYTES)
  }

  /** An empty definition deletes the function. */
  defineFunction(name: string, definition: Uint8Array = NO_BYTES): void {
    const nameBytes = Buffer.from(name, 'latin1')
    const total = FUNCTION_FIXED_BYTES + align8(nameBytes.length) + align8(definition.length)
    const at = this.#startCommand(COMMAND_DEFINE_FUNCTION, total)
    const word = at >>> 2
    this.#words[word + FUNCTION_NAME_LENGTH] = nameBytes.length
    this.#words[word + FUNCTION_DEFINITION_LENGTH] = definition.length
    this.#putPadded(this.#putPadded(at + FUNCTION_FIXED_BYTES, nameBytes), definition)
    this.#commit(total)
  }

  /** Gives a derived page another definition. */
  redefinePage(pageId: number, definition: Uint8Array): void {
    const total = REDEFINE_FIXED_BYTES + align8(definition.length)
    const at = this.#startCommand(COMMAND_REDEFINE_PAGE, total)
    const word = at >>> 2
    this.#words[word + COMMAND_PAGE] = pageId
    this.#words[word + REDEFINE_DEFINITION_LENGTH] = definition.length
    this.#putPadded(at + REDEFINE_FIXED_BYTES, definition)
    this.#commit(total)
  }

  /** Reserves a structural command, writes its type and length, and returns its offset. */
  #startCommand(type: number, total: number): number {
    const at = this.#reserve(total)
    this.#words[at >>> 2] = type
    this.#words[(at >>> 2) + COMMAND_LENGTH] = total
    return at
  }

  /**
   * Adds a delta to a page of `elements` elements of `dtype`. A mask is stored raw or run-length coded,
   * whichever is smaller.
   * @throws MmsbError INVALID_DELTA, INVALID_REQUEST (not a delta at all), PAYLOAD_TOO_LARGE
   */
  delta(pageId: number, dtype: Dtype, elements: number, input: DeltaInput): void {
    const merge = mergeCode(input.merge, dtype)
    const { values, indices, mask, offset } = input
    if (ArrayBuffer.isView(values)) refuseDetached('values', values)
    else if (!Array.isArray(values)) throw malformed('values must be an array')
    if (indices === undefined && mask === undefined) {
      this.#dense(pageId, dtype, merge, elements, offset === undefined ? 0 : offset, values)
    } else if (offset !== undefined) {
      throw invalid(`offset cannot be given together with ${indices === undefined ? 'mask' : 'indices'}`)
    } else if (mask === undefined) {
      this.#sparse(pageId, dtype, merge, elements, indices!, values)
    } else if (indices === undefined) {
      this.#masked(pageId, dtype, merge, elements, mask, values)
    } else {
      throw invalid('indices and mask cannot be given together')
    }
  }

  #dense(
    pageId: number,
    dtype: Dtype,
    merge: number,
    elements: number,
    offset: number,
    values: DeltaValues,
  ): void {
    if (!Number.isInteger(offset)) throw malformed(`offset must be an integer, not ${showValue(offset)}`)
    const count = values.length
    if (offset < 0) throw invalid(`offset: ${offset} is before the start: the page has ${elements} elements`)
    if (offset + count > elements) {
      throw invalid(`elements ${offset} to ${offset + count} are past the end: the page has ${elements}`)
    }
    const payload = count * DTYPE_INFO[dtype].sizeBytes
    const at = this.#deltaHeader(pageId, DELTA_DENSE, dtype, merge, 0, offset, count, count, payload)
    this.#putValues(at, dtype, values)
    this.#commitDelta(payload)
  }

  #sparse(
    pageId: number,
    dtype: Dtype,
    merge: number,
    elements: number,
    indices: ArrayLike<number>,
    values: DeltaValues,
  ): void {
    if (ArrayBuffer.isView(indices)) refuseDetached('indices', indices)
    else if (!Array.isArray(indices)) throw malformed('indices must be an array')
    const count = indices.length
    if (count !== values.length) throw invalid(`${count} indices but ${values.length} values`)
    const payload = align8(count * 4) + count * DTYPE_INFO[dtype].sizeBytes
    const at = this.#deltaHeader(pageId, DELTA_SPARSE, dtype, merge, SPARSE_U32, 0, count, count, payload)
    if (count % 2 === 1) this.#words[(at >>> 2) + count] = 0
    writeIndices(indices, elements, this.#words, at >>> 2)
    this.#putValues(at + align8(count * 4), dtype, values)
    this.#commitDelta(payload)
  }

  #masked(
    pageId: number,
    dtype: Dtype,
    merge: number,
    elements: number,
    mask: string | Uint8Array,
    values: DeltaValues,
  ): void {
    const bits = maskBits(mask, elements)
    const { set, runs } = scanBits(bits)
    const count = values.length
    if (set !== count) throw invalid(`the mask has ${set} bits set but there are ${count} values`)
    const raw = align8(bits.length)
    const coded = 8 + runs * 8
    const encoding = coded < raw ? MASK_RUNS : MASK_RAW
    const maskBytes = Math.min(coded, raw)
    const payload = maskBytes + count * DTYPE_INFO[dtype].sizeBytes
    const at = this.#deltaHeader(pageId, DELTA_MASKED, dtype, merge, encoding, 0, elements, count, payload)
    if (encoding === MASK_RUNS) writeRuns(bits, runs, this.#words, at >>> 2)
    else this.#putPadded(at, bits)
    this.#putValues(at + maskBytes, dtype, values)
    this.#commitDelta(payload)
  }

  /** Reserves the whole command, writes its header and returns where the payload goes. */
  #deltaHeader(
    pageId: number,
    kind: number,
    dtype: Dtype,
    merge: number,
    encoding: number,
    offset: number,
    count: number,
    valueCount: number,
    payload: number,
  ): number {
    const total = DELTA_HEADER_BYTES + align8(payload)
    const at = this.#reserve(total)
    const word = at >>> 2
    const words = this.#words
    words[word] = COMMAND_DELTA
    words[word + 1] = total
    words[word + 2] = pageId
    words[word + 3] = kind | (merge << 8) | (DTYPE_INFO[dtype].code << 16) | (encoding << 24)
    words[word + 4] = offset
    words[word + 5] = count
    words[word + 6] = valueCount
    words[word + 7] = payload
    if (payload % 8 !== 0) {
      words[(at + total - 8) >>> 2] = 0
      words[(at + total - 4) >>> 2] = 0
    }
    return at + DELTA_HEADER_BYTES
  }

  #commitDelta(payload: number): void {
    this.#commit(DELTA_HEADER_BYTES + align8(payload))
  }

  #commit(bytes: number): void {
    this.#end += bytes
    this.#commandCount++
  }

  /** Makes room for `bytes` more and returns where they begin. */
  #reserve(bytes: number): number {
    const need = this.#end - this.#start + bytes
    if (need > FRAME_MAX_BYTES) {
      throw new MmsbError(
        'PAYLOAD_TOO_LARGE',
        `a transaction has at most ${FRAME_MAX_BYTES} bytes; this needs ${need}`,
      )
    }
    if (this.#commandCount >= FRAME_MAX_COMMANDS) {
      throw new MmsbError('PAYLOAD_TOO_LARGE', `a transaction has at most ${FRAME_MAX_COMMANDS} commands`)
    }
    if (this.#end + bytes > this.#limit) this.#grow(need)
    return this.#end
  }

  /** Moves the frame to a buffer of its own, or a larger one. */
  #grow(need: number): void {
    const larger = new Uint8Array(align8(Math.max(need, (this.#limit - this.#start) * 2)))
    larger.set(this.#bytes.subarray(this.#start, this.#end))
    this.#end -= this.#start
    this.#start = 0
    this.#limit = larger.length
    this.#bytes = larger
    this.#words = new Uint32Array(larger.buffer)
  }

  #putValues(at: number, dtype: Dtype, values: DeltaValues): void {
    writeValues(dtype, values, this.#bytes, at)
  }

  /** Writes bytes and zeros up to a multiple of 8; returns the end. */
  #putPadded(at: number, bytes: Uint8Array): number {
    if (bytes.length === 0) return at
    const end = at + align8(bytes.length)
    this.#words[(end >>> 2) - 2] = 0
    this.#words[(end >>> 2) - 1] = 0
    this.#bytes.set(bytes, at)
    return end
  }

  /**
   * The finished frame: a view of the writer's buffer, at a multiple of 8. The writer must not be used again.
   */
  finish(): Uint8Array {
    const word = this.#start >>> 2
    this.#words[word + HEADER_LENGTH] = this.#end - this.#start
    this.#words[word + HEADER_COMMANDS] = this.#commandCount
    return this.#bytes.subarray(this.#start, this.#end)
  }
}

/** Many frames in a row have the same source. */
let lastSource = ''
let lastSourceBytes: Uint8Array = NO_BYTES

function bytesOfSource(source: string | undefined): Uint8Array {
  if (source === undefined) return NO_BYTES
  if (source !== lastSource) {
    lastSourceBytes = textBytes(source, 'source', FRAME_SOURCE_MAX_BYTES)
    lastSource = source
  }
  return lastSourceBytes
}

function textBytes(text: string | undefined, what: string, mostBytes: number): Uint8Array {
  if (text === undefined) return NO_BYTES
  const bytes = Buffer.from(text, 'utf8')
  if (bytes.length > mostBytes) {
    throw new MmsbError('PAYLOAD_TOO_LARGE', `${what} has ${bytes.length} bytes; at most ${mostBytes}`)
  }
  return bytes
}

function intentText(intent: unknown): string | undefined {
  try {
    return intent === undefined ? undefined : JSON.stringify(intent)
  } catch (cause) {
    throw new MmsbError('INVALID_REQUEST', 'intent is not a JSON value', undefined, { cause })
  }
}
