/**
 * Reads checkpoint files: verifies one wholly, and gives its pages and chunks.
 *
 * Invariants: a reader exists only for a file whose tables match the root hash and whose every chunk matches its own
 * hash; opening never changes a file. Knows nothing of what pages mean.
 */
import fs from 'node:fs'
import path from 'node:path'
import Database from 'better-sqlite3'
import { CHECKPOINT_CHUNK_BYTES } from '../limits.js'
import {
  CHECKPOINT_APPLICATION_ID,
  CHECKPOINT_SCHEMA_VERSION,
  CHUNK_ENTRY_BYTES,
  CHUNK_HASH_BYTES,
  checkpointName,
  chunkCount,
  chunkHash,
  META_KEYS,
  type MetaKey,
  type PageRow,
  REF_BYTES,
  RootHash,
} from './checkpoint-format.js'
import { textOf } from './failure.js'
import type { CheckpointHeader, CheckpointInfo, CheckpointPage, CheckpointReader } from './types.js'

const FILE_PATTERN = /^(\d{20})\.db$/

/** Epochs of the checkpoint files in a folder, newest first. */
export function checkpointEpochs(dir: string): number[] {
  const epochs: number[] = []
  for (const name of fs.existsSync(dir) ? fs.readdirSync(dir) : []) {
    const match = FILE_PATTERN.exec(name)
    if (match !== null) epochs.push(Number(match[1]))
  }
  return epochs.sort((a, b) => b - a)
}

interface PackRow {
  readonly id: number
  readonly chunks: Buffer
  readonly data: Buffer
}

class Damage extends Error {}

class CheckpointFile implements CheckpointReader {
  readonly header: CheckpointHeader
  readonly pages: readonly CheckpointPage[]
  readonly info: CheckpointInfo

  constructor(
    private readonly db: Database.Database,
    private readonly rows: readonly PageRow[],
    meta: ReadonlyMap<MetaKey, Buffer>,
    file: string,
  ) {
    const text = (key: MetaKey): string => meta.get(key)?.toString('utf8') ?? ''
    this.header = {
      epoch: Number(text('epoch')),
      timestampMs: Number(text('timestamp_ms')),
      digest: new Uint8Array(meta.get('digest') ?? []),
      nextPageId: Number(text('next_page_id')),
      extra: text('extra'),
    }
    this.pages = rows.map(({ id, version, created_epoch, bytes, meta: command }) => ({
      id,
      version,
      createdEpoch: created_epoch,
      bytes,
      meta: command,
    }))
    this.info = {
      epoch: this.header.epoch,
      pages: Number(text('pages')),
      bytes: Number(text('bytes')),
      newBytes: fs.statSync(file).size,
      ms: 0,
      file: path.basename(file),
    }
  }

  /** One pass over the packs, in the order in which they lie. The bytes are valid during the call. */
  load(onChunk: (pageId: number, offset: number, bytes: Uint8Array) => void): void {
    const uses = usesByPack(this.rows)
    for (const pack of packsOf(this.db)) {
      for (const { slot, pageId, offset } of uses.get(pack.id) ?? []) {
        onChunk(pageId, offset, chunkAt(pack, slot))
      }
    }
  }

  close(): void {
    this.db.close()
  }
}

interface ChunkUse {
  readonly slot: number
  readonly pageId: number
  readonly offset: number
}

function usesByPack(rows: readonly PageRow[]): Map<number, ChunkUse[]> {
  const uses = new Map<number, ChunkUse[]>()
  for (const row of rows) {
    const refs = Buffer.from(row.refs.buffer, row.refs.byteOffset, row.refs.length)
    for (let i = 0; i * REF_BYTES < refs.length; i++) {
      const pack = refs.readUInt32LE(i * REF_BYTES)
      if (pack === 0) continue
      const use = {
        slot: refs.readUInt16LE(i * REF_BYTES + 4),
        pageId: row.id,
        offset: i * CHECKPOINT_CHUNK_BYTES,
      }
      const list = uses.get(pack)
      if (list === undefined) uses.set(pack, [use])
      else list.push(use)
    }
  }
  return uses
}

function packsOf(db: Database.Database): IterableIterator<PackRow> {
  return db.prepare('SELECT id, chunks, data FROM pack ORDER BY id').iterate() as IterableIterator<PackRow>
}

function chunkAt(pack: PackRow, slot: number): Buffer {
  const entry = slot * CHUNK_ENTRY_BYTES + CHUNK_HASH_BYTES
  const offset = pack.chunks.readUInt32LE(entry)
  return pack.data.subarray(offset, offset + pack.chunks.readUInt32LE(entry + 4))
}

/**
 * Opens a checkpoint and checks every byte that matters. Returns the reader, or what is wrong with the file.
 */
export function openCheckpointFile(
  dir: string,
  epoch: number,
  busId: string | null,
): CheckpointFile | string {
  const file = path.join(dir, checkpointName(epoch))
  let db: Database.Database | undefined
  try {
    if (!fs.existsSync(file)) return 'the file is missing'
    db = new Database(file, { readonly: true, fileMustExist: true })
    const found = verify(db, epoch, busId)
    return new CheckpointFile(db, found.rows, found.meta, file)
  } catch (error) {
    db?.close()
    return textOf(error)
  }
}

export type { CheckpointFile }

function verify(
  db: Database.Database,
  epoch: number,
  busId: string | null,
): { rows: PageRow[]; meta: Map<MetaKey, Buffer> } {
  if (db.pragma('application_id', { simple: true }) !== CHECKPOINT_APPLICATION_ID) {
    throw new Damage('it is not a checkpoint')
  }
  const version = db.pragma('user_version', { simple: true })
  if (version !== CHECKPOINT_SCHEMA_VERSION)
    throw new Damage(`its version ${version} is not known to this release`)
  const root = new RootHash()
  const meta = verifyMeta(db, root)
  if (busId !== null && meta.get('bus_id')?.toString() !== busId)
    throw new Damage('it belongs to another bus')
  if (Number(meta.get('epoch')?.toString()) !== epoch) throw new Damage('its name and its epoch differ')
  const files = db.prepare('SELECT idx, name FROM file ORDER BY idx').all() as { idx: number; name: string }[]
  if (files.length > 0) throw new Damage('it refers to other files, which this release does not write')
  const rows = db.prepare('SELECT * FROM page ORDER BY id').all() as PageRow[]
  for (const row of rows) root.page(row)
  const sizes = verifyPacks(db, root)
  const stored = db.prepare("SELECT value FROM meta WHERE key = 'root'").get() as
    | { value: Buffer }
    | undefined
  if (stored === undefined || !root.digest().equals(stored.value))
    throw new Damage('its tables do not match their hash')
  for (const row of rows) verifyRefs(row, sizes)
  return { rows, meta }
}

function verifyMeta(db: Database.Database, root: RootHash): Map<MetaKey, Buffer> {
  const select = db.prepare('SELECT value FROM meta WHERE key = ?')
  const meta = new Map<MetaKey, Buffer>()
  for (const key of META_KEYS) {
    const row = select.get(key) as { value: Buffer } | undefined
    if (row === undefined || !Buffer.isBuffer(row.value)) throw new Damage(`its ${key} is missing`)
    root.meta(key, row.value)
    meta.set(key, row.value)
  }
  return meta
}

/** Checks each chunk against its hash; the lengths of the chunks by pack. */
function verifyPacks(db: Database.Database, root: RootHash): Map<number, Uint32Array> {
  const sizes = new Map<number, Uint32Array>()
  for (const pack of packsOf(db)) {
    root.pack(pack.id, pack.chunks, pack.data.length)
    const lengths = new Uint32Array(pack.chunks.length / CHUNK_ENTRY_BYTES)
    for (let slot = 0; slot < lengths.length; slot++) {
      const bytes = chunkAt(pack, slot)
      const entry = slot * CHUNK_ENTRY_BYTES
      if (!chunkHash(bytes).equals(pack.chunks.subarray(entry, entry + CHUNK_HASH_BYTES))) {
        throw new Damage(`chunk ${slot} of pack ${pack.id} does not match its hash`)
      }
      lengths[slot] = bytes.length
    }
    sizes.set(pack.id, lengths)
  }
  return sizes
}

/** Every reference must name a chunk of the right length. */
function verifyRefs(row: PageRow, sizes: ReadonlyMap<number, Uint32Array>): void {
  const refs = Buffer.from(row.refs.buffer, row.refs.byteOffset, row.refs.length)
  const count = chunkCount(row.bytes)
  if (refs.length !== count * REF_BYTES)
    throw new Damage(`page ${row.id} has ${refs.length} bytes of references`)
  for (let i = 0; i < count; i++) {
    const pack = refs.readUInt32LE(i * REF_BYTES)
    if (pack === 0) continue
    const length = sizes.get(pack)?.[refs.readUInt16LE(i * REF_BYTES + 4)]
    const expected = Math.min(CHECKPOINT_CHUNK_BYTES, row.bytes - i * CHECKPOINT_CHUNK_BYTES)
    if (length !== expected) throw new Damage(`page ${row.id} refers to a chunk that is not there`)
  }
}
