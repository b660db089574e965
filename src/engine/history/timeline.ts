/**
 * A state that can be moved to any past epoch: forward by the records of the log, backward by what those overwrote, or
 * anew from the nearest checkpoint. It goes the way of recovery (src/engine/history/rebuild.ts), so derived pages are exact.
 *
 * Invariants: between calls the rooms hold exactly the state of `epoch`, its digest checked against the log at every step;
 * after an error they hold nothing and the next seek begins anew. What is kept for stepping back is bounded. One user at a
 * time. Knows nothing of threads.
 */
import { MmsbError } from '../../errors.js'
import { NativeContext } from '../../ffi/context.js'
import { Graph } from '../../graph/graph.js'
import {
  MEMORY_QUOTA_DEFAULT_BYTES,
  REPLAY_CANCEL_EPOCHS,
  REPLAY_JUMP_EPOCHS,
  REPLAY_UNDO_BYTES,
  REPLAY_UNDO_EPOCHS,
} from '../../limits.js'
import type { HistoryReader } from '../../store/history.js'
import type { LogRecord } from '../../store/types.js'
import { installPages, uninstallPages } from '../commit/batch.js'
import { type PageRecord, Registry } from '../pages/registry.js'
import {
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
  /** Called now and then while records go by; throws to end the replay. */
  readonly onPause?: (epoch: number) => void
  /** Bound on what is kept for stepping back. */
  readonly undoBytes?: number
  readonly undoEpochs?: number
  /** Take every record on the way forward, never a checkpoint. */
  readonly neverJump?: boolean
}

/** What is needed to take one epoch back, beside the bytes that the context keeps. */
interface Undo {
  readonly epoch: number
  readonly digest: Uint8Array
  readonly nextPageId: number
  readonly timestampMs: number
  readonly versions: readonly (readonly [page: PageRecord, version: number])[]
  /** Pages written by deltas or created: every other page that changed derives from one of these. */
  readonly roots: readonly number[]
  readonly created: readonly PageRecord[]
  readonly deleted: readonly { readonly page: PageRecord; readonly bytes: Uint8Array }[]
  readonly deletedBytes: number
}

interface Rooms {
  readonly registry: Registry
  readonly graph: Graph
  readonly context: NativeContext
}

export class Timeline {
  readonly #options: TimelineOptions
  readonly #reader: HistoryReader
  #rooms: Rooms | undefined
  #progress: Progress | undefined
  /** Newest last. The context keeps as many calls. */
  #undos: Undo[] = []
  #undoBytes = 0

  constructor(options: TimelineOptions) {
    this.#options = options
    this.#reader = options.reader
  }

  /** Where the state stands; undefined before the first seek and after an error. */
  get epoch(): number | undefined {
    return this.#progress?.epoch
  }

  get digest(): Uint8Array {
    return this.#standing.progress.digest
  }

  get timestampMs(): number {
    return this.#standing.progress.timestampMs
  }

  get registry(): Registry {
    return this.#standing.rooms.registry
  }

  get graph(): Graph {
    return this.#standing.rooms.graph
  }

  get context(): NativeContext {
    return this.#standing.rooms.context
  }

  get #standing(): { rooms: Rooms; progress: Progress } {
    if (this.#rooms === undefined || this.#progress === undefined)
      throw new MmsbError('INTERNAL', 'The replay stands nowhere.')
    return { rooms: this.#rooms, progress: this.#progress }
  }

  /** Moves the state to the epoch, which must have been written. `watch` sees every epoch replayed on the way. */
  seek(target: number, watch?: (epoch: ReplayedEpoch) => void): void {
    try {
      this.#approach(target)
      this.#forward(target, watch)
    } catch (error) {
      this.close()
      throw error
    }
  }

  /** Goes on from `from` towards the epoch, until `watch` has seen enough. Returns how far it came. */
  walk(from: number, target: number, watch: (epoch: ReplayedEpoch) => 'on' | 'enough'): number {
    this.seek(from)
    let seen: 'on' | 'enough' = 'on'
    try {
      this.#forward(
        target,
        (replayed) => {
          seen = watch(replayed)
        },
        () => seen === 'enough',
      )
    } catch (error) {
      this.close()
      throw error
    }
    return this.#standing.progress.epoch
  }

  /** Takes the state to an epoch at or below the target from which records lead there. */
  #approach(target: number): void {
    const oldest = this.#undos[0]?.epoch
    if (oldest !== undefined && oldest <= target) while ((this.epoch ?? 0) > target) this.#stepBack()
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
    this.#progress = emptyProgress(this.#standingRooms, false)
  }

  get #standingRooms(): Rooms {
    if (this.#rooms === undefined) throw new MmsbError('INTERNAL', 'The replay has no rooms.')
    return this.#rooms
  }

  #begin(): void {
    this.close()
    const quotaBytes = this.#options.quotaBytes ?? MEMORY_QUOTA_DEFAULT_BYTES
    const { threads = 1 } = this.#options
    const context = new NativeContext({ backend: 'cpu', threads, quotaBytes, refuge: true })
    this.#rooms = { registry: new Registry(), graph: new Graph(), context }
  }

  /** False when the checkpoint is not sound; an older one will do. */
  #load(epoch: number): boolean {
    const checkpoint = this.#reader.openCheckpoint(epoch)
    if (typeof checkpoint === 'string') return false
    try {
      this.#begin()
      this.#progress = loadCheckpoint(this.#standingRooms, checkpoint, false)
      return true
    } finally {
      checkpoint.close()
    }
  }

  #forward(
    target: number,
    watch: ((epoch: ReplayedEpoch) => void) | undefined,
    isEnough: () => boolean = () => false,
  ): void {
    const { rooms, progress } = this.#standing
    if (progress.epoch >= target) return
    const undoEpochs = this.#options.undoEpochs ?? REPLAY_UNDO_EPOCHS
    let sinceLook = 0
    for (const record of this.#reader.records(progress.epoch + 1, target)) {
      // Only the last steps before the target can be taken back.
      if (target - record.epoch < undoEpochs) this.#stepKept(record, watch)
      else {
        if (this.#undos.length > 0) this.#forgetUndos()
        replayRecord(rooms, record, progress, watch === undefined ? {} : { executed: watch })
      }
      if (isEnough()) return
      if (++sinceLook < REPLAY_CANCEL_EPOCHS) continue
      sinceLook = 0
      this.#options.onPause?.(record.epoch)
    }
  }

  #stepKept(record: LogRecord, watch: ((epoch: ReplayedEpoch) => void) | undefined): void {
    const { rooms, progress } = this.#standing
    const { digest, nextPageId, timestampMs } = progress
    const versions: [PageRecord, number][] = []
    let created: readonly PageRecord[] = []
    let deleted: Undo['deleted'] = []
    let isOneWay = false
    rooms.context.keep(true)
    replayRecord(rooms, record, progress, {
      changing: (page) => versions.push([page, page.version]),
      executed: (replayed) => {
        watch?.(replayed)
        isOneWay = replayed.isOneWay
        const gone = new Set(replayed.deleted.map((page) => page.id))
        const fresh = new Set(replayed.created.map((page) => page.id))
        created = replayed.created.filter((page) => !gone.has(page.id))
        deleted = replayed.deleted
          .filter((page) => !fresh.has(page.id))
          .map((page) => ({ page, bytes: this.#bytesOf(page) }))
      },
    })
    if (isOneWay) {
      this.#forgetUndos()
      return
    }
    const deletedBytes = deleted.reduce((sum, { bytes }) => sum + bytes.length, 0)
    const roots = Array.from(record.touchedPages)
    const undo = {
      epoch: progress.epoch - 1,
      digest,
      nextPageId,
      timestampMs,
      versions,
      roots,
      created,
      deleted,
    }
    this.#undos.push({ ...undo, deletedBytes })
    this.#undoBytes += deletedBytes
    this.#trim()
  }

  #bytesOf(page: PageRecord): Uint8Array {
    const bytes = new Uint8Array(page.bytes)
    if (page.bytes > 0) this.context.readPage(page.id, 0, bytes)
    return bytes
  }

  /** The oldest steps are forgotten first. */
  #trim(): void {
    const maxBytes = this.#options.undoBytes ?? REPLAY_UNDO_BYTES
    const maxCalls = this.#options.undoEpochs ?? REPLAY_UNDO_EPOCHS
    const kept = this.context.trimKept(Math.max(0, maxBytes - this.#undoBytes), maxCalls)
    while (this.#undos.length > kept) this.#undoBytes -= this.#undos.shift()?.deletedBytes ?? 0
  }

  #forgetUndos(): void {
    this.#undos = []
    this.#undoBytes = 0
    this.context.keep(false)
  }

  /** Takes the newest step back. */
  #stepBack(): void {
    const { rooms, progress } = this.#standing
    const undo = this.#undos.pop() as Undo
    this.#undoBytes -= undo.deletedBytes
    const { registry, graph, context } = rooms
    for (const { page, bytes } of undo.deleted.toReversed()) {
      installPages(rooms, [page])
      if (bytes.length > 0) context.loadPage(page.id, 0, bytes)
    }
    const roots = undo.roots.filter((id) => graph.node(id) !== undefined)
    context.undo(graph.plan(roots).steps)
    uninstallPages(rooms, undo.created.toReversed())
    for (const [page, version] of undo.versions) if (registry.byId(page.id) === page) page.version = version
    const digest = context.stateDigest()
    checkDigest(digest, undo.digest, `epoch ${undo.epoch}, after stepping back`)
    Object.assign(progress, {
      epoch: undo.epoch,
      digest,
      nextPageId: undo.nextPageId,
      timestampMs: undo.timestampMs,
    })
  }

  /** Hands the state over to the caller, who closes it. The next seek begins anew. */
  release(): Rooms {
    const rooms = this.#standingRooms
    this.#forgetUndos()
    this.#rooms = undefined
    this.#progress = undefined
    return rooms
  }

  /** Frees the state. The next seek begins anew. */
  close(): void {
    this.#rooms?.context.close()
    this.#rooms = undefined
    this.#progress = undefined
    this.#undos = []
    this.#undoBytes = 0
  }
}
