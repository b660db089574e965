/**
 * Keeps a second process out of a data folder.
 *
 * Invariants: the kernel holds the lock, on lock.db, through SQLite, for as long as the store is open. It
 * drops the lock when the process dies, however it dies, so there are no stale locks. lock.db stays empty, so
 * a crash cannot damage it; holder.txt names the holder for people and decides nothing. Nothing else in this
 * process may open lock.db: closing any descriptor of the file would drop the lock.
 */
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import Database from 'better-sqlite3'
import { busFailed, systemCode, textOf } from './errors.js'

const LOCK_NAME = 'lock.db'
const HOLDER_NAME = 'holder.txt'

function holderOf(dir: string): string {
  try {
    return fs.readFileSync(path.join(dir, HOLDER_NAME), 'utf8').trim() || 'another process'
  } catch {
    return 'another process'
  }
}

/** Best effort: the lock must be possible on a full disk. */
function nameHolder(dir: string): void {
  const holder = `process ${process.pid} on ${os.hostname()}, since ${new Date().toISOString()}`
  try {
    fs.writeFileSync(path.join(dir, HOLDER_NAME), `${holder}\n`)
  } catch {
    fs.rmSync(path.join(dir, HOLDER_NAME), { force: true })
  }
}

function refusal(dir: string, error: unknown): Error {
  const code = systemCode(error)
  if (code.startsWith('SQLITE_BUSY') || code.startsWith('SQLITE_LOCKED')) {
    return busFailed(`the data folder ${dir} is in use by ${holderOf(dir)}`, error)
  }
  return busFailed(`the data folder ${dir} cannot be locked: ${textOf(error)}`, error)
}

/** Takes the lock, or throws BUS_FAILED with the holder's name. The function returned releases it. */
export function lockFolder(dir: string): () => void {
  let db: Database.Database | undefined
  try {
    db = new Database(path.join(dir, LOCK_NAME), { timeout: 0 })
    // The disk may be full, so the write lock is taken without writing: a journal on disk would be begun at
    // once.
    db.pragma('journal_mode = MEMORY')
    db.exec('BEGIN IMMEDIATE')
    nameHolder(dir)
  } catch (error) {
    const reason = refusal(dir, error)
    db?.close()
    throw reason
  }
  const held = db
  return () => held.close()
}
