/**
 * Reads SQLite files of a folder in which nothing may appear or change. SQLite makes files beside a database
 * with a write-ahead log even to read it, and cannot read one on a read-only file system.
 *
 * Invariant: no process writes the database meanwhile. The copy is removed as soon as it is open.
 */
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import type Database from 'better-sqlite3'
import { PRIVATE_FILE } from './private-files.js'
import { openDatabase } from './sqlite.js'

/** Opens a copy of a database and its write-ahead log. Throws what copying and opening throw. */
export function openCopy(dir: string, name: string): Database.Database {
  const place = fs.mkdtempSync(path.join(os.tmpdir(), 'mmsb-read-'))
  try {
    for (const ending of ['', '-wal']) {
      const file = path.join(dir, name + ending)
      if (!fs.existsSync(file)) continue
      fs.copyFileSync(file, path.join(place, name + ending))
      // A copy has the mode of its file, and SQLite must be able to write the copy.
      fs.chmodSync(path.join(place, name + ending), PRIVATE_FILE)
    }
    const db = openDatabase(path.join(place, name), { timeout: 100 })
    try {
      // Reads the write-ahead log, which is not found once the copy is removed.
      db.pragma('locking_mode = EXCLUSIVE')
      db.pragma('wal_checkpoint(TRUNCATE)')
      return db
    } catch (error) {
      db.close()
      throw error
    }
  } finally {
    fs.rmSync(place, { recursive: true, force: true })
  }
}
