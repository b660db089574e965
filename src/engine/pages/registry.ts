/**
 * The pages that exist, by name and by id, as of the published epoch.
 *
 * Invariants: only publishing changes the registry, so it always shows a whole epoch. Ids are never reused. A
 * published record changes its version and nothing else, except that redefining a function replaces `derived`
 * and `step` of the pages that use it.
 */
import { MmsbError } from '../../errors.js'
import type { Derivation } from '../../state/types.js'
import type { Dtype } from '../../wire/dtype.js'
import type { Location, PageKind } from '../../wire/page.js'
import { FunctionTable } from './function-table.js'

export interface PageInput {
  readonly role: string
  /** The page that the native step reads; for a past, the hidden page that keeps it. */
  readonly id: number
  /** Set when the input is the past of a page: the id of that page. */
  readonly prev?: number
}

export interface PageRecord {
  readonly id: number
  readonly name: string
  readonly kind: PageKind
  readonly dtype: Dtype
  readonly shape: readonly number[]
  readonly elements: number
  readonly bytes: number
  /** The location that the definition asked for. */
  readonly location: Location
  /** Bits of the element that fills a new source page. */
  readonly fill: bigint
  /** Set for derived pages. */
  derived: DerivedRecord | undefined
  /** The native step; set while the page is being created. */
  step: number | undefined
  version: number
  createdEpoch: number
}

export interface DerivedRecord {
  readonly opCode: number
  readonly opVersion: number
  /** In the order in which the native step takes them. */
  readonly inputs: readonly PageInput[]
  /** The op's parameter block. */
  readonly params: Uint8Array
  /** The definition with input pages by name, as users see it. */
  readonly derive: Derivation
  /** The definition as the log holds it. */
  readonly definition: Uint8Array
  /** Estimated nanoseconds to compute the whole page. */
  readonly costNs: number
  /** The dtype that the definition asked for; kept when a redefinition will need it. */
  readonly asks?: Dtype
}

export class Registry {
  /** The functions that users defined. */
  functions = new FunctionTable()
  readonly #byName = new Map<string, PageRecord>()
  readonly #byId = new Map<number, PageRecord>()
  #sorted: string[] | undefined

  get size(): number {
    return this.#byId.size
  }

  /** Replaces everything in this registry with the content of `other`. */
  adopt(other: Registry): void {
    this.functions = other.functions
    this.#byName.clear()
    this.#byId.clear()
    for (const record of other.all()) this.add(record)
  }

  byName(name: string): PageRecord | undefined {
    return this.#byName.get(name)
  }

  byId(id: number): PageRecord | undefined {
    return this.#byId.get(id)
  }

  /** The page of this name, or PAGE_NOT_FOUND. */
  require(name: string): PageRecord {
    const record = this.#byName.get(name)
    if (record === undefined) throw new MmsbError('PAGE_NOT_FOUND', `There is no page "${name}".`)
    return record
  }

  add(record: PageRecord): void {
    this.#byName.set(record.name, record)
    this.#byId.set(record.id, record)
    this.#sorted = undefined
  }

  remove(record: PageRecord): void {
    // Its name may already be another page's: deleted and created in one epoch.
    if (this.#byName.get(record.name) === record) this.#byName.delete(record.name)
    this.#byId.delete(record.id)
    this.#sorted = undefined
  }

  all(): IterableIterator<PageRecord> {
    return this.#byId.values()
  }

  /** Names in code-unit order. */
  names(): readonly string[] {
    this.#sorted ??= [...this.#byName.keys()].sort()
    return this.#sorted
  }
}
