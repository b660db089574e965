/**
 * The state at start: the newest checkpoint, then every record of the log after it (src/engine/history/rebuild.ts). Start is
 * refused when checkpoint and log do not tell the same story.
 */
import type { Store } from '../../store/store.js'
import type { StageRooms } from '../commit/batch.js'
import type { BusOptions, CommitResult } from '../types.js'
import { emptyProgress, loadCheckpoint, type Progress, replayRecord } from './rebuild.js'

const PROGRESS_INTERVAL_MS = 1_000

export interface Recovered {
  readonly epoch: number
  readonly digest: Uint8Array
  readonly nextPageId: number
  readonly timestampMs: number
  readonly answers: readonly (readonly [string, CommitResult])[]
  /** Bytes of frames behind the checkpoint. */
  readonly replayedBytes: number
}

/** Fills the rooms from the store. Throws INTERNAL when checkpoint and log do not agree. */
export async function recover(
  rooms: StageRooms,
  store: Store,
  onNotice: BusOptions['onNotice'],
): Promise<Recovered> {
  const startedMs = performance.now()
  const progress = startingPoint(rooms, store)
  const loadMs = Math.round(performance.now() - startedMs)
  if (loadMs > PROGRESS_INTERVAL_MS) {
    onNotice?.({ level: 'info', message: `recovering: checkpoint ${progress.epoch} loaded in ${loadMs} ms` })
  }
  let reportedMs = startedMs
  let replayed = 0
  let replayedBytes = 0
  for (const record of store.records(progress.epoch)) {
    replayRecord(rooms, record, progress)
    replayed++
    replayedBytes += record.frames.byteLength
    const nowMs = performance.now()
    if (nowMs - reportedMs < PROGRESS_INTERVAL_MS) continue
    reportedMs = nowMs
    const message = `recovering: epoch ${record.epoch} of ${store.recovery.newestEpoch}`
    onNotice?.({ level: 'info', message })
    await new Promise((resolve) => setImmediate(resolve))
  }
  if (replayed > 0) {
    const ms = Math.round(performance.now() - startedMs) - loadMs
    onNotice?.({
      level: 'info',
      message: `recovered epoch ${progress.epoch}: ${replayed} epochs replayed in ${ms} ms`,
    })
  }
  return { ...progress, answers: progress.answers ?? [], replayedBytes }
}

function startingPoint(rooms: StageRooms, store: Store): Progress {
  const reader = store.openCheckpoint()
  if (reader === undefined) return emptyProgress(rooms, true)
  try {
    return loadCheckpoint(rooms, reader, true)
  } finally {
    reader.close()
  }
}
