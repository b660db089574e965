/**
 * The transactions of one epoch, staged one after another against the published state plus those before them.
 *
 * Invariants: a refused transaction leaves no trace; pages of the batch are known natively and to the graph from staging
 * on, but not in the registry until the epoch is published; abandoning a batch undoes exactly what staging did. A
 * precondition whose answer depends on what this batch will compute ends the batch (`later`), and so does a structural
 * change after a change of a function, or the other way round.
 */
import { MmsbError } from '../../errors.js'
import type { NativeContext } from '../../ffi/context.js'
import { beforeStep, fullStep, stepNumber } from '../../ffi/context.js'
import type { Graph, Plan } from '../../graph/graph.js'
import { OPS } from '../../kernels/op-catalogue.js'
import type { Op } from '../../kernels/ops/op.js'
import { BATCH_MAX_BYTES, BATCH_MAX_TRANSACTIONS } from '../../limits.js'
import { DTYPE_INFO } from '../../wire/dtype.js'
import { LOCATIONS } from '../../wire/page.js'
import {
  callsOf,
  type FunctionTable,
  pagesUsing,
  refuseWhileUsed,
  StaleFunctions,
} from '../commands/functions.js'
import type { Pending } from '../commands/pending.js'
import type { DerivedRecord, PageRecord, Registry } from '../pages/registry.js'

export interface StageRooms {
  readonly registry: Registry
  readonly graph: Graph
  readonly context: NativeContext
}

export class Batch {
  readonly epoch: number
  readonly pendings: Pending[] = []
  readonly created: PageRecord[] = []
  readonly deleted: PageRecord[] = []
  frameBytes = 0
  frameCount = 0
  readonly #rooms: StageRooms
  readonly #dirty = new Set<number>()
  /** Names whose meaning this batch changes: a new page, or null for a deleted one. */
  readonly #names = new Map<string, PageRecord | null>()
  readonly #createdById = new Map<number, PageRecord>()
  readonly #deletedIds = new Set<number>()
  /** Pasts made for the readers created here. */
  readonly #pasts: number[] = []
  #functions: FunctionTable | undefined
  readonly #redefined: Redefined[] = []

  constructor(epoch: number, rooms: StageRooms) {
    this.epoch = epoch
    this.#rooms = rooms
  }

  /** Whether so many frames more, of so many bytes together, may share the epoch. */
  hasRoom(frames: number, bytes: number): boolean {
    return this.frameCount + frames <= BATCH_MAX_TRANSACTIONS && this.frameBytes + bytes <= BATCH_MAX_BYTES
  }

  get isStructural(): boolean {
    return this.created.length > 0 || this.deleted.length > 0
  }

  /** Whether taking the epoch back needs more than the pages it created and deleted. */
  get isOneWay(): boolean {
    const readsPast = (page: PageRecord): boolean =>
      page.derived?.inputs.some(({ prev }) => prev !== undefined) ?? false
    return this.#functions !== undefined || [...this.created, ...this.deleted].some(readsPast)
  }

  /**
   * Takes a transaction in. Returns 'later' when it must wait for the next epoch; throws the error it is refused with.
   */
  stage(pending: Pending): 'staged' | 'later' {
    const isFirst = this.pendings.length === 0
    for (const { pageId, version } of pending.preconditions) {
      const page = this.#live(pageId)
      if (!isFirst && (page.kind === 'derived' || this.#dirty.has(pageId) || this.#createdById.has(pageId))) {
        return 'later'
      }
      if (page.version !== version) throw preconditionFailed(page, version)
    }
    for (const id of pending.writes) {
      const page = this.#live(id)
      if (page.kind === 'derived') {
        throw new MmsbError('PAGE_READ_ONLY', `Page "${page.name}" is derived; it cannot be written.`)
      }
    }
    if (this.#mustWait(pending)) return 'later'
    this.#checkFunctions(pending)
    const doomed = this.#checkDeletes(pending)
    if (pending.change !== undefined) this.#change(pending)
    if (pending.creates.length > 0) this.#create(pending.creates)
    for (const page of doomed) this.#delete(page)
    for (const id of pending.writes) this.#dirty.add(id)
    this.pendings.push(pending)
    this.frameBytes += pending.frame.byteLength
    this.frameCount += pending.count ?? 1
    return 'staged'
  }

  /** The steps of this epoch. */
  plan(): Plan {
    const dirty = [...this.#dirty].filter((id) => !this.#deletedIds.has(id)).sort((a, b) => a - b)
    if (!this.isStructural && this.#redefined.length === 0) return this.#rooms.graph.plan(dirty)
    const unborn = new Set(
      this.created.filter((page) => !this.#deletedIds.has(page.id)).map((page) => page.id),
    )
    const fresh = new Set([...unborn, ...this.#redefined.map(({ page }) => page.id)])
    return this.#rooms.graph.planWith(dirty, fresh, fullStep, unborn)
  }

  /** Every page that deltas or structural commands of this batch name, ascending. */
  touchedPages(): Uint32Array {
    const ids = new Set(this.#dirty)
    for (const page of this.created) ids.add(page.id)
    for (const page of this.deleted) ids.add(page.id)
    for (const { page } of this.#redefined) ids.add(page.id)
    return Uint32Array.from(ids).sort()
  }

  /** The frames one after another: a single one as it is, several or borrowed ones in what `room` gives. */
  frames(room: (sizeBytes: number) => Uint8Array): Uint8Array {
    const [first] = this.pendings
    if (first !== undefined && this.pendings.length === 1 && first.isBorrowed !== true) return first.frame
    const all = room(this.frameBytes)
    let at = 0
    for (const { frame } of this.pendings) {
      all.set(frame, at)
      at += frame.byteLength
    }
    return all
  }

  /** Undoes the staging: nothing was logged or applied. */
  abandon(): void {
    const { graph, context } = this.#rooms
    for (const { page, step } of this.#redefined) {
      graph.setStep(page.id, page.step as number, page.derived?.costNs ?? 0)
      context.destroyStep(step)
    }
    for (const page of this.deleted.toReversed()) {
      if (!this.#createdById.has(page.id)) addToGraph(graph, page)
    }
    const created = this.created.toReversed()
    for (const page of created) if (!this.#deletedIds.has(page.id)) graph.remove(page.id)
    destroy(this.#rooms, created, this.#pasts)
  }

  /** Makes the structural changes of the batch visible. Called at publish. */
  publish(): void {
    const { registry, context, graph } = this.#rooms
    if (this.#functions !== undefined) registry.functions = this.#functions
    for (const { page, derived, step } of this.#redefined) {
      context.destroyStep(page.step as number)
      page.step = step
      page.derived = derived
    }
    for (const page of this.created) {
      if (!this.#deletedIds.has(page.id)) registry.add(page)
    }
    for (const page of this.deleted) {
      if (registry.byId(page.id) !== undefined) registry.remove(page)
    }
    destroy(this.#rooms, this.deleted, unreadPasts(graph, this.deleted))
  }

  /** Ids of the pages whose memory publishing gives back: those deleted, and pasts that nobody reads then. */
  get destroyedIds(): number[] {
    if (this.deleted.length === 0) return []
    return [...this.deleted.map((page) => page.id), ...unreadPasts(this.#rooms.graph, this.deleted)]
  }

  isDeleted(id: number): boolean {
    return this.#deletedIds.has(id)
  }

  createdPage(id: number): PageRecord | undefined {
    return this.#createdById.get(id)
  }

  #live(id: number): PageRecord {
    const page = this.#createdById.get(id) ?? this.#rooms.registry.byId(id)
    if (page === undefined || this.#deletedIds.has(id)) {
      throw new MmsbError('PAGE_NOT_FOUND', `There is no page with id ${id} any more.`)
    }
    return page
  }

  #nameTaken(name: string): boolean {
    const own = this.#names.get(name)
    return own === undefined ? this.#rooms.registry.byName(name) !== undefined : own !== null
  }

  #mustWait({ change, creates, deletes }: Pending): boolean {
    if (change !== undefined && (this.isStructural || this.#functions !== undefined)) return true
    return this.#functions !== undefined && (creates.length > 0 || deletes.length > 0)
  }

  /** What a transaction compiled must still be right. */
  #checkFunctions({ change, redefines = [], creates, functionsAge }: Pending): void {
    const { registry } = this.#rooms
    const { functions } = registry
    if (functionsAge === undefined) return
    if (change === undefined) {
      const isStale = creates.some((page) => !functions.stillHolds(callsOf(page), functionsAge))
      if (isStale) throw new StaleFunctions()
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

  #change({ change, redefines = [] }: Pending): void {
    if (change === undefined) return
    const { graph, context, registry } = this.#rooms
    const done: Redefined[] = []
    try {
      for (const { id, derived } of redefines) {
        const page = this.#live(id)
        done.push({ page, derived, step: createStep(context, page.id, derived) })
      }
    } catch (error) {
      for (const { step } of done) context.destroyStep(step)
      throw error
    }
    for (const { page, step, derived } of done) graph.setStep(page.id, step, derived.costNs)
    this.#redefined.push(...done)
    this.#functions = registry.functions.after(change, this.epoch)
  }

  #create(pages: readonly PageRecord[]): void {
    const siblings = new Set<number>()
    const names = new Set<string>()
    const own = new Map(pages.map((page) => [page.id, page]))
    const pageOf = (id: number): PageRecord => own.get(id) ?? this.#live(id)
    for (const page of pages) {
      if (this.#nameTaken(page.name) || names.has(page.name)) {
        throw new MmsbError('PAGE_EXISTS', `A page "${page.name}" exists.`)
      }
      for (const { id, prev } of page.derived?.inputs ?? []) {
        if (prev !== undefined) pageOf(prev)
        else if (!siblings.has(id)) this.#live(id)
      }
      names.add(page.name)
      siblings.add(page.id)
    }
    this.#pasts.push(...install(this.#rooms, pages, pageOf))
    for (const page of pages) {
      page.version = this.epoch
      page.createdEpoch = this.epoch
      this.created.push(page)
      this.#createdById.set(page.id, page)
      this.#names.set(page.name, page)
    }
  }

  /** The pages a transaction deletes, or the reason it cannot. Changes nothing. */
  #checkDeletes({ deletes, writes }: Pending): PageRecord[] {
    const doomed = new Set(deletes)
    const pages = deletes.map((id) => this.#live(id))
    for (const page of pages) {
      const others = this.#rooms.graph.readersOf(page.id).filter((id) => !doomed.has(id))
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

  #delete(page: PageRecord): void {
    this.#rooms.graph.remove(page.id)
    this.deleted.push(page)
    this.#deletedIds.add(page.id)
    this.#names.set(page.name, null)
  }
}

export function pageInUse(page: PageRecord, dependents: readonly string[]): MmsbError {
  const shown = dependents.slice(0, 5).map((name) => `"${name}"`)
  const more = dependents.length > 5 ? ` and ${dependents.length - 5} more` : ''
  return new MmsbError('PAGE_IN_USE', `Page "${page.name}" is an input of ${shown.join(', ')}${more}.`, {
    dependents,
  })
}

export function preconditionFailed(page: PageRecord, expected: number): MmsbError {
  return new MmsbError(
    'PRECONDITION_FAILED',
    `Page "${page.name}" has version ${page.version}, not ${expected} as expected.`,
    { page: page.name, expected, actual: page.version },
  )
}

/** A page with the definition and the step that it will have. */
interface Redefined {
  readonly page: PageRecord
  readonly derived: DerivedRecord
  readonly step: number
}

/** Gives pages their native memory, their steps and their place in the graph, without an epoch: for loading checkpoints. */
export function installPages(rooms: StageRooms, pages: readonly PageRecord[]): void {
  const own = new Map(pages.map((page) => [page.id, page]))
  install(rooms, pages, (id) => own.get(id) ?? (rooms.registry.byId(id) as PageRecord))
  for (const page of pages) rooms.registry.add(page)
}

/** The reverse: takes pages nothing else derives from out of everything, each before what it derives from. */
export function uninstallPages(rooms: StageRooms, pages: readonly PageRecord[]): void {
  for (const page of pages) {
    rooms.graph.remove(page.id)
    rooms.registry.remove(page)
  }
  destroy(rooms, pages, unreadPasts(rooms.graph, pages))
}

/** Ids of the pasts that pages read, each once. */
function pastsOf(pages: readonly PageRecord[]): Map<number, number> {
  const pasts = new Map<number, number>()
  for (const page of pages) {
    for (const { id, prev } of page.derived?.inputs ?? []) if (prev !== undefined) pasts.set(id, prev)
  }
  return pasts
}

/** Pasts that `pages` read and nobody does any more. */
function unreadPasts(graph: Graph, pages: readonly PageRecord[]): number[] {
  return [...pastsOf(pages).keys()].filter((id) => graph.node(id)?.dependents.size === 0)
}

/**
 * Gives pages, each after those it derives from, what they need natively and in the graph, and the pasts they read where
 * these are not there yet. Returns the pasts it made. All or nothing.
 */
function install(
  rooms: StageRooms,
  pages: readonly PageRecord[],
  pageOf: (id: number) => PageRecord,
): number[] {
  const { context, graph } = rooms
  const pasts = [...pastsOf(pages)].filter(([id]) => graph.node(id) === undefined)
  context.createPages([
    ...pages.map(nativeDescriptor),
    // Before a page existed its past is zeros, whatever it is filled with.
    ...pasts.map(([id, prev]) => ({ ...nativeDescriptor(pageOf(prev)), id, fill: 0n })),
  ])
  const made: number[] = []
  const done: PageRecord[] = []
  try {
    for (const [id, prev] of pasts) {
      const step = context.createStep({ ...COPY_STEP, outPage: id, inputPages: [prev] })
      graph.addPast(id, prev, beforeStep(step))
      made.push(id)
    }
    for (const page of pages) {
      if (page.derived !== undefined) page.step = createStep(context, page.id, page.derived)
      done.push(page)
      addToGraph(graph, page)
    }
  } catch (error) {
    for (const page of done.toReversed()) if (graph.node(page.id) !== undefined) graph.remove(page.id)
    destroy(rooms, pages, made)
    context.destroyPages(Uint32Array.from(pasts.map(([id]) => id).filter((id) => !made.includes(id))))
    throw error
  }
  return made
}

const COPY = OPS.get('copy') as Op
const COPY_STEP = {
  opCode: COPY.code,
  opVersion: COPY.version,
  params: new Uint8Array(0),
  keepsPast: true,
}

function nativeDescriptor(page: PageRecord): Parameters<NativeContext['createPages']>[0][number] {
  return {
    id: page.id,
    dtypeCode: DTYPE_INFO[page.dtype].code,
    shape: page.shape,
    location: LOCATIONS.indexOf(page.location),
    fill: page.fill,
  }
}

function createStep(context: NativeContext, outPage: number, derived: DerivedRecord): number {
  const { opCode, opVersion, inputs, params } = derived
  return context.createStep({
    opCode,
    opVersion,
    outPage,
    inputPages: inputs.map((input) => input.id),
    params,
  })
}

function addToGraph(graph: Graph, page: PageRecord): void {
  if (page.derived === undefined) {
    graph.addSource(page.id)
    return
  }
  const inputs = page.derived.inputs.map((input) => input.id)
  graph.addDerived(page.id, inputs, page.step as number, page.derived.costNs)
}

/** Frees the native side of pages, and pasts altogether; steps go before the pages they use. */
function destroy(
  { context, graph }: StageRooms,
  pages: readonly PageRecord[],
  pasts: readonly number[] = [],
): void {
  if (pages.length === 0) return
  for (const page of pages) {
    if (page.step !== undefined) context.destroyStep(page.step)
    page.step = undefined
  }
  for (const id of pasts) {
    context.destroyStep(stepNumber(graph.node(id)?.step as number))
    graph.remove(id)
  }
  context.destroyPages(Uint32Array.from([...pages.map((page) => page.id), ...pasts]))
}
