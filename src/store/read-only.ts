/**
 * A data folder opened for reading only, at its newest epoch or at an earlier one.
 *
 * Invariants: nothing in the folder is created, changed or removed. No process writes it meanwhile: a lock is
 * shared with other readers and keeps writers out. Nothing beyond the epoch that it was opened at is handed
 * out. A history that the next start may not continue is not named: the folder gets one of its own for as
 * long as it is open.
 * Null because StoreStats, a public type, promises it.
 */
import { randomBytes } from 'node:crypto'
import path from 'node:path'
import { MmsbError } from '../errors.js'
import { Slices } from '../slices.js'
import { CatalogReader } from './catalog/catalog-reader.js'
import { type CheckpointFile, openCheckpointFile, soundCheckpointsFrom } from './checkpoint/file-reader.js'
import { type CheckpointFolder, checkpointFolder } from './checkpoint/folder.js'
import { historyName, keptHistory, newGeneration } from './history-file.js'
import { recordsAfter, type SegmentEntry, segmentOf } from './log/log.js'
import { CUT_NAME } from './offline/cut.js'
import { interruptedRestore } from './offline/restore.js'
import { type Disk, realDisk } from './os/disk.js'
import { Durations } from './os/durations.js'
import { busFailed, textOf } from './os/errors.js'
import {
  type FileIdentity,
  folderChange,
  type LockDescriptor,
  lockForReading,
  type ReadingLock,
} from './os/lock.js'
import { type FolderFindings, inspectFolder } from './recovery/inspect.js'
import type {
  CheckpointInfo,
  CheckpointReader,
  Crc32c,
  LogRecord,
  Notice,
  RecoveryReport,
  StoreStats,
} from './types.js'

/** What a bus needs of its data folder to read. */
export interface ReadableStore {
  /** The folder, an absolute path. */
  readonly dir: string
  /** What `dir` led to when it was locked. */
  readonly identity: FileIdentity | undefined
  readonly recovery: RecoveryReport
  /** The history that its epochs belong to: `<bus id>.<generation>`. */
  readonly history: string
  readonly newestEpoch: number
  /** Oldest epoch whose record can be read; newest + 1 when there is none. */
  readonly minEpoch: number
  /** The checkpoint that recovery starts from; undefined when the log is replayed from its beginning. */
  openCheckpoint(): CheckpointReader | undefined
  /** Every record with an epoch above `fromEpoch`, in order, each valid until the next one is requested. */
  records(fromEpoch: number): Iterable<LogRecord>
  /** Bytes of the log that hold the epochs after this one, counted in whole segments. */
  bytesSince(epoch: number): number
  /** The usable checkpoints, oldest first. */
  checkpoints(): CheckpointInfo[]
  stats(): StoreStats
  /** Throws BUS_FAILED when the folder is no longer the one that was opened. */
  refuseWhenLost(): void
  close(): Promise<void>
}

export interface ReadOnlyOptions {
  readonly dir: string
  readonly crc32c: Crc32c
  readonly lockDescriptor?: LockDescriptor
  /** Open at this epoch. Default: the newest. */
  readonly untilEpoch?: number
  readonly onNotice?: (notice: Notice) => void
  /** Ends opening, which then rejects with the signal's reason. */
  readonly signal?: AbortSignal
  /** Milliseconds of a clock that never goes back, for the slices of opening. */
  readonly ticksMs?: () => number
}

/** What stays open with the store. */
interface Place {
  readonly dir: string
  readonly logDir: string
  readonly crc32c: Crc32c
  readonly disk: Disk
  readonly lock: ReadingLock
  readonly checkpoints: CheckpointFolder
}

export class ReadOnlyStore implements ReadableStore {
  readonly dir: string
  readonly identity: FileIdentity
  readonly recovery: RecoveryReport
  readonly history: string
  readonly #place: Place
  readonly #busId: string
  readonly #segments: readonly SegmentEntry[]
  readonly #checkpoints: readonly CheckpointInfo[]
  /** The checkpoint that opening has verified, until openCheckpoint hands it out. */
  #opened: CheckpointFile | undefined
  #isClosed = false

  /**
   * Throws FOLDER_LOCKED while a process has the folder open for writing, BUS_FAILED when it is no data
   * folder, damaged or half restored or cut; EPOCH_NOT_FOUND and EPOCH_COMPACTED when it cannot be opened at
   * `untilEpoch`.
   */
  static async open(options: ReadOnlyOptions): Promise<ReadOnlyStore> {
    const { crc32c, lockDescriptor, untilEpoch, onNotice, signal, ticksMs } = options
    const disk = realDisk()
    // Once: the process may change its folder later.
    const dir = path.resolve(options.dir)
    const logDir = path.join(dir, 'log')
    refuseUnfinished(disk, dir, logDir)
    const lock = lockForReading(dir, lockDescriptor)
    const checkpoints = checkpointFolder(path.join(dir, 'checkpoints'))
    const catalog = new CatalogReader(dir, true)
    try {
      refuseUnfinished(disk, dir, logDir)
      // The index lists durable epochs only, so what it covers counts as durable.
      let unindexedOffset = 0
      const found = await inspectFolder(
        { log: { disk, logDir, crc32c }, checkpoints, catalog: { open: async () => catalog.findings() } },
        ({ offset, record }) => {
          if (untilEpoch === undefined || record.epoch <= untilEpoch) unindexedOffset = offset
        },
        new Slices(signal, ticksMs),
        { untilEpoch },
      )
      refuseUnsafe(dir, checkpoints, found, untilEpoch)
      for (const note of found.notes) onNotice?.({ level: 'warn', message: note })
      const isDurable = unindexedOffset < found.log.unsureFrom || found.log.newestEpoch === 0
      return new ReadOnlyStore({ dir, logDir, crc32c, disk, lock, checkpoints }, found, isDurable)
    } catch (error) {
      lock.release()
      signal?.throwIfAborted()
      throw error instanceof MmsbError
        ? error
        : busFailed(`the data folder ${dir} cannot be read: ${textOf(error)}`, error)
    } finally {
      catalog.close()
    }
  }

  /** For ReadOnlyStore.open only. */
  constructor(place: Place, found: FolderFindings, isDurable: boolean) {
    const { dir, disk, lock } = place
    this.#place = place
    this.dir = dir
    this.identity = lock.identity
    this.#busId = found.log.busId as string
    this.#segments = found.log.segments
    this.#checkpoints = [...found.checkpoints].sort((a, b) => a.epoch - b.epoch)
    this.#opened = found.checkpoint
    this.recovery = {
      newestEpoch: found.log.newestEpoch,
      checkpointEpoch: found.checkpoint?.header.epoch,
      tornBytes: found.log.tornBytes,
      notes: found.notes,
      row: found.row.row,
    }
    const kept = isDurable ? keptHistory({ disk, dir }, this.#busId) : undefined
    this.history = kept ?? historyName(this.#busId, newGeneration(randomBytes))
  }

  get newestEpoch(): number {
    return this.recovery.newestEpoch
  }

  get minEpoch(): number {
    return Math.min(this.#segments[0]?.header.firstEpoch ?? 1, this.newestEpoch + 1)
  }

  openCheckpoint(): CheckpointReader | undefined {
    const epoch = this.recovery.checkpointEpoch
    if (epoch === undefined) return undefined
    const opened = this.#opened ?? openCheckpointFile(this.#place.checkpoints, epoch, this.#busId)
    this.#opened = undefined
    if (typeof opened === 'string') throw busFailed(`checkpoint ${epoch} cannot be read any more: ${opened}`)
    return opened
  }

  records(fromEpoch: number): Iterable<LogRecord> {
    if (fromEpoch >= this.newestEpoch) return []
    return recordsAfter(this.#place, this.#segments, fromEpoch, this.newestEpoch)
  }

  bytesSince(epoch: number): number {
    const first = segmentOf(this.#segments, epoch + 1)
    return this.#segments.slice(first).reduce((sum, { end }) => sum + end, 0)
  }

  checkpoints(): CheckpointInfo[] {
    return [...this.#checkpoints]
  }

  stats(): StoreStats {
    const { newestEpoch } = this
    return {
      bytes: this.#segments.reduce((sum, { end }) => sum + end, 0),
      segments: this.#segments.length,
      records: 0,
      minEpoch: this.minEpoch,
      newestEpoch,
      durableEpoch: newestEpoch,
      appendUs: new Durations().stats(),
      indexedEpoch: newestEpoch,
      failure: null,
    }
  }

  refuseWhenLost(): void {
    const change = this.#isClosed ? 'it is closed' : folderChange(this.dir, this.identity)
    if (change !== undefined) throw busFailed(change)
  }

  /** Lets writers in again. Idempotent. */
  async close(): Promise<void> {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#opened?.close()
    this.#place.lock.release()
  }
}

/** What a start for writing would begin with, and reading cannot do. */
function refuseUnfinished(disk: Disk, dir: string, logDir: string): void {
  if (interruptedRestore(disk, dir)) throw busFailed(`${dir} holds an interrupted restore; restore it again`)
  if (!disk.exists(logDir)) throw busFailed(`${dir} is not a data folder: it has no log`)
  if (disk.exists(path.join(dir, CUT_NAME)))
    throw busFailed(`a cut of ${dir} was interrupted; open it for writing once, which completes the cut`)
}

function refuseUnsafe(
  dir: string,
  checkpoints: CheckpointFolder,
  { log, row, refusal, checkpoint }: FolderFindings,
  untilEpoch: number | undefined,
): void {
  const first = log.segments[0]?.header.firstEpoch
  if (first === undefined && log.damage === undefined)
    throw busFailed(`${dir} is not a data folder: its log has no segments`)
  if (row.action !== 'refuse') return
  checkpoint?.close()
  const minEpoch =
    untilEpoch === undefined
      ? undefined
      : soundCheckpointsFrom(checkpoints, (first ?? 1) - 1, log.busId).at(-1)
  if (log.damage === undefined && minEpoch !== undefined) {
    const detail = `Epoch ${untilEpoch} is no longer kept; the oldest is ${minEpoch}.`
    throw new MmsbError('EPOCH_COMPACTED', detail, { minEpoch })
  }
  throw busFailed(`the data folder ${dir} is not safe to open: ${refusal}`)
}
