/**
 * Elementwise steps over large pages, which one call runs tile by tile: every page holds what it holds when
 * it is computed by itself, the reported ranges are exactly what differs, the log says what ran and how much
 * of it, whatever the number of threads.
 */
import t from 'tap'
import { Bus } from '../../src/index.js'
import type { Derivation } from '../../src/state/types.js'
import type { Dtype, TypedArray } from '../../src/wire/dtype.js'
import { Draw } from '../lib/draw.js'

/** Elements of a page: some tiles and a rest. */
const COUNT = 16_384 * 9 + 4711
/** Ranges that an event reports of a page; more are joined. */
const REPORTED_MAX = 256
const map = (inputs: Record<string, string>, expr: string): Derivation => ({ op: 'map', inputs, expr })

/** Sources: `x`, `y` long; `one` a single element; `few` broadcast over the rows of `table`. */
const DEFINITIONS: readonly (readonly [string, Derivation, Dtype?])[] = [
  ['a', map({ x: 'x' }, 'x * 0.5 + 1')],
  ['b', map({ a: 'a' }, 'clamp(a, -1, 2)')],
  ['c', map({ a: 'a', b: 'b', y: 'y' }, 'where(b == a, y, b * y)')],
  ['twin', map({ a: 'a', b: 'b', y: 'y' }, 'where(b == a, y, b * y)')],
  ['d', map({ c: 'c', one: 'one' }, 'c > one')],
  ['e', { op: 'cast', inputs: { x: 'twin' }, dtype: 'i16' }],
  ['f', { op: 'copy', inputs: { x: 'e' } }],
  ['g', map({ f: 'f', d: 'd', a: 'a' }, 'f + d + i32(a)'), 'i64'],
  ['h', { op: 'reshape', inputs: { x: 'g' }, shape: [-1] }],
  ['exp', map({ b: 'b', c: 'c' }, 'exp(b) - tanh(c)')],
  ['sum', { op: 'reduce', inputs: { x: 'exp' }, fn: 'sum' }],
  ['after', map({ h: 'h', s: 'sum' }, 'h * 2 + s')],
]
const INPUTS = new Map(DEFINITIONS.map(([name, { inputs }]) => [name, Object.values(inputs) as string[]]))
const LONG = DEFINITIONS.map(([name]) => name).filter((name) => name !== 'sum')

async function open(threads: number): Promise<Bus> {
  const bus = await Bus.open({ backend: 'cpu', threads })
  await bus.create('x', { dtype: 'f64', shape: [COUNT] })
  await bus.create('y', { dtype: 'f32', shape: [COUNT] })
  await bus.create('one', { dtype: 'f32', shape: [] })
  return bus
}

async function define(bus: Bus): Promise<void> {
  for (const [name, derive, dtype] of DEFINITIONS) await bus.derive(name, derive, dtype && { dtype })
}

/** Every page by itself: a definition of its own computes one page and nothing else. */
async function apart(bus: Bus): Promise<Bus> {
  const other = await open(1)
  for (const name of ['x', 'y', 'one']) await other.write(name, bus.read(name))
  await define(other)
  return other
}

/** [offset, count, ...] of the runs that differ, by their bits. */
function runsThatDiffer(a: TypedArray, b: TypedArray): number[] {
  const runs: number[] = []
  for (let i = 0; i < a.length; i++) {
    if (Object.is(a[i], b[i])) continue
    if (runs.length > 0 && (runs.at(-2) as number) + (runs.at(-1) as number) === i)
      runs[runs.length - 1]! += 1
    else runs.push(i, 1)
  }
  return runs
}

/** How many elements a step over long pages has to compute: where an input of its length changed, or all. */
function elementsToCompute(name: string, changed: ReadonlyMap<string, readonly number[]>): number {
  const marks = new Uint8Array(COUNT)
  for (const input of new Set(INPUTS.get(name))) {
    const runs = changed.get(input) ?? []
    if (runs.length > 0 && (input === 'one' || input === 'sum')) return COUNT
    for (let i = 0; i < runs.length; i += 2) marks.fill(1, runs[i], runs[i]! + runs[i + 1]!)
  }
  return marks.reduce((sum, mark) => sum + mark, 0)
}

type Write = (bus: Bus, draw: Draw) => Promise<unknown>
const whole =
  (page: string, scale: number): Write =>
  (bus) =>
    bus.write(
      page,
      Array.from({ length: COUNT }, (_, i) => (((i * 37) % 1009) - 500) * scale),
    )
/** Every third element or so, over more than half of the page. */
const scattered: Write = (bus, draw) => {
  const from = draw.int(0, 5000)
  const indices = Uint32Array.from({ length: COUNT / 4 }, (_, i) => from + i * 3)
  return bus.patch('x', { indices, values: draw.values('f64', indices.length) })
}
const WRITES: readonly (readonly [string, Write])[] = [
  ['all of x', whole('x', 0.01)],
  ['all of x, the same', whole('x', 0.01)],
  ['x so that b stays in its bounds', whole('x', 100)],
  ['many places of x', scattered],
  ['all of y', whole('y', 0.3)],
  ['the one', (bus) => bus.write('one', [4])],
  [
    'x and y',
    (bus, draw) =>
      bus.transact({
        ops: [
          { page: 'x', offset: 3, values: draw.values('f64', COUNT - 5) },
          { page: 'y', offset: 70_000, values: draw.values('f32', 10) },
        ],
      }),
  ],
  ['one place', (bus) => bus.patch('x', { offset: 100_000, values: [77] })],
]

for (const threads of [1, 3]) {
  t.test(`tile by tile, ${threads} thread(s)`, async (t) => {
    const draw = new Draw(threads)
    const bus = await open(threads)
    await whole('y', 0.5)(bus, draw)
    await define(bus)
    const ranges = new Map<string, number[]>()
    bus.onCommit(({ changes }) => {
      ranges.clear()
      for (const { page, ranges: own } of changes) ranges.set(page, [...own])
    })
    const all = [...bus.pageNames()]
    for (const [what, write] of WRITES) {
      const before = new Map(all.map((name) => [name, bus.read(name)]))
      await write(bus, draw)
      const changed = new Map(all.map((name) => [name, runsThatDiffer(before.get(name)!, bus.read(name))]))
      const other = await apart(bus)
      const log = new Map(bus.executionLog().steps.map((step) => [step.page, step]))
      for (const name of LONG) {
        t.same(runsThatDiffer(other.read(name), bus.read(name)).slice(0, 8), [], `${what}: ${name}`)
        t.equal(bus.page(name).digest, other.page(name).digest, `${what}: the digest of ${name}`)
        const runs = changed.get(name)!
        const reported = ranges.get(name) ?? []
        if (runs.length <= 2 * REPORTED_MAX) t.same(reported, runs, `${what}: the ranges of ${name}`)
        else t.ok(reported.length <= 2 * REPORTED_MAX && reported[0] === runs[0], `${what}: ${name}, joined`)
        const { elementsComputed = 0, changed: didChange = false } = log.get(name) ?? {}
        t.equal(elementsComputed, elementsToCompute(name, changed), `${what}: elements of ${name}`)
        t.equal(didChange, runs.length > 0, `${what}: whether ${name} changed`)
      }
      await other.close()
    }
    await bus.close()
  })
}
