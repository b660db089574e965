/**
 * Defining and deleting pages and functions: compile against the published state, commit, and compile again
 * when functions changed in between.
 *
 * Invariants: a page id is used once; ids taken for a definition that created no page are given back, so
 * repeating one definition forever uses none up. Creating a page that exists with the same definition changes
 * nothing. Knows how to commit only as a function that is handed in.
 */
import { MmsbError } from '../../errors.js'
import type { FunctionBody } from '../../kernels/expression/names.js'
import { PAGE_ID_MAX, STAGED_AT_ONCE_MAX } from '../../limits.js'
import type { LimitGuard } from '../../operator-limits.js'
import { atOnce, type Sliced, Slices } from '../../slices.js'
import type { PageDefinition } from '../../state/types.js'
import type { Admission, Migration, NamedDefinition } from '../call-types.js'
import type { EngineState } from '../pages/engine-state.js'
import type { FunctionChange } from '../pages/function-table.js'
import type { PageReader } from '../pages/page-reader.js'
import { differenceOf } from '../pages/page-records.js'
import type { PageRecord } from '../pages/registry.js'
import type { CommitResult, CreateResult, DeleteResult, FunctionInfo, PageInfo } from '../types.js'
import { CompileBudget } from './compile-budget.js'
import { definePages } from './define-pages.js'
import {
  definitionChange,
  findingMigrations,
  functionInfo,
  functionInfos,
  pagesUsing,
  readingCalls,
  redefinitions,
  StaleFunctions,
} from './functions.js'
import type { Pending, Redefinition } from './pending.js'
import { pendingOfDeletes, pendingOfRedefinitions, writingCreates, writingFunction } from './transactions.js'

const DELETE_RETRIES: ReadonlySet<string> = new Set(['PAGE_IN_USE', 'PAGE_NOT_FOUND'])

export interface DefinitionsDeps {
  readonly state: EngineState
  readonly pages: PageReader
  readonly limits: LimitGuard
  readonly commit: (pending: Pending, admission?: Admission) => Promise<CommitResult>
  /** Throws BUS_FAILED when the bus takes no more writes. */
  readonly refuseWrites: () => void
  /** Whether pages can be placed in device memory now. */
  readonly hasDevice: () => boolean
}

export class Definitions {
  readonly #deps: DefinitionsDeps
  #nextPageId: number

  /** `nextPageId`: the lowest id that no page has had yet. */
  constructor(deps: DefinitionsDeps, nextPageId: number) {
    this.#deps = deps
    this.#nextPageId = nextPageId
  }

  /** The lowest id that no page has had yet. */
  get nextPageId(): number {
    return this.#nextPageId
  }

  /** A new page id, which stays taken. */
  readonly takePageId = (): number => {
    if (this.#nextPageId > PAGE_ID_MAX) throw new MmsbError('INTERNAL', 'All page ids are used up.')
    return this.#nextPageId++
  }

  // ---- pages ----------------------------------------------------------------------------------------------

  /** Throws PAGE_EXISTS when a page with another definition has the name. */
  create(name: string, definition: PageDefinition, admission?: Admission): Promise<CreateResult> {
    return this.#untilFresh(() =>
      this.#withRecords([{ name, definition }], async ([record], functionsAge) =>
        this.#createOne(record as PageRecord, functionsAge, admission),
      ),
    )
  }

  async #createOne(
    record: PageRecord,
    functionsAge: number,
    admission: Admission | undefined,
  ): Promise<CreateResult> {
    const { registry } = this.#deps.state
    this.#refuseCycle(record)
    this.refuseWithoutDevice(record)
    const existing = registry.byName(record.name)
    if (existing !== undefined) return this.#existing(existing, record)
    try {
      const pending = atOnce(writingCreates([record], functionsAge))
      const { epoch } = await this.#deps.commit(pending, admission)
      return { epoch, created: true, page: this.#deps.pages.info(record) }
    } catch (error) {
      // A page of this name may have been committed since it was looked up.
      const raced = error instanceof MmsbError && error.code === 'PAGE_EXISTS'
      const winner = raced ? registry.byName(record.name) : undefined
      if (winner === undefined) throw error
      return this.#existing(winner, record)
    }
  }

  /** All of them in one epoch, or none. */
  async createMany(
    pages: readonly NamedDefinition[],
    admission?: Admission,
  ): Promise<{ epoch: number; pages: PageInfo[] }> {
    const { commit, pages: reader } = this.#deps
    const made = await this.#untilFresh(() =>
      this.#withRecords(pages, async (records, functionsAge) => {
        for (const record of records) this.refuseWithoutDevice(record)
        const pending = await inSlices(records.length, writingCreates(records, functionsAge))
        const { epoch } = await commit(pending, admission)
        const infos = await inSlices(records.length, reader.describing(records))
        return { created: true, epoch, pages: infos }
      }),
    )
    return { epoch: made.epoch, pages: made.pages }
  }

  /** With `cascade` also every page derived from it. Throws PAGE_NOT_FOUND, PAGE_IN_USE. */
  async delete(name: string, cascade: boolean, admission?: Admission): Promise<DeleteResult> {
    const { state, commit, refuseWrites } = this.#deps
    refuseWrites()
    for (;;) {
      const page = state.registry.require(name)
      const ids = cascade ? state.graph.withDependents(page.id) : [page.id]
      try {
        const pages = ids.map((id) => state.registry.byId(id)?.name ?? `#${id}`)
        const { epoch } = await commit(pendingOfDeletes(ids), admission)
        return { epoch, pages }
      } catch (error) {
        // A page derived from this one may have been committed or deleted since the list was made: make it
        // again.
        if (!cascade || !(error instanceof MmsbError) || !DELETE_RETRIES.has(error.code)) throw error
      }
    }
  }

  /** Throws UNSUPPORTED_LOCATION for a page that asks for device memory where there is none. */
  refuseWithoutDevice({ name, location }: PageRecord): void {
    const needsDevice = location === 'gpu' || location === 'unified'
    if (needsDevice && !this.#deps.hasDevice()) {
      throw new MmsbError(
        'UNSUPPORTED_LOCATION',
        `Page "${name}" asks for location "${location}", but the backend is cpu.`,
      )
    }
  }

  /**
   * Compiles pages and hands their records to `work`. When no page was created, their ids are given back,
   * unless more ids were taken in the meantime.
   */
  async #withRecords<T extends { readonly created: boolean }>(
    pages: readonly NamedDefinition[],
    work: (records: readonly PageRecord[], functionsAge: number) => Promise<T>,
  ): Promise<T> {
    const { registry, graph } = this.#deps.state
    const first = this.#nextPageId
    // Compiling may pause, and functions may change meanwhile.
    const functionsAge = registry.functions.worldAge
    let taken = 0
    let created = false
    const takePageId = (): number => {
      taken++
      return this.takePageId()
    }
    try {
      const budget = new CompileBudget(this.#deps.limits)
      const records = await definePages({ registry, graph, takePageId, budget }, pages)
      const done = await work(records, functionsAge)
      created = done.created
      return done
    } finally {
      if (!created && this.#nextPageId === first + taken) this.#nextPageId = first
    }
  }

  #existing(page: PageRecord, wanted: PageRecord): CreateResult {
    const difference = differenceOf(page, wanted, this.#deps.pages.locationOf(page))
    if (difference !== undefined) {
      throw new MmsbError(
        'PAGE_EXISTS',
        `A page "${page.name}" with another definition exists: ${difference}.`,
      )
    }
    return { epoch: page.createdEpoch, created: false, page: this.#deps.pages.info(page) }
  }

  /** Refuses a definition whose inputs derive from the existing page of the same name. */
  #refuseCycle({ name, derived }: PageRecord): void {
    const { registry, graph } = this.#deps.state
    const existing = registry.byName(name)
    if (existing === undefined) return
    for (const { id, prev } of derived?.inputs ?? []) {
      const path = prev === undefined ? graph.path(existing.id, id) : undefined
      if (path === undefined) continue
      const names = [...path.map((step) => registry.byId(step)?.name ?? String(step)), name]
      throw new MmsbError('GRAPH_CYCLE', `The definition would close a cycle: ${names.join(' -> ')}.`, {
        path: names,
      })
    }
  }

  // ---- functions ------------------------------------------------------------------------------------------

  /** Defines a function, or redefines it together with every page that uses it. */
  defineFunction(
    name: string,
    body: FunctionBody,
    admission?: Admission,
  ): Promise<{ epoch: number; worldAge: number }> {
    return this.#untilFresh(async () => {
      const { registry } = this.#deps.state
      const known = registry.functions.get(name)
      const isSame = known?.expr === body.expr && JSON.stringify(known.params) === JSON.stringify(body.params)
      if (known !== undefined && isSame) return { epoch: known.epoch, worldAge: known.worldAge }
      await this.#readCalls()
      const change = definitionChange(registry.functions, name, body, this.#deps.limits)
      const budget = new CompileBudget(this.#deps.limits)
      return this.#commitChange(change, await redefinitions(registry, change, budget), admission)
    })
  }

  /** Throws NOT_FOUND, and PAGE_IN_USE while pages or other functions use it. */
  deleteFunction(name: string, admission?: Admission): Promise<{ epoch: number; worldAge: number }> {
    return this.#untilFresh(async () => {
      this.#deps.state.registry.functions.require(name)
      await this.#readCalls()
      const { functions } = this.#deps.state.registry
      return this.#commitChange({ name, body: undefined, worldAge: functions.worldAge + 1 }, [], admission)
    })
  }

  async #commitChange(
    change: FunctionChange,
    redefines: readonly Redefinition[],
    admission: Admission | undefined,
  ): Promise<{ epoch: number; worldAge: number }> {
    const pending = await inSlices(redefines.length, writingFunction(change, redefines))
    const { epoch } = await this.#deps.commit(pending, admission)
    return { epoch, worldAge: change.worldAge }
  }

  /** Moves every page to the newest version of its op, in one epoch; in none if there is nothing to move. */
  migrate(): Promise<Migration> {
    return this.#untilFresh(async () => {
      const { registry } = this.#deps.state
      const { worldAge } = registry.functions
      const { redefines, migrated } = await inSlices(registry.size, findingMigrations(registry))
      if (redefines.length === 0) return { epoch: undefined, pages: [] }
      const { epoch } = await this.#deps.commit(pendingOfRedefinitions(redefines, worldAge))
      return { epoch, pages: migrated }
    })
  }

  /** A function and its users. Throws NOT_FOUND. */
  function(name: string): FunctionInfo {
    const { registry } = this.#deps.state
    const { functions } = registry
    return functionInfo(functions.require(name), pagesUsing(registry, functions, name))
  }

  /** All functions, by name, each made when it is asked for. */
  functions(): { worldAge: number; functions: Iterable<FunctionInfo> } {
    const { registry } = this.#deps.state
    return { worldAge: registry.functions.worldAge, functions: functionInfos(registry) }
  }

  #readCalls(): Promise<void> {
    const { registry } = this.#deps.state
    return inSlices(registry.size, readingCalls(registry))
  }

  /** Does the work, and does it again whenever functions changed between compiling and staging. */
  async #untilFresh<T>(work: () => Promise<T>): Promise<T> {
    for (;;) {
      this.#deps.refuseWrites()
      try {
        return await work()
      } catch (error) {
        if (!(error instanceof StaleFunctions)) throw error
      }
    }
  }
}

/** Does work on so many pages: on few at once, on many in slices. */
async function inSlices<T>(pages: number, work: Sliced<T>): Promise<T> {
  return pages <= STAGED_AT_ONCE_MAX ? atOnce(work) : new Slices().run(work)
}
