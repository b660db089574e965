/**
 * Lays a record out for one write. A small record is gathered in a buffer that is used again, so that it is
 * one part; the body of a large one is written from where it lies.
 */
import { RECORD_GATHER_MAX_BYTES, RECORD_HEADER_BYTES } from '../../limits.js'
import type { Crc32c, LogRecord } from '../types.js'
import { encodeRecordHeader, padded, type SegmentHeader, type SyncMark, viewOf } from './record.js'

/** A buffer for small records. */
export interface RecordBuffer {
  readonly bytes: Uint8Array
  readonly view: DataView
}

export function newRecordBuffer(): RecordBuffer {
  const bytes = new Uint8Array(RECORD_GATHER_MAX_BYTES)
  return { bytes, view: viewOf(bytes) }
}

/** Encodes a record of `byteLength` bytes into the buffer. Returns the parts to write: one, in the buffer. */
export function encodeSmall(
  buffer: RecordBuffer,
  record: LogRecord,
  byteLength: number,
  segment: SegmentHeader,
  mark: SyncMark,
  crc32c: Crc32c,
): Uint8Array[] {
  const { bytes, view } = buffer
  layOut(buffer, record, byteLength)
  const body = [bytes.subarray(RECORD_HEADER_BYTES, byteLength)]
  encodeRecordHeader(bytes, view, record, body, segment, mark, crc32c)
  return [bytes.subarray(0, byteLength)]
}

/** Puts the record into the buffer but for its header, with padding cleared. */
function layOut({ bytes, view }: RecordBuffer, record: LogRecord, byteLength: number): void {
  const { frames, touchedPages } = record
  const framesEnd = RECORD_HEADER_BYTES + frames.length
  let at = RECORD_HEADER_BYTES + padded(frames.length)
  bytes.set(frames, RECORD_HEADER_BYTES)
  if (framesEnd < at) bytes.fill(0, framesEnd, at)
  for (let i = 0; i < touchedPages.length; i++, at += 4) view.setUint32(at, touchedPages[i] ?? 0, true)
  if (at < byteLength) bytes.fill(0, at, byteLength)
}

/**
 * Encodes the header of a large record. Returns the parts to write: the header, then the body where it lies.
 */
export function encodeLarge(
  record: LogRecord,
  segment: SegmentHeader,
  mark: SyncMark,
  crc32c: Crc32c,
): Uint8Array[] {
  const { frames, touchedPages } = record
  const ids = new Uint8Array(touchedPages.buffer, touchedPages.byteOffset, touchedPages.byteLength)
  const body = [frames, padding(frames.length), ids, padding(ids.length)].filter((part) => part.length > 0)
  const header = new Uint8Array(RECORD_HEADER_BYTES)
  encodeRecordHeader(header, viewOf(header), record, body, segment, mark, crc32c)
  return [header, ...body]
}

function padding(length: number): Uint8Array {
  return new Uint8Array(padded(length) - length)
}
