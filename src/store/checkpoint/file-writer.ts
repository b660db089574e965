/**
 * Writes one checkpoint file: takes pieces of pages, hashes and packs the chunks that no older file holds,
 * and refers to the others. Runs in the checkpoint's thread.
 *
 * Invariants: each chunk is stored once, however many pages share it. The file under its final name is
 * complete, durable and never changed again; a failure leaves no file of that name. Memory is bounded by the
 * pieces in flight, one pack and the table of chunk hashes.
 */
import type Database from 'better-sqlite3'
import {
  CHECKPOINT_CHUNK_BYTES,
  CHECKPOINT_PACK_BYTES,
  CHECKPOINT_PACK_CHUNKS_MAX,
  CHECKPOINT_SYNC_BYTES,
} from '../../limits.js'
import type { CheckpointPage } from '../types.js'
import type { BaseChunk, CheckpointBase } from './base.js'
import type { FileTables } from './file-reader.js'
import type { CheckpointDraft, CheckpointFolder } from './folder.js'
import {
  CHECKPOINT_APPLICATION_ID,
  CHECKPOINT_SCHEMA,
  CHECKPOINT_SCHEMA_VERSION,
  CHUNK_ENTRY_BYTES,
  CHUNK_HASH_BYTES,
  type ChunkRef,
  chunkCount,
  chunkHash,
  META_KEYS,
  type MetaKey,
  REF_BYTES,
  RootHash,
  writeRef,
} from './format.js'

/** A page to write. `unchanged`: it has the bytes of the base, which are not given again. */
export interface PagePiece extends CheckpointPage {
  readonly unchanged?: boolean
}

export type CheckpointMeta = Readonly<Record<MetaKey, string | Uint8Array>>

const ZEROS = Buffer.alloc(CHECKPOINT_CHUNK_BYTES)

/** The page being written. */
interface CurrentPage {
  readonly row: PagePiece
  readonly refs: Buffer
  /** Chunks written or referred to so far. */
  done: number
}

export class CheckpointWriter {
  readonly #base: CheckpointBase | undefined
  readonly #draft: CheckpointDraft
  readonly #insertPage: Database.Statement
  readonly #insertPack: Database.Statement
  readonly #root = new RootHash()
  /** Places of the chunks met so far, by hash. */
  readonly #known = new Map<string, ChunkRef>()
  /** Files referred to: number in the base's family -> number here. */
  readonly #files = new Map<number, number>()
  #pack: Buffer = Buffer.alloc(0)
  #entries: Buffer = Buffer.alloc(0)
  #packId = 1
  #packLength = 0
  #packCount = 0
  readonly #queue: PagePiece[] = []
  #queueNext = 0
  #page: CurrentPage | undefined
  /** Bytes of chunks in packs: all of them, and those since the last startSync. */
  #written = 0
  #unsynced = 0

  constructor(folder: CheckpointFolder, base: CheckpointBase | undefined) {
    this.#base = base
    this.#draft = folder.create()
    const { db } = this.#draft
    try {
      begin(db)
      this.#insertPage = db.prepare('INSERT INTO page VALUES (?, ?, ?, ?, ?, ?)')
      this.#insertPack = db.prepare('INSERT INTO pack VALUES (?, ?, ?)')
    } catch (error) {
      this.#draft.abandon()
      throw error
    }
  }

  /**
   * Takes slices of pages, one after another in `bytes`. `pages` are those that begin in this piece. A slice
   * begins at the start of a chunk and ends at the end of one or of its page.
   */
  piece(pages: readonly PagePiece[], bytes: Uint8Array): void {
    for (const page of pages) this.#queue.push(page)
    let at = 0
    for (let page = this.#take(); page !== undefined; page = this.#take()) {
      if (page.row.unchanged === true) {
        this.#adopt(page)
        continue
      }
      const left = page.row.bytes - page.done * CHECKPOINT_CHUNK_BYTES
      if (left > 0) {
        const length = Math.min(CHECKPOINT_CHUNK_BYTES, left)
        if (at === bytes.length) return
        if (at + length > bytes.length) throw new Error('a piece ends inside a chunk')
        this.#addChunk(page.refs, page.done++, bytes.subarray(at, at + length))
        at += length
      }
      if (left <= CHECKPOINT_CHUNK_BYTES) this.#endPage(page)
    }
    if (at < bytes.length) throw new Error('a piece has bytes without a page')
  }

  /** The current page, or the next one of the queue. */
  #take(): CurrentPage | undefined {
    if (this.#page !== undefined) return this.#page
    const row = this.#queue[this.#queueNext]
    if (row === undefined) {
      this.#queue.length = this.#queueNext = 0
      return undefined
    }
    this.#queueNext++
    this.#page = { row, refs: Buffer.alloc(chunkCount(row.bytes) * REF_BYTES), done: 0 }
    return this.#page
  }

  /** Takes all chunks of a page over from the base. */
  #adopt(page: CurrentPage): void {
    const { id, bytes } = page.row
    for (const [i, chunk] of (this.#base?.chunksOf(id, bytes) ?? []).entries()) {
      if (chunk !== undefined) writeRef(page.refs, i, this.#reuse(chunk))
    }
    this.#endPage(page)
  }

  /** Refers to a chunk of the base, or copies it if its file is thin. */
  #reuse(chunk: BaseChunk): ChunkRef {
    const base = this.#base
    if (base === undefined) throw new Error('there is no base')
    const key = chunk.entry.hash.toString('latin1')
    const known = this.#known.get(key)
    if (known !== undefined) return known
    if (base.isThin[chunk.file]) return this.#store(key, chunk.entry.hash, base.read(chunk))
    return this.#refer(key, chunk)
  }

  #refer(key: string, { pack, slot, file }: BaseChunk): ChunkRef {
    let index = this.#files.get(file)
    if (index === undefined) {
      index = this.#files.size + 1
      this.#files.set(file, index)
    }
    const ref = { pack, slot, file: index }
    this.#known.set(key, ref)
    return ref
  }

  #endPage({ row, refs }: CurrentPage): void {
    const { id, version, createdEpoch, bytes, meta } = row
    this.#insertPage.run(id, version, createdEpoch, bytes, meta, refs)
    this.#root.page({ id, version, created_epoch: createdEpoch, bytes, meta, refs })
    this.#page = undefined
  }

  #addChunk(refs: Buffer, index: number, bytes: Uint8Array): void {
    if (ZEROS.compare(bytes, 0, bytes.length, 0, bytes.length) === 0) return
    const digest = chunkHash(bytes)
    const key = digest.toString('latin1')
    let ref = this.#known.get(key)
    if (ref === undefined) {
      const older = this.#base?.find(digest)
      ref = older === undefined ? this.#store(key, digest, bytes) : this.#refer(key, older)
    }
    writeRef(refs, index, ref)
  }

  #store(key: string, digest: Buffer, bytes: Uint8Array): ChunkRef {
    if (
      this.#packLength + bytes.length > CHECKPOINT_PACK_BYTES ||
      this.#packCount === CHECKPOINT_PACK_CHUNKS_MAX
    ) {
      this.#flushPack()
    }
    const entry = this.#packCount * CHUNK_ENTRY_BYTES
    this.#pack = grown(this.#pack, this.#packLength + bytes.length, CHECKPOINT_PACK_BYTES)
    this.#entries = grown(
      this.#entries,
      entry + CHUNK_ENTRY_BYTES,
      CHECKPOINT_PACK_CHUNKS_MAX * CHUNK_ENTRY_BYTES,
    )
    digest.copy(this.#entries, entry)
    this.#entries.writeUInt32LE(this.#packLength, entry + CHUNK_HASH_BYTES)
    this.#entries.writeUInt32LE(bytes.length, entry + CHUNK_HASH_BYTES + 4)
    this.#pack.set(bytes, this.#packLength)
    this.#packLength += bytes.length
    const ref = { pack: this.#packId, slot: this.#packCount++, file: 0 }
    this.#known.set(key, ref)
    return ref
  }

  #flushPack(): void {
    if (this.#packCount === 0) return
    const entries = this.#entries.subarray(0, this.#packCount * CHUNK_ENTRY_BYTES)
    this.#insertPack.run(this.#packId, entries, this.#pack.subarray(0, this.#packLength))
    this.#root.pack(this.#packId, entries, this.#packLength)
    this.#written += this.#packLength
    this.#unsynced += this.#packLength
    this.#packId++
    this.#packLength = 0
    this.#packCount = 0
    // The disk starts writing while more pages follow, so that the sync at the end finds little left.
    if (this.#unsynced < CHECKPOINT_SYNC_BYTES) return
    this.#unsynced = 0
    this.#draft.startSync()
  }

  /** Completes the file, makes it durable and gives it its name. Returns how many bytes of pages it holds. */
  async end(name: string, meta: CheckpointMeta): Promise<number> {
    if (this.#page !== undefined || this.#queue.length > 0) throw new Error('a page is missing')
    this.#flushPack()
    this.#insertFiles()
    this.#insertMeta(meta)
    this.#draft.db.exec('COMMIT')
    this.#base?.close()
    await this.#draft.finish(name)
    return this.#written
  }

  #insertFiles(): void {
    const insert = this.#draft.db.prepare('INSERT INTO file VALUES (?, ?, ?)')
    const family = this.#base?.family ?? []
    for (const [older, idx] of this.#files) {
      const { stem, root } = family[older] as FileTables
      insert.run(idx, stem, root)
      this.#root.file({ idx, name: stem, root })
    }
  }

  #insertMeta(meta: CheckpointMeta): void {
    const insert = this.#draft.db.prepare('INSERT INTO meta VALUES (?, ?)')
    for (const key of META_KEYS) {
      const value = meta[key]
      const bytes = typeof value === 'string' ? Buffer.from(value, 'utf8') : value
      insert.run(key, bytes)
      this.#root.meta(key, bytes)
    }
    insert.run('root', this.#root.digest())
  }

  abandon(): void {
    this.#base?.close()
    this.#draft.abandon()
  }
}

/**
 * The buffer, grown if needed to hold `length` bytes. It starts small, so a small checkpoint takes little
 * memory.
 */
function grown(buffer: Buffer, length: number, max: number): Buffer {
  if (length <= buffer.length) return buffer
  const larger = Buffer.allocUnsafeSlow(Math.min(max, Math.max(length, buffer.length * 4)))
  buffer.copy(larger)
  return larger
}

function begin(db: Database.Database): void {
  db.pragma('page_size = 65536')
  // A draft is abandoned, never rolled back, so it needs no journal on disk. (Defensive connections refuse
  // OFF.)
  if (db.pragma('journal_mode = MEMORY', { simple: true }) !== 'memory') throw new Error('a journal is on')
  db.pragma('synchronous = OFF')
  db.pragma('locking_mode = EXCLUSIVE')
  db.pragma(`application_id = ${CHECKPOINT_APPLICATION_ID}`)
  db.pragma(`user_version = ${CHECKPOINT_SCHEMA_VERSION}`)
  db.exec(CHECKPOINT_SCHEMA)
  db.exec('BEGIN')
}
