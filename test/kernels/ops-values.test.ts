/** Every op on random pages: what the native library computes equals the plain reference, bit for bit. */
import fc from 'fast-check'
import t from 'tap'
import { MmsbError } from '../../src/errors.js'
import { REDUCE_FUNCTIONS } from '../../src/kernels/ops/reduce.js'
import { elementCount } from '../../src/state/shape.js'
import type { Derivation } from '../../src/state/types.js'
import { DTYPE_INFO, DTYPES, type Dtype } from '../../src/wire/dtype.js'
import { referenceEval, sameElement } from '../reference/ops.js'
import { NativeRunner, type TestPage } from './native.js'

const runner = new NativeRunner()
t.teardown(() => runner.close())

/** Draws numbers from a stream that fast-check can shrink. */
class Draw {
  readonly #seed: Iterator<number>

  constructor(seed: Iterator<number>) {
    this.#seed = seed
  }

  below(limit: number): number {
    return this.#seed.next().value! % limit
  }

  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!
  }
}

const ODD_FLOATS = [Number.NaN, Infinity, -Infinity, 0, -0, 1e-40, -3e38, 1e300]

/** A page; few distinct values, so that ties occur; now and then odd ones. */
function drawPage(draw: Draw, dtype: Dtype, shape: readonly number[]): TestPage {
  const info = DTYPE_INFO[dtype]
  const count = elementCount(shape)
  const values = info.view(new ArrayBuffer(count * info.sizeBytes), 0, count)
  const odd = draw.below(3) === 0 ? 4 + draw.below(60) : 0
  // One draw seeds the whole page: thousands of draws would be slow, and shrinking them pointless.
  let state = draw.below(2 ** 31)
  const random = (below: number): number => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
  for (let i = 0; i < count; i++) {
    const isOdd = odd > 0 && random(odd) === 0
    if (info.kind === 'float') values[i] = isOdd ? ODD_FLOATS[random(8)]! : (random(2000) - 1000) / 7
    else if (info.kind === 'bool') values[i] = random(2)
    else {
      const value = isOdd
        ? random(2)
          ? info.max!
          : info.min!
        : BigInt(random(60) - (info.kind === 'signed' ? 30 : 0))
      values[i] = (info.sizeBytes === 8 ? value : Number(value)) as never
    }
  }
  return { dtype, shape, values }
}

const SIZES = [0, 1, 2, 3, 5, 8, 31, 32, 33, 64, 70]

function drawShape(draw: Draw, least: number, most: number): number[] {
  const shape = Array.from({ length: least + draw.below(most - least + 1) }, () => draw.pick(SIZES))
  while (elementCount(shape) > 20_000) shape[draw.below(shape.length)] = 1 + draw.below(3)
  return shape
}

type Definition = { derive: Derivation; pages: Record<string, TestPage> }

function drawReduce(draw: Draw): Definition {
  const long = draw.below(4) === 0
  const shape = long
    ? draw.pick([[5000], [3, 2049], [1023], [1024], [1025], [4097, 2], [2, 1500, 3]])
    : drawShape(draw, 0, 4)
  const axes = shape.map((_, axis) => axis).filter(() => draw.below(2) === 0)
  const derive: Record<string, unknown> = {
    op: 'reduce',
    inputs: { x: 'x' },
    fn: draw.pick(REDUCE_FUNCTIONS),
  }
  if (axes.length > 0) derive.axes = axes.map((axis) => (draw.below(2) === 0 ? axis : axis - shape.length))
  if (draw.below(3) === 0) derive.keepdims = true
  return { derive: derive as Derivation, pages: { x: drawPage(draw, draw.pick(DTYPES), shape) } }
}

function drawMatmul(draw: Draw): Definition {
  const size = (): number => draw.pick([0, 1, 2, 3, 5, 8, 17, 33])
  const depth = draw.below(8) === 0 ? 300 : size()
  const batch = [[], [], [2], [1], [2, 1], [3]] as const
  const a = draw.below(4) === 0 ? [depth] : [...draw.pick(batch), size(), depth]
  const b = draw.below(4) === 0 ? [depth] : [...draw.pick(batch), depth, size()]
  const dtypes = draw.below(2) === 0 ? DTYPES : (['f32', 'f64'] as const)
  return {
    derive: {
      op: 'matmul',
      inputs: { a: 'a', b: 'b' },
      semiring: draw.pick(['plus_times', 'plus_times', 'min_plus', 'max_plus', 'or_and']),
    },
    pages: { a: drawPage(draw, draw.pick(dtypes), a), b: drawPage(draw, draw.pick(dtypes), b) },
  }
}

function drawSelection(draw: Draw): Definition {
  const shape = draw.below(5) === 0 ? draw.pick([[9000], [5000, 2], [2, 4100]]) : drawShape(draw, 1, 3)
  const axis = draw.below(shape.length)
  const pages = { x: drawPage(draw, draw.pick(DTYPES), shape) }
  const inputs = { x: 'x' }
  if (draw.below(2) === 0) {
    const q = draw.pick([0, 0.05, 0.25, 0.5, 0.77, 1 / 3, 0.999, 1])
    return {
      derive: draw.below(4) === 0 ? { op: 'quantile', inputs, q } : { op: 'quantile', inputs, q, axis },
      pages,
    }
  }
  const k =
    draw.below(3) === 0 ? Math.max(1, shape[axis]!) : 1 + draw.below(Math.max(1, Math.min(shape[axis]!, 9)))
  const largest = draw.below(2) === 0
  return { derive: { op: 'topk', inputs, k, axis, output: draw.pick(['indices', 'values']), largest }, pages }
}

function drawCast(draw: Draw): Definition {
  const pages = { x: drawPage(draw, draw.pick(DTYPES), drawShape(draw, 0, 3)) }
  const inputs = { x: 'x' }
  const derive =
    draw.below(4) === 0 ? { op: 'copy', inputs } : { op: 'cast', inputs, dtype: draw.pick(DTYPES) }
  return { derive, pages }
}

const negatable = (draw: Draw, axis: number, rank: number): number =>
  draw.below(2) === 0 ? axis : axis - rank

/** Small enough for a reference that walks a lane for each element. */
function drawSmallShape(draw: Draw, least: number, most: number): number[] {
  const shape = drawShape(draw, least, most)
  while (elementCount(shape) > 1500) shape[draw.below(shape.length)] = 1 + draw.below(3)
  return shape
}

function drawLanes(draw: Draw): Definition {
  const shape = draw.below(8) === 0 ? draw.pick([[1100], [2, 1030], [1030, 2]]) : drawSmallShape(draw, 1, 3)
  const axis = negatable(draw, draw.below(shape.length), shape.length)
  const pages = { x: drawPage(draw, draw.pick(DTYPES), shape) }
  const inputs = { x: 'x' }
  switch (draw.below(3)) {
    case 0:
      return { derive: { op: 'scan', inputs, fn: draw.pick(['sum', 'prod', 'min', 'max']), axis }, pages }
    case 1: {
      const size = draw.pick([1, 2, 3, 4, 5, 7, 8, 13, 32, 100, 2000])
      return {
        derive: { op: 'window', inputs, fn: draw.pick(['sum', 'min', 'max', 'mean']), size, axis },
        pages,
      }
    }
    default:
      return { derive: { op: 'sort', inputs, axis, descending: draw.below(2) === 0 }, pages }
  }
}

function drawMoves(draw: Draw): Definition {
  const shape = drawShape(draw, 0, 4)
  const rank = shape.length
  const pages = { x: drawPage(draw, draw.pick(DTYPES), shape) }
  const inputs = { x: 'x' }
  switch (draw.below(4)) {
    case 0: {
      if (draw.below(3) === 0) return { derive: { op: 'transpose', inputs }, pages }
      const axes = shape.map((_, axis) => axis)
      for (let i = rank - 1; i > 0; i--) axes.splice(draw.below(i + 1), 0, axes.splice(i, 1)[0]!)
      return {
        derive: { op: 'transpose', inputs, axes: axes.map((axis) => negatable(draw, axis, rank)) },
        pages,
      }
    }
    case 1: {
      const open = [-1, ...shape.filter((size) => size > 1 && draw.below(2) === 0)]
      const asked = draw.below(2) === 0 && elementCount(shape) > 0 ? open : [1, ...[...shape].reverse()]
      return { derive: { op: 'reshape', inputs, shape: asked }, pages }
    }
    case 2: {
      const bound = (size: number): number | null =>
        draw.below(3) === 0 ? null : draw.below(3 * size + 4) - Math.floor(1.5 * size) - 2
      const derive: Record<string, unknown> = { op: 'slice', inputs }
      const listed = shape.slice(0, draw.below(rank + 1))
      if (draw.below(4) > 0) derive.start = listed.map(bound)
      if (draw.below(4) > 0) derive.stop = listed.map(bound)
      if (draw.below(4) > 0) derive.step = listed.map(() => draw.pick([1, 1, 2, 3, -1, -2, 7, null]))
      return { derive: derive as Derivation, pages }
    }
    default: {
      const parts = shape.length === 0 ? [[3]] : [shape]
      const axis = draw.below(parts[0]!.length)
      for (let i = draw.below(4); i > 0; i--) {
        parts.push(parts[0]!.map((size, d) => (d === axis ? draw.pick([0, 1, 2, 9]) : size)))
      }
      const many = Object.fromEntries(
        parts.map((part, i) => [`p${i}`, drawPage(draw, draw.pick(DTYPES), part)]),
      )
      const names = Object.fromEntries(Object.keys(many).map((name) => [name, name]))
      return {
        derive: { op: 'concat', inputs: names, axis: negatable(draw, axis, parts[0]!.length) },
        pages: many,
      }
    }
  }
}

const INTEGERS = DTYPES.filter((dtype) => ['signed', 'unsigned'].includes(DTYPE_INFO[dtype].kind))

function drawIndexed(draw: Draw): Definition {
  const shape = drawSmallShape(draw, 1, 3)
  const axis = draw.below(shape.length)
  const dtype = draw.pick(DTYPES)
  const indices = drawPage(draw, draw.pick(INTEGERS), draw.pick([[], [1], [7], [3, 2], [0], [40]]))
  // Around the size of the axis, some outside on both sides.
  const size = shape[axis]!
  for (const i of indices.values.keys()) {
    const at = BigInt(draw.below(2 * size + 3) - size - 1)
    const word = DTYPE_INFO[indices.dtype].kind === 'unsigned' && at < 0n ? -at : at
    indices.values[i] = (DTYPE_INFO[indices.dtype].sizeBytes === 8 ? word : Number(word)) as never
  }
  const x = drawPage(draw, dtype, shape)
  const pages = { x, indices }
  const inputs = { x: 'x', indices: 'indices' }
  const placed = negatable(draw, axis, shape.length)
  if (draw.below(2) === 0) return { derive: { op: 'gather', inputs, axis: placed }, pages }
  const gathered = [...shape.slice(0, axis), ...indices.shape, ...shape.slice(axis + 1)]
  const values = drawPage(draw, draw.pick(DTYPES), draw.below(4) === 0 ? draw.pick([[], [1]]) : gathered)
  const merges = ['set', 'add', 'min', 'max', 'and', 'or', 'xor']
  return {
    derive: {
      op: 'scatter',
      inputs: { ...inputs, values: 'values' },
      axis: placed,
      merge: draw.pick(DTYPE_INFO[dtype].kind === 'float' ? merges.slice(0, 4) : merges),
    },
    pages: { ...pages, values },
  }
}

function drawCounts(draw: Draw): Definition {
  const shape = drawShape(draw, 0, 3)
  const inputs = { x: 'x' }
  if (draw.below(2) === 0) {
    const dtype = draw.pick(DTYPES.filter((name) => DTYPE_INFO[name].kind !== 'float'))
    return {
      derive: { op: 'bincount', inputs, length: draw.pick([0, 1, 5, 30, 300]) },
      pages: { x: drawPage(draw, dtype, shape) },
    }
  }
  const low = draw.pick([-100, 0, -0.3, 7])
  return {
    derive: {
      op: 'histogram',
      inputs,
      bins: draw.pick([1, 2, 3, 10, 100]),
      range: [low, low + draw.pick([1e-3, 1, 50, 1 / 3])],
    },
    pages: { x: drawPage(draw, draw.pick(DTYPES), shape) },
  }
}

function drawNeighbours(draw: Draw): Definition {
  const [a, b] = [draw.pick(DTYPES), draw.pick(DTYPES)]
  if (draw.below(3) === 0) {
    const depth = draw.pick([0, 1, 3, 31, 32, 33, 70])
    const queries = draw.below(3) === 0 ? [depth] : [draw.pick([0, 1, 4]), depth]
    return {
      derive: {
        op: 'distance',
        inputs: { queries: 'queries', vectors: 'vectors' },
        metric: draw.pick(['dot', 'l2', 'cosine']),
      },
      pages: {
        queries: drawPage(draw, a, queries),
        vectors: drawPage(draw, b, [draw.pick([0, 1, 5, 9]), depth]),
      },
    }
  }
  const size = (): number => draw.pick([1, 2, 3, 4, 5, 9])
  const kernel = draw.below(2) === 0 ? [draw.pick([1, 2, 3, 5, 40])] : [size(), size()]
  return {
    derive: {
      op: 'conv',
      inputs: { x: 'x', kernel: 'kernel' },
      boundary: draw.pick(['zero', 'wrap', 'edge']),
    },
    pages: {
      x: drawPage(draw, a, drawSmallShape(draw, kernel.length, 3)),
      kernel: drawPage(draw, b, kernel),
    },
  }
}

const describe = ({ derive, pages }: Definition): string => {
  const list = Object.entries(pages).map(([name, { dtype, shape }]) => `${name} ${dtype} [${shape}]`)
  return `${JSON.stringify(derive)} of ${list.join(', ')}`
}

/** Runs one definition on both; returns false when it was refused. */
function compare(definition: Definition, asked: Dtype | undefined): boolean {
  const { derive, pages } = definition
  let native: ReturnType<NativeRunner['run']>
  try {
    native = runner.run(derive, pages, asked)
  } catch (error) {
    if (error instanceof MmsbError && error.code === 'SHAPE_MISMATCH') return false
    throw error
  }
  const wanted = referenceEval(derive, pages, asked)
  const head = JSON.stringify([native.compiled.dtype, native.compiled.shape])
  if (head !== JSON.stringify([wanted.dtype, wanted.shape])) {
    throw new Error(`${describe(definition)}: ${head}, should be ${wanted.dtype} [${wanted.shape}]`)
  }
  const at = wanted.values.findIndex((value, i) => !sameElement(native.values[i]!, value))
  if (at >= 0) {
    throw new Error(
      `${describe(definition)}: element ${at} is ${native.values[at]}, should be ${wanted.values[at]}`,
    )
  }
  return true
}

const FAMILIES: readonly [string, (draw: Draw) => Definition, number][] = [
  ['copy and cast', drawCast, 300],
  ['reduce', drawReduce, 500],
  ['matmul', drawMatmul, 300],
  ['quantile and topk', drawSelection, 300],
  ['scan, window and sort', drawLanes, 300],
  ['transpose, reshape, slice and concat', drawMoves, 400],
  ['gather and scatter', drawIndexed, 300],
  ['bincount and histogram', drawCounts, 200],
  ['conv and distance', drawNeighbours, 300],
]

for (const [name, make, numRuns] of FAMILIES) {
  t.test(`${name}: equal bit for bit`, async (t) => {
    let ran = 0
    fc.assert(
      fc.property(fc.infiniteStream(fc.nat()), (seed) => {
        const draw = new Draw(seed)
        const definition = make(draw)
        const asked = definition.derive.op !== 'cast' && draw.below(5) === 0 ? draw.pick(DTYPES) : undefined
        if (compare(definition, asked)) ran++
      }),
      { numRuns },
    )
    t.ok(ran > numRuns / 3, `${ran} of ${numRuns} ran`)
  })
}
