/**
 * The bus: transactions in, epochs out.
 *
 * The journey of a write: door (frame) -> queue -> batch (staged one by one) -> one record appended and synced, at the same
 * time as one native execution -> publish. Invariants:
 * - one epoch is in flight at a time, while the next batch gathers;
 * - nobody sees an epoch before it is durable, nor a part of one: reads are answered between epochs, and a synchronous
 *   read that finds one in flight finishes it first;
 * - acknowledgements, events and waiting reads come after versions moved;
 * - after a failure of the log or of an execution the bus takes nothing more: restarting recovers from the log.
 * Knows nothing of sockets; gets clock and disk through the store it opens.
 */
import { availableParallelism } from 'node:os'
import { performance } from 'node:perf_hooks'
import { MmsbError } from '../errors.js'
import { type ExecuteResult, NativeContext } from '../ffi/context.js'
import { allocateFile, crc32c, deviceCount } from '../ffi/library.js'
import { Graph, type Plan } from '../graph/graph.js'
import {
  BATCH_MAX_BYTES,
  BATCH_MAX_TRANSACTIONS,
  IDEMPOTENCY_KEYS_MAX,
  MEMORY_QUOTA_DEFAULT_BYTES,
  PAGE_ID_MAX,
  PLAN_ASYNC_THRESHOLD_NS,
  QUEUE_MAX_BYTES,
  QUEUE_MAX_TRANSACTIONS,
} from '../limits.js'
import { DTYPE_INFO, type Dtype, type TypedArray } from '../state/dtype.js'
import type {
  DeltaInput,
  DeltaValues,
  Derivation,
  Location,
  PageDefinition,
  SourceDefinition,
} from '../state/types.js'
import { Store } from '../store/store.js'
import type { CheckpointInfo } from '../store/types.js'
import { Batch } from './batch.js'
import { checkpointSource } from './checkpoint.js'
import {
  derivedRecord,
  isDerivedDefinition,
  pendingOfCreates,
  pendingOfDeletes,
  pendingOfDelta,
  pendingOfFrame,
  pendingOfTransaction,
  sameDefinition,
  sourceRecord,
  type TransactionMeta,
} from './door.js'
import { graphView, hex, pageInfo, statsOf } from './inspect.js'
import type { Pending, Submission } from './pending.js'
import { recover } from './recovery.js'
import { type PageRecord, Registry } from './registry.js'
import { Timings } from './timings.js'
import type {
  BusOptions,
  BusStats,
  BusStatus,
  CommitEvent,
  CommitResult,
  FsyncMode,
  GraphEdge,
  GraphNode,
  PageChange,
  PageData,
  PageInfo,
  PageShape,
  TransactionInput,
} from './types.js'
import { VERSION } from './version.js'

export interface WriteOptions extends TransactionMeta {
  /** The version the page must have; else PRECONDITION_FAILED. */
  readonly expectVersion?: number
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

/** An epoch between staging and publishing. */
interface InFlight {
  readonly batch: Batch
  readonly submissions: readonly Submission[]
  readonly timestampMs: number
  /** Set while a native execution runs on another thread. */
  executing: boolean
  /** Set once the log was asked to append. */
  appending: boolean
  appended: Promise<void> | undefined
  result: ExecuteResult | undefined
}

const EMPTY_STEPS = new Uint32Array(0)

export class Bus {
  readonly #context: NativeContext
  readonly #backend: 'cpu' | 'cuda'
  readonly #fsync: FsyncMode
  readonly #registry = new Registry()
  readonly #graph = new Graph()
  readonly #timings = new Timings()
  readonly #listeners = new Set<(event: CommitEvent) => void>()
  readonly #failureListeners = new Set<(reason: string) => void>()
  readonly #answers = new Map<string, CommitResult>()
  readonly #answersPending = new Map<string, Promise<CommitResult>>()
  readonly #deltaCounts = { dense: 0, sparse: 0, masked: 0 }
  readonly #startedMs = performance.now()
  #store: Store | undefined
  #queue: Submission[] = []
  #queueBytes = 0
  #inFlight: InFlight | undefined
  #scheduled = false
  #held = 0
  #waiters: (() => void)[] = []
  #epoch = 0
  #digest: Uint8Array
  #nextPageId = 1
  #lastTimestampMs = 0
  #failure: string | undefined
  #closing: Promise<void> | undefined
  /** The append of an epoch that a synchronous read published early; the next append comes after it. */
  #trailingAppend: Promise<unknown> | undefined

  /**
   * Opens a bus. With `dataDir` it recovers what the folder holds and logs every commit there; without, it lives in
   * memory only. Throws when the folder is locked, damaged or not writable, and UNSUPPORTED_LOCATION for `cuda` without
   * a device.
   */
  static async open(options: BusOptions = {}): Promise<Bus> {
    const bus = new this(options)
    try {
      if (options.dataDir !== undefined) await bus.#openStore(options.dataDir, options)
    } catch (error) {
      bus.#context.close()
      throw error
    }
    return bus
  }

  protected constructor(options: BusOptions) {
    const wanted = options.backend ?? 'auto'
    this.#backend = wanted === 'auto' ? (deviceCount() > 0 ? 'cuda' : 'cpu') : wanted
    this.#fsync = options.fsync ?? 'always'
    this.#context = new NativeContext({
      backend: this.#backend,
      threads: options.threads ?? availableParallelism(),
      quotaBytes: options.memoryLimitBytes ?? MEMORY_QUOTA_DEFAULT_BYTES,
    })
    this.#digest = this.#context.stateDigest()
  }

  async #openStore(dir: string, options: BusOptions): Promise<void> {
    const store = await Store.open({
      dir,
      fsync: this.#fsync,
      crc32c,
      allocate: allocateFile,
      ...(options.onNotice === undefined ? {} : { onNotice: options.onNotice }),
    })
    try {
      const recovered = await recover(
        { registry: this.#registry, graph: this.#graph, context: this.#context },
        store,
        options.onNotice,
      )
      this.#epoch = recovered.epoch
      this.#digest = recovered.digest
      this.#nextPageId = recovered.nextPageId
      this.#lastTimestampMs = recovered.timestampMs
      for (const [key, answer] of recovered.answers) this.#remember(key, answer)
    } catch (error) {
      await store.close()
      throw error
    }
    this.#store = store
  }

  /** The newest published epoch; 0 before the first commit. */
  get epoch(): number {
    return this.#epoch
  }

  /** Why the bus has stopped, or null. */
  get failure(): string | null {
    return this.#failure ?? null
  }

  // ---- writing ----------------------------------------------------------------------------------------------------

  /** Creates a source page filled with `fill` (default 0). Throws PAGE_EXISTS when another definition has the name. */
  create(name: string, definition: SourceDefinition): Promise<CreateResult> {
    return this.#define(name, (id) => sourceRecord(id, name, definition))
  }

  /** Creates a derived page; it holds its values when this resolves. */
  derive(
    name: string,
    derive: Derivation,
    options: { dtype?: Dtype; location?: Location } = {},
  ): Promise<CreateResult> {
    return this.#define(name, (id) => {
      this.#refuseCycle(name, derive)
      return derivedRecord(id, name, { derive, ...options }, (input) => this.#registry.require(input))
    })
  }

  /**
   * Creates many pages in one epoch, or none. A derived page may take pages created before it in the list as inputs.
   */
  async createMany(
    pages: readonly { name: string; definition: PageDefinition }[],
  ): Promise<{ epoch: number }> {
    this.#refuseWhenStopped()
    const siblings = new Map<string, PageRecord>()
    const records = pages.map(({ name, definition }) => {
      const id = this.#takePageId()
      const record = isDerivedDefinition(definition)
        ? derivedRecord(id, name, definition, (input) => siblings.get(input) ?? this.#registry.require(input))
        : sourceRecord(id, name, definition)
      this.#checkBackend(record)
      siblings.set(name, record)
      return record
    })
    const { epoch } = await this.#commit(pendingOfCreates(records))
    return { epoch }
  }

  /** Deletes a page; with `cascade` also everything derived from it. Throws PAGE_NOT_FOUND, PAGE_IN_USE. */
  async delete(name: string, options: { cascade?: boolean } = {}): Promise<{ epoch: number }> {
    this.#refuseWhenStopped()
    for (;;) {
      const page = this.#registry.require(name)
      const ids = options.cascade === true ? [...this.#graph.dependentsDeep(page.id), page.id] : [page.id]
      try {
        const { epoch } = await this.#commit(pendingOfDeletes(ids))
        return { epoch }
      } catch (error) {
        // A page derived from this one may have been committed since the list was made: make it again.
        const retry = options.cascade === true && error instanceof MmsbError && error.code === 'PAGE_IN_USE'
        if (!retry) throw error
      }
    }
  }

  /** Applies one delta to a source page. */
  async patch(name: string, delta: DeltaInput, options: WriteOptions = {}): Promise<PatchResult> {
    this.#refuseWhenStopped()
    const page = this.#registry.require(name)
    const { epoch, pages } = await this.#commit(pendingOfDelta(page, delta, options, options.expectVersion))
    return { epoch, version: pages[name] as number, page: name }
  }

  /** Writes all elements of a source page. */
  async write(name: string, values: DeltaValues, options: WriteOptions = {}): Promise<PatchResult> {
    this.#refuseWhenStopped()
    const page = this.#registry.require(name)
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
    this.#refuseWhenStopped()
    return this.#commit(pendingOfTransaction(this.#registry, transaction))
  }

  /** Commits a transaction in its binary form (docs/FORMAT.md). The bytes are untrusted and copied. */
  submit(frame: Uint8Array): Promise<CommitResult> {
    this.#refuseWhenStopped()
    return this.#commit(pendingOfFrame(this.#registry, frame, () => this.#takePageId()))
  }

  // ---- reading ----------------------------------------------------------------------------------------------------

  /** Elements of a page, a copy, as of the newest epoch. Synchronous: an epoch in flight is finished first. */
  read(name: string, options: { offset?: number; count?: number } = {}): TypedArray {
    this.#settle()
    return this.#copy(this.#registry.require(name), options)
  }

  /** Elements of a page with what they are; waits for an epoch in flight without blocking. */
  async data(name: string, options: { offset?: number; count?: number } = {}): Promise<PageData> {
    if (this.#inFlight !== undefined) await this.#published()
    this.#refuseWhenFailed()
    const page = this.#registry.require(name)
    return this.#dataOf(page, this.#copy(page, options))
  }

  /** Several pages, all at one epoch. */
  async readMany(names: readonly string[]): Promise<{ epoch: number; pages: Record<string, PageData> }> {
    if (this.#inFlight !== undefined) await this.#published()
    this.#refuseWhenFailed()
    const records = names.map((name) => this.#registry.require(name))
    const pages = Object.fromEntries(
      records.map((page) => [page.name, this.#dataOf(page, this.#copy(page, {}))]),
    )
    return { epoch: this.#epoch, pages }
  }

  /**
   * Values of element ranges (offset, count, ...) of a page, packed. Only for listeners of onCommit, or when nothing is in
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
    this.#settle()
    return this.#info(this.#registry.require(name))
  }

  /** What a page is made of and its version, as of the newest epoch; unlike page() it waits for nothing and costs nothing. */
  peek(name: string): PageShape {
    return this.#registry.require(name)
  }

  /**
   * Calls `run` while the state is exactly that of an epoch and no other can start: at once when none is in flight, else when
   * that one has been published, abandoned or has failed. `run` must not throw and must not write.
   */
  between(run: () => void): void {
    if (this.#inFlight === undefined) run()
    else this.#waiters.push(run)
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
    this.#settle()
    const { prefix = '', limit = 100, cursor } = options
    const matching = this.#registry
      .names()
      .filter((name) => name.startsWith(prefix) && (cursor === undefined || name > cursor))
    const names = matching.slice(0, limit)
    const next = matching.length > limit ? (names.at(-1) ?? null) : null
    return { pages: names.map((name) => this.#info(this.#registry.require(name))), next }
  }

  graph(): { nodes: GraphNode[]; edges: GraphEdge[] } {
    this.#settle()
    return graphView(this.#registry, this.#graph)
  }

  status(): BusStatus {
    return {
      version: VERSION,
      epoch: this.#epoch,
      digest: hex(this.#digest),
      backend: this.#backend,
      ...(this.#backend === 'cuda' ? { device: this.#context.deviceInfo() } : {}),
      pages: this.#registry.size,
      fsync: this.#fsync,
      uptimeMs: Math.round(performance.now() - this.#startedMs),
      minEpoch: this.minEpoch,
    }
  }

  /** The oldest epoch that can be read. */
  get minEpoch(): number {
    return this.#epoch
  }

  stats(): BusStats {
    this.#settle()
    return statsOf({
      registry: this.#registry,
      graph: this.#graph,
      memory: this.#context.memory(),
      deltas: this.#deltaCounts,
      timings: this.#timings.summary(),
      queue: { transactions: this.#queue.length, bytes: this.#queueBytes },
      epoch: this.#epoch,
      log: this.#store?.stats() ?? null,
      locationOf: (page) => this.#locationOf(page),
    })
  }

  // ---- watching ---------------------------------------------------------------------------------------------------

  /**
   * Calls back for every epoch from now on, synchronously while the state is exactly that of the epoch. A listener must
   * not throw and must not write. Returns what ends it.
   */
  onCommit(listener: (event: CommitEvent) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /** Calls back once when the bus fails. */
  onFailure(listener: (reason: string) => void): () => void {
    this.#failureListeners.add(listener)
    return () => this.#failureListeners.delete(listener)
  }

  // ---- keeping ----------------------------------------------------------------------------------------------------

  /**
   * Writes a checkpoint of the newest epoch. Commits wait while it is written. Throws INVALID_REQUEST without a data
   * folder.
   */
  async checkpoint(): Promise<CheckpointInfo> {
    this.#refuseWhenStopped()
    const store = this.#store
    if (store === undefined) throw new MmsbError('INVALID_REQUEST', 'This bus has no data folder.')
    this.#held++
    try {
      if (this.#inFlight !== undefined) await this.#published()
      this.#refuseWhenFailed()
      return await store.checkpoint(
        checkpointSource({
          registry: this.#registry,
          context: this.#context,
          epoch: this.#epoch,
          timestampMs: this.#lastTimestampMs,
          digest: this.#digest,
          nextPageId: this.#nextPageId,
          answers: this.#answers,
        }),
      )
    } finally {
      this.#held--
      this.#schedule()
    }
  }

  checkpoints(): CheckpointInfo[] {
    return this.#store?.checkpoints() ?? []
  }

  /** Finishes what is queued, closes the log and frees the memory. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    while (this.#failure === undefined && (this.#queue.length > 0 || this.#inFlight !== undefined)) {
      await this.#published()
    }
    await this.#store?.close()
    this.#failure ??= 'the bus is closed'
    this.#context.close()
  }

  // ---- the commit queue -------------------------------------------------------------------------------------------

  async #define(name: string, recordOf: (id: number) => PageRecord): Promise<CreateResult> {
    this.#refuseWhenStopped()
    const record = recordOf(this.#takePageId())
    this.#checkBackend(record)
    try {
      const existing = this.#registry.byName(name)
      if (existing !== undefined) return this.#existing(existing, record)
      const { epoch } = await this.#commit(pendingOfCreates([record]))
      return { epoch, created: true, page: this.#info(record) }
    } catch (error) {
      const existing = this.#registry.byName(name)
      const raced = error instanceof MmsbError && error.code === 'PAGE_EXISTS' && existing !== undefined
      if (raced) return this.#existing(existing, record)
      throw error
    }
  }

  #existing(page: PageRecord, wanted: PageRecord): CreateResult {
    if (!sameDefinition(page, wanted)) {
      throw new MmsbError('PAGE_EXISTS', `A page "${page.name}" with another definition exists.`)
    }
    return { epoch: page.createdEpoch, created: false, page: this.#info(page) }
  }

  /** A definition that names itself, directly or through pages derived from the page of its name, would be a cycle. */
  #refuseCycle(name: string, derive: Derivation): void {
    const inputs = Object.values(derive.inputs ?? {})
    if (inputs.includes(name))
      throw new MmsbError('GRAPH_CYCLE', `The page would derive from itself: ${name} -> ${name}.`)
    const existing = this.#registry.byName(name)
    if (existing === undefined) return
    for (const input of inputs) {
      const page = this.#registry.byName(input)
      const path = page === undefined ? undefined : this.#graph.path(existing.id, page.id)
      if (path === undefined) continue
      const names = [...path.map((id) => this.#registry.byId(id)?.name ?? String(id)), name]
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

  /** Queues a transaction; resolves when it is durable and visible. Throws OVERLOADED when the queue is full. */
  #commit(pending: Pending): Promise<CommitResult> {
    if (pending.key !== undefined) {
      const known = this.#answers.get(pending.key)
      if (known !== undefined) return Promise.resolve(known)
      const running = this.#answersPending.get(pending.key)
      if (running !== undefined) return running
    }
    if (
      this.#queue.length >= QUEUE_MAX_TRANSACTIONS ||
      (this.#queueBytes + pending.frame.byteLength > QUEUE_MAX_BYTES && this.#queue.length > 0)
    ) {
      throw new MmsbError('OVERLOADED', `${this.#queue.length} transactions are waiting.`, { retryAfterS: 1 })
    }
    const promise = new Promise<CommitResult>((resolve, reject) => {
      this.#queue.push({ pending, queuedAtMs: performance.now(), resolve, reject })
    })
    this.#queueBytes += pending.frame.byteLength
    if (pending.key !== undefined) this.#awaitAnswer(pending.key, promise)
    this.#schedule()
    return promise
  }

  #awaitAnswer(key: string, promise: Promise<CommitResult>): void {
    this.#answersPending.set(key, promise)
    const forget = (): void => {
      this.#answersPending.delete(key)
    }
    promise.then(forget, forget)
  }

  /** Lets what the event loop has ready join the batch before it starts. */
  #schedule(): void {
    if (this.#scheduled || this.#inFlight !== undefined || this.#queue.length === 0 || this.#held > 0) return
    this.#scheduled = true
    setImmediate(() => {
      this.#scheduled = false
      if (this.#inFlight === undefined && this.#held === 0) this.#startEpoch()
    })
  }

  #startEpoch(): void {
    if (this.#failure !== undefined) return
    const batch = new Batch(this.#epoch + 1, {
      registry: this.#registry,
      graph: this.#graph,
      context: this.#context,
    })
    const submissions = this.#fill(batch)
    if (submissions.length === 0) {
      this.#notifyWaiters()
      this.#schedule()
      return
    }
    const timestampMs = Math.max(Date.now(), this.#lastTimestampMs)
    this.#inFlight = {
      batch,
      submissions,
      timestampMs,
      executing: false,
      appending: false,
      appended: undefined,
      result: undefined,
    }
    const flight = this.#inFlight
    const store = this.#store
    if (store === undefined) {
      this.#runInMemory(flight)
      return
    }
    this.#runDurably(flight, store).catch((error: unknown) => this.#fail(flight, error))
  }

  /** Moves transactions from the queue into the batch, refusing singly. */
  #fill(batch: Batch): Submission[] {
    const taken: Submission[] = []
    let at = 0
    for (; at < this.#queue.length && taken.length < BATCH_MAX_TRANSACTIONS; at++) {
      const submission = this.#queue[at] as Submission
      const bytes = submission.pending.frame.byteLength
      if (taken.length > 0 && batch.frameBytes + bytes > BATCH_MAX_BYTES) break
      try {
        if (batch.stage(submission.pending) === 'later') break
        taken.push(submission)
      } catch (error) {
        submission.reject(error)
      }
      this.#queueBytes -= bytes
    }
    this.#queue = at === this.#queue.length ? [] : this.#queue.slice(at)
    return taken
  }

  #runInMemory(flight: InFlight): void {
    const plan = flight.batch.plan()
    const frames = flight.batch.frames()
    if (!leavesEventLoop(plan, frames)) {
      try {
        flight.result = this.#execute(plan, frames)
      } catch (error) {
        this.#fail(flight, error)
        return
      }
      this.#publish(flight)
      return
    }
    flight.executing = true
    this.#executeAsync(flight, plan, frames).then(
      () => this.#publish(flight),
      (error: unknown) => this.#fail(flight, error),
    )
  }

  async #runDurably(flight: InFlight, store: Store): Promise<void> {
    const { batch } = flight
    const frames = batch.frames()
    if (this.#trailingAppend !== undefined) {
      await this.#trailingAppend
      this.#trailingAppend = undefined
    }
    try {
      const reserved = store.reserve(frames.byteLength)
      if (reserved !== undefined) await reserved
    } catch (error) {
      this.#abandon(flight, error)
      return
    }
    const plan = batch.plan()
    flight.appending = true
    const startedMs = performance.now()
    const appended = store.append({
      epoch: batch.epoch,
      timestampMs: flight.timestampMs,
      digestBefore: this.#digest,
      frameCount: batch.pendings.length,
      frames,
      touchedPages: batch.touchedPages(),
    })
    flight.appended = appended
    if (leavesEventLoop(plan, frames)) {
      flight.executing = true
      await Promise.all([appended, this.#executeAsync(flight, plan, frames)])
    } else {
      // The append is under way on another thread; its promise must have a handler before anything can throw.
      const settled = appended.then(
        () => undefined,
        (error: unknown) => ({ error }),
      )
      flight.result = this.#execute(plan, frames)
      const failed = await settled
      if (failed !== undefined) throw failed.error
    }
    this.#timings.record('append', performance.now() - startedMs)
    this.#publish(flight)
  }

  #execute(plan: Plan, frames: Uint8Array): ExecuteResult {
    const result = this.#context.execute(plan.steps.length === 0 ? EMPTY_STEPS : plan.steps, frames)
    this.#observe(plan, result)
    return result
  }

  async #executeAsync(flight: InFlight, plan: Plan, frames: Uint8Array): Promise<void> {
    const result = await this.#context.executeAsync(plan.steps, frames)
    if (flight.result !== undefined) return
    flight.executing = false
    flight.result = result
    this.#observe(plan, result)
  }

  #observe(plan: Plan, result: ExecuteResult): void {
    const ns = result.execNs
    plan.observedNs = plan.observedNs === 0 ? ns : plan.observedNs * 0.75 + ns * 0.25
    this.#timings.record('execute', ns / 1e6)
  }

  /** Finishes the epoch in flight on this thread, so that a synchronous read sees a whole epoch. */
  #settle(): void {
    this.#refuseWhenFailed()
    const flight = this.#inFlight
    if (flight === undefined || (!flight.appending && this.#store !== undefined)) return
    try {
      if (flight.result === undefined && flight.executing) {
        flight.result = this.#context.waitSync()
        flight.executing = false
      }
      this.#store?.completeSync()
    } catch (error) {
      this.#fail(flight, error)
      throw this.#stopped()
    }
    this.#trailingAppend = flight.appended
    this.#publish(flight)
  }

  // ---- publish, abandon, fail -------------------------------------------------------------------------------------

  #publish(flight: InFlight): void {
    if (this.#inFlight !== flight || flight.result === undefined) return
    const startedMs = performance.now()
    const { batch, result } = flight
    const epoch = batch.epoch
    const wantsEvent = this.#listeners.size > 0
    const changes: PageChange[] = []
    if (wantsEvent) this.#collectChanges(batch, result, changes)
    result.eachChangedId((id) => {
      const page = this.#registry.byId(id)
      if (page !== undefined) page.version = epoch
    })
    batch.publish()
    this.#digest = batch.deleted.length > 0 ? this.#context.stateDigest() : result.stateDigest()
    this.#epoch = epoch
    this.#lastTimestampMs = flight.timestampMs
    this.#inFlight = undefined
    if (wantsEvent) {
      const event: CommitEvent = { epoch, timestampMs: flight.timestampMs, changes }
      for (const listener of this.#listeners) listener(event)
    }
    this.#answer(flight, startedMs)
    this.#notifyWaiters()
    this.#timings.record('publish', performance.now() - startedMs)
    this.#schedule()
  }

  #collectChanges(batch: Batch, result: ExecuteResult, changes: PageChange[]): void {
    for (const page of batch.created) {
      if (!batch.isDeleted(page.id)) {
        changes.push(changeOf(page, 'created', Uint32Array.of(0, page.elements)))
      }
    }
    result.eachChange((id, ranges) => {
      const page = this.#registry.byId(id)
      if (page === undefined || batch.isDeleted(id)) return
      changes.push(changeOf(page, page.kind, ranges.slice()))
    })
    for (const page of batch.deleted) {
      if (batch.createdPage(page.id) === undefined) changes.push(changeOf(page, 'deleted', EMPTY_STEPS))
    }
  }

  #answer(flight: InFlight, nowMs: number): void {
    for (const { pending, queuedAtMs, resolve } of flight.submissions) {
      this.#deltaCounts.dense += pending.deltas.dense
      this.#deltaCounts.sparse += pending.deltas.sparse
      this.#deltaCounts.masked += pending.deltas.masked
      const result = { epoch: flight.batch.epoch, pages: this.#versionsOf(pending) }
      if (pending.key !== undefined) this.#remember(pending.key, result)
      this.#timings.record('commit', nowMs - queuedAtMs)
      resolve(result)
    }
  }

  #versionsOf(pending: Pending): Record<string, number> {
    const versions: Record<string, number> = {}
    for (const id of pending.writes) {
      const page = this.#registry.byId(id)
      if (page !== undefined) versions[page.name] = page.version
    }
    for (const page of pending.creates) versions[page.name] = page.version
    return versions
  }

  #remember(key: string, answer: CommitResult): void {
    this.#answers.set(key, answer)
    if (this.#answers.size <= IDEMPOTENCY_KEYS_MAX) return
    const [oldest] = this.#answers.keys()
    if (oldest !== undefined) this.#answers.delete(oldest)
  }

  /** The log has no room: nothing was written or applied, and the bus goes on. */
  #abandon(flight: InFlight, error: unknown): void {
    flight.batch.abandon()
    this.#inFlight = undefined
    for (const { reject } of flight.submissions) reject(error)
    this.#notifyWaiters()
    const goesOn = error instanceof MmsbError && error.code === 'LOG_FULL'
    if (goesOn) this.#schedule()
    else this.#stop(error)
  }

  /** Memory and log may differ now: nothing more is taken. */
  #fail(flight: InFlight, error: unknown): void {
    if (this.#inFlight !== flight) {
      this.#stop(error)
      return
    }
    this.#inFlight = undefined
    this.#stop(error)
    for (const { reject } of flight.submissions) reject(this.#stopped())
    this.#notifyWaiters()
  }

  #stop(error: unknown): void {
    if (this.#failure !== undefined) return
    this.#failure = error instanceof Error ? error.message : String(error)
    const queued = this.#queue
    this.#queue = []
    this.#queueBytes = 0
    for (const { reject } of queued) reject(this.#stopped())
    this.#notifyWaiters()
    for (const listener of this.#failureListeners) listener(this.#failure)
  }

  #stopped(): MmsbError {
    return new MmsbError('BUS_FAILED', `The bus has stopped: ${this.#failure ?? 'unknown'}`)
  }

  #refuseWhenFailed(): void {
    if (this.#failure !== undefined) throw this.#stopped()
  }

  #refuseWhenStopped(): void {
    this.#refuseWhenFailed()
    if (this.#closing !== undefined) throw new MmsbError('BUS_FAILED', 'The bus is closing.')
  }

  /** Resolves at the next publish, abandonment or failure. */
  #published(): Promise<void> {
    return new Promise((resolve) => {
      this.#waiters.push(resolve)
    })
  }

  #notifyWaiters(): void {
    if (this.#waiters.length === 0) return
    const waiters = this.#waiters
    this.#waiters = []
    for (const resolve of waiters) resolve()
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
    return { name, dtype, shape, version, epoch: this.#epoch, values }
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

function changeOf(page: PageRecord, kind: PageChange['kind'], ranges: Uint32Array): PageChange {
  return { pageId: page.id, page: page.name, kind, dtype: page.dtype, shape: page.shape, ranges }
}

/** Whether an execution may hold the event loop too long and belongs on another thread. */
function leavesEventLoop(plan: Plan, frames: Uint8Array): boolean {
  const payloadNs = frames.byteLength / 2
  return (plan.observedNs || plan.costNs) + payloadNs > PLAN_ASYNC_THRESHOLD_NS
}
