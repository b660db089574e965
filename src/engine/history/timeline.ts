/**
 * A state that can be moved to any past epoch: forward by records of the log, backward by undoing them, or
 * from the nearest checkpoint. It is rebuilt as in recovery (src/engine/history/rebuild.ts), so derived pages
 * are exact. With a cone, the state holds only these pages, and a replay computes no others.
 *
 * Invariants: between calls the timeline holds exactly the state of `epoch`; without a cone, its digest is
 * checked against the log at every step. After an error it holds nothing and the next seek starts over; an
 * interrupted seek leaves it at an epoch on the way. What is kept for undoing is bounded. One user at a time.
 * Knows nothing of threads.
 */
import { MmsbError } from '../../errors.js'
import { NativeContext } from '../../ffi/context.js'
import { Graph } from '../../graph/graph.js'
import {
  MEMORY_QUOTA_DEFAULT_BYTES,
  REPLAY_CANCEL_EPOCHS,
  REPLAY_CANCEL_MS,
  REPLAY_JUMP_EPOCHS,
  REPLAY_UNDO_BYTES,
  REPLAY_UNDO_EPOCHS,
} from '../../limits.js'
import type { HistoryReader } from '../../store/history.js'
import type { LogRecord } from '../../store/types.js'
import type { EngineState } from '../pages/engine-state.js'
import { installPages, uninstallPages } from '../pages/install.js'
import { type PageRecord, Registry } from '../pages/registry.js'
import {
  type Cone,
  checkDigest,
  emptyProgress,
  loadCheckpoint,
  type Progress,
  type ReplayedEpoch,
  replayRecord,
} from './rebuild.js'

export interface TimelineOptions {
  readonly reader: HistoryReader
  readonly quotaBytes?: number
  /** Native worker threads; default 1. */
  readonly threads?: number
  /** The pages to hold, with all that they derive from. It may grow by pages that do not exist yet. */
  readonly cone?: Cone
  /** Called from time to time during a replay; throws Interrupted to end it between two epochs. */
  readonly onPause?: (epoch: number) => void
  /** A shared word: while it is not 0, what is executed ends with ExecutionCancelled. */
  readonly cancelledBy?: Int32Array
  /** Bounds on what is kept for undoing. */
  readonly undoBytes?: number
  readonly undoEpochs?: number
  /** Replay every record on the way forward; never skip to a checkpoint. */
  readonly neverJump?: boolean
}

/** Thrown by `onPause`: the replay ends here, and can go on from here later. */
export class Interrupted extends Error {}

/** What undoing one epoch needs, besides the bytes that the context keeps. */
interface Undo {
  readonly epoch: number
  readonly digest: Uint8Array
  readonly versions: readonly (readonly [page: PageRecord, version: number])[]
  /** Pages that deltas wrote, and created pages: every other page that changed derives from one of these. */
  readonly roots: readonly number[]
  readonly created: readonly PageRecord[]
  readonly deleted: readonly { readonly page: PageRecord; readonly bytes: Uint8Array }[]
  readonly deletedBytes: number
  /** Since this epoch the state was what undoing leads to. */
  readonly since: number
}

export class Timeline {
  readonly #options: TimelineOptions
  readonly #reader: HistoryReader
  #state: EngineState | undefined
  #progress: Progress | undefined
  /** Newest last. The context keeps as many calls. */
  #undos: Undo[] = []
  #undoBytes = 0
  /** No epoch after this one, up to `epoch`, touched the cone. */
  #since = 0

  constructor(options: TimelineOptions) {
    this.#options = options
    this.#reader = options.reader
  }

  /** The epoch of the state; undefined before the first seek and after an error. */
  get epoch(): number | undefined {
    return this.#progress?.epoch
  }

  get digest(): Uint8Array {
    return this.#current.progress.digest
  }

  get registry(): Registry {
    return this.#current.state.registry
  }

  get graph(): Graph {
    return this.#current.state.graph
  }

  get context(): NativeContext {
    return this.#current.state.context
  }

  /** Bytes of the pages that it holds. */
  get pageBytes(): number {
    return this.#state?.context.memory().pageBytes ?? 0
  }

  get #current(): { state: EngineState; progress: Progress } {
    if (this.#state === undefined || this.#progress === undefined)
      throw new MmsbError('INTERNAL', 'The timeline holds no epoch.')
    return { state: this.#state, progress: this.#progress }
  }

  /**
   * Moves the state to the epoch, which must have been written. `watch` sees every epoch on the way that
   * touches the cone.
   */
  seek(target: number, watch?: (epoch: ReplayedEpoch) => void): void {
    this.#attempt(() => {
      this.#approach(target)
      this.#forward(target, watch)
    })
  }

  /**
   * Goes to `from` and on towards the epoch, until `isEnough`, which is asked after every epoch. `watch` sees
   * the epochs after `from` that touch the cone. Returns how far it came, which may be before `from`.
   */
  walk(
    from: number,
    target: number,
    watch: (epoch: ReplayedEpoch) => void,
    isEnough: () => boolean = () => false,
  ): number {
    return this.#attempt(() => {
      const { progress } = this.#approach(from)
      if (this.#forward(from, undefined, isEnough) === 'there') this.#forward(target, watch, isEnough)
      return progress.epoch
    })
  }

  #attempt<T>(move: () => T): T {
    try {
      return move()
    } catch (error) {
      if (!(error instanceof Interrupted)) this.close()
      throw error
    }
  }

  /** Whether the epoch can be reached from here without starting over. */
  reaches(target: number): boolean {
    const here = this.epoch
    if (here === undefined) return false
    if (target >= here) return target - here <= REPLAY_JUMP_EPOCHS
    return target >= (this.#undos[0]?.since ?? this.#since)
  }

  /** Takes the state to an epoch at or below the target from which records lead there. */
  #approach(target: number): { progress: Progress } {
    this.#back(target)
    this.#near(target)
    return this.#current
  }

  /** Steps back to the epoch, as far as that is possible. */
  #back(target: number): void {
    const oldest = this.#undos[0]?.since ?? this.#since
    if (this.#progress === undefined || oldest > target) return
    while (this.#progress.epoch > target) {
      if (this.#since <= target) this.#progress.epoch = target
      else this.#stepBack()
    }
  }

  #near(target: number): void {
    const here = this.epoch
    const isBehind = here !== undefined && here <= target
    if (isBehind && (this.#options.neverJump === true || target - here <= REPLAY_JUMP_EPOCHS)) return
    for (const epoch of this.#reader.checkpointEpochs()) {
      if (epoch > target) continue
      if (isBehind && epoch <= here) return
      if (this.#load(epoch)) return
    }
    if (isBehind) return
    if ((this.#reader.firstEpoch ?? 1) !== 1) {
      throw new MmsbError('EPOCH_COMPACTED', `Epoch ${target} can no longer be rebuilt.`)
    }
    this.#begin()
    this.#progress = emptyProgress(this.#currentState)
    this.#since = 0
  }

  get #currentState(): EngineState {
    if (this.#state === undefined) throw new MmsbError('INTERNAL', 'The timeline holds no state.')
    return this.#state
  }

  #begin(): void {
    this.close()
    const quotaBytes = this.#options.quotaBytes ?? MEMORY_QUOTA_DEFAULT_BYTES
    const { threads = 1, cancelledBy } = this.#options
    const options = { backend: 'cpu', threads, quotaBytes, hostMemoryOnly: true, cancelledBy } as const
    const context = new NativeContext(options)
    this.#state = { registry: new Registry(), graph: new Graph(), context }
  }

  /** Returns false when the checkpoint is damaged; an older one can be used instead. */
  #load(epoch: number): boolean {
    const checkpoint = this.#reader.openCheckpoint(epoch)
    if (typeof checkpoint === 'string') return false
    try {
      this.#begin()
      this.#progress = loadCheckpoint(this.#currentState, checkpoint, undefined, this.#options.cone)
      this.#since = epoch
      return true
    } finally {
      checkpoint.close()
    }
  }

  #forward(
    target: number,
    watch: ((epoch: ReplayedEpoch) => void) | undefined,
    isEnough: () => boolean = () => false,
  ): 'there' | 'enough' {
    const { state, progress } = this.#current
    if (progress.epoch >= target) return 'there'
    const { undoEpochs = REPLAY_UNDO_EPOCHS, cone, onPause } = this.#options
    let sinceLook = 0
    let lookedMs = performance.now()
    for (const record of this.#reader.records(progress.epoch + 1, target)) {
      // Only the last epochs before the target can be undone.
      if (target - record.epoch < undoEpochs) this.#stepUndoably(record, watch)
      else {
        if (this.#undos.length > 0) this.#forgetUndos()
        const watcher = watch === undefined ? {} : { executed: watch }
        if (replayRecord(state, record, progress, watcher, cone) === 'replayed') this.#since = record.epoch
      }
      if (isEnough()) return progress.epoch >= target ? 'there' : 'enough'
      if (++sinceLook < REPLAY_CANCEL_EPOCHS && performance.now() < lookedMs + REPLAY_CANCEL_MS) continue
      sinceLook = 0
      lookedMs = performance.now()
      onPause?.(record.epoch)
    }
    return 'there'
  }

  #stepUndoably(record: LogRecord, watch: ((epoch: ReplayedEpoch) => void) | undefined): void {
    const { state, progress } = this.#current
    const { epoch, digest } = progress
    const versions: [PageRecord, number][] = []
    let created: readonly PageRecord[] = []
    let deleted: Undo['deleted'] = []
    let isOneWay = false
    state.context.keep(true)
    const watcher = {
      changing: (page: PageRecord) => versions.push([page, page.version]),
      executed: (replayed: ReplayedEpoch) => {
        watch?.(replayed)
        isOneWay = replayed.isOneWay
        const deletedIds = new Set(replayed.deleted.map((page) => page.id))
        const createdIds = new Set(replayed.created.map((page) => page.id))
        created = replayed.created.filter((page) => !deletedIds.has(page.id))
        deleted = replayed.deleted
          .filter((page) => !createdIds.has(page.id))
          .map((page) => ({ page, bytes: this.#bytesOf(page) }))
      },
    }
    if (replayRecord(state, record, progress, watcher, this.#options.cone) === 'untouched') return
    const since = this.#since
    this.#since = record.epoch
    if (isOneWay) {
      this.#forgetUndos()
      return
    }
    const deletedBytes = deleted.reduce((sum, { bytes }) => sum + bytes.length, 0)
    const roots = Array.from(record.touchedPages)
    const undo = { epoch, since, digest, versions, roots, created, deleted }
    this.#undos.push({ ...undo, deletedBytes })
    this.#undoBytes += deletedBytes
    this.#trim()
  }

  #bytesOf(page: PageRecord): Uint8Array {
    const bytes = new Uint8Array(page.bytes)
    if (page.bytes > 0) this.context.readPage(page.id, 0, bytes)
    return bytes
  }

  /** Forgets the oldest epochs first. */
  #trim(): void {
    const maxBytes = this.#options.undoBytes ?? REPLAY_UNDO_BYTES
    const maxCalls = this.#options.undoEpochs ?? REPLAY_UNDO_EPOCHS
    // The context knows nothing of deleted pages, and an epoch that only deletes keeps no bytes there.
    while (this.#undoBytes > maxBytes) this.#dropOldest()
    const kept = this.context.trimKept(maxBytes - this.#undoBytes, Math.min(maxCalls, this.#undos.length))
    while (this.#undos.length > kept) this.#dropOldest()
  }

  #dropOldest(): void {
    this.#undoBytes -= this.#undos.shift()?.deletedBytes ?? 0
  }

  #forgetUndos(): void {
    this.#undos = []
    this.#undoBytes = 0
    this.context.keep(false)
  }

  /** Undoes the newest epoch. */
  #stepBack(): void {
    const { state, progress } = this.#current
    const undo = this.#undos.pop() as Undo
    this.#undoBytes -= undo.deletedBytes
    const { registry, graph, context } = state
    for (const { page, bytes } of undo.deleted.toReversed()) {
      installPages(state, [page])
      if (bytes.length > 0) context.loadPage(page.id, 0, bytes)
    }
    const roots = undo.roots.filter((id) => graph.node(id) !== undefined)
    context.undo(graph.plan(roots).steps)
    uninstallPages(state, undo.created.toReversed())
    for (const [page, version] of undo.versions) if (registry.byId(page.id) === page) page.version = version
    this.#since = undo.since
    const digest = context.stateDigest()
    checkDigest(digest, undo.digest, `epoch ${undo.epoch}, after stepping back`)
    // The time of the newest epoch and the next page id are for recovery, which never steps back.
    progress.epoch = undo.epoch
    progress.digest = digest
  }

  /** Hands the state over to the caller, who must close it. The next seek starts over. */
  release(): EngineState {
    const state = this.#currentState
    this.#forgetUndos()
    this.#state = undefined
    this.#progress = undefined
    return state
  }

  /** Frees the state. The next seek starts over. */
  close(): void {
    this.#state?.context.close()
    this.#state = undefined
    this.#progress = undefined
    this.#undos = []
    this.#undoBytes = 0
  }
}
