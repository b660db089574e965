/**
 * NumPy's .npy files, format 1.0 (numpy.lib.format): a header with dtype and shape, then the elements. We
 * write them little-endian and in C order like pages, so the bytes of a page follow the header unchanged.
 *
 * Invariant: a header that decodeNpyHeader accepts has a known dtype. Pure.
 */
import { MmsbError } from '../errors.js'
import type { Dtype } from '../wire/dtype.js'

const MAGIC = '\x93NUMPY'
/** Magic, version, u16 length. */
const PREFIX_BYTES = 10
/** The elements begin at a multiple of this. */
const ALIGN_BYTES = 64
/** Version 2.0 has a u32 length; a header longer than this is refused. */
export const NPY_HEADER_MAX_BYTES = 64 * 1024

const DESCRIPTORS: Readonly<Record<Dtype, string>> = {
  bool: '|b1',
  u8: '|u1',
  i8: '|i1',
  u16: '<u2',
  i16: '<i2',
  u32: '<u4',
  i32: '<i4',
  u64: '<u8',
  i64: '<i8',
  f32: '<f4',
  f64: '<f8',
}
const DTYPE_OF = new Map(Object.entries(DESCRIPTORS).map(([dtype, text]) => [text.slice(1), dtype as Dtype]))

export interface NpyHeader {
  readonly dtype: Dtype
  readonly shape: readonly number[]
  /** Where the elements begin. */
  readonly dataOffset: number
  readonly isBigEndian: boolean
  /** The first axis varies fastest. False where it makes no difference. */
  readonly isFortran: boolean
}

/** Everything before the elements. */
export function encodeNpyHeader(dtype: Dtype, shape: readonly number[]): Uint8Array {
  const tuple = shape.length === 1 ? `(${shape[0]},)` : `(${shape.join(', ')})`
  const dict = `{'descr': '${DESCRIPTORS[dtype]}', 'fortran_order': False, 'shape': ${tuple}, }`
  const total = Math.ceil((PREFIX_BYTES + dict.length + 1) / ALIGN_BYTES) * ALIGN_BYTES
  const text = `${dict.padEnd(total - PREFIX_BYTES - 1)}\n`
  const bytes = Buffer.from(`${MAGIC}\x01\x00\x00\x00${text}`, 'latin1')
  bytes.writeUInt16LE(text.length, 8)
  return bytes
}

const refuse = (why: string): MmsbError =>
  new MmsbError('INVALID_REQUEST', `not a .npy file for a page: ${why}`)

const KINDS: Readonly<Record<string, string>> = {
  c: 'complex numbers',
  f: 'floating point of this size',
  O: 'Python objects',
  S: 'byte strings',
  U: 'text',
  M: 'dates',
  m: 'durations',
  V: 'raw bytes',
}

const kindOf = (type: string): string => KINDS[type[0] as string] ?? 'an unknown type'

/** Reads the header at the beginning of `bytes`. Throws INVALID_REQUEST. */
export function decodeNpyHeader(bytes: Uint8Array): NpyHeader {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  if (buffer.length < PREFIX_BYTES + 2 || buffer.toString('latin1', 0, 6) !== MAGIC)
    throw refuse('it has no such header')
  const version = buffer[6] as number
  if (version < 1 || version > 3) throw refuse(`format version ${version} is not known`)
  const start = version === 1 ? PREFIX_BYTES : PREFIX_BYTES + 2
  const length = version === 1 ? buffer.readUInt16LE(8) : buffer.readUInt32LE(8)
  const dataOffset = start + length
  if (length > NPY_HEADER_MAX_BYTES || dataOffset > buffer.length) throw refuse('its header is cut off')
  const text = buffer.toString('latin1', start, dataOffset)
  const descr = /'descr'\s*:\s*'([<>|=])([a-zA-Z]\d*)(?:\[\w+\])?'/.exec(text)
  const order = /'fortran_order'\s*:\s*(True|False)/.exec(text)?.[1]
  const shape = /'shape'\s*:\s*\(([\d,\sL]*)\)/.exec(text)?.[1]
  if (/'descr'\s*:\s*\[/.test(text)) throw refuse('its elements are records; export one field at a time')
  if (descr === null || order === undefined || shape === undefined) throw refuse('its header cannot be read')
  const dtype = DTYPE_OF.get(descr[2] as string)
  if (dtype === undefined)
    throw refuse(`there is no dtype for '${descr[1]}${descr[2]}' (${kindOf(descr[2] as string)})`)
  const sizes = shape
    .split(',')
    .map((size) => size.trim())
    .filter((size) => size !== '')
    .map(Number)
  const isBigEndian = descr[1] === '>'
  return { dtype, shape: sizes, dataOffset, isBigEndian, isFortran: order === 'True' && sizes.length > 1 }
}
