/** A seed draws the same mutants again, from every room its share, also after the sources have changed. */
import t from 'tap'
import type { Mutant } from './mutations.js'
import { roomOf, sampleOf } from './sample.js'

function mutantsOfRoom(room: string, count: number): Mutant[] {
  return Array.from({ length: count }, (_, i) => {
    const path = `src/${room}/a.ts`
    return { path, line: 1, start: 0, end: 1, replacement: '', functions: [], id: `${path}#: ${i}` }
  })
}

t.test('every room has its share, and a seed draws the same again', async (t) => {
  const all = [...mutantsOfRoom('engine', 300), ...mutantsOfRoom('store', 100)]
  const drawn = sampleOf(all, 40, 7)
  t.equal(drawn.filter((mutant) => roomOf(mutant) === 'engine').length, 30)
  t.equal(new Set(drawn.map(({ id }) => id)).size, 40)
  t.same(sampleOf(all, 40, 7), drawn)
  t.notSame(sampleOf(all, 40, 8), drawn)
  t.ok(drawn.slice(0, 8).some((mutant) => roomOf(mutant) === 'store'))
})

t.test('where a mutant is gone, the others of the sample stay', async (t) => {
  const all = mutantsOfRoom('engine', 300)
  const drawn = sampleOf(all, 30, 7)
  const gone = drawn[3]!
  const later = sampleOf(
    all.filter((mutant) => mutant !== gone),
    30,
    7,
  )
  t.same(
    drawn.filter((mutant) => !later.includes(mutant)),
    [gone],
  )
})
