/**
 * The segment being written: appends, syncs, rotation.
 *
 * Invariants: bytes from `end` on are zero. At most one record is not yet durable (or, without `always`, not yet
 * written). Under `always` an append is one write to a file opened with O_DSYNC, into room that was allocated before, so
 * it changes no metadata and cannot meet a full disk. An error of a write or a sync is never retried: the tail fails for
 * good and says why. A new segment gets its name only after its header is durable, and after everything before it is.
 * Knows nothing of the index, of checkpoints or of other segments' contents.
 */
import path from 'node:path'
import { MmsbError } from '../../errors.js'
import {
  LOG_SYNC_INTERVAL_MS,
  LOG_ZERO_MARGIN_BYTES,
  LOG_ZERO_PIECE_BYTES,
  RECORD_GATHER_MAX_BYTES,
  RECORD_HEADER_BYTES,
  RECORD_MAX_BYTES,
  SEGMENT_HEADER_BYTES,
} from '../../limits.js'
import type { Disk } from '../os/disk.js'
import { Durations } from '../os/durations.js'
import { busFailed, isNoRoom, logFull, textOf } from '../os/errors.js'
import type { Crc32c, FsyncPolicy, LogRecord } from '../types.js'
import {
  encodeRecordHeader,
  encodeSeal,
  encodeSegmentHeader,
  padded,
  recordBytes,
  type SegmentHeader,
  viewOf,
} from './record.js'

export const NEXT_SEGMENT_NAME = 'next.tmp'

export function segmentName(firstEpoch: number): string {
  return `${String(firstEpoch).padStart(20, '0')}.seg`
}

export interface OpenSegment {
  readonly header: SegmentHeader
  readonly file: string
  readonly fd: number
  /** Bytes with room allocated. */
  readonly capacity: number
  /** Zeros written ahead make appends quicker here. */
  readonly zeroAhead: boolean
}

export interface SegmentWriterOptions {
  readonly disk: Disk
  readonly logDir: string
  readonly fsync: FsyncPolicy
  readonly crc32c: Crc32c
  readonly clock: () => number
  readonly random: (length: number) => Uint8Array
  readonly setTimer: (callback: () => void, delayMs: number) => () => void
  readonly segmentBytes: number
  readonly busId: string
  /** A record has become readable: written and, under `always`, durable. */
  readonly onAppended: (record: LogRecord, segment: SegmentHeader, offset: number, byteLength: number) => void
  readonly onRotated: (next: SegmentHeader, previousEnd: number) => void
  readonly onFailed: (error: MmsbError) => void
}

/** Zeros being written ahead: no append may reach into them. */
interface Zeroing {
  readonly from: number
  readonly done: Promise<void>
}

interface Write {
  readonly record: LogRecord
  readonly parts: readonly Uint8Array[]
  readonly gather: Gather | null
  readonly fd: number
  readonly offset: number
  readonly byteLength: number
  readonly startedMs: number
  /** The caller may count on it: written as the policy asks. */
  done: boolean
}

/** A buffer that small records are gathered in; more than one exists only after a completeSync. */
interface Gather {
  readonly bytes: Uint8Array
  readonly view: DataView
}

export class SegmentWriter {
  /** Where the next record goes. */
  end: number
  newestEpoch: number
  durableEpoch: number
  appended = 0
  appendedBytes = 0
  failure: MmsbError | null = null
  readonly timing = new Durations()
  private current: Write | null = null
  private readonly writing = new Set<Write>()
  /** Appends that wait for room because none was reserved. */
  private withoutRoom = 0
  private idle: (() => void)[] = []
  private readonly gathers: Gather[] = []
  private rotating: Promise<void> | null = null
  private prepared: OpenSegment | null = null
  private preparing: Promise<void> | null = null
  private prepareTried = false
  private cancelTimer: (() => void) | null = null
  private syncing: Promise<void> | null = null
  private closing = false
  private zeroing: Zeroing | null = null
  /** Up to here zeros have been written ahead. */
  private zeroedTo = 0

  constructor(
    private readonly options: SegmentWriterOptions,
    public segment: OpenSegment,
    end: number,
    newestEpoch: number,
  ) {
    this.end = end
    this.newestEpoch = newestEpoch
    this.durableEpoch = newestEpoch
  }

  /** Makes sure that a record with this many bytes of frames and page ids has room. LOG_FULL changes nothing. */
  reserve(bodyBytes: number): Promise<void> | undefined {
    if (this.failure !== null) return Promise.reject(this.failure)
    const bytes = RECORD_HEADER_BYTES + padded(bodyBytes) + 8
    if (this.rotating === null && this.hasRoom(bytes)) return undefined
    return this.makeRoom(bytes)
  }

  /** StoreDeps for the record and a seal behind it, none of it under zeros that are just being written. */
  private hasRoom(bytes: number): boolean {
    const end = this.end + bytes
    if (this.zeroing !== null && end > this.zeroing.from) return false
    return end + RECORD_HEADER_BYTES <= this.segment.capacity
  }

  private async makeRoom(bytes: number): Promise<void> {
    while (this.rotating !== null || !this.hasRoom(bytes)) {
      if (this.failure !== null) throw this.failure
      if (this.zeroing !== null) {
        await this.zeroing.done
        continue
      }
      this.rotating ??= this.rotate(bytes).finally(() => {
        this.rotating = null
      })
      await this.rotating
    }
  }

  /** Appends one record; resolves when it is written as the policy asks. */
  append(record: LogRecord): Promise<void> {
    const bytes = recordBytes(record.frames.length, record.touchedPages.length)
    if (bytes > RECORD_MAX_BYTES)
      return Promise.reject(logFull(`a record of ${bytes} bytes is above the limit`))
    const blocked = this.failure !== null || this.closing
    if (blocked || (this.rotating === null && this.hasRoom(bytes))) return this.start(record, bytes)
    this.withoutRoom++
    return this.makeRoom(bytes)
      .finally(() => {
        this.withoutRoom--
      })
      .then(() => this.start(record, bytes))
  }

  private start(record: LogRecord, byteLength: number): Promise<void> {
    if (this.failure !== null) return Promise.reject(this.failure)
    if (this.closing) return Promise.reject(busFailed('the log is closed'))
    if (this.current !== null) return Promise.reject(new Error('an append while another is in flight'))
    if (record.epoch !== this.newestEpoch + 1) {
      return Promise.reject(new Error(`append of epoch ${record.epoch} after ${this.newestEpoch}`))
    }
    const write = this.encode(record, byteLength)
    const { disk, fsync } = this.options
    if (fsync !== 'always' && byteLength <= RECORD_GATHER_MAX_BYTES) {
      try {
        disk.writeSync(write.fd, write.parts, write.offset)
      } catch (error) {
        return Promise.reject(this.fail('a write to the log failed', error))
      }
      this.release(write)
      this.finish(write)
      return Promise.resolve()
    }
    this.current = write
    this.writing.add(write)
    return new Promise((resolve, reject) => {
      disk.write(write.fd, write.parts, write.offset, (error) => {
        this.writing.delete(write)
        this.release(write)
        if (error !== null) reject(this.fail('a write to the log failed', error))
        else if (this.failure !== null && !write.done) reject(this.failure)
        else {
          this.finish(write)
          resolve()
        }
        if (this.writing.size === 0) for (const wake of this.idle.splice(0)) wake()
      })
    })
  }

  /** Makes the append in flight durable now, by the same write once more, synchronously. Nothing in flight: no effect. */
  completeSync(): void {
    if (this.failure !== null) throw this.failure
    if (this.withoutRoom > 0)
      throw new Error('a synchronous completion of an append for which no room was reserved')
    const write = this.current
    if (write === null) return
    try {
      this.options.disk.writeSync(write.fd, write.parts, write.offset)
    } catch (error) {
      throw this.fail('a write to the log failed', error)
    }
    this.finish(write)
  }

  private finish(write: Write): void {
    if (write.done) return
    write.done = true
    if (this.current === write) this.current = null
    this.end = write.offset + write.byteLength
    this.newestEpoch = write.record.epoch
    if (this.options.fsync === 'always') this.durableEpoch = write.record.epoch
    else this.armSync()
    this.appended++
    this.appendedBytes += write.byteLength
    this.timing.add((performance.now() - write.startedMs) * 1000)
    this.options.onAppended(write.record, this.segment.header, write.offset, write.byteLength)
    if (!this.prepareTried && this.end > this.segment.capacity / 2) this.prepareNext()
    if (write.byteLength <= RECORD_GATHER_MAX_BYTES) this.zeroAhead()
  }

  private encode(record: LogRecord, byteLength: number): Write {
    const { crc32c, fsync } = this.options
    const mark = {
      eachSynced: fsync === 'always',
      unsynced: fsync === 'always' ? 0 : record.epoch - 1 - this.durableEpoch,
    }
    const startedMs = performance.now()
    const head = byteLength <= RECORD_GATHER_MAX_BYTES ? (this.gathers.pop() ?? newGather()) : null
    const parts = head === null ? partsOf(record) : gatherRecord(head, record, byteLength)
    const { header, fd } = this.segment
    if (head === null) {
      const bytes = new Uint8Array(RECORD_HEADER_BYTES)
      encodeRecordHeader(bytes, viewOf(bytes), record, parts, header, mark, crc32c)
      parts.unshift(bytes)
    } else {
      const body = [head.bytes.subarray(RECORD_HEADER_BYTES, byteLength)]
      encodeRecordHeader(head.bytes, head.view, record, body, header, mark, crc32c)
    }
    return { record, parts, gather: head, fd, offset: this.end, byteLength, startedMs, done: false }
  }

  private release(write: Write): void {
    if (write.gather !== null) this.gathers.push(write.gather)
  }

  /** Resolves when no asynchronous write is outstanding, whether it went well or not. */
  private async settled(): Promise<void> {
    await this.zeroing?.done
    if (this.writing.size > 0) await new Promise<void>((resolve) => this.idle.push(resolve))
  }

  /**
   * Writes a piece of zeros in front of small appends. On file systems that only reserve room, a durable write into a
   * fresh block has to change metadata too; behind the zeros it need not. Large appends do not pay for this.
   */
  private zeroAhead(): void {
    const { segment, options } = this
    if (!segment.zeroAhead || this.zeroing !== null || options.fsync !== 'always') return
    if (this.zeroedTo - this.end > LOG_ZERO_PIECE_BYTES / 2) return
    const margin = this.end + LOG_ZERO_MARGIN_BYTES
    const from = Math.max(this.zeroedTo, margin - (margin % BLOCK_BYTES))
    const to = Math.min(segment.capacity, from + LOG_ZERO_PIECE_BYTES)
    if (to - from < BLOCK_BYTES) return
    const done = this.writeZeros(segment.file, from, to).then(
      () => {
        this.zeroedTo = to
        this.zeroing = null
      },
      (error: unknown) => {
        this.zeroing = null
        this.fail('zeros could not be written ahead in the log', error)
      },
    )
    this.zeroing = { from, done }
  }

  private async writeZeros(file: string, from: number, to: number): Promise<void> {
    const { disk } = this.options
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

  private fail(what: string, error: unknown): MmsbError {
    if (this.failure === null) {
      this.failure = busFailed(`${what}: ${textOf(error)}`, error)
      this.cancelTimer?.()
      this.options.onFailed(this.failure)
    }
    return this.failure
  }

  // ---- syncs without `always` -----------------------------------------------------------------------------------

  private armSync(): void {
    if (this.options.fsync !== 'interval' || this.cancelTimer !== null || this.closing) return
    this.cancelTimer = this.options.setTimer(() => {
      this.cancelTimer = null
      this.sync().catch(() => {})
    }, LOG_SYNC_INTERVAL_MS)
  }

  /** Makes everything written so far durable. */
  async sync(): Promise<void> {
    while (this.durableEpoch < this.newestEpoch) {
      if (this.failure !== null) throw this.failure
      const upTo = this.newestEpoch
      this.syncing ??= new Promise<void>((resolve, reject) => {
        this.options.disk.sync(this.segment.fd, (error) => {
          this.syncing = null
          if (error !== null) reject(this.fail('a sync of the log failed', error))
          else {
            this.durableEpoch = Math.max(this.durableEpoch, upTo)
            resolve()
          }
        })
      })
      await this.syncing
    }
    if (this.failure !== null) throw this.failure
  }

  // ---- rotation ---------------------------------------------------------------------------------------------------

  /** Begins a new segment that has room for the record. Everything before it is durable by then. */
  private async rotate(bytes: number): Promise<void> {
    await this.settled()
    await this.preparing
    await this.sync()
    const { disk, logDir } = this.options
    const need = SEGMENT_HEADER_BYTES + bytes + RECORD_HEADER_BYTES
    if (this.prepared === null || this.prepared.capacity < need) this.discardPrepared()
    const next = this.prepared ?? (await this.create(Math.max(this.options.segmentBytes, need)))
    this.prepared = null
    const header = newHeader(this.options, this.newestEpoch + 1)
    const file = path.join(logDir, segmentName(header.firstEpoch))
    try {
      await this.writeDurably(next.fd, encodeSegmentHeader(header, this.options.crc32c))
      disk.rename(next.file, file)
      await disk.syncDir(logDir)
    } catch (error) {
      disk.close(next.fd)
      throw this.fail('a new log segment could not be begun', error)
    }
    this.leave({ ...next, header, file })
  }

  /** Goes over to the next segment and gives back what the old one did not use. */
  private leave(next: OpenSegment): void {
    const { disk } = this.options
    const old = this.segment
    const oldEnd = this.end
    this.segment = next
    this.end = SEGMENT_HEADER_BYTES
    this.zeroedTo = 0
    this.prepareTried = false
    try {
      disk.truncate(old.fd, oldEnd)
    } catch (error) {
      throw this.fail('a log segment could not be closed', error)
    } finally {
      disk.close(old.fd)
    }
    this.options.onRotated(next.header, oldEnd)
  }

  private writeDurably(fd: number, bytes: Uint8Array): Promise<void> {
    const { disk, fsync } = this.options
    return new Promise((resolve, reject) => {
      const settle = (error: Error | null): void => (error === null ? resolve() : reject(error))
      disk.write(fd, [bytes], 0, (error) => {
        if (error !== null || fsync === 'always') settle(error)
        else disk.sync(fd, settle)
      })
    })
  }

  /** Allocates the next segment ahead of its need. A full disk is noticed here and told when the room is needed. */
  private prepareNext(): void {
    this.prepareTried = true
    this.preparing = createSegment(this.options, this.options.segmentBytes)
      .then((segment) => {
        this.prepared = segment
      })
      .catch(() => {})
      .finally(() => {
        this.preparing = null
      })
  }

  private async create(capacity: number): Promise<OpenSegment> {
    try {
      return await createSegment(this.options, capacity)
    } catch (error) {
      if (error instanceof MmsbError && error.code === 'LOG_FULL') throw error
      throw this.fail('a new log segment could not be created', error)
    }
  }

  private discardPrepared(): void {
    if (this.prepared === null) return
    this.options.disk.close(this.prepared.fd)
    this.options.disk.remove(this.prepared.file)
    this.prepared = null
  }

  /** Finishes what is in flight, seals the segment and gives back unused room. A failed tail is only closed. */
  async close(): Promise<void> {
    this.closing = true
    this.cancelTimer?.()
    await this.settled()
    await this.rotating?.catch(() => {})
    await this.preparing
    const { disk, crc32c, clock } = this.options
    try {
      if (this.failure === null) {
        await this.sync()
        const seal = encodeSeal(this.newestEpoch + 1, clock(), this.segment.header, crc32c)
        disk.writeSync(this.segment.fd, [seal], this.end)
        disk.truncate(this.segment.fd, this.end + seal.length)
        disk.syncSync(this.segment.fd)
      }
      this.discardPrepared()
    } catch (error) {
      throw this.fail('the log could not be closed cleanly', error)
    } finally {
      disk.close(this.segment.fd)
    }
  }
}

const ZEROS = new Uint8Array(LOG_ZERO_PIECE_BYTES)
/** A file system's block: pieces of zeros begin at one. */
const BLOCK_BYTES = 4096

function newGather(): Gather {
  const bytes = new Uint8Array(RECORD_GATHER_MAX_BYTES)
  return { bytes, view: viewOf(bytes) }
}

/** Lays the record out in the buffer, header excepted, padding cleared; returns the buffer's part that it takes. */
function gatherRecord({ bytes, view }: Gather, record: LogRecord, byteLength: number): Uint8Array[] {
  const { frames, touchedPages } = record
  const framesEnd = RECORD_HEADER_BYTES + frames.length
  let at = RECORD_HEADER_BYTES + padded(frames.length)
  bytes.set(frames, RECORD_HEADER_BYTES)
  if (framesEnd < at) bytes.fill(0, framesEnd, at)
  for (let i = 0; i < touchedPages.length; i++, at += 4) view.setUint32(at, touchedPages[i] ?? 0, true)
  if (at < byteLength) bytes.fill(0, at, byteLength)
  return [bytes.subarray(0, byteLength)]
}

/** What follows a large record's header, as it lies in memory. */
function partsOf({ frames, touchedPages }: LogRecord): Uint8Array[] {
  const ids = new Uint8Array(touchedPages.buffer, touchedPages.byteOffset, touchedPages.byteLength)
  return [frames, padOf(frames.length), ids, padOf(ids.length)].filter((part) => part.length > 0)
}

function padOf(length: number): Uint8Array {
  return new Uint8Array(padded(length) - length)
}

export function newHeader(
  options: Pick<SegmentWriterOptions, 'random' | 'clock' | 'busId'>,
  firstEpoch: number,
): SegmentHeader {
  const seeds = viewOf(options.random(8))
  return {
    busId: options.busId,
    firstEpoch,
    headerSeed: seeds.getUint32(0, true),
    recordSeed: seeds.getUint32(4, true),
    createdMs: options.clock(),
  }
}

/** Creates the nameless next segment: allocated, durable in size, header still zero. */
export async function createSegment(
  options: Pick<SegmentWriterOptions, 'disk' | 'logDir' | 'fsync' | 'busId' | 'random' | 'clock'>,
  capacity: number,
): Promise<OpenSegment> {
  const { disk, logDir } = options
  const file = path.join(logDir, NEXT_SEGMENT_NAME)
  let fd = -1
  try {
    disk.remove(file)
    fd = disk.open(file, { create: true, write: true })
    const zeroAhead = disk.allocate(fd, 0, capacity)
    await new Promise<void>((resolve, reject) => {
      disk.sync(fd, (error) => (error === null ? resolve() : reject(error)))
    })
    if (options.fsync === 'always') {
      disk.close(fd)
      fd = -1
      fd = disk.open(file, { write: true, dsync: true })
    }
    return { header: newHeader(options, 0), file, fd, capacity, zeroAhead }
  } catch (error) {
    if (fd >= 0) disk.close(fd)
    disk.remove(file)
    if (isNoRoom(error))
      throw logFull(`no room for a log segment of ${capacity} bytes: ${textOf(error)}`, error)
    throw busFailed(`a log segment could not be created: ${textOf(error)}`, error)
  }
}
