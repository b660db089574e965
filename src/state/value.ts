/**
 * Converts elements and lists of elements between JSON and bytes.
 *
 * In: integer dtypes take integral numbers in range and bigints; u64 and i64 also take decimal strings, and
 * take numbers only where these are exact; floats take numbers and the strings "NaN", "Infinity" and
 * "-Infinity"; bool takes true, false, 0 and 1. A finite number that f32 would round to infinity is refused.
 * Out: u64 and i64 become decimal strings, non-finite floats the three strings, bool true or false, the rest
 * numbers (an f32 the double it equals; -0 as -0.0). Every output is accepted as input and gives the same
 * bits, but that a NaN of a list or of JSON is always the same one; typed arrays keep the bits of theirs.
 *
 * Invariant: a refused value is INVALID_DELTA, with its position in the message. Little-endian hosts only.
 */
import { MmsbError } from '../errors.js'
import { JSON_PIECE_ELEMENTS } from '../limits.js'
import { DTYPE_INFO, type Dtype, F32_OVERFLOW, type TypedArray } from '../wire/dtype.js'
import type { DeltaValues } from './types.js'

const DECIMAL = /^-?[0-9]{1,20}$/

/**
 * The value of one element: a bigint for u64 and i64, else a number (0 or 1 for bool, f32 already rounded).
 * `index` is the position in the list, for the message.
 * @throws MmsbError INVALID_DELTA
 */
export function parseValue(dtype: Dtype, value: unknown, index?: number): number | bigint {
  switch (dtype) {
    case 'bool':
      return parseBool(value, index)
    case 'f32':
    case 'f64':
      return parseFloatValue(dtype, value, index)
    case 'u64':
    case 'i64':
      return parseInteger(dtype, value, index)
    default:
      return Number(parseInteger(dtype, value, index))
  }
}

function parseBool(value: unknown, index: number | undefined): number {
  if (value === true || value === 1 || value === 1n) return 1
  if (value === false || value === 0 || value === 0n) return 0
  throw refused('bool', value, index, 'must be true, false, 0 or 1')
}

function parseFloatValue(dtype: 'f32' | 'f64', value: unknown, index: number | undefined): number {
  if (typeof value === 'number') {
    // A number may carry the bits of the array it was read from.
    if (Number.isNaN(value)) return Number.NaN
    if (dtype === 'f64') return value
    if (Math.abs(value) >= F32_OVERFLOW && Number.isFinite(value)) {
      throw refused(dtype, value, index, 'is out of range')
    }
    return Math.fround(value)
  }
  if (value === 'NaN') return Number.NaN
  if (value === 'Infinity') return Number.POSITIVE_INFINITY
  if (value === '-Infinity') return Number.NEGATIVE_INFINITY
  throw refused(dtype, value, index, 'must be a number, "NaN", "Infinity" or "-Infinity"')
}

function parseInteger(dtype: Dtype, value: unknown, index: number | undefined): bigint {
  const info = DTYPE_INFO[dtype]
  const wide = info.sizeBytes === 8
  let integer: bigint
  if (typeof value === 'bigint') {
    integer = value
  } else if (typeof value === 'number') {
    if (!Number.isInteger(value)) throw refused(dtype, value, index, 'must be an integer')
    if (wide && !Number.isSafeInteger(value)) {
      throw refused(dtype, value, index, 'is not exact as a number; give it as a decimal string')
    }
    integer = BigInt(value)
  } else if (wide && typeof value === 'string' && DECIMAL.test(value)) {
    integer = BigInt(value)
  } else {
    throw refused(dtype, value, index, wide ? 'must be an integer or a decimal string' : 'must be an integer')
  }
  if (integer < info.min! || integer > info.max!) {
    throw refused(dtype, value, index, `is out of range ${info.min} to ${info.max}`)
  }
  return integer
}

function refused(dtype: Dtype, value: unknown, index: number | undefined, why: string): MmsbError {
  const where = index === undefined ? 'value' : `values[${index}]`
  return new MmsbError('INVALID_DELTA', `${where}: ${showValue(value)} ${why} (dtype ${dtype})`)
}

/** A value for messages: shortened, strings in quotes. */
export function showValue(value: unknown): string {
  if (typeof value === 'bigint' || typeof value === 'number' || value === undefined) return String(value)
  if (typeof value === 'function') return 'a function'
  if (typeof value === 'object' && value !== null) return Array.isArray(value) ? 'an array' : 'an object'
  if (typeof value !== 'string') return String(value)
  return JSON.stringify(value.length > 40 ? `${value.slice(0, 40)}...` : value)
}

/**
 * The bits of one element, zero-extended, as the `fill` of a page holds them. @throws MmsbError INVALID_DELTA
 */
export function fillBits(dtype: Dtype, value: number | bigint | string | boolean): bigint {
  const words = new BigUint64Array(1)
  writeParsed(dtype, parseValue(dtype, value), words.buffer)
  return words[0]!
}

/** The JSON value of an element from its bits: the inverse of fillBits. */
export function fillToJson(dtype: Dtype, bits: bigint): number | string | boolean {
  const words = BigUint64Array.of(bits)
  return valuesToJson(dtype, DTYPE_INFO[dtype].view(words.buffer, 0, 1))[0]!
}

function writeParsed(dtype: Dtype, value: number | bigint, buffer: ArrayBuffer): void {
  const view = DTYPE_INFO[dtype].view(buffer, 0, 1)
  ;(view as { [index: number]: number | bigint })[0] = value
}

/**
 * The bytes of `values`. A typed array must have the dtype's own type; it is copied. @throws MmsbError
 * INVALID_DELTA
 */
export function encodeValues(dtype: Dtype, values: DeltaValues): Uint8Array {
  const bytes = new Uint8Array(values.length * DTYPE_INFO[dtype].sizeBytes)
  writeValues(dtype, values, bytes, 0)
  return bytes
}

/**
 * Writes the bytes of `values` into `out` at offset `at`. `out` has room for them, and both `at` and the
 * offset of `out` in its buffer are multiples of the element size.
 * @throws MmsbError INVALID_DELTA; the buffer may then hold some of the values
 */
export function writeValues(dtype: Dtype, values: DeltaValues, out: Uint8Array, at: number): void {
  if (ArrayBuffer.isView(values)) {
    checkTypedArray(dtype, values)
    out.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), at)
  } else {
    WRITERS[dtype](values, out.buffer, out.byteOffset + at)
  }
}

function checkTypedArray(dtype: Dtype, values: ArrayBufferView & DeltaValues): void {
  // A Buffer is a Uint8Array by its tag; instanceof would miss arrays of another realm.
  const name = (values as { [Symbol.toStringTag]?: string })[Symbol.toStringTag]
  const { arrayName } = DTYPE_INFO[dtype]
  if (name !== arrayName) {
    throw new MmsbError(
      'INVALID_DELTA',
      `values are a ${name ?? 'DataView'}; a page of ${dtype} takes a ${arrayName} or a plain array`,
    )
  }
  if (dtype === 'bool') checkBools(values as Uint8Array)
}

/** Checks that bytes are a bool array's: 0 or 1. @throws MmsbError INVALID_DELTA */
export function checkBools(values: Uint8Array): void {
  for (let i = 0; i < values.length; i++) {
    if (values[i]! > 1) throw refused('bool', values[i], i, 'must be 0 or 1')
  }
}

// One loop per dtype, so that each sees one kind of array and stays monomorphic. Everything but plain numbers
// in range goes to the general parser, which also makes the error. Fractions, NaN and infinities fail the
// integer comparison.

type PlainValues = readonly (number | bigint | string | boolean)[]
type Writer = (values: PlainValues, buffer: ArrayBufferLike, byteOffset: number) => void

const WRITERS: Readonly<Record<Dtype, Writer>> = {
  bool: (v, b, o) => writeBools(v, new Uint8Array(b, o, v.length)),
  u8: (v, b, o) => writeU8(v, new Uint8Array(b, o, v.length)),
  i8: (v, b, o) => writeI8(v, new Int8Array(b, o, v.length)),
  u16: (v, b, o) => writeU16(v, new Uint16Array(b, o, v.length)),
  i16: (v, b, o) => writeI16(v, new Int16Array(b, o, v.length)),
  u32: (v, b, o) => writeU32(v, new Uint32Array(b, o, v.length)),
  i32: (v, b, o) => writeI32(v, new Int32Array(b, o, v.length)),
  u64: (v, b, o) => writeWide('u64', v, new BigUint64Array(b, o, v.length)),
  i64: (v, b, o) => writeWide('i64', v, new BigInt64Array(b, o, v.length)),
  f32: (v, b, o) => writeF32(v, new Float32Array(b, o, v.length)),
  f64: (v, b, o) => writeF64(v, new Float64Array(b, o, v.length)),
}

function writeBools(values: PlainValues, out: Uint8Array): void {
  for (let i = 0; i < values.length; i++) {
    const v = values[i]
    out[i] = v === true || v === 1 ? 1 : v === false || v === 0 ? 0 : parseBool(v, i)
  }
}

function writeU8(values: PlainValues, out: Uint8Array): void {
  for (let i = 0; i < values.length; i++) {
    const v = values[i]
    out[i] = typeof v === 'number' && (v & 0xff) === v ? v : Number(parseInteger('u8', v, i))
  }
}

function writeI8(values: PlainValues, out: Int8Array): void {
  for (let i = 0; i < values.length; i++) {
    const v = values[i]
    out[i] = typeof v === 'number' && (v << 24) >> 24 === v ? v : Number(parseInteger('i8', v, i))
  }
}

function writeU16(values: PlainValues, out: Uint16Array): void {
  for (let i = 0; i < values.length; i++) {
    const v = values[i]
    out[i] = typeof v === 'number' && (v & 0xffff) === v ? v : Number(parseInteger('u16', v, i))
  }
}

function writeI16(values: PlainValues, out: Int16Array): void {
  for (let i = 0; i < values.length; i++) {
    const v = values[i]
    out[i] = typeof v === 'number' && (v << 16) >> 16 === v ? v : Number(parseInteger('i16', v, i))
  }
}

function writeU32(values: PlainValues, out: Uint32Array): void {
  for (let i = 0; i < values.length; i++) {
    const v = values[i]
    out[i] = typeof v === 'number' && v >>> 0 === v ? v : Number(parseInteger('u32', v, i))
  }
}

function writeI32(values: PlainValues, out: Int32Array): void {
  for (let i = 0; i < values.length; i++) {
    const v = values[i]
    out[i] = typeof v === 'number' && (v | 0) === v ? v : Number(parseInteger('i32', v, i))
  }
}

function writeWide(dtype: 'u64' | 'i64', values: PlainValues, out: BigUint64Array | BigInt64Array): void {
  for (let i = 0; i < values.length; i++) out[i] = parseInteger(dtype, values[i], i)
}

function writeF32(values: PlainValues, out: Float32Array): void {
  for (let i = 0; i < values.length; i++) {
    const v = values[i]
    out[i] = typeof v === 'number' && v < F32_OVERFLOW && v > -F32_OVERFLOW ? v : parseFloatValue('f32', v, i)
  }
}

function writeF64(values: PlainValues, out: Float64Array): void {
  for (let i = 0; i < values.length; i++) {
    const v = values[i]
    out[i] = typeof v === 'number' && !Number.isNaN(v) ? v : parseFloatValue('f64', v, i)
  }
}

/** The elements as JSON values, by the rules at the top of this file. */
export function valuesToJson(dtype: Dtype, values: TypedArray): (number | string | boolean)[] {
  switch (dtype) {
    case 'bool':
      return Array.from(values as Uint8Array, (v) => v !== 0)
    case 'u64':
    case 'i64':
      return Array.from(values as BigInt64Array, (v) => v.toString())
    case 'f32':
    case 'f64':
      return Array.from(values as Float64Array, (v) => (Number.isFinite(v) ? v : String(v)))
    default:
      return Array.from(values as Int32Array)
  }
}

/**
 * The elements as JSON text: JSON.stringify(valuesToJson(...)) several times as fast, except that -0
 * keeps its sign.
 */
export function valuesToJsonText(dtype: Dtype, values: TypedArray): string {
  if (values.length === 0) return '[]'
  switch (dtype) {
    case 'bool':
      return boolsToText(values as Uint8Array)
    case 'u64':
    case 'i64':
      return `["${values.join('","')}"]`
    case 'f32':
    case 'f64':
      return allPlain(values as Float64Array) ? `[${values.join(',')}]` : floatsToText(values as Float64Array)
    default:
      return `[${values.join(',')}]`
  }
}

/** The same, a bounded part at a time. */
export function* valuesToJsonTexts(dtype: Dtype, values: TypedArray): Generator<string> {
  yield '['
  for (let at = 0; at < values.length; at += JSON_PIECE_ELEMENTS) {
    const text = valuesToJsonText(dtype, values.subarray(at, at + JSON_PIECE_ELEMENTS))
    yield at === 0 ? text.slice(1, -1) : `,${text.slice(1, -1)}`
  }
  yield ']'
}

/** Whether String() of every element is its JSON: all are finite, and none is -0. */
function allPlain(values: Float64Array): boolean {
  for (let i = 0; i < values.length; i++) {
    const v = values[i]!
    // v - v is NaN exactly for the non-finite; 1 / -0 is the only negative reciprocal of a zero.
    if (v - v !== 0 || (v === 0 && 1 / v < 0)) return false
  }
  return true
}

function floatsToText(values: Float64Array): string {
  const parts = new Array<string>(values.length)
  for (let i = 0; i < values.length; i++) {
    const v = values[i]!
    parts[i] = v - v !== 0 ? `"${v}"` : v === 0 && 1 / v < 0 ? NEGATIVE_ZERO : String(v)
  }
  return `[${parts.join(',')}]`
}

/** -0 in JSON. Parsers that take a number without a point for an integer would lose the sign of "-0". */
const NEGATIVE_ZERO = '-0.0'

function boolsToText(values: Uint8Array): string {
  let text = values[0] ? '[true' : '[false'
  for (let i = 1; i < values.length; i++) text += values[i] ? ',true' : ',false'
  return `${text}]`
}
