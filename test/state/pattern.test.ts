/** Patterns match like a simple definition of `*`, in linear time. */
import fc from 'fast-check'
import t from 'tap'
import { patternSet } from '../../src/state/pattern.js'

/** The definition: `*` stands for any run of characters. */
function matchesPlainly(pattern: string, name: string): boolean {
  if (pattern === '') return name === ''
  if (pattern[0] !== '*') return pattern[0] === name[0] && matchesPlainly(pattern.slice(1), name.slice(1))
  for (let i = 0; i <= name.length; i++) if (matchesPlainly(pattern.slice(1), name.slice(i))) return true
  return false
}

t.test('examples', async (t) => {
  const set = patternSet(['risk.*', 'prices'])
  for (const name of ['risk.a', 'risk.a.b', 'risk.', 'prices']) t.ok(set.matches(name), name)
  for (const name of ['risk', 'xrisk.a', 'prices2', 'price']) t.notOk(set.matches(name), name)
  t.ok(patternSet(['*']).matches('anything'))
  t.ok(patternSet(['*.b.*']).matches('a.b.c'))
  t.notOk(patternSet(['*.b']).matches('a.b.c'))
})

t.test('matches what the definition matches', async (t) => {
  const letters = fc
    .array(fc.constantFrom('a', 'b', '*'), { minLength: 1, maxLength: 8 })
    .map((l) => l.join(''))
  const name = fc.array(fc.constantFrom('a', 'b'), { maxLength: 8 }).map((l) => l.join(''))
  let [matched, not] = [0, 0]
  fc.assert(
    fc.property(letters, name, (pattern, n) => {
      const wanted = matchesPlainly(pattern, n)
      if (pattern.includes('*') && wanted) matched++
      else if (pattern.includes('*')) not++
      return patternSet([pattern]).matches(n) === wanted
    }),
    { numRuns: 4000 },
  )
  t.ok(matched > 200 && not > 200, `of those with stars ${matched} matched, ${not} did not`)
})

t.test('a hostile pattern takes no time', async (t) => {
  const { user } = process.cpuUsage()
  const set = patternSet([`${'*a'.repeat(90)}*b`])
  for (let i = 0; i < 1000; i++) set.matches('a'.repeat(200))
  t.ok(process.cpuUsage().user - user < 2_000_000, 'two seconds of the processor')
})

t.test('equal sets have equal keys, in whatever order', async (t) => {
  t.equal(patternSet(['b', 'a', 'b']).key, patternSet(['a', 'b']).key)
  t.not(patternSet(['a', 'b']).key, patternSet(['ab']).key)
})

t.test('a pattern that can match no name is refused', async (t) => {
  for (const bad of [[], [''], ['a b'], ['a/b'], ['é'], ['a,b'], ['x'.repeat(201)], Array(257).fill('a')]) {
    t.throws(() => patternSet(bad), { code: 'INVALID_REQUEST' }, JSON.stringify(bad).slice(0, 40))
  }
})
