/**
 * The pages that exist: by name and by id, as of the published epoch.
 *
 * Invariants: only publishing changes it, so what it shows is always a whole epoch; ids are never reused; of a record only
 * its version changes and, when a function does that it uses, what it is derived by.
 */
import { MmsbError } from '../../errors.js'
import type { Derivation } from '../../state/types.js'
import type { Dtype } from '../../wire/dtype.js'
import type { Location, PageKind } from '../../wire/page.js'
import { FunctionTable } from '../commands/functions.js'

export interface PageInput {
  readonly role: string
  /** What the native step reads: the page, or the hidden page that keeps its past. */
  readonly id: number
  /** Set where the input is a page's past: the page. */
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
  /** As asked for. */
  readonly location: Location
  /** Bits of the element a source page is filled with. */
  readonly fill: bigint
  /** Derived pages: the op, its inputs in the order the native step takes them, its parameter block, and the definition
   * as the log holds it. */
  derived: DerivedRecord | undefined
  /** The native step; set while the page is being created. */
  step: number | undefined
  version: number
  createdEpoch: number
}

export interface DerivedRecord {
  readonly opCode: number
  readonly opVersion: number
  readonly inputs: readonly PageInput[]
  readonly params: Uint8Array
  /** The definition with input pages by name, as users see it. */
  readonly derive: Derivation
  readonly definition: Uint8Array
  readonly costNs: number
  /** The dtype asked for, where a redefinition must know it. */
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

  /** Shows what `other` shows, and nothing of what it did. */
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
