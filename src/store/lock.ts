/**
 * Keeps a second process out of a data folder.
 *
 * Invariants: the lock is the kernel's, on lock.db, held through SQLite for as long as the store is open; the kernel
 * drops it when the process dies, however it dies, so there are no stale locks to judge. The row inside names the holder
 * and is only for people. Nothing else in this process may open lock.db by other means: closing any descriptor of the
 * file would drop the lock.
 */
import os from 'node:os'
import path from 'node:path'
import Database from 'better-sqlite3'
import { busFailed, systemCode, textOf } from './failure.js'

const FILE_NAME = 'lock.db'

interface HolderRow {
  readonly pid: number
  readonly host: string
  readonly since: string
}

function holderOf(file: string): string {
  try {
    const db = new Database(file, { readonly: true, timeout: 100 })
    try {
      const row = db.prepare('SELECT pid, host, since FROM holder').get() as HolderRow | undefined
      if (row !== undefined) return `process ${row.pid} on ${row.host}, since ${row.since}`
    } finally {
      db.close()
    }
  } catch {
    // The holder is just writing its name, or the file is not readable: the message does without it.
  }
  return 'another process'
}

function inUse(dir: string, error: unknown): Error {
  const code = systemCode(error)
  if (code.startsWith('SQLITE_BUSY') || code.startsWith('SQLITE_LOCKED')) {
    return busFailed(`the data folder ${dir} is in use by ${holderOf(path.join(dir, FILE_NAME))}`, error)
  }
  return busFailed(`the data folder ${dir} cannot be locked: ${textOf(error)}`, error)
}

/** Takes the lock or throws BUS_FAILED naming the holder. The function returned lets go. */
export function lockFolder(dir: string): () => void {
  let db: Database.Database | null = null
  try {
    db = new Database(path.join(dir, FILE_NAME), { timeout: 0 })
    db.exec('BEGIN IMMEDIATE')
    db.exec(
      'CREATE TABLE IF NOT EXISTS holder(one INTEGER PRIMARY KEY CHECK (one = 1), pid INTEGER, host TEXT, since TEXT)',
    )
    db.prepare('INSERT OR REPLACE INTO holder VALUES (1, ?, ?, ?)').run(
      process.pid,
      os.hostname(),
      new Date().toISOString(),
    )
    db.exec('COMMIT')
    // Held from here on. It lets others read the row, and lets nobody else pass.
    db.exec('BEGIN IMMEDIATE')
  } catch (error) {
    const reason = inUse(dir, error)
    db?.close()
    throw reason
  }
  const held = db
  return () => held.close()
}
