/**
 * Sets of element ranges, stored as offset, count, offset, count, ... in a Uint32Array.
 *
 * Invariants: every function returns normal form: ascending, disjoint, not touching, no empty range.
 * Functions of two sets expect normal form and run in linear time. Ends (offset + count) are at most 2^32 and
 * computed as doubles.
 */

export const NO_RANGES: Uint32Array = new Uint32Array(0)

/** The one range that covers `count` elements from `offset`, or no range when count is 0. */
export function rangeOf(offset: number, count: number): Uint32Array {
  return count === 0 ? NO_RANGES : Uint32Array.of(offset, count)
}

/** Sum of the counts: the number of elements of a set in normal form. */
export function totalElements(ranges: Uint32Array): number {
  let total = 0
  for (let i = 1; i < ranges.length; i += 2) total += ranges[i]!
  return total
}

/**
 * Brings any list of ranges into normal form: sorted, empty ones dropped, overlapping and touching ones
 * joined.
 */
export function normalizeRanges(ranges: Uint32Array): Uint32Array {
  if (isNormal(ranges)) return ranges
  const order: number[] = []
  for (let i = 0; i < ranges.length; i += 2) if (ranges[i + 1]! > 0) order.push(i)
  order.sort((a, b) => ranges[a]! - ranges[b]!)
  const out = new RangeBuilder(order.length)
  for (const i of order) out.add(ranges[i]!, ranges[i]! + ranges[i + 1]!)
  return out.finish()
}

function isNormal(ranges: Uint32Array): boolean {
  let end = -1
  for (let i = 0; i < ranges.length; i += 2) {
    if (ranges[i + 1] === 0 || ranges[i]! <= end) return false
    end = ranges[i]! + ranges[i + 1]!
  }
  return true
}

/** Elements in either set. */
export function unionRanges(a: Uint32Array, b: Uint32Array): Uint32Array {
  if (a.length === 0) return b
  if (b.length === 0) return a
  const out = new RangeBuilder((a.length + b.length) / 2)
  let i = 0
  let j = 0
  while (i < a.length || j < b.length) {
    if (j >= b.length || (i < a.length && a[i]! <= b[j]!)) {
      out.add(a[i]!, a[i]! + a[i + 1]!)
      i += 2
    } else {
      out.add(b[j]!, b[j]! + b[j + 1]!)
      j += 2
    }
  }
  return out.finish()
}

/** Elements in both sets. */
export function intersectRanges(a: Uint32Array, b: Uint32Array): Uint32Array {
  const out = new RangeBuilder((a.length + b.length) / 2)
  let i = 0
  let j = 0
  while (i < a.length && j < b.length) {
    const endA = a[i]! + a[i + 1]!
    const endB = b[j]! + b[j + 1]!
    const start = Math.max(a[i]!, b[j]!)
    const end = Math.min(endA, endB)
    if (start < end) out.add(start, end)
    if (endA < endB) i += 2
    else j += 2
  }
  return out.finish()
}

/** The part of a set that lies in [offset, offset + count). */
export function clipRanges(ranges: Uint32Array, offset: number, count: number): Uint32Array {
  return intersectRanges(ranges, rangeOf(offset, count))
}

/** Builds a set from ranges in ascending order of their starts; joins those that overlap or touch. */
class RangeBuilder {
  readonly #out: Uint32Array
  #length = 0
  #end = -1

  constructor(capacityRanges: number) {
    this.#out = new Uint32Array(capacityRanges * 2)
  }

  add(start: number, end: number): void {
    if (start <= this.#end) {
      if (end <= this.#end) return
      this.#out[this.#length - 1] = end - this.#out[this.#length - 2]!
    } else {
      this.#out[this.#length++] = start
      this.#out[this.#length++] = end - start
    }
    this.#end = end
  }

  finish(): Uint32Array {
    return this.#length === this.#out.length ? this.#out : this.#out.slice(0, this.#length)
  }
}
