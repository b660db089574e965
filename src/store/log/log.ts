/**
 * The log as a whole: the list of segments, what is found at start, and reading records back.
 *
 * Invariants: segments are contiguous (each begins with the epoch after the last of the one before it; checked when they
 * are read); only the last may have a torn tail; inspecting changes nothing on disk, `openLog` does. Knows nothing of
 * the index beyond where a block begins, and nothing of checkpoints.
 */
import path from 'node:path'
import { MmsbError } from '../../errors.js'
import { LOG_READ_BYTES, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES } from '../../limits.js'
import type { Disk } from '../os/disk.js'
import { busFailed, isNoRoom, textOf } from '../os/errors.js'
import type { Crc32c, LogRecord } from '../types.js'
import {
  decodeRecordHeader,
  encodeSegmentHeader,
  recordAt,
  recordSound,
  type SegmentHeader,
  viewOf,
} from './record.js'
import { readSegmentHeader, type ScannedRecord, SegmentScanner } from './segment-reader.js'
import {
  createSegment,
  NEXT_SEGMENT_NAME,
  newHeader,
  type OpenSegment,
  SegmentWriter,
  type SegmentWriterOptions,
  segmentName,
} from './segment-writer.js'

const SEGMENT_PATTERN = /^\d{20}\.seg$/

export interface SegmentEntry {
  readonly header: SegmentHeader
  readonly file: string
  /** Bytes of header and records; for the tail, as they stand. */
  end: number
}

/** What inspecting the log found. */
export interface LogFindings {
  readonly segments: SegmentEntry[]
  readonly busId: string | null
  readonly newestEpoch: number
  readonly tornBytes: number
  /** In the last segment: records from here on were perhaps never synced. */
  readonly unsureFrom: number
  /** Where the record stands that was durable and is bad, and what would be lost; null when there is none. */
  readonly damage: string | null
}

export interface LogFolder {
  readonly disk: Disk
  readonly logDir: string
  readonly crc32c: Crc32c
}

export type OnScanned = (segment: SegmentHeader, scanned: ScannedRecord) => void

/** Reads every segment header and every record of the last segment. Changes nothing. */
export function inspectLog(place: LogFolder, onScanned: OnScanned): LogFindings {
  const segments: SegmentEntry[] = []
  const names = place.disk.exists(place.logDir) ? place.disk.list(place.logDir) : []
  for (const name of names) {
    if (!SEGMENT_PATTERN.test(name)) continue
    const entry = inspectSegment(place, name)
    if (typeof entry === 'string') return damaged(segments, `segment ${name}: ${entry}`)
    const first = segments[0]
    if (first !== undefined && first.header.busId !== entry.header.busId) {
      return damaged(segments, `segment ${name} belongs to another bus`)
    }
    segments.push(entry)
  }
  const last = segments.at(-1)
  if (last === undefined) return damaged(segments, null)
  return inspectLast(place, segments, last, onScanned)
}

function damaged(segments: SegmentEntry[], damage: string | null): LogFindings {
  const busId = segments[0]?.header.busId ?? null
  return { segments, busId, newestEpoch: 0, tornBytes: 0, unsureFrom: 0, damage }
}

function inspectSegment(place: LogFolder, name: string): SegmentEntry | string {
  const { disk, logDir, crc32c } = place
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

function inspectLast(
  place: LogFolder,
  segments: SegmentEntry[],
  last: SegmentEntry,
  onScanned: OnScanned,
): LogFindings {
  const { disk, crc32c } = place
  const fd = disk.open(last.file, {})
  try {
    const scanner = new SegmentScanner(disk, fd, disk.sizeBytes(fd), last.header, crc32c)
    for (let found = scanner.next(); found !== null; found = scanner.next()) onScanned(last.header, found)
    last.end = scanner.offset
    const verdict = scanner.judgeEnd()
    const newestEpoch = scanner.nextEpoch - 1
    const base = { segments, busId: last.header.busId, newestEpoch, unsureFrom: scanner.unsureFrom }
    if ('tornBytes' in verdict) return { ...base, tornBytes: verdict.tornBytes, damage: null }
    return {
      ...base,
      tornBytes: 0,
      damage: describeDamage(last, scanner, verdict.damage, verdict.newestEpoch),
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
  // What checkpoints hold of them is not known here.
  return (
    `segment ${path.basename(entry.file)}, offset ${offset}: the record of epoch ${nextEpoch} is ${state} (${why}); ` +
    `cutting the log there would lose ${lost} where no checkpoint has them; \`mmsb log check\` says what --fix would do`
  )
}

/** Opens the last segment for appends, cutting what is torn; creates the first one of a new bus. */
export async function openLog(
  options: SegmentWriterOptions,
  findings: LogFindings,
  segments: SegmentEntry[],
): Promise<SegmentWriter> {
  const { disk, logDir } = options
  const last = segments.at(-1)
  disk.remove(path.join(logDir, NEXT_SEGMENT_NAME))
  if (last === undefined) return beginLog(options, segments)
  const segment = reopen(options, last, findings.unsureFrom)
  await disk.syncDir(logDir)
  return new SegmentWriter(options, segment, last.end, findings.newestEpoch)
}

/** Cuts the file behind the last record, allocates room again and makes all of it durable. */
function reopen(
  options: SegmentWriterOptions,
  { header, file, end }: SegmentEntry,
  unsureFrom: number,
): OpenSegment {
  const { disk, fsync } = options
  let fd = -1
  try {
    fd = disk.open(file, { write: true })
    disk.truncate(fd, end)
    rewrite(disk, fd, unsureFrom, end)
    const room = allocateMore(options, fd, end)
    disk.syncSync(fd)
    if (fsync === 'always') {
      disk.close(fd)
      fd = -1
      fd = disk.open(file, { write: true, dsync: true })
    }
    return { header, file, fd, ...room }
  } catch (error) {
    if (fd >= 0) disk.close(fd)
    throw busFailed(`the log segment ${file} cannot be written: ${textOf(error)}`, error)
  }
}

/**
 * Writes records again that the last process may not have seen synced. After a sync that failed, the system may show
 * bytes that are not on the disk and hold them for clean; only writing them anew makes the next sync cover them.
 */
function rewrite(disk: Disk, fd: number, from: number, end: number): void {
  const bytes = new Uint8Array(Math.min(LOG_READ_BYTES, end - from))
  for (let at = from; at < end; at += bytes.length) {
    const length = disk.readSync(fd, bytes, Math.min(bytes.length, end - at), at)
    disk.writeSync(fd, [bytes.subarray(0, length)], at)
  }
}

/** With a full disk nothing is added: what there is can be read, and the first write is told LOG_FULL. */
function allocateMore(
  { disk, segmentBytes }: SegmentWriterOptions,
  fd: number,
  end: number,
): Pick<OpenSegment, 'capacity' | 'zeroAhead'> {
  if (segmentBytes <= end) return { capacity: end, zeroAhead: false }
  try {
    return { capacity: segmentBytes, zeroAhead: disk.allocate(fd, end, segmentBytes - end) }
  } catch (error) {
    if (!isNoRoom(error)) throw error
    disk.truncate(fd, end)
    return { capacity: end, zeroAhead: false }
  }
}

async function beginLog(options: SegmentWriterOptions, segments: SegmentEntry[]): Promise<SegmentWriter> {
  const { disk, logDir, crc32c } = options
  const next = await createSegment(options, options.segmentBytes)
  const header = newHeader(options, 1)
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

/** Every record after `fromEpoch`, synchronously. The record is valid until the next one is asked for. */
export function* recordsAfter(
  { disk, crc32c }: LogFolder,
  segments: readonly SegmentEntry[],
  fromEpoch: number,
  newestEpoch: number,
): Generator<LogRecord> {
  for (let i = segmentOf(segments, fromEpoch + 1); i < segments.length; i++) {
    const entry = segments[i]
    if (entry === undefined || entry.header.firstEpoch > newestEpoch) return
    const last = (segments[i + 1]?.header.firstEpoch ?? newestEpoch + 1) - 1
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

/** Reads records from an offset of one segment, asynchronously, in windows. Records own their bytes' window. */
export async function* readForward(
  place: LogFolder,
  entry: SegmentEntry,
  start: number,
  startEpoch: number,
  lastEpoch: number,
): AsyncGenerator<ScannedRecord> {
  const { disk, crc32c } = place
  const fd = disk.open(entry.file, {})
  try {
    let offset = start
    let need = RECORD_HEADER_BYTES
    for (let epoch = startEpoch; epoch <= lastEpoch; ) {
      const bytes = new Uint8Array(Math.max(need, Math.min(LOG_READ_BYTES, entry.end - offset)))
      const got = await disk.read(fd, bytes, bytes.length, offset)
      const run = decodeRun(bytes.subarray(0, got), offset, epoch, lastEpoch, entry.header, crc32c)
      yield* run.records
      epoch += run.records.length
      offset = run.next
      if (run.records.length === 0 && (run.need === 0 || run.need <= need || run.need > entry.end - offset)) {
        const where = `segment ${path.basename(entry.file)}, offset ${offset}`
        throw new MmsbError(
          'INTERNAL',
          `the log is damaged: ${where}: the record of epoch ${epoch} is not sound`,
        )
      }
      need = Math.max(run.need, RECORD_HEADER_BYTES)
    }
  } finally {
    disk.close(fd)
  }
}

interface Run {
  readonly records: ScannedRecord[]
  /** File offset behind the last record of the run. */
  readonly next: number
  /** Bytes that the record at `next` needs; 0: what stands there is not sound. */
  readonly need: number
}

function decodeRun(
  bytes: Uint8Array,
  base: number,
  firstEpoch: number,
  lastEpoch: number,
  segment: SegmentHeader,
  crc32c: Crc32c,
): Run {
  const view = viewOf(bytes)
  const records: ScannedRecord[] = []
  let at = 0
  let need = RECORD_HEADER_BYTES
  while (firstEpoch + records.length <= lastEpoch && at + RECORD_HEADER_BYTES <= bytes.length) {
    const header = decodeRecordHeader(bytes, view, at, segment, crc32c)
    need = header?.byteLength ?? 0
    if (header === null || at + header.byteLength > bytes.length) break
    const sound = recordSound(bytes, view, at, header, segment, crc32c) && !header.seal
    need = sound && header.epoch === firstEpoch + records.length ? RECORD_HEADER_BYTES : 0
    if (need === 0) break
    records.push({ record: recordAt(bytes, view, at), offset: base + at, byteLength: header.byteLength })
    at += header.byteLength
  }
  return { records, next: base + at, need }
}
