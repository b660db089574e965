/**
 * Keeps a second process out of a data folder.
 *
 * Invariants: the lock is the kernel's, on lock.db, held through SQLite for as long as the store is open; the kernel
 * drops it when the process dies, however it dies, so there are no stale locks to judge. lock.db stays empty, so no crash
 * can damage it; holder.txt names the holder and is only for people. Nothing else in this process may open lock.db by
 * other means: closing any descriptor of the file would drop the lock.
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

/** Best effort: a full disk must not keep the lock from being taken. */
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

/** Takes the lock or throws BUS_FAILED naming the holder. The function returned lets go. */
export function lockFolder(dir: string): () => void {
  let db: Database.Database | null = null
  try {
    db = new Database(path.join(dir, LOCK_NAME), { timeout: 0 })
    // Takes the write lock without writing anything: the disk may be full. A journal on disk would be begun at once.
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
