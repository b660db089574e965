/**
 * distance, in each of its versions. The order of work is the documented one
 * (src/kernels/native/ops/products/distance_sums.cuh), so results are exact. How near they are to the true
 * distances is another question, which test/kernels/distance.test.ts answers with integers of any size.
 */
import { DTYPE_INFO, DTYPES, type Dtype, type TypedArray } from '../../../src/wire/dtype.js'
import type { Draw } from '../../lib/draw.js'
import { fit, fusedMultiplyAdd, operate, type Scalar } from '../element.js'
import { fmaF64 } from '../fma.js'
import { castTensor, type ReferenceOp, type Tensor } from '../tensor.js'
import { drawPage, isFloat, tamePage } from './drawing.js'
import type { OpRecord, OpRecords, TestPage } from './record.js'

const LANES = 32

function resultDtype(queries: Tensor, vectors: Tensor): Dtype {
  const floats = [queries.dtype, vectors.dtype].filter(isFloat)
  return floats.length > 0 && !floats.includes('f64') ? 'f32' : 'f64'
}

/** Every query with every vector, all in the dtype of the result. */
function ofAllPairs(
  queries: Tensor,
  vectors: Tensor,
  distance: (query: number[], vector: number[]) => number,
): Tensor {
  const dtype = resultDtype(queries, vectors)
  const depth = vectors.shape[1]!
  const rows = (tensor: Tensor, count: number): number[][] => {
    const { values } = castTensor(tensor, dtype)
    return Array.from({ length: count }, (_, row) => values.slice(row * depth, (row + 1) * depth).map(Number))
  }
  const all = rows(vectors, vectors.shape[0]!)
  const values = rows(queries, queries.shape.length === 2 ? queries.shape[0]! : 1).flatMap((query) =>
    all.map((vector) => distance(query, vector)),
  )
  return { dtype, shape: [...queries.shape.slice(0, -1), vectors.shape[0]!], values }
}

// ---- version 1 --------------------------------------------------------------------------------------------

/** 32 lanes from 0, joined by halving: everything in the dtype of the result. */
function laneSum(dtype: Dtype, terms: readonly (readonly [Scalar, Scalar])[]): number {
  const sums = new Array<Scalar>(LANES).fill(0)
  for (const [i, [a, b]] of terms.entries()) sums[i % LANES] = fusedMultiplyAdd(dtype, a, b, sums[i % LANES]!)
  for (let half = LANES / 2; half >= 1; half /= 2) {
    for (let i = 0; i < half; i++) sums[i] = operate('+', dtype, sums[i]!, sums[i + half]!)
  }
  return sums[0] as number
}

/** Version 1. */
const computeDistance1: ReferenceOp = ({ queries, vectors }, { metric }) => {
  const dtype = resultDtype(queries!, vectors!)
  const round = (value: number): number => fit(dtype, value) as number
  const sum = (p: readonly Scalar[], q: readonly Scalar[]): number =>
    laneSum(
      dtype,
      p.map((value, i) => [value, q[i]!] as const),
    )
  const norm = (p: readonly Scalar[]): number => round(Math.sqrt(sum(p, p)))
  return ofAllPairs(queries!, vectors!, (q, v) => {
    if (metric === 'dot') return sum(q, v)
    if (metric === 'l2') return norm(q.map((value, i) => operate('-', dtype, value, v[i]!)))
    return round(1 - round(sum(q, v) / round(norm(q) * norm(v))))
  })
}

// ---- version 2 --------------------------------------------------------------------------------------------

type Pairs = (query: number, vector: number) => readonly [number, number]

/** What `a + b` lost by rounding. */
function lostBySum(a: number, b: number, sum: number): number {
  const part = sum - a
  return a - (sum - part) + (b - part)
}

/** The sum of products, in f64 (for results of f32) or with the rounding errors beside it (f64). */
function sumOfProducts(
  dtype: Dtype,
  query: readonly number[],
  vector: readonly number[],
  pair: Pairs,
): number {
  const sums = new Array<number>(LANES).fill(0)
  const errors = new Array<number>(LANES).fill(0)
  for (const [i, q] of query.entries()) {
    const [x, y] = pair(q, vector[i]!)
    const lane = i % LANES
    if (dtype === 'f32') {
      sums[lane] = fmaF64(x, y, sums[lane]!)
      continue
    }
    const product = x * y
    const sum = sums[lane]! + product
    errors[lane]! += fmaF64(x, y, -product) + lostBySum(sums[lane]!, product, sum)
    sums[lane] = sum
  }
  for (let half = LANES / 2; half >= 1; half /= 2) {
    for (let i = 0; i < half; i++) {
      const sum = sums[i]! + sums[i + half]!
      errors[i] = errors[i]! + errors[i + half]! + lostBySum(sums[i]!, sums[i + half]!, sum)
      sums[i] = sum
    }
  }
  return dtype === 'f64' ? sums[0]! + errors[0]! : sums[0]!
}

const square: Pairs = (q, v) => [q - v, q - v]
const product: Pairs = (q, v) => [q, v]

/** q - times * v as a number and what it lacks. */
function without(times: number, q: number, v: number): [number, number] {
  const part = times * v
  const partLost = fmaF64(times, v, -part)
  const rest = q - part
  const high = rest - partLost
  return [high, lostBySum(q, -part, rest) + lostBySum(rest, -partLost, high)]
}

/** The exponent of a finite number above 0. */
function exponentOf(x: number): number {
  let exponent = Math.floor(Math.log2(x))
  while (2 ** exponent > x) exponent--
  while (exponent < 1023 && 2 ** (exponent + 1) <= x) exponent++
  return exponent
}

/** Numbers times a power of two, which may lie beyond the range. */
function scale(values: readonly number[], exponent: number): number[] {
  const half = Math.trunc(exponent / 2)
  return values.map((value) => value * 2 ** half * 2 ** (exponent - half))
}

function timesPowerOfTwo(x: number, exponent: number): number {
  const third = Math.trunc(exponent / 3)
  return x * 2 ** third * 2 ** third * 2 ** (exponent - 2 * third)
}

const largest = (values: readonly number[]): number =>
  values.reduce((most, value) => Math.max(most, Math.abs(value)), 0)

const signs = (values: readonly number[]): number[] =>
  values.map((value) => (Number.isFinite(value) ? Math.sign(value) : value))

const isTame = (x: number): boolean => x >= 2 ** -400 && x <= 2 ** 900

function dot(dtype: Dtype, query: readonly number[], vector: readonly number[]): number {
  const sum = sumOfProducts(dtype, query, vector, product)
  if (dtype === 'f32' || Number.isFinite(sum)) return sum
  const most = [largest(query), largest(vector)] as const
  if (!most.every(Number.isFinite)) return sumOfProducts('f32', signs(query), signs(vector), product)
  const [q, v] = most.map(exponentOf) as [number, number]
  return timesPowerOfTwo(sumOfProducts(dtype, scale(query, -q), scale(vector, -v), product), q + v)
}

function l2(dtype: Dtype, query: readonly number[], vector: readonly number[]): number {
  const sum = sumOfProducts(dtype, query, vector, square)
  if (dtype === 'f32' || isTame(sum)) return Math.sqrt(sum)
  const differences = query.map((q, i) => q - vector[i]!)
  const most = largest(differences)
  if (most === 0 || !Number.isFinite(most)) return most
  const exponent = exponentOf(most)
  const scaled = scale(differences, -exponent)
  return timesPowerOfTwo(Math.sqrt(sumOfProducts(dtype, scaled, scaled, product)), exponent)
}

function cosine(dtype: Dtype, query: readonly number[], vector: readonly number[]): number {
  const querySquare = sumOfProducts(dtype, query, query, product)
  const vectorSquare = sumOfProducts(dtype, vector, vector, product)
  if (dtype === 'f64' && !(isTame(querySquare) && isTame(vectorSquare))) {
    const most = [largest(query), largest(vector)] as const
    if (!most.every((value) => value > 0 && value < Number.POSITIVE_INFINITY)) return Number.NaN
    return cosine(dtype, scale(query, -exponentOf(most[0])), scale(vector, -exponentOf(most[1])))
  }
  const inner = sumOfProducts(dtype, query, vector, product)
  const cos = inner / (Math.sqrt(querySquare) * Math.sqrt(vectorSquare))
  if (!(cos > (dtype === 'f32' ? 1023 / 1024 : 0.5))) return Math.min(1 - cos, 2)
  const along = inner / vectorSquare
  const more = sumOfProducts(dtype, query, vector, (q, v) => [without(along, q, v)[0], v]) / vectorSquare
  const acrossOf = (q: number, v: number): number => {
    const [rest, lacks] = without(along, q, v)
    return fmaF64(-more, v, rest) + lacks
  }
  const across = sumOfProducts(dtype, query, vector, (q, v) => [acrossOf(q, v), acrossOf(q, v)])
  let sineSquare = across / querySquare
  if (sineSquare < 2 ** -140) {
    const left = sumOfProducts(dtype, query, vector, (q, v) => [acrossOf(q, v), v])
    sineSquare = (across - left * (left / vectorSquare)) / querySquare
  }
  return sineSquare < 2 ** -200 ? 0 : sineSquare / (1 + cos)
}

const METRIC_FUNCTIONS = { dot, l2, cosine }

const computeDistance: ReferenceOp = ({ queries, vectors }, { metric }) => {
  const dtype = resultDtype(queries!, vectors!)
  const distance = METRIC_FUNCTIONS[metric as keyof typeof METRIC_FUNCTIONS]
  return ofAllPairs(queries!, vectors!, (q, v) => fit(dtype, distance(dtype, q, v)) as number)
}

// ---- the record -------------------------------------------------------------------------------------------

const METRICS = ['dot', 'l2', 'cosine']

/** From -0.5 up to 0.5. */
const fraction = (draw: Draw): number => draw.int(0, 2 ** 31) / 2 ** 31 - 0.5

/** Floats of every size, and vectors that point almost where a query does. */
function neighbours(draw: Draw, depth: number): Readonly<Record<string, TestPage>> {
  const dtype = draw.pick(['f32', 'f64'] as const)
  const reach = dtype === 'f32' ? 120 : 1000
  const { view, sizeBytes } = DTYPE_INFO[dtype]
  const make = (count: number): TypedArray => view(new ArrayBuffer(count * sizeBytes), 0, count)
  const query = make(depth)
  const size = 2 ** draw.int(-reach, reach)
  for (let i = 0; i < depth; i++) query[i] = fraction(draw) * size * (draw.chance(0.2) ? 1e-9 : 1)
  const vectors = make(6 * depth)
  for (let row = 0; row < 6; row++) {
    const factor = draw.pick([1, -1, 3, 1e-3, 2 ** draw.int(-reach, reach)])
    const noise = draw.pick([0, 1, 1e-3, 1e-7, 1e-12, 1e-15])
    for (let i = 0; i < depth; i++) {
      vectors[row * depth + i] = Number(query[i]) * factor * (1 + noise * fraction(draw))
    }
  }
  return {
    queries: { dtype, shape: [depth], values: query },
    vectors: { dtype, shape: [6, depth], values: vectors },
  }
}

const BOTH = { queries: 'queries', vectors: 'vectors' }

const distance: OpRecord = {
  compute: computeDistance,
  old: [computeDistance1],
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
    const derive = { op: 'distance', inputs: BOTH, metric: draw.pick(METRICS) }
    if (draw.chance(0.4)) return { derive, pages: neighbours(draw, depth) }
    return {
      derive,
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

export const distanceRecords: OpRecords = { distance }
