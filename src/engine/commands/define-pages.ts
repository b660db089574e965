/**
 * Page records for definitions, compiled against the published state: what a transaction that creates pages is made of.
 *
 * Invariants: pages made together may derive from those before them in the list, and read the past of any of them; nothing
 * is changed but ids taken.
 */
import { MmsbError } from '../../errors.js'
import type { Graph } from '../../graph/graph.js'
import type { InputPage, PastPage } from '../../kernels/inputs.js'
import { checkShape } from '../../state/shape.js'
import type { PageDefinition } from '../../state/types.js'
import type { PageRecord, Registry } from '../pages/registry.js'
import { derivedRecord, isDerivedDefinition, sourceRecord } from './transactions.js'

export interface DraftRooms {
  readonly registry: Registry
  readonly graph: Graph
  readonly takePageId: () => number
}

export interface NamedDefinition {
  readonly name: string
  readonly definition: PageDefinition
}

/** Compiles definitions in order. Throws what each of them would throw by itself. */
export function draftPages(rooms: DraftRooms, pages: readonly NamedDefinition[]): PageRecord[] {
  const draft = new Draft(rooms, pages)
  return pages.map(({ name, definition }) => draft.compile(name, definition))
}

class Draft {
  readonly #rooms: DraftRooms
  readonly #planned = new Map<string, { readonly id: number; readonly definition: PageDefinition }>()
  readonly #done = new Map<string, PageRecord>()
  /** Pasts chosen for pages, by page id. */
  readonly #pasts = new Map<number, number>()

  constructor(rooms: DraftRooms, pages: readonly NamedDefinition[]) {
    this.#rooms = rooms
    for (const { name, definition } of pages) {
      if (this.#planned.has(name)) throw new MmsbError('PAGE_EXISTS', `Page "${name}" is there twice.`)
      this.#planned.set(name, { id: rooms.takePageId(), definition })
    }
  }

  compile(name: string, definition: PageDefinition): PageRecord {
    const id = this.#planned.get(name)?.id as number
    const pastIdOf = (pageId: number): number => this.#pastIdOf(pageId)
    const record = isDerivedDefinition(definition)
      ? derivedRecord(id, name, definition, {
          inputOf: (input) => this.#inputOf(input),
          pastOf: (input) => this.#pastOf(input),
          functions: this.#rooms.registry.functions.lookup,
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
    return this.#rooms.registry.require(name)
  }

  #pastOf(name: string): PastPage {
    const planned = this.#planned.get(name)
    const page =
      this.#done.get(name) ?? (planned === undefined ? this.#rooms.registry.require(name) : undefined)
    if (page !== undefined) {
      const { dtype, shape } = page
      return { id: this.#pastIdOf(page.id), page: page.id, dtype, shape }
    }
    const { id, definition } = planned as NonNullable<typeof planned>
    const { dtype, shape } = definition
    if (dtype === undefined || shape === undefined) {
      throw new MmsbError(
        'INVALID_REQUEST',
        `The past of "${name}", which comes later in the list, is read: give dtype and shape in its definition.`,
      )
    }
    return { id: this.#pastIdOf(id), page: id, dtype, shape: checkShape(shape, dtype) }
  }

  #pastIdOf(pageId: number): number {
    const id = this.#pasts.get(pageId) ?? this.#rooms.graph.pastOf(pageId) ?? this.#rooms.takePageId()
    this.#pasts.set(pageId, id)
    return id
  }
}
