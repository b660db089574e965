/**
 * The bus: the library's engine, as callers see it.
 *
 * Writes pass a door (src/engine/door.ts) and the commit queue (src/engine/committer.ts). Reads are answered between
 * epochs: asynchronous ones wait for the epoch in flight, a synchronous one finishes it first; so nobody sees half an
 * epoch, or one that is not durable. Knows nothing of sockets.
 */
import { availableParallelism } from 'node:os'
import { performance } from 'node:perf_hooks'
import { MmsbError } from '../errors.js'
import { NativeContext } from '../ffi/context.js'
import { allocateFile, crc32c, deviceCount } from '../ffi/library.js'
import { Graph } from '../graph/graph.js'
import { MEMORY_QUOTA_DEFAULT_BYTES, PAGE_ID_MAX } from '../limits.js'
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
import type { StageRooms } from './batch.js'
import { checkpointSource } from './checkpoint.js'
import { Committer } from './committer.js'
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
import { recover } from './recovery.js'
import { type PageRecord, Registry } from './registry.js'
import type {
  BusOptions,
  BusStats,
  BusStatus,
  CommitEvent,
  CommitResult,
  ExecutionLog,
  FsyncMode,
  GraphEdge,
  GraphNode,
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

export class Bus {
  readonly #context: NativeContext
  readonly #backend: 'cpu' | 'cuda'
  readonly #fsync: FsyncMode
  readonly #registry = new Registry()
  readonly #graph = new Graph()
  readonly #committer: Committer
  readonly #startedMs = performance.now()
  #store: Store | undefined
  #nextPageId = 1
  #closed: Promise<void> | undefined

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
    this.#committer = new Committer(this.#rooms)
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
      const recovered = await recover(this.#rooms, store, options.onNotice)
      this.#nextPageId = recovered.nextPageId
      this.#committer.attach(store, recovered)
    } catch (error) {
      await store.close()
      throw error
    }
    this.#store = store
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
    this.#committer.refuseWhenStopped()
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
    const { epoch } = await this.#committer.commit(pendingOfCreates(records))
    return { epoch }
  }

  /** Deletes a page; with `cascade` also everything derived from it. Throws PAGE_NOT_FOUND, PAGE_IN_USE. */
  async delete(name: string, options: { cascade?: boolean } = {}): Promise<{ epoch: number }> {
    this.#committer.refuseWhenStopped()
    for (;;) {
      const page = this.#registry.require(name)
      const ids = options.cascade === true ? [...this.#graph.dependentsDeep(page.id), page.id] : [page.id]
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

  /** Applies one delta to a source page. */
  async patch(name: string, delta: DeltaInput, options: WriteOptions = {}): Promise<PatchResult> {
    this.#committer.refuseWhenStopped()
    const page = this.#registry.require(name)
    const { epoch, pages } = await this.#committer.commit(
      pendingOfDelta(page, delta, options, options.expectVersion),
    )
    return { epoch, version: pages[name] as number, page: name }
  }

  /** Writes all elements of a source page. */
  async write(name: string, values: DeltaValues, options: WriteOptions = {}): Promise<PatchResult> {
    this.#committer.refuseWhenStopped()
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
    this.#committer.refuseWhenStopped()
    return this.#committer.commit(pendingOfTransaction(this.#registry, transaction))
  }

  /** Commits a transaction in its binary form (docs/FORMAT.md). The bytes are untrusted and copied. */
  submit(frame: Uint8Array): Promise<CommitResult> {
    this.#committer.refuseWhenStopped()
    return this.#committer.commit(pendingOfFrame(this.#registry, frame, () => this.#takePageId()))
  }

  // ---- reading ----------------------------------------------------------------------------------------------------

  /** Elements of a page, a copy, as of the newest epoch. Synchronous: an epoch in flight is finished first. */
  read(name: string, options: { offset?: number; count?: number } = {}): TypedArray {
    this.#committer.settle()
    return this.#copy(this.#registry.require(name), options)
  }

  /** Elements of a page with what they are; waits for an epoch in flight without blocking. */
  async data(name: string, options: { offset?: number; count?: number } = {}): Promise<PageData> {
    await this.#committer.idle()
    this.#committer.refuseWhenFailed()
    const page = this.#registry.require(name)
    return this.#dataOf(page, this.#copy(page, options))
  }

  /** Several pages, all at one epoch. */
  async readMany(names: readonly string[]): Promise<{ epoch: number; pages: Record<string, PageData> }> {
    await this.#committer.idle()
    this.#committer.refuseWhenFailed()
    const records = names.map((name) => this.#registry.require(name))
    const pages = Object.fromEntries(
      records.map((page) => [page.name, this.#dataOf(page, this.#copy(page, {}))]),
    )
    return { epoch: this.#committer.epoch, pages }
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
    this.#committer.settle()
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
    this.#committer.between(run)
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
    const steps = (this.#committer.lastResult?.steps() ?? []).map(({ step, ...entry }) => ({
      page: pageOfStep.get(step) ?? '',
      ...entry,
    }))
    return { epoch: this.#committer.epoch, steps }
  }

  /** The oldest epoch that can be read. */
  get minEpoch(): number {
    return this.#committer.epoch
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
   */
  onCommit(listener: (event: CommitEvent) => void): () => void {
    return this.#committer.onCommit(listener)
  }

  /** Calls back once when the bus fails. */
  onFailure(listener: (reason: string) => void): () => void {
    return this.#committer.onFailure(listener)
  }

  // ---- keeping ----------------------------------------------------------------------------------------------------

  /**
   * Writes a checkpoint of the newest epoch. Commits wait while it is written. Throws INVALID_REQUEST without a data
   * folder.
   */
  async checkpoint(): Promise<CheckpointInfo> {
    this.#committer.refuseWhenStopped()
    const store = this.#store
    if (store === undefined) throw new MmsbError('INVALID_REQUEST', 'This bus has no data folder.')
    const committer = this.#committer
    return committer.hold(() => {
      const { epoch, digest, timestampMs, answers } = committer
      const state = { epoch, digest, timestampMs, answers, nextPageId: this.#nextPageId }
      return store.checkpoint(
        checkpointSource({ registry: this.#registry, context: this.#context, ...state }),
      )
    })
  }

  checkpoints(): CheckpointInfo[] {
    return this.#store?.checkpoints() ?? []
  }

  /** Finishes what is queued, closes the log and frees the memory. Idempotent. */
  close(): Promise<void> {
    this.#closed ??= this.#committer.close().finally(() => this.#context.close())
    return this.#closed
  }

  // ---- helpers ----------------------------------------------------------------------------------------------------

  async #define(name: string, recordOf: (id: number) => PageRecord): Promise<CreateResult> {
    this.#committer.refuseWhenStopped()
    const record = recordOf(this.#takePageId())
    this.#checkBackend(record)
    try {
      const existing = this.#registry.byName(name)
      if (existing !== undefined) return this.#existing(existing, record)
      const { epoch } = await this.#committer.commit(pendingOfCreates([record]))
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
