/**
 * Reads a data folder that another thread may be writing: records up to an epoch known to be written, and
 * checkpoints. Used by the replay thread, and by checks of a folder that no process has open.
 *
 * Invariants: nothing is changed, locked or created. Every record handed out has passed its checksum and
 * follows the one before it. Files come and go (segments, checkpoints), so they are listed again when they
 * are needed. The log index is only a hint: without it a read begins at the start of its segment. Knows
 * nothing of what frames hold.
 */
import path from 'node:path'
import { MmsbError } from '../errors.js'
import { LOG_READ_BYTES, SEGMENT_HEADER_BYTES } from '../limits.js'
import { CatalogReader } from './catalog/catalog-reader.js'
import { type CheckpointFile, openCheckpointFile, readPages } from './checkpoint/file-reader.js'
import { type CheckpointFolder, checkpointEpochs, checkpointFolder } from './checkpoint/folder.js'
import type { SegmentHeader } from './log/record.js'
import { firstEpochOf, segmentName } from './log/segment-file.js'
import { REASONS, readSegmentHeader, SegmentScanner } from './log/segment-reader.js'
import { type Disk, realDisk } from './os/disk.js'
import { busFailed } from './os/errors.js'
import { type FileIdentity, folderChange } from './os/lock.js'
import type { CheckpointPage, Crc32c, LogRecord } from './types.js'

/** A read of few records uses a small window. */
const FEW_RECORDS = 8
const FEW_RECORDS_BYTES = 16 * 1024

export interface HistoryOptions {
  readonly dir: string
  readonly crc32c: Crc32c
  readonly disk?: Disk
  /** No process has the folder open, and nothing may appear in it. */
  readonly isOffline?: boolean
  /** What `dir` must lead to; absent: anything. */
  readonly identity?: FileIdentity | undefined
  /** Default: the folder `checkpoints`. */
  readonly checkpoints?: CheckpointFolder
}

/** The place of a record. */
interface RecordPlace {
  readonly segment: number
  readonly offset: number
  readonly epoch: number
}

export class HistoryReader {
  readonly #dir: string
  readonly #identity: FileIdentity | undefined
  readonly #disk: Disk
  readonly #crc32c: Crc32c
  readonly #logDir: string
  readonly #checkpoints: CheckpointFolder
  readonly #catalog: CatalogReader
  /** First epochs of the segments, ascending. */
  #segments: number[] = []
  #busId: string | undefined
  /** The place behind the last record that was read. */
  #next: RecordPlace | undefined

  constructor(options: HistoryOptions) {
    this.#dir = options.dir
    this.#identity = options.identity
    this.#disk = options.disk ?? realDisk()
    this.#crc32c = options.crc32c
    this.#logDir = path.join(options.dir, 'log')
    this.#checkpoints = options.checkpoints ?? checkpointFolder(path.join(options.dir, 'checkpoints'))
    this.#catalog = new CatalogReader(options.dir, options.isOffline)
  }

  /** First epoch whose record is in the log, or undefined when there is no log. */
  get firstEpoch(): number | undefined {
    this.#list()
    return this.#segments[0]
  }

  /** Epochs of the checkpoint files, newest first. A file may turn out not to be sound. */
  checkpointEpochs(): number[] {
    this.#refuseOther()
    return checkpointEpochs(this.#checkpoints)
  }

  /** A completely verified checkpoint, or what is wrong with it. The caller closes it. */
  openCheckpoint(epoch: number): CheckpointFile | string {
    this.#refuseOther()
    return openCheckpointFile(this.#checkpoints, epoch, this.#bus())
  }

  /** The pages of a checkpoint, without a look at their bytes; undefined when its tables are not sound. */
  checkpointPages(epoch: number): readonly CheckpointPage[] | undefined {
    this.#refuseOther()
    return readPages(this.#checkpoints, epoch, this.#bus())
  }

  /** The bus of the folder, by the header of its first segment. */
  #bus(): string | undefined {
    if (this.#busId !== undefined) return this.#busId
    this.#list()
    const first = this.#segments[0]
    if (first === undefined) return undefined
    const file = path.join(this.#logDir, segmentName(first))
    const fd = this.#disk.open(file, {})
    try {
      const header = readSegmentHeader(this.#disk, fd, this.#crc32c)
      this.#busId = typeof header === 'string' ? undefined : header.busId
      return this.#busId
    } finally {
      this.#disk.close(fd)
    }
  }

  /** Throws BUS_FAILED when the path leads to another folder now. */
  #refuseOther(): void {
    const change = this.#identity === undefined ? undefined : folderChange(this.#dir, this.#identity)
    if (change !== undefined) throw busFailed(change)
  }

  #list(): void {
    this.#refuseOther()
    const names = this.#disk.exists(this.#logDir) ? this.#disk.list(this.#logDir) : []
    this.#segments = names.flatMap((name) => firstEpochOf(name) ?? [])
  }

  /** First epoch of the segment that holds `epoch`. */
  #segmentOf(epoch: number): number {
    this.#list()
    const first = this.#segments.findLast((segment) => segment <= epoch)
    if (first !== undefined) return first
    if (this.#segments.length === 0) throw busFailed(`the log in ${this.#dir} has no segments`)
    throw new MmsbError('EPOCH_COMPACTED', `Epoch ${epoch} is no longer in the log.`, {
      minEpoch: this.#segments[0] ?? epoch + 1,
    })
  }

  /**
   * Records of epochs from..to, both included, ascending; `to` must have been written. A record is a view
   * into a buffer and valid until the next one is requested. Throws EPOCH_COMPACTED, BUS_FAILED
   * where a file is missing, and INTERNAL where the log is damaged.
   */
  *records(from: number, to: number): Generator<LogRecord> {
    for (let epoch = from; epoch <= to; ) {
      const before = epoch
      for (const record of this.#recordsOfSegment(epoch, to)) {
        epoch = record.epoch + 1
        yield record
      }
      if (epoch === before) throw damaged(`epoch ${epoch} is missing`)
    }
  }

  *#recordsOfSegment(from: number, to: number): Generator<LogRecord> {
    const first = this.#segmentOf(from)
    const name = segmentName(first)
    const last = Math.min(to, (this.#segments.find((segment) => segment > from) ?? to + 1) - 1)
    const fd = this.#open(path.join(this.#logDir, name), from)
    try {
      const header = readSegmentHeader(this.#disk, fd, this.#crc32c)
      if (typeof header === 'string') throw damaged(`segment ${name}: ${header}`)
      if (header.firstEpoch !== first) throw damaged(`segment ${name} begins with epoch ${header.firstEpoch}`)
      const windowBytes = to - from < FEW_RECORDS ? FEW_RECORDS_BYTES : LOG_READ_BYTES
      const scanner = this.#scannerAt(fd, header, this.#placeOf(first, from), windowBytes)
      while (scanner.nextEpoch <= last) {
        const found = scanner.next()
        if (found === undefined) {
          throw damaged(
            `segment ${name}, offset ${scanner.offset}: the record of epoch ${scanner.nextEpoch} is not sound (${REASONS[scanner.ended ?? 'body']})`,
            scanner.nextEpoch,
          )
        }
        if (found.record.epoch < from) continue
        this.#next = { segment: first, offset: scanner.offset, epoch: scanner.nextEpoch }
        yield found.record
      }
    } finally {
      this.#disk.close(fd)
    }
  }

  #open(file: string, epoch: number): number {
    try {
      return this.#disk.open(file, {})
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
      this.#list()
      // Retention removes the oldest files first; any other file must be there.
      const isOldest = (this.#segments[0] ?? 0) > epoch
      if (!isOldest) throw busFailed(`the log segment ${file} is missing`, error)
      throw new MmsbError('EPOCH_COMPACTED', `Epoch ${epoch} is no longer in the log.`, undefined, {
        cause: error,
      })
    }
  }

  #scannerAt(
    fd: number,
    header: SegmentHeader,
    place: RecordPlace | undefined,
    windowBytes: number,
  ): SegmentScanner {
    const size = this.#disk.sizeBytes(fd)
    const { offset, epoch } = place ?? { offset: SEGMENT_HEADER_BYTES, epoch: header.firstEpoch }
    return new SegmentScanner(this.#disk, fd, size, header, this.#crc32c, offset, epoch, windowBytes)
  }

  /** A place in the segment at or shortly before the epoch; undefined: the start of the segment. */
  #placeOf(segment: number, epoch: number): RecordPlace | undefined {
    const next = this.#next
    if (next !== undefined && next.segment === segment && next.epoch === epoch) return next
    const block = this.#catalog.blockBefore(epoch)
    if (block?.segment !== segment) return undefined
    return block.lastEpoch < epoch
      ? { segment, offset: block.end, epoch: block.lastEpoch + 1 }
      : { segment, offset: block.offset, epoch: block.firstEpoch }
  }

  /** The faults of the log index and of the list of checkpoints. */
  catalogProblems(): string[] {
    return this.#catalog.problems()
  }

  close(): void {
    this.#catalog.close()
  }
}

function damaged(why: string, epoch?: number): MmsbError {
  return new MmsbError('INTERNAL', `the log is damaged: ${why}`, epoch === undefined ? undefined : { epoch })
}
