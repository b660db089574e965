/**
 * A folder of checkpoint files in memory, for tests of what a file holds and which steps are taken. Says
 * how many files are open, and can change what a file holds.
 */
import Database from 'better-sqlite3'
import { CHECKPOINT_CHUNK_BYTES } from '../../../src/limits.js'
import type { CheckpointBase } from '../../../src/store/checkpoint/base.js'
import {
  type CheckpointMeta,
  CheckpointWriter,
  type PagePiece,
} from '../../../src/store/checkpoint/file-writer.js'
import type { CheckpointDraft, CheckpointFolder } from '../../../src/store/checkpoint/folder.js'
import {
  checkpointName,
  type FileRow,
  META_KEYS,
  type PageRow,
  RootHash,
} from '../../../src/store/checkpoint/format.js'
import { turn } from '../../lib/wait.js'

export const CHUNK = CHECKPOINT_CHUNK_BYTES
export const BUS_ID = 'ab'

export class MemoryFolder implements CheckpointFolder {
  readonly files = new Map<string, Buffer>()
  /** What was done to names, in order. */
  readonly steps: string[] = []
  openCount = 0
  /** In place of the size of each file. */
  size: number | undefined

  list(): string[] {
    return [...this.files.keys()].sort()
  }

  open(name: string): Database.Database {
    const bytes = this.files.get(name)
    if (bytes === undefined) throw new Error(`there is no ${name}`)
    const db = new Database(bytes, { readonly: true })
    this.openCount++
    const close = db.close.bind(db)
    db.close = () => {
      if (db.open) this.openCount--
      return close()
    }
    return db
  }

  sizeBytes(name: string): number {
    return this.size ?? this.files.get(name)!.length
  }

  create(): CheckpointDraft {
    const db = new Database(':memory:')
    return {
      db,
      startSync: () => this.steps.push('start sync'),
      finish: async (name) => {
        await turn()
        this.files.set(name, db.serialize())
        db.close()
        this.steps.push(`finish ${name}`)
      },
      abandon: () => {
        db.close()
        this.steps.push('abandon')
      },
    }
  }

  rename(from: string, to: string): void {
    this.files.set(to, this.files.get(from)!)
    this.files.delete(from)
    this.steps.push(`rename ${from} ${to}`)
  }

  remove(name: string): void {
    this.files.delete(name)
    this.steps.push(`remove ${name}`)
  }

  async syncDir(): Promise<void> {
    await turn()
    this.steps.push('sync')
  }

  /** Changes a file. */
  change(name: string, change: (db: Database.Database) => void): void {
    const db = new Database(this.files.get(name)!)
    change(db)
    this.files.set(name, db.serialize())
    db.close()
  }

  /** Changes the tables of a file, and makes their hash that of the new tables. */
  forge(name: string, change: (db: Database.Database) => void): void {
    this.change(name, (db) => {
      change(db)
      const root = new RootHash()
      const value = db.prepare('SELECT value FROM meta WHERE key = ?').pluck()
      for (const key of META_KEYS) root.meta(key, value.get(key) as Buffer)
      if (db.prepare("SELECT name FROM sqlite_schema WHERE name = 'file'").get() !== undefined)
        for (const row of db.prepare('SELECT * FROM file ORDER BY idx').all()) root.file(row as FileRow)
      for (const row of db.prepare('SELECT * FROM page ORDER BY id').all()) root.page(row as PageRow)
      const packs = db.prepare('SELECT id, chunks, length(data) AS bytes FROM pack ORDER BY id').all()
      for (const { id, chunks, bytes } of packs as { id: number; chunks: Buffer; bytes: number }[])
        root.pack(id, chunks, bytes)
      db.prepare("UPDATE meta SET value = ? WHERE key = 'root'").run(root.digest())
    })
  }
}

export const metaOf = (epoch: number, pages = 1, bytes = 1): CheckpointMeta => ({
  bus_id: BUS_ID,
  bytes: String(bytes),
  digest: Uint8Array.of(9, 8, 7),
  epoch: String(epoch),
  extra: '{"a":"ü"}',
  next_page_id: '900',
  pages: String(pages),
  timestamp_ms: '1700000000001',
})

export const pieceOf = (id: number, bytes: number, unchanged = false): PagePiece => ({
  ...{ id, bytes, version: id + 50, createdEpoch: id + 20, meta: Uint8Array.of(id & 255, 1), unchanged },
})

/** `count` chunks, none of zeros and no two alike; those of another seed differ. */
export function chunksOf(seed: number, count: number, rest = 0): Uint8Array {
  const bytes = new Uint8Array(count * CHUNK + rest)
  const view = new DataView(bytes.buffer)
  for (let at = 0; at + 8 <= bytes.length; at += CHUNK) {
    view.setUint32(at, seed)
    view.setUint32(at + 4, 1 + at / CHUNK)
  }
  return bytes
}

/** Writes a checkpoint of pages, ascending. A number: the page is as in the base and has so many bytes. */
export async function written(
  folder: CheckpointFolder,
  epoch: number,
  pages: ReadonlyMap<number, Uint8Array | number>,
  base?: CheckpointBase,
): Promise<number> {
  const writer = new CheckpointWriter(folder, base)
  let total = 0
  for (const [id, bytes] of pages) {
    const size = typeof bytes === 'number' ? bytes : bytes.length
    total += size
    writer.piece(
      [pieceOf(id, size, typeof bytes === 'number')],
      typeof bytes === 'number' ? new Uint8Array(0) : bytes,
    )
  }
  return writer.end(checkpointName(epoch), metaOf(epoch, pages.size, total))
}
