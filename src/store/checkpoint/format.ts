/**
 * The contents of a checkpoint file (docs/internals/FORMAT.md, "Checkpoint"): schema, references to chunks,
 * and the hash of its tables.
 *
 * Invariants: the SHA-256 of a chunk's bytes is its name, and each chunk is stored once; a chunk of zeros is
 * not stored; the root hash covers every row but the chunks' bytes, which their own hashes cover. Pure but
 * for the hashes.
 */
import { createHash, hash } from 'node:crypto'
import { CHECKPOINT_CHUNK_BYTES } from '../../limits.js'

export const CHECKPOINT_APPLICATION_ID = 0x4d4d_5342 // "MMSB"
/** Version 1 has no references to other files. */
export const CHECKPOINT_SCHEMA_VERSION = 2
export const CHUNK_HASH_BYTES = 32
/** One entry of a pack's list of chunks: hash, u32 offset in the pack, u32 length. */
export const CHUNK_ENTRY_BYTES = CHUNK_HASH_BYTES + 8
export const REF_BYTES = 8

export const CHECKPOINT_SCHEMA = `
  CREATE TABLE meta(key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
  CREATE TABLE file(idx INTEGER PRIMARY KEY, name TEXT NOT NULL, root BLOB NOT NULL);
  CREATE TABLE page(
    id INTEGER PRIMARY KEY, version INTEGER NOT NULL, created_epoch INTEGER NOT NULL, bytes INTEGER NOT NULL,
    meta BLOB NOT NULL, refs BLOB NOT NULL);
  CREATE TABLE pack(id INTEGER PRIMARY KEY, chunks BLOB NOT NULL, data BLOB NOT NULL);
`

/** The name of a checkpoint's file without its ending. References use it. */
export function checkpointStem(epoch: number): string {
  return String(epoch).padStart(20, '0')
}

export function checkpointName(epoch: number): string {
  return checkpointStem(epoch) + CHECKPOINT_ENDING
}

export const CHECKPOINT_ENDING = '.db'
/** The ending of a file that is no longer a checkpoint but kept because other files refer to its chunks. */
export const RETIRED_ENDING = '.old'
/** The name of either. */
export const CHECKPOINT_FILE = /^\d{20}\.(db|old)$/

export function chunkHash(bytes: Uint8Array): Buffer {
  return hash('sha256', bytes, 'buffer')
}

export function chunkCount(pageBytes: number): number {
  return Math.ceil(pageBytes / CHECKPOINT_CHUNK_BYTES)
}

/** A file that references point to, and the root hash it must have. */
export interface FileRow {
  readonly idx: number
  readonly name: string
  readonly root: Buffer
}

/**
 * The place of a chunk: file (0: the checkpoint's own), pack, slot. Pack 0: a chunk of zeros, which is not
 * stored.
 */
export interface ChunkRef {
  readonly pack: number
  readonly slot: number
  readonly file: number
}

export function readRef(refs: Uint8Array, index: number): ChunkRef {
  const view = new DataView(refs.buffer, refs.byteOffset + index * REF_BYTES, REF_BYTES)
  return { pack: view.getUint32(0, true), slot: view.getUint16(4, true), file: view.getUint16(6, true) }
}

export function writeRef(refs: Uint8Array, index: number, { pack, slot, file }: ChunkRef): void {
  const view = new DataView(refs.buffer, refs.byteOffset + index * REF_BYTES, REF_BYTES)
  view.setUint32(0, pack, true)
  view.setUint16(4, slot, true)
  view.setUint16(6, file, true)
}

export interface PageRow {
  readonly id: number
  readonly version: number
  readonly created_epoch: number
  readonly bytes: number
  readonly meta: Uint8Array
  readonly refs: Uint8Array
}

/**
 * The hash over everything in the file but the chunks' bytes. Rows of a table are added in the order of their
 * keys, the tables in any order: each table has its own hash, and the root is the hash of those.
 */
export class RootHash {
  readonly #tables = {
    meta: createHash('sha256'),
    file: createHash('sha256'),
    page: createHash('sha256'),
    pack: createHash('sha256'),
  }

  meta(key: MetaKey, value: Uint8Array): void {
    this.#tables.meta.update(`${key}:${value.length}:`).update(value)
  }

  file({ idx, name, root }: FileRow): void {
    this.#tables.file.update(`${idx}:${name.length}:${name}`).update(root)
  }

  page(row: PageRow): void {
    const { id, version, created_epoch, bytes, meta, refs } = row
    this.#tables.page.update(`${id}:${version}:${created_epoch}:${bytes}:${meta.length}:${refs.length}:`)
    this.#tables.page.update(meta).update(refs)
  }

  pack(id: number, chunks: Uint8Array, dataBytes: number): void {
    this.#tables.pack.update(`${id}:${chunks.length}:${dataBytes}:`).update(chunks)
  }

  digest(): Buffer {
    const { meta, file, page, pack } = this.#tables
    const root = createHash('sha256')
    for (const table of [meta, file, page, pack]) root.update(table.digest())
    return root.digest()
  }
}

/** The keys of `meta`, in order. The table also has `root`, the root hash. */
export const META_KEYS = [
  'bus_id',
  'bytes',
  'digest',
  'epoch',
  'extra',
  'next_page_id',
  'pages',
  'timestamp_ms',
] as const

export type MetaKey = (typeof META_KEYS)[number]
