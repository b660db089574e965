/**
 * The options that a store is opened with, and its access to disk, clock, randomness, timers and lock. Tests
 * hand in simulated ones.
 */
import { randomBytes } from 'node:crypto'
import path from 'node:path'
import { CHECKPOINT_PACK_BYTES, CHECKPOINTS_KEPT, SEGMENT_BYTES } from '../limits.js'
import { catalogIn } from './catalog/catalog.js'
import { type CheckpointFolder, checkpointFolder } from './checkpoint/folder.js'
import { type CheckpointThread, startCheckpointThread } from './checkpoint/thread.js'
import { type Disk, realDisk } from './os/disk.js'
import { type FolderLock, type LockDescriptor, lockFolder } from './os/lock.js'
import type { Catalog, Crc32c, FsyncPolicy, Notice } from './types.js'

export interface StoreOptions {
  readonly dir: string
  readonly fsync: FsyncPolicy
  readonly crc32c: Crc32c
  /** posix_fallocate through ffi: returns 0 or an errno. Absent: room is reserved by writing zeros. */
  readonly allocate?: (fd: number, offset: number, length: number) => number
  readonly onNotice?: (notice: Notice) => void
  /** Milliseconds since 1970. */
  readonly clock?: () => number
  /** The disk of the log; default: the real one. */
  readonly disk?: Disk
  /** Random bytes for ids and seeds. */
  readonly random?: (length: number) => Uint8Array
  /** Calls back once after the delay; the function returned cancels it. */
  readonly setTimer?: (callback: () => void, delayMs: number) => () => void
  /**
   * Keeps a second process out; default: locks on the folder, through `lockDescriptor`, and on lock.db.
   */
  readonly lock?: (dir: string) => FolderLock
  /** flock through ffi. Absent: only lock.db keeps others out. */
  readonly lockDescriptor?: LockDescriptor
  /** Default: catalog.db in a worker thread. */
  readonly catalog?: Catalog
  /** The folder of the checkpoint files, for reading; default: `checkpoints` in the data folder. */
  readonly checkpointFolder?: CheckpointFolder
  /** Starts what writes and removes checkpoint files; default: a worker thread. */
  readonly checkpointThread?: () => CheckpointThread
  /** Checkpoints kept at most; default CHECKPOINTS_KEPT. */
  readonly checkpointsKept?: number
  /** Bytes of pages that are read at once for a checkpoint, whole chunks; default CHECKPOINT_PACK_BYTES. */
  readonly checkpointPieceBytes?: number
  /** Size of a log segment; default SEGMENT_BYTES. */
  readonly segmentBytes?: number
  /** Ends opening, which then rejects with the signal's reason. */
  readonly signal?: AbortSignal
  /** Milliseconds of a clock that never goes back, for the slices of opening. */
  readonly ticksMs?: () => number
}

/** The options with every default filled in, but for what is opened later. */
export interface StoreDeps {
  readonly dir: string
  readonly logDir: string
  readonly checkpointDir: string
  readonly fsync: FsyncPolicy
  readonly crc32c: Crc32c
  readonly notify: (level: Notice['level'], message: string) => void
  readonly clock: () => number
  readonly disk: Disk
  readonly random: (length: number) => Uint8Array
  readonly setTimer: (callback: () => void, delayMs: number) => () => void
  readonly lock: (dir: string) => FolderLock
  readonly openCatalog: () => Catalog
  readonly checkpointFolder: CheckpointFolder
  readonly startCheckpointThread: () => CheckpointThread
  readonly checkpointsKept: number
  readonly checkpointPieceBytes: number
  readonly segmentBytes: number
}

export function withDefaults(options: StoreOptions): StoreDeps {
  const { fsync, crc32c, onNotice, catalog } = options
  // Once: the process may change its folder later.
  const dir = path.resolve(options.dir)
  const checkpointDir = path.join(dir, 'checkpoints')
  return {
    dir,
    logDir: path.join(dir, 'log'),
    checkpointDir,
    fsync,
    crc32c,
    notify: (level, message) => onNotice?.({ level, message }),
    clock: options.clock ?? Date.now,
    disk: options.disk ?? realDisk(options.allocate),
    random: options.random ?? ((length) => new Uint8Array(randomBytes(length))),
    setTimer: options.setTimer ?? unrefTimer,
    lock: options.lock ?? ((folder) => lockFolder(folder, options.lockDescriptor)),
    openCatalog: () => catalog ?? catalogIn(dir),
    checkpointFolder: options.checkpointFolder ?? checkpointFolder(checkpointDir),
    startCheckpointThread: options.checkpointThread ?? (() => startCheckpointThread(checkpointDir)),
    checkpointsKept: options.checkpointsKept ?? CHECKPOINTS_KEPT,
    checkpointPieceBytes: options.checkpointPieceBytes ?? CHECKPOINT_PACK_BYTES,
    segmentBytes: options.segmentBytes ?? SEGMENT_BYTES,
  }
}

/** A timer that does not keep the process alive. */
function unrefTimer(callback: () => void, delayMs: number): () => void {
  const timer = setTimeout(callback, delayMs)
  timer.unref()
  return () => clearTimeout(timer)
}
