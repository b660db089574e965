/** Accept, entity tags and byte ranges, as RFC 9110 defines them. */
import fc from 'fast-check'
import t from 'tap'
import {
  byteRangeOf,
  entityTags,
  etagOf,
  expectedVersion,
  isNotModified,
  preferredType,
} from '../../../src/http/request/negotiate.js'

const OFFERED = ['application/octet-stream', 'application/json'] as const

t.test('the type the client likes best, the first where it is indifferent', async (t) => {
  const cases: [string | undefined, string | undefined][] = [
    [undefined, OFFERED[0]],
    ['', OFFERED[0]],
    ['*/*', OFFERED[0]],
    ['application/*', OFFERED[0]],
    ['application/json', OFFERED[1]],
    ['APPLICATION/JSON; charset=utf-8', OFFERED[1]],
    ['application/json;q=0.5, application/octet-stream;q=0.4', OFFERED[1]],
    ['application/json;q=0.4, application/octet-stream;q=0.5', OFFERED[0]],
    ['application/json, */*;q=0.1', OFFERED[1]],
    ['application/json, text/plain, */*', OFFERED[0]],
    ['application/octet-stream;q=0, */*', OFFERED[1]],
    ['text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8', OFFERED[0]],
    ['text/plain', undefined],
    ['application/json;q=0', undefined],
    ['application/json;q=2', undefined],
    ['nonsense', undefined],
  ]
  for (const [accept, wanted] of cases) t.equal(preferredType(accept, OFFERED), wanted, String(accept))
})

t.test('entity tags: one, several, any, weak; anything else is refused', async (t) => {
  t.same(entityTags('"v1"', 'If-Match'), ['"v1"'])
  t.same(entityTags(' "v1" , W/"v2"', 'If-Match'), ['"v1"', '"v2"'])
  t.equal(entityTags(' * ', 'If-Match'), '*')
  for (const bad of ['', 'v1', '"v1', 'v1"', '"v1" "v2"', '"v1",,"v2"', '*, "v1"']) {
    t.throws(() => entityTags(bad, 'If-Match'), { code: 'INVALID_REQUEST' }, bad)
  }
})

const HERE = 'the present history'
const THERE = 'another history'

t.test('If-None-Match holds within one history only', async (t) => {
  const is = (header: string | undefined, version: number, namesHistory = false) =>
    isNotModified(header, HERE, version, namesHistory)
  const tag = (version: number) => etagOf(HERE, version)
  t.equal(is(undefined, 1), false)
  t.equal(is(`${tag(1)}, W/${tag(2)}`, 2), true)
  t.equal(is('*', 2), true)
  t.equal(is(tag(1), 2), false)
  t.equal(is(etagOf(THERE, 2), 2), false, 'the same version of another history')
  t.equal(is('"v2"', 2), false, 'a version without its history')
  t.equal(is('"v1", "v2"', 2, true), true, 'whose history the request names otherwise')
  t.equal(is('"v1"', 2, true), false)
})

t.test('the version an If-Match asks for', async (t) => {
  const current = (): number => 7
  t.equal(expectedVersion(undefined, HERE, current), undefined)
  t.equal(expectedVersion('*', HERE, current), undefined)
  t.equal(expectedVersion('"v3"', HERE, current), 3)
  t.equal(expectedVersion('"v3", "v7"', HERE, current), 7, 'a list holds when the current version is in it')
  t.equal(expectedVersion('"v3", "v4"', HERE, current), 3)
  t.equal(expectedVersion(etagOf(HERE, 3), HERE, current), 3)
  t.equal(expectedVersion(etagOf(THERE, 7), HERE, current), 'another history')
  t.equal(expectedVersion(`${etagOf(THERE, 7)}, "v3"`, HERE, current), 3)
  for (const bad of ['"3"', '"v"', '"v1x"', '"v-1"', 'v3', '""', '"abc.v3"']) {
    t.throws(() => expectedVersion(bad, HERE, current), { code: 'INVALID_REQUEST' }, bad)
  }
})

t.test('a byte range lies inside the bytes, or is refused, or ignored', async (t) => {
  t.same(byteRangeOf('bytes=0-3', 16), { start: 0, end: 4 })
  t.same(byteRangeOf('bytes=4-', 16), { start: 4, end: 16 })
  t.same(byteRangeOf('bytes=-4', 16), { start: 12, end: 16 })
  t.same(byteRangeOf('bytes=-40', 16), { start: 0, end: 16 })
  t.same(byteRangeOf('bytes=8-999', 16), { start: 8, end: 16 })
  for (const none of ['bytes=16-', 'bytes=99-100', 'bytes=-0'])
    t.equal(byteRangeOf(none, 16), 'unsatisfiable', none)
  for (const odd of ['bytes=3-1', 'bytes=0-1,3-4', 'items=0-1', 'bytes=', 'bytes=-', 'bytes=a-b', '']) {
    t.equal(byteRangeOf(odd, 16), undefined, odd)
  }
})

t.test('a byte range is what slicing the bytes gives', async (t) => {
  const seen = { bytes: 0, unsatisfiable: 0, ignored: 0 }
  const size = fc.integer({ min: 1, max: 40 })
  // Where the ends lie relative to the bytes, as often inside as around their end.
  const ends = size.chain((size) => {
    const inside = fc.nat(size - 1)
    const place = fc.oneof(inside, inside, fc.integer({ min: size - 1, max: size + 1 }), fc.nat(99))
    return fc.tuple(fc.constant(size), place, place)
  })
  const form = fc.constantFrom('first-last', 'first-last', 'sorted', 'sorted', 'first-', '-last')
  fc.assert(
    fc.property(ends, form, ([size, one, other], form) => {
      const bytes = Array.from({ length: size }, (_, i) => i)
      const [first, last] = form === 'sorted' ? [Math.min(one, other), Math.max(one, other)] : [one, other]
      let wanted = bytes.slice(first, last + 1)
      if (form === 'first-') wanted = bytes.slice(first)
      if (form === '-last') wanted = last === 0 ? [] : bytes.slice(-last)
      const text = `bytes=${form === '-last' ? '' : first}-${form === 'first-' ? '' : last}`
      const range = byteRangeOf(text, size)
      if (last < first && form === 'first-last') {
        seen.ignored++
        return range === undefined
      }
      if (wanted.length === 0) {
        seen.unsatisfiable++
        return range === 'unsatisfiable'
      }
      seen.bytes++
      if (range === undefined || range === 'unsatisfiable') return false
      return range.end <= size && bytes.slice(range.start, range.end).join() === wanted.join()
    }),
    { numRuns: 1000 },
  )
  t.ok(seen.bytes > 500, `${seen.bytes} of 1000 ranges lay in the bytes`)
  t.ok(seen.unsatisfiable > 50 && seen.ignored > 50, JSON.stringify(seen))
})
