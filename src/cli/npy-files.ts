/** Reads and writes .npy files in pieces, so that a page need not fit into memory twice. */
import { closeSync, fstatSync, fsyncSync, openSync, readSync, renameSync, rmSync, writeSync } from 'node:fs'
import { basename } from 'node:path'
import { decodeNpyHeader, encodeNpyHeader, NPY_HEADER_MAX_BYTES } from '../state/npy.js'
import { DTYPE_INFO, type Dtype, type TypedArray } from '../wire/dtype.js'
import { StartError } from './flags.js'
import { progress } from './output.js'

/** Elements are read and written in pieces of this size. */
export const PIECE_BYTES = 16 * 1024 ** 2

/** Reads `count` elements of a page from `offset`. */
export type ReadElements = (offset: number, count: number) => Promise<TypedArray>

/**
 * Writes a page, whose elements `read` returns piece by piece. The file is written beside and renamed, so
 * that an interrupted export leaves an older file as it was; a link in its place is replaced, not followed.
 */
export async function writeNpy(
  file: string,
  dtype: Dtype,
  shape: readonly number[],
  read: ReadElements,
): Promise<void> {
  const temporary = `${file}.${process.pid}.tmp`
  // Fails when anything has this name, a link too.
  const fd = openSync(temporary, 'wx')
  try {
    try {
      writeSync(fd, encodeNpyHeader(dtype, shape))
      const elements = shape.reduce((product, size) => product * size, 1)
      const piece = PIECE_BYTES / DTYPE_INFO[dtype].sizeBytes
      const say = progress()
      for (let offset = 0; offset < elements; offset += piece) {
        const values = await read(offset, Math.min(piece, elements - offset))
        const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
        for (let done = 0; done < bytes.length; ) done += writeSync(fd, bytes, done)
        say(() => `${file}: ${percent(offset + values.length, elements)}`)
      }
      fsyncSync(fd)
    } finally {
      closeSync(fd)
    }
    renameSync(temporary, file)
  } catch (error) {
    rmSync(temporary, { force: true })
    throw error
  }
}

const percent = (done: number, all: number): string => `${Math.floor((done / all) * 100)} %`

export interface NpyFile {
  /** Name of the page: the file's name without `.npy`. */
  readonly name: string
  readonly dtype: Dtype
  readonly shape: readonly number[]
  readonly elements: number
  /** Calls `visit` with the elements, piece by piece, in order. */
  eachPiece(visit: (offset: number, values: TypedArray) => Promise<void>): Promise<void>
}

/** Where the bytes of a .npy file come from. */
export interface NpyBytes {
  /** For messages. */
  readonly name: string
  readonly size: number
  /** Fills `out` from this position, as far as there are bytes; returns how many. */
  read(out: Uint8Array, at: number): number
}

/** What a .npy file begins with. */
const MAGIC = Buffer.from('\x93NUMPY', 'latin1')

export const isNpy = (bytes: Uint8Array): boolean => MAGIC.equals(bytes.subarray(0, MAGIC.length))

/**
 * Opens a file for import. @throws StartError, naming the file, when it cannot be read or holds no array for
 * a page
 */
export async function withNpy<T>(file: string, work: (npy: NpyFile) => Promise<T>): Promise<T> {
  const fd = namingFile(file, () => openSync(file, 'r'))
  try {
    const size = namingFile(file, () => fstatSync(fd).size)
    const read: NpyBytes['read'] = (out, at) => readSync(fd, out, 0, out.length, at)
    return await work(npyFrom({ name: file, size, read }))
  } finally {
    closeSync(fd)
  }
}

/** @throws StartError, naming the file, when it holds no array for a page */
export function npyFrom({ name: file, size, read }: NpyBytes): NpyFile {
  const head = new Uint8Array(NPY_HEADER_MAX_BYTES + 16)
  const { dtype, shape, dataOffset, isBigEndian, isFortran } = namingFile(file, () =>
    decodeNpyHeader(head.subarray(0, read(head, 0))),
  )
  const { sizeBytes, view } = DTYPE_INFO[dtype]
  const elements = shape.reduce((product, extent) => product * extent, 1)
  if (size !== dataOffset + elements * sizeBytes)
    throw new StartError(`${file}: its length does not match ${elements} elements of ${dtype}`)
  const readAt = (offset: number, count: number): Uint8Array<ArrayBuffer> => {
    const bytes = new Uint8Array(count * sizeBytes)
    for (let done = 0; done < bytes.length; ) {
      const got = read(bytes.subarray(done), dataOffset + offset * sizeBytes + done)
      if (got === 0) throw new StartError(`${file}: it shrank while it was read`)
      done += got
    }
    if (isBigEndian) swapBytes(bytes, sizeBytes)
    return bytes
  }
  let whole: Uint8Array<ArrayBuffer> | undefined
  const eachPiece: NpyFile['eachPiece'] = async (visit) => {
    if (isFortran) whole ??= fromFortran(readAt(0, elements), shape, sizeBytes)
    const piece = PIECE_BYTES / sizeBytes
    const say = progress()
    for (let offset = 0; offset < elements; offset += piece) {
      const count = Math.min(piece, elements - offset)
      const [bytes, at] = whole === undefined ? [readAt(offset, count), 0] : [whole, offset * sizeBytes]
      await visit(offset, view(bytes.buffer, at, count))
      say(() => `${file}: ${percent(offset + count, elements)}`)
    }
  }
  return { name: basename(file).replace(/\.npy$/, ''), dtype, shape, elements, eachPiece }
}

function swapBytes(bytes: Uint8Array<ArrayBuffer>, sizeBytes: number): void {
  const buffer = Buffer.from(bytes.buffer)
  if (sizeBytes === 2) buffer.swap16()
  else if (sizeBytes === 4) buffer.swap32()
  else if (sizeBytes === 8) buffer.swap64()
}

/** Elements whose first axis varies fastest, in the order of pages: the last axis varies fastest. */
function fromFortran(
  bytes: Uint8Array<ArrayBuffer>,
  shape: readonly number[],
  sizeBytes: number,
): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(bytes.length)
  const strides: number[] = []
  let stride = 1
  for (const size of shape) {
    strides.push(stride)
    stride *= size
  }
  const index = shape.map(() => 0)
  let from = 0
  for (let at = 0; at < bytes.length; at += sizeBytes) {
    for (let k = 0; k < sizeBytes; k++) out[at + k] = bytes[from * sizeBytes + k] as number
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      index[axis]! += 1
      from += strides[axis]!
      if (index[axis]! < shape[axis]!) break
      from -= strides[axis]! * shape[axis]!
      index[axis] = 0
    }
  }
  return out
}

function namingFile<T>(file: string, work: () => T): T {
  try {
    return work()
  } catch (error) {
    const isMissing = (error as NodeJS.ErrnoException).code === 'ENOENT'
    throw new StartError(`${file}: ${isMissing ? 'no such file' : (error as Error).message}`)
  }
}
