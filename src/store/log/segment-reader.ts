/**
 * Reads one segment: its header, its records in order, and the verdict where they end.
 *
 * Invariants: every record handed out has passed its checksum and follows the one before it by exactly one epoch. Where
 * the records stop, `judgeEnd` tells a torn tail (a write the crash cut short: nothing durable is lost) from damage (a
 * record that was durable has gone bad). Damage is proven by what stands behind: a later record is begun only when those
 * before it are durable, or else says how many are not (SyncMark). Knows nothing of other segments.
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
  peekRecordHeader,
  RECORD_MAGIC,
  type RecordHeader,
  recordAt,
  recordSound,
  SEAL_MAGIC,
  type SegmentHeader,
  viewOf,
} from './record.js'

/** Why a scan stopped. `seal` and `empty` are regular ends. */
export type EndReason = 'seal' | 'empty' | 'header' | 'length' | 'body' | 'epoch'

/** The reasons, for people. */
export const REASONS: Readonly<Record<EndReason, string>> = {
  seal: 'the log was closed before it',
  empty: 'nothing stands there',
  header: 'its header is damaged',
  length: 'it goes past the end of the file',
  body: 'its checksum is wrong',
  epoch: 'a record of another epoch stands there',
}

export interface ScannedRecord {
  readonly record: LogRecord
  /** Offset in the file. */
  readonly offset: number
  readonly byteLength: number
}

/** Reads and checks a segment's header; the header, or what is wrong. */
export function readSegmentHeader(disk: Disk, fd: number, crc32c: Crc32c): SegmentHeader | string {
  const bytes = new Uint8Array(SEGMENT_HEADER_BYTES)
  const got = disk.readSync(fd, bytes, SEGMENT_HEADER_BYTES, 0)
  return decodeSegmentHeader(bytes.subarray(0, got), crc32c)
}

/** A window over the file that moves forward. */
class Window {
  bytes: Uint8Array
  view: DataView
  start = 0
  length = 0

  constructor(
    private readonly disk: Disk,
    private readonly fd: number,
    readonly sizeBytes: number,
    bytes: number,
  ) {
    this.bytes = new Uint8Array(Math.min(bytes, Math.max(sizeBytes, RECORD_HEADER_BYTES)))
    this.view = viewOf(this.bytes)
  }

  /** Makes [at, at + need) available as far as the file goes; returns the index of `at` in `bytes`. */
  seek(at: number, need: number): number {
    if (at >= this.start && at + need <= this.start + this.length) return at - this.start
    if (need > this.bytes.length) {
      this.bytes = new Uint8Array(need)
      this.view = viewOf(this.bytes)
    }
    const length = Math.max(0, Math.min(this.bytes.length, this.sizeBytes - at))
    this.length = this.disk.readSync(this.fd, this.bytes, length, at)
    this.start = at
    return 0
  }

  /** Bytes available from the index on. */
  available(index: number): number {
    return this.length - index
  }
}

/** Walks the records of a segment in order. Records are views into a buffer that the next call may overwrite. */
export class SegmentScanner {
  /** Where the next record is looked for. After the end: where the sound records end. */
  offset: number
  /** Why the scan ended; null while it goes on. */
  ended: EndReason | null = null
  /** From here on, records may be in the memory of the system only: the process that wrote them did not see them synced. */
  unsureFrom: number
  private readonly window: Window
  /** Records from `offset` on that are in the window and known to be sound. */
  private soundAhead = 0

  constructor(
    disk: Disk,
    fd: number,
    readonly sizeBytes: number,
    readonly segment: SegmentHeader,
    private readonly crc32c: Crc32c,
    start = SEGMENT_HEADER_BYTES,
    public nextEpoch = segment.firstEpoch,
    /** Read at once; less for those who want a few records only. */
    windowBytes = LOG_READ_BYTES,
  ) {
    this.offset = start
    this.unsureFrom = start
    this.window = new Window(disk, fd, sizeBytes, windowBytes)
  }

  next(): ScannedRecord | null {
    if (this.ended !== null) return null
    const { window } = this
    let at = window.seek(this.offset, RECORD_HEADER_BYTES)
    if (this.soundAhead === 0) this.lookAhead(at)
    if (this.soundAhead > 0) {
      this.soundAhead--
      return this.take(at)
    }
    if (window.available(at) < RECORD_HEADER_BYTES) return this.endAt(at, window.length)
    const header = peekRecordHeader(window.bytes, window.view, at)
    if (header === null || !this.plausible(header, at)) return this.endAt(at, at + RECORD_HEADER_BYTES)
    if (this.offset + header.byteLength > this.sizeBytes) return this.end('length')
    at = window.seek(this.offset, header.byteLength)
    // The checksum of the whole covers the header too, so in the usual case one pass is enough.
    if (!recordSound(window.bytes, window.view, at, header, this.segment, this.crc32c))
      return this.end('body')
    if (header.epoch !== this.nextEpoch) return this.end('epoch')
    if (header.seal) {
      this.unsureFrom = this.offset
      return this.end('seal')
    }
    return this.take(at)
  }

  /** Checks what is in the window at once. Where nothing is found sound, the record there is looked at by itself. */
  private lookAhead(at: number): void {
    const { window, crc32c, nextEpoch, segment } = this
    if (crc32c.soundRecords === undefined) return
    const bytes = window.bytes.subarray(at, window.length)
    this.soundAhead = crc32c.soundRecords(bytes, nextEpoch, segment.recordSeed)
  }

  /** The record at `at` in the window, which is sound, and of the next epoch. */
  private take(at: number): ScannedRecord {
    const { offset } = this
    const { bytes, view } = this.window
    const byteLength = byteLengthAt(view, at)
    if (eachSyncedAt(view, at)) this.unsureFrom = offset
    this.offset += byteLength
    this.nextEpoch++
    return { record: recordAt(bytes, view, at), offset, byteLength }
  }

  /** A length that leads out of the window is believed only under the header's own checksum. */
  private plausible(header: RecordHeader, at: number): boolean {
    const { window } = this
    if (header.byteLength <= window.available(at)) return true
    return decodeRecordHeader(window.bytes, window.view, at, this.segment, this.crc32c) !== null
  }

  private endAt(from: number, to: number): null {
    return this.end(isZero(this.window.bytes.subarray(from, to)) ? 'empty' : 'header')
  }

  private end(reason: EndReason): null {
    this.ended = reason
    return null
  }

  /**
   * After the end: what is behind it. `torn`: bytes of writes that were never durable, to be cut. `damage`: why the
   * record of `nextEpoch` must have been durable and is not sound now.
   */
  judgeEnd(): EndVerdict {
    if (this.ended === null) throw new Error('judgeEnd before the end')
    if (this.ended === 'epoch') return this.damage('a record of another epoch stands there')
    const tail = this.lastNonZero()
    if (this.ended === 'seal')
      return tail > this.offset + RECORD_HEADER_BYTES
        ? this.damage('bytes follow the seal of a clean close')
        : CLEAN
    if (tail <= this.offset) return CLEAN
    const later = this.laterEvidence()
    return later ?? { tornBytes: tail - this.offset }
  }

  private damage(why: string): Damage {
    return { damage: why, newestEpoch: this.nextEpoch }
  }

  /** Offset behind the last byte that is not zero, or `offset`. */
  private lastNonZero(): number {
    let last = this.offset
    for (let at = this.offset; at < this.sizeBytes; at += LOG_READ_BYTES) {
      const index = this.window.seek(at, Math.min(LOG_READ_BYTES, this.sizeBytes - at))
      const piece = this.window.bytes.subarray(index, Math.min(index + LOG_READ_BYTES, this.window.length))
      if (!isZero(piece)) last = at + endOfNonZero(piece)
    }
    return last
  }

  /** Something behind the end that could only be written when the record at the end was durable. */
  private laterEvidence(): Damage | null {
    const { window, offset, nextEpoch } = this
    let newest: RecordHeader | null = null
    for (let from = offset + RECORD_ALIGN_BYTES; from + RECORD_HEADER_BYTES <= this.sizeBytes; ) {
      const header = this.nextHeader(from)
      if (header === null) break
      if (header.epoch - header.unsynced > nextEpoch) newest = header
      from = header.offset + RECORD_ALIGN_BYTES
    }
    if (newest !== null) {
      const newestEpoch = newest.seal ? newest.epoch - 1 : newest.epoch
      const why = newest.seal
        ? 'the log was closed cleanly after it'
        : `the record of epoch ${newest.epoch} was written when it was durable`
      return { damage: why, newestEpoch }
    }
    const at = window.seek(offset, RECORD_HEADER_BYTES)
    const whole = window.available(at) >= RECORD_HEADER_BYTES
    const own = whole ? decodeRecordHeader(window.bytes, window.view, at, this.segment, this.crc32c) : null
    if (own?.eachSynced && own.epoch === nextEpoch && this.lastNonZero() > offset + own.byteLength) {
      return {
        damage: 'a later write was begun, which happens only when it was durable',
        newestEpoch: nextEpoch,
      }
    }
    return null
  }

  /** Where a header of the epoch's record stands, whatever is before it; null when there is none. Ends the scan. */
  find(epoch: number): number | null {
    this.ended ??= 'header'
    for (let from = this.offset; ; ) {
      const header = this.nextHeader(from)
      if (header === null || (!header.seal && header.epoch === epoch)) return header?.offset ?? null
      from = header.offset + RECORD_ALIGN_BYTES
    }
  }

  /** The first place from `from` on where a header with a right checksum stands. */
  private nextHeader(from: number): (RecordHeader & { offset: number }) | null {
    const { window } = this
    for (let at = from; at + RECORD_HEADER_BYTES <= this.sizeBytes; ) {
      const span = Math.min(LOG_READ_BYTES, this.sizeBytes - at)
      const index = window.seek(at, span)
      const last = index + span - RECORD_HEADER_BYTES
      for (let i = index; i <= last; i += RECORD_ALIGN_BYTES) {
        const magic = window.view.getUint32(i, true)
        if (magic !== RECORD_MAGIC && magic !== SEAL_MAGIC) continue
        const header = decodeRecordHeader(window.bytes, window.view, i, this.segment, this.crc32c)
        if (header !== null) return { ...header, offset: at + (i - index) }
      }
      at += (Math.floor((span - RECORD_HEADER_BYTES) / RECORD_ALIGN_BYTES) + 1) * RECORD_ALIGN_BYTES
    }
    return null
  }
}

/** Why the record at the end was durable once, and the newest epoch of which there is a trace behind it. */
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

function endOfNonZero(bytes: Uint8Array): number {
  let end = bytes.length
  while (end > 0 && bytes[end - 1] === 0) end--
  return end
}
