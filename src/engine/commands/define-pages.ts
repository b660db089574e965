/**
 * Page records for new definitions, compiled against the published state.
 *
 * Invariants: of pages defined together, each may derive from those before it in the list and read the past
 * of any of them. Nothing changes except that page ids are taken.
 */
import { MmsbError } from '../../errors.js'
import type { Graph } from '../../graph/graph.js'
import type { InputPage, PastPage } from '../../kernels/inputs.js'
import { checkShape } from '../../state/shape.js'
import type { PageDefinition } from '../../state/types.js'
import type { NamedDefinition } from '../call-types.js'
import { derivedRecord, isDerivedDefinition, sourceRecord } from '../pages/page-records.js'
import type { PageRecord, Registry } from '../pages/registry.js'
import type { CompileBudget } from './compile-budget.js'

export interface DefinePagesDeps {
  readonly registry: Registry
  readonly graph: Graph
  readonly takePageId: () => number
  readonly budget: CompileBudget
}

/**
 * Compiles definitions in order, in slices. Throws the error of the first that cannot be compiled, and
 * COST_EXCEEDED when they take too long together.
 */
export async function definePages(
  deps: DefinePagesDeps,
  pages: readonly NamedDefinition[],
): Promise<PageRecord[]> {
  const compiler = new DefinitionCompiler(deps, pages)
  const records: PageRecord[] = []
  for (const { name, definition } of pages) {
    records.push(deps.budget.spend(() => compiler.compile(name, definition)))
    if (deps.budget.isSliceOver && records.length < pages.length) await deps.budget.pause()
  }
  return records
}

class DefinitionCompiler {
  readonly #deps: DefinePagesDeps
  readonly #planned = new Map<string, { readonly id: number; readonly definition: PageDefinition }>()
  readonly #done = new Map<string, PageRecord>()
  /** Ids of the hidden pages that keep pasts, by page id. */
  readonly #pasts = new Map<number, number>()

  constructor(deps: DefinePagesDeps, pages: readonly NamedDefinition[]) {
    this.#deps = deps
    for (const { name, definition } of pages) {
      if (this.#planned.has(name)) throw new MmsbError('PAGE_EXISTS', `The list has page "${name}" twice.`)
      this.#planned.set(name, { id: deps.takePageId(), definition })
    }
  }

  compile(name: string, definition: PageDefinition): PageRecord {
    const id = this.#planned.get(name)?.id as number
    const pastIdOf = (pageId: number): number => this.#pastIdOf(pageId)
    const record = isDerivedDefinition(definition)
      ? derivedRecord(id, name, definition, {
          inputOf: (input) => this.#inputOf(input),
          pastOf: (input) => this.#pastOf(input),
          functions: this.#deps.registry.functions.lookup,
          self: {
            name,
            page: id,
            get past(): number {
              return pastIdOf(id)
            },
          },
        })
      : sourceRecord(id, name, definition)
    this.#done.set(name, record)
    return record
  }

  #inputOf(name: string): InputPage {
    const sibling = this.#done.get(name)
    if (sibling !== undefined) return sibling
    if (this.#planned.has(name)) {
      throw new MmsbError(
        'INVALID_REQUEST',
        `Page "${name}" comes later in the list; only its past, {"prev": "${name}"}, can be an input here.`,
      )
    }
    return this.#deps.registry.require(name)
  }

  #pastOf(name: string): PastPage {
    const planned = this.#planned.get(name)
    const page =
      this.#done.get(name) ?? (planned === undefined ? this.#deps.registry.require(name) : undefined)
    if (page !== undefined) {
      const { dtype, shape } = page
      return { id: this.#pastIdOf(page.id), page: page.id, dtype, shape }
    }
    const { id, definition } = planned as NonNullable<typeof planned>
    const { dtype, shape } = definition
    if (dtype === undefined || shape === undefined) {
      throw new MmsbError(
        'INVALID_REQUEST',
        `Page "${name}" comes later in the list and its past is read here: give dtype and shape in its definition.`,
      )
    }
    return { id: this.#pastIdOf(id), page: id, dtype, shape: checkShape(shape, dtype) }
  }

  #pastIdOf(pageId: number): number {
    const id = this.#pasts.get(pageId) ?? this.#deps.graph.pastOf(pageId) ?? this.#deps.takePageId()
    this.#pasts.set(pageId, id)
    return id
  }
}
