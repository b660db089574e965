/**
 * conv, distance. The order of accumulation is the documented one (docs/guide/OPS.md), so results are exact.
 */
import { DTYPES, type Dtype } from '../../../src/wire/dtype.js'
import { fit, fusedMultiplyAdd, operate, type Scalar } from '../element.js'
import { commonDtype } from '../expression.js'
import { broadcastIndexExact, castTensor, coordinatesOf, type ReferenceOp, sizeOf } from '../tensor.js'
import { drawPage, drawSmallShape, isFloat, tamePage, tameShape } from './drawing.js'
import type { OpRecord, OpRecords } from './record.js'

/** Where an index outside an axis is read; undefined: nowhere. */
function inside(boundary: string, i: number, size: number): number | undefined {
  if (i >= 0 && i < size) return i
  if (boundary === 'zero') return undefined
  if (boundary === 'edge') return i < 0 ? 0 : size - 1
  return ((i % size) + size) % size
}

const computeConv: ReferenceOp = ({ x, kernel }, derive) => {
  const boundary = String(derive.boundary ?? 'zero')
  const dtype = commonDtype([x!.dtype, kernel!.dtype])
  const values = castTensor(x!, dtype).values
  const factors = castTensor(kernel!, dtype).values
  const zero: Scalar = isFloat(dtype) ? 0 : 0n
  const lead = x!.shape.length - kernel!.shape.length
  const out = values.map((_, place) => {
    const here = coordinatesOf(place, x!.shape)
    return factors.reduce((sum, factor, k) => {
      const shift = coordinatesOf(k, kernel!.shape)
      const there = here.map((i, axis) => {
        if (axis < lead) return i
        const own = axis - lead
        const at = i + shift[own]! - Math.floor(kernel!.shape[own]! / 2)
        return inside(boundary, at, x!.shape[axis]!)
      })
      const value = there.includes(undefined)
        ? zero
        : values[broadcastIndexExact(there as number[], x!.shape)]!
      if (dtype === 'bool') return (sum as bigint) | ((factor as bigint) & (value as bigint))
      return fusedMultiplyAdd(dtype, factor, value, sum)
    }, zero)
  })
  return { dtype, shape: x!.shape, values: out }
}

const LANES = 32

/** 32 lanes from 0, joined by halving. */
function laneSum(dtype: Dtype, terms: readonly (readonly [Scalar, Scalar])[]): number {
  const sums = new Array<Scalar>(LANES).fill(0)
  for (const [i, [a, b]] of terms.entries()) sums[i % LANES] = fusedMultiplyAdd(dtype, a, b, sums[i % LANES]!)
  for (let half = LANES / 2; half >= 1; half /= 2) {
    for (let i = 0; i < half; i++) sums[i] = operate('+', dtype, sums[i]!, sums[i + half]!)
  }
  return sums[0] as number
}

const computeDistance: ReferenceOp = ({ queries, vectors }, { metric }) => {
  const kinds = [queries!.dtype, vectors!.dtype]
  const floats = kinds.filter(isFloat)
  const dtype: Dtype = floats.length > 0 && !floats.includes('f64') ? 'f32' : 'f64'
  const [a, b] = [castTensor(queries!, dtype).values, castTensor(vectors!, dtype).values]
  const depth = vectors!.shape[1]!
  const round = (value: number): number => fit(dtype, value) as number
  const rows = (values: readonly Scalar[], count: number): Scalar[][] =>
    Array.from({ length: count }, (_, row) => values.slice(row * depth, (row + 1) * depth))
  const sum = (p: readonly Scalar[], q: readonly Scalar[]): number =>
    laneSum(
      dtype,
      p.map((value, i) => [value, q[i]!] as const),
    )
  const norm = (p: readonly Scalar[]): number => round(Math.sqrt(sum(p, p)))
  const count = queries!.shape.length === 2 ? queries!.shape[0]! : 1
  const values = rows(a, count).flatMap((q) =>
    rows(b, vectors!.shape[0]!).map((v) => {
      if (metric === 'dot') return sum(q, v)
      if (metric === 'l2') return norm(q.map((value, i) => operate('-', dtype, value, v[i]!)))
      return round(1 - round(sum(q, v) / round(norm(q) * norm(v))))
    }),
  )
  return { dtype, shape: [...queries!.shape.slice(0, -1), vectors!.shape[0]!], values }
}

const BOUNDARIES = ['zero', 'wrap', 'edge']
const METRICS = ['dot', 'l2', 'cosine']

const conv: OpRecord = {
  compute: computeConv,
  work: ({ kernel }) => sizeOf(kernel?.shape ?? []),
  overPages: (draw, pages) => {
    const x = draw.pick(pages)
    const small = pages.filter(({ shape }) => shape.length > 0 && sizeOf(shape) <= 64)
    if (small.length === 0) return undefined
    const inputs = { x: x.name, kernel: draw.pick(small).name }
    return { op: 'conv', inputs, boundary: draw.pick(BOUNDARIES) }
  },
  withPages: (draw) => {
    const [a, b] = [draw.pick(DTYPES), draw.pick(DTYPES)]
    const size = (): number => draw.pick([1, 2, 3, 4, 5, 9])
    const kernel = draw.chance(0.5) ? [draw.pick([1, 2, 3, 5, 40])] : [size(), size()]
    return {
      derive: { op: 'conv', inputs: { x: 'x', kernel: 'kernel' }, boundary: draw.pick(BOUNDARIES) },
      pages: {
        x: drawPage(draw, a, drawSmallShape(draw, kernel.length, 3)),
        kernel: drawPage(draw, b, kernel),
      },
    }
  },
  runs: 200,
  numpy: (draw, dtype) =>
    BOUNDARIES.map((boundary) => {
      const kernel = draw.chance(0.5)
        ? [draw.pick([1, 2, 3, 5, 6])]
        : [draw.pick([1, 2, 3, 4]), draw.pick([1, 3, 5])]
      const shape = tameShape(draw, kernel.length, 3)
      const taps = draw.chance(0.3)
        ? draw.pick(DTYPES.filter((name) => isFloat(name) || name === dtype))
        : dtype
      return {
        derive: { op: 'conv', inputs: { x: 'x', kernel: 'kernel' }, boundary },
        pages: { x: tamePage(draw, dtype, shape), kernel: tamePage(draw, taps, kernel) },
      }
    }),
  results: [
    [{ op: 'conv', inputs: { x: 'cube', kernel: 'flags' } }, 'i16', [2, 4, 3], [0, 0]],
    [{ op: 'conv', inputs: { x: 'cube', kernel: 'vector' }, boundary: 'edge' }, 'f64', [2, 4, 3], [2, 0]],
    [{ op: 'conv', inputs: { x: 'prices', kernel: 'qty' }, boundary: 'wrap' }, 'f32', [4, 3], [1, 0]],
  ],
  refusals: [
    [
      { op: 'conv', inputs: { x: 'vector', kernel: 'flags' } },
      /^SHAPE_MISMATCH x \(vector\) has 1 axes; with kernel/,
    ],
    [
      { op: 'conv', inputs: { x: 'cube', kernel: 'cube' } },
      /^SHAPE_MISMATCH kernel \(cube\) has 3 axes; a kernel has/,
    ],
    [
      { op: 'conv', inputs: { x: 'prices', kernel: 'empty' } },
      /^SHAPE_MISMATCH kernel \(empty\) \[0, 3\] has size 0 on/,
    ],
    [
      { op: 'conv', inputs: { x: 'prices', kernel: 'flags' }, boundary: 'mirror' },
      /^INVALID_REQUEST boundary is "mirror"/,
    ],
  ],
  partial: [
    ['conv: the kernel', { op: 'conv', inputs: { x: 'grid', kernel: 'stencil' } }, 'grid', 9],
    [
      'conv round the edge',
      { op: 'conv', inputs: { x: 'line', kernel: 'longer' }, boundary: 'wrap' },
      'line',
      16,
    ],
    ['conv, the kernel changes', { op: 'conv', inputs: { x: 'grid', kernel: 'line' } }, 'line', 1200],
  ],
  long: [
    { op: 'conv', inputs: { x: 'x', kernel: 'kernel' }, boundary: 'wrap' },
    { op: 'conv', inputs: { x: 'wide', kernel: 'kernel' }, boundary: 'edge' },
  ],
  conformance: () => [
    ['blurred', { op: 'conv', inputs: { x: 'grid', kernel: 'weights' }, boundary: 'edge' }],
    ['filtered', { op: 'conv', inputs: { x: 'x', kernel: 'taps' }, boundary: 'wrap' }],
  ],
}

const BOTH = { queries: 'queries', vectors: 'vectors' }

const distance: OpRecord = {
  compute: computeDistance,
  work: ({ queries }) => queries?.shape.at(-1) ?? 1,
  overPages: (draw, pages) => {
    const queries = draw.pick(pages)
    const fitting = pages.filter(({ shape }) => shape.length === 2 && shape[1] === queries.shape.at(-1))
    if (fitting.length === 0) return undefined
    const inputs = { queries: queries.name, vectors: draw.pick(fitting).name }
    return { op: 'distance', inputs, metric: draw.pick(METRICS) }
  },
  withPages: (draw) => {
    const [a, b] = [draw.pick(DTYPES), draw.pick(DTYPES)]
    const depth = draw.pick([0, 1, 3, 31, 32, 33, 70])
    const queries = draw.chance(1 / 3) ? [depth] : [draw.pick([0, 1, 4]), depth]
    return {
      derive: { op: 'distance', inputs: BOTH, metric: draw.pick(METRICS) },
      pages: {
        queries: drawPage(draw, a, queries),
        vectors: drawPage(draw, b, [draw.pick([0, 1, 5, 9]), depth]),
      },
    }
  },
  numpy: (draw, dtype) =>
    METRICS.map((metric) => {
      const depth = draw.pick([1, 3, 31, 32, 33, 100])
      return {
        derive: { op: 'distance', inputs: BOTH, metric },
        pages: {
          queries: tamePage(draw, dtype, draw.chance(0.3) ? [depth] : [draw.int(1, 4), depth]),
          vectors: tamePage(draw, draw.pick([dtype, 'f32', 'f64']), [draw.int(1, 20), depth]),
        },
      }
    }),
  results: [
    [{ op: 'distance', inputs: { queries: 'prices', vectors: 'ints' }, metric: 'l2' }, 'f32', [4, 3], [1, 0]],
    [{ op: 'distance', inputs: { queries: 'qty', vectors: 'ints' }, metric: 'dot' }, 'f64', [3], [0, 0]],
    [
      { op: 'distance', inputs: { queries: 'prices', vectors: 'ints' }, metric: 'cosine' },
      'f32',
      [4, 3],
      [2, 0],
    ],
  ],
  refusals: [
    [
      { op: 'distance', inputs: { queries: 'wide', vectors: 'ints' }, metric: 'l2' },
      /^SHAPE_MISMATCH queries \(wide\) \[3, 2\] has size 2 on axis 1, vectors/,
    ],
    [
      { op: 'distance', inputs: { queries: 'qty', vectors: 'vector' }, metric: 'l2' },
      /^SHAPE_MISMATCH vectors \(vector\) has 1 axes/,
    ],
  ],
  partial: [
    [
      'distance: a row',
      { op: 'distance', inputs: { queries: 'grid', vectors: 'few' }, metric: 'l2' },
      'grid',
      6,
    ],
  ],
  long: [{ op: 'distance', inputs: { queries: 'wide', vectors: 'few' }, metric: 'cosine' }],
  conformance: () => [
    ['far', { op: 'distance', inputs: { queries: 'grid', vectors: 'few' }, metric: 'cosine' }],
    ['near', { op: 'distance', inputs: { queries: 'few', vectors: 'grid' }, metric: 'l2' }],
    ['along', { op: 'distance', inputs: { queries: 'few', vectors: 'grid' }, metric: 'dot' }],
  ],
}

export const convRecords: OpRecords = { conv, distance }
