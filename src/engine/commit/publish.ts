/**
 * Publishing an epoch: versions move, structural changes become visible, listeners are called and answers are
 * made.
 *
 * Invariants: the epoch, its digest and its timestamp always belong together. Listeners are called while the
 * state is exactly that of the epoch, and before any writer is answered. Knows nothing of the log.
 */
import type { MmsbError } from '../../errors.js'
import type { ExecuteResult } from '../../ffi/context.js'
import type { Plan } from '../../graph/graph.js'
import { setOwn } from '../../state/own-field.js'
import { NO_RANGES } from '../../state/ranges.js'
import type { Pending, Submission } from '../commands/pending.js'
import type { IdempotencyKeys } from '../idempotency/keys.js'
import type { EngineState } from '../pages/engine-state.js'
import type { PageRecord } from '../pages/registry.js'
import type { StageTimings } from '../stage-timings.js'
import type { CommitEvent, CommitResult, PageChange } from '../types.js'
import type { Batch } from './batch.js'
import type { OverwriteObserver } from './executor.js'

/** An epoch between staging and publishing. */
export interface EpochInFlight {
  batch: Batch
  readonly submissions: readonly Submission[]
  readonly timestampMs: number
  /** It is being staged in slices; nothing of it was logged or executed. */
  isStaging: boolean
  /** An execution runs on another thread. */
  isExecuting: boolean
  /** The log was asked to append the epoch. */
  isAppending: boolean
  appended: Promise<void> | undefined
  /** When the log was asked, and when it had appended; undefined before that. */
  appendStartedMs: number | undefined
  appendEndedMs: number | undefined
  result: ExecuteResult | undefined
  /** The event for listeners, once it was made. */
  event: CommitEvent | undefined
  /** The device failed; the state is being rebuilt on the CPU. */
  isFailingOver: boolean
  /** The plan that is executed on another thread. */
  plan: Plan | undefined
  /** What the execution overwrites is kept, so that it can be taken back. */
  isKept: boolean
  /** Set once the execution was told to end: the error for its writers. */
  cancelled: MmsbError | undefined
}

type Listener = (event: CommitEvent) => void

export class Publisher {
  /** Deltas committed since start, by kind. */
  readonly deltaCounts = { dense: 0, sparse: 0, masked: 0 }
  readonly #state: EngineState
  readonly #keys: IdempotencyKeys
  readonly #timings: StageTimings
  readonly #listeners = new Set<Listener>()
  readonly #aheadListeners = new Set<Listener>()
  #epoch = 0
  #digest: Uint8Array
  #timestampMs = 0
  #lastResult: ExecuteResult | undefined

  constructor(state: EngineState, keys: IdempotencyKeys, timings: StageTimings) {
    this.#state = state
    this.#keys = keys
    this.#timings = timings
    this.#digest = state.context.stateDigest()
  }

  /** Continues after an epoch that was recovered. */
  startFrom(epoch: number, digest: Uint8Array, timestampMs: number): void {
    this.#epoch = epoch
    this.#digest = digest
    this.#timestampMs = timestampMs
  }

  get epoch(): number {
    return this.#epoch
  }

  /** The state's digest at `epoch`. */
  get digest(): Uint8Array {
    return this.#digest
  }

  /** When `epoch` was committed. */
  get timestampMs(): number {
    return this.#timestampMs
  }

  /** The native result of the newest epoch since start. */
  get lastResult(): ExecuteResult | undefined {
    return this.#lastResult
  }

  /** See EngineBus.onCommit. */
  onCommit(listener: Listener, ahead?: Listener): () => void {
    this.#listeners.add(listener)
    if (ahead !== undefined) this.#aheadListeners.add(ahead)
    return () => {
      this.#listeners.delete(listener)
      if (ahead !== undefined) this.#aheadListeners.delete(ahead)
    }
  }

  /** Shows an executed epoch to the listeners that prepare for it while the disk still writes. */
  tellAhead(flight: EpochInFlight, result: ExecuteResult): void {
    if (this.#aheadListeners.size === 0) return
    flight.event = this.#eventOf(flight, result)
    for (const ahead of this.#aheadListeners) ahead(flight.event)
  }

  /** The first half of publishing: the state becomes that of the epoch. `tell` is the second. */
  apply(flight: EpochInFlight, result: ExecuteResult, observer: OverwriteObserver | undefined): void {
    const { registry, context } = this.#state
    const { batch, timestampMs } = flight
    const { epoch } = batch
    // Made before pages appear and disappear.
    if (this.#listeners.size > 0) flight.event ??= this.#eventOf(flight, result)
    result.eachChangedId((id) => {
      const page = registry.byId(id)
      if (page !== undefined) page.version = epoch
    })
    if (observer !== undefined) for (const id of batch.destroyedIds) observer.saveWhole(id)
    batch.publish()
    this.#digest = batch.deleted.length > 0 ? context.stateDigest() : result.stateDigest()
    this.#epoch = epoch
    this.#timestampMs = timestampMs
    this.#lastResult = result
  }

  /** The epoch exists and changes nothing: its record is followed by a void record. */
  applyVoid(flight: EpochInFlight): void {
    const { batch, timestampMs } = flight
    this.#epoch = batch.epoch
    this.#timestampMs = timestampMs
    this.#lastResult = undefined
    for (const listener of this.#listeners) listener({ epoch: batch.epoch, timestampMs, changes: [] })
  }

  /** Calls the listeners, then returns the answers to the epoch's transactions, in order. */
  tell({ batch, event, submissions }: EpochInFlight, nowMs: number): CommitResult[] {
    if (event !== undefined) for (const listener of this.#listeners) listener(event)
    return submissions.map((submission) => this.#answerTo(submission, batch, nowMs))
  }

  #eventOf({ batch, timestampMs }: EpochInFlight, result: ExecuteResult): CommitEvent {
    const changes: PageChange[] = []
    // Deletions first: the same epoch may create another page of that name.
    for (const page of batch.deleted) {
      if (batch.createdPage(page.id) === undefined) changes.push(changeOf(page, 'deleted', NO_RANGES))
    }
    for (const page of batch.created) {
      if (!batch.isDeleted(page.id)) {
        changes.push(changeOf(page, 'created', Uint32Array.of(0, page.elements)))
      }
    }
    result.eachChange((id, ranges) => {
      const page = this.#state.registry.byId(id)
      if (page === undefined || batch.isDeleted(id)) return
      changes.push(changeOf(page, page.kind, ranges.slice()))
    })
    return { epoch: batch.epoch, timestampMs, changes }
  }

  #answerTo({ pending, queuedAtMs }: Submission, batch: Batch, nowMs: number): CommitResult {
    this.deltaCounts.dense += pending.deltas.dense
    this.deltaCounts.sparse += pending.deltas.sparse
    this.deltaCounts.masked += pending.deltas.masked
    const result = { epoch: this.#epoch, pages: this.#versionsOf(pending, batch) }
    if (pending.key !== undefined) this.#keys.committed(pending.key, result)
    this.#timings.record('commit', nowMs - queuedAtMs)
    return result
  }

  /** Also of pages that a later transaction of the epoch has deleted: a repeat of this one names them too. */
  #versionsOf(pending: Pending, batch: Batch): Record<string, number> {
    const versions: Record<string, number> = {}
    for (const id of pending.writes) {
      const page = this.#state.registry.byId(id) ?? batch.deletedPage(id)
      if (page !== undefined) setOwn(versions, page.name, page.version)
    }
    for (const page of pending.creates) setOwn(versions, page.name, page.version)
    return versions
  }
}

function changeOf(page: PageRecord, kind: PageChange['kind'], ranges: Uint32Array): PageChange {
  return { pageId: page.id, page: page.name, kind, dtype: page.dtype, shape: page.shape, ranges }
}
