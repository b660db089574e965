/** Dirty ranges against sets of elements: normal form and set operations, up to the largest index. */
import fc from 'fast-check'
import t from 'tap'
import {
  clipRanges,
  intersectRanges,
  NO_RANGES,
  normalizeRanges,
  rangeOf,
  totalElements,
  unionRanges,
} from '../../src/state/ranges.js'

/** Any list of ranges over 64 elements. */
const anyRanges = fc
  .array(fc.tuple(fc.nat(63), fc.nat(20)), { maxLength: 12 })
  .map((pairs) =>
    Uint32Array.from(pairs.flatMap(([offset, count]) => [offset, Math.min(count, 64 - offset)])),
  )

const setOf = (ranges: Uint32Array): Set<number> => {
  const set = new Set<number>()
  for (let i = 0; i < ranges.length; i += 2) {
    for (let k = 0; k < ranges[i + 1]!; k++) set.add(ranges[i]! + k)
  }
  return set
}

const isNormal = (ranges: Uint32Array): boolean => {
  let end = -1
  for (let i = 0; i < ranges.length; i += 2) {
    if (ranges[i + 1] === 0 || ranges[i]! <= end) return false
    end = ranges[i]! + ranges[i + 1]!
  }
  return true
}

const sorted = (set: Iterable<number>): number[] => [...set].sort((a, b) => a - b)

t.test('the operations are set operations and return normal form', async () => {
  fc.assert(
    fc.property(anyRanges, anyRanges, fc.nat(63), fc.nat(64), (x, y, offset, count) => {
      const a = normalizeRanges(x)
      const b = normalizeRanges(y)
      const inA = setOf(a)
      const inB = setOf(b)
      const results: [Uint32Array, Iterable<number>][] = [
        [a, setOf(x)],
        [unionRanges(a, b), new Set([...inA, ...inB])],
        [intersectRanges(a, b), [...inA].filter((element) => inB.has(element))],
        [clipRanges(a, offset, count), [...inA].filter((e) => e >= offset && e < offset + count)],
      ]
      return results.every(
        ([got, wanted]) =>
          isNormal(got) &&
          totalElements(got) === [...wanted].length &&
          JSON.stringify(sorted(setOf(got))) === JSON.stringify(sorted(wanted)),
      )
    }),
    { numRuns: 2000 },
  )
})

t.test('ends reach 2^32 - 1 without wrapping', async (t) => {
  const last = 0xffff_fffe
  t.same([...normalizeRanges(Uint32Array.of(last, 1, 5, 1))], [5, 1, last, 1])
  t.same([...unionRanges(Uint32Array.of(0, last), Uint32Array.of(last, 1))], [0, last + 1])
  t.same([...clipRanges(Uint32Array.of(0, last + 1), last, 1)], [last, 1])
  t.equal(rangeOf(3, 0), NO_RANGES)
  t.equal(totalElements(rangeOf(0, last + 1)), last + 1)
})
