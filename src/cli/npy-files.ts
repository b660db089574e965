/** Reads and writes .npy files in pieces, so that a page need not fit into memory twice. */
import { closeSync, fstatSync, openSync, readSync, writeSync } from 'node:fs'
import { basename } from 'node:path'
import { decodeNpyHeader, encodeNpyHeader, NPY_HEADER_MAX_BYTES } from '../state/npy.js'
import { DTYPE_INFO, type Dtype, type TypedArray } from '../wire/dtype.js'
import { StartError } from './flags.js'

const PIECE_BYTES = 16 * 1024 ** 2

/** Reads `count` elements of a page from `offset`. */
export type ReadElements = (offset: number, count: number) => Promise<TypedArray>

/** Writes a page, whose elements `read` returns piece by piece. */
export async function writeNpy(
  file: string,
  dtype: Dtype,
  shape: readonly number[],
  read: ReadElements,
): Promise<void> {
  const fd = openSync(file, 'w')
  try {
    writeSync(fd, encodeNpyHeader(dtype, shape))
    const elements = shape.reduce((product, size) => product * size, 1)
    const piece = PIECE_BYTES / DTYPE_INFO[dtype].sizeBytes
    for (let offset = 0; offset < elements; offset += piece) {
      const values = await read(offset, Math.min(piece, elements - offset))
      const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
      for (let done = 0; done < bytes.length; ) done += writeSync(fd, bytes, done)
    }
  } finally {
    closeSync(fd)
  }
}

export interface NpyFile {
  /** Name of the page: the file's name without `.npy`. */
  readonly name: string
  readonly dtype: Dtype
  readonly shape: readonly number[]
  readonly elements: number
  /** Calls `visit` with the elements, piece by piece, in order. */
  eachPiece(visit: (offset: number, values: TypedArray) => Promise<void>): Promise<void>
}

/**
 * Opens a file for import. @throws StartError, naming the file, when it cannot be read or holds no array for
 * a page
 */
export async function withNpy<T>(file: string, work: (npy: NpyFile) => Promise<T>): Promise<T> {
  const fd = namingFile(file, () => openSync(file, 'r'))
  try {
    const head = new Uint8Array(NPY_HEADER_MAX_BYTES + 16)
    const { dtype, shape, dataOffset } = namingFile(file, () => {
      const got = readSync(fd, head, 0, head.length, 0)
      return decodeNpyHeader(head.subarray(0, got))
    })
    const { sizeBytes, view } = DTYPE_INFO[dtype]
    const elements = shape.reduce((product, size) => product * size, 1)
    if (fstatSync(fd).size !== dataOffset + elements * sizeBytes) {
      throw new StartError(`${file}: its length does not match ${elements} elements of ${dtype}`)
    }
    const eachPiece: NpyFile['eachPiece'] = async (visit) => {
      const piece = PIECE_BYTES / sizeBytes
      for (let offset = 0; offset < elements; offset += piece) {
        const count = Math.min(piece, elements - offset)
        const bytes = new Uint8Array(count * sizeBytes)
        for (let done = 0; done < bytes.length; ) {
          const read = readSync(fd, bytes, done, bytes.length - done, dataOffset + offset * sizeBytes + done)
          if (read === 0) throw new StartError(`${file}: it shrank while it was read`)
          done += read
        }
        await visit(offset, view(bytes.buffer, 0, count))
      }
    }
    return await work({ name: basename(file).replace(/\.npy$/, ''), dtype, shape, elements, eachPiece })
  } finally {
    closeSync(fd)
  }
}

function namingFile<T>(file: string, work: () => T): T {
  try {
    return work()
  } catch (error) {
    const isMissing = (error as NodeJS.ErrnoException).code === 'ENOENT'
    throw new StartError(`${file}: ${isMissing ? 'no such file' : (error as Error).message}`)
  }
}
