/**
 * When checkpoints are made, and what of the past is kept.
 *
 * A checkpoint is a snapshot (src/engine/checkpoints/snapshot.ts) that the store reads in pieces while commits go on. It is made when
 * asked for, after so many epochs or bytes of log, and at close; after each, retention lets go what the limits allow.
 *
 * Invariants: one checkpoint at a time; one made by itself that fails is a warning, and is tried again after a quarter of the
 * distance; commits wait for a checkpoint only where the backend cannot tell what it overwrites, or when it is overwritten
 * faster than it is written.
 */
import { MmsbError } from '../../errors.js'
import type { NativeContext } from '../../ffi/context.js'
import type { Graph } from '../../graph/graph.js'
import {
  CHECKPOINT_EVERY_BYTES,
  CHECKPOINT_EVERY_EPOCHS,
  CHECKPOINT_SAVED_MAX_BYTES,
  RETENTION_INTERVAL_MS,
} from '../../limits.js'
import type { Store } from '../../store/store.js'
import type { CheckpointInfo } from '../../store/types.js'
import type { Committer } from '../commit/committer.js'
import type { Registry } from '../pages/registry.js'
import type { BusOptions } from '../types.js'
import { checkpointSource } from './contents.js'
import { Snapshot } from './snapshot.js'

/** Limits of retention are reached in this many steps: a checkpoint is due after each. */
const STEPS = 4

export interface KeeperRooms {
  readonly registry: Registry
  readonly graph: Graph
  readonly context: NativeContext
  readonly committer: Committer
  readonly store: Store
  readonly options: BusOptions
  /** Readers of the past: each gives the lowest epoch it needs. */
  readonly needs: ReadonlySet<() => number | undefined>
  readonly nextPageId: () => number
  /** Bytes of log since the checkpoint that was recovered from. */
  readonly replayedBytes: number
}

export class Keeper {
  readonly #rooms: KeeperRooms
  readonly #everyEpochs: number
  readonly #everyBytes: number
  readonly #everyMs: number
  #making: Promise<unknown> = Promise.resolve()
  #isDue = false
  #closing = false
  /** Epoch, bytes of log and time at the last checkpoint, or at the last try. */
  #lastEpoch: number
  #lastBytes: number
  #lastMs = Date.now()
  readonly #timer: NodeJS.Timeout | undefined

  constructor(rooms: KeeperRooms) {
    this.#rooms = rooms
    const { checkpoints = {}, retention = {} } = rooms.options
    const every = (wanted: number, limit: number | undefined): number =>
      Math.min(wanted || Number.POSITIVE_INFINITY, Math.max(1, (limit ?? Number.POSITIVE_INFINITY) / STEPS))
    this.#everyEpochs = every(checkpoints.everyEpochs ?? CHECKPOINT_EVERY_EPOCHS, retention.maxEpochs)
    this.#everyBytes = every(checkpoints.everyBytes ?? CHECKPOINT_EVERY_BYTES, retention.maxBytes)
    this.#everyMs = every(0, retention.maxAgeMs)
    this.#lastEpoch = rooms.store.checkpoints().at(-1)?.epoch ?? 0
    this.#lastBytes = rooms.store.appendedBytes - rooms.replayedBytes
    rooms.committer.onPublished = () => this.#look()
    if (retention.maxAgeMs !== undefined) {
      this.#timer = setInterval(() => this.#onTime(), RETENTION_INTERVAL_MS)
      this.#timer.unref()
    }
    this.#look()
  }

  /** Makes a checkpoint of the newest epoch, after those that were asked for before. */
  checkpoint(): Promise<CheckpointInfo> {
    const made = this.#making.then(() => this.#make())
    this.#making = made.catch(() => {})
    return made
  }

  /** Resolves when nothing is under way. Nothing more begins by itself. */
  async idle(): Promise<void> {
    this.#closing = true
    clearInterval(this.#timer)
    await this.#making
  }

  /** Nothing is queued any more; the log is still open. */
  async close(): Promise<void> {
    const { options, committer, store } = this.#rooms
    if (options.checkpoints?.atClose !== true || committer.epoch === 0) return
    if (store.checkpoints().at(-1)?.epoch === committer.epoch) return
    await this.#make().catch((error: unknown) => this.#warn('the checkpoint at close failed', error))
  }

  #onTime(): void {
    const { committer } = this.#rooms
    if (committer.epoch > this.#lastEpoch && Date.now() - this.#lastMs >= this.#everyMs) this.#start()
    else this.#making = this.#making.then(() => this.#retain())
  }

  /** After every epoch. */
  #look(): void {
    const { committer, store } = this.#rooms
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
    const { committer, store } = this.#rooms
    const share = (every: number): number => (Number.isFinite(every) ? every - every / STEPS : 0)
    this.#lastEpoch = committer.epoch - share(this.#everyEpochs)
    this.#lastBytes = store.appendedBytes - share(this.#everyBytes)
    this.#lastMs = Date.now()
  }

  async #make(): Promise<CheckpointInfo> {
    const { committer, store } = this.#rooms
    await committer.idle()
    committer.refuseWhenFailed()
    const { epoch } = committer
    const bytes = store.appendedBytes
    const info = await this.#write()
    this.#lastEpoch = epoch
    this.#lastBytes = bytes
    this.#lastMs = Date.now()
    await this.#retain()
    return info
  }

  async #retain(): Promise<void> {
    const { store, options, needs } = this.#rooms
    if (options.retention === undefined) return
    const lowest = (): number | undefined => {
      const epochs = [...needs].flatMap((need) => need() ?? [])
      return epochs.length === 0 ? undefined : Math.min(...epochs)
    }
    await store
      .retain(options.retention, lowest)
      .catch((error: unknown) => this.#warn('retention failed', error))
  }

  #warn(what: string, error: unknown): void {
    const why = error instanceof Error ? error.message : String(error)
    this.#rooms.options.onNotice?.({ level: 'warn', message: `${what}: ${why}` })
  }

  /** The state must be at rest. */
  #write(): Promise<CheckpointInfo> {
    const { committer, store } = this.#rooms
    const reading = new Reading(this.#rooms)
    const { epoch, digest, timestampMs, answers } = committer
    const state = { epoch, digest, timestampMs, answers, nextPageId: this.#rooms.nextPageId() }
    const source = checkpointSource({ ...this.#rooms, ...state }, reading)
    reading.open(source.pages)
    return store.checkpoint(source).finally(() => reading.onRead())
  }
}

/** The state being read for a checkpoint: from a snapshot, or while commits are held. */
class Reading {
  readonly #rooms: KeeperRooms
  #snapshot: Snapshot | undefined
  #release: (() => void) | undefined
  /** Settles when commits have stopped; set once they are to. */
  #held: Promise<void> | undefined
  #ended = false

  constructor(rooms: KeeperRooms) {
    this.#rooms = rooms
  }

  /** Begins with the state at rest. */
  open(pages: readonly { readonly id: number; readonly bytes: number }[]): void {
    const { context, committer } = this.#rooms
    try {
      this.#snapshot = new Snapshot(context, new Map(pages.map(({ id, bytes }) => [id, bytes])))
      committer.watch(this.#snapshot)
    } catch (error) {
      if (!(error instanceof MmsbError) || error.code !== 'UNSUPPORTED_LOCATION') throw error
      this.#hold()
    }
  }

  /** Keeps commits from starting until the end. */
  #hold(): void {
    this.#held = new Promise((begun, failed) => {
      const held = this.#rooms.committer.hold(
        () =>
          new Promise<void>((release) => {
            this.#release = release
            begun()
            if (this.#ended) release()
          }),
      )
      held.catch(failed)
    })
    // It is waited for before each turn of reading.
    this.#held.catch(() => {})
  }

  readonly begin = (ids: ReadonlySet<number>): void => this.#snapshot?.narrow(ids)

  readonly ready = (): Promise<void> | undefined => {
    const isTooMuch = (this.#snapshot?.savedBytes ?? 0) > CHECKPOINT_SAVED_MAX_BYTES
    if (isTooMuch && this.#held === undefined) this.#hold()
    if (this.#held !== undefined) return this.#held
    return this.#rooms.committer.isQuiet ? undefined : this.#rooms.committer.quiet()
  }

  readonly read = (pageId: number, offset: number, into: Uint8Array): void => {
    this.#rooms.committer.refuseWhenFailed()
    if (this.#snapshot === undefined) this.#rooms.context.readPage(pageId, offset, into)
    else this.#snapshot.read(pageId, offset, into)
  }

  /** Idempotent. */
  readonly onRead = (): void => {
    if (this.#ended) return
    this.#ended = true
    this.#release?.()
    const { committer } = this.#rooms
    const snapshot = this.#snapshot
    if (snapshot === undefined) return
    void committer.quiet().then(() => {
      committer.watch(undefined)
      snapshot.end()
    })
  }
}
