/**
 * Encodes a transaction of deltas as a frame: "Frame: one transaction" in docs/internals/FORMAT.md. Pages and
 * functions are created over HTTP only.
 *
 * Invariants: the bytes equal those that the server's own writer makes of the same transaction (a test
 * compares); whatever the server would refuse without looking at its state is refused here.
 */
import { align8 } from '../../wire/align.js'
import { DTYPE_INFO, type Dtype } from '../../wire/dtype.js'
import {
  COMMAND_DELTA,
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
import { FIRST_BITWISE_MERGE, MERGES, type Merge } from '../../wire/page.js'
import { jsonOf } from '../arguments.js'
import { invalidDelta, invalidRequest, MmsbError } from '../errors.js'
import type { Delta } from '../types.js'
import { fromBase64, sizeOf, writeValues } from './values.js'

/** What a frame needs to know of a page. */
export interface FramePage {
  readonly id: number
  readonly dtype: Dtype
  readonly elements: number
}

export interface FrameHead {
  /** Idempotency key. */
  readonly key?: string | undefined
  readonly source?: string | undefined
  readonly intent?: unknown
  readonly expect?: readonly { readonly pageId: number; readonly version: number }[] | undefined
}

const FIRST_BYTES = 256
const encoder = new TextEncoder()

/** The frame of a transaction. @throws MmsbError INVALID_DELTA, INVALID_REQUEST, PAYLOAD_TOO_LARGE */
export function encodeFrame(
  head: FrameHead,
  ops: readonly { readonly page: FramePage; readonly delta: Delta }[],
): Uint8Array<ArrayBuffer> {
  if (ops.length > FRAME_MAX_COMMANDS) {
    throw tooLarge(`a transaction has at most ${FRAME_MAX_COMMANDS} operations`)
  }
  const out = new Out()
  writeHead(out, head, ops.length)
  for (const { page, delta } of ops) writeDelta(out, page, delta)
  out.setU32(4, out.length)
  return out.bytes()
}

const tooLarge = (detail: string): MmsbError => new MmsbError({ code: 'PAYLOAD_TOO_LARGE', detail })

/** A buffer that grows. Bytes that were not written are 0. */
class Out {
  length = 0
  #bytes = new Uint8Array(FIRST_BYTES)
  #view = new DataView(this.#bytes.buffer)

  /** Makes room for `bytes` more, a multiple of 8; returns the offset of the first. */
  take(bytes: number): number {
    const at = this.length
    const need = at + bytes
    if (need > FRAME_MAX_BYTES) {
      throw tooLarge(`a transaction has at most ${FRAME_MAX_BYTES} bytes; this needs ${need}`)
    }
    if (need > this.#bytes.length) {
      const larger = new Uint8Array(Math.max(align8(need), this.#bytes.length * 2))
      larger.set(this.#bytes.subarray(0, at))
      this.#bytes = larger
      this.#view = new DataView(larger.buffer)
    }
    this.length = need
    return at
  }

  get buffer(): ArrayBuffer {
    return this.#bytes.buffer
  }

  setU8(at: number, value: number): void {
    this.#view.setUint8(at, value)
  }

  setU16(at: number, value: number): void {
    this.#view.setUint16(at, value, true)
  }

  setU32(at: number, value: number): void {
    this.#view.setUint32(at, value, true)
  }

  setU64(at: number, value: number): void {
    this.#view.setBigUint64(at, BigInt(value), true)
  }

  put(at: number, bytes: Uint8Array): void {
    this.#bytes.set(bytes, at)
  }

  bytes(): Uint8Array<ArrayBuffer> {
    return this.#bytes.subarray(0, this.length)
  }
}

function writeHead(out: Out, { key, source, intent, expect = [] }: FrameHead, commandCount: number): void {
  const texts = [
    textBytes(key, 'key', FRAME_KEY_MAX_BYTES),
    textBytes(source, 'source', FRAME_SOURCE_MAX_BYTES),
    textBytes(intent === undefined ? undefined : jsonOf('intent', intent), 'intent', FRAME_INTENT_MAX_BYTES),
  ] as const
  if (expect.length > FRAME_MAX_PRECONDITIONS) {
    throw tooLarge(`${expect.length} preconditions; at most ${FRAME_MAX_PRECONDITIONS}`)
  }
  out.take(FRAME_HEADER_BYTES)
  out.setU32(0, FRAME_MAGIC)
  out.setU16(8, FRAME_VERSION)
  out.setU32(12, commandCount)
  out.setU32(16, expect.length)
  out.setU16(20, texts[0].length)
  out.setU16(22, texts[1].length)
  out.setU32(24, texts[2].length)
  for (const { pageId, version } of expect) {
    const at = out.take(FRAME_PRECONDITION_BYTES)
    out.setU32(at, pageId)
    out.setU64(at + 8, version)
  }
  for (const text of texts) out.put(out.take(align8(text.length)), text)
}

function textBytes(text: string | undefined, what: string, maxBytes: number): Uint8Array {
  const bytes = encoder.encode(text ?? '')
  if (bytes.length <= maxBytes) return bytes
  throw tooLarge(`${what} has ${bytes.length} bytes; at most ${maxBytes}`)
}

function writeDelta(out: Out, page: FramePage, delta: Delta): void {
  const { offset, indices, mask, values } = delta
  const merge = mergeCode(delta.merge, page.dtype)
  if (indices !== undefined && mask !== undefined)
    throw invalidDelta('indices and mask cannot be given together')
  if (indices === undefined && mask === undefined) {
    writeDense(out, page, merge, offset ?? 0, values)
    return
  }
  if (offset !== undefined) {
    throw invalidDelta(`offset cannot be given together with ${indices === undefined ? 'mask' : 'indices'}`)
  }
  if (indices !== undefined) writeSparse(out, page, merge, indices, values)
  else writeMasked(out, page, merge, mask!, values)
}

function mergeCode(merge: Merge | undefined, dtype: Dtype): number {
  const code = merge === undefined ? 0 : MERGES.indexOf(merge)
  if (code < 0) throw invalidRequest(`merge must be one of ${MERGES.join(', ')}`)
  if (code >= FIRST_BITWISE_MERGE && DTYPE_INFO[dtype].kind === 'float') {
    throw invalidDelta(`merge ${merge} is not defined for ${dtype}`)
  }
  return code
}

interface DeltaFields {
  readonly kind: number
  readonly merge: number
  readonly encoding: number
  readonly offset: number
  readonly count: number
  readonly valueCount: number
  readonly payloadBytes: number
}

/** Writes the header of a command and returns the offset of its payload. */
function deltaHeader(out: Out, page: FramePage, fields: DeltaFields): number {
  const total = DELTA_HEADER_BYTES + align8(fields.payloadBytes)
  const at = out.take(total)
  out.setU16(at, COMMAND_DELTA)
  out.setU32(at + 4, total)
  out.setU32(at + 8, page.id)
  out.setU8(at + 12, fields.kind)
  out.setU8(at + 13, fields.merge)
  out.setU8(at + 14, DTYPE_INFO[page.dtype].code)
  out.setU8(at + 15, fields.encoding)
  out.setU32(at + 16, fields.offset)
  out.setU32(at + 20, fields.count)
  out.setU32(at + 24, fields.valueCount)
  out.setU32(at + 28, fields.payloadBytes)
  return at + DELTA_HEADER_BYTES
}

function writeDense(out: Out, page: FramePage, merge: number, offset: number, values: Delta['values']): void {
  if (!Number.isInteger(offset)) throw invalidRequest(`offset must be an integer, not ${offset}`)
  if (offset < 0)
    throw invalidDelta(`offset: ${offset} is before the start: the page has ${page.elements} elements`)
  const count = values.length
  if (offset + count > page.elements) {
    throw invalidDelta(
      `elements ${offset} to ${offset + count} are past the end: the page has ${page.elements}`,
    )
  }
  const payloadBytes = count * sizeOf(page.dtype)
  const fields = { kind: DELTA_DENSE, merge, encoding: 0, offset, count, valueCount: count, payloadBytes }
  const at = deltaHeader(out, page, fields)
  writeValues(page.dtype, values, out.buffer, at)
}

function writeSparse(
  out: Out,
  page: FramePage,
  merge: number,
  indices: ArrayLike<number>,
  values: Delta['values'],
): void {
  const count = indices.length
  if (count !== values.length) throw invalidDelta(`${count} indices but ${values.length} values`)
  const indexBytes = align8(count * 4)
  const payloadBytes = indexBytes + count * sizeOf(page.dtype)
  const fields = {
    kind: DELTA_SPARSE,
    merge,
    encoding: SPARSE_U32,
    offset: 0,
    count,
    valueCount: count,
    payloadBytes,
  }
  const at = deltaHeader(out, page, fields)
  for (let i = 0; i < count; i++) {
    const index = indices[i]!
    if (!Number.isInteger(index)) throw invalidRequest(`indices[${i}] must be an integer, not ${index}`)
    if (index < 0 || index >= page.elements) {
      throw invalidDelta(`indices[${i}]: ${index} is outside a page of ${page.elements} elements`)
    }
    out.setU32(at + i * 4, index)
  }
  writeValues(page.dtype, values, out.buffer, at + indexBytes)
}

function writeMasked(
  out: Out,
  page: FramePage,
  merge: number,
  mask: string | Uint8Array,
  values: Delta['values'],
): void {
  const bits = maskBits(mask, page.elements)
  const runs = runsOf(bits)
  const set = runs.reduce((sum, { take }) => sum + take, 0)
  if (set !== values.length)
    throw invalidDelta(`the mask has ${set} bits set but there are ${values.length} values`)
  const rawBytes = align8(bits.length)
  const codedBytes = 8 + runs.length * 8
  const isCoded = codedBytes < rawBytes
  const maskBytes = Math.min(codedBytes, rawBytes)
  const fields = {
    kind: DELTA_MASKED,
    merge,
    encoding: isCoded ? MASK_RUNS : MASK_RAW,
    offset: 0,
    count: page.elements,
    valueCount: set,
    payloadBytes: maskBytes + set * sizeOf(page.dtype),
  }
  const at = deltaHeader(out, page, fields)
  if (isCoded) {
    out.setU32(at, runs.length)
    for (const [i, { skip, take }] of runs.entries()) {
      out.setU32(at + 8 + i * 8, skip)
      out.setU32(at + 12 + i * 8, take)
    }
  } else {
    out.put(at, bits)
  }
  writeValues(page.dtype, values, out.buffer, at + maskBytes)
}

function maskBits(mask: string | Uint8Array, elements: number): Uint8Array {
  const bits = typeof mask === 'string' ? fromBase64(mask) : mask
  const length = Math.ceil(elements / 8)
  if (bits.length !== length) {
    throw invalidDelta(`mask has ${bits.length} bytes; ${elements} elements need ${length}`)
  }
  const past = elements % 8
  if (past !== 0 && bits[length - 1]! >>> past !== 0) {
    throw invalidDelta(`mask has bits set past the ${elements} elements of the page`)
  }
  return bits
}

interface Run {
  readonly skip: number
  readonly take: number
}

function runsOf(bits: Uint8Array): Run[] {
  const runs: Run[] = []
  let end = 0
  for (let i = 0; i < bits.length * 8; ) {
    if (((bits[i >> 3]! >> (i & 7)) & 1) === 0) {
      i += bits[i >> 3] === 0 ? 8 - (i & 7) : 1
      continue
    }
    const start = i
    while (i < bits.length * 8 && ((bits[i >> 3]! >> (i & 7)) & 1) === 1) i++
    runs.push({ skip: start - end, take: i - start })
    end = i
  }
  return runs
}
