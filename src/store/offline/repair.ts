/**
 * Repairs a log as a check proposed (src/store/offline/check.ts). What is removed is set aside, not deleted.
 *
 * Invariants: the caller holds the folder's lock. Everything that a repair removes is first copied completely
 * into a folder `cut-N` beside the log. Each step is durable before the next, and an interrupted repair can
 * be started again.
 */
import fs from 'node:fs'
import path from 'node:path'
import { SEGMENT_HEADER_BYTES } from '../../limits.js'
import { CATALOG_NAME } from '../catalog/catalog-db.js'
import { epochOfStem, stemOf } from '../checkpoint/folder.js'
import { forgetHistory } from '../history-file.js'
import { encodeSegmentHeader } from '../log/record.js'
import { NEXT_SEGMENT_NAME, segmentName } from '../log/segment-file.js'
import { busFailed } from '../os/errors.js'
import type { CheckedFolder, CheckedSegment, CheckReport, LogPoint } from './check.js'
import { copyFile } from './copy-file.js'
import { freeAsideName } from './cut.js'

/**
 * Makes the repair of the report. Returns the folder with what was cut; undefined when there is nothing to
 * repair.
 */
export async function repairLog(folder: CheckedFolder, report: CheckReport): Promise<string | undefined> {
  const { repair, segments } = report
  if (repair === undefined) return undefined
  const { dir, disk } = folder
  const logDir = path.join(dir, 'log')
  const aside = path.join(dir, freeAsideName(disk, dir))
  const { from, to } = repair
  // Epochs that were published may be lost, and their numbers used again.
  await forgetHistory(folder)
  disk.makeDir(aside)
  await disk.syncDir(dir)
  const changed = segments.filter((_, i) => i < from.index || i >= to.index || isInside(segments, from, i))
  for (const { name } of changed) {
    copyFile(path.join(logDir, name), path.join(aside, name))
  }
  moveNewer(dir, aside, to.epoch - 1)
  const checkpoints = path.join(dir, 'checkpoints')
  const moved = disk.exists(checkpoints) ? [aside, checkpoints, dir] : [aside, dir]
  for (const folder of moved) await disk.syncDir(folder)
  await endAt(folder, segments, to)
  await beginAt(folder, segments, from)
  return aside
}

const isInside = (segments: readonly CheckedSegment[], from: LogPoint, index: number): boolean =>
  index === from.index && from.epoch !== segments[index]?.firstEpoch

/** Sets the catalog aside, which lists epochs that are gone, and the checkpoints of such epochs. */
function moveNewer(dir: string, aside: string, newestEpoch: number): void {
  for (const ending of ['', '-wal', '-shm']) {
    const name = CATALOG_NAME + ending
    if (fs.existsSync(path.join(dir, name))) fs.renameSync(path.join(dir, name), path.join(aside, name))
  }
  const checkpoints = path.join(dir, 'checkpoints')
  for (const name of fs.existsSync(checkpoints) ? fs.readdirSync(checkpoints) : []) {
    if (!/^\d{20}\.db$/.test(name) || epochOfStem(stemOf(name)) <= newestEpoch) continue
    fs.renameSync(path.join(checkpoints, name), path.join(aside, name))
  }
}

/**
 * Ends the log at a point: removes the segments behind it, newest first, then the rest of its own segment.
 */
async function endAt(
  { dir, disk }: CheckedFolder,
  segments: readonly CheckedSegment[],
  to: LogPoint,
): Promise<void> {
  const logDir = path.join(dir, 'log')
  const isEmpty = to.index > 0 && to.offset <= SEGMENT_HEADER_BYTES
  for (const { name } of segments.slice(to.index + (isEmpty ? 0 : 1)).reverse()) {
    disk.remove(path.join(logDir, name))
    await disk.syncDir(logDir)
  }
  const last = segments[to.index]
  if (isEmpty || last === undefined) return
  if (typeof last.header === 'string') throw busFailed(`${last.name} cannot be repaired: ${last.header}`)
  const fd = disk.open(path.join(logDir, last.name), { write: true })
  try {
    disk.truncate(fd, to.offset)
    disk.syncSync(fd)
  } finally {
    disk.close(fd)
  }
}

/**
 * Begins the log at a point: makes a segment of what follows it, then removes the segments before it, oldest
 * first.
 */
async function beginAt(
  folder: CheckedFolder,
  segments: readonly CheckedSegment[],
  from: LogPoint,
): Promise<void> {
  const { dir, disk } = folder
  const logDir = path.join(dir, 'log')
  const inside = isInside(segments, from, from.index)
  if (inside) await splitAt(folder, segments[from.index] as CheckedSegment, from)
  for (const { name } of segments.slice(0, from.index + (inside ? 1 : 0))) {
    disk.remove(path.join(logDir, name))
    await disk.syncDir(logDir)
  }
}

/**
 * Makes a segment of the records from a point on. It keeps the seeds of the checksums, so records are copied
 * as they are.
 */
async function splitAt(
  { dir, disk, crc32c }: CheckedFolder,
  segment: CheckedSegment,
  from: LogPoint,
): Promise<void> {
  const logDir = path.join(dir, 'log')
  if (typeof segment.header === 'string') throw busFailed(`${segment.name} cannot be read: ${segment.header}`)
  const whole = fs.readFileSync(path.join(logDir, segment.name))
  const header = encodeSegmentHeader({ ...segment.header, firstEpoch: from.epoch }, crc32c)
  const draft = path.join(logDir, NEXT_SEGMENT_NAME)
  const fd = disk.open(draft, { create: true, write: true })
  try {
    disk.truncate(fd, 0)
    disk.writeSync(fd, [header, whole.subarray(from.offset)], 0)
    disk.syncSync(fd)
  } finally {
    disk.close(fd)
  }
  disk.rename(draft, path.join(logDir, segmentName(from.epoch)))
  await disk.syncDir(logDir)
}
