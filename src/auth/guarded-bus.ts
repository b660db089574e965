/**
 * The bus as one principal may use it. Every face uses it instead of the bus, so what a principal may do is
 * decided here and nowhere else.
 *
 * Invariants: what a principal may not read does not exist for it: the answer is that of a page that is not
 * there, before anything is looked up. What it may read but not do is FORBIDDEN, and the answer names the
 * scope that is missing. Idempotency keys belong to the principal, and `source` begins with its id.
 *
 * Null because answers of the bus have it.
 */

import type { EngineBus, WriteContent, WriteOrigin } from '../engine/bus.js'
import type { Admission, IngestResult, NamedDefinition, PastQuestion } from '../engine/call-types.js'
import type {
  BusStats,
  BusStatus,
  CommitResult,
  CreateResult,
  DeleteResult,
  FrameAccess,
  FunctionInfo,
  GraphEdge,
  GraphNode,
  PageData,
  PageInfo,
  PageShape,
  PastOptions,
  PatchResult,
  ReadRange,
  Sender,
  TransactionInput,
  VerifyResult,
  WhatIfInput,
  WhatIfResult,
} from '../engine/types.js'
import { MmsbError } from '../errors.js'
import type { FunctionBody } from '../kernels/expression/names.js'
import type { LimitGuard } from '../operator-limits.js'
import type { JsonParts } from '../state/json-parts.js'
import { intersect, type PatternSet, patternSet } from '../state/pattern.js'
import type { Derivation, DerivedDefinition, SourceDefinition } from '../state/types.js'
import type { CheckpointInfo } from '../store/types.js'
import { ANY_READER, type Reader } from '../stream/connection.js'
import type { ReaderLimits } from '../stream/reader-limits.js'
import { isDerived, namesIn, namesOf } from './guard/named-pages.js'
import { mapped, missing, noPage, ownKey } from './guard/own.js'
import { shieldedSender, shownError } from './guard/shown-errors.js'
import { Metering } from './limits/metering.js'
import type { PrincipalUsage } from './limits/usage.js'
import type { PrincipalUsages } from './limits/usages.js'
import type { Principal } from './principals.js'
import type { Verb } from './scopes.js'

/** What the faces use of a bus. */
export type ClientBus = Pick<
  EngineBus,
  | 'checkpoint'
  | 'checkpoints'
  | 'create'
  | 'createMany'
  | 'data'
  | 'defineFunction'
  | 'delete'
  | 'deleteFunction'
  | 'derive'
  | 'epoch'
  | 'function'
  | 'functionList'
  | 'graphLists'
  | 'historyId'
  | 'isReadOnly'
  | 'limits'
  | 'page'
  | 'pages'
  | 'pastJson'
  | 'peek'
  | 'peekAt'
  | 'readMany'
  | 'refuseWrite'
  | 'submitAll'
  | 'transact'
  | 'verify'
  | 'whatIf'
  | 'writeOnce'
> & {
  status(): Omit<BusStatus, 'digest'> & { readonly digest?: string }
  stats(): ShownStats
}

/** Statistics; of a principal that may not read all pages, only those of the pages that it may read. */
export type ShownStats =
  | BusStats
  | {
      readonly epoch: number
      readonly pages: Pick<BusStats['pages'], 'count' | 'source' | 'derived' | 'bytes'>
      readonly graph: Pick<BusStats['graph'], 'nodes' | 'edges'>
    }

/** Names whose answers are remembered. */
const REMEMBERED_MAX = 100_000

export class GuardedBus implements ClientBus, FrameAccess, Reader {
  readonly principal: Principal
  readonly #bus: EngineBus
  /** By page id; the name of an id never changes. */
  readonly #writable = new Map<number, boolean>()
  readonly #senders = new WeakMap<Sender, Sender>()
  readonly #origin: WriteOrigin
  readonly #metering: Metering

  /** Without `usages` nothing that the principal uses is counted. */
  constructor(bus: EngineBus, principal: Principal, usages?: PrincipalUsages) {
    this.#bus = bus
    this.principal = principal
    const metering = new Metering(principal, usages)
    this.#metering = metering
    this.#origin = {
      source: principal.id,
      requireRead: (page) => this.#require('read', page),
      get admission() {
        return metering.admission
      },
    }
  }

  /** What the principal uses of its limits. */
  get usage(): PrincipalUsage | undefined {
    return this.#metering.usage
  }

  get admission(): Admission | undefined {
    return this.#metering.admission
  }

  get readerLimits(): ReaderLimits | undefined {
    return this.usage
  }

  get epoch(): number {
    return this.#bus.epoch
  }

  get limits(): LimitGuard {
    return this.#bus.limits
  }

  get historyId(): string {
    return this.#bus.historyId
  }

  get isReadOnly(): boolean {
    return this.#bus.isReadOnly
  }

  /** The pages that the principal may read; undefined if it may read all. */
  get readable(): PatternSet | undefined {
    const { scopes } = this.principal
    return scopes.allowsAll('read') ? undefined : (scopes.pagesOf('read') ?? NO_PAGES)
  }

  // ---- what is allowed ------------------------------------------------------------------------------------

  readonly #reads = (name: string): boolean => this.principal.scopes.allows('read', name)

  /** Throws FORBIDDEN or PAGE_NOT_FOUND unless this is allowed. */
  #require(verb: Verb, name: string): void {
    if (this.principal.scopes.allows(verb, name)) return
    throw this.#reads(name) ? missing(`${verb}:${name}`) : noPage(name)
  }

  #requireAll(verb: Verb): void {
    if (!this.principal.scopes.allowsAll(verb)) throw missing(`${verb}:*`)
  }

  /** Reading the past needs `history` beside `read`. */
  #requirePast(name: string): void {
    this.#require('read', name)
    this.#require('history', name)
  }

  mayWrite({ id, name }: { readonly id: number; readonly name: string }): boolean {
    const known = this.#writable.get(id)
    if (known !== undefined) return known
    if (this.#writable.size >= REMEMBERED_MAX) this.#writable.clear()
    const may = this.principal.scopes.allows('write', name)
    this.#writable.set(id, may)
    return may
  }

  require(verb: 'read' | 'write' | 'define', name: string | undefined, id: number): void {
    if (name !== undefined && this.principal.scopes.allows(verb, name)) return
    // A page that may not be read is as one that is not there, whose name nobody knows.
    throw name !== undefined && this.#reads(name)
      ? missing(`${verb}:${name}`)
      : new MmsbError('PAGE_NOT_FOUND', `There is no page with id ${id}.`)
  }

  keyOf(key: string): string {
    return ownKey(this.principal.id, key)
  }

  sourceOf(source: string | undefined): string {
    return source === undefined ? this.principal.id : `${this.principal.id}/${source}`
  }

  /** The name under which a durable subscription of the principal is stored. */
  ownName(durable: string): string {
    return `${this.principal.id}/${durable}`
  }

  // ---- defining -------------------------------------------------------------------------------------------

  async create(name: string, definition: SourceDefinition): Promise<CreateResult> {
    this.#require('define', name)
    return this.#created(await this.#guard(name, this.#bus.create(name, definition, this.admission)))
  }

  async derive(
    name: string,
    derive: Derivation,
    options: Omit<DerivedDefinition, 'derive'> = {},
  ): Promise<CreateResult> {
    this.#require('define', name)
    this.#requireInputs(derive)
    return this.#created(await this.#guard(name, this.#bus.derive(name, derive, options, this.admission)))
  }

  async createMany(pages: readonly NamedDefinition[]): Promise<{ epoch: number; pages: PageInfo[] }> {
    for (const { name, definition } of pages) {
      this.#require('define', name)
      if (isDerived(definition)) this.#requireInputs(definition.derive)
    }
    const created = await this.#guard(undefined, this.#bus.createMany(pages, this.admission))
    return { ...created, pages: created.pages.map((page) => this.#shown(page)) }
  }

  /** Deriving from a page reads it. */
  #requireInputs({ inputs }: Derivation): void {
    for (const name of namesIn(inputs)) this.#require('read', name)
  }

  async delete(name: string, options: { cascade?: boolean } = {}): Promise<DeleteResult> {
    this.#require('define', name)
    if (options.cascade === true) {
      const { scopes } = this.principal
      if (this.#bus.withDependents(name).some((other) => !scopes.allows('define', other)))
        throw missing('define', 'on every page that derives from it')
    }
    return this.#guard(name, this.#bus.delete(name, options, this.admission))
  }

  async defineFunction(name: string, body: FunctionBody): Promise<{ epoch: number; worldAge: number }> {
    this.#requireAll('functions')
    this.#requireUsers(name)
    return this.#guard(undefined, this.#bus.defineFunction(name, body, this.admission))
  }

  async deleteFunction(name: string): Promise<{ epoch: number; worldAge: number }> {
    this.#requireAll('functions')
    return this.#guard(undefined, this.#bus.deleteFunction(name, this.admission))
  }

  /** Redefining a function recomputes the pages that use it. */
  #requireUsers(name: string): void {
    const { scopes } = this.principal
    if (scopes.allowsAll('define')) return
    let users: readonly string[] = []
    try {
      users = this.#bus.function(name).pages
    } catch (error) {
      if (!(error instanceof MmsbError) || error.code !== 'NOT_FOUND') throw error
    }
    if (users.some((page) => !scopes.allows('define', page)))
      throw missing('define', 'on every page that uses the function')
  }

  function(name: string): FunctionInfo {
    const info = this.#bus.function(name)
    const shown = this.#shownFunction(info)
    if (shown !== undefined) return shown
    throw new MmsbError('NOT_FOUND', `There is no function "${name}".`)
  }

  functionList(): { worldAge: number; functions: Iterable<FunctionInfo> } {
    const { worldAge, functions } = this.#bus.functionList()
    return { worldAge, functions: mapped(functions, (info) => this.#shownFunction(info)) }
  }

  /** A function is shown to those who define functions, and to those who read a page that uses it. */
  #shownFunction(info: FunctionInfo): FunctionInfo | undefined {
    const pages = info.pages.filter((page) => this.#reads(page))
    return pages.length > 0 || this.principal.scopes.allowsAny('functions') ? { ...info, pages } : undefined
  }

  // ---- writing --------------------------------------------------------------------------------------------

  writeOnce(
    name: string,
    key: string | undefined,
    make: (page: () => PageShape) => WriteContent,
  ): Promise<PatchResult> {
    this.#require('write', name)
    const ownKey = key === undefined ? undefined : this.keyOf(key)
    return this.#shield(this.#bus.writeOnce(name, ownKey, make, this.#origin))
  }

  refuseWrite(name: string, key: string | undefined, bytes: number): void {
    this.#require('write', name)
    if (key === undefined) this.usage?.refuseWrites()
    this.#bus.refuseWrite(name, key === undefined ? undefined : this.keyOf(key), bytes)
  }

  transact(transaction: TransactionInput): Promise<CommitResult> {
    const { ops, expect = [], key, source } = transaction
    for (const { page } of ops) this.#require('write', page)
    for (const { page } of expect) this.#require('read', page)
    const own = {
      ...transaction,
      source: this.sourceOf(source),
      ...(key === undefined ? {} : { key: this.keyOf(key) }),
    }
    return this.#shield(this.#bus.transact(own, this.admission))
  }

  submitAll(sender: Sender, first: number, message: Uint8Array): IngestResult {
    return this.#bus.submitAll(this.#shieldedSender(sender), first, message, this)
  }

  async whatIf(input: WhatIfInput, options: PastOptions = {}): Promise<WhatIfResult> {
    for (const { page } of input.ops) this.#require('write', page)
    for (const name of input.read) this.#require('read', name)
    return this.#guard(undefined, this.#bus.whatIf(input, options, this.admission))
  }

  // ---- reading --------------------------------------------------------------------------------------------

  page(name: string): PageInfo {
    this.#require('read', name)
    return this.#shown(this.#bus.page(name))
  }

  peek(name: string): PageShape {
    this.#require('read', name)
    return this.#bus.peek(name)
  }

  async peekAt(name: string, epoch: number, options: PastOptions = {}): Promise<PageShape> {
    this.#requirePast(name)
    return this.#bus.peekAt(name, epoch, this.#metering.past(options))
  }

  async data(name: string, options: ReadRange & { epoch?: number } & PastOptions = {}): Promise<PageData> {
    if (options.epoch === undefined) {
      this.#require('read', name)
      return this.#bus.data(name, options)
    }
    this.#requirePast(name)
    return this.#bus.data(name, { ...options, ...this.#metering.past(options) })
  }

  async readMany(
    names: readonly string[],
    options: { epoch?: number } & PastOptions = {},
  ): Promise<{ epoch: number; pages: Record<string, PageData> }> {
    for (const name of names) {
      if (options.epoch === undefined) this.#require('read', name)
      else this.#requirePast(name)
    }
    if (options.epoch === undefined) return this.#bus.readMany(names, options)
    return this.#bus.readMany(names, { ...options, ...this.#metering.past(options) })
  }

  pages(options: { prefix?: string; limit?: number; cursor?: string } = {}): {
    pages: PageInfo[]
    next: string | null
  } {
    const { pages, next } = this.#bus.pages(options, this.readable)
    return { pages: pages.map((page) => this.#shown(page)), next }
  }

  graphLists(): { nodes: Iterable<GraphNode>; edges: Iterable<GraphEdge> } {
    return this.#bus.graphLists(this.readable)
  }

  // ---- the past -------------------------------------------------------------------------------------------

  async pastJson(question: PastQuestion, options: PastOptions = {}): Promise<JsonParts> {
    const { scopes } = this.principal
    const named = namesOf(question)
    for (const name of named) this.#requirePast(name)
    if (named.length === 0 && !scopes.allowsAny('history')) throw missing('history:*')
    if (scopes.allowsAll('read') && scopes.allowsAll('history'))
      return this.#bus.pastJson(question, this.#metering.past(options))
    const visible = intersect(scopes.pagesOf('read') ?? NO_PAGES, scopes.pagesOf('history') ?? NO_PAGES)
    return this.#bus.pastJson({ ...question, visible: visible.lists }, this.#metering.past(options))
  }

  async verify(query: { from?: number; to?: number } = {}, options: PastOptions = {}): Promise<VerifyResult> {
    this.#requireAll('admin')
    return this.#bus.verify(query, this.#metering.past(options))
  }

  async checkpoint(): Promise<CheckpointInfo> {
    this.#requireAll('admin')
    return this.#bus.checkpoint()
  }

  checkpoints(): CheckpointInfo[] {
    this.#requireAll('admin')
    return this.#bus.checkpoints()
  }

  // ---- status ---------------------------------------------------------------------------------------------

  status(): ReturnType<ClientBus['status']> {
    const { digest, pages, ...status } = this.#bus.status()
    const { readable } = this
    if (readable === undefined) return { ...status, pages, digest }
    return { ...status, pages: this.#shownNames(readable).length }
  }

  stats(): ShownStats {
    const { readable } = this
    if (readable === undefined) return this.#bus.stats()
    const pages = { count: 0, source: 0, derived: 0, bytes: 0 }
    for (const name of this.#shownNames(readable)) {
      const { kind, bytes } = this.#bus.peek(name)
      pages.count++
      pages[kind]++
      pages.bytes += bytes
    }
    let edges = 0
    for (const _ of this.graphLists().edges) edges++
    return { epoch: this.epoch, pages, graph: { nodes: pages.count, edges } }
  }

  #shownNames(readable: PatternSet): readonly string[] {
    const names = readable.names?.filter((name) => this.#bus.hasPage(name)) ?? this.#bus.pageNames()
    return names.filter((name) => readable.matches(name))
  }

  // ---- what is shown --------------------------------------------------------------------------------------

  /** A definition is not the way to read a page that was there before. */
  #created(result: CreateResult): CreateResult {
    const { name } = result.page
    if (!result.created && !this.#reads(name))
      throw new MmsbError('PAGE_EXISTS', `Page "${name}" exists already.`)
    return { ...result, page: this.#shown(result.page) }
  }

  /** A description without the names of other pages that may not be read. */
  #shown(info: PageInfo): PageInfo {
    const inputs = info.inputs.filter((name) => this.#reads(name))
    const dependents = info.dependents.filter((name) => this.#reads(name))
    if (inputs.length === info.inputs.length) return { ...info, dependents }
    const { derive: _, ...rest } = info
    return { ...rest, inputs, dependents }
  }

  /** A write whose error says nothing of pages that may not be read. */
  #shield<T>(work: Promise<T>): Promise<T> {
    return this.readable === undefined ? work : this.#guard(undefined, work)
  }

  /** The same for frames: one for each connection, so that messages cost no more. */
  #shieldedSender(sender: Sender): Sender {
    if (this.readable === undefined) return sender
    let shielded = this.#senders.get(sender)
    if (shielded === undefined) {
      shielded = shieldedSender(sender, this.#reads)
      this.#senders.set(sender, shielded)
    }
    return shielded
  }

  /** The error of a definition, deletion or write, without what it says of pages that may not be read. */
  async #guard<T>(name: string | undefined, work: Promise<T>): Promise<T> {
    try {
      return await work
    } catch (error) {
      const isPlain = this.readable === undefined || !(error instanceof MmsbError)
      throw isPlain ? error : shownError(error as MmsbError, this.#reads, name)
    }
  }
}

/** What the user of a bus may see of the stream. */
export const readerOf = (bus: ClientBus): Reader => (bus instanceof GuardedBus ? bus : ANY_READER)

/** Matches no name: none begins with a hyphen. */
const NO_PAGES = patternSet(['-'])
