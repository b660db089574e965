/**
 * How much is computed: after a small change each op computes the elements that its dirty rule names, and no
 * others. That they hold what a full computation gives, the engine's property test shows.
 */
import t from 'tap'
import { Bus } from '../../src/index.js'
import type { DeltaInput, Derivation, UncheckedDerivation } from '../../src/state/types.js'
import type { Dtype, TypedArray } from '../../src/wire/dtype.js'
import { Draw } from '../lib/draw.js'
import { drawDelta } from '../property/random.js'
import { referenceEval } from '../reference/evaluate.js'
import type { PartialCase, TestPage } from '../reference/ops/record.js'
import { OP_RECORDS } from '../reference/records.js'
import { NativeRunner } from './native.js'

const ROWS = 40
const COLUMNS = 30

/** Row 12, column 7 of `grid`; element 5 of `line`; element 3 of `places`. */
const CHANGES = {
  grid: { offset: 12 * COLUMNS + 7, values: [123] },
  line: { offset: 5, values: [0.25] },
  places: { offset: 3, values: [9] },
} as const

/** A definition, the page that changes, and how many elements are computed then. */
const RULES: readonly PartialCase[] = OP_RECORDS.flatMap(([, { partial = [] }]) => partial)

async function openPages(): Promise<Bus> {
  const bus = await Bus.open({ backend: 'cpu', threads: 1 })
  await bus.create('grid', { dtype: 'f64', shape: [ROWS, COLUMNS] })
  await bus.create('line', { dtype: 'f64', shape: [16] })
  await bus.create('longer', { dtype: 'f64', shape: [16] })
  await bus.create('stencil', { dtype: 'f64', shape: [3, 3], fill: 1 })
  await bus.create('few', { dtype: 'f64', shape: [6, COLUMNS], fill: 2 })
  await bus.create('one', { dtype: 'f64', shape: [], fill: 1 })
  await bus.create('places', { dtype: 'i32', shape: [5] })
  await bus.create('sixteen', { dtype: 'u8', shape: [16] })
  await bus.write(
    'grid',
    Float64Array.from({ length: ROWS * COLUMNS }, (_, i) => (i * 37) % 101),
  )
  await bus.write(
    'line',
    Float64Array.from({ length: 16 }, (_, i) => i),
  )
  await bus.write('places', Int32Array.of(12, 3, -1, 0, 12 - ROWS))
  await bus.write(
    'sixteen',
    Uint8Array.from({ length: 16 }, (_, i) => (i * 3 + 1) % 16),
  )
  return bus
}

t.test('a small change computes the elements that may change, and no others', async (t) => {
  const bus = await openPages()
  for (const [name, derive, source, expected] of RULES) {
    await bus.derive('out', derive as Derivation)
    const before = bus.read(source)
    await bus.patch(source, CHANGES[source])
    const { steps } = bus.executionLog()
    const computed = steps.reduce(
      (sum, { page, elementsComputed }) => sum + (page === 'out' ? elementsComputed : 0),
      0,
    )
    t.equal(computed, expected, name)
    await bus.delete('out')
    await bus.write(source, before)
  }
  await bus.close()
})

/** Over pages of many blocks, which the engine's random graphs do not have. */
const LONG = OP_RECORDS.flatMap(([, { long }]) => long) as readonly Derivation[]

const LENGTH = 10_007
const SHAPES: Readonly<Record<string, readonly number[]>> = {
  x: [LENGTH],
  wide: [83, 301],
  /** Each row is several blocks of 1024, and the last is short. */
  rows: [5, 4099],
  column: [5, 1],
  across: [301, 40],
  kernel: [41],
  few: [3, 301],
}

/** Changes at the ends of blocks (1024 elements), of chunks (4096 bytes) and of pages, and across them. */
function changesOf(draw: Draw, dtype: Dtype, name: string): DeltaInput[] {
  const elements = SHAPES[name]!.reduce((product, size) => product * size, 1)
  const values = (count: number): TypedArray => plainValues(draw, dtype, count)
  const dense: [number, number][] = [
    [1000, 100],
    [500, 3000],
    [1023, 1],
    [1024, 1],
    [4095, 2],
    [elements - 1, 1],
  ]
  // More ranges than are sorted by insertion, in no order.
  const indices = Array.from({ length: 40 }, (_, i) => (i * 7919) % elements)
  return [
    ...dense.map(([offset, count]) => ({ offset, values: values(count) })),
    { indices, values: values(indices.length) },
    drawDelta(draw, { name, dtype, shape: SHAPES[name]! }),
  ]
}

/** Without NaN and infinities, which would hide what else is wrong in a sum. */
function plainValues(draw: Draw, dtype: Dtype, count: number): TypedArray {
  const values = draw.values(dtype, count)
  for (let i = 0; i < count; i++) {
    if (!Number.isFinite(Number(values[i])) || Math.abs(Number(values[i])) > 1e9) values[i] = 1 as never
  }
  return values
}

async function writePages(bus: Bus, dtype: Dtype, valuesOf: (name: string) => TypedArray): Promise<void> {
  for (const [name, shape] of Object.entries(SHAPES)) {
    await bus.create(name, { dtype, shape })
    await bus.write(name, valuesOf(name))
  }
  await bus.create('indices', { dtype: 'i32', shape: [LENGTH] })
  const indices = Int32Array.from({ length: LENGTH }, (_, i) => ((i * 37) % (2 * LENGTH)) - LENGTH)
  await bus.write('indices', indices)
}

/** The first element where two pages differ. */
const differsAt = (got: ArrayLike<number | bigint>, wanted: ArrayLike<number | bigint>): number =>
  Array.prototype.findIndex.call(got, (value, place) => !Object.is(value, wanted[place]))

t.test('long pages: a change gives the bits of a full computation', async (t) => {
  for (const dtype of ['f32', 'i16'] as const) {
    const draw = new Draw(dtype.length + LENGTH)
    const live = await Bus.open({ backend: 'cpu', threads: 2 })
    await writePages(live, dtype, (name) =>
      plainValues(
        draw,
        dtype,
        SHAPES[name]!.reduce((product, size) => product * size, 1),
      ),
    )
    for (const [i, derive] of LONG.entries()) await live.derive(`d${i}`, derive)
    for (const name of ['x', 'wide', 'rows'] as const) {
      const readers = LONG.flatMap((derive, i) => (reads(derive, name) ? [i] : []))
      const fresh = await Bus.open({ backend: 'cpu', threads: 1 })
      await writePages(fresh, dtype, (page) => live.read(page))
      for (const [change, delta] of changesOf(draw, dtype, name).entries()) {
        for (const bus of [live, fresh]) await bus.patch(name, delta)
        for (const i of readers) {
          await fresh.derive('fresh', LONG[i]!)
          const at = differsAt(live.read(`d${i}`), fresh.read('fresh'))
          await fresh.delete('fresh')
          if (at >= 0) t.fail(`${dtype} ${JSON.stringify(LONG[i])}: element ${at} after change ${change}`)
        }
      }
      t.ok(readers.length > 5, `${readers.length} definitions read ${name}`)
      await fresh.close()
    }
    await live.close()
  }
})

const reads = (derive: UncheckedDerivation, name: string): boolean =>
  Object.values(derive.inputs as Record<string, string>).includes(name)

t.test('long pages: the bits of the reference', async (t) => {
  const runner = new NativeRunner()
  t.teardown(() => runner.close())
  for (const dtype of ['f32', 'i16'] as const) {
    const draw = new Draw(LENGTH)
    const pages: Record<string, TestPage> = {}
    for (const [name, shape] of Object.entries(SHAPES)) {
      const count = shape.reduce((product, size) => product * size, 1)
      pages[name] = { dtype, shape, values: plainValues(draw, dtype, count) }
    }
    const values = Int32Array.from({ length: LENGTH }, (_, i) => ((i * 37) % (2 * LENGTH)) - LENGTH)
    pages.indices = { dtype: 'i32', shape: [LENGTH], values }
    for (const derive of LONG) {
      if (derive.op === 'window') continue
      const inputs = Object.fromEntries(
        Object.entries(derive.inputs as Record<string, string>).map(([role, name]) => [role, pages[name]!]),
      )
      const named = Object.fromEntries(
        Object.values(derive.inputs as Record<string, string>).map((name) => [name, pages[name]!]),
      )
      const wanted = referenceEval(derive, inputs)
      const at = differsAt(runner.run(derive, named).values, wanted.values)
      t.equal(at, -1, `${dtype} ${JSON.stringify(derive)}`)
    }
  }
})

/**
 * The sort of ranges takes 11 bits of a start at a time: below 2^22 elements it never comes to the last ones.
 */
t.test('a page of more than 2^22 elements: scattered changes reach what is derived from it', async (t) => {
  const bus = await Bus.open({ backend: 'cpu', threads: 1 })
  t.teardown(() => bus.close())
  const elements = 2 ** 23 + 5
  await bus.create('x', { dtype: 'u8', shape: [elements] })
  await bus.derive('copied', { op: 'map', inputs: { x: 'x' }, expr: 'x + 1' })
  const wanted = new Uint8Array(elements).fill(1)
  const draw = new Draw(elements)
  for (const count of [31, 32, 33, 40, 2000]) {
    const indices = Array.from({ length: count }, () => draw.int(0, elements - 1))
    const values = indices.map(() => draw.int(0, 200))
    await bus.patch('x', { indices, values })
    for (const [i, index] of indices.entries()) wanted[index] = values[i]! + 1
    t.equal(differsAt(bus.read('copied'), wanted), -1, `${count} ranges`)
  }
})
