/**
 * The state at start: the newest checkpoint, then every record of the log after it
 * (src/engine/history/rebuild.ts). The bus does not start when checkpoint and log contradict each other.
 */
import type { LimitGuard } from '../../operator-limits.js'
import type { Store } from '../../store/store.js'
import type { StartingPoint } from '../commit/committer.js'
import { IdempotencyKeys } from '../idempotency/keys.js'
import type { EngineState } from '../pages/engine-state.js'
import type { BusOptions } from '../types.js'
import { emptyProgress, loadCheckpoint, type Progress, replayRecord } from './rebuild.js'

const PROGRESS_INTERVAL_MS = 1_000

export interface Recovered extends StartingPoint {
  readonly nextPageId: number
  /** Bytes of frames after the checkpoint. */
  readonly replayedBytes: number
}

/** Fills `state` from the store. Throws INTERNAL when checkpoint and log contradict each other. */
export async function recover(
  state: EngineState,
  store: Store,
  limits: LimitGuard,
  onNotice: BusOptions['onNotice'],
): Promise<Recovered> {
  const startedMs = performance.now()
  const answers = new IdempotencyKeys(limits)
  const progress = startingPoint(state, store, answers)
  const loadMs = Math.round(performance.now() - startedMs)
  if (loadMs > PROGRESS_INTERVAL_MS) {
    onNotice?.({ level: 'info', message: `recovering: checkpoint ${progress.epoch} loaded in ${loadMs} ms` })
  }
  let reportedMs = startedMs
  let replayed = 0
  let replayedBytes = 0
  for (const record of store.records(progress.epoch)) {
    replayRecord(state, record, progress)
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
  return { ...progress, answers: answers.entries(), replayedBytes }
}

function startingPoint(state: EngineState, store: Store, answers: IdempotencyKeys): Progress {
  const reader = store.openCheckpoint()
  if (reader === undefined) return emptyProgress(state, answers)
  try {
    return loadCheckpoint(state, reader, answers)
  } finally {
    reader.close()
  }
}
