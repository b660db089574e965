/**
 * The payload of a delta command (docs/internals/FORMAT.md, type 4): its layout, the check against its page,
 * and its form in JSON. frame/writer.ts writes it.
 *
 * Words of the command: type, length, page id, codes (one byte each: kind, merge, dtype, encoding), element
 * offset, count, value count, payload length; then the payload.
 *
 * Invariants: checkDeltaLayout looks at the header and the padding only, in constant time, and makes every
 * later access to the payload safe; validateDelta checks what the layout leaves open. A delta that passed
 * both can be applied.
 */
import { MmsbError } from '../errors.js'
import { align8 } from '../wire/align.js'
import { DTYPE_INFO, DTYPES, type Dtype, dtypeOfCode, type TypedArray } from '../wire/dtype.js'
import {
  DELTA_DENSE,
  DELTA_HEADER_BYTES,
  DELTA_MASKED,
  DELTA_SPARSE,
  MASK_RAW,
  MASK_RUNS,
  SPARSE_U32,
} from '../wire/frame.js'
import { FIRST_BITWISE_MERGE, MERGES, type Merge } from '../wire/page.js'
import { eachRun, isZero, scanBits } from './bytes.js'
import { valuesToJson } from './value.js'

/** The header of a delta. The payload stays in the frame. */
export interface DeltaFields {
  /** The frame that holds the delta. */
  readonly frame: { readonly bytes: Uint8Array; readonly words: Uint32Array }
  /** Position in the frame's list of commands. */
  readonly index: number
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

/** By dtype code. */
const SIZE_BYTES = Uint8Array.from(DTYPES, (name) => DTYPE_INFO[name].sizeBytes)

const invalid = (index: number, why: string): MmsbError =>
  new MmsbError('INVALID_DELTA', `command ${index}: ${why}`)

/** By dtype code: the merges below this code are defined for it. */
const MERGE_LIMIT = Uint8Array.from(DTYPES, (name) =>
  DTYPE_INFO[name].kind === 'float' ? FIRST_BITWISE_MERGE : MERGES.length,
)

/**
 * Checks the layout of the delta command of `byteLength` bytes at `at`. All of them are in `bytes`.
 * @throws MmsbError INVALID_DELTA
 */
export function checkDeltaLayout(
  bytes: Uint8Array,
  words: Uint32Array,
  at: number,
  byteLength: number,
  index: number,
): void {
  if (isDenseLayout(bytes, words, at, byteLength)) return
  checkAnyLayout(bytes, words, at, byteLength, index)
}

/**
 * Whether the delta command of `byteLength` bytes at `at` is dense and has a sound layout. It is one test of
 * all fields without a call, because frames of many small dense deltas spend their time here. Sizes beyond
 * 2^31 fail it, as they fail the full check.
 */
export function isDenseLayout(
  bytes: Uint8Array,
  words: Uint32Array,
  at: number,
  byteLength: number,
): boolean {
  if (byteLength < DELTA_HEADER_BYTES) return false
  const word = at >>> 2
  const codes = words[word + 3]!
  const dtypeCode = codes >>> 16
  const count = words[word + 5]!
  const payloadLength = words[word + 7]!
  return (
    (codes & 0xff) === DELTA_DENSE &&
    dtypeCode < SIZE_BYTES.length &&
    ((codes >>> 8) & 0xff) < MERGE_LIMIT[dtypeCode]! &&
    words[word + 6] === count &&
    count * SIZE_BYTES[dtypeCode]! === payloadLength &&
    DELTA_HEADER_BYTES + ((payloadLength + 7) & ~7) === byteLength &&
    ((payloadLength & 7) === 0 || isZero(bytes, at + DELTA_HEADER_BYTES + payloadLength, at + byteLength))
  )
}

function checkAnyLayout(
  bytes: Uint8Array,
  words: Uint32Array,
  at: number,
  byteLength: number,
  index: number,
): void {
  if (byteLength < DELTA_HEADER_BYTES) throw invalid(index, `a delta needs ${DELTA_HEADER_BYTES} bytes`)
  const word = at >>> 2
  const codes = words[word + 3]!
  const kind = codes & 0xff
  const dtypeCode = (codes >>> 16) & 0xff
  const encoding = codes >>> 24
  const count = words[word + 5]!
  const valueCount = words[word + 6]!
  const payloadLength = words[word + 7]!
  const size = SIZE_BYTES[dtypeCode]
  if (size === undefined) throw invalid(index, `there is no dtype code ${dtypeCode}`)
  checkMergeCode((codes >>> 8) & 0xff, dtypeCode, index)
  if (DELTA_HEADER_BYTES + align8(payloadLength) !== byteLength) {
    throw invalid(index, `a payload of ${payloadLength} bytes does not make a command of ${byteLength}`)
  }
  const valuesAt = valuesOffset(words, word, index, kind, encoding, count, payloadLength)
  if (kind !== DELTA_MASKED && valueCount !== count) {
    throw invalid(index, `${valueCount} values for ${count} elements`)
  }
  if (valuesAt + valueCount * size !== payloadLength) {
    throw invalid(index, `${valueCount} values do not fit a payload of ${payloadLength} bytes`)
  }
  const start = at + DELTA_HEADER_BYTES
  const isRawMask = kind === DELTA_MASKED && encoding === MASK_RAW
  const prefix = kind === DELTA_SPARSE ? count * 4 : isRawMask ? Math.ceil(count / 8) : valuesAt
  if (
    !isZero(bytes, start + prefix, start + valuesAt) ||
    !isZero(bytes, start + payloadLength, at + byteLength)
  ) {
    throw invalid(index, 'its padding is not 0')
  }
}

function checkMergeCode(merge: number, dtypeCode: number, index: number): void {
  if (merge >= MERGES.length) throw invalid(index, `there is no merge code ${merge}`)
  if (merge >= MERGE_LIMIT[dtypeCode]!) {
    throw invalid(index, `merge ${MERGES[merge]} is not defined for ${DTYPES[dtypeCode]}`)
  }
}

/** Where the values of a delta begin, from the start of its payload. */
function valuesOffset(
  words: Uint32Array,
  word: number,
  index: number,
  kind: number,
  encoding: number,
  count: number,
  payloadLength: number,
): number {
  if (kind === DELTA_DENSE && encoding === 0) return 0
  if (kind === DELTA_SPARSE && encoding === SPARSE_U32) {
    if (words[word + 4] !== 0) throw invalid(index, 'a sparse delta has offset 0')
    return align8(count * 4)
  }
  if (kind === DELTA_MASKED && encoding === MASK_RAW) return align8(Math.ceil(count / 8))
  if (kind === DELTA_MASKED && encoding === MASK_RUNS) {
    if (payloadLength < 8) throw invalid(index, 'a run-length mask needs 8 bytes')
    if (words[word + 9] !== 0) throw invalid(index, 'the reserved field of its mask is not 0')
    return 8 + words[word + 8]! * 8
  }
  throw invalid(
    index,
    kind > DELTA_MASKED
      ? `there is no delta kind ${kind}`
      : `there is no encoding ${encoding} for kind ${kind}`,
  )
}

// ---- against the page ---------------------------------------------------------------------------

/** The page that a delta is checked against. */
export interface DeltaTarget {
  readonly dtype: Dtype
  readonly elements: number
}

/**
 * Checks a delta that passed checkDeltaLayout against its page: dtype, range, indices, mask bits, bool
 * values. Takes the command or the cursor of eachCommand.
 * @throws MmsbError INVALID_DELTA
 */
export function validateDelta(delta: DeltaFields, page: DeltaTarget): void {
  const { dtypeCode, kind } = delta
  if (dtypeCode !== DTYPE_INFO[page.dtype].code) {
    throw invalid(delta.index, `values are ${DTYPES[dtypeCode]}, the page is ${page.dtype}`)
  }
  if (kind === DELTA_SPARSE) {
    checkIndices(delta, page.elements)
  } else {
    if (delta.elementOffset + delta.count > page.elements) throw pastTheEnd(delta, page.elements)
    if (kind === DELTA_MASKED) checkMask(delta)
  }
  if (dtypeCode === 0) checkBoolValues(delta)
}

function pastTheEnd({ index, elementOffset, count }: DeltaFields, elements: number): MmsbError {
  const end = elementOffset + count
  return invalid(index, `elements ${elementOffset} to ${end} are past the end: the page has ${elements}`)
}

function checkIndices(delta: DeltaFields, elements: number): void {
  const { words } = delta.frame
  const start = delta.payloadOffset >>> 2
  for (let i = 0; i < delta.count; i++) {
    if (words[start + i]! >= elements) {
      throw invalid(
        delta.index,
        `indices[${i}]: ${words[start + i]} is past the end: the page has ${elements}`,
      )
    }
  }
}

function checkMask(delta: DeltaFields): void {
  const { covered, set } = delta.encoding === MASK_RUNS ? measureRuns(delta) : measureBits(delta)
  if (covered > delta.count) {
    throw invalid(delta.index, `its mask goes past the ${delta.count} elements it covers`)
  }
  if (set !== delta.valueCount) {
    throw invalid(delta.index, `${delta.valueCount} values for a mask with ${set} bits set`)
  }
}

function measureRuns(delta: DeltaFields): { covered: number; set: number } {
  const { words } = delta.frame
  const runs = delta.payloadOffset >>> 2
  let covered = 0
  let set = 0
  for (let i = 0; i < words[runs]!; i++) {
    covered += words[runs + 2 + i * 2]! + words[runs + 3 + i * 2]!
    set += words[runs + 3 + i * 2]!
  }
  return { covered, set }
}

function measureBits(delta: DeltaFields): { covered: number; set: number } {
  const bits = maskBytes(delta)
  const past = delta.count % 8
  const clean = past === 0 || bits[bits.length - 1]! >>> past === 0
  return { covered: clean ? delta.count : delta.count + 1, set: scanBits(bits).set }
}

function maskBytes(delta: DeltaFields): Uint8Array {
  return delta.frame.bytes.subarray(delta.payloadOffset, delta.payloadOffset + Math.ceil(delta.count / 8))
}

function checkBoolValues(delta: DeltaFields): void {
  const { bytes } = delta.frame
  const end = delta.payloadOffset + delta.payloadLength
  const start = end - delta.valueCount
  for (let i = start; i < end; i++) {
    if (bytes[i]! > 1)
      throw invalid(delta.index, `values[${i - start}]: ${bytes[i]} must be 0 or 1 (dtype bool)`)
  }
}

// ---- as JSON ------------------------------------------------------------------------------------

/** A delta as /v1/epochs shows it. `mask`: base64, over the whole page. */
export interface DeltaJson {
  readonly page: number
  readonly offset?: number
  readonly indices?: number[]
  readonly mask?: string
  readonly values: (number | string | boolean)[]
  readonly merge: Merge
}

/**
 * A delta command as the JSON op that writes the same delta again, with the page by id. The delta has passed
 * validateDelta against a page of `elements` elements (undefined: exactly those that its mask covers). JSON
 * masks cover a whole page, so a mask over part of one is shown as the indices it stands for.
 */
export function decodeDeltaForJson(delta: DeltaFields, elements?: number): DeltaJson {
  return describeDelta(delta, elements, valuesToJson, (indices) => Array.from(indices)) as DeltaJson
}

/**
 * The same with lists of values and of indices as the caller wants them. It gets views of the frame.
 */
export function describeDelta<V, I>(
  delta: DeltaFields,
  elements: number | undefined,
  valuesOf: (dtype: Dtype, values: TypedArray) => V,
  indicesFrom: (indices: Uint32Array) => I,
): Omit<DeltaJson, 'values' | 'indices'> & { readonly values: V; readonly indices?: I } {
  const page = delta.pageId
  const values = valuesOf(dtypeOfCode(delta.dtypeCode)!, deltaValues(delta))
  const merge = MERGES[delta.merge]!
  if (delta.kind === DELTA_SPARSE) {
    const start = delta.payloadOffset >>> 2
    return {
      page,
      indices: indicesFrom(delta.frame.words.subarray(start, start + delta.count)),
      values,
      merge,
    }
  }
  if (delta.kind === DELTA_MASKED) {
    const bits = delta.encoding === MASK_RUNS ? expandRuns(delta) : maskBytes(delta)
    if (delta.elementOffset !== 0 || delta.count !== (elements ?? delta.count))
      return { page, indices: indicesFrom(indicesOf(bits, delta.elementOffset)), values, merge }
    const mask = Buffer.from(bits.buffer, bits.byteOffset, bits.length).toString('base64')
    return { page, mask, values, merge }
  }
  return { page, offset: delta.elementOffset, values, merge }
}

/**
 * The values of a delta in the order of its payload: a view, not a copy. Payloads are always aligned for it.
 */
export function deltaValues(delta: DeltaFields): TypedArray {
  const info = DTYPE_INFO[dtypeOfCode(delta.dtypeCode)!]
  const { bytes } = delta.frame
  const at = delta.payloadOffset + delta.payloadLength - delta.valueCount * info.sizeBytes
  return info.view(bytes.buffer, bytes.byteOffset + at, delta.valueCount)
}

function indicesOf(bits: Uint8Array, first: number): Uint32Array {
  let count = 0
  eachRun(bits, (start, end) => {
    count += end - start
  })
  const indices = new Uint32Array(count)
  let at = 0
  eachRun(bits, (start, end) => {
    for (let i = start; i < end; i++) indices[at++] = first + i
  })
  return indices
}

function expandRuns(delta: DeltaFields): Uint8Array {
  const bits = new Uint8Array(Math.ceil(delta.count / 8))
  const { words } = delta.frame
  const runs = delta.payloadOffset >>> 2
  let element = 0
  for (let i = 0; i < words[runs]!; i++) {
    element += words[runs + 2 + i * 2]!
    const end = element + words[runs + 3 + i * 2]!
    for (; element < end; element++) bits[element >>> 3]! |= 1 << (element & 7)
  }
  return bits
}

/**
 * Writes a bitset as run-length words: runCount, 0, then for each run how many bits to skip and how many are
 * set.
 */
export function writeRuns(bits: Uint8Array, runCount: number, words: Uint32Array, at: number): void {
  words[at] = runCount
  words[at + 1] = 0
  let next = at + 2
  let element = 0
  eachRun(bits, (start, end) => {
    words[next++] = start - element
    words[next++] = end - start
    element = end
  })
}
