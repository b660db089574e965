/**
 * The folder of checkpoint files: an interface small enough to simulate, and the real folder.
 *
 * Invariants: a file gets its final name only when its bytes are durable; a file opened for reading is never
 * changed. SQLite reads and writes the files; nothing in here knows what they hold.
 */
import fs from 'node:fs'
import path from 'node:path'
import type Database from 'better-sqlite3'
import { createPrivate } from '../os/private-files.js'
import { openDatabase } from '../os/sqlite.js'
import { CHECKPOINT_ENDING, checkpointStem, RETIRED_ENDING } from './format.js'

/** A checkpoint file being written. */
export interface CheckpointDraft {
  readonly db: Database.Database
  /** Lets the disk start writing what was given so far. */
  startSync(): void
  /**
   * Closes the file, makes it durable and gives it its name, which is durable too when the promise resolves.
   */
  finish(name: string): void | Promise<void>
  /** Removes the file, which may have its name already. */
  abandon(): void
}

export interface CheckpointFolder {
  /** Names of the files, sorted. */
  list(): string[]
  /** Opens a file for reading. Throws when that is not possible. */
  open(name: string): Database.Database
  sizeBytes(name: string): number
  /**
   * Begins a file. Only one exists at a time; the remains of one that an earlier process left are removed.
   */
  create(): CheckpointDraft
  rename(from: string, to: string): void
  remove(name: string): void
  /** Makes renames and removals durable. */
  syncDir(): void | Promise<void>
}

const DRAFT_NAME = 'next.tmp'
const FILE_PATTERN = /^(\d{20})\.db$/

/** Epochs of the checkpoint files in the folder, newest first. */
export function checkpointEpochs(folder: CheckpointFolder): number[] {
  const epochs: number[] = []
  for (const name of folder.list()) {
    const match = FILE_PATTERN.exec(name)
    if (match !== null) epochs.push(Number(match[1]))
  }
  return epochs.sort((a, b) => b - a)
}

/** The file of a stem, either a checkpoint or a retired one; undefined when there is none. */
export function fileOf(folder: CheckpointFolder, stem: string): string | undefined {
  const names = folder.list()
  return [CHECKPOINT_ENDING, RETIRED_ENDING].map((ending) => stem + ending).find((n) => names.includes(n))
}

export const epochOfStem = (stem: string): number => Number(stem)

export const stemOf = (name: string): string => name.slice(0, checkpointStem(0).length)

/** A folder on the real disk. */
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
    open: (name) => openDatabase(at(name), { readonly: true, fileMustExist: true }),
    sizeBytes: (name) => fs.statSync(at(name)).size,
    create: () => draftIn(at(DRAFT_NAME), at, syncDir),
    rename: (from, to) => fs.renameSync(at(from), at(to)),
    remove: (name) => fs.rmSync(at(name), { force: true }),
    syncDir,
  }
}

function draftIn(file: string, at: (name: string) => string, syncDir: () => void): CheckpointDraft {
  fs.rmSync(file, { force: true })
  createPrivate(file)
  const db = openDatabase(file)
  let named = file
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
      named = at(name)
      syncDir()
    },
    abandon() {
      db.close()
      close()
      fs.rmSync(named, { force: true })
    },
  }
}
