/**
 * Descriptions of pages, of the graph and of numbers, exactly; what is staged and not published
 * does not show.
 */
import t from 'tap'
import { pendingOfDeletes } from '../../../src/engine/commands/transactions.js'
import { Batch } from '../../../src/engine/commit/batch.js'
import {
  executionLogOf,
  graphView,
  hex,
  pageInfo,
  type Staged,
  statsOf,
} from '../../../src/engine/pages/describe.js'
import type { EngineState } from '../../../src/engine/pages/engine-state.js'
import { StageTimings } from '../../../src/engine/stage-timings.js'
import type { ExecuteResult } from '../../../src/ffi/context.js'
import { creating, stateWith } from '../../lib/engine-state.js'

const PAGES = {
  x: { dtype: 'i32', shape: [2, 2] },
  y: { dtype: 'i32', shape: [2, 2] },
  sum: { derive: { op: 'map', inputs: { a: 'x', b: 'y', c: 'x' }, expr: 'a + b + c' } },
  old: { derive: { op: 'map', inputs: { now: 'sum', before: { prev: 'x' } }, expr: 'now - before' } },
  total: { derive: { op: 'reduce', inputs: { x: 'sum' }, fn: 'sum' } },
} as const

const infoOf = ({ registry, graph }: EngineState, name: string, staged?: Staged) =>
  pageInfo(registry.require(name), { registry, graph, staged, version: 9, location: 'cpu', digest: 'd' })

t.test('a page', async (t) => {
  const state = await stateWith(t, PAGES)
  const { id } = state.registry.require('x')
  t.strictSame(infoOf(state, 'x'), {
    name: 'x',
    id,
    kind: 'source',
    dtype: 'i32',
    shape: [2, 2],
    bytes: 16,
    location: 'cpu',
    version: 9,
    createdEpoch: 1,
    inputs: [],
    dependents: ['old', 'sum'],
    digest: 'd',
  })
  const sum = infoOf(state, 'sum')
  t.same([sum.kind, sum.inputs, sum.dependents], ['derived', ['x', 'y'], ['old', 'total']])
  t.match(sum, { opVersion: 1, derive: { op: 'map', expr: 'a + b + c' } })
  t.same(infoOf(state, 'old').inputs, ['sum', 'x'], 'the page whose past it reads')
  t.equal(hex(Uint8Array.of(1, 255, 16).subarray(1)), 'ff10')
})

t.test('a page while others are staged', async (t) => {
  const state = await stateWith(t, PAGES)
  const before = ['x', 'y', 'sum', 'old'].map((name) => infoOf(state, name))
  const batch = new Batch(2, state)
  const { registry } = state
  batch.stage(pendingOfDeletes(['old', 'total'].map((name) => registry.require(name).id)))
  batch.stage(await creating(state, { more: { derive: { op: 'map', inputs: { x: 'y' }, expr: 'x' } } }))
  t.same(
    ['x', 'y', 'sum', 'old'].map((name) => infoOf(state, name, batch)),
    before,
  )
  batch.abandon()
})

t.test('the graph: nodes by level, edges by target', async (t) => {
  const { registry } = await stateWith(t, PAGES)
  const pages = registry.names().map((name) => registry.require(name))
  const { nodes, edges } = graphView(pages)
  const wanted = [
    { name: 'x', kind: 'source', level: 0 },
    { name: 'y', kind: 'source', level: 0 },
    { name: 'sum', kind: 'derived', level: 1, op: 'map' },
    { name: 'old', kind: 'derived', level: 2, op: 'map' },
    { name: 'total', kind: 'derived', level: 2, op: 'reduce' },
  ]
  t.strictSame([...nodes], wanted)
  t.strictSame([...nodes], wanted, 'as often as it is read')
  const lines = [...edges].map(
    ({ from, to, input, prev }) => `${from} ${to} ${input}${prev === true ? ' prev' : ''}`,
  )
  t.strictSame(
    lines,
    ['x sum a', 'y sum b', 'x sum c', 'x old before prev', 'sum old now', 'sum total x'].sort(
      (a, b) => lines.indexOf(a) - lines.indexOf(b),
    ),
  )
  t.equal(lines.length, 6)
  t.notOk('prev' in [...edges][0]!)
  t.strictSame([...graphView([]).nodes], [])
  const gap = [...graphView(pages.filter(({ level }) => level !== 1)).nodes].map(({ name }) => name)
  t.strictSame(gap, ['x', 'y', 'old', 'total'], 'a level may be empty')
})

t.test('what an epoch ran', async (t) => {
  const { registry } = await stateWith(t, PAGES)
  const entry = { changed: true, full: false, elementsComputed: 3 }
  const { step } = registry.require('sum')
  const result = {
    steps: () => [
      { step, ...entry },
      { step: 9_999, ...entry },
    ],
  } as unknown as ExecuteResult
  t.strictSame(executionLogOf(4, registry, result), { epoch: 4, steps: [{ page: 'sum', ...entry }] })
  t.strictSame(executionLogOf(4, registry, undefined), { epoch: 4, steps: [] })
})

t.test('numbers', async (t) => {
  const { registry, graph } = await stateWith(t, PAGES)
  const view = {
    registry,
    graph,
    staged: undefined,
    memory: { pageBytes: 100, quotaBytes: 1_000, poolBytes: 7, devicePageBytes: 0 } as never,
    deltas: { dense: 1, sparse: 2, masked: 3 },
    timings: new StageTimings().summary(),
    queue: { transactions: 4, bytes: 5 },
    epoch: 6,
    log: null,
    locationOf: ({ name }: { name: string }) => (name === 'x' ? ('gpu' as const) : ('cpu' as const)),
  }
  const stats = statsOf(view)
  t.match(stats, { epoch: 6, deltas: view.deltas, queue: view.queue, timings: view.timings })
  t.strictSame(stats.log, null)
  t.strictSame(stats.pages, {
    count: 5,
    source: 2,
    derived: 3,
    bytes: 100,
    byLocation: {
      cpu: { count: 4, bytes: 16 + 16 + 16 + registry.require('total').bytes },
      gpu: { count: 1, bytes: 16 },
      unified: { count: 0, bytes: 0 },
    },
    quotaBytes: 1_000,
    poolBytes: 7,
  })
  t.strictSame(stats.graph, { nodes: 5, edges: graph.edgeCount, depth: 2 })
  const staged = { deleted: [], graphBefore: { edges: 77, depth: 8 }, createdBytes: 30 }
  const during = statsOf({ ...view, staged })
  t.strictSame(during.graph, { nodes: 5, edges: 77, depth: 8 })
  t.equal(during.pages.bytes, 70)
  const same = statsOf({ ...view, staged: { ...staged, graphBefore: undefined } })
  t.strictSame(same.graph, stats.graph)
})
