/**
 * The log index for those who may only read: one question, where records near an epoch begin. Runs in whatever thread
 * asks.
 *
 * Invariants: changes nothing; an answer that cannot be had or believed is null, never an error, since the index is a
 * hint only.
 */
import fs from 'node:fs'
import path from 'node:path'
import Database from 'better-sqlite3'
import { type BlockRow, blockOfRow, CATALOG_NAME } from './catalog-db.js'
import type { IndexBlock } from './types.js'

export class CatalogReader {
  readonly #file: string
  #db: Database.Database | null = null
  #find: Database.Statement | null = null

  constructor(dir: string) {
    this.#file = path.join(dir, CATALOG_NAME)
  }

  /** The last block that begins at or before the epoch, or null. */
  blockBefore(epoch: number): IndexBlock | null {
    try {
      if (this.#find === null) {
        if (!fs.existsSync(this.#file)) return null
        this.#db = new Database(this.#file, { readonly: true, timeout: 100 })
        this.#find = this.#db.prepare(
          'SELECT * FROM block WHERE first_epoch <= ? ORDER BY first_epoch DESC LIMIT 1',
        )
      }
      const row = this.#find.get(epoch) as BlockRow | undefined
      return row === undefined ? null : blockOfRow(row)
    } catch {
      this.close()
      return null
    }
  }

  close(): void {
    this.#find = null
    this.#db?.close()
    this.#db = null
  }
}
