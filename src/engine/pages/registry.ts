/**
 * The pages that exist, by name and by id, as of the published epoch.
 *
 * Invariants: only publishing changes the registry, so it always shows a whole epoch. Ids are never reused. A
 * published record changes its version and nothing else, except that redefining a function replaces `derived`
 * and `step` of the pages that use it.
 */
import { MmsbError } from '../../errors.js'
import { DERIVED_OWN_BYTES, PAGE_OWN_BYTES } from '../../limits.js'
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
  /** The level in the graph; set while the page is being created, and final then. */
  level: number
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

/** What a page costs beside its elements, roughly; its definition is held encoded and decoded. */
export const ownBytes = ({ name, derived }: Pick<PageRecord, 'name' | 'derived'>): number =>
  PAGE_OWN_BYTES + name.length + (derived === undefined ? 0 : DERIVED_OWN_BYTES + definitionBytes(derived))

/** The part of it that a redefinition changes. */
export const definitionBytes = ({ definition }: DerivedRecord): number => 2 * definition.byteLength

/** Hears of pages that come and go. */
export interface RegistryWatcher {
  changed(page: PageRecord, by: 1 | -1): void
  /** All pages may be others. */
  replaced(): void
}

export class Registry {
  watcher: RegistryWatcher | undefined
  /** The functions that users defined. */
  functions = new FunctionTable()
  readonly #byName = new Map<string, PageRecord>()
  readonly #byId = new Map<number, PageRecord>()
  /** Names in order, but for those added and removed since. */
  #sorted: string[] = []
  readonly #added = new Set<string>()
  readonly #removed = new Set<string>()
  #ownBytes = 0

  get size(): number {
    return this.#byId.size
  }

  /** What the pages cost beside their elements. */
  get ownBytes(): number {
    return this.#ownBytes
  }

  /** Replaces everything in this registry with the content of `other`. */
  adopt(other: Registry): void {
    this.functions = other.functions
    this.#byName.clear()
    this.#byId.clear()
    this.#sorted = []
    this.#added.clear()
    this.#removed.clear()
    this.#ownBytes = 0
    const { watcher } = this
    this.watcher = undefined
    for (const record of other.all()) this.add(record)
    this.watcher = watcher
    watcher?.replaced()
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
    const isTaken = this.#byName.has(record.name)
    this.#byName.set(record.name, record)
    this.#byId.set(record.id, record)
    this.#ownBytes += ownBytes(record)
    if (!isTaken && !this.#removed.delete(record.name)) this.#added.add(record.name)
    this.watcher?.changed(record, 1)
  }

  remove(record: PageRecord): void {
    // Its name may already be another page's: deleted and created in one epoch.
    if (this.#byName.get(record.name) === record) {
      this.#byName.delete(record.name)
      if (!this.#added.delete(record.name)) this.#removed.add(record.name)
    }
    if (!this.#byId.delete(record.id)) return
    this.#ownBytes -= ownBytes(record)
    this.watcher?.changed(record, -1)
  }

  /** Gives a page another definition and step. */
  redefine(record: PageRecord, derived: DerivedRecord, step: number): void {
    const before = record.derived === undefined ? 0 : definitionBytes(record.derived)
    this.#ownBytes += definitionBytes(derived) - before
    record.derived = derived
    record.step = step
  }

  all(): IterableIterator<PageRecord> {
    return this.#byId.values()
  }

  /** Names in code-unit order. The list never changes: the next one is another. */
  names(): readonly string[] {
    if (this.#added.size + this.#removed.size === 0) return this.#sorted
    const added = [...this.#added].sort()
    const kept =
      this.#removed.size === 0 ? this.#sorted : this.#sorted.filter((name) => !this.#removed.has(name))
    this.#sorted = mergeSorted(kept, added)
    this.#added.clear()
    this.#removed.clear()
    return this.#sorted
  }
}

function mergeSorted(a: readonly string[], b: readonly string[]): string[] {
  const merged: string[] = []
  let at = 0
  for (const name of b) {
    while (at < a.length && (a[at] as string) < name) merged.push(a[at++] as string)
    merged.push(name)
  }
  while (at < a.length) merged.push(a[at++] as string)
  return merged
}
