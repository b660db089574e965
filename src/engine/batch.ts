/**
 * The transactions of one epoch, staged one after another against the published state plus those before them.
 *
 * Invariants: a refused transaction leaves no trace; pages of the batch are known natively and to the graph from staging
 * on, but not in the registry until the epoch is published; abandoning a batch undoes exactly what staging did. A
 * precondition whose answer depends on what this batch will compute ends the batch (`later`).
 */
import { MmsbError } from '../errors.js'
import type { NativeContext } from '../ffi/context.js'
import { fullStep } from '../ffi/context.js'
import type { Graph, Plan } from '../graph/graph.js'
import { DTYPE_INFO } from '../state/dtype.js'
import { LOCATIONS } from '../state/types.js'
import type { Pending } from './pending.js'
import type { PageRecord, Registry } from './registry.js'

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
  readonly #rooms: StageRooms
  readonly #dirty = new Set<number>()
  /** Names whose meaning this batch changes: a new page, or null for a deleted one. */
  readonly #names = new Map<string, PageRecord | null>()
  readonly #createdById = new Map<number, PageRecord>()
  readonly #deletedIds = new Set<number>()

  constructor(epoch: number, rooms: StageRooms) {
    this.epoch = epoch
    this.#rooms = rooms
  }

  get isStructural(): boolean {
    return this.created.length > 0 || this.deleted.length > 0
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
    const doomed = this.#checkDeletes(pending)
    if (pending.creates.length > 0) this.#create(pending.creates)
    for (const page of doomed) this.#delete(page)
    for (const id of pending.writes) this.#dirty.add(id)
    this.pendings.push(pending)
    this.frameBytes += pending.frame.byteLength
    return 'staged'
  }

  /** The steps of this epoch. */
  plan(): Plan {
    const dirty = [...this.#dirty].filter((id) => !this.#deletedIds.has(id)).sort((a, b) => a - b)
    if (!this.isStructural) return this.#rooms.graph.plan(dirty)
    const fresh = new Set(
      this.created.filter((page) => !this.#deletedIds.has(page.id)).map((page) => page.id),
    )
    return this.#rooms.graph.planWith(dirty, fresh, fullStep)
  }

  /** Every page that deltas or structural commands of this batch name, ascending. */
  touchedPages(): Uint32Array {
    const ids = new Set(this.#dirty)
    for (const page of this.created) ids.add(page.id)
    for (const page of this.deleted) ids.add(page.id)
    return Uint32Array.from(ids).sort()
  }

  /** The frames one after another. */
  frames(): Uint8Array {
    if (this.pendings.length === 1) return (this.pendings[0] as Pending).frame
    const all = new Uint8Array(this.frameBytes)
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
    for (const page of this.deleted.toReversed()) {
      if (!this.#createdById.has(page.id)) addToGraph(graph, page)
    }
    for (const page of this.created.toReversed()) {
      if (!this.#deletedIds.has(page.id)) graph.remove(page.id)
      destroy(context, [page])
    }
  }

  /** Makes the structural changes of the batch visible. Called at publish. */
  publish(): void {
    const { registry, context } = this.#rooms
    for (const page of this.created) {
      if (!this.#deletedIds.has(page.id)) registry.add(page)
    }
    for (const page of this.deleted) {
      if (registry.byId(page.id) !== undefined) registry.remove(page)
    }
    destroy(context, this.deleted)
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

  #create(pages: readonly PageRecord[]): void {
    const siblings = new Set<number>()
    const names = new Set<string>()
    for (const page of pages) {
      if (this.#nameTaken(page.name) || names.has(page.name)) {
        throw new MmsbError('PAGE_EXISTS', `A page "${page.name}" exists.`)
      }
      for (const input of page.derived?.inputs ?? []) if (!siblings.has(input.id)) this.#live(input.id)
      names.add(page.name)
      siblings.add(page.id)
    }
    const { context, graph } = this.#rooms
    context.createPages(pages.map(nativeDescriptor))
    const done: PageRecord[] = []
    try {
      for (const page of pages) {
        if (page.derived !== undefined) page.step = createStep(context, page)
        done.push(page)
        addToGraph(graph, page)
      }
    } catch (error) {
      for (const page of done.toReversed()) if (graph.node(page.id) !== undefined) graph.remove(page.id)
      destroy(context, pages)
      throw error
    }
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
      const others = [...(this.#rooms.graph.node(page.id)?.dependents ?? [])].filter((id) => !doomed.has(id))
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

/** Gives a page its native memory, its step and its place in the graph, without an epoch: for loading checkpoints. */
export function installPage(rooms: StageRooms, page: PageRecord): void {
  rooms.context.createPages([nativeDescriptor(page)])
  if (page.derived !== undefined) page.step = createStep(rooms.context, page)
  addToGraph(rooms.graph, page)
  rooms.registry.add(page)
}

/** The reverse: takes pages nothing else derives from out of everything, each before what it derives from. */
export function uninstallPages(rooms: StageRooms, pages: readonly PageRecord[]): void {
  for (const page of pages) {
    rooms.graph.remove(page.id)
    rooms.registry.remove(page)
  }
  destroy(rooms.context, pages)
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

function createStep(context: NativeContext, page: PageRecord): number {
  const { opCode, opVersion, inputs, params } = page.derived as NonNullable<PageRecord['derived']>
  return context.createStep({
    opCode,
    opVersion,
    outPage: page.id,
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

/** Frees the native side of pages; steps go before the pages they use. */
function destroy(context: NativeContext, pages: readonly PageRecord[]): void {
  if (pages.length === 0) return
  for (const page of pages) {
    if (page.step !== undefined) context.destroyStep(page.step)
    page.step = undefined
  }
  context.destroyPages(Uint32Array.from(pages, (page) => page.id))
}
