/** Plans of random graphs against a plain model; levels, removal, and depth without recursion. */
import fc from 'fast-check'
import t from 'tap'
import { Graph } from '../../src/graph/graph.js'

/** A graph given as, per derived page, the indices of its inputs among the pages before it. */
interface Sketch {
  readonly sources: number
  readonly derived: readonly (readonly number[])[]
}

const sketch: fc.Arbitrary<Sketch> = fc
  .record({
    sources: fc.integer({ min: 1, max: 5 }),
    picks: fc.array(fc.array(fc.nat(), { minLength: 1, maxLength: 3 })),
  })
  .map(({ sources, picks }) => ({
    sources,
    derived: picks.map((inputs, i) => inputs.map((pick) => pick % (sources + i))),
  }))

function build({ sources, derived }: Sketch): Graph {
  const graph = new Graph()
  for (let id = 0; id < sources; id++) graph.addSource(id)
  for (const [i, inputs] of derived.entries()) graph.addDerived(sources + i, inputs, 1000 + sources + i, 1)
  return graph
}

t.test(
  'a plan holds exactly the pages reachable from the dirty ones, each once, after its inputs',
  async () => {
    fc.assert(
      fc.property(sketch, fc.array(fc.nat(), { minLength: 1, maxLength: 3 }), (drawn, picks) => {
        const graph = build(drawn)
        graph.invariant()
        const dirty = [...new Set(picks.map((pick) => pick % drawn.sources))].sort((a, b) => a - b)
        const plan = graph.plan(dirty)
        const reachable = new Set<number>(dirty)
        for (const [i, inputs] of drawn.derived.entries()) {
          if (inputs.some((input) => reachable.has(input))) reachable.add(drawn.sources + i)
        }
        for (const id of dirty) reachable.delete(id)
        const pages = [...plan.pages]
        const at = new Map(pages.map((id, i) => [id, i]))
        const isComplete = pages.length === reachable.size && pages.every((id) => reachable.has(id))
        const isOrdered = pages.every((id, i) =>
          (drawn.derived[id - drawn.sources] ?? []).every(
            (input) => !at.has(input) || (at.get(input) as number) < i,
          ),
        )
        const stepsMatch = pages.every((id, i) => plan.steps[i] === 1000 + id)
        return isComplete && isOrdered && stepsMatch && graph.plan(dirty) === plan
      }),
      { numRuns: 500 },
    )
  },
)

t.test('removing pages in any allowed order keeps the invariants and forgets cached plans', async () => {
  fc.assert(
    fc.property(sketch, (drawn) => {
      const graph = build(drawn)
      graph.plan([0])
      for (let id = drawn.sources + drawn.derived.length - 1; id >= drawn.sources; id--) {
        graph.remove(id)
        graph.invariant()
        if ([...graph.plan([0]).pages].includes(id)) return false
      }
      return graph.edgeCount === 0 && graph.nodeCount === drawn.sources
    }),
  )
})

t.test('a diamond computes once, and its levels are longest paths', async (t) => {
  const graph = build({ sources: 1, derived: [[0], [0, 1], [1, 2], [0, 3]] })
  t.same([...graph.plan([0]).pages], [1, 2, 3, 4])
  t.same(
    [1, 2, 3, 4].map((id) => graph.node(id)?.level),
    [1, 2, 3, 4],
  )
  t.equal(graph.depth(), 4)
  t.same(graph.path(0, 4), [0, 4])
  t.same(graph.path(1, 4), [1, 3, 4])
  t.equal(graph.path(4, 1), undefined)
  t.same(graph.withDependents(1), [4, 3, 2, 1])
})

t.test('what is derived after a plan was made is in the next one, whatever it derives from', async (t) => {
  const graph = build({ sources: 2, derived: [[0]] })
  t.same([...graph.plan([0]).pages], [2])
  graph.addDerived(3, [2], 1003, 1)
  t.same([...graph.plan([0]).pages], [2, 3], 'a page')
  graph.addPast(4, 0, 1004)
  t.same([...graph.plan([0]).pages], [4, 2, 3], 'a past')
  graph.setStep(2, 77, 1)
  t.same([...graph.plan([0]).steps], [1004, 77, 1003], 'another step')
  graph.setCost(3, 50)
  const { totalCostNs } = graph
  graph.remove(3)
  t.same([...graph.plan([0]).pages], [4, 2], 'one that is gone')
  t.equal(graph.totalCostNs, totalCostNs - 50, 'and its cost with it')
})

t.test('a chain of 100,000 pages plans without recursion', async (t) => {
  const graph = build({ sources: 1, derived: Array.from({ length: 100_000 }, (_, i) => [i]) })
  t.equal(graph.plan([0]).steps.length, 100_000)
  t.equal(graph.depth(), 100_000)
})

t.test('a page with dependents, or not there, is not removed', async (t) => {
  const graph = build({ sources: 1, derived: [[0]] })
  t.throws(() => graph.remove(0), /dependents/)
  t.throws(() => graph.remove(9), /does not exist/)
  t.throws(() => graph.addSource(0), /already/)
})
