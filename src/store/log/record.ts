/**
 * The bytes of the log: segment header, record, void record, seal (docs/internals/FORMAT.md, "Log"). Pure
 * functions over buffers.
 *
 * Invariants: a length is trusted only under a header checksum. Both checksums start from seeds drawn per
 * segment, so neither bytes of another segment nor bytes that a client put into a delta can pass for a
 * record. Decoding never reads outside the bytes it is given. Knows nothing of files.
 */
import {
  RECORD_ALIGN_BYTES,
  RECORD_HEADER_BYTES,
  RECORD_MAX_BYTES,
  SEGMENT_FORMAT_VERSION,
  SEGMENT_HEADER_BYTES,
} from '../../limits.js'
import type { Crc32c, LogRecord } from '../types.js'

/** "MSRC", "MSVD" and "MSSL", little-endian. */
export const RECORD_MAGIC = 0x4352_534d
export const VOID_MAGIC = 0x4456_534d
export const SEAL_MAGIC = 0x4c53_534d
const SEGMENT_MAGIC = Buffer.from('MMSBLOG1', 'latin1')
const TWO_32 = 0x1_0000_0000
/** Record flags: bit 31 is set when every append was made durable before the next one began. */
const EACH_SYNCED = 0x8000_0000
const UNSYNCED_MAX = 0x7fff_ffff

export interface SegmentHeader {
  /** 32 hex digits. */
  readonly busId: string
  readonly firstEpoch: number
  /** Start values of the header's and the record's checksum. */
  readonly headerSeed: number
  readonly recordSeed: number
  readonly createdMs: number
  /** A segment of version 1 has no void records. */
  readonly version: number
}

/** What a record says about the durability of those before it. It tells a torn tail from damage. */
export interface SyncMark {
  /** The policy was `always`: all earlier records were durable before this one was begun. */
  readonly eachSynced: boolean
  /** Records just before this one that were not known to be durable when it was written. */
  readonly unsynced: number
}

export function padded(length: number): number {
  return Math.ceil(length / RECORD_ALIGN_BYTES) * RECORD_ALIGN_BYTES
}

/** Size of a record in the log. */
export function recordBytes(framesLength: number, touchedCount: number): number {
  return RECORD_HEADER_BYTES + padded(framesLength) + padded(touchedCount * 4)
}

function putU64(view: DataView, offset: number, value: number): void {
  view.setUint32(offset, value >>> 0, true)
  view.setUint32(offset + 4, Math.floor(value / TWO_32), true)
}

function getU64(view: DataView, offset: number): number {
  return view.getUint32(offset, true) + view.getUint32(offset + 4, true) * TWO_32
}

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

export function encodeSegmentHeader(header: SegmentHeader, crc32c: Crc32c): Uint8Array {
  const bytes = new Uint8Array(SEGMENT_HEADER_BYTES)
  const view = viewOf(bytes)
  bytes.set(SEGMENT_MAGIC, 0)
  view.setUint32(8, header.version, true)
  view.setUint32(12, SEGMENT_HEADER_BYTES, true)
  bytes.set(Buffer.from(header.busId, 'hex'), 16)
  putU64(view, 32, header.firstEpoch)
  view.setUint32(40, header.headerSeed, true)
  view.setUint32(44, header.recordSeed, true)
  putU64(view, 48, header.createdMs)
  view.setUint32(SEGMENT_HEADER_BYTES - 4, crc32c(bytes.subarray(0, SEGMENT_HEADER_BYTES - 4)), true)
  return bytes
}

/** The header, or why it is not one. */
export function decodeSegmentHeader(bytes: Uint8Array, crc32c: Crc32c): SegmentHeader | string {
  if (bytes.length < SEGMENT_HEADER_BYTES) return 'the file is shorter than a segment header'
  const view = viewOf(bytes)
  if (SEGMENT_MAGIC.compare(bytes, 0, 8) !== 0) return 'it does not begin like a log segment'
  const crc = crc32c(bytes.subarray(0, SEGMENT_HEADER_BYTES - 4))
  if (crc !== view.getUint32(SEGMENT_HEADER_BYTES - 4, true)) return 'the checksum of its header is wrong'
  const version = view.getUint32(8, true)
  if (version < 1 || version > SEGMENT_FORMAT_VERSION)
    return `its format version ${version} is not known to this release`
  return {
    busId: Buffer.from(bytes.subarray(16, 32)).toString('hex'),
    firstEpoch: getU64(view, 32),
    headerSeed: view.getUint32(40, true),
    recordSeed: view.getUint32(44, true),
    createdMs: getU64(view, 48),
    version,
  }
}

/**
 * Writes a record's header into `head` (64 bytes). `body` holds the parts that follow it, in order, padding
 * included. The checksum passes over each part once.
 */
export function encodeRecordHeader(
  head: Uint8Array,
  view: DataView,
  record: LogRecord,
  body: readonly Uint8Array[],
  segment: SegmentHeader,
  mark: SyncMark,
  crc32c: Crc32c,
): void {
  const { epoch, timestampMs, digestBefore, frameCount, frames, touchedPages } = record
  view.setUint32(0, RECORD_MAGIC, true)
  view.setUint32(12, recordBytes(frames.length, touchedPages.length), true)
  putU64(view, 16, epoch)
  putU64(view, 24, timestampMs)
  head.set(digestBefore, 32)
  view.setUint32(48, frameCount, true)
  view.setUint32(52, frames.length, true)
  view.setUint32(56, touchedPages.length, true)
  view.setUint32(60, markBits(mark), true)
  sealHeader(head, view, body, segment, crc32c)
}

function markBits(mark: SyncMark): number {
  return ((mark.eachSynced ? EACH_SYNCED : 0) | Math.min(mark.unsynced, UNSYNCED_MAX)) >>> 0
}

function sealHeader(
  head: Uint8Array,
  view: DataView,
  body: readonly Uint8Array[],
  segment: SegmentHeader,
  crc32c: Crc32c,
): void {
  view.setUint32(8, crc32c(head.subarray(12, RECORD_HEADER_BYTES), segment.headerSeed), true)
  let crc = crc32c(head.subarray(8, RECORD_HEADER_BYTES), segment.recordSeed)
  for (const part of body) if (part.length > 0) crc = crc32c(part, crc)
  view.setUint32(4, crc, true)
}

/** A record that is its header alone. */
function encodeBare(
  magic: number,
  epoch: number,
  timestampMs: number,
  bits: number,
  segment: SegmentHeader,
  crc32c: Crc32c,
): Uint8Array {
  const head = new Uint8Array(RECORD_HEADER_BYTES)
  const view = viewOf(head)
  view.setUint32(0, magic, true)
  view.setUint32(12, RECORD_HEADER_BYTES, true)
  putU64(view, 16, epoch)
  putU64(view, 24, timestampMs)
  view.setUint32(60, bits, true)
  sealHeader(head, view, [], segment, crc32c)
  return head
}

/** Follows the record of `epoch` when the epoch was cancelled: it exists and changes nothing. */
export function encodeVoid(
  epoch: number,
  timestampMs: number,
  segment: SegmentHeader,
  mark: SyncMark,
  crc32c: Crc32c,
): Uint8Array {
  return encodeBare(VOID_MAGIC, epoch, timestampMs, markBits(mark), segment, crc32c)
}

/** Whether a sound void record of the epoch lies at `at`. */
export function isVoidAt(
  bytes: Uint8Array,
  view: DataView,
  at: number,
  epoch: number,
  segment: SegmentHeader,
  crc32c: Crc32c,
): boolean {
  if (at + RECORD_HEADER_BYTES > bytes.length || view.getUint32(at, true) !== VOID_MAGIC) return false
  const header = peekRecordHeader(bytes, view, at)
  return header?.epoch === epoch && recordSound(bytes, view, at, header, segment, crc32c)
}

/** The mark of a clean close, in place of the record of `nextEpoch`: everything before it is durable. */
export function encodeSeal(
  nextEpoch: number,
  timestampMs: number,
  segment: SegmentHeader,
  crc32c: Crc32c,
): Uint8Array {
  return encodeBare(SEAL_MAGIC, nextEpoch, timestampMs, EACH_SYNCED, segment, crc32c)
}

/** A header whose own checksum is right. */
export interface RecordHeader extends SyncMark {
  readonly isSeal: boolean
  readonly isVoid: boolean
  readonly byteLength: number
  readonly epoch: number
  readonly timestampMs: number
  readonly frameCount: number
  readonly framesLength: number
  readonly touchedCount: number
}

/** The record header at `at`; undefined when there is none with a right checksum. */
export function decodeRecordHeader(
  bytes: Uint8Array,
  view: DataView,
  at: number,
  segment: SegmentHeader,
  crc32c: Crc32c,
): RecordHeader | undefined {
  const header = peekRecordHeader(bytes, view, at)
  if (header === undefined) return undefined
  const crc = crc32c(bytes.subarray(at + 12, at + RECORD_HEADER_BYTES), segment.headerSeed)
  return crc === view.getUint32(at + 8, true) ? header : undefined
}

/** The header at `at` with its checksum unchecked; undefined where there cannot be one. */
export function peekRecordHeader(bytes: Uint8Array, view: DataView, at: number): RecordHeader | undefined {
  if (at + RECORD_HEADER_BYTES > bytes.length) return undefined
  const magic = view.getUint32(at, true)
  if (magic !== RECORD_MAGIC && magic !== VOID_MAGIC && magic !== SEAL_MAGIC) return undefined
  const byteLength = view.getUint32(at + 12, true)
  const framesLength = view.getUint32(at + 52, true)
  const touchedCount = view.getUint32(at + 56, true)
  if (byteLength > RECORD_MAX_BYTES || byteLength !== recordBytes(framesLength, touchedCount))
    return undefined
  const bits = view.getUint32(at + 60, true)
  return {
    isSeal: magic === SEAL_MAGIC,
    isVoid: magic === VOID_MAGIC,
    byteLength,
    epoch: getU64(view, at + 16),
    timestampMs: getU64(view, at + 24),
    frameCount: view.getUint32(at + 48, true),
    framesLength,
    touchedCount,
    eachSynced: bits >= EACH_SYNCED,
    unsynced: bits & UNSYNCED_MAX,
  }
}

/** The size of the record at `at`, which is known to be sound. */
export function byteLengthAt(view: DataView, at: number): number {
  return view.getUint32(at + 12, true)
}

/**
 * Whether each record before the one at `at`, which is known to be sound, was durable when it was written.
 */
export function eachSyncedAt(view: DataView, at: number): boolean {
  return view.getUint32(at + 60, true) >= EACH_SYNCED
}

/** Whether the whole record at `at` has the checksum its header claims. The bytes must be there. */
export function recordSound(
  bytes: Uint8Array,
  view: DataView,
  at: number,
  header: RecordHeader,
  segment: SegmentHeader,
  crc32c: Crc32c,
): boolean {
  return (
    crc32c(bytes.subarray(at + 8, at + header.byteLength), segment.recordSeed) ===
    view.getUint32(at + 4, true)
  )
}

/**
 * The record at `at`. Its frames and digest are views into `bytes`; its page ids are copied if they are not
 * aligned. A void one shows no frames and no pages, because none of them had an effect.
 */
export function recordAt(bytes: Uint8Array, view: DataView, at: number, isVoid = false): LogRecord {
  return new RecordView(bytes, view, at, isVoid)
}

/** Makes its views on demand: a reader of a long log looks at few of them. */
class RecordView implements LogRecord {
  readonly epoch: number
  readonly timestampMs: number
  readonly frameCount: number
  readonly isVoid: boolean
  readonly #bytes: Uint8Array
  readonly #at: number
  readonly #framesLength: number
  readonly #touchedCount: number

  constructor(bytes: Uint8Array, view: DataView, at: number, isVoid: boolean) {
    this.epoch = getU64(view, at + 16)
    this.timestampMs = getU64(view, at + 24)
    this.isVoid = isVoid
    this.frameCount = isVoid ? 0 : view.getUint32(at + 48, true)
    this.#bytes = bytes
    this.#at = at
    this.#framesLength = isVoid ? 0 : view.getUint32(at + 52, true)
    this.#touchedCount = isVoid ? 0 : view.getUint32(at + 56, true)
  }

  get digestBefore(): Uint8Array {
    return this.#bytes.subarray(this.#at + 32, this.#at + 48)
  }

  get frames(): Uint8Array {
    const from = this.#at + RECORD_HEADER_BYTES
    return this.#bytes.subarray(from, from + this.#framesLength)
  }

  get touchedPages(): Uint32Array {
    const at = this.#at + RECORD_HEADER_BYTES + padded(this.#framesLength)
    return idsAt(this.#bytes, at, this.#touchedCount)
  }
}

function idsAt(bytes: Uint8Array, at: number, count: number): Uint32Array {
  const offset = bytes.byteOffset + at
  if (offset % 4 === 0) return new Uint32Array(bytes.buffer, offset, count)
  const copy = new Uint8Array(count * 4)
  copy.set(bytes.subarray(at, at + count * 4))
  return new Uint32Array(copy.buffer)
}
