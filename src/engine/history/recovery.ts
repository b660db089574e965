/**
 * The state at start: the newest checkpoint, then every record of the log after it
 * (src/engine/history/rebuild.ts). The bus does not start when checkpoint and log contradict each other.
 *
 * Invariant: the event loop has its turn all the while. Work is sliced, and a plan that may take long runs on
 * another thread.
 */
import type { LimitGuard } from '../../operator-limits.js'
import { Slices } from '../../slices.js'
import type { ReadableStore } from '../../store/read-only.js'
import type { StartingPoint } from '../commit/committer.js'
import type { Host } from '../host.js'
import { IdempotencyKeys } from '../idempotency/keys.js'
import type { EngineState } from '../pages/engine-state.js'
import { pricingPages } from '../pages/price.js'
import type { BusOptions, RecoveryProgress } from '../types.js'
import { emptyProgress, loadingCheckpoint, type Progress, stagingRecord } from './rebuild.js'

const NOTICE_INTERVAL_MS = 1_000
const PROGRESS_INTERVAL_MS = 100
/** A plan expected to take longer than this is executed on another thread. */
const LONG_PLAN_NS = 20_000_000

export interface Recovered extends StartingPoint {
  readonly nextPageId: number
  /** Bytes of frames after the checkpoint. */
  readonly replayedBytes: number
}

export interface Recovery {
  /** Empty; it is filled. */
  readonly state: EngineState
  readonly store: ReadableStore
  readonly limits: LimitGuard
  readonly options: BusOptions
  readonly host: Host
}

/**
 * Fills the state from the store. Throws INTERNAL when checkpoint and log contradict each other, and the
 * reason of `signal` once it is aborted.
 */
export async function recover(recovery: Recovery): Promise<Recovered> {
  const { state, store, limits, host } = recovery
  const { onNotice, onProgress, signal } = recovery.options
  const startedMs = performance.now()
  const answers = new IdempotencyKeys(limits)
  const reporter = new Reporter(store, onNotice, onProgress)
  const slices = new Slices(signal, () => host.ticksMs())
  const progress = await startingPoint(recovery, answers, slices, reporter)
  const loadMs = Math.round(performance.now() - startedMs)
  if (loadMs > NOTICE_INTERVAL_MS) {
    onNotice?.({ level: 'info', message: `recovering: checkpoint ${progress.epoch} loaded in ${loadMs} ms` })
  }
  let replayed = 0
  let replayedBytes = 0
  for (const record of store.records(progress.epoch)) {
    const staging = stagingRecord(state, record, progress)
    const step = staging.next()
    const staged = step.done === true ? step.value : await slices.run(staging)
    const { plan, frames, finish } = staged
    const isLong =
      host.hasThreads && plan.costNs + (frames.byteLength + staged.createdBytes) / 2 > LONG_PLAN_NS
    if (isLong) reporter.replayed(progress.epoch)
    finish(
      isLong
        ? await state.context.executeAsync(plan.steps, frames)
        : state.context.execute(plan.steps, frames),
    )
    replayed++
    replayedBytes += record.frames.byteLength
    const pause = slices.giveWay()
    if (pause === undefined) continue
    reporter.replayed(progress.epoch)
    await pause
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

async function startingPoint(
  { state, store }: Recovery,
  answers: IdempotencyKeys,
  slices: Slices,
  reporter: Reporter,
): Promise<Progress> {
  const reader = store.openCheckpoint()
  if (reader === undefined) return { ...emptyProgress(state, answers), isPriced: true }
  const totalBytes = reader.pages.reduce((sum, { bytes }) => sum + bytes, 0)
  let loadedBytes = 0
  const onBytes = (count: number): void => {
    loadedBytes += count
    reporter.loaded(loadedBytes / totalBytes)
  }
  try {
    const progress = await slices.run(loadingCheckpoint(state, reader, answers, { onBytes }))
    // Whether a replayed plan may hold the event loop follows from its estimate.
    await slices.run(pricingPages(state))
    return { ...progress, isPriced: true }
  } finally {
    reader.close()
  }
}

/** Reports how far recovery has come, not more often than anyone can read it. */
class Reporter {
  readonly #onNotice: NonNullable<BusOptions['onNotice']>
  readonly #onProgress: NonNullable<BusOptions['onProgress']>
  readonly #checkpointEpoch: number
  readonly #newestEpoch: number
  /** The share of the work that loading the checkpoint is, roughly. */
  readonly #loadingShare: number
  #progressMs = Number.NEGATIVE_INFINITY
  #noticeMs = performance.now()

  constructor(
    { recovery }: ReadableStore,
    onNotice: BusOptions['onNotice'] = () => {},
    onProgress: BusOptions['onProgress'] = () => {},
  ) {
    this.#onNotice = onNotice
    this.#onProgress = onProgress
    this.#checkpointEpoch = recovery.checkpointEpoch ?? 0
    this.#newestEpoch = recovery.newestEpoch
    const isLoaded = recovery.checkpointEpoch !== undefined
    this.#loadingShare = isLoaded ? (this.#newestEpoch > this.#checkpointEpoch ? 0.5 : 1) : 0
  }

  loaded(share: number): void {
    const detail = `loading checkpoint ${this.#checkpointEpoch}`
    this.#report('loading', share * this.#loadingShare, detail)
  }

  replayed(epoch: number): void {
    const share = (epoch - this.#checkpointEpoch) / (this.#newestEpoch - this.#checkpointEpoch)
    const detail = `replaying epoch ${epoch} of ${this.#newestEpoch}`
    this.#report('replaying', this.#loadingShare + share * (1 - this.#loadingShare), detail)
    const nowMs = performance.now()
    if (nowMs - this.#noticeMs < NOTICE_INTERVAL_MS) return
    this.#noticeMs = nowMs
    this.#onNotice({ level: 'info', message: `recovering: epoch ${epoch} of ${this.#newestEpoch}` })
  }

  #report(phase: RecoveryProgress['phase'], share: number, detail: string): void {
    const nowMs = performance.now()
    if (nowMs - this.#progressMs < PROGRESS_INTERVAL_MS) return
    this.#progressMs = nowMs
    this.#onProgress({ phase, percent: Math.min(99, Math.floor(share * 100)), detail })
  }
}
