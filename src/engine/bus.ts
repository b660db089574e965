/**
 * The bus: the library's engine, as callers see it.
 *
 * Writes pass a door (src/engine/commands/transactions.ts) and the commit queue (src/engine/commit/committer.ts). Reads are answered between
 * epochs: asynchronous ones wait for the epoch in flight, a synchronous one finishes it first; so nobody sees half an
 * epoch, or one that is not durable. Knows nothing of sockets.
 */
import { availableParallelism } from 'node:os'
import { performance } from 'node:perf_hooks'
import { MmsbError } from '../errors.js'
import { NativeContext } from '../ffi/context.js'
import { allocateFile, crc32c, deviceCount } from '../ffi/library.js'
import { Graph } from '../graph/graph.js'
import type { FunctionBody } from '../kernels/expression/names.js'
import {
  DURABLE_HOLD_BYTES,
  DURABLE_HOLD_MS,
  HISTORY_LIMIT_DEFAULT,
  HISTORY_LIMIT_MAX,
  MEMORY_QUOTA_DEFAULT_BYTES,
  PAGE_ID_MAX,
  PAST_IDLE_MS,
} from '../limits.js'
import type {
  DeltaInput,
  DeltaValues,
  Derivation,
  DerivedDefinition,
  PageDefinition,
  SourceDefinition,
} from '../state/types.js'
import { cursorsIn } from '../store/cursors/cursors.js'
import { Store } from '../store/store.js'
import type { CheckpointInfo } from '../store/types.js'
import { DTYPE_INFO, type TypedArray } from '../wire/dtype.js'
import type { Location } from '../wire/page.js'
import {
  checkBusOptions,
  checkDefinition,
  checkDefinitions,
  checkFrame,
  checkFunctionBody,
  checkPatch,
  checkTransaction,
  checkWhatIf,
  checkWrite,
} from './arguments.js'
import { Keeper } from './checkpoints/scheduler.js'
import { type DraftRooms, draftPages, type NamedDefinition } from './commands/define-pages.js'
import {
  definition,
  type FunctionChange,
  type FunctionRecord,
  pagesUsing,
  type Redefinition,
  redefinitions,
  StaleFunctions,
} from './commands/functions.js'
import {
  checkWritable,
  differenceOf,
  pendingOfCreates,
  pendingOfDeletes,
  pendingOfDelta,
  pendingOfFrame,
  pendingOfFunction,
  pendingOfTransaction,
  type TransactionMeta,
} from './commands/transactions.js'
import type { StageRooms } from './commit/batch.js'
import { Committer } from './commit/committer.js'
import { Intake, type Taken } from './commit/frame-ingest.js'
import { prepareWhatIf, readOnTrial, type WhatIfInput, type WhatIfResult } from './commit/what-if.js'
import { Cursors } from './durable-cursors.js'
import { takeRefuge } from './history/cpu-failover.js'
import { recover } from './history/recovery.js'
import { ReplayClient, type ReplayRequest } from './history/replay-client.js'
import type { EpochQuery, PastRead } from './history/replay-queries.js'
import { REAL_WORLD, type World } from './host.js'
import { graphView, hex, pageInfo, statsOf } from './pages/describe.js'
import { type PageRecord, Registry } from './pages/registry.js'
import type {
  BusOptions,
  BusStats,
  BusStatus,
  CommitEvent,
  CommitResult,
  DiffResult,
  EpochInfo,
  EpochList,
  ExecutionLog,
  FsyncMode,
  FunctionInfo,
  GraphEdge,
  GraphNode,
  PageData,
  PageHistory,
  PageInfo,
  PageShape,
  PastEpochs,
  PastEpochsQuery,
  Sender,
  TransactionInput,
  VerifyResult,
} from './types.js'
import { VERSION } from './version.js'

export interface WriteOptions extends TransactionMeta {
  /** The version the page must have; else PRECONDITION_FAILED. */
  readonly expectVersion?: number
}

export interface ReadRange {
  /** Elements. */
  readonly offset?: number
  readonly count?: number
}

export interface PastOptions {
  /** Ends a question about the past whose answer nobody wants any more. */
  readonly signal?: AbortSignal | undefined
}

export interface CreateResult {
  readonly epoch: number
  /** False when a page of this name with the same definition was there already. */
  readonly created: boolean
  readonly page: PageInfo
}

export interface PatchResult {
  readonly epoch: number
  readonly version: number
  readonly page: string
}

/** Questions about what epochs did, not about the state at them. */
const RECORD_QUESTIONS: ReadonlySet<ReplayRequest['kind']> = new Set(['epoch', 'epochs', 'history'])

export class Bus {
  readonly #context: NativeContext
  #backend: 'cpu' | 'cuda'
  /** Set once the device failed and the state moved to host memory. */
  #deviceLoss: BusStatus['deviceLoss']
  readonly #threads: number
  readonly #onNotice: BusOptions['onNotice']
  readonly #fsync: FsyncMode
  readonly #registry = new Registry()
  readonly #graph = new Graph()
  readonly #committer: Committer
  readonly #intake: Intake
  readonly #startedMs = performance.now()
  readonly #quotaBytes: number
  #store: Store | undefined
  #dataDir: string | undefined
  #replay: ReplayClient | undefined
  /** Replays changes for those who catch up: apart from the rest, which would move its state to and fro. */
  #changes: ReplayClient | undefined
  readonly #verifying = new Set<ReplayClient>()
  #nextPageId = 1
  #keeper: Keeper | undefined
  readonly #needs = new Set<() => number | undefined>()
  #cursors: Cursors | undefined
  #closed: Promise<void> | undefined

  /**
   * Opens a bus. With `dataDir` it recovers what the folder holds and logs every commit there; without, it lives in
   * memory only. Throws INVALID_REQUEST for an option there is not, or a value it cannot have, UNSUPPORTED_LOCATION for
   * `cuda` without a device, and when the folder is locked, damaged or not writable.
   */
  static async open(options: BusOptions = {}, world: World = REAL_WORLD): Promise<Bus> {
    checkBusOptions(options)
    const bus = new this(options, world)
    try {
      if (options.dataDir !== undefined) await bus.#openStore(options.dataDir, options, world)
    } catch (error) {
      bus.#context.close()
      throw error
    }
    return bus
  }

  protected constructor(options: BusOptions, world: World = REAL_WORLD) {
    const wanted = options.backend ?? 'auto'
    this.#backend = wanted === 'auto' ? (deviceCount() > 0 ? 'cuda' : 'cpu') : wanted
    this.#fsync = options.fsync ?? 'always'
    this.#quotaBytes = options.memoryLimitBytes ?? MEMORY_QUOTA_DEFAULT_BYTES
    this.#threads = options.threads ?? availableParallelism()
    this.#onNotice = options.onNotice
    this.#context = new NativeContext({
      backend: this.#backend,
      threads: this.#threads,
      quotaBytes: this.#quotaBytes,
      // What a machine with a device has logged can be opened; new pages are checked at the door.
      refuge: this.#backend === 'cpu',
    })
    this.#committer = new Committer(this.#rooms, world, (reason) => this.#moveToCpu(reason))
    this.#intake = new Intake({
      registry: this.#registry,
      committer: this.#committer,
      submit: (frame) => this.submit(frame),
    })
  }

  /** The device failed: the newest epoch is rebuilt in host memory. Throws when there is no log to do it from. */
  #moveToCpu(reason: string): void {
    const { epoch, digest } = this.#committer
    if (this.#dataDir === undefined)
      throw new MmsbError('BUS_FAILED', `The device failed, and there is no log to rebuild from: ${reason}`)
    const startedMs = performance.now()
    const memory = { quotaBytes: this.#quotaBytes, threads: this.#threads }
    takeRefuge(this.#rooms, { dir: this.#dataDir, epoch, digest, ...memory })
    this.#backend = 'cpu'
    this.#deviceLoss = { epoch, reason }
    const ms = Math.round(performance.now() - startedMs)
    const message = `the device failed (${reason}): epoch ${epoch} was rebuilt on the CPU in ${ms} ms`
    this.#onNotice?.({ level: 'error', message })
  }

  async #openStore(dir: string, options: BusOptions, world: World): Promise<void> {
    const store = await Store.open({
      dir,
      fsync: this.#fsync,
      crc32c,
      allocate: allocateFile,
      ...(options.onNotice === undefined ? {} : { onNotice: options.onNotice }),
      ...(options.segmentBytes === undefined ? {} : { segmentBytes: options.segmentBytes }),
      ...world.store,
    })
    try {
      const recovered = await recover(this.#rooms, store, options.onNotice)
      this.#nextPageId = recovered.nextPageId
      this.#committer.attach(store, recovered)
      this.#cursors = await Cursors.open({
        keeper: cursorsIn(dir),
        nowMs: Date.now,
        newestEpoch: () => this.#committer.epoch,
        bytesSince: (epoch) => store.bytesSince(epoch),
        holdMs: options.durableHoldMs ?? DURABLE_HOLD_MS,
        holdBytes: options.durableHoldBytes ?? DURABLE_HOLD_BYTES,
        onNotice: (message) => options.onNotice?.({ level: 'warn', message }),
      })
      this.#needs.add(() => this.#cursors?.lowestNeeded())
      this.#keeper = new Keeper({
        ...this.#rooms,
        committer: this.#committer,
        store,
        options,
        needs: this.#needs,
        nextPageId: () => this.#nextPageId,
        replayedBytes: recovered.replayedBytes,
      })
    } catch (error) {
      await store.close()
      throw error
    }
    this.#store = store
    this.#dataDir = dir
    this.#replay = new ReplayClient({ dir, quotaBytes: this.#quotaBytes })
    this.#changes = new ReplayClient({ dir, quotaBytes: this.#quotaBytes, idleMs: PAST_IDLE_MS })
  }

  get #rooms(): StageRooms {
    return { registry: this.#registry, graph: this.#graph, context: this.#context }
  }

  /** The newest published epoch; 0 before the first commit. */
  get epoch(): number {
    return this.#committer.epoch
  }

  /** Why the bus has stopped, or null. */
  get failure(): string | null {
    return this.#committer.failure ?? null
  }

  // ---- writing ----------------------------------------------------------------------------------------------------

  /** Creates a source page filled with `fill` (default 0). Throws PAGE_EXISTS when another definition has the name. */
  create(name: string, definition: SourceDefinition): Promise<CreateResult> {
    return this.#define(name, definition)
  }

  /** Creates a derived page; it holds its values when this resolves. */
  derive(
    name: string,
    derive: Derivation,
    options: Omit<DerivedDefinition, 'derive'> = {},
  ): Promise<CreateResult> {
    return this.#define(name, { derive, ...options })
  }

  /**
   * Creates many pages in one epoch, or none. A derived page may take pages before it in the list as inputs, and read the
   * past of any of them.
   */
  async createMany(pages: readonly NamedDefinition[]): Promise<{ epoch: number; pages: PageInfo[] }> {
    checkDefinitions(pages)
    return this.#untilFresh(async () => {
      const { result } = await this.#withDrafts(pages, async (records) => {
        for (const record of records) this.#checkBackend(record)
        const { epoch } = await this.#committer.commit(
          pendingOfCreates(records, this.#registry.functions.worldAge),
        )
        return { created: true, result: { epoch, pages: records.map((record) => this.#info(record)) } }
      })
      return result
    })
  }

  /** Deletes a page; with `cascade` also everything derived from it. Throws PAGE_NOT_FOUND, PAGE_IN_USE. */
  async delete(name: string, options: { cascade?: boolean } = {}): Promise<{ epoch: number }> {
    this.#committer.refuseWhenStopped()
    for (;;) {
      const page = this.#registry.require(name)
      const ids = options.cascade === true ? this.#graph.withDependents(page.id) : [page.id]
      try {
        const { epoch } = await this.#committer.commit(pendingOfDeletes(ids))
        return { epoch }
      } catch (error) {
        // A page derived from this one may have been committed since the list was made: make it again.
        const retry = options.cascade === true && error instanceof MmsbError && error.code === 'PAGE_IN_USE'
        if (!retry) throw error
      }
    }
  }

  // ---- functions --------------------------------------------------------------------------------------------------

  /**
   * Defines a function that expressions can call, or gives it another meaning: every page that uses it, directly or through
   * other functions, is recompiled and recomputed in the same epoch, or nothing changes. Throws INVALID_EXPRESSION,
   * INVALID_REQUEST, and SHAPE_MISMATCH when a page would get another dtype.
   */
  async defineFunction(name: string, body: FunctionBody): Promise<{ epoch: number; worldAge: number }> {
    checkFunctionBody(name, body)
    return this.#untilFresh(async () => {
      const { functions } = this.#registry
      const known = functions.get(name)
      const isSame = known?.expr === body.expr && JSON.stringify(known.params) === JSON.stringify(body.params)
      if (known !== undefined && isSame) return { epoch: known.epoch, worldAge: known.worldAge }
      const change = definition(functions, name, body)
      return this.#change(change, redefinitions(this.#registry, change))
    })
  }

  /** Throws NOT_FOUND, and PAGE_IN_USE while pages or other functions use it. */
  async deleteFunction(name: string): Promise<{ epoch: number; worldAge: number }> {
    return this.#untilFresh(async () => {
      const { functions } = this.#registry
      functions.require(name)
      return this.#change({ name, body: undefined, worldAge: functions.worldAge + 1 }, [])
    })
  }

  async #change(
    change: FunctionChange,
    redefines: readonly Redefinition[],
  ): Promise<{ epoch: number; worldAge: number }> {
    const { epoch } = await this.#committer.commit(pendingOfFunction(change, redefines))
    return { epoch, worldAge: change.worldAge }
  }

  /** A function and who uses it. Throws NOT_FOUND. */
  function(name: string): FunctionInfo {
    this.#committer.settle()
    return this.#functionInfo(this.#registry.functions.require(name))
  }

  /** All functions, by name. */
  functions(): { worldAge: number; functions: FunctionInfo[] } {
    this.#committer.settle()
    const { functions } = this.#registry
    return {
      worldAge: functions.worldAge,
      functions: functions.all().map((record) => this.#functionInfo(record)),
    }
  }

  #functionInfo({ name, params, expr, worldAge, epoch }: FunctionRecord): FunctionInfo {
    const pages = pagesUsing(this.#registry, this.#registry.functions, name).map((page) => page.name)
    return { name, params, expr, worldAge, epoch, pages: pages.sort() }
  }

  /** Compiles and commits, and once more when functions changed in between. */
  async #untilFresh<T>(work: () => Promise<T>): Promise<T> {
    for (;;) {
      this.#committer.refuseWhenStopped()
      try {
        return await work()
      } catch (error) {
        if (!(error instanceof StaleFunctions)) throw error
      }
    }
  }

  /**
   * What the write that came with this key before was answered, whatever the repeat asks for and whatever became of the page.
   * Of a write of several pages: `name`, or else the first of them. Undefined where there was none.
   */
  answered(name: string, key: string | undefined): Promise<PatchResult> | undefined {
    return this.#committer.answered(key)?.then((result) => written(name, result))
  }

  /** Applies one delta to a source page. */
  async patch(name: string, delta: DeltaInput, options: WriteOptions = {}): Promise<PatchResult> {
    checkPatch(name, delta, options)
    this.#committer.refuseWhenStopped()
    const answered = this.answered(name, options.key)
    if (answered !== undefined) return answered
    const page = this.#registry.require(name)
    return written(
      name,
      await this.#committer.commit(pendingOfDelta(page, delta, options, options.expectVersion)),
    )
  }

  /** Writes all elements of a source page. */
  async write(name: string, values: DeltaValues, options: WriteOptions = {}): Promise<PatchResult> {
    checkWrite(name, values, options)
    this.#committer.refuseWhenStopped()
    const answered = this.answered(name, options.key)
    if (answered !== undefined) return answered
    const page = this.#registry.require(name)
    checkWritable(page)
    if (values.length !== page.elements) {
      throw new MmsbError(
        'INVALID_DELTA',
        `Page "${name}" has ${page.elements} elements, not ${values.length}.`,
      )
    }
    return this.patch(name, { offset: 0, values }, options)
  }

  /** Commits deltas to several pages together, or none of them. */
  transact(transaction: TransactionInput): Promise<CommitResult> {
    checkTransaction(transaction)
    this.#committer.refuseWhenStopped()
    const { key } = transaction
    return (
      this.#committer.answered(key) ??
      this.#committer.commit(pendingOfTransaction(this.#registry, transaction))
    )
  }

  /** Commits a transaction in its binary form (docs/internals/FORMAT.md). The bytes are untrusted and copied. */
  submit(frame: Uint8Array): Promise<CommitResult> {
    checkFrame(frame)
    this.#committer.refuseWhenStopped()
    const pending = pendingOfFrame(this.#registry, frame, () => this.#takePageId())
    for (const record of pending.creates) this.#checkBackend(record)
    return this.#committer.commit(pending)
  }

  /**
   * Commits the frames of a message, one behind the other, each a transaction of its own, numbered from `first` on. The bytes
   * are untrusted and copied. The sender hears of every number once; of those not taken, before this returns.
   */
  submitAll(sender: Sender, first: number, message: Uint8Array): Taken {
    return this.#intake.take(sender, first, message)
  }

  // ---- reading ----------------------------------------------------------------------------------------------------

  /**
   * Elements of a page, a copy. As of the newest epoch: synchronous, an epoch in flight is finished first. With `epoch`: a
   * promise of the page as of that epoch (see readAt).
   */
  read(name: string, options?: ReadRange): TypedArray
  read(name: string, options: ReadRange & { epoch: number }): Promise<TypedArray>
  read(name: string, options: ReadRange & { epoch?: number } = {}): TypedArray | Promise<TypedArray> {
    const { epoch, ...range } = options
    if (epoch !== undefined) return this.readAt(name, epoch, range)
    this.#committer.settle()
    return this.#copy(this.#registry.require(name), range)
  }

  /**
   * Elements of a page as of a past epoch, a copy; derived pages too. Throws PAGE_NOT_FOUND when it did not exist then,
   * EPOCH_NOT_FOUND, EPOCH_COMPACTED.
   */
  async readAt(name: string, epoch: number, options: ReadRange = {}): Promise<TypedArray> {
    return (await this.data(name, { ...options, epoch })).values
  }

  /** Elements of a page with what they are; waits for an epoch in flight without blocking. With `epoch`: as of then. */
  async data(name: string, options: ReadRange & { epoch?: number } & PastOptions = {}): Promise<PageData> {
    const { epoch, signal, ...range } = options
    if (epoch !== undefined) {
      this.#checkEpoch(epoch)
      const pages = await this.#readPast(epoch, [{ name, ...range }], signal)
      if (pages !== undefined) return pages[0] as PageData
    }
    await this.#committer.idle()
    this.#committer.refuseWhenFailed()
    if (epoch !== undefined && epoch !== this.#committer.epoch) return this.data(name, options)
    const page = this.#registry.require(name)
    return this.#dataOf(page, this.#copy(page, range))
  }

  /** Several pages, all at one epoch: the newest, or the one given. */
  async readMany(
    names: readonly string[],
    options: { epoch?: number } & PastOptions = {},
  ): Promise<{ epoch: number; pages: Record<string, PageData> }> {
    const { epoch, signal } = options
    if (epoch !== undefined) {
      this.#checkEpoch(epoch)
      const past = await this.#readPast(
        epoch,
        [...new Set(names)].map((name) => ({ name })),
        signal,
      )
      if (past !== undefined)
        return { epoch, pages: Object.fromEntries(past.map((page) => [page.name, page])) }
    }
    await this.#committer.idle()
    this.#committer.refuseWhenFailed()
    if (epoch !== undefined && epoch !== this.#committer.epoch) return this.readMany(names, options)
    const records = names.map((name) => this.#registry.require(name))
    const pages = Object.fromEntries(
      records.map((page) => [page.name, this.#dataOf(page, this.#copy(page, {}))]),
    )
    return { epoch: this.#committer.epoch, pages }
  }

  /**
   * What pages would hold if these deltas were committed now; nothing is committed, logged or shown to anyone else. Costs
   * the cone of the pages written, not the state. Throws what the transaction would throw, and PAGE_NOT_FOUND.
   */
  async whatIf(input: WhatIfInput): Promise<WhatIfResult> {
    checkWhatIf(input)
    return this.#committer.trial(() => {
      const { plan, frames, pages, roots } = prepareWhatIf(this.#rooms, input)
      return {
        plan,
        frames,
        roots,
        collect: (result) => {
          const changed = new Set<number>()
          result.eachChangedId((id) => changed.add(id))
          return readOnTrial(this.#rooms, pages, changed, this.#committer.epoch + 1)
        },
      }
    })
  }

  /**
   * Values of element ranges (offset, count, ...) of a page, packed. Only for what onCommit calls, or when nothing is in
   * flight: the bytes are those of this very moment.
   */
  gather(pageId: number, ranges: Uint32Array): TypedArray {
    const page = this.#registry.byId(pageId)
    if (page === undefined) throw new MmsbError('PAGE_NOT_FOUND', `There is no page with id ${pageId}.`)
    let count = 0
    for (let i = 1; i < ranges.length; i += 2) count += ranges[i] as number
    const out = DTYPE_INFO[page.dtype].view(
      new ArrayBuffer(count * DTYPE_INFO[page.dtype].sizeBytes),
      0,
      count,
    )
    if (count > 0) this.#context.gather(pageId, ranges, out)
    return out
  }

  /** What a page is. Throws PAGE_NOT_FOUND. */
  page(name: string): PageInfo {
    this.#committer.settle()
    return this.#info(this.#registry.require(name))
  }

  /** What a page is made of and its version, as of the newest epoch; unlike page() it waits for nothing and costs nothing. */
  peek(name: string): PageShape {
    return this.#registry.require(name)
  }

  /** peek() for a page that is about to be written. @throws MmsbError PAGE_NOT_FOUND, PAGE_READ_ONLY */
  peekWritable(name: string): PageShape {
    const page = this.#registry.require(name)
    checkWritable(page)
    return page
  }

  /**
   * Calls `run` while the state is exactly that of an epoch and no other can start: at once when none is in flight, else when
   * that one has been published, abandoned or has failed. `run` must not throw and must not write.
   */
  between(run: () => void): void {
    this.#committer.between(run)
  }

  // ---- the past ---------------------------------------------------------------------------------------------------

  /** What a page was made of and its version, as of an epoch. Throws as readAt does. */
  async peekAt(name: string, epoch: number, options: PastOptions = {}): Promise<PageShape> {
    this.#checkEpoch(epoch)
    if (epoch === this.#committer.epoch) {
      this.#committer.settle()
      if (epoch === this.#committer.epoch) return this.#registry.require(name)
    }
    return this.#ask({ kind: 'peek', epoch, name }, options.signal)
  }

  /** What an epoch did. Throws EPOCH_NOT_FOUND, EPOCH_COMPACTED. */
  async epochInfo(epoch: number, options: PastOptions = {}): Promise<EpochInfo> {
    this.#checkRecord(epoch)
    return this.#ask({ kind: 'epoch', epoch }, options.signal)
  }

  /**
   * What the epochs of a range did, ascending: those that changed `page` or have a transaction of `source`, where these are
   * given. An answer is bounded; `next` says where to go on.
   */
  async epochs(
    query: { from?: number; to?: number; page?: string; source?: string; limit?: number } = {},
    options: PastOptions = {},
  ): Promise<EpochList> {
    const range = this.#range(query, this.#firstRecord)
    if (range === undefined) return { epochs: [], next: null }
    const { page, source, limit = HISTORY_LIMIT_DEFAULT } = query
    const filter = { ...(page === undefined ? {} : { page }), ...(source === undefined ? {} : { source }) }
    return this.#ask(
      { kind: 'epochs', query: { ...range, ...filter, limit } satisfies EpochQuery },
      options.signal,
    )
  }

  /**
   * The versions of a page, ascending: when it changed, and by whom. From its creation on unless `from` says otherwise.
   * Throws PAGE_NOT_FOUND when no page of this name was there in the range.
   */
  async history(
    name: string,
    query: { from?: number; to?: number; limit?: number } = {},
    options: PastOptions = {},
  ): Promise<PageHistory> {
    const page = this.#registry.byName(name)
    const first = Math.max(this.#firstRecord, page?.createdEpoch ?? 0)
    const range = this.#range(query, first)
    const { limit = HISTORY_LIMIT_DEFAULT } = query
    const found: PageHistory =
      range === undefined
        ? { name, versions: [], next: null }
        : await this.#ask({ kind: 'history', name, query: { ...range, limit } }, options.signal)
    if (page === undefined && found.versions.length === 0 && found.next === null) {
      throw new MmsbError('PAGE_NOT_FOUND', `There was no page "${name}" in these epochs.`)
    }
    return found
  }

  /** The element ranges whose bytes differ between two epochs, of all pages or of some. */
  async diff(
    query: { from: number; to?: number; pages?: readonly string[] },
    options: PastOptions = {},
  ): Promise<DiffResult> {
    const { from, to = this.#committer.epoch, pages } = query
    this.#checkEpoch(from)
    this.#checkEpoch(to)
    if (from > to) throw new MmsbError('INVALID_REQUEST', `from: ${from} is after to, ${to}.`)
    return this.#ask({ kind: 'diff', from, to, names: pages }, options.signal)
  }

  /**
   * What changed in the epochs after `after`, as subscribers were told: replayed in a thread of its own, a bounded piece at a
   * time. Throws EPOCH_NOT_FOUND, EPOCH_COMPACTED.
   */
  async pastChanges(query: PastEpochsQuery, options: PastOptions = {}): Promise<PastEpochs> {
    const { after, to } = query
    this.#checkEpoch(after)
    this.#checkEpoch(to)
    if (after > to) throw new MmsbError('INVALID_REQUEST', `after: ${after} is after to, ${to}.`)
    this.#committer.refuseWhenFailed()
    if (this.#changes === undefined) throw this.#compacted(after)
    return this.#changes.ask<PastEpochs>({ kind: 'changes', query }, options.signal)
  }

  /**
   * Replays the epochs after `from` (default: as far back as the log goes), up to `to` (default: the newest), and compares the
   * digest at every epoch with the one recorded. In a thread of its own, so that other questions go on.
   */
  async verify(query: { from?: number; to?: number } = {}, options: PastOptions = {}): Promise<VerifyResult> {
    const { from = this.minEpoch, to = this.#committer.epoch } = query
    this.#checkEpoch(from)
    this.#checkEpoch(to)
    if (from > to) throw new MmsbError('INVALID_REQUEST', `from: ${from} is after to, ${to}.`)
    const { digest } = this.#committer
    const known = to === this.#committer.epoch ? { digest } : {}
    const dir = this.#replayDir
    const client = new ReplayClient({ dir, quotaBytes: this.#quotaBytes })
    this.#verifying.add(client)
    try {
      return await client.ask({ kind: 'verify', from, to, ...known }, options.signal)
    } finally {
      this.#verifying.delete(client)
      await client.close()
    }
  }

  get #replayDir(): string {
    if (this.#dataDir === undefined) throw new MmsbError('INVALID_REQUEST', 'This bus has no data folder.')
    return this.#dataDir
  }

  #ask<T>(request: ReplayRequest, signal: AbortSignal | undefined): Promise<T> {
    this.#committer.refuseWhenFailed()
    if (this.#replay === undefined) throw new MmsbError('INVALID_REQUEST', 'This bus has no data folder.')
    return this.#replay.ask<T>(request, signal).catch((error: unknown) => {
      // It went while it was being read: what is the oldest now, only this thread knows.
      if (!(error instanceof MmsbError && error.code === 'EPOCH_COMPACTED')) throw error
      const isOfRecords = RECORD_QUESTIONS.has(request.kind)
      const minEpoch = isOfRecords ? this.#firstRecord : this.minEpoch
      throw new MmsbError(error.code, error.message, { minEpoch }, { cause: error })
    })
  }

  /** Pages as of an epoch, or undefined when that is the newest one. */
  async #readPast(
    epoch: number,
    pages: readonly PastRead[],
    signal: AbortSignal | undefined,
  ): Promise<PageData[] | undefined> {
    if (epoch === this.#committer.epoch) return undefined
    return this.#ask({ kind: 'read', epoch, pages }, signal)
  }

  /** The state at the epoch can be had. */
  #checkEpoch(epoch: number): void {
    if (!Number.isSafeInteger(epoch) || epoch < 0)
      throw new MmsbError('INVALID_REQUEST', `${String(epoch)} is not an epoch.`)
    if (epoch > this.#committer.epoch) {
      throw new MmsbError(
        'EPOCH_NOT_FOUND',
        `Epoch ${epoch} is not there yet; the newest is ${this.#committer.epoch}.`,
      )
    }
    if (epoch < this.minEpoch) throw this.#compacted(epoch)
  }

  /** What the epoch did can be had: its record, and the state before it. */
  #checkRecord(epoch: number): void {
    this.#checkEpoch(epoch)
    if (epoch === 0)
      throw new MmsbError('EPOCH_NOT_FOUND', 'Epoch 0 is the empty state before the first commit.')
    if (epoch < this.#firstRecord) throw this.#compacted(epoch, this.#firstRecord)
  }

  #compacted(epoch: number, minEpoch = this.minEpoch): MmsbError {
    const what = epoch < this.minEpoch ? `Epoch ${epoch}` : `What epoch ${epoch} did`
    return new MmsbError('EPOCH_COMPACTED', `${what} is no longer kept; the oldest is ${minEpoch}.`, {
      minEpoch,
    })
  }

  /** The oldest epoch of which the record and the state before it are kept. */
  get #firstRecord(): number {
    return this.minEpoch + 1
  }

  /** The range a query asks for, or undefined when it is empty. */
  #range(
    query: { from?: number; to?: number; limit?: number },
    first: number,
  ): { from: number; to: number } | undefined {
    const { from = first, to = this.#committer.epoch, limit } = query
    if (limit !== undefined && !(Number.isSafeInteger(limit) && limit >= 1 && limit <= HISTORY_LIMIT_MAX)) {
      throw new MmsbError('INVALID_REQUEST', `limit: ${limit} is not in 1 to ${HISTORY_LIMIT_MAX}.`)
    }
    if (query.to !== undefined) this.#checkEpoch(query.to)
    // Who has read up to the newest epoch goes on with the one after it: there is nothing yet.
    if (query.from === this.#committer.epoch + 1) return undefined
    if (query.from !== undefined) this.#checkEpoch(query.from)
    const start = Math.max(from, this.#firstRecord)
    return start > to ? undefined : { from: start, to }
  }

  hasPage(name: string): boolean {
    return this.#registry.byName(name) !== undefined
  }

  /** Names of all pages, sorted. */
  pageNames(): readonly string[] {
    return this.#registry.names()
  }

  /** Pages sorted by name: those with `prefix`, after `cursor`, at most `limit` (default 100). */
  pages(options: { prefix?: string; limit?: number; cursor?: string } = {}): {
    pages: PageInfo[]
    next: string | null
  } {
    this.#committer.settle()
    const { prefix = '', limit = 100, cursor } = options
    const matching = this.#registry
      .names()
      .filter((name) => name.startsWith(prefix) && (cursor === undefined || name > cursor))
    const names = matching.slice(0, limit)
    const next = matching.length > limit ? (names.at(-1) ?? null) : null
    return { pages: names.map((name) => this.#info(this.#registry.require(name))), next }
  }

  graph(): { nodes: GraphNode[]; edges: GraphEdge[] } {
    this.#committer.settle()
    return graphView(this.#registry, this.#graph)
  }

  status(): BusStatus {
    return {
      version: VERSION,
      epoch: this.#committer.epoch,
      digest: hex(this.#committer.digest),
      backend: this.#backend,
      ...(this.#backend === 'cuda' ? { device: this.#context.deviceInfo() } : {}),
      ...(this.#deviceLoss === undefined ? {} : { deviceLoss: this.#deviceLoss }),
      pages: this.#registry.size,
      fsync: this.#fsync,
      uptimeMs: Math.round(performance.now() - this.#startedMs),
      minEpoch: this.minEpoch,
    }
  }

  /**
   * The execution log of the newest epoch: which derived pages were recomputed, in order, whether they changed, whether
   * wholly, and how many elements were computed. Empty after recovery.
   */
  executionLog(): ExecutionLog {
    this.#committer.settle()
    const pageOfStep = new Map([...this.#registry.all()].map((page) => [page.step, page.name]))
    // Steps of pasts are no pages.
    const steps = (this.#committer.lastResult?.steps() ?? []).flatMap(({ step, ...entry }) => {
      const page = pageOfStep.get(step)
      return page === undefined ? [] : [{ page, ...entry }]
    })
    return { epoch: this.#committer.epoch, steps }
  }

  /**
   * The oldest epoch that can be read: 0, the empty state, while the log is whole; else that of the oldest checkpoint from
   * which the log goes on; in memory only, the newest.
   */
  get minEpoch(): number {
    const store = this.#store
    if (store === undefined) return this.#committer.epoch
    const first = store.minEpoch
    if (first <= 1) return 0
    const reachable = store.checkpoints().filter(({ epoch }) => epoch >= first - 1)
    return Math.min(this.#committer.epoch, ...reachable.map(({ epoch }) => epoch))
  }

  stats(): BusStats {
    this.#committer.settle()
    return statsOf({
      registry: this.#registry,
      graph: this.#graph,
      memory: this.#context.memory(),
      deltas: this.#committer.deltaCounts,
      timings: this.#committer.timings.summary(),
      queue: this.#committer.queued,
      epoch: this.#committer.epoch,
      log: this.#store?.stats() ?? null,
      locationOf: (page) => this.#locationOf(page),
    })
  }

  // ---- watching ---------------------------------------------------------------------------------------------------

  /**
   * Calls back for every epoch from now on, synchronously while the state is exactly that of the epoch. A listener must
   * not throw and must not write. Returns what ends it.
   *
   * `ahead` may be called before, with the very event that the listener will get if the epoch becomes durable, when the state is
   * executed but the disk still writes: time to get ready in. It may only gather values, and nothing of it may be shown.
   */
  onCommit(listener: (event: CommitEvent) => void, ahead?: (event: CommitEvent) => void): () => void {
    return this.#committer.onCommit(listener, ahead)
  }

  /** Calls back once when the bus fails. */
  onFailure(listener: (reason: string) => void): () => void {
    return this.#committer.onFailure(listener)
  }

  /** Named durable readers; undefined when the bus lives in memory only. */
  get cursors(): Cursors | undefined {
    return this.#cursors
  }

  // ---- keeping ----------------------------------------------------------------------------------------------------

  /**
   * Writes a checkpoint of the newest epoch. Commits go on meanwhile. One of this epoch that is there already is not written
   * again. Throws INVALID_REQUEST without a data folder.
   */
  async checkpoint(): Promise<CheckpointInfo> {
    this.#committer.refuseWhenStopped()
    if (this.#keeper === undefined) throw new MmsbError('INVALID_REQUEST', 'This bus has no data folder.')
    return this.#keeper.checkpoint()
  }

  /**
   * Keeps history for a reader: nothing at or after the epoch that `lowestNeeded` gives (undefined: no need) is let go. It is
   * asked whenever something is about to go. Returns what ends it.
   */
  holdHistory(lowestNeeded: () => number | undefined): () => void {
    this.#needs.add(lowestNeeded)
    return () => this.#needs.delete(lowestNeeded)
  }

  checkpoints(): CheckpointInfo[] {
    return this.#store?.checkpoints() ?? []
  }

  /** Finishes what is queued, closes the log and frees the memory. Idempotent. */
  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close(): Promise<void> {
    try {
      await Promise.all([
        this.#replay?.close(),
        this.#changes?.close(),
        ...[...this.#verifying].map((client) => client.close()),
      ])
      await this.#keeper?.idle()
      await this.#cursors?.close()
      await this.#committer.close(() => this.#keeper?.close() ?? Promise.resolve())
    } finally {
      this.#context.close()
    }
  }

  // ---- helpers ----------------------------------------------------------------------------------------------------

  async #define(name: string, definition: PageDefinition): Promise<CreateResult> {
    checkDefinition(name, definition)
    const define = async ([record]: readonly PageRecord[]): Promise<CreateResult> => {
      if (record === undefined) throw new MmsbError('INTERNAL', 'A draft was lost.')
      this.#refuseCycle(record)
      this.#checkBackend(record)
      try {
        const existing = this.#registry.byName(name)
        if (existing !== undefined) return this.#existing(existing, record)
        const { functions } = this.#registry
        const { epoch } = await this.#committer.commit(pendingOfCreates([record], functions.worldAge))
        return { epoch, created: true, page: this.#info(record) }
      } catch (error) {
        const existing = this.#registry.byName(name)
        const raced = error instanceof MmsbError && error.code === 'PAGE_EXISTS' && existing !== undefined
        if (raced) return this.#existing(existing, record)
        throw error
      }
    }
    return this.#untilFresh(() => this.#withDrafts([{ name, definition }], define))
  }

  /**
   * Drafts pages and does `work` with them. Ids that no page was created with are given back, unless more were taken since:
   * who repeats a definition for years uses none up.
   */
  async #withDrafts<T extends { readonly created: boolean }>(
    pages: readonly NamedDefinition[],
    work: (records: readonly PageRecord[]) => Promise<T>,
  ): Promise<T> {
    const first = this.#nextPageId
    let next: number | undefined
    let created = false
    try {
      const records = draftPages(this.#draftRooms, pages)
      next = this.#nextPageId
      const done = await work(records)
      created = done.created
      return done
    } finally {
      if (!created && (next ?? this.#nextPageId) === this.#nextPageId) this.#nextPageId = first
    }
  }

  get #draftRooms(): DraftRooms {
    return { registry: this.#registry, graph: this.#graph, takePageId: () => this.#takePageId() }
  }

  #existing(page: PageRecord, wanted: PageRecord): CreateResult {
    const difference = differenceOf(page, wanted, this.#locationOf(page))
    if (difference !== undefined) {
      throw new MmsbError(
        'PAGE_EXISTS',
        `A page "${page.name}" with another definition exists: ${difference}.`,
      )
    }
    return { epoch: page.createdEpoch, created: false, page: this.#info(page) }
  }

  /** A definition that derives from what derives from the page of its name would be a cycle. */
  #refuseCycle({ name, derived }: PageRecord): void {
    const existing = this.#registry.byName(name)
    if (existing === undefined) return
    for (const { id, prev } of derived?.inputs ?? []) {
      const path = prev === undefined ? this.#graph.path(existing.id, id) : undefined
      if (path === undefined) continue
      const names = [...path.map((step) => this.#registry.byId(step)?.name ?? String(step)), name]
      throw new MmsbError('GRAPH_CYCLE', `The definition would close a cycle: ${names.join(' -> ')}.`, {
        path: names,
      })
    }
  }

  #checkBackend(record: PageRecord): void {
    const needsDevice = record.location === 'gpu' || record.location === 'unified'
    if (needsDevice && this.#backend === 'cpu') {
      throw new MmsbError(
        'UNSUPPORTED_LOCATION',
        `Page "${record.name}" asks for location "${record.location}", and the backend here is cpu.`,
      )
    }
  }

  #takePageId(): number {
    if (this.#nextPageId > PAGE_ID_MAX) throw new MmsbError('INTERNAL', 'All page ids are used up.')
    return this.#nextPageId++
  }

  // ---- views ------------------------------------------------------------------------------------------------------

  #copy(page: PageRecord, { offset = 0, count }: { offset?: number; count?: number }): TypedArray {
    const length = count ?? page.elements - offset
    const isWhole = Number.isSafeInteger(offset) && Number.isSafeInteger(length)
    if (!isWhole || offset < 0 || length < 0 || offset + length > page.elements) {
      throw new MmsbError(
        'RANGE_NOT_SATISFIABLE',
        `Elements ${offset} to ${offset + length} are not all in page "${page.name}", which has ${page.elements}.`,
      )
    }
    const { sizeBytes, view } = DTYPE_INFO[page.dtype]
    const out = view(new ArrayBuffer(length * sizeBytes), 0, length)
    if (length > 0) this.#context.readPage(page.id, offset * sizeBytes, out)
    return out
  }

  #dataOf(page: PageRecord, values: TypedArray): PageData {
    const { name, dtype, shape, version } = page
    return { name, dtype, shape, version, epoch: this.#committer.epoch, values }
  }

  #info(page: PageRecord): PageInfo {
    return pageInfo(
      page,
      this.#registry,
      this.#graph,
      this.#locationOf(page),
      hex(this.#context.pageDigest(page.id)),
    )
  }

  #locationOf(page: PageRecord): Exclude<Location, 'auto'> {
    return this.#backend === 'cpu' ? 'cpu' : this.#context.pageLocation(page.id)
  }
}

function written(name: string, { epoch, pages }: CommitResult): PatchResult {
  const page = Object.hasOwn(pages, name) ? name : (Object.keys(pages)[0] ?? name)
  return { epoch, version: pages[page] ?? epoch, page }
}
