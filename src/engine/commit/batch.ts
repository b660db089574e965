/**
 * The transactions of one epoch, staged one after another against the published state plus the transactions
 * before them.
 *
 * Invariants: a refused transaction leaves no trace. Pages that the batch creates are known natively and to
 * the graph from staging on, but not in the registry until the epoch is published. Abandoning a batch undoes
 * exactly what staging did.
 *
 * A precondition that depends on what this batch will compute ends the batch ('later'), and so does a
 * structural change after a change of a function, or the reverse. Staging repeats those checks of
 * commands/transactions.ts whose answer can change while a transaction is queued: do its pages exist, do they
 * have the expected versions, are its names free, and are the functions it was compiled against still the
 * same.
 */
import { MmsbError } from '../../errors.js'
import { fullStep } from '../../ffi/context.js'
import type { Plan } from '../../graph/graph.js'
import { BATCH_MAX_BYTES, BATCH_MAX_TRANSACTIONS, STAGED_AT_ONCE_MAX } from '../../limits.js'
import { atOnce, type Sliced } from '../../slices.js'
import { callsOf, pagesUsing, refuseWhileUsed, StaleFunctions } from '../commands/functions.js'
import { type Pending, type Redefinition, structureOf } from '../commands/pending.js'
import type { CostLimits } from '../pages/cost-limits.js'
import type { EngineState } from '../pages/engine-state.js'
import { type FunctionTable, functionBytes } from '../pages/function-table.js'
import { addToGraph, bytesToCreate, createStep, destroy, installing, unreadPasts } from '../pages/install.js'
import type { Growth, Quotas } from '../pages/quotas.js'
import { type DerivedRecord, definitionBytes, ownBytes, type PageRecord } from '../pages/registry.js'

/** Pages between two places where staging may be interrupted. */
const PAGES_PER_CHECK = 256
/** Most transactions delete and redefine nothing; these make nothing for them. */
const NO_PAGES: readonly PageRecord[] = []
const NO_REDEFINITIONS: readonly Redefinition[] = []

export class Batch {
  readonly epoch: number
  readonly pendings: Pending[] = []
  readonly created: PageRecord[] = []
  readonly deleted: PageRecord[] = []
  /** Edges and depth of the graph before this batch changed it; undefined while it has not. */
  graphBefore: { readonly edges: number; readonly depth: number } | undefined
  /** Bytes of the pages and pasts that this batch created. */
  createdBytes = 0
  frameBytes = 0
  frameCount = 0
  readonly #state: EngineState
  readonly #dirty = new Set<number>()
  /** For every name of a page created or deleted here: whether the name is taken now. */
  readonly #names = new Map<string, boolean>()
  readonly #createdById = new Map<number, PageRecord>()
  readonly #deletedIds = new Set<number>()
  /** Ids of the pasts made for pages created here. */
  readonly #pasts: number[] = []
  #functions: FunctionTable | undefined
  readonly #redefined: Redefined[] = []
  readonly #costs: CostLimits | undefined
  /** The estimates of the transactions so far; an epoch in which they share pages costs less. */
  #costNs = 0
  readonly #quotas: Quotas | undefined
  #structureCount = 0
  #prepared: { readonly plan: Plan; readonly touched: Uint32Array } | undefined
  /** What the new pages, definitions and functions hold beside elements. */
  #ownBytes = 0
  /** The same of the transaction that is being staged. */
  #addedOwnBytes = 0

  /**
   * Without `costs` and `quotas` every transaction is taken, whatever it costs and makes: the log was
   * accepted once.
   */
  constructor(epoch: number, state: EngineState, costs?: CostLimits, quotas?: Quotas) {
    this.epoch = epoch
    this.#state = state
    this.#costs = costs
    this.#quotas = quotas
  }

  /**
   * Whether this many more frames, of this many bytes together, that create, delete and redefine so many
   * pages, fit into the epoch.
   */
  hasRoom(frames: number, bytes: number, structure = 0): boolean {
    return (
      this.frameCount + frames <= BATCH_MAX_TRANSACTIONS &&
      this.frameBytes + bytes <= BATCH_MAX_BYTES &&
      this.#structureCount + structure <= STAGED_AT_ONCE_MAX
    )
  }

  get isStructural(): boolean {
    return this.created.length > 0 || this.deleted.length > 0
  }

  /** Whether the epoch cannot be undone from the pages it created and deleted alone. */
  get isOneWay(): boolean {
    const readsPast = (page: PageRecord): boolean =>
      page.derived?.inputs.some(({ prev }) => prev !== undefined) ?? false
    const isRedefined = this.#functions !== undefined || this.#redefined.length > 0
    return isRedefined || [...this.created, ...this.deleted].some(readsPast)
  }

  /**
   * Adds a transaction. Returns 'later' when it must wait for the next epoch; throws the error that refuses
   * it.
   */
  stage(pending: Pending): 'staged' | 'later' {
    const doomed = this.#check(pending)
    if (doomed === undefined) return 'later'
    if (pending.redefines !== undefined) atOnce(this.#redefining(pending.redefines))
    if (pending.creates.length > 0) atOnce(this.#creating(pending.creates))
    this.#add(pending, doomed)
    return 'staged'
  }

  /** The same in slices. Nothing else may be staged, and the batch not be used, until it is done. */
  *staging(pending: Pending): Sliced<'staged' | 'later'> {
    const doomed = this.#check(pending)
    if (doomed === undefined) return 'later'
    if (pending.redefines !== undefined) yield* this.#redefining(pending.redefines)
    if (pending.creates.length > 0) yield* this.#creating(pending.creates)
    this.#add(pending, doomed)
    return 'staged'
  }

  /**
   * The pages that the transaction deletes; undefined when it must wait. Throws the error that refuses it.
   */
  #check(pending: Pending): readonly PageRecord[] | undefined {
    const isFirst = this.pendings.length === 0
    for (const { pageId, version } of pending.preconditions) {
      const page = this.#live(pageId)
      if (!isFirst && (page.kind === 'derived' || this.#dirty.has(pageId) || this.#createdById.has(pageId))) {
        return undefined
      }
      if (page.version !== version) throw preconditionFailed(page, version)
    }
    for (const id of pending.writes) this.#live(id)
    if (this.#mustWait(pending)) return undefined
    this.#checkFunctions(pending)
    const doomed = this.#checkDeletes(pending)
    if (this.#costs !== undefined && !this.#fitsCost(this.#costs, pending)) return undefined
    const isDefining = pending.change !== undefined || pending.creates.length > 0
    this.#addedOwnBytes =
      isDefining && this.#quotas !== undefined ? this.#checkQuotas(this.#quotas, pending) : 0
    return doomed
  }

  #add(pending: Pending, doomed: readonly PageRecord[]): void {
    const { change } = pending
    this.#ownBytes += this.#addedOwnBytes
    if (change !== undefined) this.#functions = this.#state.registry.functions.after(change, this.epoch)
    for (const page of doomed) this.#delete(page)
    for (const id of pending.writes) this.#dirty.add(id)
    this.pendings.push(pending)
    this.frameBytes += pending.frame.byteLength
    this.frameCount += pending.count ?? 1
    this.#structureCount += structureOf(pending)
  }

  /** Makes the plan and the list of touched pages, in slices. Nothing may be staged afterwards. */
  *preparing(): Sliced<void> {
    yield
    const plan = this.plan()
    yield
    this.#prepared = { plan, touched: this.touchedPages() }
  }

  /** The steps of this epoch. */
  plan(): Plan {
    if (this.#prepared !== undefined) return this.#prepared.plan
    const dirty = [...this.#dirty].filter((id) => !this.#deletedIds.has(id)).sort((a, b) => a - b)
    if (!this.isStructural && this.#redefined.length === 0) return this.#state.graph.plan(dirty)
    const unborn = new Set(
      this.created.filter((page) => !this.#deletedIds.has(page.id)).map((page) => page.id),
    )
    const fresh = new Set([...unborn, ...this.#redefined.map(({ page }) => page.id)])
    return this.#state.graph.planWith(dirty, fresh, fullStep, unborn)
  }

  /** Ids of all pages that this batch writes, creates, deletes or redefines, ascending. */
  touchedPages(): Uint32Array {
    if (this.#prepared !== undefined) return this.#prepared.touched
    const ids = new Set(this.#dirty)
    for (const page of this.created) ids.add(page.id)
    for (const page of this.deleted) ids.add(page.id)
    for (const { page } of this.#redefined) ids.add(page.id)
    return Uint32Array.from(ids).sort()
  }

  /**
   * All frames, one after another. A single frame is returned as it is; several, or a borrowed one, are
   * copied.
   */
  frames(bufferOf: (sizeBytes: number) => Uint8Array): Uint8Array {
    const [first] = this.pendings
    if (first !== undefined && this.pendings.length === 1 && first.isBorrowed !== true) return first.frame
    const all = bufferOf(this.frameBytes)
    let at = 0
    for (const { frame } of this.pendings) {
      all.set(frame, at)
      at += frame.byteLength
    }
    return all
  }

  /** Undoes the staging. Only while nothing was executed, or after the execution was taken back. */
  abandon(): void {
    const { graph, context } = this.#state
    for (const { page, step } of this.#redefined) {
      graph.setStep(page.id, page.step as number, derivedOf(page).costNs)
      context.destroyStep(step)
    }
    for (const page of this.deleted.toReversed()) {
      if (!this.#createdById.has(page.id)) addToGraph(graph, page)
    }
    const created = this.created.toReversed()
    for (const page of created) if (!this.#deletedIds.has(page.id)) graph.remove(page.id)
    destroy(this.#state, created, this.#pasts)
  }

  /** Makes the structural changes of the batch visible. */
  publish(): void {
    const { registry, context, graph } = this.#state
    if (this.#functions !== undefined) registry.functions = this.#functions
    for (const { page, derived, step } of this.#redefined) {
      context.destroyStep(page.step as number)
      registry.redefine(page, derived, step)
    }
    for (const page of this.created) registry.add(page)
    for (const page of this.deleted) registry.remove(page)
    destroy(this.#state, this.deleted, unreadPasts(graph, this.deleted))
  }

  /** Ids of the pages whose memory publishing frees: those deleted, and pasts that are no longer read. */
  get destroyedIds(): number[] {
    if (this.deleted.length === 0) return []
    return [...this.deleted.map((page) => page.id), ...unreadPasts(this.#state.graph, this.deleted)]
  }

  /** A page that is deleted here. */
  deletedPage(id: number): PageRecord | undefined {
    return this.#deletedIds.has(id) ? this.deleted.find((page) => page.id === id) : undefined
  }

  isDeleted(id: number): boolean {
    return this.#deletedIds.has(id)
  }

  createdPage(id: number): PageRecord | undefined {
    return this.#createdById.get(id)
  }

  #live(id: number): PageRecord {
    const page = this.#createdById.get(id) ?? this.#state.registry.byId(id)
    if (page === undefined || this.#deletedIds.has(id)) {
      throw new MmsbError('PAGE_NOT_FOUND', `There is no page with id ${id} any more.`)
    }
    return page
  }

  #nameTaken(name: string): boolean {
    return this.#names.get(name) ?? this.#state.registry.byName(name) !== undefined
  }

  #mustWait({ change, redefines, creates, deletes }: Pending): boolean {
    const isMigration = change === undefined && redefines !== undefined && redefines.length > 0
    if (isMigration && this.pendings.length > 0) return true
    const isRedefining = this.#functions !== undefined || this.#redefined.length > 0
    if (change !== undefined && (this.isStructural || isRedefining)) return true
    return isRedefining && (creates.length > 0 || deletes.length > 0)
  }

  /**
   * Throws StaleFunctions when the transaction was compiled against functions that changed in a way that
   * matters.
   */
  #checkFunctions({ change, redefines = NO_REDEFINITIONS, creates, functionsAge }: Pending): void {
    const { registry } = this.#state
    const { functions } = registry
    if (functionsAge === undefined) return
    if (change === undefined) {
      const isStale = creates.some((page) => !functions.stillHolds(callsOf(page), functionsAge))
      if (isStale || (redefines.length > 0 && functions.worldAge !== functionsAge)) throw new StaleFunctions()
      return
    }
    if (functions.worldAge !== functionsAge) throw new StaleFunctions()
    if (change.body === undefined) {
      refuseWhileUsed(registry, change.name)
      return
    }
    const users = pagesUsing(registry, functions.after(change, this.epoch), change.name)
    const isComplete =
      users.length === redefines.length && users.every((page, i) => page.id === redefines[i]?.id)
    if (!isComplete) throw new StaleFunctions()
  }

  /** Whether the epoch has room for what this transaction costs. Throws when no epoch has. */
  #fitsCost(costs: CostLimits, { creates, redefines = NO_REDEFINITIONS, writes }: Pending): boolean {
    const { graph } = this.#state
    let freshNs = 0
    for (const { derived } of creates) freshNs += derived?.costNs ?? 0
    for (const { derived } of redefines) freshNs += derived.costNs
    if (costs.allow(graph, freshNs)) return true
    const fresh = new Map<number, number>()
    for (const { id, derived } of creates) if (derived !== undefined) fresh.set(id, derived.costNs)
    for (const { id, derived } of redefines) fresh.set(id, derived.costNs)
    // Plans are kept from one epoch to the next, and the epoch needs this one unless others join it.
    const cost = fresh.size === 0 ? graph.plan(writes.toSorted((a, b) => a - b)) : graph.costOf(writes, fresh)
    const refusal = costs.refusal(cost, creates)
    if (refusal !== undefined) throw refusal
    if (this.pendings.length > 0 && this.#costNs + cost.costNs > costs.commitNs) return false
    this.#costNs += cost.costNs
    return true
  }

  /** What the transaction adds beside elements. Throws QUOTA_EXCEEDED. */
  #checkQuotas(quotas: Quotas, { change, creates, deletes, redefines = NO_REDEFINITIONS }: Pending): number {
    const { registry, graph } = this.#state
    const own = new Map(creates.map((page) => [page.id, page]))
    const pageOf = (id: number): PageRecord => own.get(id) ?? this.#live(id)
    let added = 0
    for (const page of creates) added += ownBytes(page)
    const elementBytes = bytesToCreate(graph, creates, pageOf)
    for (const { id, derived } of redefines) {
      added += definitionBytes(derived) - definitionBytes(derivedOf(this.#live(id)))
    }
    if (change !== undefined) {
      const old = registry.functions.get(change.name)
      added +=
        (change.body === undefined ? 0 : functionBytes(change.body)) -
        (old === undefined ? 0 : functionBytes(old))
    }
    const staged: Growth = {
      pages: this.created.length - this.deleted.length,
      ownBytes: this.#ownBytes,
      elementBytes: 0,
    }
    quotas.check(staged, { pages: creates.length - deletes.length, ownBytes: added, elementBytes })
    return added
  }

  *#redefining(redefines: readonly Redefinition[]): Sliced<void> {
    const { graph, context } = this.#state
    const done: Redefined[] = []
    try {
      for (const { id, derived } of redefines) {
        const page = this.#live(id)
        done.push({ page, derived, step: createStep(context, page.id, derived) })
        if (done.length % PAGES_PER_CHECK === 0) yield
      }
    } catch (error) {
      for (const { step } of done) context.destroyStep(step)
      throw error
    }
    for (const { page, step, derived } of done) graph.setStep(page.id, step, derived.costNs)
    const refusal = this.#costs?.sourceRefusal(
      graph,
      done.map(({ page }) => page.id),
    )
    if (refusal !== undefined) {
      for (const { page, step } of done) {
        graph.setStep(page.id, page.step as number, derivedOf(page).costNs)
        context.destroyStep(step)
      }
      throw refusal
    }
    this.#redefined.push(...done)
  }

  *#creating(pages: readonly PageRecord[]): Sliced<void> {
    const siblings = new Set<number>()
    const names = new Set<string>()
    const own = new Map(pages.map((page) => [page.id, page]))
    const pageOf = (id: number): PageRecord => own.get(id) ?? this.#live(id)
    for (const page of pages) {
      if (this.#nameTaken(page.name) || names.has(page.name)) {
        throw new MmsbError('PAGE_EXISTS', `A page "${page.name}" exists already.`)
      }
      for (const { id, prev } of page.derived?.inputs ?? []) {
        if (prev !== undefined) pageOf(prev)
        else if (!siblings.has(id)) this.#live(id)
      }
      names.add(page.name)
      siblings.add(page.id)
      if (siblings.size % PAGES_PER_CHECK === 0) yield
    }
    this.#noteGraph()
    const { graph } = this.#state
    const bytes = bytesToCreate(graph, pages, pageOf)
    // From the first piece on: statistics leave out what is not published.
    this.createdBytes += bytes
    let pasts: number[]
    try {
      pasts = yield* installing(this.#state, pages, pageOf)
    } catch (error) {
      this.createdBytes -= bytes
      throw error
    }
    const refusal = this.#costs?.sourceRefusal(
      graph,
      pages.map((page) => page.id),
    )
    if (refusal !== undefined) {
      for (const page of pages.toReversed()) graph.remove(page.id)
      destroy(this.#state, pages, pasts)
      this.createdBytes -= bytes
      throw refusal
    }
    this.#pasts.push(...pasts)
    for (const page of pages) {
      page.version = this.epoch
      page.createdEpoch = this.epoch
      this.created.push(page)
      this.#createdById.set(page.id, page)
      this.#names.set(page.name, true)
    }
  }

  /** The pages that a transaction deletes; throws when it cannot. Changes nothing. */
  #checkDeletes({ deletes, writes }: Pending): readonly PageRecord[] {
    if (deletes.length === 0) return NO_PAGES
    const doomed = new Set(deletes)
    const pages = deletes.map((id) => this.#live(id))
    for (const page of pages) {
      const others = this.#state.graph.readersOf(page.id).filter((id) => !doomed.has(id))
      if (others.length > 0) {
        throw pageInUse(
          page,
          others.map((id) => this.#live(id).name),
        )
      }
    }
    if (writes.some((id) => doomed.has(id))) {
      throw new MmsbError('INVALID_REQUEST', 'A transaction cannot write and delete the same page.')
    }
    return pages
  }

  #noteGraph(): void {
    const { graph } = this.#state
    this.graphBefore ??= { edges: graph.edgeCount, depth: graph.depth() }
  }

  #delete(page: PageRecord): void {
    this.#noteGraph()
    this.#state.graph.remove(page.id)
    this.deleted.push(page)
    this.#deletedIds.add(page.id)
    this.#names.set(page.name, false)
  }
}

function pageInUse(page: PageRecord, dependents: readonly string[]): MmsbError {
  const shown = dependents.slice(0, 5).map((name) => `"${name}"`)
  const more = dependents.length > 5 ? ` and ${dependents.length - 5} more` : ''
  return new MmsbError('PAGE_IN_USE', `Page "${page.name}" is an input of ${shown.join(', ')}${more}.`, {
    dependents,
  })
}

function preconditionFailed(page: PageRecord, expected: number): MmsbError {
  return new MmsbError(
    'PRECONDITION_FAILED',
    `Page "${page.name}" has version ${page.version}, not ${expected} as expected.`,
    { page: page.name, expected, actual: page.version },
  )
}

/** Only pages with a definition are redefined. */
const derivedOf = (page: PageRecord): DerivedRecord => page.derived as DerivedRecord

/** A page with the definition and the step that it gets at publish. */
interface Redefined {
  readonly page: PageRecord
  readonly derived: DerivedRecord
  readonly step: number
}

/**
 * Buffers for the frames of an epoch, kept from one epoch to the next, because fresh memory costs a page
 * fault every 4 KiB. Two take turns: when a synchronous read publishes an epoch early, its append may still
 * be running while the next epoch is gathered.
 */
export function frameBuffers(): (sizeBytes: number) => Uint8Array {
  let [current, other] = [new Uint8Array(0), new Uint8Array(0)]
  return (sizeBytes) => {
    ;[current, other] = [other, current]
    if (current.byteLength < sizeBytes) current = new Uint8Array(2 ** Math.ceil(Math.log2(sizeBytes)))
    return current.subarray(0, sizeBytes)
  }
}
