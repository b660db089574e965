/**
 * Counts of pages by name: how many there are whose name somebody chose, and how many bytes they take.
 *
 * Invariant: a tally always counts the pages of the registry, whatever was created or deleted since. Nothing
 * is done here while nobody follows any.
 */
import { DERIVED_OWN_BYTES, PAGE_OWN_BYTES } from '../../limits.js'
import type { PageRecord, Registry } from './registry.js'

/** What a page counts: its elements, and what it costs beside them and its definition. */
export const talliedBytes = ({ bytes, derived }: Pick<PageRecord, 'bytes' | 'derived'>): number =>
  bytes + PAGE_OWN_BYTES + (derived === undefined ? 0 : DERIVED_OWN_BYTES)

export interface PageTally {
  readonly pages: number
  readonly bytes: number
  /** It is not followed any longer. */
  end(): void
}

interface Followed {
  readonly matches: (name: string) => boolean
  pages: number
  bytes: number
}

export class PageTallies {
  readonly #registry: Registry
  readonly #followed = new Set<Followed>()

  constructor(registry: Registry) {
    this.#registry = registry
  }

  /** Counts the pages that match from now on. */
  follow(matches: (name: string) => boolean): PageTally {
    const followed = { matches, pages: 0, bytes: 0 }
    this.#recount(followed)
    this.#followed.add(followed)
    this.#registry.watcher = this.#watcher
    return {
      get pages() {
        return followed.pages
      },
      get bytes() {
        return followed.bytes
      },
      end: () => {
        this.#followed.delete(followed)
        if (this.#followed.size === 0) this.#registry.watcher = undefined
      },
    }
  }

  readonly #watcher = {
    changed: (page: PageRecord, by: 1 | -1): void => {
      for (const followed of this.#followed) {
        if (!followed.matches(page.name)) continue
        followed.pages += by
        followed.bytes += by * talliedBytes(page)
      }
    },
    replaced: (): void => {
      for (const followed of this.#followed) this.#recount(followed)
    },
  }

  #recount(followed: Followed): void {
    followed.pages = 0
    followed.bytes = 0
    for (const page of this.#registry.all()) {
      if (!followed.matches(page.name)) continue
      followed.pages++
      followed.bytes += talliedBytes(page)
    }
  }
}
