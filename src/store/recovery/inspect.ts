/**
 * Inspects log, catalog and checkpoints before the store opens, and expresses what it finds in the terms of
 * the recovery table.
 *
 * Invariants: changes neither the log nor a checkpoint. Each finding comes with a sentence for people.
 */

import { MmsbError } from '../../errors.js'
import type { Sliced, Slices } from '../../slices.js'
import { type CheckpointFile, openingCheckpointFile, readingInfo } from '../checkpoint/file-reader.js'
import { type CheckpointFolder, checkpointEpochs } from '../checkpoint/folder.js'
import { inspectingLog, type LogFindings, type LogFolder } from '../log/log.js'
import type { PlacedRecord } from '../log/log-index.js'
import { textOf } from '../os/errors.js'
import type { Catalog, CatalogFindings, CheckpointInfo } from '../types.js'
import { type CheckpointState, type Findings, type IndexCondition, type RecoveryRow, rowOf } from './table.js'

export interface FolderFindings {
  readonly log: LogFindings
  readonly row: RecoveryRow
  /** Newest epoch that the index covers; 0 when it starts empty. */
  readonly indexedEpoch: number
  /** The catalog holds nothing usable. */
  readonly isIndexLost: boolean
  /** The checkpoint to load, if there is one. */
  readonly checkpoint: CheckpointFile | undefined
  /** All usable checkpoints. */
  readonly checkpoints: CheckpointInfo[]
  /** Lines for people. */
  readonly notes: string[]
  /** Why the row refuses. */
  readonly refusal: string
}

export interface FolderParts {
  readonly log: LogFolder
  readonly checkpoints: CheckpointFolder
  readonly catalog: Pick<Catalog, 'open'>
}

/** The folder is only read: nothing of what is found will be mended. */
export interface Reading {
  /** What comes after this epoch counts as not there. Default: nothing does. */
  readonly untilEpoch?: number | undefined
}

/**
 * Inspects the folder. Calls back for each record of the last segment that the index does not cover. Throws
 * EPOCH_NOT_FOUND when the epoch to read until is not in the log.
 */
export async function inspectFolder(
  parts: FolderParts,
  onPlaced: (placed: PlacedRecord) => void,
  slices: Slices,
  reading?: Reading,
): Promise<FolderFindings> {
  const untilEpoch = reading?.untilEpoch
  const catalog = await openCatalog(parts.catalog)
  const covered = catalog.state === 'read' ? catalog.lastEpoch : 0
  const whole = await slices.run(
    inspectingLog(parts.log, (segment, { record, offset, byteLength }) => {
      if (record.epoch > covered) onPlaced({ segment: segment.firstEpoch, offset, byteLength, record })
    }),
  )
  const log = untilEpoch === undefined ? whole : logUntil(whole, untilEpoch)
  const index = judgeIndex(log, catalog, untilEpoch)
  const known = index.state === 'lost' || catalog.state === 'lost' ? [] : catalog.checkpoints
  const checkpoint = await slices.run(
    judgeCheckpoints(parts.checkpoints, log, known, untilEpoch ?? Number.POSITIVE_INFINITY),
  )
  const findings: Findings = {
    tail: log.tornBytes > 0 ? 'torn' : 'whole',
    body: log.damage === undefined ? 'sound' : 'bad',
    index: index.state,
    checkpoint: checkpoint.state,
  }
  const row = rowOf(findings)
  const reason = log.damage ?? (index.state === 'ahead' ? index.why : undefined) ?? checkpoint.why
  return {
    log,
    row,
    indexedEpoch: index.state === 'lost' ? 0 : covered,
    isIndexLost: index.state === 'lost',
    checkpoint: checkpoint.file,
    checkpoints: checkpoint.list,
    notes: notesOf(log, index, checkpoint, reading !== undefined),
    refusal: `${reason} (recovery row ${row.row})`,
  }
}

/** The log as if it ended with the epoch. */
function logUntil(log: LogFindings, epoch: number): LogFindings {
  if (epoch > log.newestEpoch) {
    if (log.damage !== undefined) return log
    const detail = `Epoch ${epoch} is not in the log; the newest is ${log.newestEpoch}.`
    throw new MmsbError('EPOCH_NOT_FOUND', detail)
  }
  const isReadable = log.damage === undefined || log.newestEpoch > 0
  return isReadable ? { ...log, newestEpoch: epoch, tornBytes: 0, damage: undefined } : log
}

/** A catalog that cannot be created (on a full disk, say) counts as lost. */
async function openCatalog(catalog: Pick<Catalog, 'open'>): Promise<CatalogFindings> {
  try {
    return await catalog.open()
  } catch (error) {
    return { state: 'lost', why: textOf(error) }
  }
}

interface IndexVerdict {
  readonly state: IndexCondition
  readonly why: string | undefined
}

function judgeIndex(
  log: LogFindings,
  catalog: CatalogFindings,
  untilEpoch: number | undefined,
): IndexVerdict {
  const fresh = log.segments.length === 0
  if (catalog.state === 'lost') {
    return fresh && catalog.why === 'it is missing'
      ? { state: 'current', why: undefined }
      : { state: 'lost', why: `the log index cannot be used (${catalog.why})` }
  }
  if (!fresh && catalog.busId !== log.busId) {
    return { state: 'lost', why: 'the log index cannot be used (it belongs to another bus)' }
  }
  if (catalog.lastEpoch > log.newestEpoch) {
    if (untilEpoch !== undefined) return { state: 'current', why: undefined }
    const why = `the log ends at epoch ${log.newestEpoch}, but the index shows that epoch ${catalog.lastEpoch} was durable`
    return { state: 'ahead', why }
  }
  return { state: catalog.lastEpoch < log.newestEpoch ? 'behind' : 'current', why: undefined }
}

interface CheckpointVerdict {
  readonly state: CheckpointState
  readonly file: CheckpointFile | undefined
  readonly list: CheckpointInfo[]
  readonly why: string | undefined
}

function* judgeCheckpoints(
  folder: CheckpointFolder,
  log: LogFindings,
  known: readonly CheckpointInfo[],
  lastEpoch: number,
): Sliced<CheckpointVerdict> {
  const rows = new Map(known.map((info) => [info.epoch, info]))
  const epochs = [...new Set([...checkpointEpochs(folder), ...rows.keys()])]
    .filter((epoch) => epoch <= lastEpoch)
    .sort((a, b) => b - a)
  const minEpoch = log.segments[0]?.header.firstEpoch ?? 1
  const newest = epochs[0]
  if (log.damage !== undefined) return withoutCheckpoint('none', undefined)
  if (newest === undefined) {
    return minEpoch === 1
      ? withoutCheckpoint('none', undefined)
      : withoutCheckpoint('unreachable', `there is no checkpoint, and the log begins at epoch ${minEpoch}`)
  }
  if (newest > log.newestEpoch) {
    const why = `the log ends at epoch ${log.newestEpoch}, but a checkpoint shows that epoch ${newest} was durable`
    return withoutCheckpoint('ahead', why)
  }
  const { file, faults, isNewestMissing } = yield* newestSound(folder, epochs, log.busId)
  const list: CheckpointInfo[] = []
  for (const epoch of epochs.slice(faults.length)) {
    const isOpen = file?.info.epoch === epoch
    const info = isOpen ? file.info : yield* readingInfo(folder, epoch, log.busId)
    if (info !== undefined) list.push(rows.get(epoch) ?? info)
  }
  if ((file?.header.epoch ?? 0) + 1 < minEpoch) {
    file?.close()
    const why = `no usable checkpoint, and the log begins at epoch ${minEpoch}: ${faults.join('; ')}`
    return withoutCheckpoint('unreachable', why)
  }
  if (faults.length === 0) return { state: 'sound', file, list, why: undefined }
  const from =
    file === undefined ? 'the whole log is replayed' : `checkpoint ${file.header.epoch} is used instead`
  const state = isNewestMissing ? 'missing' : 'damaged'
  return { state, file, list, why: `${faults.join('; ')}; ${from}` }
}

const withoutCheckpoint = (state: CheckpointState, why: string | undefined): CheckpointVerdict => ({
  state,
  file: undefined,
  list: [],
  why,
})

interface NewestSound {
  readonly file: CheckpointFile | undefined
  readonly faults: string[]
  readonly isNewestMissing: boolean
}

/** The newest sound checkpoint, if there is one, and the faults of the newer ones. */
function* newestSound(
  folder: CheckpointFolder,
  epochs: readonly number[],
  busId: string | undefined,
): Sliced<NewestSound> {
  const faults: string[] = []
  let isNewestMissing = false
  for (const epoch of epochs) {
    const opened = yield* openingCheckpointFile(folder, epoch, busId)
    if (typeof opened !== 'string') return { file: opened, faults, isNewestMissing }
    if (faults.length === 0) isNewestMissing = opened === 'the file is missing'
    faults.push(`checkpoint ${epoch}: ${opened}`)
  }
  return { file: undefined, faults, isNewestMissing }
}

function notesOf(
  log: LogFindings,
  index: IndexVerdict,
  checkpoint: CheckpointVerdict,
  isOnlyRead: boolean,
): string[] {
  const notes: string[] = []
  if (log.tornBytes > 0) {
    const done = isOnlyRead ? 'ignored' : 'cut'
    notes.push(
      `${done} ${log.tornBytes} bytes of a write that was never durable, behind epoch ${log.newestEpoch}`,
    )
  }
  if (index.why !== undefined) notes.push(isOnlyRead ? index.why : `${index.why}; it is rebuilt from the log`)
  if (checkpoint.why !== undefined) notes.push(checkpoint.why)
  return notes
}
