/**
 * The element types of pages.
 *
 * Invariants: codes are in frames, in logs and in the calls to the native library, so they never change
 * meaning; every table here is indexed by that code. bool is one byte, 0 or 1. Bytes are little-endian, which
 * is also the only byte order of the hosts we run on (src/ffi checks it).
 */

export const DTYPES = ['bool', 'u8', 'i8', 'u16', 'i16', 'u32', 'i32', 'u64', 'i64', 'f32', 'f64'] as const

/** The type of a page's elements. */
/** The type of a page's elements. */
export type Dtype = (typeof DTYPES)[number]

/** The typed arrays that hold elements of pages. */
/** The typed arrays that hold elements of pages. */
export type TypedArray =
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | BigUint64Array
  | BigInt64Array
  | Float32Array
  | Float64Array

export interface DtypeInfo {
  readonly name: Dtype
  /** The number used in frames, logs and the native library. */
  readonly code: number
  readonly sizeBytes: number
  readonly kind: 'bool' | 'unsigned' | 'signed' | 'float'
  /** Smallest and largest value of an integer dtype, as bigint; undefined for floats. */
  readonly min: bigint | undefined
  readonly max: bigint | undefined
  /** The class of typed arrays that holds its elements. */
  readonly arrayName: string
  /** A typed array over `buffer`; `byteOffset` must be a multiple of sizeBytes. */
  view(buffer: ArrayBufferLike, byteOffset: number, length: number): TypedArray
}

const integer = (bits: number, signed: boolean): { min: bigint; max: bigint } =>
  signed
    ? { min: -(1n << BigInt(bits - 1)), max: (1n << BigInt(bits - 1)) - 1n }
    : { min: 0n, max: (1n << BigInt(bits)) - 1n }

const FLOAT = { min: undefined, max: undefined }

/** Finite doubles of at least this magnitude round to infinity in f32: 2^128 - 2^103. */
export const F32_OVERFLOW = 2 ** 128 - 2 ** 103

export const DTYPE_INFO: Readonly<Record<Dtype, DtypeInfo>> = {
  bool: {
    name: 'bool',
    code: 0,
    sizeBytes: 1,
    kind: 'bool',
    min: 0n,
    max: 1n,
    arrayName: 'Uint8Array',
    view: (b, o, n) => new Uint8Array(b, o, n),
  },
  u8: {
    name: 'u8',
    code: 1,
    sizeBytes: 1,
    kind: 'unsigned',
    ...integer(8, false),
    arrayName: 'Uint8Array',
    view: (b, o, n) => new Uint8Array(b, o, n),
  },
  i8: {
    name: 'i8',
    code: 2,
    sizeBytes: 1,
    kind: 'signed',
    ...integer(8, true),
    arrayName: 'Int8Array',
    view: (b, o, n) => new Int8Array(b, o, n),
  },
  u16: {
    name: 'u16',
    code: 3,
    sizeBytes: 2,
    kind: 'unsigned',
    ...integer(16, false),
    arrayName: 'Uint16Array',
    view: (b, o, n) => new Uint16Array(b, o, n),
  },
  i16: {
    name: 'i16',
    code: 4,
    sizeBytes: 2,
    kind: 'signed',
    ...integer(16, true),
    arrayName: 'Int16Array',
    view: (b, o, n) => new Int16Array(b, o, n),
  },
  u32: {
    name: 'u32',
    code: 5,
    sizeBytes: 4,
    kind: 'unsigned',
    ...integer(32, false),
    arrayName: 'Uint32Array',
    view: (b, o, n) => new Uint32Array(b, o, n),
  },
  i32: {
    name: 'i32',
    code: 6,
    sizeBytes: 4,
    kind: 'signed',
    ...integer(32, true),
    arrayName: 'Int32Array',
    view: (b, o, n) => new Int32Array(b, o, n),
  },
  u64: {
    name: 'u64',
    code: 7,
    sizeBytes: 8,
    kind: 'unsigned',
    ...integer(64, false),
    arrayName: 'BigUint64Array',
    view: (b, o, n) => new BigUint64Array(b, o, n),
  },
  i64: {
    name: 'i64',
    code: 8,
    sizeBytes: 8,
    kind: 'signed',
    ...integer(64, true),
    arrayName: 'BigInt64Array',
    view: (b, o, n) => new BigInt64Array(b, o, n),
  },
  f32: {
    name: 'f32',
    code: 9,
    sizeBytes: 4,
    kind: 'float',
    ...FLOAT,
    arrayName: 'Float32Array',
    view: (b, o, n) => new Float32Array(b, o, n),
  },
  f64: {
    name: 'f64',
    code: 10,
    sizeBytes: 8,
    kind: 'float',
    ...FLOAT,
    arrayName: 'Float64Array',
    view: (b, o, n) => new Float64Array(b, o, n),
  },
}

export function isDtype(value: unknown): value is Dtype {
  return typeof value === 'string' && Object.hasOwn(DTYPE_INFO, value)
}

/** The dtype of a code, or undefined when the code is unknown. */
export function dtypeOfCode(code: number): Dtype | undefined {
  return DTYPES[code]
}
