/**
 * Writes one checkpoint file: takes pieces of pages, hashes and packs the chunks that no older file holds, and refers to
 * the others. Runs in the checkpoint's thread.
 *
 * Invariants: a chunk is stored once, whatever it belongs to; the file under its final name is complete, synced and never
 * changed again; what fails leaves no file of that name. Memory is bounded by the pieces in flight, one pack and the table
 * of chunk hashes.
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

/** A page as it is handed over. `unchanged`: its bytes are those of the base and are not given. */
export interface PagePiece extends CheckpointPage {
  readonly unchanged?: boolean
}

export type CheckpointMeta = Readonly<Record<MetaKey, string | Uint8Array>>

const ZEROS = Buffer.alloc(CHECKPOINT_CHUNK_BYTES)

interface PageUnderWay {
  readonly row: PagePiece
  readonly refs: Buffer
  /** Chunks taken. */
  done: number
}

export class CheckpointWriter {
  private readonly draft: CheckpointDraft
  private readonly insertPage: Database.Statement
  private readonly insertPack: Database.Statement
  private readonly root = new RootHash()
  private readonly known = new Map<string, ChunkRef>()
  /** Files referred to: index in the base's family -> index here. */
  private readonly files = new Map<number, number>()
  private pack: Buffer = Buffer.alloc(0)
  private entries: Buffer = Buffer.alloc(0)
  private packId = 1
  private packLength = 0
  private packCount = 0
  private readonly queue: PagePiece[] = []
  private queueNext = 0
  private page: PageUnderWay | null = null
  /** Bytes of chunks in packs: all, and those since the disk was last told to begin. */
  private written = 0
  private unsynced = 0

  constructor(
    place: CheckpointFolder,
    private readonly base: CheckpointBase | null,
  ) {
    this.draft = place.create()
    const { db } = this.draft
    try {
      begin(db)
      this.insertPage = db.prepare('INSERT INTO page VALUES (?, ?, ?, ?, ?, ?)')
      this.insertPack = db.prepare('INSERT INTO pack VALUES (?, ?, ?)')
    } catch (error) {
      this.draft.abandon()
      throw error
    }
  }

  /** Slices of pages, one after another in `bytes`. A slice begins at a chunk's start and ends at one, or at its page's end. */
  piece(pages: readonly PagePiece[], bytes: Uint8Array): void {
    for (const page of pages) this.queue.push(page)
    let at = 0
    for (let page = this.take(); page !== null; page = this.take()) {
      if (page.row.unchanged === true) {
        this.adopt(page)
        continue
      }
      const left = page.row.bytes - page.done * CHECKPOINT_CHUNK_BYTES
      if (left > 0) {
        const length = Math.min(CHECKPOINT_CHUNK_BYTES, left)
        if (at === bytes.length) return
        if (at + length > bytes.length) throw new Error('a piece ends inside a chunk')
        this.chunk(page.refs, page.done++, bytes.subarray(at, at + length))
        at += length
      }
      if (left <= CHECKPOINT_CHUNK_BYTES) this.endPage(page)
    }
    if (at < bytes.length) throw new Error('a piece has bytes without a page')
  }

  /** The page under way, or the next one. */
  private take(): PageUnderWay | null {
    if (this.page !== null) return this.page
    const row = this.queue[this.queueNext]
    if (row === undefined) {
      this.queue.length = this.queueNext = 0
      return null
    }
    this.queueNext++
    this.page = { row, refs: Buffer.alloc(chunkCount(row.bytes) * REF_BYTES), done: 0 }
    return this.page
  }

  /** A page whose bytes are those of the base. */
  private adopt(page: PageUnderWay): void {
    const { id, bytes } = page.row
    for (const [i, chunk] of (this.base?.chunksOf(id, bytes) ?? []).entries()) {
      if (chunk !== null) writeRef(page.refs, i, this.takeOver(chunk))
    }
    this.endPage(page)
  }

  /** Refers to a chunk of the base, or copies it out of a file that is to be needed no more. */
  private takeOver(chunk: BaseChunk): ChunkRef {
    const { base } = this
    if (base === null) throw new Error('there is no base')
    const key = chunk.entry.hash.toString('latin1')
    const known = this.known.get(key)
    if (known !== undefined) return known
    if (base.isThin[chunk.file]) return this.store(key, chunk.entry.hash, base.read(chunk))
    return this.refer(key, chunk)
  }

  private refer(key: string, { pack, slot, file }: BaseChunk): ChunkRef {
    let index = this.files.get(file)
    if (index === undefined) {
      index = this.files.size + 1
      this.files.set(file, index)
    }
    const ref = { pack, slot, file: index }
    this.known.set(key, ref)
    return ref
  }

  private endPage({ row, refs }: PageUnderWay): void {
    const { id, version, createdEpoch, bytes, meta } = row
    this.insertPage.run(id, version, createdEpoch, bytes, meta, refs)
    this.root.page({ id, version, created_epoch: createdEpoch, bytes, meta, refs })
    this.page = null
  }

  private chunk(refs: Buffer, index: number, bytes: Uint8Array): void {
    if (ZEROS.compare(bytes, 0, bytes.length, 0, bytes.length) === 0) return
    const digest = chunkHash(bytes)
    const key = digest.toString('latin1')
    let ref = this.known.get(key)
    if (ref === undefined) {
      const older = this.base?.find(digest)
      ref = older === undefined ? this.store(key, digest, bytes) : this.refer(key, older)
    }
    writeRef(refs, index, ref)
  }

  private store(key: string, digest: Buffer, bytes: Uint8Array): ChunkRef {
    if (
      this.packLength + bytes.length > CHECKPOINT_PACK_BYTES ||
      this.packCount === CHECKPOINT_PACK_CHUNKS_MAX
    ) {
      this.flushPack()
    }
    const entry = this.packCount * CHUNK_ENTRY_BYTES
    this.pack = grown(this.pack, this.packLength + bytes.length, CHECKPOINT_PACK_BYTES)
    this.entries = grown(
      this.entries,
      entry + CHUNK_ENTRY_BYTES,
      CHECKPOINT_PACK_CHUNKS_MAX * CHUNK_ENTRY_BYTES,
    )
    digest.copy(this.entries, entry)
    this.entries.writeUInt32LE(this.packLength, entry + CHUNK_HASH_BYTES)
    this.entries.writeUInt32LE(bytes.length, entry + CHUNK_HASH_BYTES + 4)
    this.pack.set(bytes, this.packLength)
    this.packLength += bytes.length
    const ref = { pack: this.packId, slot: this.packCount++, file: 0 }
    this.known.set(key, ref)
    return ref
  }

  private flushPack(): void {
    if (this.packCount === 0) return
    const entries = this.entries.subarray(0, this.packCount * CHUNK_ENTRY_BYTES)
    this.insertPack.run(this.packId, entries, this.pack.subarray(0, this.packLength))
    this.root.pack(this.packId, entries, this.packLength)
    this.written += this.packLength
    this.unsynced += this.packLength
    this.packId++
    this.packLength = 0
    this.packCount = 0
    // The disk begins while there is more to come, so that the sync at the end finds little left.
    if (this.unsynced < CHECKPOINT_SYNC_BYTES) return
    this.unsynced = 0
    this.draft.startSync()
  }

  /** Completes the file, makes it durable and gives it its name. Returns how many bytes of pages are in it. */
  async end(name: string, meta: CheckpointMeta): Promise<number> {
    if (this.page !== null || this.queue.length > 0) throw new Error('a page has not been given')
    this.flushPack()
    this.putFiles()
    this.putMeta(meta)
    this.draft.db.exec('COMMIT')
    this.base?.close()
    await this.draft.finish(name)
    return this.written
  }

  private putFiles(): void {
    const insert = this.draft.db.prepare('INSERT INTO file VALUES (?, ?, ?)')
    const family = this.base?.family ?? []
    for (const [older, idx] of this.files) {
      const { stem, root } = family[older] as FileTables
      insert.run(idx, stem, root)
      this.root.file({ idx, name: stem, root })
    }
  }

  private putMeta(meta: CheckpointMeta): void {
    const insert = this.draft.db.prepare('INSERT INTO meta VALUES (?, ?)')
    for (const key of META_KEYS) {
      const value = meta[key]
      const bytes = typeof value === 'string' ? Buffer.from(value, 'utf8') : value
      insert.run(key, bytes)
      this.root.meta(key, bytes)
    }
    insert.run('root', this.root.digest())
  }

  abandon(): void {
    this.base?.close()
    this.draft.abandon()
  }
}

/** The buffer with room for `length` bytes: a small checkpoint takes little memory. */
function grown(buffer: Buffer, length: number, max: number): Buffer {
  if (length <= buffer.length) return buffer
  const larger = Buffer.allocUnsafeSlow(Math.min(max, Math.max(length, buffer.length * 4)))
  buffer.copy(larger)
  return larger
}

function begin(db: Database.Database): void {
  db.pragma('page_size = 65536')
  // Nothing of a journal on the disk: a draft is abandoned, never rolled back. (OFF is refused to defensive connections.)
  if (db.pragma('journal_mode = MEMORY', { simple: true }) !== 'memory') throw new Error('a journal is on')
  db.pragma('synchronous = OFF')
  db.pragma('locking_mode = EXCLUSIVE')
  db.pragma(`application_id = ${CHECKPOINT_APPLICATION_ID}`)
  db.pragma(`user_version = ${CHECKPOINT_SCHEMA_VERSION}`)
  db.exec(CHECKPOINT_SCHEMA)
  db.exec('BEGIN')
}
