/**
 * catalog.db: the sparse index of the log and the list of checkpoints, in SQLite. Runs in the catalogue's thread.
 *
 * Invariants: a row carries a checksum over its fields and is not believed without it; every change is durable when the
 * call returns (WAL, synchronous=FULL); a file that cannot be trusted is set aside under another name, never repaired in
 * place; one that cannot be opened for a reason outside it is left alone. Everything here can be rebuilt from the log and the
 * checkpoint files.
 */
import fs from 'node:fs'
import path from 'node:path'
import { crc32 } from 'node:zlib'
import Database from 'better-sqlite3'
import { isDiskTrouble, textOf } from '../os/errors.js'
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
    block.pages === null,
  ]
  return crc32(block.pages ?? new Uint8Array(0), crc32(fields.join()))
}

function sumOfCheckpoint(info: CheckpointInfo): number {
  return crc32([info.epoch, info.pages, info.bytes, info.newBytes, info.ms, info.file].join())
}

/** Believes a row only with its checksum. */
export function blockOfRow(row: BlockRow): IndexBlock {
  const block = {
    segment: row.segment,
    offset: row.start,
    end: row.stop,
    firstEpoch: row.first_epoch,
    lastEpoch: row.last_epoch,
    pages: row.pages === null ? null : new Uint8Array(row.pages),
  }
  if (sumOfBlock(block) !== row.sum) throw new Error(`the index row of epoch ${row.first_epoch} is damaged`)
  return block
}

export function checkpointOfRow(row: CheckpointRow): CheckpointInfo {
  const { epoch, pages, bytes, new_bytes: newBytes, ms, file } = row
  const info = { epoch, pages, bytes, newBytes, ms, file }
  if (sumOfCheckpoint(info) !== row.sum)
    throw new Error(`the catalogue row of checkpoint ${epoch} is damaged`)
  // Rows of earlier releases have the size of the file.
  return { ...info, newBytes: Math.min(newBytes, bytes) }
}

export class CatalogDb {
  private db: Database.Database | null = null
  private readonly file: string

  constructor(dir: string) {
    this.file = path.join(dir, CATALOG_NAME)
  }

  /** Throws when the disk does not let the file be opened or made. */
  open(): CatalogFindings {
    if (!fs.existsSync(this.file)) {
      this.db = this.create()
      return { state: 'lost', why: 'it is missing' }
    }
    try {
      this.db = this.openExisting()
      return this.read()
    } catch (error) {
      if (isDiskTrouble(error)) throw error
      const why = textOf(error)
      this.setAside()
      this.db = this.create()
      return { state: 'lost', why }
    }
  }

  private connect(): Database.Database {
    const db = new Database(this.file, { timeout: 1000 })
    try {
      db.pragma('journal_mode = WAL')
      db.pragma('synchronous = FULL')
      return db
    } catch (error) {
      db.close()
      throw error
    }
  }

  private create(): Database.Database {
    const db = this.connect()
    db.pragma(`application_id = ${APPLICATION_ID}`)
    migrate(db, 0)
    return db
  }

  private openExisting(): Database.Database {
    const db = this.connect()
    try {
      if (db.pragma('application_id', { simple: true }) !== APPLICATION_ID)
        throw new Error('it is not a catalogue')
      const version = Number(db.pragma('user_version', { simple: true }))
      if (version > CATALOG_SCHEMA_VERSION) throw new Error(`its version ${version} is of a later release`)
      const check = db.pragma('quick_check(1)', { simple: true })
      if (check !== 'ok') throw new Error(String(check))
      migrate(db, version)
      return db
    } catch (error) {
      db.close()
      throw error
    }
  }

  private read(): CatalogFindings {
    const bus = this.handle.prepare("SELECT value FROM meta WHERE key = 'bus_id'").get() as
      | { value: string }
      | undefined
    if (bus === undefined) throw new Error('it names no bus')
    const last = this.handle.prepare('SELECT * FROM block ORDER BY first_epoch DESC LIMIT 1').get() as
      | BlockRow
      | undefined
    const rows = this.handle.prepare('SELECT * FROM checkpoint ORDER BY epoch').all() as CheckpointRow[]
    return {
      state: 'read',
      busId: bus.value,
      lastEpoch: last === undefined ? 0 : blockOfRow(last).lastEpoch,
      checkpoints: rows.map(checkpointOfRow),
    }
  }

  /** Keeps what could not be trusted, for a person to look at. One such file is kept. */
  private setAside(): void {
    this.db?.close()
    this.db = null
    for (const ending of ['-wal', '-shm']) fs.rmSync(this.file + ending, { force: true })
    fs.renameSync(this.file, `${this.file}.bad`)
  }

  private get handle(): Database.Database {
    if (this.db === null) throw new Error('the catalogue is not open')
    return this.db
  }

  begin(busId: string, anew: boolean): void {
    this.handle.transaction(() => {
      if (anew) this.handle.exec('DELETE FROM block; DELETE FROM checkpoint')
      this.handle.prepare("INSERT OR REPLACE INTO meta VALUES ('bus_id', ?)").run(busId)
    })()
  }

  addBlocks(blocks: readonly IndexBlock[]): void {
    const insert = this.handle.prepare('INSERT OR REPLACE INTO block VALUES (?, ?, ?, ?, ?, ?, ?)')
    this.handle.transaction(() => {
      for (const block of blocks) {
        const { firstEpoch, lastEpoch, segment, offset, end, pages } = block
        insert.run(firstEpoch, lastEpoch, segment, offset, end, pages, sumOfBlock(block))
      }
    })()
  }

  clearBlocks(): void {
    this.handle.exec('DELETE FROM block')
  }

  dropBlocksBefore(epoch: number): void {
    this.handle.prepare('DELETE FROM block WHERE last_epoch < ?').run(epoch)
  }

  blockOf(epoch: number): IndexBlock | undefined {
    const row = this.handle
      .prepare('SELECT * FROM block WHERE first_epoch <= ? ORDER BY first_epoch DESC LIMIT 1')
      .get(epoch) as BlockRow | undefined
    if (row === undefined) return undefined
    const block = blockOfRow(row)
    return block.lastEpoch >= epoch ? block : undefined
  }

  blocksBetween(from: number, to: number): IndexBlock[] {
    const rows = this.handle
      .prepare(
        `SELECT * FROM block
         WHERE first_epoch >= coalesce((SELECT max(first_epoch) FROM block WHERE first_epoch <= ?), 0) AND first_epoch <= ?
         ORDER BY first_epoch`,
      )
      .all(from, to) as BlockRow[]
    return rows.map(blockOfRow).filter((block) => block.lastEpoch >= from)
  }

  addCheckpoint(info: CheckpointInfo): void {
    const { epoch, pages, bytes, newBytes, ms, file } = info
    this.handle
      .prepare('INSERT OR REPLACE INTO checkpoint VALUES (?, ?, ?, ?, ?, ?, ?)')
      .run(epoch, pages, bytes, newBytes, ms, file, sumOfCheckpoint(info))
  }

  removeCheckpoint(epoch: number): void {
    this.handle.prepare('DELETE FROM checkpoint WHERE epoch = ?').run(epoch)
  }

  close(): void {
    this.db?.close()
    this.db = null
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
