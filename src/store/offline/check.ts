/**
 * Checks a data folder that no process has open: every record of the log, every row and chunk of the SQLite
 * files. Says what a repair of the log would keep and lose (src/store/offline/repair.ts makes it).
 *
 * Invariants: nothing is changed. Every fault is reported with its file and, if there is one, its offset. The
 * proposed repair is the one that keeps the newest state: from the first epoch up to the damage, or from a
 * sound checkpoint behind it.
 */
import path from 'node:path'
import { SEGMENT_HEADER_BYTES } from '../../limits.js'
import { CatalogReader } from '../catalog/catalog-reader.js'
import { openCheckpointFile } from '../checkpoint/file-reader.js'
import { type CheckpointFolder, checkpointEpochs, checkpointFolder } from '../checkpoint/folder.js'
import { CHECKPOINT_ENDING, RETIRED_ENDING } from '../checkpoint/format.js'
import { cursorProblems } from '../cursors/cursor-db.js'
import type { SegmentHeader } from '../log/record.js'
import { firstEpochOf } from '../log/segment-file.js'
import { REASONS, readSegmentHeader, SegmentScanner } from '../log/segment-reader.js'
import type { Disk } from '../os/disk.js'
import { textOf } from '../os/errors.js'
import type { Crc32c, LogRecord } from '../types.js'

export interface CheckedFolder {
  readonly dir: string
  readonly disk: Disk
  readonly crc32c: Crc32c
  /** What is wrong with the frames of a record; absent: they are not looked into. */
  readonly frameProblem?: (record: LogRecord) => string | undefined
  /**
   * Replays the log from a checkpoint or its beginning up to an epoch: the first epoch whose state is not
   * what the log recorded. Absent: the log is not replayed.
   */
  readonly replay?: (from: number, to: number) => Divergence | undefined
}

export interface Divergence {
  readonly epoch: number
  readonly detail: string
}

/** A segment file. `header` is the fault when it cannot be read. */
export interface CheckedSegment {
  readonly name: string
  /** According to its name. */
  readonly firstEpoch: number
  readonly header: SegmentHeader | string
}

/** A folder in the log: a segment of the list, an offset in it, and the epoch whose record stands there. */
export interface LogPoint {
  readonly index: number
  readonly offset: number
  readonly epoch: number
}

export interface Repair {
  /**
   * The repaired log begins here. If that is inside a segment, the rest of it becomes a segment of its own.
   */
  readonly from: LogPoint
  /** The repaired log ends before this. */
  readonly to: LogPoint
  /** The checkpoint that the repaired log is replayed from; undefined: from the first epoch. */
  readonly checkpoint: number | undefined
  /** The loss in words. */
  readonly loses: string
}

export interface CheckReport {
  readonly segments: readonly CheckedSegment[]
  /** The log is sound from its beginning up to this epoch; 0 for none. */
  readonly soundEpoch: number
  /** The faults: file, offset, reason. */
  readonly problems: readonly string[]
  /** What the next start will do by itself. */
  readonly notes: readonly string[]
  /** Undefined: the log needs no repair, or none is possible. */
  readonly repair: Repair | undefined
}

export function checkFolder(folder: CheckedFolder): CheckReport {
  const problems: string[] = []
  const notes: string[] = []
  const checkpoints = checkpointFolder(path.join(folder.dir, 'checkpoints'))
  const sound = checkCheckpoints(checkpoints, problems)
  problems.push(...catalogProblems(folder.dir), ...cursorProblems(folder.dir))
  const segments = listSegments(folder)
  const first = segments[0]
  if (first === undefined) {
    problems.unshift('log: it has no segments')
    return { segments, soundEpoch: 0, problems, notes, repair: undefined }
  }
  const start = { index: 0, offset: SEGMENT_HEADER_BYTES, epoch: first.firstEpoch }
  const oldest = start.epoch === 1 ? 0 : sound.findLast((epoch) => epoch >= start.epoch - 1)
  if (oldest === undefined)
    problems.push(`log: it begins with epoch ${start.epoch}, and no sound checkpoint leads there`)
  const walk = replayed(folder, segments, walkFrom(folder, segments, start), oldest)
  problems.unshift(...walk.problems)
  if (walk.tornBytes > 0)
    notes.push(
      `${walk.tornBytes} bytes behind epoch ${walk.end.epoch - 1} were never durable; the next start cuts them`,
    )
  const known = newestKnown(folder.dir, checkpoints)
  const isBehind = !walk.isDamaged && known >= walk.end.epoch
  if (isBehind) {
    problems.push(`log: it ends at epoch ${walk.end.epoch - 1}, but epoch ${known} was durable`)
  }
  const traced = { ...walk, newestEpoch: Math.max(walk.newestEpoch, known) }
  const repair = walk.isDamaged || isBehind ? bestRepair(folder, segments, start, traced, sound) : undefined
  if (walk.isDamaged) problems.push(...laterProblems(folder, segments, walk))
  return { segments, soundEpoch: walk.end.epoch - 1, problems, notes, repair }
}

/** The walk, ended where the replayed states are no longer those that the log recorded. */
function replayed(
  folder: CheckedFolder,
  segments: readonly CheckedSegment[],
  walk: Walk,
  from: number | undefined,
): Walk {
  const to = walk.end.epoch - 1
  const divergence = from === undefined || to <= from ? undefined : folder.replay?.(from, to)
  if (divergence === undefined) return walk
  const { epoch, detail } = divergence
  const problems = [...walk.problems, `log: it diverges at epoch ${epoch}: ${detail}`]
  const end = pointOf(folder, segments, epoch)
  const newestEpoch = Math.max(walk.newestEpoch, to)
  return { ...walk, end: end ?? walk.end, isDamaged: end !== undefined, problems, newestEpoch }
}

function listSegments({ disk, dir, crc32c }: CheckedFolder): CheckedSegment[] {
  const logDir = path.join(dir, 'log')
  const names = disk.exists(logDir) ? disk.list(logDir) : []
  return names.flatMap((name) => {
    const firstEpoch = firstEpochOf(name)
    if (firstEpoch === undefined) return []
    const fd = disk.open(path.join(logDir, name), {})
    try {
      return [{ name, firstEpoch, header: readSegmentHeader(disk, fd, crc32c) }]
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
  /** The newest epoch that has left a trace. */
  readonly newestEpoch: number
}

/** Reads records from a point on, until the log ends or a record is not sound. */
function walkFrom(folder: CheckedFolder, segments: readonly CheckedSegment[], start: LogPoint): Walk {
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
      return damaged(begin, `it begins with epoch ${segment.header.firstEpoch}, not with ${epoch}`)
    const isLast = index === segments.length - 1
    const found = scan(folder, segment, segment.header, begin, isLast)
    epoch = found.nextEpoch
    const end = { index, offset: found.offset, epoch }
    if (found.malformed !== undefined) return damaged(end, `the record of epoch ${epoch}: ${found.malformed}`)
    const why = `the record of epoch ${epoch} is not sound (${REASONS[found.ended]})`
    if (!isLast && found.damage === undefined && segments[index + 1]?.firstEpoch !== epoch)
      return damaged(end, why)
    if (found.damage !== undefined)
      return damaged(end, `${why}; ${found.damage.damage}`, Math.max(newest, found.damage.newestEpoch))
    if (isLast)
      return { end, isDamaged: false, tornBytes: found.tornBytes, problems: [], newestEpoch: epoch - 1 }
  }
  return { end: start, isDamaged: false, tornBytes: 0, problems: [], newestEpoch: epoch - 1 }
}

function scan(
  folder: CheckedFolder,
  { name }: CheckedSegment,
  header: SegmentHeader,
  from: LogPoint,
  isLast: boolean,
) {
  const { disk, dir, crc32c } = folder
  const fd = disk.open(path.join(dir, 'log', name), {})
  try {
    const scanner = new SegmentScanner(disk, fd, disk.sizeBytes(fd), header, crc32c, from.offset, from.epoch)
    for (let found = scanner.next(); found !== undefined; found = scanner.next()) {
      const { record, offset } = found
      const malformed = folder.frameProblem?.(record)
      if (malformed !== undefined)
        return {
          nextEpoch: record.epoch,
          offset,
          malformed,
          ended: 'body' as const,
          damage: undefined,
          tornBytes: 0,
        }
    }
    const verdict = scanner.judgeEnd(!isLast)
    return {
      nextEpoch: scanner.nextEpoch,
      offset: scanner.offset,
      malformed: undefined,
      ended: scanner.ended ?? ('empty' as const),
      damage: 'damage' in verdict ? verdict : undefined,
      tornBytes: 'tornBytes' in verdict ? verdict.tornBytes : 0,
    }
  } finally {
    disk.close(fd)
  }
}

/** Further faults in the segments behind the first damage. */
function laterProblems(folder: CheckedFolder, segments: readonly CheckedSegment[], walk: Walk): string[] {
  const problems: string[] = []
  for (let index = walk.end.index + 1; index < segments.length; ) {
    const { firstEpoch } = segments[index] as CheckedSegment
    const next = walkFrom(folder, segments, { index, offset: SEGMENT_HEADER_BYTES, epoch: firstEpoch })
    problems.push(...next.problems)
    if (!next.isDamaged) break
    index = next.end.index + 1
  }
  return problems
}

// ---- the best repair ----------------------------------------------------------------------------

function bestRepair(
  folder: CheckedFolder,
  segments: readonly CheckedSegment[],
  start: LogPoint,
  walk: Walk,
  checkpoints: readonly number[],
): Repair | undefined {
  const reaches = checkpoints.find((epoch) => epoch < walk.end.epoch && epoch >= start.epoch - 1)
  const cut: Repair = {
    from: start,
    to: walk.end,
    checkpoint: reaches,
    loses: lossOf(walk.end.epoch, walk.newestEpoch),
  }
  let best = start.epoch > 1 && reaches === undefined ? undefined : cut
  for (const epoch of checkpoints) {
    if (epoch < (best?.to.epoch ?? 0)) break
    const from = pointOf(folder, segments, epoch + 1)
    if (from === undefined) continue
    const rest = walkFrom(folder, segments, from)
    if (folder.replay?.(epoch, rest.end.epoch - 1) !== undefined) continue
    const newestEpoch = Math.max(rest.newestEpoch, walk.newestEpoch)
    const lost = rest.isDamaged ? lossOf(rest.end.epoch, newestEpoch) : 'no epoch'
    const loses = `${lost}, and the history before epoch ${epoch}, which checkpoint ${epoch} replaces`
    best = { from, to: rest.end, checkpoint: epoch, loses }
  }
  return best
}

const lossOf = (from: number, newest: number): string =>
  newest > from ? `epochs ${from} to ${newest}` : `epoch ${from} and any after it`

/** The point of an epoch's record, even if records before it are damaged; undefined when it is not found. */
function pointOf(
  folder: CheckedFolder,
  segments: readonly CheckedSegment[],
  epoch: number,
): LogPoint | undefined {
  const index = segments.findLastIndex(({ firstEpoch }) => firstEpoch <= epoch)
  const segment = segments[index]
  if (segment === undefined || typeof segment.header === 'string') return undefined
  if (segment.firstEpoch === epoch) return { index, offset: SEGMENT_HEADER_BYTES, epoch }
  const { disk, dir, crc32c } = folder
  const fd = disk.open(path.join(dir, 'log', segment.name), {})
  try {
    const scanner = new SegmentScanner(disk, fd, disk.sizeBytes(fd), segment.header, crc32c)
    const offset = scanner.find(epoch)
    return offset === undefined ? undefined : { index, offset, epoch }
  } finally {
    disk.close(fd)
  }
}

// ---- the SQLite files ---------------------------------------------------------------------------

/** Epochs of the sound checkpoints, newest first. */
function checkCheckpoints(folder: CheckpointFolder, problems: string[]): number[] {
  for (const name of folder.list()) {
    if (!name.endsWith(CHECKPOINT_ENDING) && !name.endsWith(RETIRED_ENDING)) continue
    const why = integrityOf(folder, name)
    if (why !== undefined) problems.push(`checkpoints/${name}: ${why}`)
  }
  return checkpointEpochs(folder).filter((epoch) => {
    const opened = openCheckpointFile(folder, epoch, undefined)
    if (typeof opened !== 'string') {
      opened.close()
      return true
    }
    problems.push(`checkpoint ${epoch}: ${opened}`)
    return false
  })
}

function integrityOf(folder: CheckpointFolder, name: string): string | undefined {
  try {
    const db = folder.open(name)
    try {
      const found = db.pragma('integrity_check(1)', { simple: true })
      return found === 'ok' ? undefined : String(found)
    } finally {
      db.close()
    }
  } catch (error) {
    return textOf(error)
  }
}

/** The newest epoch that the index or a checkpoint knows. */
function newestKnown(dir: string, checkpoints: CheckpointFolder): number {
  const reader = new CatalogReader(dir, true)
  try {
    const indexed = reader.blockBefore(Number.MAX_SAFE_INTEGER)?.lastEpoch ?? 0
    return Math.max(indexed, checkpointEpochs(checkpoints)[0] ?? 0)
  } finally {
    reader.close()
  }
}

function catalogProblems(dir: string): string[] {
  const reader = new CatalogReader(dir, true)
  try {
    return reader.problems()
  } finally {
    reader.close()
  }
}
