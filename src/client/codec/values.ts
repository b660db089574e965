/**
 * Elements of pages between JavaScript, JSON and bytes, by the server's rules (API conventions;
 * docs/internals/FORMAT.md).
 *
 * In: integer dtypes take integral numbers in range, and bigints; u64 and i64 also take decimal strings, and
 * take numbers only if those are exact; floats take numbers and "NaN", "Infinity", "-Infinity"; bool takes
 * true, false, 0 and 1. Invariants: a value that the server would refuse is refused here with the same code,
 * before anything is sent; little-endian hosts only.
 */
import { DTYPE_INFO, type Dtype, F32_OVERFLOW, type TypedArray } from '../../wire/dtype.js'
import { arrayNameOf, dtypesOf } from '../arguments.js'
import { invalidDelta } from '../errors.js'
import type { Values } from '../types.js'

export const sizeOf = (dtype: Dtype): number => DTYPE_INFO[dtype].sizeBytes

export const emptyArray = (dtype: Dtype, length: number): TypedArray =>
  DTYPE_INFO[dtype].view(new ArrayBuffer(length * sizeOf(dtype)), 0, length)

/** A typed array over bytes; `byteOffset` must be a multiple of the element size. */
export const viewOf = (
  dtype: Dtype,
  buffer: ArrayBufferLike,
  byteOffset: number,
  length: number,
): TypedArray => DTYPE_INFO[dtype].view(buffer, byteOffset, length)

/** Product of the axes; 1 for rank 0. */
export const elementsOf = (shape: readonly number[]): number => shape.reduce((product, n) => product * n, 1)

export const bytesOf = (values: ArrayBufferView): Uint8Array =>
  new Uint8Array(values.buffer, values.byteOffset, values.byteLength)

const DECIMAL = /^-?[0-9]{1,20}$/

/**
 * Writes the elements to bytes at `byteOffset`, a multiple of the element size. @throws MmsbError
 * INVALID_DELTA
 */
export function writeValues(dtype: Dtype, values: Values, buffer: ArrayBufferLike, byteOffset: number): void {
  if (ArrayBuffer.isView(values)) {
    if (!dtypesOf(values).includes(dtype)) {
      throw invalidDelta(
        `values are a ${arrayNameOf(values)}; a page of ${dtype} takes a ${DTYPE_INFO[dtype].arrayName} or a plain array`,
      )
    }
    if (dtype === 'bool') checkBools(values as Uint8Array)
    bytesAt(buffer, byteOffset, values.byteLength).set(bytesOf(values))
    return
  }
  const out = viewOf(dtype, buffer, byteOffset, values.length) as { [index: number]: number | bigint }
  for (let i = 0; i < values.length; i++) out[i] = parseValue(dtype, values[i], i)
}

const bytesAt = (buffer: ArrayBufferLike, offset: number, length: number): Uint8Array =>
  new Uint8Array(buffer, offset, length)

function checkBools(values: Uint8Array): void {
  for (let i = 0; i < values.length; i++) if (values[i]! > 1) throw refused('bool', values[i], i)
}

function parseValue(dtype: Dtype, value: unknown, index: number): number | bigint {
  switch (dtype) {
    case 'bool':
      if (value === true || value === 1 || value === 1n) return 1
      if (value === false || value === 0 || value === 0n) return 0
      throw refused(dtype, value, index)
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

function parseFloatValue(dtype: Dtype, value: unknown, index: number): number {
  if (typeof value === 'number') {
    // A number may carry the bits of the array it was read from.
    if (Number.isNaN(value)) return Number.NaN
    if (dtype === 'f32' && Number.isFinite(value) && Math.abs(value) >= F32_OVERFLOW)
      throw refused(dtype, value, index)
    return value
  }
  if (value === 'NaN' || value === 'Infinity' || value === '-Infinity') return Number(value)
  throw refused(dtype, value, index)
}

function parseInteger(dtype: Dtype, value: unknown, index: number): bigint {
  const { min, max, sizeBytes } = DTYPE_INFO[dtype]
  const isWide = sizeBytes === 8
  let integer: bigint
  if (typeof value === 'bigint') integer = value
  else if (typeof value === 'number' && (isWide ? Number.isSafeInteger(value) : Number.isInteger(value)))
    integer = BigInt(value)
  else if (isWide && typeof value === 'string' && DECIMAL.test(value)) integer = BigInt(value)
  else throw refused(dtype, value, index)
  if (integer < min! || integer > max!) throw refused(dtype, value, index)
  return integer
}

function refused(dtype: Dtype, value: unknown, index: number): Error {
  const shown = typeof value === 'string' ? JSON.stringify(value.slice(0, 40)) : String(value)
  return invalidDelta(`values[${index}]: ${shown} is not a value of dtype ${dtype}`)
}

/** The elements of a JSON answer as a typed array. */
export function fromJson(dtype: Dtype, values: readonly unknown[]): TypedArray {
  const out = emptyArray(dtype, values.length)
  if (dtype === 'u64' || dtype === 'i64') {
    for (let i = 0; i < values.length; i++) (out as BigInt64Array)[i] = BigInt(values[i] as string)
  } else {
    for (let i = 0; i < values.length; i++) (out as Float64Array)[i] = Number(values[i])
  }
  return out
}

/** The JSON text of elements: integers beyond 2^53 as strings, non-finite floats by name, -0 kept. */
export function valuesText(values: Values): string {
  const parts = new Array<string>(values.length)
  for (let i = 0; i < values.length; i++) {
    const text = valueText(values[i])
    if (text === undefined) {
      throw invalidDelta(`values[${i}]: ${typeof values[i]} is not a number, bigint, string or boolean`)
    }
    parts[i] = text
  }
  return `[${parts.join(',')}]`
}

/** The JSON text of one element; undefined if the value cannot be an element. */
export function valueText(value: unknown): string | undefined {
  if (typeof value === 'number') {
    if (!Number.isFinite(value)) return `"${value}"`
    return value === 0 && 1 / value < 0 ? '-0.0' : String(value)
  }
  // Narrow integer dtypes refuse strings; wide ones take numbers that are exact.
  if (typeof value === 'bigint') return Number.isSafeInteger(Number(value)) ? String(value) : `"${value}"`
  return typeof value === 'string' || typeof value === 'boolean' ? JSON.stringify(value) : undefined
}

const SHARED = '[object SharedArrayBuffer]'
const BUFFERS = ['[object ArrayBuffer]', SHARED]
const kindOf = (value: unknown): string => Object.prototype.toString.call(value)

/**
 * The bytes of a view or a buffer of any realm. Shared memory is copied, because fetch does not take it.
 * @throws MmsbError INVALID_DELTA
 */
export function octetsOf(octets: unknown): Uint8Array {
  const isBuffer = BUFFERS.includes(kindOf(octets))
  if (!isBuffer && !ArrayBuffer.isView(octets)) {
    const fault = octets === undefined ? 'is missing' : 'has another type'
    throw invalidDelta(`octets: ${fault}; give a typed array, a DataView or an ArrayBuffer`)
  }
  try {
    const bytes = isBuffer ? new Uint8Array(octets as ArrayBuffer) : bytesOf(octets as ArrayBufferView)
    return kindOf(bytes.buffer) === SHARED ? bytes.slice() : bytes
  } catch {
    throw invalidDelta('the array is detached: its buffer was transferred')
  }
}

/** Standard base64, of bytes of any length. */
export function base64(bytes: Uint8Array): string {
  let text = ''
  for (let at = 0; at < bytes.length; at += 0x8000) {
    text += String.fromCharCode(...bytes.subarray(at, at + 0x8000))
  }
  return btoa(text)
}

/** @throws MmsbError INVALID_DELTA */
export function fromBase64(text: string): Uint8Array {
  let binary: string
  try {
    binary = atob(text)
  } catch {
    throw invalidDelta('mask is not base64')
  }
  if (btoa(binary) !== text) throw invalidDelta('mask is not base64')
  return Uint8Array.from(binary, (char) => char.charCodeAt(0))
}
