/**
 * Conflation: many epochs folded into one change, for a subscriber that cannot or does not want to
 * receive each.
 *
 * Invariants: applying the folded change to a mirror as of `first - 1` gives the pages as of `last`. Ranges
 * are unions; values are gathered when the change is sent. A page that was created and deleted in between
 * leaves no trace. Memory is bounded by the number of changed pages times the ranges kept per page.
 */
import type { PageChange } from '../engine/types.js'
import { CHANGED_RANGES_MAX } from '../limits.js'
import { unionRanges } from '../state/ranges.js'
import type { DataMode } from '../wire/messages.js'
import { ChangeMessage, type Gather, PagePart } from './messages.js'

export class Conflation {
  readonly first: number
  #last: number
  readonly #byPage = new Map<number, PageChange>()

  constructor(first: number) {
    this.first = first
    this.#last = first
  }

  get last(): number {
    return this.#last
  }

  /** Adds the changes of an epoch, which is later than those added before. */
  add(epoch: number, changes: Iterable<PageChange>): void {
    this.#last = epoch
    for (const change of changes) {
      const earlier = this.#byPage.get(change.pageId)
      if (change.kind !== 'deleted')
        this.#byPage.set(change.pageId, earlier === undefined ? change : joined(earlier, change))
      else if (earlier?.kind === 'created') this.#byPage.delete(change.pageId)
      else this.#byPage.set(change.pageId, change)
    }
  }

  /**
   * The folded change with present values; undefined if nothing is left of it. Deletions come first, because
   * another page may have taken the name since.
   */
  finish(
    mode: DataMode,
    gather: Gather,
    cut: (part: PagePart) => PagePart | undefined = (part) => part,
  ): ChangeMessage | undefined {
    if (this.#byPage.size === 0) return undefined
    const changes = [...this.#byPage.values()]
    const ordered = [
      ...changes.filter((c) => c.kind === 'deleted'),
      ...changes.filter((c) => c.kind !== 'deleted'),
    ]
    const parts = ordered.map((change) => new PagePart(change, gather)).flatMap((part) => cut(part) ?? [])
    return parts.length === 0 ? undefined : new ChangeMessage(this.first, this.#last, parts, mode)
  }
}

function joined(earlier: PageChange, later: PageChange): PageChange {
  if (earlier.kind === 'created') return earlier
  return { ...later, ranges: coarsen(unionRanges(earlier.ranges, later.ranges)) }
}

/**
 * At most CHANGED_RANGES_MAX ranges that cover these: closes gaps of < 2, 4, 8, ... elements until they fit.
 */
export function coarsen(ranges: Uint32Array): Uint32Array {
  let out = ranges
  for (let gap = 2; out.length > 2 * CHANGED_RANGES_MAX; gap *= 2) out = closeGaps(out, gap)
  return out
}

function closeGaps(ranges: Uint32Array, below: number): Uint32Array {
  const out: number[] = [ranges[0]!, ranges[1]!]
  for (let i = 2; i < ranges.length; i += 2) {
    const start = out[out.length - 2]!
    const end = start + out[out.length - 1]!
    if (ranges[i]! - end < below) out[out.length - 1] = ranges[i]! + ranges[i + 1]! - start
    else out.push(ranges[i]!, ranges[i + 1]!)
  }
  return Uint32Array.from(out)
}
