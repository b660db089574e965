/**
 * Writes the last segment of the log: appends, syncs, rotation to the next segment.
 *
 * Invariants: bytes from `end` on are zero. At most one record is not yet durable (or, without `always`, not
 * yet written). Under `always` an append is one write to a file opened with O_DSYNC, into room reserved
 * before, so it changes no metadata and cannot meet a full disk. A failed write or sync is never retried: the
 * writer fails for good and says why; so it does when the folder or the segment is no longer where it was
 * opened. A new segment gets its name only after its header, and everything
 * before it, is durable. Knows nothing of the index, of checkpoints or of other segments' contents.
 *
 * Long because appends, syncs and rotation share the place where the segment ends.
 */
import path from 'node:path'
import { MmsbError } from '../../errors.js'
import {
  FOLDER_CHECK_APPEND_MS,
  LOG_SYNC_INTERVAL_MS,
  LOG_ZERO_MARGIN_BYTES,
  LOG_ZERO_PIECE_BYTES,
  RECORD_GATHER_MAX_BYTES,
  RECORD_HEADER_BYTES,
  RECORD_MAX_BYTES,
  SEGMENT_FORMAT_VERSION,
  SEGMENT_HEADER_BYTES,
} from '../../limits.js'
import { Durations } from '../os/durations.js'
import { busFailed, logFull, textOf } from '../os/errors.js'
import type { LogRecord } from '../types.js'
import {
  encodeSeal,
  encodeSegmentHeader,
  encodeVoid,
  padded,
  recordBytes,
  type SegmentHeader,
} from './record.js'
import { encodeLarge, encodeSmall, newRecordBuffer, type RecordBuffer } from './record-buffer.js'
import {
  createSegment,
  newSegmentHeader,
  type OpenSegment,
  type SegmentOptions,
  segmentName,
} from './segment-file.js'

export interface SegmentWriterOptions extends SegmentOptions {
  readonly setTimer: (callback: () => void, delayMs: number) => () => void
  /** A record can be read now: it is written and, under `always`, durable. */
  readonly onAppended: (record: LogRecord, segment: SegmentHeader, offset: number, byteLength: number) => void
  /** A void record follows the newest record; the segment now ends at `end`. */
  readonly onVoided: (end: number) => void
  readonly onRotated: (next: SegmentHeader, previousEnd: number) => void
  readonly onFailed: (error: MmsbError) => void
  /** Why the data folder is no longer the one that was opened; undefined while it is. */
  readonly lost: () => string | undefined
}

/** Zeros that are being written ahead. No append may overlap them. */
interface ZeroWrite {
  readonly from: number
  readonly done: Promise<void>
}

interface RecordWrite {
  readonly record: LogRecord
  readonly parts: readonly Uint8Array[]
  /** The buffer that holds the parts, to be used again. */
  readonly buffer: RecordBuffer | undefined
  readonly fd: number
  readonly offset: number
  readonly byteLength: number
  readonly startedMs: number
  /** The record is written as the policy asks. */
  isDone: boolean
}

export class SegmentWriter {
  /** Offset of the next record. */
  end: number
  newestEpoch: number
  durableEpoch: number
  appended = 0
  appendedBytes = 0
  failure: MmsbError | undefined
  readonly durations = new Durations()
  readonly #options: SegmentWriterOptions
  #segment: OpenSegment
  /** The append in flight. */
  #current: RecordWrite | undefined
  readonly #writing = new Set<RecordWrite>()
  /** Appends that wait for room because none was reserved. */
  #withoutRoom = 0
  #onIdle: (() => void)[] = []
  /** Free buffers. More than one exists only after a completeSync. */
  readonly #buffers: RecordBuffer[] = []
  #rotating: Promise<void> | undefined
  /** The next segment, created ahead of its need. */
  #prepared: OpenSegment | undefined
  #preparing: Promise<void> | undefined
  #prepareTried = false
  #cancelTimer: (() => void) | undefined
  #syncing: Promise<void> | undefined
  #isClosing = false
  #checkedMs = 0
  #zeroWrite: ZeroWrite | undefined
  /** Zeros have been written ahead up to here. */
  #zeroedTo = 0

  constructor(options: SegmentWriterOptions, segment: OpenSegment, end: number, newestEpoch: number) {
    this.#options = options
    this.#segment = segment
    this.end = end
    this.newestEpoch = newestEpoch
    this.durableEpoch = newestEpoch
  }

  // ---- the folder --------------------------------------------------------------------------------

  /** Fails for good when the folder is no longer the one that was opened, or lacks the segment. */
  checkHeld(): void {
    if (this.failure !== undefined || this.#isClosing) return
    this.#checkedMs = performance.now()
    const why = this.#options.lost() ?? this.#missing(this.#segment)
    if (why !== undefined) this.#fail('the data folder is lost', new Error(why))
  }

  #missing({ fd, file }: OpenSegment): string | undefined {
    try {
      if (this.#options.disk.isAt(fd, file)) return undefined
    } catch (error) {
      return `the log segment ${file} cannot be reached any more: ${textOf(error)}`
    }
    return `the log segment ${file} was removed or replaced while it was open`
  }

  // ---- room --------------------------------------------------------------------------------------

  /** Makes room for a record with this many bytes of frames and page ids. LOG_FULL changes nothing. */
  reserve(bodyBytes: number): Promise<void> | undefined {
    if (this.failure !== undefined) return Promise.reject(this.failure)
    const bytes = RECORD_HEADER_BYTES + padded(bodyBytes) + 8
    if (this.#rotating === undefined && this.#hasRoom(bytes)) return undefined
    return this.#makeRoom(bytes)
  }

  /** Room for the record, a void record and a seal behind it, clear of zeros that are being written. */
  #hasRoom(bytes: number): boolean {
    const { header } = this.#segment
    // A release that knows only version 1 would take a void record for a torn write.
    if (header.version < SEGMENT_FORMAT_VERSION && this.end > SEGMENT_HEADER_BYTES) return false
    const end = this.end + bytes + RECORD_HEADER_BYTES
    if (this.#zeroWrite !== undefined && end > this.#zeroWrite.from) return false
    return end + RECORD_HEADER_BYTES <= this.#segment.capacity
  }

  async #makeRoom(bytes: number): Promise<void> {
    while (this.#rotating !== undefined || !this.#hasRoom(bytes)) {
      if (this.failure !== undefined) throw this.failure
      if (this.#zeroWrite !== undefined) {
        await this.#zeroWrite.done
        continue
      }
      this.#rotating ??= this.#rotate(bytes).finally(() => {
        this.#rotating = undefined
      })
      await this.#rotating
    }
  }

  // ---- appends -----------------------------------------------------------------------------------

  /** Appends one record; resolves when it is written as the policy asks. */
  append(record: LogRecord): Promise<void> {
    const bytes = recordBytes(record.frames.length, record.touchedPages.length)
    if (bytes > RECORD_MAX_BYTES)
      return Promise.reject(logFull(`a record of ${bytes} bytes is above the limit`))
    const isBlocked = this.failure !== undefined || this.#isClosing
    if (isBlocked || (this.#rotating === undefined && this.#hasRoom(bytes))) return this.#start(record, bytes)
    this.#withoutRoom++
    return this.#makeRoom(bytes)
      .finally(() => {
        this.#withoutRoom--
      })
      .then(() => this.#start(record, bytes))
  }

  #start(record: LogRecord, byteLength: number): Promise<void> {
    if (performance.now() - this.#checkedMs > FOLDER_CHECK_APPEND_MS) this.checkHeld()
    if (this.failure !== undefined) return Promise.reject(this.failure)
    if (this.#isClosing) return Promise.reject(busFailed('the log is closed'))
    if (this.#current !== undefined) return Promise.reject(new Error('an append while another is in flight'))
    if (record.epoch !== this.newestEpoch + 1) {
      return Promise.reject(new Error(`append of epoch ${record.epoch} after ${this.newestEpoch}`))
    }
    const write = this.#encode(record, byteLength)
    const { disk, fsync } = this.#options
    if (fsync !== 'always' && byteLength <= RECORD_GATHER_MAX_BYTES) {
      try {
        disk.writeSync(write.fd, write.parts, write.offset)
      } catch (error) {
        return Promise.reject(this.#fail('a write to the log failed', error))
      }
      this.#freeBuffer(write)
      this.#finish(write)
      return Promise.resolve()
    }
    this.#current = write
    this.#writing.add(write)
    return new Promise((resolve, reject) => {
      disk.write(write.fd, write.parts, write.offset, (error) => {
        this.#writing.delete(write)
        this.#freeBuffer(write)
        if (error !== null) reject(this.#fail('a write to the log failed', error))
        else if (this.failure !== undefined && !write.isDone) reject(this.failure)
        else {
          this.#finish(write)
          resolve()
        }
        if (this.#writing.size === 0) for (const wake of this.#onIdle.splice(0)) wake()
      })
    })
  }

  /**
   * Writes, durably and synchronously, that the newest epoch changes nothing. No append may be in flight.
   * Throws BUS_FAILED.
   */
  appendVoid(epoch: number, timestampMs: number): void {
    if (this.failure !== undefined) throw this.failure
    if (this.#current !== undefined || epoch !== this.newestEpoch)
      throw new Error(`a void record of epoch ${epoch}, which is not the newest written one`)
    const { disk, crc32c, fsync } = this.#options
    const { header, fd } = this.#segment
    const mark = { eachSynced: fsync === 'always', unsynced: epoch - this.durableEpoch }
    const bytes = encodeVoid(epoch, timestampMs, header, mark, crc32c)
    try {
      disk.writeSync(fd, [bytes], this.end)
      if (fsync !== 'always') disk.syncSync(fd)
    } catch (error) {
      throw this.#fail('a write to the log failed', error)
    }
    this.durableEpoch = epoch
    this.end += bytes.length
    this.appendedBytes += bytes.length
    this.#options.onVoided(this.end)
  }

  /**
   * Makes the append in flight durable now, by repeating its write synchronously. No effect when nothing is
   * in flight.
   */
  completeSync(): void {
    if (this.failure !== undefined) throw this.failure
    if (this.#withoutRoom > 0)
      throw new Error('a synchronous completion of an append for which no room was reserved')
    const write = this.#current
    if (write === undefined) return
    try {
      this.#options.disk.writeSync(write.fd, write.parts, write.offset)
    } catch (error) {
      throw this.#fail('a write to the log failed', error)
    }
    this.#finish(write)
  }

  #finish(write: RecordWrite): void {
    if (write.isDone) return
    write.isDone = true
    if (this.#current === write) this.#current = undefined
    this.end = write.offset + write.byteLength
    this.newestEpoch = write.record.epoch
    if (this.#options.fsync === 'always') this.durableEpoch = write.record.epoch
    else this.#armSync()
    this.appended++
    this.appendedBytes += write.byteLength
    this.durations.add((performance.now() - write.startedMs) * 1000)
    this.#options.onAppended(write.record, this.#segment.header, write.offset, write.byteLength)
    if (!this.#prepareTried && this.end > this.#segment.capacity / 2) this.#prepareNext()
    if (write.byteLength <= RECORD_GATHER_MAX_BYTES) this.#zeroAhead()
  }

  #encode(record: LogRecord, byteLength: number): RecordWrite {
    const { crc32c, fsync } = this.#options
    const mark = {
      eachSynced: fsync === 'always',
      unsynced: fsync === 'always' ? 0 : record.epoch - 1 - this.durableEpoch,
    }
    const startedMs = performance.now()
    const { header, fd } = this.#segment
    const isSmall = byteLength <= RECORD_GATHER_MAX_BYTES
    const buffer = isSmall ? (this.#buffers.pop() ?? newRecordBuffer()) : undefined
    const parts =
      buffer === undefined
        ? encodeLarge(record, header, mark, crc32c)
        : encodeSmall(buffer, record, byteLength, header, mark, crc32c)
    return { record, parts, buffer, fd, offset: this.end, byteLength, startedMs, isDone: false }
  }

  #freeBuffer({ buffer }: RecordWrite): void {
    if (buffer !== undefined) this.#buffers.push(buffer)
  }

  /** Resolves when no asynchronous write is outstanding, whether it succeeded or not. */
  async #settled(): Promise<void> {
    await this.#zeroWrite?.done
    if (this.#writing.size > 0) await new Promise<void>((resolve) => this.#onIdle.push(resolve))
  }

  #fail(what: string, error: unknown): MmsbError {
    if (this.failure === undefined) {
      this.failure = busFailed(`${what}: ${textOf(error)}`, error)
      this.#cancelTimer?.()
      this.#options.onFailed(this.failure)
    }
    return this.failure
  }

  // ---- zeros ahead -------------------------------------------------------------------------------

  /**
   * Writes a piece of zeros in front of small appends. On file systems that only reserve room, a durable
   * write into a fresh block changes metadata too; over zeros it does not. Large appends would gain nothing
   * from it.
   */
  #zeroAhead(): void {
    const segment = this.#segment
    if (!segment.zeroAhead || this.#zeroWrite !== undefined || this.#options.fsync !== 'always') return
    if (this.#zeroedTo - this.end > LOG_ZERO_PIECE_BYTES / 2) return
    const margin = this.end + LOG_ZERO_MARGIN_BYTES
    const from = Math.max(this.#zeroedTo, margin - (margin % BLOCK_BYTES))
    const to = Math.min(segment.capacity, from + LOG_ZERO_PIECE_BYTES)
    if (to - from < BLOCK_BYTES) return
    const done = this.#writeZeros(segment.file, from, to).then(
      () => {
        this.#zeroedTo = to
        this.#zeroWrite = undefined
      },
      (error: unknown) => {
        this.#zeroWrite = undefined
        this.#fail('zeros could not be written ahead in the log', error)
      },
    )
    this.#zeroWrite = { from, done }
  }

  async #writeZeros(file: string, from: number, to: number): Promise<void> {
    const { disk } = this.#options
    const fd = disk.open(file, { write: true })
    try {
      await new Promise<void>((resolve, reject) => {
        disk.write(fd, [ZEROS.subarray(0, to - from)], from, (error) => {
          if (error !== null) reject(error)
          else disk.sync(fd, (failed) => (failed === null ? resolve() : reject(failed)))
        })
      })
    } finally {
      disk.close(fd)
    }
  }

  // ---- syncs without `always` --------------------------------------------------------------------

  #armSync(): void {
    if (this.#options.fsync !== 'interval' || this.#cancelTimer !== undefined || this.#isClosing) return
    this.#cancelTimer = this.#options.setTimer(() => {
      this.#cancelTimer = undefined
      this.sync().catch(() => {})
    }, LOG_SYNC_INTERVAL_MS)
  }

  /** Makes everything written so far durable. */
  async sync(): Promise<void> {
    while (this.durableEpoch < this.newestEpoch) {
      if (this.failure !== undefined) throw this.failure
      const upTo = this.newestEpoch
      this.#syncing ??= new Promise<void>((resolve, reject) => {
        this.#options.disk.sync(this.#segment.fd, (error) => {
          this.#syncing = undefined
          if (error !== null) reject(this.#fail('a sync of the log failed', error))
          else {
            this.durableEpoch = Math.max(this.durableEpoch, upTo)
            resolve()
          }
        })
      })
      await this.#syncing
    }
    if (this.failure !== undefined) throw this.failure
  }

  // ---- rotation ----------------------------------------------------------------------------------

  /** Begins a new segment with room for the record. Everything before it is durable by then. */
  async #rotate(bytes: number): Promise<void> {
    await this.#settled()
    await this.#preparing
    await this.sync()
    this.checkHeld()
    if (this.failure !== undefined) throw this.failure
    const { disk, logDir } = this.#options
    const need = SEGMENT_HEADER_BYTES + bytes + 2 * RECORD_HEADER_BYTES
    if (this.#prepared === undefined || this.#prepared.capacity < need) this.#discardPrepared()
    const next = this.#prepared ?? (await this.#create(Math.max(this.#options.segmentBytes, need)))
    this.#prepared = undefined
    const header = newSegmentHeader(this.#options, this.newestEpoch + 1)
    const file = path.join(logDir, segmentName(header.firstEpoch))
    try {
      await this.#writeDurably(next.fd, encodeSegmentHeader(header, this.#options.crc32c))
      disk.rename(next.file, file)
      await disk.syncDir(logDir)
      const why = this.#options.lost() ?? this.#missing({ ...next, file })
      if (why !== undefined) throw new Error(why)
    } catch (error) {
      disk.close(next.fd)
      throw this.#fail('a new log segment could not be begun', error)
    }
    this.#switchTo({ ...next, header, file })
  }

  /** Continues in the next segment and gives back the unused room of the old one. */
  #switchTo(next: OpenSegment): void {
    const { disk } = this.#options
    const old = this.#segment
    const oldEnd = this.end
    this.#segment = next
    this.end = SEGMENT_HEADER_BYTES
    this.#zeroedTo = 0
    this.#prepareTried = false
    try {
      disk.truncate(old.fd, oldEnd)
    } catch (error) {
      throw this.#fail('a log segment could not be closed', error)
    } finally {
      disk.close(old.fd)
    }
    this.#options.onRotated(next.header, oldEnd)
  }

  #writeDurably(fd: number, bytes: Uint8Array): Promise<void> {
    const { disk, fsync } = this.#options
    return new Promise((resolve, reject) => {
      disk.write(fd, [bytes], 0, (error) => {
        if (error !== null) reject(error)
        else if (fsync === 'always') resolve()
        else disk.sync(fd, (failed) => (failed === null ? resolve() : reject(failed)))
      })
    })
  }

  /**
   * Creates the next segment ahead of its need. If the disk is full, the rotation tries again and reports it.
   */
  #prepareNext(): void {
    this.#prepareTried = true
    this.checkHeld()
    if (this.failure !== undefined) return
    this.#preparing = createSegment(this.#options, this.#options.segmentBytes)
      .then((segment) => {
        this.#prepared = segment
      })
      .catch(() => {})
      .finally(() => {
        this.#preparing = undefined
      })
  }

  async #create(capacity: number): Promise<OpenSegment> {
    try {
      return await createSegment(this.#options, capacity)
    } catch (error) {
      if (error instanceof MmsbError && error.code === 'LOG_FULL') throw error
      throw this.#fail('a new log segment could not be created', error)
    }
  }

  #discardPrepared(): void {
    if (this.#prepared === undefined) return
    const { disk } = this.#options
    const { fd, file } = this.#prepared
    // Another bus may have made a file of this name in a folder that took the place of this one.
    const isOwn = disk.isAt(fd, file)
    disk.close(fd)
    if (isOwn) disk.remove(file)
    this.#prepared = undefined
  }

  /**
   * Finishes what is in flight, seals the segment and gives back unused room. A failed writer only closes its
   * file.
   */
  async close(): Promise<void> {
    this.checkHeld()
    this.#isClosing = true
    this.#cancelTimer?.()
    await this.#settled()
    await this.#rotating?.catch(() => {})
    await this.#preparing
    const { disk, crc32c, clock } = this.#options
    try {
      if (this.failure === undefined) {
        await this.sync()
        const { fd, header } = this.#segment
        const seal = encodeSeal(this.newestEpoch + 1, clock(), header, crc32c)
        disk.writeSync(fd, [seal], this.end)
        disk.truncate(fd, this.end + seal.length)
        disk.syncSync(fd)
      }
      this.#discardPrepared()
    } catch (error) {
      throw this.#fail('the log could not be closed cleanly', error)
    } finally {
      disk.close(this.#segment.fd)
    }
  }
}

const ZEROS = new Uint8Array(LOG_ZERO_PIECE_BYTES)
/** A block of the file system. Pieces of zeros begin at one. */
const BLOCK_BYTES = 4096
