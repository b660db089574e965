/**
 * cursors.db: how far each durable reader has read, in SQLite. Runs in its own thread.
 *
 * Invariants: every row carries a checksum over its fields and counts only if that matches. Every change is
 * durable when the call returns (WAL, synchronous=FULL). A file that cannot be trusted is set aside under
 * another name, never repaired in place; one that cannot be opened for a reason outside it is left alone.
 * Cursors exist nowhere else: a reader whose cursor is lost starts over.
 * Null because SQLite has it.
 */
import fs from 'node:fs'
import path from 'node:path'
import { crc32 } from 'node:zlib'
import type Database from 'better-sqlite3'
import { openCopy } from '../os/database-copy.js'
import { isDiskTrouble, textOf } from '../os/errors.js'
import { createPrivate } from '../os/private-files.js'
import { openDatabase } from '../os/sqlite.js'

export const CURSORS_NAME = 'cursors.db'
const APPLICATION_ID = 0x4d4d_5352 // "MMSR"
const SCHEMA_VERSION = 1

/** A named durable reader. */
export interface CursorRow {
  readonly name: string
  /** The last epoch it has processed; null: it needs a snapshot first. */
  readonly epoch: number | null
  /** The pages it reads, as JSON; opaque to the store. */
  readonly definition: string
  readonly createdMs: number
  /** When it was last seen. */
  readonly seenMs: number
}

interface Row {
  readonly name: string
  readonly epoch: number | null
  readonly definition: string
  readonly created_ms: number
  readonly seen_ms: number
  readonly sum: number
}

const sumOf = ({ name, epoch, definition, createdMs, seenMs }: CursorRow): number =>
  crc32(JSON.stringify([name, epoch, definition, createdMs, seenMs]))

export interface CursorFindings {
  readonly rows: readonly CursorRow[]
  /** Why a file was set aside, or rows were left out. */
  readonly problems: readonly string[]
}

export class CursorDb {
  readonly #file: string
  #db: Database.Database | undefined

  constructor(dir: string) {
    this.#file = path.join(dir, CURSORS_NAME)
  }

  /** Opens the file or creates it. Throws when the disk refuses. */
  open(): CursorFindings {
    try {
      this.#db = this.#connect()
      return rowsOf(this.#db)
    } catch (error) {
      this.close()
      if (isDiskTrouble(error)) throw error
      this.#remove('-wal', '-shm')
      fs.renameSync(this.#file, `${this.#file}.bad`)
      this.#db = this.#connect()
      return { rows: [], problems: [`it was set aside: ${textOf(error)}`] }
    }
  }

  #connect(): Database.Database {
    const isNew = !fs.existsSync(this.#file)
    createPrivate(this.#file)
    const db = openDatabase(this.#file, { timeout: 1000 })
    try {
      // No other process opens it, so the index of the WAL can stay in memory. As a file it could not be made
      // on a full disk.
      db.pragma('locking_mode = EXCLUSIVE')
      db.pragma('journal_mode = WAL')
      db.pragma('synchronous = FULL')
      if (isNew) create(db)
      checkWhole(db, 'quick_check')
      return db
    } catch (error) {
      db.close()
      // A half-made file would look damaged the next time.
      if (isNew) this.#remove('', '-wal', '-shm')
      throw error
    }
  }

  #remove(...endings: string[]): void {
    for (const ending of endings) fs.rmSync(this.#file + ending, { force: true })
  }

  /** Writes rows and removes those named in `gone`, in one transaction. */
  write(rows: readonly CursorRow[], gone: readonly string[]): void {
    const db = this.#db
    if (db === undefined) throw new Error('the cursors are not open')
    const put = db.prepare('INSERT OR REPLACE INTO cursor VALUES (?, ?, ?, ?, ?, ?)')
    const drop = db.prepare('DELETE FROM cursor WHERE name = ?')
    db.transaction(() => {
      for (const name of gone) drop.run(name)
      for (const row of rows)
        put.run(row.name, row.epoch, row.definition, row.createdMs, row.seenMs, sumOf(row))
    })()
  }

  close(): void {
    this.#db?.close()
    this.#db = undefined
  }
}

function create(db: Database.Database): void {
  db.transaction(() => {
    db.exec(
      `CREATE TABLE cursor(name TEXT PRIMARY KEY, epoch INTEGER, definition TEXT NOT NULL,
         created_ms INTEGER NOT NULL, seen_ms INTEGER NOT NULL, sum INTEGER NOT NULL) WITHOUT ROWID`,
    )
    db.pragma(`application_id = ${APPLICATION_ID}`)
    db.pragma(`user_version = ${SCHEMA_VERSION}`)
  })()
}

function checkWhole(db: Database.Database, how: 'quick_check' | 'integrity_check'): void {
  const version = Number(db.pragma('user_version', { simple: true }))
  if (db.pragma('application_id', { simple: true }) !== APPLICATION_ID || version !== SCHEMA_VERSION)
    throw new Error('it is not a cursor file that this release knows')
  const found = db.pragma(`${how}(1)`, { simple: true })
  if (found !== 'ok') throw new Error(String(found))
}

function rowsOf(db: Database.Database): CursorFindings {
  const rows: CursorRow[] = []
  const problems: string[] = []
  for (const found of db.prepare('SELECT * FROM cursor ORDER BY name').all() as Row[]) {
    const { name, epoch, definition, created_ms: createdMs, seen_ms: seenMs, sum } = found
    const row = { name, epoch, definition, createdMs, seenMs }
    if (sumOf(row) === sum) rows.push(row)
    else problems.push(`the row of ${JSON.stringify(name)} is damaged`)
  }
  return { rows, problems }
}

/** The cursors of a folder that nobody writes. Changes nothing. Throws when the file cannot be trusted. */
export function readCursors(
  dir: string,
  how: 'quick_check' | 'integrity_check' = 'quick_check',
): CursorFindings {
  if (!fs.existsSync(path.join(dir, CURSORS_NAME))) return { rows: [], problems: [] }
  const db = openCopy(dir, CURSORS_NAME)
  try {
    checkWhole(db, how)
    return rowsOf(db)
  } finally {
    db.close()
  }
}

/** The faults of the cursors of a folder that no process has open. No file is no fault. Changes nothing. */
export function cursorProblems(dir: string): string[] {
  try {
    return readCursors(dir, 'integrity_check').problems.map((problem) => `${CURSORS_NAME}: ${problem}`)
  } catch (error) {
    return [`${CURSORS_NAME}: ${textOf(error)}`]
  }
}
