/**
 * Keeps a second process out of a data folder, and notices when the folder is no longer the one that was
 * opened.
 *
 * Invariants: the kernel holds two locks for as long as the folder is open, and drops them when the process
 * dies, however it dies, so there are no stale locks. One is on the folder itself: nobody can remove it
 * without removing the folder. The other is on lock.db, through SQLite, for releases and file systems that
 * know no other. lock.db stays empty, so a crash cannot damage it; holder.txt names the holder for people and
 * decides nothing. Nothing else in this process may open lock.db: closing any descriptor of the file would
 * drop the lock.
 */
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import type Database from 'better-sqlite3'
import { MmsbError } from '../../errors.js'
import { FOLDER_CHECK_INTERVAL_MS } from '../../limits.js'
import { busFailed, folderLocked, systemCode, textOf } from './errors.js'
import { createPrivate, PRIVATE_FILE } from './private-files.js'
import { openDatabase } from './sqlite.js'

const LOCK_NAME = 'lock.db'
const HOLDER_NAME = 'holder.txt'
/** The folders of a data folder and of a backup. A restore puts the log, the last, in its place last. */
export const PARTS = ['checkpoints', 'log']

/**
 * Locks an open folder until this descriptor is closed, for it alone or `shared` with other readers (flock).
 * Returns 0 or an errno; EWOULDBLOCK when the lock of another descriptor is in the way.
 */
export type LockDescriptor = (fd: number, shared?: boolean) => number

const EWOULDBLOCK = 11

/** What is told when the folder is lost. */
export interface LossListener {
  checkHeld(): void
}

/** A folder that this process has to itself. */
export interface FolderLock {
  readonly identity: FileIdentity | undefined
  /** Why the folder must not be used any more; undefined while it is the one that was locked. */
  lost(): string | undefined
  /** Asks the listener to check from time to time, until it is gone or the lock is released. */
  watch(listener: LossListener): void
  release(): void
}

/** Device and inode of a file or folder: its identity, whatever its name. */
export interface FileIdentity {
  readonly dev: bigint
  readonly ino: bigint
}

/** The identity of what has this name now; undefined when nothing has. */
export function identityAt(file: string): FileIdentity | undefined {
  const stat = fs.statSync(file, { bigint: true, throwIfNoEntry: false })
  return stat === undefined ? undefined : { dev: stat.dev, ino: stat.ino }
}

/** Why the path does not lead to the folder that was opened; undefined when it does. */
export function folderChange(dir: string, opened: FileIdentity | undefined): string | undefined {
  let now: FileIdentity | undefined
  try {
    now = identityAt(dir)
  } catch (error) {
    return `the folder ${dir} cannot be reached any more: ${textOf(error)}`
  }
  if (now === undefined) return `the folder ${dir} was removed or renamed while it was open`
  const isSame = now.dev === opened?.dev && now.ino === opened.ino
  return isSame ? undefined : `another folder was put in the place of ${dir} while it was open`
}

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
    fs.writeFileSync(path.join(dir, HOLDER_NAME), `${holder}\n`, { mode: PRIVATE_FILE })
  } catch {
    fs.rmSync(path.join(dir, HOLDER_NAME), { force: true })
  }
}

const inUse = (dir: string, cause?: unknown): MmsbError =>
  folderLocked(`the data folder ${dir} is in use by ${holderOf(dir)}`, cause)

function refusal(dir: string, error: unknown): MmsbError {
  const code = systemCode(error)
  if (code.startsWith('SQLITE_BUSY') || code.startsWith('SQLITE_LOCKED')) return inUse(dir, error)
  return busFailed(`the data folder ${dir} cannot be locked: ${textOf(error)}`, error)
}

/** Opens the folder and locks it, where the file system can. Throws FOLDER_LOCKED. */
function lockItself(
  dir: string,
  lockDescriptor: LockDescriptor | undefined,
  shared = false,
): { fd: number; isHeld: boolean } {
  const fd = fs.openSync(dir, fs.constants.O_RDONLY | fs.constants.O_DIRECTORY)
  const errno = lockDescriptor?.(fd, shared)
  if (errno !== EWOULDBLOCK) return { fd, isHeld: errno === 0 }
  fs.closeSync(fd)
  throw inUse(dir)
}

function lockDatabase(dir: string, timeoutMs = 0): Database.Database {
  const file = path.join(dir, LOCK_NAME)
  createPrivate(file)
  const db = openDatabase(file, { timeout: timeoutMs })
  try {
    // The disk may be full, so the write lock is taken without writing: a journal on disk would be begun at
    // once.
    db.pragma('journal_mode = MEMORY')
    db.exec('BEGIN IMMEDIATE')
    return db
  } catch (error) {
    db.close()
    throw error
  }
}

class HeldFolder implements FolderLock {
  readonly #dir: string
  readonly #fd: number
  readonly #isHeld: boolean
  readonly identity: FileIdentity
  readonly #parts: readonly (readonly [dir: string, identity: FileIdentity | undefined])[]
  #db: Database.Database
  #lockFile: FileIdentity | undefined
  #timer: NodeJS.Timeout | undefined
  #isReleased = false

  constructor(dir: string, fd: number, isHeld: boolean) {
    this.#dir = dir
    this.#fd = fd
    this.#isHeld = isHeld
    const { dev, ino } = fs.fstatSync(fd, { bigint: true })
    this.identity = { dev, ino }
    this.#db = lockDatabase(dir)
    this.#lockFile = identityAt(path.join(dir, LOCK_NAME))
    this.#parts = PARTS.map((name) => [path.join(dir, name), identityAt(path.join(dir, name))] as const)
  }

  lost(): string | undefined {
    if (this.#isReleased) return 'it is closed'
    const change = folderChange(this.#dir, this.identity)
    if (change !== undefined) return change
    for (const [part, identity] of this.#parts) {
      const partChange = identity === undefined ? undefined : folderChange(part, identity)
      if (partChange !== undefined) return partChange
    }
    return this.#lockFileLost()
  }

  /**
   * While the folder itself is locked, no process of this release can have come in, so lock.db is made again.
   * Without that lock, one may have come and gone.
   */
  #lockFileLost(): string | undefined {
    const file = path.join(this.#dir, LOCK_NAME)
    const now = identityAt(file)
    const known = this.#lockFile
    if (now !== undefined && now.dev === known?.dev && now.ino === known.ino) return undefined
    if (!this.#isHeld)
      return `${file} was removed or replaced, so another process may be writing to the folder`
    try {
      const db = lockDatabase(this.#dir)
      this.#db.close()
      this.#db = db
      this.#lockFile = identityAt(file)
      return undefined
    } catch (error) {
      return `${file} was removed or replaced, and it cannot be locked again: ${textOf(error)}`
    }
  }

  watch(listener: LossListener): void {
    const watched = new WeakRef(listener)
    this.#timer = setInterval(() => {
      const there = watched.deref()
      if (there === undefined) this.release()
      else there.checkHeld()
    }, FOLDER_CHECK_INTERVAL_MS)
    this.#timer.unref()
  }

  readonly release = (): void => {
    if (this.#isReleased) return
    this.#isReleased = true
    clearInterval(this.#timer)
    this.#db.close()
    fs.closeSync(this.#fd)
  }
}

/**
 * Takes the lock. Throws FOLDER_LOCKED with the holder's name, BUS_FAILED when the folder cannot be locked.
 */
export function lockFolder(dir: string, lockDescriptor?: LockDescriptor): FolderLock {
  let fd: number | undefined
  try {
    const own = lockItself(dir, lockDescriptor)
    fd = own.fd
    const lock = new HeldFolder(dir, fd, own.isHeld)
    nameHolder(dir)
    return lock
  } catch (error) {
    if (fd !== undefined) fs.closeSync(fd)
    throw error instanceof MmsbError ? error : refusal(dir, error)
  }
}

/** A folder that is only read, by this process and perhaps by others. */
export interface ReadingLock {
  readonly identity: FileIdentity
  release(): void
}

/**
 * Keeps writers out while a folder is only read; other readers may come. Writes nothing, so it works on a
 * read-only file system. Where the file system cannot lock a folder, lock.db is held, so that there is one
 * reader at a time. Throws FOLDER_LOCKED with the holder's name.
 */
export function lockForReading(dir: string, lockDescriptor?: LockDescriptor): ReadingLock {
  const { fd, isHeld } = lockItself(dir, lockDescriptor, true)
  try {
    const db = lockUnlessReadOnly(dir)
    // A writer of this release locks the folder first.
    if (isHeld) db?.close()
    const { dev, ino } = fs.fstatSync(fd, { bigint: true })
    return {
      identity: { dev, ino },
      release: () => {
        if (!isHeld) db?.close()
        fs.closeSync(fd)
      },
    }
  } catch (error) {
    fs.closeSync(fd)
    throw refusal(dir, error)
  }
}

/**
 * Undefined where no process can have the folder open for writing: lock.db is missing or nobody can write it.
 */
function lockUnlessReadOnly(dir: string): Database.Database | undefined {
  if (!fs.existsSync(path.join(dir, LOCK_NAME))) return undefined
  try {
    return lockDatabase(dir, READER_WAIT_MS)
  } catch (error) {
    if (systemCode(error).startsWith('SQLITE_READONLY')) return undefined
    throw error
  }
}

/** Another reader that looks at the same moment has lock.db for no longer. */
const READER_WAIT_MS = 1000
