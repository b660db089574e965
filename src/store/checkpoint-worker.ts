/**
 * The thread that writes one checkpoint file: takes pieces of pages, hashes and packs their chunks, and makes the file
 * durable before it gets its name.
 *
 * Invariants: the file under its final name is complete, synced and never changed again; what fails leaves no file of
 * that name. Memory is bounded by the pieces in flight, one pack and the table of chunk hashes.
 */
import fs from 'node:fs'
import path from 'node:path'
import { parentPort } from 'node:worker_threads'
import Database from 'better-sqlite3'
import {
  CHECKPOINT_CHUNK_BYTES,
  CHECKPOINT_PACK_BYTES,
  CHECKPOINT_PACK_CHUNKS_MAX,
  CHECKPOINT_SYNC_BYTES,
} from '../limits.js'
import {
  CHECKPOINT_APPLICATION_ID,
  CHECKPOINT_SCHEMA,
  CHECKPOINT_SCHEMA_VERSION,
  CHUNK_ENTRY_BYTES,
  CHUNK_HASH_BYTES,
  chunkCount,
  chunkHash,
  META_KEYS,
  type MetaKey,
  REF_BYTES,
  RootHash,
} from './checkpoint-format.js'
import { systemCode, textOf } from './failure.js'
import type { CheckpointPage } from './types.js'

export interface BeginRequest {
  readonly type: 'begin'
  /** Where the file is written, and the name it gets. */
  readonly temporary: string
  readonly file: string
}

/** Slices of pages, one after another in `bytes`. A slice begins at a chunk's start and ends at one, or at its page's end. */
export interface PieceRequest {
  readonly type: 'piece'
  /** Pages that begin in this piece, in the order of their ids. */
  readonly pages: readonly CheckpointPage[]
  readonly bytes: Uint8Array
}

export interface EndRequest {
  readonly type: 'end'
  readonly meta: Readonly<Record<MetaKey, string | Uint8Array>>
}

export type CheckpointRequest = BeginRequest | PieceRequest | EndRequest

const ZEROS = Buffer.alloc(CHECKPOINT_CHUNK_BYTES)

interface PageUnderWay {
  readonly row: CheckpointPage
  readonly refs: Buffer
  /** Chunks taken. */
  done: number
}

class CheckpointWriter {
  private readonly db: Database.Database
  private readonly insertPage: Database.Statement
  private readonly insertPack: Database.Statement
  private readonly root = new RootHash()
  private readonly known = new Map<string, number>()
  private readonly pack = Buffer.alloc(CHECKPOINT_PACK_BYTES)
  private readonly entries = Buffer.alloc(CHECKPOINT_PACK_CHUNKS_MAX * CHUNK_ENTRY_BYTES)
  private packId = 1
  private packLength = 0
  private packCount = 0
  private readonly queue: CheckpointPage[] = []
  private queueNext = 0
  private page: PageUnderWay | null = null
  private written = 0
  private readonly syncFd: number
  private syncing = false

  constructor(
    private readonly temporary: string,
    private readonly file: string,
  ) {
    fs.rmSync(temporary, { force: true })
    this.db = new Database(temporary)
    this.db.pragma('page_size = 65536')
    this.db.pragma('journal_mode = OFF')
    this.db.pragma('synchronous = OFF')
    this.db.pragma('locking_mode = EXCLUSIVE')
    this.db.pragma(`application_id = ${CHECKPOINT_APPLICATION_ID}`)
    this.db.pragma(`user_version = ${CHECKPOINT_SCHEMA_VERSION}`)
    this.db.exec(CHECKPOINT_SCHEMA)
    this.db.exec('BEGIN')
    this.insertPage = this.db.prepare('INSERT INTO page VALUES (?, ?, ?, ?, ?, ?)')
    this.insertPack = this.db.prepare('INSERT INTO pack VALUES (?, ?, ?)')
    this.syncFd = fs.openSync(temporary, 'r+')
  }

  piece({ pages, bytes }: PieceRequest): void {
    for (const page of pages) this.queue.push(page)
    let at = 0
    for (let page = this.take(); page !== null; page = this.take()) {
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
    const ref = this.known.get(key) ?? this.store(key, digest, bytes)
    refs.writeUInt32LE(Math.floor(ref / CHECKPOINT_PACK_CHUNKS_MAX), index * REF_BYTES)
    refs.writeUInt16LE(ref % CHECKPOINT_PACK_CHUNKS_MAX, index * REF_BYTES + 4)
  }

  private store(key: string, digest: Buffer, bytes: Uint8Array): number {
    if (
      this.packLength + bytes.length > CHECKPOINT_PACK_BYTES ||
      this.packCount === CHECKPOINT_PACK_CHUNKS_MAX
    ) {
      this.flushPack()
    }
    const entry = this.packCount * CHUNK_ENTRY_BYTES
    digest.copy(this.entries, entry)
    this.entries.writeUInt32LE(this.packLength, entry + CHUNK_HASH_BYTES)
    this.entries.writeUInt32LE(bytes.length, entry + CHUNK_HASH_BYTES + 4)
    this.pack.set(bytes, this.packLength)
    this.packLength += bytes.length
    const ref = this.packId * CHECKPOINT_PACK_CHUNKS_MAX + this.packCount++
    this.known.set(key, ref)
    return ref
  }

  private flushPack(): void {
    if (this.packCount === 0) return
    const entries = this.entries.subarray(0, this.packCount * CHUNK_ENTRY_BYTES)
    this.insertPack.run(this.packId, entries, this.pack.subarray(0, this.packLength))
    this.root.pack(this.packId, entries, this.packLength)
    this.written += this.packLength
    this.packId++
    this.packLength = 0
    this.packCount = 0
    this.startWriteback()
  }

  /** Lets the disk begin while there is more to come, so that the sync at the end finds little left. */
  private startWriteback(): void {
    if (this.syncing || this.written < CHECKPOINT_SYNC_BYTES) return
    this.written = 0
    this.syncing = true
    fs.fdatasync(this.syncFd, () => {
      this.syncing = false
    })
  }

  /** Completes the file, makes it durable and gives it its name. Returns its size. */
  end(meta: EndRequest['meta']): number {
    if (this.page !== null || this.queue.length > 0) throw new Error('a page has not been given')
    this.flushPack()
    this.putMeta(meta)
    this.db.exec('COMMIT')
    this.db.close()
    fs.fsyncSync(this.syncFd)
    const { size } = fs.fstatSync(this.syncFd)
    fs.closeSync(this.syncFd)
    fs.renameSync(this.temporary, this.file)
    const dir = fs.openSync(path.dirname(this.file), 'r')
    try {
      fs.fsyncSync(dir)
    } finally {
      fs.closeSync(dir)
    }
    return size
  }

  private putMeta(meta: EndRequest['meta']): void {
    const insert = this.db.prepare('INSERT INTO meta VALUES (?, ?)')
    for (const key of META_KEYS) {
      const value = meta[key]
      const bytes = typeof value === 'string' ? Buffer.from(value, 'utf8') : value
      insert.run(key, bytes)
      this.root.meta(key, bytes)
    }
    insert.run('root', this.root.digest())
  }

  abandon(): void {
    this.db.close()
    fs.closeSync(this.syncFd)
    fs.rmSync(this.temporary, { force: true })
  }
}

const port = parentPort
let writer: CheckpointWriter | null = null

function handle(request: CheckpointRequest): unknown {
  switch (request.type) {
    case 'begin':
      writer = new CheckpointWriter(request.temporary, request.file)
      return null
    case 'piece':
      writer?.piece(request)
      return request.bytes
    case 'end':
      return writer?.end(request.meta)
  }
}

port?.on('message', (request: CheckpointRequest & { id: number }) => {
  try {
    port.postMessage({ id: request.id, value: handle(request) })
  } catch (error) {
    writer?.abandon()
    writer = null
    port.postMessage({ id: request.id, error: textOf(error), code: systemCode(error) })
  }
})
