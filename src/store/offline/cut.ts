/**
 * Cuts the log behind an epoch: later records, and the checkpoints and index rows that know them, are set
 * aside in a folder `cut-N`, and a new history begins.
 *
 * Invariants: the caller holds the folder's lock. cut.json is the decision: until it is durable, nothing of
 * the log is changed; from then on every start completes the cut before it reads anything. Each step is
 * durable before the next and can be done again, so a crash leaves the old state or the new one.
 */
import path from 'node:path'
import { MmsbError } from '../../errors.js'
import { SEGMENT_HEADER_BYTES } from '../../limits.js'
import { CATALOG_NAME } from '../catalog/catalog-db.js'
import { soundCheckpointsFrom } from '../checkpoint/file-reader.js'
import { checkpointEpochs, checkpointFolder, epochOfStem, stemOf } from '../checkpoint/folder.js'
import { CHECKPOINT_FILE } from '../checkpoint/format.js'
import { forgetHistory } from '../history-file.js'
import { inspectLog } from '../log/log.js'
import { firstEpochOf } from '../log/segment-file.js'
import { readSegmentHeader, SegmentScanner } from '../log/segment-reader.js'
import type { Disk } from '../os/disk.js'
import { busFailed, textOf } from '../os/errors.js'
import { readOpen, replaceFile, writeSynced } from '../os/small-file.js'
import type { CheckedFolder } from './check.js'

export const CUT_NAME = 'cut.json'
const DRAFT_NAME = 'cut.tmp'
const FORMAT = 1
const FILE_MAX_BYTES = 4096

/** The content of cut.json. */
interface Decision {
  readonly format: number
  /** The newest epoch that stays. */
  readonly epoch: number
  /** The folder for what is cut, in the data folder. */
  readonly aside: string
}

export interface CutPlan {
  /** The newest epoch that stays. */
  readonly epoch: number
  readonly newestEpoch: number
  /** Checkpoints that are cut, by epoch. */
  readonly checkpoints: readonly number[]
}

/**
 * What a cut behind the epoch would discard. Changes nothing. Throws EPOCH_NOT_FOUND, EPOCH_COMPACTED, and
 * BUS_FAILED when the log is damaged or missing.
 */
export function planCut(folder: CheckedFolder, epoch: number): CutPlan {
  const { dir, disk, crc32c } = folder
  const log = inspectLog({ disk, logDir: path.join(dir, 'log'), crc32c }, () => {})
  const first = log.segments[0]?.header.firstEpoch
  if (log.damage !== undefined) throw busFailed(log.damage)
  if (first === undefined) throw busFailed(`${dir} is not a data folder: it has no log`)
  if (epoch > log.newestEpoch) {
    const detail = `Epoch ${epoch} is not in the log; the newest is ${log.newestEpoch}.`
    throw new MmsbError('EPOCH_NOT_FOUND', detail)
  }
  const checkpoints = checkpointFolder(path.join(dir, 'checkpoints'))
  const epochs = checkpointEpochs(checkpoints)
  if (first > 1) {
    const reachable = soundCheckpointsFrom(checkpoints, first - 1, log.busId)
    if (!reachable.some((at) => at <= epoch)) {
      const minEpoch = reachable.at(-1) ?? log.newestEpoch
      const detail = `Epoch ${epoch} is no longer kept; the oldest is ${minEpoch}.`
      throw new MmsbError('EPOCH_COMPACTED', detail, { minEpoch })
    }
  }
  return { epoch, newestEpoch: log.newestEpoch, checkpoints: epochs.filter((at) => at > epoch).reverse() }
}

/** The name of a folder for what is removed from the log, which no earlier cut or repair has used. */
export function freeAsideName(disk: Disk, dir: string): string {
  let n = 1
  while (disk.exists(path.join(dir, `cut-${n}`))) n++
  return `cut-${n}`
}

/** Cuts as planned. Returns the folder with what was cut. */
export async function cutFolder(folder: CheckedFolder, { epoch }: CutPlan): Promise<string> {
  const { dir, disk } = folder
  const aside = freeAsideName(disk, dir)
  const decision: Decision = { format: FORMAT, epoch, aside }
  const names = { name: CUT_NAME, draft: DRAFT_NAME }
  await replaceFile(disk, dir, names, () => Buffer.from(`${JSON.stringify(decision)}\n`))
  await finishCut(folder)
  return path.join(dir, aside)
}

/** Completes a cut that was decided; no effect if there is none. */
export async function finishCut(folder: CheckedFolder): Promise<void> {
  const { dir, disk } = folder
  if (!disk.exists(path.join(dir, CUT_NAME))) return
  const { epoch, aside } = readDecision(folder)
  const asideDir = path.join(dir, aside)
  await forgetHistory(folder)
  disk.makeDir(asideDir)
  await disk.syncDir(dir)
  await moveAll(disk, dir, asideDir, (name) => name.startsWith(CATALOG_NAME))
  const isLater = (name: string): boolean => CHECKPOINT_FILE.test(name) && epochOfStem(stemOf(name)) > epoch
  await moveAll(disk, path.join(dir, 'checkpoints'), asideDir, isLater)
  await cutLog(folder, epoch, asideDir)
  disk.remove(path.join(dir, CUT_NAME))
  await disk.syncDir(dir)
}

function readDecision({ dir, disk }: CheckedFolder): Decision {
  try {
    const text = readFile(disk, path.join(dir, CUT_NAME), FILE_MAX_BYTES).toString('utf8')
    const { format, epoch, aside } = JSON.parse(text) as Decision
    if (format === FORMAT && Number.isSafeInteger(epoch) && epoch >= 0 && /^cut-\d+$/.test(aside))
      return { format, epoch, aside }
  } catch (error) {
    throw busFailed(`${CUT_NAME} cannot be read: ${textOf(error)}`, error)
  }
  throw busFailed(`${CUT_NAME} is not one that this release wrote`)
}

/** Moves files into the folder aside, newest first, each move durable before the next. */
async function moveAll(
  disk: Disk,
  dir: string,
  asideDir: string,
  isMoved: (name: string) => boolean,
): Promise<void> {
  if (!disk.exists(dir)) return
  for (const name of disk.list(dir).filter(isMoved).reverse()) {
    disk.rename(path.join(dir, name), path.join(asideDir, name))
    for (const changed of [asideDir, dir]) await disk.syncDir(changed)
  }
}

/** Moves the segments that begin later, then cuts the one that holds the epoch. The first segment stays. */
async function cutLog(folder: CheckedFolder, epoch: number, asideDir: string): Promise<void> {
  const { dir, disk } = folder
  const logDir = path.join(dir, 'log')
  const segments = disk.list(logDir).filter((name) => firstEpochOf(name) !== undefined)
  const [first] = segments
  await moveAll(
    disk,
    logDir,
    asideDir,
    (name) => name !== first && segments.includes(name) && (firstEpochOf(name) ?? 0) > epoch,
  )
  const last = disk.list(logDir).findLast((name) => firstEpochOf(name) !== undefined)
  if (last === undefined) return
  const file = path.join(logDir, last)
  const at = offsetAfter(folder, file, epoch)
  if (at === undefined) return
  // The copy is whole before anything is cut, and made again if that was not certain.
  const copy = path.join(asideDir, last)
  disk.remove(copy)
  writeSynced(disk, copy, () => readFile(disk, file, Number.MAX_SAFE_INTEGER))
  await disk.syncDir(asideDir)
  const fd = disk.open(file, { write: true })
  try {
    disk.truncate(fd, at)
    disk.syncSync(fd)
  } finally {
    disk.close(fd)
  }
}

/** Where the first record of a later epoch begins; undefined if the segment has none. */
function offsetAfter({ disk, crc32c }: CheckedFolder, file: string, epoch: number): number | undefined {
  const fd = disk.open(file, {})
  try {
    const header = readSegmentHeader(disk, fd, crc32c)
    if (typeof header === 'string') throw busFailed(`${path.basename(file)} cannot be cut: ${header}`)
    if (header.firstEpoch > epoch) {
      return disk.sizeBytes(fd) > SEGMENT_HEADER_BYTES ? SEGMENT_HEADER_BYTES : undefined
    }
    const scanner = new SegmentScanner(disk, fd, disk.sizeBytes(fd), header, crc32c)
    for (let found = scanner.next(); found !== undefined; found = scanner.next()) {
      if (found.record.epoch > epoch) return found.offset
    }
    return undefined
  } finally {
    disk.close(fd)
  }
}

function readFile(disk: Disk, file: string, maxBytes: number): Buffer {
  const fd = disk.open(file, {})
  try {
    return readOpen(disk, fd, maxBytes)
  } finally {
    disk.close(fd)
  }
}
