/**
 * Checks a data folder that nobody has open: every record of the log, every row and chunk of the SQLite files; and says what
 * a repair of the log would keep and lose (src/store/offline/repair.ts does it).
 *
 * Invariants: nothing is changed; everything that is not sound is named with its file and, where there is one, its offset; a
 * repair is the one that keeps the newest state: from the first epoch up to the damage, or from a sound checkpoint behind it.
 */
import path from 'node:path'
import { SEGMENT_HEADER_BYTES } from '../../limits.js'
import { CatalogReader } from '../catalog/catalog-reader.js'
import { openCheckpointFile } from '../checkpoint/file-reader.js'
import { type CheckpointFolder, checkpointEpochs, checkpointFolder } from '../checkpoint/folder.js'
import { CHECKPOINT_ENDING, RETIRED_ENDING } from '../checkpoint/format.js'
import { cursorProblems } from '../cursors/cursor-db.js'
import type { SegmentHeader } from '../log/record.js'
import { REASONS, readSegmentHeader, SegmentScanner } from '../log/segment-reader.js'
import type { Disk } from '../os/disk.js'
import { textOf } from '../os/errors.js'
import type { Crc32c } from '../types.js'

const SEGMENT_PATTERN = /^(\d{20})\.seg$/

export interface CheckedFolder {
  readonly dir: string
  readonly disk: Disk
  readonly crc32c: Crc32c
}

/** A segment file. `header`: what is wrong with it, where it cannot be read. */
export interface CheckedSegment {
  readonly name: string
  /** By its name. */
  readonly firstEpoch: number
  readonly header: SegmentHeader | string
}

/** A place in the log: a segment of the list, an offset in it, and the epoch whose record stands there. */
export interface LogPoint {
  readonly index: number
  readonly offset: number
  readonly epoch: number
}

export interface Repair {
  /** The log begins here afterwards; in the middle of a segment, that segment's rest becomes one. */
  readonly from: LogPoint
  /** And ends before this. */
  readonly to: LogPoint
  /** The checkpoint from which the state is had then; null: from the first epoch. */
  readonly checkpoint: number | null
  /** What would be lost, for people. */
  readonly loses: string
}

export interface CheckReport {
  readonly segments: readonly CheckedSegment[]
  /** The newest epoch up to which the log is sound from its beginning; 0 for none. */
  readonly soundEpoch: number
  /** What is not sound: file, offset, why. */
  readonly problems: readonly string[]
  /** What the next start does by itself. */
  readonly notes: readonly string[]
  /** null: the log needs none. */
  readonly repair: Repair | null
}

export function checkFolder(place: CheckedFolder): CheckReport {
  const problems: string[] = []
  const notes: string[] = []
  const checkpoints = checkpointFolder(path.join(place.dir, 'checkpoints'))
  const sound = checkCheckpoints(checkpoints, problems)
  problems.push(...catalogProblems(place.dir), ...cursorProblems(place.dir))
  const segments = listSegments(place)
  const first = segments[0]
  if (first === undefined) return { segments, soundEpoch: 0, problems, notes, repair: null }
  const start = { index: 0, offset: SEGMENT_HEADER_BYTES, epoch: first.firstEpoch }
  const walk = walkFrom(place, segments, start)
  problems.unshift(...walk.problems)
  if (walk.tornBytes > 0)
    notes.push(
      `${walk.tornBytes} bytes behind epoch ${walk.end.epoch - 1} were never durable; a start cuts them`,
    )
  const known = newestKnown(place.dir, checkpoints)
  const isBehind = !walk.isDamaged && known >= walk.end.epoch
  if (isBehind) {
    problems.push(`log: it ends at epoch ${walk.end.epoch - 1}, but epoch ${known} was durable`)
  }
  const traced = { ...walk, newestEpoch: Math.max(walk.newestEpoch, known) }
  const repair = walk.isDamaged || isBehind ? bestRepair(place, segments, start, traced, sound) : null
  if (walk.isDamaged) problems.push(...laterProblems(place, segments, walk))
  return { segments, soundEpoch: walk.end.epoch - 1, problems, notes, repair }
}

function listSegments({ disk, dir, crc32c }: CheckedFolder): CheckedSegment[] {
  const logDir = path.join(dir, 'log')
  const names = disk.exists(logDir) ? disk.list(logDir) : []
  return names.flatMap((name) => {
    const match = SEGMENT_PATTERN.exec(name)
    if (match === null) return []
    const fd = disk.open(path.join(logDir, name), {})
    try {
      return [{ name, firstEpoch: Number(match[1]), header: readSegmentHeader(disk, fd, crc32c) }]
    } finally {
      disk.close(fd)
    }
  })
}

interface Walk {
  /** Behind the last sound record. */
  readonly end: LogPoint
  readonly isDamaged: boolean
  readonly tornBytes: number
  readonly problems: string[]
  /** The newest epoch of which there is a trace. */
  readonly newestEpoch: number
}

/** Reads records from a point on until the log ends or one is not sound. */
function walkFrom(place: CheckedFolder, segments: readonly CheckedSegment[], start: LogPoint): Walk {
  let { epoch } = start
  const newest = Math.max(epoch - 1, (segments.at(-1)?.firstEpoch ?? 1) - 1)
  const damaged = (end: LogPoint, why: string, newestEpoch = newest): Walk => {
    const problems = [`log/${segments[end.index]?.name}, offset ${end.offset}: ${why}`]
    return { end, isDamaged: true, tornBytes: 0, problems, newestEpoch }
  }
  for (let index = start.index; index < segments.length; index++) {
    const segment = segments[index] as CheckedSegment
    const begin = { index, offset: index === start.index ? start.offset : SEGMENT_HEADER_BYTES, epoch }
    if (typeof segment.header === 'string') return damaged({ ...begin, offset: 0 }, segment.header)
    if (begin.offset === SEGMENT_HEADER_BYTES && segment.header.firstEpoch !== epoch)
      return damaged(begin, `it begins with epoch ${segment.header.firstEpoch}, expected was ${epoch}`)
    const isLast = index === segments.length - 1
    const found = scan(place, segment, segment.header, begin)
    epoch = found.nextEpoch
    const end = { index, offset: found.offset, epoch }
    const why = `the record of epoch ${epoch} is not sound (${REASONS[found.ended]})`
    if (!isLast && segments[index + 1]?.firstEpoch !== epoch) return damaged(end, why)
    if (isLast && found.damage !== null)
      return damaged(end, `${why}; ${found.damage.damage}`, Math.max(newest, found.damage.newestEpoch))
    if (isLast)
      return { end, isDamaged: false, tornBytes: found.tornBytes, problems: [], newestEpoch: epoch - 1 }
  }
  return { end: start, isDamaged: false, tornBytes: 0, problems: [], newestEpoch: epoch - 1 }
}

function scan(place: CheckedFolder, { name }: CheckedSegment, header: SegmentHeader, from: LogPoint) {
  const { disk, dir, crc32c } = place
  const fd = disk.open(path.join(dir, 'log', name), {})
  try {
    const scanner = new SegmentScanner(disk, fd, disk.sizeBytes(fd), header, crc32c, from.offset, from.epoch)
    while (scanner.next() !== null);
    const verdict = scanner.judgeEnd()
    return {
      nextEpoch: scanner.nextEpoch,
      offset: scanner.offset,
      ended: scanner.ended ?? ('empty' as const),
      damage: 'damage' in verdict ? verdict : null,
      tornBytes: 'tornBytes' in verdict ? verdict.tornBytes : 0,
    }
  } finally {
    disk.close(fd)
  }
}

/** What else is not sound in the segments behind the first damage. */
function laterProblems(place: CheckedFolder, segments: readonly CheckedSegment[], walk: Walk): string[] {
  const problems: string[] = []
  for (let index = walk.end.index + 1; index < segments.length; ) {
    const { firstEpoch } = segments[index] as CheckedSegment
    const next = walkFrom(place, segments, { index, offset: SEGMENT_HEADER_BYTES, epoch: firstEpoch })
    problems.push(...next.problems)
    if (!next.isDamaged) break
    index = next.end.index + 1
  }
  return problems
}

// ---- what a repair would keep ---------------------------------------------------------------------------------------

function bestRepair(
  place: CheckedFolder,
  segments: readonly CheckedSegment[],
  start: LogPoint,
  walk: Walk,
  checkpoints: readonly number[],
): Repair | null {
  const reaches = checkpoints.find((epoch) => epoch < walk.end.epoch && epoch >= start.epoch - 1)
  const cut: Repair = {
    from: start,
    to: walk.end,
    checkpoint: reaches ?? null,
    loses: lossOf(walk.end.epoch, walk.newestEpoch),
  }
  let best = start.epoch > 1 && reaches === undefined ? null : cut
  for (const epoch of checkpoints) {
    if (epoch < (best?.to.epoch ?? 0)) break
    const from = pointOf(place, segments, epoch + 1)
    if (from === null) continue
    const rest = walkFrom(place, segments, from)
    if (best !== null && rest.end.epoch <= best.to.epoch) continue
    const lost = rest.isDamaged ? lossOf(rest.end.epoch, rest.newestEpoch) : 'no epoch'
    const loses = `${lost}, and the history before epoch ${epoch}, which checkpoint ${epoch} stands for`
    best = { from, to: rest.end, checkpoint: epoch, loses }
  }
  return best
}

const lossOf = (from: number, newest: number): string =>
  newest > from ? `epochs ${from} to ${newest}` : `epoch ${from} and any after it`

/** Where the record of an epoch stands, though what is before it may be damaged; null when it is not found. */
function pointOf(place: CheckedFolder, segments: readonly CheckedSegment[], epoch: number): LogPoint | null {
  const index = segments.findLastIndex(({ firstEpoch }) => firstEpoch <= epoch)
  const segment = segments[index]
  if (segment === undefined || typeof segment.header === 'string') return null
  if (segment.firstEpoch === epoch) return { index, offset: SEGMENT_HEADER_BYTES, epoch }
  const { disk, dir, crc32c } = place
  const fd = disk.open(path.join(dir, 'log', segment.name), {})
  try {
    const scanner = new SegmentScanner(disk, fd, disk.sizeBytes(fd), segment.header, crc32c)
    const offset = scanner.find(epoch)
    return offset === null ? null : { index, offset, epoch }
  } finally {
    disk.close(fd)
  }
}

// ---- the SQLite files -----------------------------------------------------------------------------------------------

/** Epochs of the sound checkpoints, newest first. */
function checkCheckpoints(place: CheckpointFolder, problems: string[]): number[] {
  for (const name of place.list()) {
    if (!name.endsWith(CHECKPOINT_ENDING) && !name.endsWith(RETIRED_ENDING)) continue
    const why = integrityOf(place, name)
    if (why !== null) problems.push(`checkpoints/${name}: ${why}`)
  }
  return checkpointEpochs(place).filter((epoch) => {
    const opened = openCheckpointFile(place, epoch, null)
    if (typeof opened !== 'string') {
      opened.close()
      return true
    }
    problems.push(`checkpoint ${epoch}: ${opened}`)
    return false
  })
}

function integrityOf(place: CheckpointFolder, name: string): string | null {
  try {
    const db = place.open(name)
    try {
      const found = db.pragma('integrity_check(1)', { simple: true })
      return found === 'ok' ? null : String(found)
    } finally {
      db.close()
    }
  } catch (error) {
    return textOf(error)
  }
}

/** The newest epoch that the index or a checkpoint speaks of. */
function newestKnown(dir: string, checkpoints: CheckpointFolder): number {
  const reader = new CatalogReader(dir)
  try {
    const indexed = reader.blockBefore(Number.MAX_SAFE_INTEGER)?.lastEpoch ?? 0
    return Math.max(indexed, checkpointEpochs(checkpoints)[0] ?? 0)
  } finally {
    reader.close()
  }
}

function catalogProblems(dir: string): string[] {
  const reader = new CatalogReader(dir)
  try {
    return reader.problems()
  } finally {
    reader.close()
  }
}
