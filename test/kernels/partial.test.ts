/**
 * How much is computed: after a small change each op computes the elements that its dirty rule names, and no
 * others. That they hold what a full computation gives, the engine's property test shows.
 */
import t from 'tap'
import { Bus } from '../../src/index.js'
import type { Derivation } from '../../src/state/types.js'
import { Draw } from '../lib/draw.js'
import { drawDelta } from '../property/random.js'
import type { PartialCase } from '../reference/ops/record.js'
import { OP_RECORDS } from '../reference/records.js'

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
    await bus.derive('out', derive)
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
const LONG: readonly Derivation[] = OP_RECORDS.flatMap(([, { long = [] }]) => long)

const LENGTH = 10_007
const SHAPES = { x: [LENGTH], wide: [83, 301], kernel: [41], few: [3, 301] }

t.test('long pages: a change gives the bits of a full computation', async (t) => {
  for (const dtype of ['f32', 'i16'] as const) {
    const draw = new Draw(dtype.length + LENGTH)
    const live = await Bus.open({ backend: 'cpu', threads: 2 })
    const write = async (bus: Bus, from?: Bus): Promise<void> => {
      for (const [name, shape] of Object.entries(SHAPES)) {
        await bus.create(name, { dtype, shape })
        const count = shape.reduce((product, size) => product * size, 1)
        await bus.write(name, from === undefined ? draw.values(dtype, count) : from.read(name))
      }
      await bus.create('indices', { dtype: 'i32', shape: [LENGTH] })
      await bus.write(
        'indices',
        Int32Array.from({ length: LENGTH }, (_, i) => ((i * 37) % (2 * LENGTH)) - LENGTH),
      )
    }
    await write(live)
    for (const [i, derive] of LONG.entries()) await live.derive(`d${i}`, derive)
    for (const _ of [1, 2, 3]) {
      for (const name of ['x', 'wide'] as const) {
        await live.patch(name, drawDelta(draw, { name, dtype, shape: SHAPES[name] }))
      }
      const fresh = await Bus.open({ backend: 'cpu', threads: 1 })
      await write(fresh, live)
      for (const [i, derive] of LONG.entries()) {
        await fresh.derive(`d${i}`, derive)
        const [got, wanted] = [live.read(`d${i}`), fresh.read(`d${i}`)]
        const at = got.findIndex((value, place) => !Object.is(value, wanted[place]))
        t.equal(at, -1, `${dtype} ${JSON.stringify(derive)}`)
      }
      await fresh.close()
    }
    await live.close()
  }
})
