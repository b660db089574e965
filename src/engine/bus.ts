/**
 * The bus as its callers see it: a facade over the parts of the engine.
 *
 *   defining     commands/definitions.ts
 *   writing      commands/transactions.ts, then commit/committer.ts
 *   reading      pages/page-reader.ts
 *   the past     history/past.ts
 *   checkpoints  checkpoints/scheduler.ts
 *
 * What it decides itself is when: writes are refused once the bus has stopped, and elements are read between
 * epochs. An asynchronous read waits for the epoch in flight and a synchronous one finishes it first, so
 * nobody sees half an epoch or one that is not durable. Descriptions of pages, of the graph and statistics
 * wait for nothing: they show the published epoch. Knows nothing of sockets.
 *
 * Long because it lists every public method of the bus with its documentation.
 *
 * Null because public types promise it: `failure`, `next`, the log of statistics.
 */
import { performance } from 'node:perf_hooks'
import { MmsbError, readOnly } from '../errors.js'
import type { FunctionBody } from '../kernels/expression/names.js'
import { WRITE_PIECE_BYTES } from '../limits.js'
import type { LimitGuard } from '../operator-limits.js'
import { alignedCopyOf } from '../state/bytes.js'
import { decodeFrame } from '../state/frame/reader.js'
import type { JsonParts } from '../state/json-parts.js'
import type { PatternSet } from '../state/pattern.js'
import type {
  DeltaInput,
  DeltaValues,
  Derivation,
  DerivedDefinition,
  SourceDefinition,
} from '../state/types.js'
import type { CheckpointInfo } from '../store/types.js'
import { DTYPE_INFO, type TypedArray } from '../wire/dtype.js'
import {
  checkDefinition,
  checkDefinitions,
  checkFrame,
  checkFunctionBody,
  checkPatch,
  checkTransaction,
  checkWhatIf,
  checkWrite,
} from './arguments.js'
import type { Admission, IngestResult, Migration, NamedDefinition, PastQuestion } from './call-types.js'
import { commitAdmitted } from './commands/admitting.js'
import { keptFrame, refuseFrame, tellPages } from './commands/frame-access.js'
import { commitPieces, type Piece, piecesOf } from './commands/large-write.js'
import type { Pending } from './commands/pending.js'
import {
  pendingOfDelta,
  pendingOfFrame,
  pendingOfTransaction,
  writablePage,
} from './commands/transactions.js'
import { queueFull } from './commit/commit-queue.js'
import { FrameIngest, type ToldPages } from './commit/frame-ingest.js'
import { prepareWhatIf, readingDuringDryRun } from './commit/what-if.js'
import type { Cursors } from './durable-cursors.js'
import { noFolder } from './history/past.js'
import type { Host } from './host.js'
import { answerToRepeat, answerToRepeatedFrame } from './idempotency/repeats.js'
import { type BusParts, openParts } from './open-bus.js'
import { executionLogOf, hex, statsOf } from './pages/describe.js'
import type { PageTallies } from './pages/page-tallies.js'
import type { PageRecord } from './pages/registry.js'
import type { Stage, StageHistogram } from './stage-timings.js'
import type {
  BusOptions,
  BusStats,
  BusStatus,
  CommitEvent,
  CommitResult,
  CreateResult,
  DeleteResult,
  DiffResult,
  EpochInfo,
  EpochList,
  ExecutionLog,
  FrameAccess,
  FunctionInfo,
  GraphEdge,
  GraphNode,
  PageData,
  PageHistory,
  PageInfo,
  PageShape,
  PastEpochs,
  PastEpochsQuery,
  PastOptions,
  PatchResult,
  ReadRange,
  Sender,
  TransactionInput,
  VerifyResult,
  WhatIfInput,
  WhatIfResult,
  WriteOptions,
} from './types.js'
import { VERSION } from './version.js'

/** The content of a write (EngineBus.writeOnce). */
export interface WriteContent {
  readonly delta: DeltaInput
  /** The delta must cover the whole page. */
  readonly isWhole?: boolean
  readonly expectVersion?: number | undefined
}

/** Who sends a write, on a server that knows. One object for all writes of a principal. */
export interface WriteOrigin {
  readonly source: string
  /** Throws unless the sender may read the page: a precondition tells of it. */
  requireRead(page: string): void
  /** Undefined: its writes are not limited. */
  readonly admission?: Admission | undefined
}

export class EngineBus {
  readonly #parts: BusParts
  readonly #ingest: FrameIngest
  readonly #startedMs = performance.now()
  #closed: Promise<void> | undefined

  /** @internal As Bus.open of src/index.ts; tests give a host. */
  static async open(options: BusOptions = {}, host?: Host): Promise<EngineBus> {
    return new EngineBus(await openParts(options, host))
  }

  /** @internal Use `open`. */
  constructor(parts: BusParts) {
    this.#parts = parts
    dropped.register(this, parts, this)
    this.#ingest = new FrameIngest({
      registry: parts.state.registry,
      committer: parts.committer,
      costNsOf: (pageId) => parts.state.graph.plan([pageId]).costNs,
      submit: (frame, access, told) => this.#submit(frame, access, told),
    })
  }

  /** The newest published epoch; 0 before the first commit. */
  get epoch(): number {
    return this.#parts.committer.epoch
  }

  /** The limits that the operator set, and what they refused. */
  get limits(): LimitGuard {
    return this.#parts.limits
  }

  /**
   * The history that the epochs of this bus belong to: `<bus id>.<generation>`, 32 and 16 hexadecimal digits.
   * It changes whenever an epoch number that was published may be used again: after a restore, a repair or a
   * cut, and when a crash may have lost epochs that were not synced. A bus in memory has one of its own.
   */
  get historyId(): string {
    return this.#parts.historyId
  }

  /** Counts of pages by name. */
  get tallies(): PageTallies {
    return this.#parts.tallies
  }

  /** Every write is refused with READ_ONLY: the bus was opened so. */
  get isReadOnly(): boolean {
    return this.#parts.committer.lifecycle.isReadOnly
  }

  /** Why the bus has stopped, or null. */
  get failure(): string | null {
    return this.#parts.committer.lifecycle.failure ?? null
  }

  // ---- defining -------------------------------------------------------------------------------------------

  /**
   * Creates a source page filled with `fill` (default 0). Throws PAGE_EXISTS when another definition has the
   * name.
   */
  async create(name: string, definition: SourceDefinition, admission?: Admission): Promise<CreateResult> {
    checkDefinition(name, definition)
    return this.#parts.definitions.create(name, definition, admission)
  }

  /** Creates a derived page; it holds its values when this resolves. */
  async derive(
    name: string,
    derive: Derivation,
    options: Omit<DerivedDefinition, 'derive'> = {},
    admission?: Admission,
  ): Promise<CreateResult> {
    const definition = { derive, ...options }
    checkDefinition(name, definition)
    return this.#parts.definitions.create(name, definition, admission)
  }

  /**
   * Creates many pages in one epoch, or none. A derived page may use pages before it in the list as inputs,
   * and read the past of any page in the list.
   */
  async createMany(
    pages: readonly NamedDefinition[],
    admission?: Admission,
  ): Promise<{ epoch: number; pages: PageInfo[] }> {
    checkDefinitions(pages)
    return this.#parts.definitions.createMany(pages, admission)
  }

  /** Deletes a page; with `cascade` also everything derived from it. Throws PAGE_NOT_FOUND, PAGE_IN_USE. */
  async delete(
    name: string,
    options: { cascade?: boolean } = {},
    admission?: Admission,
  ): Promise<DeleteResult> {
    return this.#parts.definitions.delete(name, options.cascade === true, admission)
  }

  /**
   * Defines a function that expressions can call, or redefines it: every page that uses it, directly or
   * through other functions, is recompiled and recomputed in the same epoch, or nothing changes. Throws
   * INVALID_EXPRESSION, INVALID_REQUEST, and SHAPE_MISMATCH when a page's dtype would change.
   */
  async defineFunction(
    name: string,
    body: FunctionBody,
    admission?: Admission,
  ): Promise<{ epoch: number; worldAge: number }> {
    checkFunctionBody(name, body)
    return this.#parts.definitions.defineFunction(name, body, admission)
  }

  /**
   * Moves every page to the newest version of its op, and expressions to the newest functions, in one epoch
   * that recomputes these pages. Answers which pages moved; nothing is committed where none has to. Throws
   * COST_EXCEEDED.
   */
  async migrate(): Promise<Migration> {
    return this.#parts.definitions.migrate()
  }

  /** Throws NOT_FOUND, and PAGE_IN_USE while pages or other functions use it. */
  async deleteFunction(name: string, admission?: Admission): Promise<{ epoch: number; worldAge: number }> {
    return this.#parts.definitions.deleteFunction(name, admission)
  }

  /** A function and its users. Throws NOT_FOUND. */
  function(name: string): FunctionInfo {
    this.#parts.committer.lifecycle.refuseWhenFailed()
    return this.#parts.definitions.function(name)
  }

  /** All functions, by name. */
  functions(): { worldAge: number; functions: FunctionInfo[] } {
    const { worldAge, functions } = this.functionList()
    return { worldAge, functions: [...functions] }
  }

  /** The same, each made while it is read; they show the epoch of this call. */
  functionList(): { worldAge: number; functions: Iterable<FunctionInfo> } {
    this.#parts.committer.lifecycle.refuseWhenFailed()
    return this.#parts.definitions.functions()
  }

  // ---- writing --------------------------------------------------------------------------------------------

  /** Applies one delta to a source page. */
  async patch(name: string, delta: DeltaInput, options: WriteOptions = {}): Promise<PatchResult> {
    checkPatch(name, delta, options)
    this.#parts.committer.lifecycle.refuseWrites()
    const make = (): Pending => pendingOfDelta(this.#writable(name), delta, options)
    return patchResult(name, await this.#once(name, options.key, make))
  }

  /**
   * Writes all elements of a source page. Values of more than WRITE_PIECE_BYTES are committed in pieces, each
   * an epoch of its own, in order; readers see the epochs between. Each piece expects the version that the
   * one before it made: PRECONDITION_FAILED says that another writer came between, and the pieces before it
   * stay. A repeat under the same key continues where the first attempt ended.
   */
  async write(name: string, values: DeltaValues, options: WriteOptions = {}): Promise<PatchResult> {
    checkWrite(name, values, options)
    const { committer, state } = this.#parts
    committer.lifecycle.refuseWrites()
    const pendingOf = (offset: number, part: DeltaValues, given: WriteOptions): Pending => {
      const page = this.#writable(name)
      if (part === values) checkWhole(page, values)
      return pendingOfDelta(page, { offset, values: part }, given)
    }
    const { key } = options
    const page = state.registry.byName(name)
    if (page === undefined || page.bytes <= WRITE_PIECE_BYTES) {
      return patchResult(name, await this.#once(name, key, () => pendingOf(0, values, options)))
    }
    if (committer.firstUse(key) === undefined) checkWhole(this.#writable(name), values)
    const step = WRITE_PIECE_BYTES / DTYPE_INFO[page.dtype].sizeBytes
    const pieces = piecesOf(values, step, options)
    const commit = (piece: Piece, given: WriteOptions): Promise<CommitResult> =>
      this.#once(name, given.key, () => pendingOf(piece.offset, piece.values, given))
    if (committer.firstUse(key) === undefined)
      return patchResult(name, await commitPieces(name, pieces, commit))
    // The write was completed. The keys of its pieces may be forgotten; those that are not are compared.
    const known = pieces.filter((piece) => committer.firstUse(piece.options.key) !== undefined)
    const answers = await Promise.all(known.map((piece) => commit(piece, piece.options)))
    return patchResult(name, answers.at(-1) as CommitResult)
  }

  /**
   * A write whose content is made by `make`, which may ask for the page and checks the shape of the content.
   * The page must be a source page. A repeat of an earlier write under the same key gets its answer, even if
   * the page has been deleted since. Throws IDEMPOTENCY_MISMATCH when the key came with something else.
   */
  async writeOnce(
    name: string,
    key: string | undefined,
    make: (page: () => PageShape) => WriteContent,
    origin?: WriteOrigin,
  ): Promise<PatchResult> {
    if (this.isReadOnly) throw readOnly()
    const pendingOf = (isRepeat: boolean): Pending => {
      let page: PageRecord | undefined
      const target = (): PageRecord => {
        page ??= this.#writable(name)
        return page
      }
      const { delta, isWhole, expectVersion } = make(target)
      if (expectVersion !== undefined) origin?.requireRead(name)
      if (!isRepeat) this.#parts.committer.lifecycle.refuseWrites()
      if (isWhole === true) checkWhole(target(), delta.values)
      return pendingOfDelta(target(), delta, { key, source: origin?.source, expectVersion })
    }
    return patchResult(name, await this.#once(name, key, pendingOf, origin?.admission))
  }

  /**
   * Throws when a write of this page would be refused whatever it holds, for asking before the content is
   * read: PAGE_NOT_FOUND, PAGE_READ_ONLY, BUS_FAILED, READ_ONLY, and OVERLOADED when `bytes` more have no
   * room in the queue. Never for a key that was used before: a repeat gets the answer of the first write.
   */
  refuseWrite(name: string, key: string | undefined, bytes: number): void {
    const { committer } = this.#parts
    if (committer.firstUse(key) !== undefined) return
    committer.lifecycle.refuseWrites()
    this.#writable(name)
    if (!committer.hasRoom(bytes)) throw queueFull()
  }

  /**
   * Commits a write to one page, or gives the answer of the write that it repeats. Throws at once what can be
   * refused at once: its callers are asynchronous, and a promise of its own would be one more for each write.
   */
  #once(
    name: string,
    key: string | undefined,
    make: (isRepeat: boolean) => Pending,
    admission?: Admission,
  ): Promise<CommitResult> {
    const { committer, state } = this.#parts
    const first = committer.firstUse(key)
    if (first === undefined) return this.#commit(make(false), admission)
    return answerToRepeat(key as string, first, [name], state.registry, () => make(true).frame)
  }

  #commit(pending: Pending, admission: Admission | undefined): Promise<CommitResult> {
    const { committer, state } = this.#parts
    return commitAdmitted(committer, pending, admission, state)
  }

  #writable(name: string): PageRecord {
    return writablePage(this.#parts.state.registry, name)
  }

  /** Commits deltas to several pages together, or none of them. */
  transact(transaction: TransactionInput, admission?: Admission): Promise<CommitResult> {
    checkTransaction(transaction)
    const { committer, state } = this.#parts
    committer.lifecycle.refuseWrites()
    const { key, ops } = transaction
    const make = (): Pending => pendingOfTransaction(state.registry, transaction)
    const first = committer.firstUse(key)
    if (first === undefined) return this.#commit(make(), admission)
    const names = ops.map(({ page }) => page)
    return answerToRepeat(key as string, first, names, state.registry, () => make().frame)
  }

  /**
   * Commits a transaction in its binary form (docs/internals/FORMAT.md). The bytes are untrusted and copied.
   */
  submit(frame: Uint8Array): Promise<CommitResult> {
    checkFrame(frame)
    return this.#submit(frame)
  }

  /** Throws at once what can be refused at once, unlike `submit`, which rejects. */
  #submit(frame: Uint8Array, access?: FrameAccess, told?: ToldPages): Promise<CommitResult> {
    const { committer, state, definitions } = this.#parts
    committer.lifecycle.refuseWrites()
    const given = decodeFrame(alignedCopyOf(frame))
    if (told !== undefined) tellPages(given, state.registry, told.withWrites, told.saw)
    const decoded = access === undefined ? given : keptFrame(given, access)
    const first = committer.firstUse(decoded.key)
    if (first !== undefined) return answerToRepeatedFrame(decoded.key as string, first, decoded.bytes)
    if (access !== undefined) refuseFrame(decoded, access, state.registry)
    const pending = pendingOfFrame(state.registry, decoded, definitions.takePageId)
    for (const record of pending.creates) definitions.refuseWithoutDevice(record)
    return this.#commit(pending, access?.admission)
  }

  /**
   * Commits the frames of a message, one behind the other, each a transaction of its own, numbered from
   * `first` on. The bytes are untrusted and copied. The sender gets one answer for every number; refusals
   * come before this returns. Without `access` the sender may do everything.
   */
  submitAll(sender: Sender, first: number, message: Uint8Array, access?: FrameAccess): IngestResult {
    return this.#ingest.take(sender, first, message, access)
  }

  /**
   * The values that pages would have if these deltas were committed now; nothing is committed, logged or
   * visible to anyone else. The cost depends on the pages derived from the written ones, not on the size of
   * the state. Throws what the transaction would throw, and PAGE_NOT_FOUND.
   */
  async whatIf(input: WhatIfInput, options: PastOptions = {}, admission?: Admission): Promise<WhatIfResult> {
    checkWhatIf(input)
    const { committer, state } = this.#parts
    return committer.dryRun(
      () => {
        const { pages, ...prepared } = prepareWhatIf(state, input)
        return {
          ...prepared,
          collect: (result) => {
            const changed = new Set<number>()
            result.eachChangedId((id) => changed.add(id))
            return readingDuringDryRun(state, pages, changed, committer.epoch + 1)
          },
        }
      },
      options.signal,
      admission,
    )
  }

  // ---- reading --------------------------------------------------------------------------------------------

  /**
   * Elements of a page, a copy. Without `epoch`: as of the newest epoch, synchronously; an epoch in flight is
   * finished first. With `epoch`: a promise of the page as of that epoch (see readAt).
   */
  read(name: string, options?: ReadRange): TypedArray
  read(name: string, options: ReadRange & { epoch: number }): Promise<TypedArray>
  read(name: string, options: ReadRange & { epoch?: number } = {}): TypedArray | Promise<TypedArray> {
    const { epoch, ...range } = options
    if (epoch !== undefined) return this.readAt(name, epoch, range)
    this.#parts.committer.settle()
    return this.#parts.pages.values(name, range)
  }

  /**
   * Elements of a page as of a past epoch, a copy; derived pages too. Throws PAGE_NOT_FOUND when it did not
   * exist then, EPOCH_NOT_FOUND, EPOCH_COMPACTED.
   */
  async readAt(name: string, epoch: number, options: ReadRange = {}): Promise<TypedArray> {
    return (await this.data(name, { ...options, epoch })).values
  }

  /**
   * Elements of a page with its description; waits for an epoch in flight without blocking. With `epoch`: as
   * of then.
   */
  async data(name: string, options: ReadRange & { epoch?: number } & PastOptions = {}): Promise<PageData> {
    const { epoch, signal, caller, onServed, ...range } = options
    return this.#atEpoch(
      epoch,
      async () => (await this.#parts.pages.dataOfMany([{ name, ...range }], signal)).pages[0] as PageData,
      async (epoch) =>
        (
          await this.#parts.past.read(epoch, [{ name, ...range }], { signal, caller, onServed })
        )[0] as PageData,
    )
  }

  /** Several pages, all as of one epoch: the newest, or the one given. */
  async readMany(
    names: readonly string[],
    options: { epoch?: number } & PastOptions = {},
  ): Promise<{ epoch: number; pages: Record<string, PageData> }> {
    const { epoch, ...past } = options
    const reads = [...new Set(names)].map((name) => ({ name }))
    return this.#atEpoch(
      epoch,
      async () => {
        const { epoch, pages } = await this.#parts.pages.dataOfMany(reads, past.signal)
        return { epoch, pages: byName(pages) }
      },
      async (epoch) => ({ epoch, pages: byName(await this.#parts.past.read(epoch, reads, past)) }),
    )
  }

  /** A page's description as of an epoch. Throws as readAt does. */
  async peekAt(name: string, epoch: number, options: PastOptions = {}): Promise<PageShape> {
    return this.#atEpoch(
      epoch,
      async () => ({ ...this.peek(name), epoch: this.epoch }),
      (epoch) => this.#parts.past.peek(epoch, name, options),
    )
  }

  /**
   * Reads as of an epoch: with `live` between epochs when it is the newest one, or none is given; with `past`
   * otherwise. The newest epoch can become a past one while the read waits, and while it copies.
   */
  async #atEpoch<T extends object>(
    epoch: number | undefined,
    live: () => Promise<T & { readonly epoch: number }>,
    past: (epoch: number) => Promise<T>,
  ): Promise<T> {
    const { committer } = this.#parts
    for (;;) {
      if (epoch !== undefined) {
        this.#parts.past.check(epoch)
        if (epoch !== committer.epoch) return past(epoch)
      }
      await committer.idle()
      committer.lifecycle.refuseWhenFailed()
      if (epoch !== undefined && epoch !== committer.epoch) continue
      const read = await live()
      if (epoch === undefined || read.epoch === epoch) return read
    }
  }

  /**
   * Values of element ranges (offset, count, ...) of a page, packed. Only from an onCommit or `between`
   * callback: the bytes are those of this moment.
   */
  gather(pageId: number, ranges: Uint32Array): TypedArray {
    return this.#parts.pages.gather(pageId, ranges)
  }

  /** The description of a page as of the published epoch. Throws PAGE_NOT_FOUND. */
  page(name: string): PageInfo {
    const { committer, pages, state } = this.#parts
    committer.lifecycle.refuseWhenFailed()
    return pages.info(state.registry.require(name))
  }

  /**
   * A page's shape and version as of the newest epoch. Unlike page(), it waits for nothing and costs nothing.
   */
  peek(name: string): PageShape {
    return this.#parts.state.registry.require(name)
  }

  /** The page and every page that derives from it. Throws PAGE_NOT_FOUND. */
  withDependents(name: string): string[] {
    const { registry, graph } = this.#parts.state
    return graph.withDependents(registry.require(name).id).flatMap((id) => registry.byId(id)?.name ?? [])
  }

  /** Whether a page has this name now. */
  hasPage(name: string): boolean {
    return this.#parts.state.registry.byName(name) !== undefined
  }

  /** Names of all pages, sorted. */
  pageNames(): readonly string[] {
    return this.#parts.state.registry.names()
  }

  /**
   * Pages sorted by name: those that start with `prefix`, after `cursor`, at most `limit` (default 100); only
   * `visible` ones.
   */
  pages(
    options: { prefix?: string; limit?: number; cursor?: string } = {},
    visible?: PatternSet,
  ): { pages: PageInfo[]; next: string | null } {
    this.#parts.committer.lifecycle.refuseWhenFailed()
    const { pages, next } = this.#parts.pages.list(options, visible)
    return { pages, next: next ?? null }
  }

  /** Every page with its level, and every edge from an input to the page derived from it. */
  graph(): { nodes: GraphNode[]; edges: GraphEdge[] } {
    const { nodes, edges } = this.graphLists()
    return { nodes: [...nodes], edges: [...edges] }
  }

  /**
   * The same of `visible` pages, as lists that are made while they are read; they show the epoch
   * of this call.
   */
  graphLists(visible?: PatternSet): { nodes: Iterable<GraphNode>; edges: Iterable<GraphEdge> } {
    this.#parts.committer.lifecycle.refuseWhenFailed()
    return this.#parts.pages.graph(visible)
  }

  // ---- the past -------------------------------------------------------------------------------------------

  /**
   * The oldest epoch that can be read: 0, the empty state, while the log is complete; otherwise the oldest
   * checkpoint from which the log continues. In memory only, the newest epoch.
   */
  get minEpoch(): number {
    return this.#parts.past.minEpoch
  }

  /** What an epoch did. Throws EPOCH_NOT_FOUND, EPOCH_COMPACTED. */
  async epochInfo(epoch: number, options: PastOptions = {}): Promise<EpochInfo> {
    return this.#parts.past.epochInfo(epoch, options)
  }

  /**
   * What the epochs of a range did, ascending: those that changed `page` or have a transaction of `source`,
   * where these are given. An answer is bounded; `next` says where to continue.
   */
  async epochs(
    query: { from?: number; to?: number; page?: string; source?: string; limit?: number } = {},
    options: PastOptions = {},
  ): Promise<EpochList> {
    return this.#parts.past.epochs(query, options)
  }

  /**
   * The versions of a page, ascending: when it changed, and by which source. From its creation on unless
   * `from` says otherwise. Throws PAGE_NOT_FOUND when the range had no page of this name.
   */
  async history(
    name: string,
    query: { from?: number; to?: number; limit?: number } = {},
    options: PastOptions = {},
  ): Promise<PageHistory> {
    return this.#parts.past.history(name, query, options)
  }

  /** The element ranges whose bytes differ between two epochs, of all pages or of some. */
  async diff(
    query: { from: number; to?: number; pages?: readonly string[] },
    options: PastOptions = {},
  ): Promise<DiffResult> {
    return this.#parts.past.diff(query, options)
  }

  /**
   * What epochInfo, epochs, history or diff answers, as parts of JSON that another thread made: text, and
   * lists of values, which are several times smaller than their text. Throws what they throw.
   */
  async pastJson(question: PastQuestion, options: PastOptions = {}): Promise<JsonParts> {
    return this.#parts.past.json(question, options)
  }

  /**
   * The changes of the epochs after `after`, as subscribers received them: replayed on another thread, a
   * bounded piece at a time. Throws EPOCH_NOT_FOUND, EPOCH_COMPACTED.
   */
  async pastChanges(query: PastEpochsQuery, options: PastOptions = {}): Promise<PastEpochs> {
    return this.#parts.past.changes(query, options)
  }

  /**
   * Replays the epochs after `from` (default: the oldest that can be rebuilt) up to `to` (default: the
   * newest), and compares the digest of every epoch with the recorded one. Runs on its own thread; other
   * requests are not delayed.
   */
  async verify(query: { from?: number; to?: number } = {}, options: PastOptions = {}): Promise<VerifyResult> {
    return this.#parts.past.verify(query, options)
  }

  // ---- status ---------------------------------------------------------------------------------------------

  /** Epoch, digest, backend and the like. */
  status(): BusStatus {
    const { committer, device, state, fsync, past } = this.#parts
    return {
      version: VERSION,
      history: this.historyId,
      epoch: committer.epoch,
      digest: hex(committer.digest),
      backend: device.backend,
      ...(device.backend === 'cuda' ? { device: state.context.deviceInfo() } : {}),
      ...(device.loss === undefined ? {} : { deviceLoss: device.loss }),
      pages: state.registry.size,
      fsync,
      readOnly: this.isReadOnly,
      uptimeMs: Math.round(performance.now() - this.#startedMs),
      minEpoch: past.minEpoch,
    }
  }

  /**
   * The execution log of the newest epoch: which derived pages were recomputed, in order, whether they
   * changed, whether they were recomputed completely, and how many elements were computed. Empty after
   * recovery.
   */
  executionLog(): ExecutionLog {
    const { committer, state } = this.#parts
    committer.settle()
    return executionLogOf(committer.epoch, state.registry, committer.lastResult)
  }

  /** Counts, sizes and timings since start. */
  stats(): BusStats {
    const { committer, state, pages, durable } = this.#parts
    committer.lifecycle.refuseWhenFailed()
    return statsOf({
      staged: committer.staged,
      registry: state.registry,
      graph: state.graph,
      memory: state.context.memory(),
      deltas: committer.deltaCounts,
      timings: committer.timings.summary(),
      queue: committer.queued,
      epoch: committer.epoch,
      log: durable?.store.stats() ?? null,
      locationOf: (page) => pages.locationOf(page),
    })
  }

  /** How long the stages of a commit took since start, counted in buckets (STAGE_BOUNDS_SECONDS). */
  stageHistograms(): Readonly<Record<Stage, StageHistogram>> {
    return this.#parts.committer.timings.histograms()
  }

  // ---- watching -------------------------------------------------------------------------------------------

  /**
   * Calls back for every epoch from now on, synchronously, while the state is exactly that of the epoch. A
   * listener must not write; what it throws becomes a notice. Returns a function that ends this.
   *
   * `ahead` may be called earlier with the same event, when the epoch is executed but the disk still writes;
   * this gives time to prepare. It may gather values, but must show nothing: the epoch may never become
   * durable.
   */
  onCommit(listener: (event: CommitEvent) => void, ahead?: (event: CommitEvent) => void): () => void {
    const { callbacks, committer } = this.#parts
    return committer.onCommit(
      callbacks.guard('a listener of onCommit', listener, undefined),
      ahead && callbacks.guard('a listener of onCommit', ahead, undefined),
    )
  }

  /** Calls back once when the bus fails. Returns a function that ends this. */
  onFailure(listener: (reason: string) => void): () => void {
    const { callbacks, committer } = this.#parts
    return committer.lifecycle.onFailure(callbacks.guard('a listener of onFailure', listener, undefined))
  }

  /**
   * Calls `run` while the state is exactly that of an epoch and no other epoch can start: at once when none
   * is in flight, otherwise when that one is published, abandoned or has failed. `run` must not throw and
   * must not write.
   */
  between(run: () => void): void {
    this.#parts.committer.between(run)
  }

  /** @internal Named durable readers; undefined when the bus is in memory only. */
  get cursors(): Cursors | undefined {
    return this.#parts.durable?.cursors
  }

  // ---- keeping --------------------------------------------------------------------------------------------

  /**
   * Writes a checkpoint of the newest epoch while commits continue. If that epoch has a checkpoint already,
   * it is not written again. `onProgress` hears again and again how many percent of the bytes are read.
   * Throws INVALID_REQUEST without a data folder.
   */
  async checkpoint(options: { onProgress?: (percent: number) => void } = {}): Promise<CheckpointInfo> {
    this.#parts.committer.lifecycle.refuseWrites()
    const { callbacks, durable } = this.#parts
    if (durable?.scheduler === undefined) throw noFolder()
    const { onProgress } = options
    return durable.scheduler.checkpoint(
      onProgress && callbacks.guard('onProgress of checkpoint', onProgress, undefined),
    )
  }

  /**
   * Keeps history for a reader: nothing at or after the epoch that `lowestNeeded` returns is deleted;
   * undefined means that nothing is needed. It is called before every deletion. Returns a function that ends
   * this.
   */
  holdHistory(lowestNeeded: () => number | undefined): () => void {
    const { callbacks, needs } = this.#parts
    const guarded = callbacks.guard('lowestNeeded of holdHistory', lowestNeeded, KEEP_ALL)
    needs.add(guarded)
    return () => needs.delete(guarded)
  }

  /** The checkpoints in the data folder, oldest first. */
  checkpoints(): CheckpointInfo[] {
    return this.#parts.durable?.store.checkpoints() ?? []
  }

  /**
   * Cancels the commit that is computed just now, if it takes long enough that it can be taken back: its
   * writers get COST_EXCEEDED, its epoch is void and changes nothing. Returns whether there was one.
   */
  cancelCommit(): boolean {
    return this.#parts.committer.cancelCommit()
  }

  /**
   * Finishes what is queued, closes the log and frees the memory. Idempotent. After `graceMs` milliseconds
   * (default: never), what is still queued is refused and what is still computed is cancelled, with
   * BUS_FAILED; an epoch that is in the log already is then void.
   */
  async close(options: { readonly graceMs?: number } = {}): Promise<void> {
    dropped.unregister(this)
    this.#closed ??= closeParts(this.#parts)
    const { committer } = this.#parts
    const { graceMs } = options
    const timer = graceMs === undefined ? undefined : setTimeout(() => committer.hurry(), graceMs)
    try {
      await this.#closed
    } finally {
      clearTimeout(timer)
    }
  }
}

/**
 * Closes buses that the program dropped without closing, so that threads, memory and the folder are freed.
 */
const dropped = new FinalizationRegistry<BusParts>((parts) => {
  const message = 'a bus was dropped without close(); it is closed now'
  parts.callbacks.notify({ level: 'warn', message })
  closeParts(parts).catch((error: unknown) => {
    parts.callbacks.notify({ level: 'error', message: `closing a dropped bus: ${(error as Error).message}` })
  })
})

async function closeParts({ committer, past, durable, state }: BusParts): Promise<void> {
  committer.lifecycle.beginClose()
  try {
    await past.close()
    await durable?.scheduler?.idle()
    await durable?.cursors.close()
    await committer.close(() => durable?.scheduler?.close() ?? Promise.resolve())
    // One that is written was closed by the committer.
    await durable?.store.close()
  } finally {
    state.context.close()
  }
}

const byName = (pages: readonly PageData[]): Record<string, PageData> =>
  Object.fromEntries(pages.map((page) => [page.name, page]))

/** What a reader of history needs that does not say: everything. */
const KEEP_ALL = 0

function patchResult(name: string, { epoch, pages }: CommitResult): PatchResult {
  return { epoch, version: Object.hasOwn(pages, name) ? (pages[name] as number) : epoch, page: name }
}

function checkWhole(page: PageRecord, values: DeltaValues): void {
  if (values.length !== page.elements) {
    throw new MmsbError(
      'INVALID_DELTA',
      `Page "${page.name}" has ${page.elements} elements, not ${values.length}.`,
    )
  }
}
