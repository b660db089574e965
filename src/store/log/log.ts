/**
 * The log as a whole: inspecting its segments at start, opening the last one for appends, and reading records
 * back.
 *
 * Invariants: segments are contiguous, each begins with the epoch after the last one of the segment before it
 * (checked when they are read). Only the last may have a torn tail. Inspecting changes nothing on disk;
 * `openLog` does. Knows nothing of checkpoints, and nothing of the index but where a block begins.
 */
import path from 'node:path'
import { MmsbError } from '../../errors.js'
import { LOG_READ_BYTES, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES } from '../../limits.js'
import { atOnce, type Sliced } from '../../slices.js'
import type { Disk } from '../os/disk.js'
import { busFailed, textOf } from '../os/errors.js'
import type { SegmentSpan } from '../retention.js'
import type { Crc32c, LogRecord } from '../types.js'
import {
  decodeRecordHeader,
  encodeSegmentHeader,
  isVoidAt,
  recordAt,
  recordSound,
  type SegmentHeader,
  viewOf,
} from './record.js'
import {
  createSegment,
  firstEpochOf,
  NEXT_SEGMENT_NAME,
  newSegmentHeader,
  reopenSegment,
  segmentName,
} from './segment-file.js'
import { readSegmentHeader, type ScannedRecord, SegmentScanner } from './segment-reader.js'
import { SegmentWriter, type SegmentWriterOptions } from './segment-writer.js'

export interface SegmentEntry {
  readonly header: SegmentHeader
  readonly file: string
  /** Bytes of header and records, so far for the last segment. */
  end: number
}

/** The last segment has no last epoch yet. */
export function spansOf(segments: readonly SegmentEntry[]): SegmentSpan[] {
  return segments.map(({ header, end }, i) => ({
    firstEpoch: header.firstEpoch,
    lastEpoch: (segments[i + 1]?.header.firstEpoch ?? Number.POSITIVE_INFINITY) - 1,
    bytes: end,
    createdMs: header.createdMs,
  }))
}

/** The result of inspecting the log. */
export interface LogFindings {
  readonly segments: SegmentEntry[]
  /** Undefined when there is no log. */
  readonly busId: string | undefined
  readonly newestEpoch: number
  readonly tornBytes: number
  /** In the last segment: from here on, records may never have been synced. */
  readonly unsureFrom: number
  /**
   * Which durable record is bad, and what cutting the log there would lose; undefined when the log is sound.
   */
  readonly damage: string | undefined
}

export interface LogFolder {
  readonly disk: Disk
  readonly logDir: string
  readonly crc32c: Crc32c
}

/** A scan of small records may be interrupted after this many. */
const RECORDS_PER_CHECK = 64

export type OnScanned = (segment: SegmentHeader, scanned: ScannedRecord) => void

// ---- inspecting ----------------------------------------------------------------------------------

/** Reads every segment header and every record of the last segment. Changes nothing. */
export function inspectLog(folder: LogFolder, onScanned: OnScanned): LogFindings {
  return atOnce(inspectingLog(folder, onScanned))
}

/** The same in slices. */
export function* inspectingLog(folder: LogFolder, onScanned: OnScanned): Sliced<LogFindings> {
  const { disk, logDir } = folder
  const segments: SegmentEntry[] = []
  for (const name of disk.exists(logDir) ? disk.list(logDir) : []) {
    if (firstEpochOf(name) === undefined) continue
    const entry = inspectSegment(folder, name)
    if (typeof entry === 'string') return withoutRecords(segments, `segment ${name}: ${entry}`)
    const first = segments[0]
    if (first !== undefined && first.header.busId !== entry.header.busId) {
      return withoutRecords(segments, `segment ${name} belongs to another bus`)
    }
    segments.push(entry)
  }
  const last = segments.at(-1)
  return last === undefined
    ? withoutRecords(segments, undefined)
    : yield* inspectLast(folder, segments, last, onScanned)
}

function withoutRecords(segments: SegmentEntry[], damage: string | undefined): LogFindings {
  return {
    segments,
    busId: segments[0]?.header.busId,
    newestEpoch: 0,
    tornBytes: 0,
    unsureFrom: 0,
    damage,
  }
}

function inspectSegment({ disk, logDir, crc32c }: LogFolder, name: string): SegmentEntry | string {
  const file = path.join(logDir, name)
  const fd = disk.open(file, {})
  try {
    const header = readSegmentHeader(disk, fd, crc32c)
    if (typeof header === 'string') return header
    if (segmentName(header.firstEpoch) !== name)
      return `its header says it begins with epoch ${header.firstEpoch}`
    return { header, file, end: disk.sizeBytes(fd) }
  } finally {
    disk.close(fd)
  }
}

function* inspectLast(
  { disk, crc32c }: LogFolder,
  segments: SegmentEntry[],
  last: SegmentEntry,
  onScanned: OnScanned,
): Sliced<LogFindings> {
  const fd = disk.open(last.file, {})
  try {
    const scanner = new SegmentScanner(disk, fd, disk.sizeBytes(fd), last.header, crc32c)
    for (let found = scanner.next(); found !== undefined; found = scanner.next()) {
      onScanned(last.header, found)
      if (found.record.epoch % RECORDS_PER_CHECK === 0 || found.byteLength > LOG_READ_BYTES) yield
    }
    last.end = scanner.offset
    const verdict = scanner.judgeEnd()
    const isTorn = 'tornBytes' in verdict
    return {
      segments,
      busId: last.header.busId,
      newestEpoch: scanner.nextEpoch - 1,
      tornBytes: isTorn ? verdict.tornBytes : 0,
      unsureFrom: scanner.unsureFrom,
      damage: isTorn ? undefined : describeDamage(last, scanner, verdict.damage, verdict.newestEpoch),
    }
  } finally {
    disk.close(fd)
  }
}

function describeDamage(
  entry: SegmentEntry,
  scanner: SegmentScanner,
  why: string,
  newestEpoch: number,
): string {
  const { offset, nextEpoch, ended } = scanner
  const state = ended === 'empty' || ended === 'seal' ? 'missing' : 'damaged'
  const lost =
    newestEpoch > nextEpoch ? `epochs ${nextEpoch} to ${newestEpoch}` : `epoch ${nextEpoch} and any after it`
  // The log does not know which of these epochs a checkpoint holds.
  return (
    `segment ${path.basename(entry.file)}, offset ${offset}: the record of epoch ${nextEpoch} is ${state} (${why}); ` +
    `cutting the log there would lose ${lost} where no checkpoint has them; \`mmsb log check\` says what --fix would do`
  )
}

// ---- opening for appends -------------------------------------------------------------------------

/** Opens the last segment for appends and cuts a torn tail; creates the first segment of a new bus. */
export async function openLog(
  options: SegmentWriterOptions,
  findings: LogFindings,
  segments: SegmentEntry[],
): Promise<SegmentWriter> {
  const { disk, logDir } = options
  const last = segments.at(-1)
  disk.remove(path.join(logDir, NEXT_SEGMENT_NAME))
  if (last === undefined) return beginLog(options, segments)
  await disk.syncDir(logDir)
  const segment = reopenSegment(options, last, findings.unsureFrom)
  return new SegmentWriter(options, segment, last.end, findings.newestEpoch)
}

async function beginLog(options: SegmentWriterOptions, segments: SegmentEntry[]): Promise<SegmentWriter> {
  const { disk, logDir, crc32c } = options
  const next = await createSegment(options, options.segmentBytes)
  const header = newSegmentHeader(options, 1)
  const file = path.join(logDir, segmentName(1))
  try {
    disk.writeSync(next.fd, [encodeSegmentHeader(header, crc32c)], 0)
    disk.syncSync(next.fd)
    disk.rename(next.file, file)
    await disk.syncDir(logDir)
  } catch (error) {
    disk.close(next.fd)
    throw busFailed(`the log cannot be begun: ${textOf(error)}`, error)
  }
  segments.push({ header, file, end: SEGMENT_HEADER_BYTES })
  return new SegmentWriter(options, { ...next, header, file }, SEGMENT_HEADER_BYTES, 0)
}

// ---- reading back --------------------------------------------------------------------------------

/** Index in `segments` of the one that holds the epoch (the last that begins at or before it). */
export function segmentOf(segments: readonly SegmentEntry[], epoch: number): number {
  let low = 0
  let high = segments.length - 1
  while (low < high) {
    const middle = (low + high + 1) >> 1
    if ((segments[middle]?.header.firstEpoch ?? 0) <= epoch) low = middle
    else high = middle - 1
  }
  return low
}

/**
 * Every record after `fromEpoch` up to `newestEpoch`, synchronously. A record is valid until the next one
 * is requested.
 */
export function* recordsAfter(
  { disk, crc32c }: LogFolder,
  segments: readonly SegmentEntry[],
  fromEpoch: number,
  newestEpoch: number,
): Generator<LogRecord> {
  for (let i = segmentOf(segments, fromEpoch + 1); ; i++) {
    const entry = segments[i]
    if (entry === undefined || entry.header.firstEpoch > newestEpoch) return
    const last = Math.min(newestEpoch, (segments[i + 1]?.header.firstEpoch ?? newestEpoch + 1) - 1)
    const fd = disk.open(entry.file, {})
    try {
      const sizeBytes = Math.min(entry.end, disk.sizeBytes(fd))
      const scanner = new SegmentScanner(disk, fd, sizeBytes, entry.header, crc32c)
      while (scanner.nextEpoch <= last) {
        const { record } = scanner.next() ?? damagedAt(entry, scanner, newestEpoch)
        if (record.epoch > fromEpoch) yield record
      }
    } finally {
      disk.close(fd)
    }
  }
}

function damagedAt(entry: SegmentEntry, scanner: SegmentScanner, newestEpoch: number): never {
  const why = 'later records were written when it was durable'
  throw busFailed(`the log is damaged: ${describeDamage(entry, scanner, why, newestEpoch)}`)
}

/**
 * Reads records of one segment from an offset on, asynchronously, window by window. Records own the bytes of
 * their window.
 */
export async function* readForward(
  { disk, crc32c }: LogFolder,
  entry: SegmentEntry,
  start: number,
  startEpoch: number,
  lastEpoch: number,
): AsyncGenerator<ScannedRecord> {
  const fd = disk.open(entry.file, {})
  try {
    let offset = start
    let need = RECORD_HEADER_BYTES
    for (let epoch = startEpoch; epoch <= lastEpoch; ) {
      const bytes = new Uint8Array(Math.max(need, Math.min(LOG_READ_BYTES, entry.end - offset)))
      const got = await disk.read(fd, bytes, bytes.length, offset)
      const place = { base: offset, end: entry.end, segment: entry.header }
      const window = decodeWindow(bytes.subarray(0, got), place, epoch, lastEpoch, crc32c)
      yield* window.records
      epoch += window.records.length
      offset = window.next
      const isStuck = window.need === 0 || window.need <= need || window.need > entry.end - offset
      if (window.records.length === 0 && isStuck) {
        const where = `segment ${path.basename(entry.file)}, offset ${offset}`
        throw new MmsbError(
          'INTERNAL',
          `the log is damaged: ${where}: the record of epoch ${epoch} is not sound`,
        )
      }
      need = Math.max(window.need, RECORD_HEADER_BYTES)
    }
  } finally {
    disk.close(fd)
  }
}

interface DecodedWindow {
  readonly records: ScannedRecord[]
  /** File offset behind the last of the records. */
  readonly next: number
  /** Bytes that the record at `next` needs; 0: the bytes there are no sound record. */
  readonly need: number
}

/** Where the bytes of a window lie: from offset `base` on, in a segment whose records end at `end`. */
interface WindowPlace {
  readonly base: number
  readonly end: number
  readonly segment: SegmentHeader
}

function decodeWindow(
  bytes: Uint8Array,
  { base, end, segment }: WindowPlace,
  firstEpoch: number,
  lastEpoch: number,
  crc32c: Crc32c,
): DecodedWindow {
  const view = viewOf(bytes)
  const records: ScannedRecord[] = []
  let at = isVoidAt(bytes, view, 0, firstEpoch - 1, segment, crc32c) ? RECORD_HEADER_BYTES : 0
  let need = RECORD_HEADER_BYTES
  while (firstEpoch + records.length <= lastEpoch && at + RECORD_HEADER_BYTES <= bytes.length) {
    const header = decodeRecordHeader(bytes, view, at, segment, crc32c)
    // With what lies behind it, which says whether the epoch is void.
    need = header === undefined ? 0 : Math.min(header.byteLength + RECORD_HEADER_BYTES, end - base - at)
    if (header === undefined || at + need > bytes.length) break
    const isSound = recordSound(bytes, view, at, header, segment, crc32c) && !header.isSeal && !header.isVoid
    const epoch = firstEpoch + records.length
    need = isSound && header.epoch === epoch ? RECORD_HEADER_BYTES : 0
    if (need === 0) break
    const isVoid = isVoidAt(bytes, view, at + header.byteLength, epoch, segment, crc32c)
    const byteLength = header.byteLength + (isVoid ? RECORD_HEADER_BYTES : 0)
    records.push({ record: recordAt(bytes, view, at, isVoid), offset: base + at, byteLength })
    at += byteLength
  }
  return { records, next: base + at, need }
}
