/**
 * Where checkpoint files lie, as an interface small enough to simulate, and the real folder.
 *
 * Invariants: a file has its final name only once its bytes are durable; what is opened for reading is never changed.
 * SQLite writes and reads the files; nothing else here knows what is in them.
 */
import fs from 'node:fs'
import path from 'node:path'
import Database from 'better-sqlite3'
import { CHECKPOINT_ENDING, checkpointStem, RETIRED_ENDING } from './format.js'

/** A checkpoint file being written. */
export interface CheckpointDraft {
  readonly db: Database.Database
  /** The disk may begin with what was written so far. */
  startSync(): void
  /** Closes the file, makes it durable and gives it its name; that is durable too when it resolves. */
  finish(name: string): void | Promise<void>
  /** Leaves no file. */
  abandon(): void
}

export interface CheckpointFolder {
  /** Names of the files, sorted. */
  list(): string[]
  /** For reading. Throws when it cannot be opened. */
  open(name: string): Database.Database
  sizeBytes(name: string): number
  /** One at a time; what an earlier process left of one is removed. */
  create(): CheckpointDraft
  rename(from: string, to: string): void
  remove(name: string): void
  /** Makes renames and removals durable. */
  syncDir(): void | Promise<void>
}

const DRAFT_NAME = 'next.tmp'
const FILE_PATTERN = /^(\d{20})\.db$/

/** Epochs of the checkpoints that are there, newest first. */
export function checkpointEpochs(place: CheckpointFolder): number[] {
  const epochs: number[] = []
  for (const name of place.list()) {
    const match = FILE_PATTERN.exec(name)
    if (match !== null) epochs.push(Number(match[1]))
  }
  return epochs.sort((a, b) => b - a)
}

/** The file that holds a checkpoint's chunks, a checkpoint still or retired, or undefined. */
export function fileOf(place: CheckpointFolder, stem: string): string | undefined {
  const names = place.list()
  return [CHECKPOINT_ENDING, RETIRED_ENDING].map((ending) => stem + ending).find((n) => names.includes(n))
}

export const epochOfStem = (stem: string): number => Number(stem)

export const stemOf = (name: string): string => name.slice(0, checkpointStem(0).length)

/** The folder of a real disk. */
export function checkpointFolder(dir: string): CheckpointFolder {
  const at = (name: string): string => path.join(dir, name)
  const syncDir = (): void => {
    const fd = fs.openSync(dir, 'r')
    try {
      fs.fsyncSync(fd)
    } finally {
      fs.closeSync(fd)
    }
  }
  return {
    list: () => (fs.existsSync(dir) ? fs.readdirSync(dir).sort() : []),
    open: (name) => new Database(at(name), { readonly: true, fileMustExist: true }),
    sizeBytes: (name) => fs.statSync(at(name)).size,
    create: () => draftIn(at(DRAFT_NAME), at, syncDir),
    rename: (from, to) => fs.renameSync(at(from), at(to)),
    remove: (name) => fs.rmSync(at(name), { force: true }),
    syncDir,
  }
}

function draftIn(file: string, at: (name: string) => string, syncDir: () => void): CheckpointDraft {
  fs.rmSync(file, { force: true })
  const db = new Database(file)
  let fd = -1
  let syncing = false
  const open = (): number => {
    if (fd < 0) fd = fs.openSync(file, 'r+')
    return fd
  }
  const close = (): void => {
    if (fd >= 0) fs.closeSync(fd)
    fd = -1
  }
  return {
    db,
    startSync() {
      if (syncing) return
      syncing = true
      fs.fdatasync(open(), () => {
        syncing = false
      })
    },
    finish(name) {
      db.close()
      fs.fsyncSync(open())
      close()
      fs.renameSync(file, at(name))
      syncDir()
    },
    abandon() {
      db.close()
      close()
      fs.rmSync(file, { force: true })
    },
  }
}
