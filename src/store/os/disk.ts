/**
 * The disk as the log sees it: an interface small enough to simulate, and the real disk over node:fs.
 *
 * Invariants: `write` and `writeSync` write every byte or fail (short writes are continued); nothing here
 * retries after an error; on a file opened with `dsync` a write is durable when it returns, data and the
 * metadata needed to read it. The log uses this interface only, so a test can keep, drop or tear each write
 * that was not synced. SQLite reads and writes the checkpoint and catalog files itself.
 * Null because Node's callbacks have it.
 */
import fs from 'node:fs'
import path from 'node:path'
import { PRIVATE_FILE, PRIVATE_FOLDER } from './private-files.js'

export type DiskCallback = (error: NodeJS.ErrnoException | null) => void

export interface OpenFlags {
  readonly create?: boolean
  readonly write?: boolean
  /** Every write is durable when it returns (O_DSYNC). */
  readonly dsync?: boolean
}

/** The injected disk. Paths are absolute. Errors are NodeJS errors with `code` (ENOSPC, EIO, ...). */
export interface Disk {
  makeDir(dir: string): void
  /** Names in a folder, sorted. */
  list(dir: string): string[]
  exists(file: string): boolean
  open(file: string, flags: OpenFlags): number
  close(fd: number): void
  sizeBytes(fd: number): number
  /** Differs between a file and every copy of it, and stays when the file is renamed. */
  identityOf(fd: number): string
  /** Reads `length` bytes, or fewer at the end of the file; returns how many. */
  readSync(fd: number, into: Uint8Array, length: number, position: number): number
  read(fd: number, into: Uint8Array, length: number, position: number): Promise<number>
  writeSync(fd: number, parts: readonly Uint8Array[], position: number): void
  write(fd: number, parts: readonly Uint8Array[], position: number, done: DiskCallback): void
  syncSync(fd: number): void
  sync(fd: number, done: DiskCallback): void
  truncate(fd: number, length: number): void
  /**
   * Reserves room for [offset, offset + length) and extends the file to its end. Throws (ENOSPC) with nothing
   * changed. Returns true when the first write to a reserved block must still convert it to a written one.
   * That makes a durable write slower, so zeros written ahead pay off.
   */
  allocate(fd: number, offset: number, length: number): boolean
  /** Whether the open file is the one that has this name. */
  isAt(fd: number, file: string): boolean
  rename(from: string, to: string): void
  remove(file: string): void
  /** Makes creations, renames and removals in a folder durable. */
  syncDir(dir: string): Promise<void>
}

/** posix_fallocate: 0 or an errno. */
export type Allocate = (fd: number, offset: number, length: number) => number

const ERRNO_NAMES: Readonly<Record<number, string>> = {
  4: 'EINTR',
  5: 'EIO',
  9: 'EBADF',
  22: 'EINVAL',
  27: 'EFBIG',
  28: 'ENOSPC',
  95: 'EOPNOTSUPP',
  122: 'EDQUOT',
}

function errnoError(errno: number, call: string): NodeJS.ErrnoException {
  const code = ERRNO_NAMES[errno] ?? `errno ${errno}`
  const error: NodeJS.ErrnoException = new Error(`${code}: ${call}`)
  error.code = code
  error.errno = -errno
  return error
}

const ZEROS = new Uint8Array(1024 * 1024)

/** Reserves room without posix_fallocate. Written zeros need no conversion later. */
function allocateByZeros(fd: number, offset: number, length: number): void {
  for (let done = 0; done < length; ) {
    done += fs.writeSync(fd, ZEROS, 0, Math.min(ZEROS.length, length - done), offset + done)
  }
}

/** The parts without their first `skip` bytes. */
function remaining(parts: readonly Uint8Array[], skip: number): Uint8Array[] {
  const rest: Uint8Array[] = []
  for (const part of parts) {
    if (skip >= part.length) skip -= part.length
    else {
      rest.push(skip === 0 ? part : part.subarray(skip))
      skip = 0
    }
  }
  return rest
}

const lengthOf = (parts: readonly Uint8Array[]): number => {
  let sum = 0
  for (const part of parts) sum += part.length
  return sum
}

function writeAsync(fd: number, parts: readonly Uint8Array[], position: number, done: DiskCallback): void {
  const length = lengthOf(parts)
  const after = (error: NodeJS.ErrnoException | null, written: number): void => {
    if (error !== null || written === length) done(error)
    else if (written === 0) done(errnoError(5, 'write made no progress'))
    else writeAsync(fd, remaining(parts, written), position + written, done)
  }
  const only = parts.length === 1 ? parts[0] : undefined
  if (only !== undefined) fs.write(fd, only, 0, length, position, after)
  else fs.writev(fd, parts as Uint8Array[], position, after)
}

function writeAll(fd: number, parts: readonly Uint8Array[], position: number): void {
  const length = lengthOf(parts)
  for (let done = 0; done < length; ) {
    const rest = done === 0 ? parts : remaining(parts, done)
    const only = rest.length === 1 ? rest[0] : undefined
    const written =
      only !== undefined
        ? fs.writeSync(fd, only, 0, only.length, position + done)
        : fs.writevSync(fd, rest as Uint8Array[], position + done)
    if (written === 0) throw errnoError(5, 'write made no progress')
    done += written
  }
}

function readAll(fd: number, into: Uint8Array, length: number, position: number): number {
  let done = 0
  while (done < length) {
    const got = fs.readSync(fd, into, done, length - done, position + done)
    if (got === 0) break
    done += got
  }
  return done
}

function readAsync(fd: number, into: Uint8Array, length: number, position: number): Promise<number> {
  return new Promise((resolve, reject) => {
    const step = (done: number): void => {
      fs.read(fd, into, done, length - done, position + done, (error, got) => {
        if (error !== null) reject(error)
        else if (got === 0 || done + got === length) resolve(done + got)
        else step(done + got)
      })
    }
    if (length === 0) resolve(0)
    else step(0)
  })
}

function isAt(fd: number, file: string): boolean {
  const open = fs.fstatSync(fd, { bigint: true })
  const named = fs.statSync(file, { bigint: true, throwIfNoEntry: false })
  return named?.ino === open.ino && named.dev === open.dev
}

/**
 * Makes a folder with these folders in it, and its missing parents. All their names are durable when the
 * promise resolves, and so are those that an earlier attempt has made.
 */
export async function makeDurableDirs(disk: Disk, dir: string, parts: readonly string[]): Promise<void> {
  const missing: string[] = []
  let there = path.resolve(dir)
  for (; !disk.exists(there) && path.dirname(there) !== there; there = path.dirname(there))
    missing.push(there)
  // An earlier attempt may have made this one and not synced its name. Usually it is older, and then the
  // folder that it lies in need not let us open it.
  await disk.syncDir(path.dirname(there)).catch(() => {})
  for (const folder of missing.reverse()) {
    disk.makeDir(folder)
    await disk.syncDir(path.dirname(folder))
  }
  for (const part of parts) disk.makeDir(path.join(dir, part))
  await disk.syncDir(dir)
}

/**
 * Makes a folder and its missing parents. The `recursive` option of mkdirSync is no help: it never returns on
 * a file system that refuses new names with ENOENT, as /proc does.
 */
function makeDirs(dir: string): void {
  const missing: string[] = []
  for (let at = path.resolve(dir); !fs.existsSync(at); at = path.dirname(at)) missing.push(at)
  for (const folder of missing.reverse()) fs.mkdirSync(folder, { mode: PRIVATE_FOLDER })
}

/** The disk of this machine. */
export function realDisk(allocate?: Allocate): Disk {
  const { O_CREAT, O_DSYNC, O_RDONLY, O_RDWR } = fs.constants
  return {
    makeDir: makeDirs,
    list: (dir) => fs.readdirSync(dir).sort(),
    exists: (file) => fs.existsSync(file),
    open: (file, { create, write, dsync }) =>
      fs.openSync(
        file,
        (write ? O_RDWR : O_RDONLY) | (create ? O_CREAT : 0) | (dsync ? O_DSYNC : 0),
        PRIVATE_FILE,
      ),
    close: (fd) => fs.closeSync(fd),
    sizeBytes: (fd) => fs.fstatSync(fd).size,
    identityOf: (fd) => {
      // The number of a removed file is soon used again, so the time of its creation belongs to it.
      const { ino, birthtimeNs } = fs.fstatSync(fd, { bigint: true })
      return `${ino}.${birthtimeNs}`
    },
    readSync: readAll,
    read: readAsync,
    writeSync: writeAll,
    write: writeAsync,
    syncSync: (fd) => fs.fdatasyncSync(fd),
    sync: (fd, done) => fs.fdatasync(fd, done),
    truncate: (fd, length) => fs.ftruncateSync(fd, length),
    allocate: (fd, offset, length) => {
      if (allocate === undefined) {
        allocateByZeros(fd, offset, length)
        return false
      }
      const errno = allocate(fd, offset, length)
      if (errno !== 0) throw errnoError(errno, 'posix_fallocate')
      return true
    },
    isAt,
    rename: (from, to) => fs.renameSync(from, to),
    remove: (file) => fs.rmSync(file, { force: true }),
    syncDir: async (dir) => {
      const handle = await fs.promises.open(dir, O_RDONLY)
      try {
        await handle.sync()
      } finally {
        await handle.close()
      }
    },
  }
}
