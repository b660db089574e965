/**
 * Reads the catalog without changing it: where records near an epoch begin, and whether its rows are sound.
 * Runs in the caller's thread.
 *
 * Invariants: changes nothing. The index is only a hint, so a block that cannot be read or trusted is
 * undefined, never an error.
 */
import fs from 'node:fs'
import path from 'node:path'
import type Database from 'better-sqlite3'
import { openCopy } from '../os/database-copy.js'
import { textOf } from '../os/errors.js'
import { openDatabase } from '../os/sqlite.js'
import type { CatalogFindings, IndexBlock } from '../types.js'
import {
  type BlockRow,
  blockOfRow,
  CATALOG_NAME,
  type CheckpointRow,
  checkCatalog,
  checkpointOfRow,
  findingsOf,
} from './catalog-db.js'

export class CatalogReader {
  readonly #dir: string
  readonly #isOffline: boolean
  readonly #file: string
  #db: Database.Database | undefined
  #find: Database.Statement | undefined

  /**
   * `isOffline`: no process has the folder open. A copy is read then, so that nothing appears in the folder.
   */
  constructor(dir: string, isOffline = false) {
    this.#dir = dir
    this.#isOffline = isOffline
    this.#file = path.join(dir, CATALOG_NAME)
  }

  /** The last block that begins at or before the epoch, if there is one. */
  blockBefore(epoch: number): IndexBlock | undefined {
    try {
      if (this.#find === undefined) {
        if (!fs.existsSync(this.#file)) return undefined
        this.#db = this.#open()
        this.#find = this.#db.prepare(
          'SELECT * FROM block WHERE first_epoch <= ? ORDER BY first_epoch DESC LIMIT 1',
        )
      }
      const row = this.#find.get(epoch) as BlockRow | undefined
      return row === undefined ? undefined : blockOfRow(row)
    } catch {
      this.close()
      return undefined
    }
  }

  #open(): Database.Database {
    if (this.#isOffline) return openCopy(this.#dir, CATALOG_NAME)
    return openDatabase(this.#file, { readonly: true, timeout: 100 })
  }

  /** What the catalog holds. Changes nothing, unlike CatalogDb.open. */
  findings(): CatalogFindings {
    if (!fs.existsSync(this.#file)) return { state: 'lost', why: 'it is missing' }
    try {
      const db = this.#open()
      try {
        checkCatalog(db)
        return findingsOf(db)
      } finally {
        db.close()
      }
    } catch (error) {
      return { state: 'lost', why: textOf(error) }
    }
  }

  /** The faults of the catalog, row by row. A missing catalog is no fault: it can be rebuilt. */
  problems(): string[] {
    if (!fs.existsSync(this.#file)) return []
    const problems: string[] = []
    const attempt = (check: () => void): void => {
      try {
        check()
      } catch (error) {
        problems.push(`${CATALOG_NAME}: ${textOf(error)}`)
      }
    }
    attempt(() => {
      const db = this.#open()
      try {
        const found = db.pragma('integrity_check(1)', { simple: true })
        if (found !== 'ok') throw new Error(String(found))
        for (const row of db.prepare('SELECT * FROM block ORDER BY first_epoch').all()) {
          attempt(() => blockOfRow(row as BlockRow))
        }
        for (const row of db.prepare('SELECT * FROM checkpoint ORDER BY epoch').all()) {
          attempt(() => checkpointOfRow(row as CheckpointRow))
        }
      } finally {
        db.close()
      }
    })
    return problems
  }

  close(): void {
    this.#find = undefined
    this.#db?.close()
    this.#db = undefined
  }
}
