/**
 * The files of log segments: their names, and creating or reopening one for appends.
 *
 * Invariants: a segment is created under a temporary name and gets its own name only when its header is
 * durable (the caller does both). Room for appends is reserved before the first of them.
 */
import path from 'node:path'
import { LOG_READ_BYTES, SEGMENT_FORMAT_VERSION } from '../../limits.js'
import type { Disk } from '../os/disk.js'
import { busFailed, isNoRoom, logFull, textOf } from '../os/errors.js'
import type { Crc32c, FsyncPolicy } from '../types.js'
import { type SegmentHeader, viewOf } from './record.js'

/** The file of a segment that has no first epoch yet. */
export const NEXT_SEGMENT_NAME = 'next.tmp'
const SEGMENT_PATTERN = /^(\d{20})\.seg$/

export function segmentName(firstEpoch: number): string {
  return `${String(firstEpoch).padStart(20, '0')}.seg`
}

/** The first epoch of a segment by its file name; undefined for files that are no segments. */
export function firstEpochOf(name: string): number | undefined {
  const match = SEGMENT_PATTERN.exec(name)
  return match === null ? undefined : Number(match[1])
}

export interface SegmentOptions {
  readonly disk: Disk
  readonly logDir: string
  readonly fsync: FsyncPolicy
  readonly crc32c: Crc32c
  readonly clock: () => number
  readonly random: (length: number) => Uint8Array
  readonly segmentBytes: number
  readonly busId: string
}

/** A segment that is open for appends. */
export interface OpenSegment {
  readonly header: SegmentHeader
  readonly file: string
  readonly fd: number
  /** Bytes with room reserved. */
  readonly capacity: number
  /** Zeros written ahead make appends faster here. */
  readonly zeroAhead: boolean
}

export function newSegmentHeader(
  { random, clock, busId }: Pick<SegmentOptions, 'random' | 'clock' | 'busId'>,
  firstEpoch: number,
): SegmentHeader {
  const seeds = viewOf(random(8))
  return {
    busId,
    firstEpoch,
    headerSeed: seeds.getUint32(0, true),
    recordSeed: seeds.getUint32(4, true),
    createdMs: clock(),
    version: SEGMENT_FORMAT_VERSION,
  }
}

/**
 * Creates a segment under its temporary name: room reserved, durable in size, the header still zero. Throws
 * LOG_FULL or BUS_FAILED, and leaves no file then.
 */
export async function createSegment(options: SegmentOptions, capacity: number): Promise<OpenSegment> {
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
    return { header: newSegmentHeader(options, 0), file, fd, capacity, zeroAhead }
  } catch (error) {
    if (fd >= 0) disk.close(fd)
    disk.remove(file)
    if (isNoRoom(error))
      throw logFull(`no room for a log segment of ${capacity} bytes: ${textOf(error)}`, error)
    throw busFailed(`a log segment could not be created: ${textOf(error)}`, error)
  }
}

/** An existing segment, with the end of its last record. */
export interface SegmentToReopen {
  readonly header: SegmentHeader
  readonly file: string
  readonly end: number
}

/**
 * Opens a segment for appends: cuts the file behind the last record, reserves room again and makes all of it
 * durable. `unsureFrom`: from here on, records may never have been synced. Throws BUS_FAILED.
 */
export function reopenSegment(
  options: SegmentOptions,
  { header, file, end }: SegmentToReopen,
  unsureFrom: number,
): OpenSegment {
  const { disk, fsync } = options
  let fd = -1
  try {
    fd = disk.open(file, { write: true })
    disk.truncate(fd, end)
    rewrite(disk, fd, unsureFrom, end)
    const reserved = reserveMore(options, fd, end)
    disk.syncSync(fd)
    if (fsync === 'always') {
      disk.close(fd)
      fd = -1
      fd = disk.open(file, { write: true, dsync: true })
    }
    return { header, file, fd, ...reserved }
  } catch (error) {
    if (fd >= 0) disk.close(fd)
    throw busFailed(`the log segment ${file} cannot be written: ${textOf(error)}`, error)
  }
}

/**
 * Writes records again that the last process may not have seen synced. After a failed sync, the system may
 * show bytes that are not on the disk and consider them clean; the next sync covers them only if they are
 * written again.
 */
function rewrite(disk: Disk, fd: number, from: number, end: number): void {
  const bytes = new Uint8Array(Math.min(LOG_READ_BYTES, end - from))
  for (let at = from; at < end; at += bytes.length) {
    const length = disk.readSync(fd, bytes, Math.min(bytes.length, end - at), at)
    disk.writeSync(fd, [bytes.subarray(0, length)], at)
  }
}

/** On a full disk nothing is reserved: the log can be read, and the first append is refused with LOG_FULL. */
function reserveMore(
  { disk, segmentBytes }: SegmentOptions,
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
