/**
 * Everything the bus answers about past epochs: which can be reached, what they held, what they did, and
 * verification.
 *
 * Invariants: an epoch is checked here before the replay thread is asked for it, so a request never reaches
 * beyond the published epoch. Replays run in threads of their own: one for requests, one for subscribers that
 * catch up, and one for verification, so that none of them waits for another. Without a data folder there is
 * no past.
 *
 * Null because public types promise it: `next` after the last part.
 */
import { MmsbError } from '../../errors.js'
import {
  HISTORY_LIMIT_DEFAULT,
  HISTORY_LIMIT_MAX,
  PAST_IDLE_MS,
  PAST_SLICE_MS,
  VERIFY_IDLE_MS,
} from '../../limits.js'
import type { LimitGuard } from '../../operator-limits.js'
import { type JsonParts, jsonParts } from '../../state/json-parts.js'
import { busFailed } from '../../store/os/errors.js'
import type { FileIdentity } from '../../store/os/lock.js'
import type { ReadableStore } from '../../store/read-only.js'
import type { PastQuestion, RangeQuery } from '../call-types.js'
import type { Committer } from '../commit/committer.js'
import type { Registry } from '../pages/registry.js'
import type {
  DiffResult,
  EpochInfo,
  EpochList,
  PageData,
  PageHistory,
  PageShape,
  PastEpochs,
  PastEpochsQuery,
  PastOptions,
  VerifyResult,
} from '../types.js'
import { ReplayClient, type ReplayRequest } from './replay-client.js'
import type { EpochQuery, PastRead } from './replay-queries.js'

/** The data folder of a bus. */
export interface DataFolder {
  readonly dir: string
  /** What `dir` led to when it was opened. */
  readonly identity: FileIdentity | undefined
  readonly store: ReadableStore
  readonly isReadOnly: boolean
  readonly quotaBytes: number
}

export interface PastDeps {
  readonly committer: Committer
  readonly registry: Registry
  readonly folder: DataFolder | undefined
  readonly limits: LimitGuard
}

/** The requests whose answer may be JSON. */
type RecordRequest = Extract<ReplayRequest, { readonly kind: PastQuestion['kind'] }>

/** Requests for records of epochs, not for the state at them. */
const RECORD_REQUESTS: ReadonlySet<ReplayRequest['kind']> = new Set(['epoch', 'epochs', 'history'])

export class Past {
  readonly #deps: PastDeps
  readonly #requests: ReplayClient | undefined
  readonly #catchUps: ReplayClient | undefined
  readonly #verifications: ReplayClient | undefined

  constructor(deps: PastDeps) {
    this.#deps = deps
    const { folder, limits } = deps
    if (folder === undefined) return
    const { dir, identity, isReadOnly, quotaBytes } = folder
    const place = { dir, identity, isReadOnly, quotaBytes, guard: limits }
    this.#requests = new ReplayClient({ ...place, limits })
    // Each subscriber asks for one piece at a time, and subscribers are limited where they subscribe.
    this.#catchUps = new ReplayClient({ ...place, idleMs: PAST_IDLE_MS })
    this.#verifications = new ReplayClient({ ...place, idleMs: VERIFY_IDLE_MS })
  }

  // ---- which epochs can be reached ------------------------------------------------------------------------

  /**
   * The oldest epoch whose state can be rebuilt: 0, the empty state, while the log is complete; otherwise the
   * oldest checkpoint from which the log continues. In memory only, the newest epoch.
   */
  get minEpoch(): number {
    const { folder, committer } = this.#deps
    if (folder === undefined) return committer.epoch
    const first = folder.store.minEpoch
    if (first <= 1) return 0
    const reachable = folder.store.checkpoints().filter(({ epoch }) => epoch >= first - 1)
    return Math.min(committer.epoch, ...reachable.map(({ epoch }) => epoch))
  }

  /** The oldest epoch whose record and preceding state are both kept. */
  get #firstRecord(): number {
    return this.minEpoch + 1
  }

  /**
   * Throws unless the state at the epoch can be rebuilt: INVALID_REQUEST, EPOCH_NOT_FOUND, EPOCH_COMPACTED.
   */
  check(epoch: number): void {
    const newest = this.#deps.committer.epoch
    if (!Number.isSafeInteger(epoch) || epoch < 0)
      throw new MmsbError('INVALID_REQUEST', `${String(epoch)} is not an epoch.`)
    if (epoch > newest) {
      throw new MmsbError('EPOCH_NOT_FOUND', `Epoch ${epoch} does not exist yet; the newest is ${newest}.`)
    }
    if (epoch < this.minEpoch) throw this.#compacted(epoch)
  }

  /** Throws unless the epoch's record and the state before it are kept. */
  #checkRecord(epoch: number): void {
    this.check(epoch)
    if (epoch === 0)
      throw new MmsbError('EPOCH_NOT_FOUND', 'Epoch 0 is the empty state before the first commit.')
    if (epoch < this.#firstRecord) throw this.#compacted(epoch, this.#firstRecord)
  }

  #checkOrder(field: 'from' | 'after', from: number, to: number): void {
    this.check(from)
    this.check(to)
    if (from > to) throw new MmsbError('INVALID_REQUEST', `${field}: ${from} is after to, ${to}.`)
  }

  #compacted(epoch: number, minEpoch = this.minEpoch): MmsbError {
    const what = epoch < this.minEpoch ? `Epoch ${epoch}` : `The record of epoch ${epoch}`
    return new MmsbError('EPOCH_COMPACTED', `${what} is no longer kept; the oldest is ${minEpoch}.`, {
      minEpoch,
    })
  }

  /**
   * The epochs to search for a query, or undefined when there are none. `first` is where it starts by
   * default.
   */
  #range(query: RangeQuery, first: number): { from: number; to: number } | undefined {
    const newest = this.#deps.committer.epoch
    const { from = first, to = newest, limit } = query
    if (limit !== undefined && !(Number.isSafeInteger(limit) && limit >= 1 && limit <= HISTORY_LIMIT_MAX)) {
      throw new MmsbError('INVALID_REQUEST', `limit: ${limit} is not in 1 to ${HISTORY_LIMIT_MAX}.`)
    }
    if (query.to !== undefined) this.check(query.to)
    // A reader that has everything continues after the newest epoch, where there is nothing yet.
    if (query.from === newest + 1) return undefined
    if (query.from !== undefined) this.check(query.from)
    const start = Math.max(from, this.#firstRecord)
    return start > to ? undefined : { from: start, to }
  }

  // ---- the state at an epoch ------------------------------------------------------------------------------

  /** Pages as of an epoch that `check` let pass. */
  read(epoch: number, pages: readonly PastRead[], options: PastOptions): Promise<PageData[]> {
    return this.#ask({ kind: 'read', epoch, pages }, options)
  }

  /** A page's description as of an epoch that `check` let pass. */
  peek(epoch: number, name: string, options: PastOptions): Promise<PageShape> {
    return this.#ask({ kind: 'peek', epoch, name }, options)
  }

  async diff(
    query: { from: number; to?: number; pages?: readonly string[] },
    options: PastOptions,
  ): Promise<DiffResult> {
    const { from, to = this.#deps.committer.epoch, pages } = query
    this.#checkOrder('from', from, to)
    return this.#ask({ kind: 'diff', from, to, names: pages }, options)
  }

  // ---- what epochs did ------------------------------------------------------------------------------------

  async epochInfo(epoch: number, options: PastOptions): Promise<EpochInfo> {
    this.#checkRecord(epoch)
    return this.#ask({ kind: 'epoch', epoch }, options)
  }

  async epochs(
    query: RangeQuery & { page?: string; source?: string },
    options: PastOptions,
  ): Promise<EpochList> {
    const range = this.#range(query, this.#firstRecord)
    if (range === undefined) return { epochs: [], next: null }
    const { page, source, limit = HISTORY_LIMIT_DEFAULT } = query
    const filter = { ...(page === undefined ? {} : { page }), ...(source === undefined ? {} : { source }) }
    const wanted: EpochQuery = { ...range, ...filter, limit }
    return this.#ask({ kind: 'epochs', query: wanted }, options)
  }

  async history(name: string, query: RangeQuery, options: PastOptions): Promise<PageHistory> {
    const page = this.#deps.registry.byName(name)
    const first = Math.max(this.#firstRecord, page?.createdEpoch ?? 0)
    const range = this.#range(query, first)
    const { limit = HISTORY_LIMIT_DEFAULT } = query
    const found: PageHistory =
      range === undefined
        ? { name, versions: [], next: null }
        : await this.#ask({ kind: 'history', name, query: { ...range, limit } }, options)
    if (page === undefined && found.versions.length === 0 && found.next === null) {
      throw new MmsbError('PAGE_NOT_FOUND', `There was no page "${name}" in these epochs.`)
    }
    return found
  }

  /** The answer of epochInfo, epochs, history or diff as JSON, made on the replay thread. */
  async json(question: PastQuestion, options: PastOptions): Promise<JsonParts> {
    const request = this.#requestOf(question)
    if (request === undefined) return jsonParts({ epochs: [], next: null })
    const { visible } = question
    return this.#ask({ ...request, asJson: true, ...(visible === undefined ? {} : { visible }) }, options)
  }

  /** Undefined when there are no epochs to search. */
  #requestOf(question: PastQuestion): RecordRequest | undefined {
    switch (question.kind) {
      case 'epoch':
        this.#checkRecord(question.epoch)
        return question
      case 'epochs': {
        const { limit = HISTORY_LIMIT_DEFAULT, ...query } = question.query
        const range = this.#range({ ...query, limit }, this.#firstRecord)
        return range && { kind: 'epochs', query: { ...query, ...range, limit } }
      }
      case 'history': {
        const { name, query } = question
        const { limit = HISTORY_LIMIT_DEFAULT } = query
        const page = this.#deps.registry.byName(name)
        const range = this.#range(query, Math.max(this.#firstRecord, page?.createdEpoch ?? 0))
        const mustExist = page === undefined
        // Searching nothing still says whether there is such a page.
        const searched = range ?? { from: 1, to: 0 }
        return { kind: 'history', name, query: { ...searched, limit }, mustExist }
      }
      case 'diff': {
        const { from, to = this.#deps.committer.epoch, pages } = question.query
        this.#checkOrder('from', from, to)
        return { kind: 'diff', from, to, names: pages }
      }
    }
  }

  /** Answers with what was replayed within a short time, so that callers are served in turn. */
  async changes(query: PastEpochsQuery, options: PastOptions): Promise<PastEpochs> {
    const { after, to } = query
    this.#checkOrder('after', after, to)
    const { folder } = this.#deps
    const changes = { kind: 'changes', query } as const
    for (let sliceMs = PAST_SLICE_MS; ; sliceMs *= 2) {
      this.#deps.committer.lifecycle.refuseWhenFailed()
      if (this.#catchUps === undefined || folder === undefined) throw this.#compacted(after)
      folder.store.refuseWhenLost()
      const found = await this.#catchUps
        .ask<PastEpochs>({ ...changes, sliceMs }, options)
        .catch((error: unknown) => Promise.reject(this.#explained(error, after, this.minEpoch)))
      if (found.through > after || after >= to) return found
      // It did not get there. Should its state be lost to others meanwhile, a longer slice gets farther.
    }
  }

  async verify(query: { from?: number; to?: number }, options: PastOptions): Promise<VerifyResult> {
    const { committer } = this.#deps
    const { from = this.minEpoch, to = committer.epoch } = query
    this.#checkOrder('from', from, to)
    const expected = to === committer.epoch ? { digest: committer.digest } : {}
    if (this.#verifications === undefined) throw noFolder()
    return this.#verifications.ask({ kind: 'verify', from, to, ...expected }, options)
  }

  #ask<T>(request: ReplayRequest, options: PastOptions): Promise<T> {
    this.#deps.committer.lifecycle.refuseWhenFailed()
    const { folder } = this.#deps
    if (this.#requests === undefined || folder === undefined) throw noFolder()
    folder.store.refuseWhenLost()
    return this.#requests.ask<T>(request, options).catch((error: unknown) => {
      const minEpoch = RECORD_REQUESTS.has(request.kind) ? this.#firstRecord : this.minEpoch
      throw this.#explained(error, firstEpochOf(request), minEpoch)
    })
  }

  /**
   * What the replay thread cannot find was either deleted meanwhile by retention, or is missing. Only this
   * thread knows, because it knows what the oldest epoch is now.
   */
  #explained(error: unknown, epoch: number, minEpoch: number): unknown {
    if (!(error instanceof MmsbError && error.code === 'EPOCH_COMPACTED')) return error
    if (epoch < minEpoch) return new MmsbError(error.code, error.message, { minEpoch }, { cause: error })
    return busFailed(
      `files of the data folder are missing or damaged: epoch ${epoch} should be there (${error.message})`,
      error,
    )
  }

  /** Ends the threads; waiting requests fail with BUS_FAILED. */
  async close(): Promise<void> {
    const clients = [this.#requests, this.#catchUps, this.#verifications]
    await Promise.all(clients.map((client) => client?.close()))
  }
}

/** The oldest epoch that a request needs. */
function firstEpochOf(request: ReplayRequest): number {
  switch (request.kind) {
    case 'peek':
    case 'read':
    case 'epoch':
      return request.epoch
    case 'epochs':
    case 'history':
      return request.query.from
    case 'changes':
      return request.query.after
    case 'diff':
    case 'verify':
      return request.from
  }
}

export const noFolder = (): MmsbError => new MmsbError('INVALID_REQUEST', 'This bus has no data folder.')
