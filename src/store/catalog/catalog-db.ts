/**
 * catalog.db: the sparse index of the log and the list of checkpoints, in SQLite. Runs in the catalog's
 * thread.
 *
 * Invariants: every row carries a checksum over its fields and counts only if that matches. Every change is
 * durable when the call returns (WAL, synchronous=FULL). A file that cannot be trusted is set aside under
 * another name, never repaired in place; one that cannot be opened for a reason outside it is left alone. All
 * of it can be rebuilt from the log and the checkpoint files.
 * Null because SQLite has it.
 */
import fs from 'node:fs'
import path from 'node:path'
import { crc32 } from 'node:zlib'
import type Database from 'better-sqlite3'
import { isDiskTrouble, textOf } from '../os/errors.js'
import { createPrivate } from '../os/private-files.js'
import { openDatabase } from '../os/sqlite.js'
import type { CatalogFindings, CheckpointInfo, IndexBlock } from '../types.js'

export const CATALOG_NAME = 'catalog.db'
const APPLICATION_ID = 0x4d4d_5343 // "MMSC"

/** Statements that bring the schema from version i to i + 1. */
const MIGRATIONS: readonly string[] = [
  `CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
   CREATE TABLE block(
     first_epoch INTEGER PRIMARY KEY, last_epoch INTEGER NOT NULL, segment INTEGER NOT NULL,
     start INTEGER NOT NULL, stop INTEGER NOT NULL, pages BLOB, sum INTEGER NOT NULL);
   CREATE VIEW segment AS
     SELECT segment AS first_epoch, max(last_epoch) AS last_epoch, max(stop) AS bytes FROM block GROUP BY segment;
   CREATE TABLE checkpoint(
     epoch INTEGER PRIMARY KEY, pages INTEGER NOT NULL, bytes INTEGER NOT NULL, new_bytes INTEGER NOT NULL,
     ms INTEGER NOT NULL, file TEXT NOT NULL, sum INTEGER NOT NULL);`,
]
export const CATALOG_SCHEMA_VERSION = MIGRATIONS.length

export interface BlockRow {
  readonly first_epoch: number
  readonly last_epoch: number
  readonly segment: number
  readonly start: number
  readonly stop: number
  readonly pages: Buffer | null
  readonly sum: number
}

export interface CheckpointRow {
  readonly epoch: number
  readonly pages: number
  readonly bytes: number
  readonly new_bytes: number
  readonly ms: number
  readonly file: string
  readonly sum: number
}

function sumOfBlock(block: IndexBlock): number {
  const fields = [
    block.firstEpoch,
    block.lastEpoch,
    block.segment,
    block.offset,
    block.end,
    block.pages === undefined,
  ]
  return crc32(block.pages ?? new Uint8Array(0), crc32(fields.join()))
}

function sumOfCheckpoint(info: CheckpointInfo): number {
  return crc32([info.epoch, info.pages, info.bytes, info.newBytes, info.ms, info.file].join())
}

/** The block of a row. Throws when its checksum does not match. */
export function blockOfRow(row: BlockRow): IndexBlock {
  const block = {
    segment: row.segment,
    offset: row.start,
    end: row.stop,
    firstEpoch: row.first_epoch,
    lastEpoch: row.last_epoch,
    pages: row.pages === null ? undefined : new Uint8Array(row.pages),
  }
  if (sumOfBlock(block) !== row.sum) throw new Error(`the index row of epoch ${row.first_epoch} is damaged`)
  return block
}

/** The checkpoint of a row. Throws when its checksum does not match. */
export function checkpointOfRow(row: CheckpointRow): CheckpointInfo {
  const { epoch, pages, bytes, new_bytes: newBytes, ms, file } = row
  const info = { epoch, pages, bytes, newBytes, ms, file }
  if (sumOfCheckpoint(info) !== row.sum) throw new Error(`the catalog row of checkpoint ${epoch} is damaged`)
  // Rows of earlier releases have the size of the file as new bytes.
  return { ...info, newBytes: Math.min(newBytes, bytes) }
}

/** The schema version of an open catalog. Throws when it cannot be trusted. */
export function checkCatalog(db: Database.Database): number {
  if (db.pragma('application_id', { simple: true }) !== APPLICATION_ID) throw new Error('it is not a catalog')
  const version = Number(db.pragma('user_version', { simple: true }))
  if (version > CATALOG_SCHEMA_VERSION) throw new Error(`its version ${version} is of a later release`)
  const check = db.pragma('quick_check(1)', { simple: true })
  if (check !== 'ok') throw new Error(String(check))
  return version
}

/** What an open catalog holds. Throws when a row that counts is damaged. */
export function findingsOf(db: Database.Database): CatalogFindings {
  const bus = db.prepare("SELECT value FROM meta WHERE key = 'bus_id'").get() as { value: string } | undefined
  if (bus === undefined) throw new Error('it names no bus')
  const last = db.prepare('SELECT * FROM block ORDER BY first_epoch DESC LIMIT 1').get() as
    | BlockRow
    | undefined
  const rows = db.prepare('SELECT * FROM checkpoint ORDER BY epoch').all() as CheckpointRow[]
  return {
    state: 'read',
    busId: bus.value,
    lastEpoch: last === undefined ? 0 : blockOfRow(last).lastEpoch,
    checkpoints: rows.map(checkpointOfRow),
  }
}

export class CatalogDb {
  readonly #file: string
  #open: Database.Database | undefined

  constructor(dir: string) {
    this.#file = path.join(dir, CATALOG_NAME)
  }

  /** Opens the file or creates it. Throws when the disk refuses. */
  open(): CatalogFindings {
    if (!fs.existsSync(this.#file)) {
      this.#open = this.#create()
      return { state: 'lost', why: 'it is missing' }
    }
    try {
      this.#open = this.#openExisting()
      return findingsOf(this.#db)
    } catch (error) {
      if (isDiskTrouble(error)) throw error
      const why = textOf(error)
      this.#setAside()
      this.#open = this.#create()
      return { state: 'lost', why }
    }
  }

  #connect(): Database.Database {
    createPrivate(this.#file)
    const db = openDatabase(this.#file, { timeout: 1000 })
    try {
      db.pragma('journal_mode = WAL')
      db.pragma('synchronous = FULL')
      return db
    } catch (error) {
      db.close()
      throw error
    }
  }

  #create(): Database.Database {
    const db = this.#connect()
    db.pragma(`application_id = ${APPLICATION_ID}`)
    migrate(db, 0)
    return db
  }

  #openExisting(): Database.Database {
    const db = this.#connect()
    try {
      migrate(db, checkCatalog(db))
      return db
    } catch (error) {
      db.close()
      throw error
    }
  }

  /** Renames an untrusted file, so that a person can look at it. Only the newest such file is kept. */
  #setAside(): void {
    this.#open?.close()
    this.#open = undefined
    for (const ending of ['-wal', '-shm']) fs.rmSync(this.#file + ending, { force: true })
    fs.renameSync(this.#file, `${this.#file}.bad`)
  }

  get #db(): Database.Database {
    if (this.#open === undefined) throw new Error('the catalog is not open')
    return this.#open
  }

  begin(busId: string, anew: boolean): void {
    this.#db.transaction(() => {
      if (anew) this.#db.exec('DELETE FROM block; DELETE FROM checkpoint')
      this.#db.prepare("INSERT OR REPLACE INTO meta VALUES ('bus_id', ?)").run(busId)
    })()
  }

  addBlocks(blocks: readonly IndexBlock[]): void {
    const insert = this.#db.prepare('INSERT OR REPLACE INTO block VALUES (?, ?, ?, ?, ?, ?, ?)')
    this.#db.transaction(() => {
      for (const block of blocks) {
        const { firstEpoch, lastEpoch, segment, offset, end, pages } = block
        insert.run(firstEpoch, lastEpoch, segment, offset, end, pages ?? null, sumOfBlock(block))
      }
    })()
  }

  clearBlocks(): void {
    this.#db.exec('DELETE FROM block')
  }

  dropBlocksBefore(epoch: number): void {
    this.#db.prepare('DELETE FROM block WHERE last_epoch < ?').run(epoch)
  }

  blockOf(epoch: number): IndexBlock | undefined {
    const row = this.#db
      .prepare('SELECT * FROM block WHERE first_epoch <= ? ORDER BY first_epoch DESC LIMIT 1')
      .get(epoch) as BlockRow | undefined
    if (row === undefined) return undefined
    const block = blockOfRow(row)
    return block.lastEpoch >= epoch ? block : undefined
  }

  addCheckpoint(info: CheckpointInfo): void {
    const { epoch, pages, bytes, newBytes, ms, file } = info
    this.#db
      .prepare('INSERT OR REPLACE INTO checkpoint VALUES (?, ?, ?, ?, ?, ?, ?)')
      .run(epoch, pages, bytes, newBytes, ms, file, sumOfCheckpoint(info))
  }

  removeCheckpoint(epoch: number): void {
    this.#db.prepare('DELETE FROM checkpoint WHERE epoch = ?').run(epoch)
  }

  close(): void {
    this.#open?.close()
    this.#open = undefined
  }
}

function migrate(db: Database.Database, from: number): void {
  for (let version = from; version < MIGRATIONS.length; version++) {
    db.transaction(() => {
      db.exec(MIGRATIONS[version] ?? '')
      db.pragma(`user_version = ${version + 1}`)
    })()
  }
}
