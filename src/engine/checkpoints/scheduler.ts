/**
 * When checkpoints are made and how much history is kept.
 *
 * A checkpoint is made on request, after a number of epochs or bytes of log, and at close. After each,
 * retention deletes the history that the limits allow to go.
 *
 * Invariants: one checkpoint at a time. An automatic checkpoint that fails is a warning and is retried after
 * a quarter of the usual distance.
 */
import { CHECKPOINT_EVERY_BYTES, CHECKPOINT_EVERY_EPOCHS, RETENTION_INTERVAL_MS } from '../../limits.js'
import { textOf } from '../../store/os/errors.js'
import type { Store } from '../../store/store.js'
import type { CheckpointInfo } from '../../store/types.js'
import type { Committer } from '../commit/committer.js'
import type { EngineState } from '../pages/engine-state.js'
import type { BusOptions } from '../types.js'
import { checkpointSource } from './contents.js'
import { CheckpointReading } from './reading.js'

/**
 * Checkpoints between two deletions of history: one is due each time this part of a retention limit is used
 * up.
 */
const STEPS = 4

export interface CheckpointSchedulerDeps {
  readonly state: EngineState
  readonly committer: Committer
  readonly store: Store
  readonly options: BusOptions
  /** Readers of history: each returns the lowest epoch it needs. */
  readonly needs: ReadonlySet<() => number | undefined>
  readonly nextPageId: () => number
  /** Bytes of log after the checkpoint that recovery started from. */
  readonly replayedBytes: number
  /** Milliseconds of a clock that never goes back. */
  readonly ticksMs: () => number
}

export class CheckpointScheduler {
  readonly #deps: CheckpointSchedulerDeps
  readonly #everyEpochs: number
  readonly #everyBytes: number
  readonly #everyMs: number
  #making: Promise<unknown> = Promise.resolve()
  #isDue = false
  #closing = false
  /** Epoch, bytes of log and time at the last checkpoint or attempt. */
  #lastEpoch: number
  #lastBytes: number
  #lastMs: number
  readonly #timer: NodeJS.Timeout | undefined

  constructor(deps: CheckpointSchedulerDeps) {
    this.#deps = deps
    const { checkpoints = {}, retention = {} } = deps.options
    const every = (wanted: number, limit: number | undefined): number =>
      Math.min(wanted || Number.POSITIVE_INFINITY, Math.max(1, (limit ?? Number.POSITIVE_INFINITY) / STEPS))
    this.#everyEpochs = every(checkpoints.everyEpochs ?? CHECKPOINT_EVERY_EPOCHS, retention.maxEpochs)
    this.#everyBytes = every(checkpoints.everyBytes ?? CHECKPOINT_EVERY_BYTES, retention.maxBytes)
    this.#everyMs = every(0, retention.maxAgeMs)
    this.#lastEpoch = this.#newestEpoch
    this.#lastBytes = deps.store.appendedBytes - deps.replayedBytes
    this.#lastMs = deps.ticksMs()
    deps.committer.onPublished = () => this.#look()
    if (retention.maxAgeMs !== undefined) {
      this.#timer = setInterval(() => this.#onTime(), RETENTION_INTERVAL_MS)
      this.#timer.unref()
    }
    this.#look()
  }

  /** The epoch of the newest checkpoint; 0 without one. */
  get #newestEpoch(): number {
    return this.#deps.store.checkpoints().at(-1)?.epoch ?? 0
  }

  /** Makes a checkpoint of the newest epoch, after those requested before. */
  checkpoint(onProgress?: (percent: number) => void): Promise<CheckpointInfo> {
    const made = this.#making.then(() => this.#make(onProgress))
    this.#making = made.catch(() => {})
    return made
  }

  /** Starts no more automatic checkpoints; resolves when none is under way. */
  async idle(): Promise<void> {
    this.#closing = true
    clearInterval(this.#timer)
    await this.#making
  }

  /** Makes the checkpoint at close. The queue must be empty and the log still open. */
  async close(): Promise<void> {
    const { options, committer } = this.#deps
    if (options.checkpoints?.atClose !== true || committer.epoch === 0) return
    if (this.#newestEpoch === committer.epoch) return
    await this.#make().catch((error: unknown) => this.#warn('the checkpoint at close failed', error))
  }

  #onTime(): void {
    const { committer, ticksMs } = this.#deps
    const hasNew = committer.epoch > this.#newestEpoch
    if (hasNew && ticksMs() - this.#lastMs >= this.#everyMs) this.#start()
    else this.#making = this.#making.then(() => this.#retain())
  }

  /** After every epoch. */
  #look(): void {
    const { committer, store } = this.#deps
    const isFar =
      committer.epoch - this.#lastEpoch >= this.#everyEpochs ||
      store.appendedBytes - this.#lastBytes >= this.#everyBytes
    if (isFar && !this.#isDue) this.#start()
  }

  #start(): void {
    if (this.#closing || this.#isDue) return
    this.#isDue = true
    this.#making = this.#making
      .then(() => this.#make())
      .catch((error: unknown) => {
        this.#warn('a checkpoint could not be made', error)
        this.#postpone()
      })
      .finally(() => {
        this.#isDue = false
      })
  }

  #postpone(): void {
    const { committer, store } = this.#deps
    const share = (every: number): number => (Number.isFinite(every) ? every - every / STEPS : 0)
    this.#lastEpoch = committer.epoch - share(this.#everyEpochs)
    this.#lastBytes = store.appendedBytes - share(this.#everyBytes)
    this.#lastMs = this.#deps.ticksMs() - share(this.#everyMs)
  }

  async #make(onProgress?: (percent: number) => void): Promise<CheckpointInfo> {
    const { committer, store } = this.#deps
    await committer.idle()
    committer.lifecycle.refuseWhenFailed()
    const { epoch } = committer
    const bytes = store.appendedBytes
    const info = await this.#write(onProgress)
    this.#lastEpoch = epoch
    this.#lastBytes = bytes
    this.#lastMs = this.#deps.ticksMs()
    await this.#retain()
    return info
  }

  async #retain(): Promise<void> {
    const { store, options, needs } = this.#deps
    if (options.retention === undefined) return
    const lowest = (): number => Math.min(...[...needs].map((need) => need() ?? Number.POSITIVE_INFINITY))
    await store
      .retain(options.retention, lowest)
      .catch((error: unknown) => this.#warn('retention failed', error))
  }

  #warn(what: string, error: unknown): void {
    this.#deps.options.onNotice?.({ level: 'warn', message: `${what}: ${textOf(error)}` })
  }

  /** The state must be at rest. */
  #write(onProgress?: (percent: number) => void): Promise<CheckpointInfo> {
    const { state, committer, store, nextPageId } = this.#deps
    const { epoch, digest, timestampMs, answers } = committer
    const reading = new CheckpointReading(state.context, committer)
    const source = checkpointSource(
      { state, epoch, digest, timestampMs, answers, nextPageId: nextPageId() },
      reading,
    )
    reading.open(source.pages)
    const percentOf = (bytes: number, of: number): number => (of === 0 ? 100 : Math.floor((100 * bytes) / of))
    const wasRead = (bytes: number, of: number): void => onProgress?.(percentOf(bytes, of))
    return store.checkpoint({ ...source, wasRead }).finally(() => reading.onRead())
  }
}
