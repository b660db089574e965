/**
 * Reads one segment: its header, its records in order, and the verdict on where they end.
 *
 * Invariants: every record handed out has passed its checksum and follows the one before it by exactly one
 * epoch. At the end of the records, `judgeEnd` tells a torn tail (a write cut short by a crash; nothing
 * durable is lost) from damage (a durable record has gone bad). The bytes behind prove damage: a later record
 * is begun only when those before it are durable, or it says how many are not (SyncMark). Knows nothing of
 * other segments.
 */
import {
  LOG_READ_BYTES,
  RECORD_ALIGN_BYTES,
  RECORD_HEADER_BYTES,
  SEGMENT_HEADER_BYTES,
} from '../../limits.js'
import type { Disk } from '../os/disk.js'
import type { Crc32c, LogRecord } from '../types.js'
import {
  byteLengthAt,
  decodeRecordHeader,
  decodeSegmentHeader,
  eachSyncedAt,
  isVoidAt,
  peekRecordHeader,
  type RecordHeader,
  recordAt,
  recordSound,
  type SegmentHeader,
  viewOf,
} from './record.js'

/** Why a scan ended. `seal` and `empty` are regular ends. */
export type EndReason = 'seal' | 'empty' | 'header' | 'length' | 'body' | 'epoch' | 'void'

/** The reasons in words. */
export const REASONS: Readonly<Record<EndReason, string>> = {
  seal: 'the log was closed before it',
  empty: 'there is no record',
  header: 'its header is damaged',
  length: 'it goes past the end of the file',
  body: 'its checksum is wrong',
  epoch: 'a record of another epoch is in its place',
  void: 'the void record behind it is damaged',
}

export interface ScannedRecord {
  readonly record: LogRecord
  /** Offset in the file. */
  readonly offset: number
  readonly byteLength: number
}

/** Reads and checks a segment's header. Returns the header, or what is wrong with it. */
export function readSegmentHeader(disk: Disk, fd: number, crc32c: Crc32c): SegmentHeader | string {
  const bytes = new Uint8Array(SEGMENT_HEADER_BYTES)
  const got = disk.readSync(fd, bytes, SEGMENT_HEADER_BYTES, 0)
  return decodeSegmentHeader(bytes.subarray(0, got), crc32c)
}

/** A window over the file that moves forward. */
class Window {
  bytes: Uint8Array
  view: DataView
  length = 0
  readonly sizeBytes: number
  readonly #disk: Disk
  readonly #fd: number
  #start = 0

  constructor(disk: Disk, fd: number, sizeBytes: number, windowBytes: number) {
    this.#disk = disk
    this.#fd = fd
    this.sizeBytes = sizeBytes
    this.bytes = new Uint8Array(Math.min(windowBytes, Math.max(sizeBytes, RECORD_HEADER_BYTES)))
    this.view = viewOf(this.bytes)
  }

  /** Makes [at, at + need) available, as far as the file has it. Returns the index of `at` in `bytes`. */
  seek(at: number, need: number): number {
    if (at >= this.#start && at + need <= this.#start + this.length) return at - this.#start
    if (need > this.bytes.length) {
      this.bytes = new Uint8Array(need)
      this.view = viewOf(this.bytes)
    }
    const length = Math.max(0, Math.min(this.bytes.length, this.sizeBytes - at))
    this.length = this.#disk.readSync(this.#fd, this.bytes, length, at)
    this.#start = at
    return 0
  }

  /** Bytes available from the index on. */
  available(index: number): number {
    return this.length - index
  }
}

/**
 * Walks the records of a segment in order. A record is a view into a buffer that the next call may overwrite.
 */
export class SegmentScanner {
  /** Offset of the next record; after the end: where the sound records end. */
  offset: number
  nextEpoch: number
  /** Why the scan ended; undefined while it runs. */
  ended: EndReason | undefined
  /**
   * Records from here on may exist in the system's memory only: the process that wrote them did not see them
   * synced.
   */
  unsureFrom: number
  readonly #sizeBytes: number
  readonly segment: SegmentHeader
  readonly #crc32c: Crc32c
  readonly #window: Window
  /** Of the record that was handed out last; undefined before the first, and when that one was void. */
  #lastOffset: number | undefined
  /** Records from `offset` on that are in the window and known to be sound. */
  #soundAhead = 0

  /** `windowBytes` are read at once; a reader that wants few records gives less. */
  constructor(
    disk: Disk,
    fd: number,
    sizeBytes: number,
    segment: SegmentHeader,
    crc32c: Crc32c,
    start = SEGMENT_HEADER_BYTES,
    nextEpoch = segment.firstEpoch,
    windowBytes = LOG_READ_BYTES,
  ) {
    this.offset = start
    this.nextEpoch = nextEpoch
    this.unsureFrom = start
    this.#sizeBytes = sizeBytes
    this.segment = segment
    this.#crc32c = crc32c
    this.#window = new Window(disk, fd, sizeBytes, windowBytes)
  }

  next(): ScannedRecord | undefined {
    if (this.ended !== undefined) return undefined
    const window = this.#window
    let at = window.seek(this.offset, RECORD_HEADER_BYTES)
    if (this.#soundAhead === 0) this.#lookAhead(at)
    if (this.#soundAhead > 0) {
      this.#soundAhead--
      return this.#take(at)
    }
    // A block of the index may begin with the void record of the epoch before.
    const { bytes, view } = window
    if (isVoidAt(bytes, view, at, this.nextEpoch - 1, this.segment, this.#crc32c)) {
      this.offset += RECORD_HEADER_BYTES
      return this.next()
    }
    if (window.available(at) < RECORD_HEADER_BYTES) return this.#endAt(at, window.length)
    const header = peekRecordHeader(window.bytes, window.view, at)
    if (header === undefined || !this.#isPlausible(header, at))
      return this.#endAt(at, at + RECORD_HEADER_BYTES)
    if (this.offset + header.byteLength > this.#sizeBytes) return this.#end('length')
    at = window.seek(this.offset, header.byteLength)
    // The checksum of the whole record covers its header too, so one pass is usually enough.
    if (!recordSound(window.bytes, window.view, at, header, this.segment, this.#crc32c))
      return this.#end('body')
    if (header.epoch !== this.nextEpoch) return this.#end('epoch')
    if (header.isSeal) {
      this.unsureFrom = this.offset
      return this.#end('seal')
    }
    return this.#take(at)
  }

  /**
   * Checks all records in the window at once. If the first is not found sound, `next` checks it by itself.
   */
  #lookAhead(at: number): void {
    const crc32c = this.#crc32c
    if (crc32c.soundRecords === undefined) return
    const bytes = this.#window.bytes.subarray(at, this.#window.length)
    this.#soundAhead = crc32c.soundRecords(bytes, this.nextEpoch, this.segment.recordSeed)
  }

  /** Hands out the record at `at` in the window, which is sound and of the next epoch. */
  #take(at: number): ScannedRecord {
    const { offset } = this
    const window = this.#window
    let byteLength = byteLengthAt(window.view, at)
    // Whether the epoch is void is known only from what lies behind its record.
    const needed = Math.min(byteLength + RECORD_HEADER_BYTES, this.#sizeBytes - offset)
    const from = window.seek(offset, needed)
    const { bytes, view } = window
    const isVoid = isVoidAt(bytes, view, from + byteLength, this.nextEpoch, this.segment, this.#crc32c)
    if (isVoid) byteLength += RECORD_HEADER_BYTES
    if (eachSyncedAt(view, from)) this.unsureFrom = offset
    this.#lastOffset = isVoid ? undefined : offset
    this.offset += byteLength
    this.nextEpoch++
    return { record: recordAt(bytes, view, from, isVoid), offset, byteLength }
  }

  /** A length that reaches beyond the window is trusted only under the header's own checksum. */
  #isPlausible(header: RecordHeader, at: number): boolean {
    const window = this.#window
    if (header.byteLength <= window.available(at)) return true
    return decodeRecordHeader(window.bytes, window.view, at, this.segment, this.#crc32c) !== undefined
  }

  #endAt(from: number, to: number): undefined {
    return this.#end(isZero(this.#window.bytes.subarray(from, to)) ? 'empty' : 'header')
  }

  #end(reason: EndReason): undefined {
    this.ended = reason
    return undefined
  }

  /**
   * Judges the bytes behind the end. `tornBytes`: bytes of writes that were never durable, to be cut.
   * `damage`: why the record of `nextEpoch` must have been durable though it is not sound now. `isFollowed`:
   * there are later segments, so everything in this one was durable.
   */
  judgeEnd(isFollowed = false): EndVerdict {
    if (this.ended === undefined) throw new Error('judgeEnd before the end')
    if (this.ended === 'epoch') return this.#damage(REASONS.epoch)
    const tail = this.#lastNonZero()
    if (this.#stepBackOverLostVoid(tail, isFollowed))
      return this.#damage('a void record was written behind it')
    if (this.ended === 'seal')
      return tail > this.offset + RECORD_HEADER_BYTES
        ? this.#damage('bytes follow the seal of a clean close')
        : CLEAN
    if (tail <= this.offset) return CLEAN
    if (isFollowed) return this.#damage('a later segment was begun')
    const later = this.#laterEvidence()
    return later ?? { tornBytes: tail - this.offset }
  }

  /**
   * Whether a void record stood at the end: what follows one stands where it would behind it. Its epoch, the
   * newest one, may not have happened then, and the end steps back to its record.
   */
  #stepBackOverLostVoid(tail: number, isFollowed: boolean): boolean {
    const { offset, nextEpoch } = this
    if (this.ended === 'seal' || tail <= offset || this.#lastOffset === undefined) return false
    const behind = offset + RECORD_HEADER_BYTES
    const window = this.#window
    const at = window.seek(behind, RECORD_HEADER_BYTES)
    const isWhole = window.available(at) >= RECORD_HEADER_BYTES
    const next = isWhole
      ? decodeRecordHeader(window.bytes, window.view, at, this.segment, this.#crc32c)
      : undefined
    const isNext = next !== undefined && next.epoch === nextEpoch && !next.isVoid
    if (!isNext && !(isFollowed && tail <= behind)) return false
    this.ended = 'void'
    this.offset = this.#lastOffset
    this.nextEpoch--
    return true
  }

  #damage(why: string): Damage {
    return { damage: why, newestEpoch: this.nextEpoch }
  }

  /** Offset behind the last byte that is not zero, or `offset`. */
  #lastNonZero(): number {
    let last = this.offset
    for (let at = this.offset; at < this.#sizeBytes; at += LOG_READ_BYTES) {
      const index = this.#window.seek(at, Math.min(LOG_READ_BYTES, this.#sizeBytes - at))
      const piece = this.#window.bytes.subarray(index, Math.min(index + LOG_READ_BYTES, this.#window.length))
      if (!isZero(piece)) last = at + endOfNonZero(piece)
    }
    return last
  }

  /** Evidence behind the end that was written only after the record at the end was durable. */
  #laterEvidence(): Damage | undefined {
    const { offset, nextEpoch } = this
    const window = this.#window
    let newest: RecordHeader | undefined
    for (let from = offset + RECORD_ALIGN_BYTES; ; ) {
      const header = this.#nextHeader(from)
      if (header === undefined) break
      // A void record is written behind the record of its epoch.
      const after = header.isVoid ? header.epoch + 1 : header.epoch
      if (after - header.unsynced > nextEpoch) newest = header
      from = header.offset + RECORD_ALIGN_BYTES
    }
    if (newest !== undefined) {
      const newestEpoch = newest.isSeal ? newest.epoch - 1 : newest.epoch
      const why = newest.isSeal
        ? 'the log was closed cleanly after it'
        : `the record of epoch ${newest.epoch} was written when it was durable`
      return { damage: why, newestEpoch }
    }
    const at = window.seek(offset, RECORD_HEADER_BYTES)
    const own = decodeRecordHeader(window.bytes, window.view, at, this.segment, this.#crc32c)
    if (own?.eachSynced && own.epoch === nextEpoch && this.#lastNonZero() > offset + own.byteLength) {
      return {
        damage: 'a later write was begun, which happens only when it was durable',
        newestEpoch: nextEpoch,
      }
    }
    return undefined
  }

  /**
   * Offset of a header of the epoch's record, whatever is before it; undefined when there is none. Ends the
   * scan.
   */
  find(epoch: number): number | undefined {
    this.ended ??= 'header'
    for (let from = this.offset; ; ) {
      const header = this.#nextHeader(from)
      if (header === undefined || (!header.isSeal && !header.isVoid && header.epoch === epoch))
        return header?.offset
      from = header.offset + RECORD_ALIGN_BYTES
    }
  }

  /** The first header with a right checksum from `from` on. */
  #nextHeader(from: number): (RecordHeader & { offset: number }) | undefined {
    const window = this.#window
    for (let at = from; at + RECORD_HEADER_BYTES <= this.#sizeBytes; ) {
      const span = Math.min(LOG_READ_BYTES, this.#sizeBytes - at)
      const index = window.seek(at, span)
      const last = index + span - RECORD_HEADER_BYTES
      for (let i = index; i <= last; i += RECORD_ALIGN_BYTES) {
        const header = decodeRecordHeader(window.bytes, window.view, i, this.segment, this.#crc32c)
        if (header !== undefined) return { ...header, offset: at + (i - index) }
      }
      at += span - RECORD_HEADER_BYTES + RECORD_ALIGN_BYTES
    }
    return undefined
  }
}

/** Why the record at the end was durable once, and the newest epoch that has left a trace behind it. */
export interface Damage {
  readonly damage: string
  readonly newestEpoch: number
}

export type EndVerdict = { readonly tornBytes: number } | Damage

const CLEAN: EndVerdict = { tornBytes: 0 }
const ZEROS = Buffer.alloc(LOG_READ_BYTES)

export function isZero(bytes: Uint8Array): boolean {
  for (let at = 0; at < bytes.length; at += ZEROS.length) {
    const length = Math.min(ZEROS.length, bytes.length - at)
    if (ZEROS.compare(bytes, at, at + length, 0, length) !== 0) return false
  }
  return true
}

/** The bytes are not all zero. */
function endOfNonZero(bytes: Uint8Array): number {
  let end = bytes.length
  while (bytes[end - 1] === 0) end--
  return end
}
