/**
 * What the store looks at before it opens: log, catalogue and checkpoints, brought to the terms of the recovery table.
 *
 * Invariants: looking changes neither the log nor a checkpoint. Each finding carries a sentence for people.
 */

import { type CheckpointFile, openCheckpointFile, readInfo } from '../checkpoint/file-reader.js'
import { type CheckpointFolder, checkpointEpochs } from '../checkpoint/folder.js'
import { inspectLog, type LogFindings, type LogFolder } from '../log/log.js'
import type { PlacedRecord } from '../log/log-index.js'
import { textOf } from '../os/errors.js'
import type { Catalog, CatalogFindings, CheckpointInfo } from '../types.js'
import { type CheckpointState, type Findings, type IndexCondition, type RecoveryRow, rowOf } from './table.js'

export interface FolderFindings {
  readonly log: LogFindings
  readonly row: RecoveryRow
  /** Newest epoch that the index covers; 0 when it is to be begun anew. */
  readonly indexedEpoch: number
  /** The catalogue holds nothing that can be used. */
  readonly indexAnew: boolean
  readonly checkpoint: CheckpointFile | null
  readonly checkpoints: CheckpointInfo[]
  /** Lines for people. */
  readonly notes: string[]
  /** Why the row refuses. */
  readonly refusal: string
}

export interface FolderParts {
  readonly log: LogFolder
  readonly checkpoints: CheckpointFolder
  readonly catalog: Catalog
}

/** Looks at everything. `onPlaced` is called for records of the last segment that the index does not cover. */
export async function inspectFolder(
  place: FolderParts,
  onPlaced: (placed: PlacedRecord) => void,
): Promise<FolderFindings> {
  const catalog = await openCatalog(place.catalog)
  const covered = catalog.state === 'read' ? catalog.lastEpoch : 0
  const log = inspectLog(place.log, (segment, { record, offset, byteLength }) => {
    if (record.epoch > covered) onPlaced({ segment: segment.firstEpoch, offset, byteLength, record })
  })
  const index = judgeIndex(log, catalog)
  const known = index.state === 'lost' || catalog.state === 'lost' ? [] : catalog.checkpoints
  const checkpoint = judgeCheckpoints(place.checkpoints, log, known)
  const findings: Findings = {
    tail: log.tornBytes > 0 ? 'torn' : 'whole',
    body: log.damage === null ? 'sound' : 'bad',
    index: index.state,
    checkpoint: checkpoint.state,
  }
  const row = rowOf(findings)
  const reason = log.damage ?? (index.state === 'ahead' ? index.why : null) ?? checkpoint.why
  return {
    log,
    row,
    indexedEpoch: index.state === 'lost' ? 0 : covered,
    indexAnew: index.state === 'lost',
    checkpoint: checkpoint.file,
    checkpoints: checkpoint.list,
    notes: notesOf(log, index, checkpoint),
    refusal: `${reason} (recovery row ${row.row})`,
  }
}

/** A catalogue that cannot even be begun (a full disk, say) is as good as none. */
async function openCatalog(catalog: Catalog): Promise<CatalogFindings> {
  try {
    return await catalog.open()
  } catch (error) {
    return { state: 'lost', why: textOf(error) }
  }
}

interface IndexVerdict {
  readonly state: IndexCondition
  readonly why: string | null
}

function judgeIndex(log: LogFindings, catalog: CatalogFindings): IndexVerdict {
  const fresh = log.segments.length === 0
  if (catalog.state === 'lost') {
    return fresh && catalog.why === 'it is missing'
      ? { state: 'current', why: null }
      : { state: 'lost', why: `the log index cannot be used (${catalog.why})` }
  }
  if (!fresh && catalog.busId !== log.busId) {
    return { state: 'lost', why: 'the log index cannot be used (it belongs to another bus)' }
  }
  if (catalog.lastEpoch > log.newestEpoch) {
    const why = `the log ends at epoch ${log.newestEpoch}, but the index shows that epoch ${catalog.lastEpoch} was durable`
    return { state: 'ahead', why }
  }
  return { state: catalog.lastEpoch < log.newestEpoch ? 'behind' : 'current', why: null }
}

interface CheckpointVerdict {
  readonly state: CheckpointState
  readonly file: CheckpointFile | null
  readonly list: CheckpointInfo[]
  readonly why: string | null
}

function judgeCheckpoints(
  place: CheckpointFolder,
  log: LogFindings,
  known: readonly CheckpointInfo[],
): CheckpointVerdict {
  const rows = new Map(known.map((info) => [info.epoch, info]))
  const epochs = [...new Set([...checkpointEpochs(place), ...rows.keys()])].sort((a, b) => b - a)
  const minEpoch = log.segments[0]?.header.firstEpoch ?? 1
  const newest = epochs[0]
  if (log.damage !== null) return { state: 'none', file: null, list: [], why: null }
  if (newest === undefined) {
    const why = `there is no checkpoint, and the log begins at epoch ${minEpoch}`
    return minEpoch === 1
      ? { state: 'none', file: null, list: [], why: null }
      : { state: 'unreachable', file: null, list: [], why }
  }
  if (newest > log.newestEpoch) {
    const why = `the log ends at epoch ${log.newestEpoch}, but a checkpoint shows that epoch ${newest} was durable`
    return { state: 'ahead', file: null, list: [], why }
  }
  const bad: string[] = []
  let file: CheckpointFile | null = null
  let missing = false
  for (const epoch of epochs) {
    const opened = openCheckpointFile(place, epoch, log.busId)
    if (typeof opened !== 'string') {
      file = opened
      break
    }
    if (bad.length === 0) missing = opened === 'the file is missing'
    bad.push(`checkpoint ${epoch}: ${opened}`)
  }
  const list = epochs.slice(bad.length).flatMap((epoch) => {
    if (file?.info.epoch === epoch) return rows.get(epoch) ?? file.info
    const info = readInfo(place, epoch, log.busId)
    return info === undefined ? [] : (rows.get(epoch) ?? info)
  })
  if ((file?.header.epoch ?? 0) + 1 < minEpoch) {
    file?.close()
    const why = `no usable checkpoint, and the log begins at epoch ${minEpoch}: ${bad.join('; ')}`
    return { state: 'unreachable', file: null, list: [], why }
  }
  if (bad.length === 0) return { state: 'sound', file, list, why: null }
  const from = file === null ? 'the whole log is replayed' : `checkpoint ${file.header.epoch} is used instead`
  return { state: missing ? 'missing' : 'damaged', file, list, why: `${bad.join('; ')}; ${from}` }
}

function notesOf(log: LogFindings, index: IndexVerdict, checkpoint: CheckpointVerdict): string[] {
  const notes: string[] = []
  if (log.tornBytes > 0) {
    notes.push(
      `cut ${log.tornBytes} bytes of a write that was never durable, behind epoch ${log.newestEpoch}`,
    )
  }
  if (index.why !== null) notes.push(`${index.why}; it is rebuilt from the log`)
  if (checkpoint.why !== null) notes.push(checkpoint.why)
  return notes
}
