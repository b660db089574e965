/**
 * Every op of the catalogue, as plainly as can be: whole pages, element by element, over plain arrays. For tests only;
 * shares nothing with src/kernels or the native library, so that it can disagree. Takes only definitions that compile.
 *
 * Exact, bit for bit, but for the portable functions (exp, sin, pow...), which JavaScript rounds in its own way: isExact
 * tells which definitions to compare how. The order of accumulation is the documented one (docs/internals/DETERMINISM.md).
 */

import type { Derivation } from '../../src/state/types.js'
import { DTYPE_INFO, type Dtype } from '../../src/wire/dtype.js'
import { arrangeOps } from './arrange.js'
import { castScalar, fit, fusedMultiplyAdd, operate, type Scalar, toElement, toScalar } from './element.js'
import { commonDtype, evaluate, namesCalled, readTree } from './expression.js'
import { foldOps } from './fold.js'
import {
  broadcast,
  broadcastIndex,
  broadcastIndexExact,
  castTensor,
  coordinatesOf,
  lanes,
  type ReferenceOp,
  sizeOf,
  type Tensor,
  wholeAxis,
} from './tensor.js'

/** A page's contents: elements as a typed array of the dtype holds them. */
export interface ReferencePage {
  readonly dtype: Dtype
  readonly shape: readonly number[]
  readonly values: ArrayLike<number | bigint>
}

export interface ReferenceResult {
  readonly dtype: Dtype
  readonly shape: readonly number[]
  readonly values: (number | bigint)[]
}

/** The page that `derive` gives for these inputs, by role. `dtype`: the cast that the definition asks for. */
export function referenceEval(
  derive: Derivation,
  inputs: Readonly<Record<string, ReferencePage>>,
  dtype?: Dtype,
): ReferenceResult {
  const tensors: Record<string, Tensor> = {}
  for (const [role, page] of Object.entries(inputs)) {
    const values = Array.from(page.values, (element) => toScalar(page.dtype, element))
    tensors[role] = { dtype: page.dtype, shape: page.shape, values }
  }
  const result = OPS[derive.op]!(tensors, derive)
  const to = dtype ?? result.dtype
  const values = result.values.map((value) => toElement(to, castScalar(value, result.dtype, to)))
  return { dtype: to, shape: result.shape, values }
}

const INEXACT = new Set(['exp', 'log', 'log2', 'sin', 'cos', 'tan', 'tanh', 'pow', '**'])

/** Whether the result must be equal bit for bit; else within a few units in the last place. */
export function isExact(derive: Derivation): boolean {
  return derive.op !== 'map' || !namesCalled(readTree(String(derive.expr))).some((name) => INEXACT.has(name))
}

/** Whether two elements are the same value: -0 is not 0, NaN is NaN. */
export function sameElement(a: number | bigint, b: number | bigint): boolean {
  return Object.is(a, b)
}

/** Whether `got` is within `relative` of `wanted`, or within `absolute`; NaN and infinities must be equal. */
export function isNear(
  got: number | bigint,
  wanted: number | bigint,
  relative: number,
  absolute: number,
): boolean {
  if (Object.is(got, wanted)) return true
  const a = Number(got)
  const b = Number(wanted)
  return Math.abs(a - b) <= Math.max(absolute, relative * Math.abs(b))
}

// ---- ops --------------------------------------------------------------------------------------------------------------

const OPS: Readonly<Record<string, ReferenceOp>> = {
  copy: ({ x }) => x!,
  cast: ({ x }, { dtype }) => castTensor(x!, dtype as Dtype),
  map,
  reduce,
  matmul,
  quantile,
  topk,
  ...arrangeOps,
  ...foldOps,
}

function map(inputs: Readonly<Record<string, Tensor>>, derive: Derivation): Tensor {
  const tree = readTree(String(derive.expr))
  const shape = broadcast(Object.values(inputs).map((input) => input.shape))
  const environment = (at: number) => {
    const coordinates = coordinatesOf(at, shape)
    return Object.fromEntries(
      Object.entries(inputs).map(([name, { dtype, shape: own, values }]) => [
        name,
        { dtype, value: values[broadcastIndex(coordinates, own)]! },
      ]),
    )
  }
  const results = Array.from({ length: sizeOf(shape) }, (_, at) => evaluate(tree, environment(at)))
  // Types do not depend on values: zeros tell the dtype of a page without elements.
  const zeros = Object.entries(inputs).map(([name, { dtype }]) => [
    name,
    { dtype, value: castScalar(0, 'f64', dtype) },
  ])
  const { dtype } = results[0] ?? evaluate(tree, Object.fromEntries(zeros))
  return { dtype, shape, values: results.map(({ value }) => value) }
}

function reduce({ x }: Readonly<Record<string, Tensor>>, derive: Derivation): Tensor {
  const rank = x!.shape.length
  const axes =
    (derive.axes as number[] | undefined)?.map((axis) => wholeAxis(axis, rank)) ?? x!.shape.map((_, i) => i)
  const { kept, lanes: all } = lanes(x!, axes)
  const shape =
    derive.keepdims === true ? x!.shape.map((size, axis) => (axes.includes(axis) ? 1 : size)) : kept
  const fn = String(derive.fn)
  const dtype = reduceResult(fn, x!.dtype)
  const wide = DTYPE_INFO[x!.dtype].kind === 'float' || fn === 'mean' || fn === 'var' ? 'f64' : dtype
  return {
    dtype,
    shape,
    values: all.map((lane) => {
      const widened = wide === 'f64' ? lane.map(Number) : lane
      return fit(dtype, reduceLane(fn, wide, widened))
    }),
  }
}

function reduceResult(fn: string, dtype: Dtype): Dtype {
  const { kind } = DTYPE_INFO[dtype]
  if (fn === 'any' || fn === 'all') return 'bool'
  if (fn === 'count' || fn === 'argmin' || fn === 'argmax') return 'u32'
  if (fn === 'min' || fn === 'max' || kind === 'float') return dtype
  if (fn === 'mean' || fn === 'var') return 'f64'
  return kind === 'signed' ? 'i64' : 'u64'
}

function reduceLane(fn: string, wide: Dtype, lane: readonly Scalar[]): Scalar {
  const set = lane.filter((value) => value !== 0 && value !== 0n).length
  switch (fn) {
    case 'any':
      return set > 0 ? 1n : 0n
    case 'all':
      return set === lane.length ? 1n : 0n
    case 'count':
      return BigInt(set)
    case 'argmin':
    case 'argmax':
      return BigInt(firstExtreme(lane, fn === 'argmin'))
    case 'sum':
      return lane.length === 0 ? (wide === 'f64' ? 0 : 0n) : fold(lane, '+', wide)
    case 'prod':
      return lane.length === 0 ? (wide === 'f64' ? 1 : 1n) : fold(lane, '*', wide)
    case 'mean':
      return lane.length === 0 ? Number.NaN : (fold(lane, '+', 'f64') as number) / lane.length
    case 'var':
      return lane.length === 0 ? Number.NaN : variance(lane as number[])
    default:
      return lane.reduce((a, b) => operate(fn, wide, a, b))
  }
}

/** A NaN is the extreme; of equal ones the first. */
function firstExtreme(lane: readonly Scalar[], least: boolean): number {
  const nan = lane.findIndex((value) => Number.isNaN(value as number))
  if (nan >= 0) return nan
  let best = 0
  for (const [i, value] of lane.entries()) if (least ? value < lane[best]! : value > lane[best]!) best = i
  return best
}

const BLOCK = 1024
const LANES = 32

/** Blocks, then pairs of blocks, then pairs of those; an odd last one moves up as it is. */
function tree<T>(
  lane: readonly Scalar[],
  block: (values: readonly Scalar[]) => T,
  join: (a: T, b: T) => T,
): T {
  let level: T[] = []
  for (let at = 0; at < lane.length; at += BLOCK) level.push(block(lane.slice(at, at + BLOCK)))
  while (level.length > 1) {
    const next: T[] = []
    for (let i = 0; i < level.length; i += 2) {
      next.push(i + 1 < level.length ? join(level[i]!, level[i + 1]!) : level[i]!)
    }
    level = next
  }
  return level[0]!
}

/** In a block, 32 accumulators take every 32nd element; they are joined by halving. */
function foldBlock(values: readonly Scalar[], join: (a: Scalar, b: Scalar) => Scalar): Scalar {
  const accumulators: Scalar[] = []
  for (const [i, value] of values.entries()) {
    accumulators[i % LANES] = i < LANES ? value : join(accumulators[i % LANES]!, value)
  }
  for (let half = LANES / 2; half >= 1; half /= 2) {
    for (let i = 0; i < half && i + half < accumulators.length; i++) {
      accumulators[i] = join(accumulators[i]!, accumulators[i + half]!)
    }
    accumulators.length = Math.min(accumulators.length, half)
  }
  return accumulators[0]!
}

function fold(lane: readonly Scalar[], operator: '+' | '*', wide: Dtype): Scalar {
  const join = (a: Scalar, b: Scalar): Scalar => operate(operator, wide, a, b)
  return tree(lane, (values) => foldBlock(values, join), join)
}

/** Mean and squared distances of blocks, joined as in Chan, Golub and LeVeque (1979). */
function variance(lane: readonly number[]): number {
  const add = (a: Scalar, b: Scalar): Scalar => (a as number) + (b as number)
  const whole = tree(
    lane,
    (values) => {
      const mean = (foldBlock(values, add) as number) / values.length
      const squares = values.map((value) => ((value as number) - mean) * ((value as number) - mean))
      return { mean, squares: foldBlock(squares, add) as number, count: values.length }
    },
    (a, b) => {
      const count = a.count + b.count
      const distance = b.mean - a.mean
      return {
        mean: a.mean + distance * (b.count / count),
        squares: a.squares + b.squares + distance * distance * ((a.count * b.count) / count),
        count,
      }
    },
  )
  return whole.squares / lane.length
}

function matmul({ a, b }: Readonly<Record<string, Tensor>>, derive: Derivation): Tensor {
  const semiring = String(derive.semiring ?? 'plus_times')
  const dtype = semiring === 'or_and' ? 'bool' : commonDtype([a!.dtype, b!.dtype])
  const left = castTensor(a!, dtype)
  const right = castTensor(b!, dtype)
  const shapeA = left.shape.length === 1 ? [1, ...left.shape] : left.shape
  const shapeB = right.shape.length === 1 ? [...right.shape, 1] : right.shape
  const [rows, depth] = shapeA.slice(-2) as [number, number]
  const columns = shapeB.at(-1)!
  const batchA = shapeA.slice(0, -2)
  const batchB = shapeB.slice(0, -2)
  const batch = broadcast([batchA, batchB])
  const values: Scalar[] = []
  for (let matrix = 0; matrix < sizeOf(batch); matrix++) {
    const coordinates = coordinatesOf(matrix, batch)
    const atA = broadcastIndex(coordinates, batchA) * rows * depth
    const atB = broadcastIndex(coordinates, batchB) * depth * columns
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        let sum = ZEROS[semiring]!(dtype)
        for (let k = 0; k < depth; k++) {
          const x = left.values[atA + row * depth + k]!
          const y = right.values[atB + k * columns + column]!
          sum = SEMIRINGS[semiring]!(dtype, sum, x, y)
        }
        values.push(sum)
      }
    }
  }
  const tail = [...(left.shape.length > 1 ? [rows] : []), ...(right.shape.length > 1 ? [columns] : [])]
  return { dtype, shape: [...batch, ...tail], values }
}

const SEMIRINGS: Readonly<Record<string, (dtype: Dtype, sum: Scalar, x: Scalar, y: Scalar) => Scalar>> = {
  plus_times: (dtype, sum, x, y) =>
    dtype === 'bool' ? (sum as bigint) | ((x as bigint) & (y as bigint)) : fusedMultiplyAdd(dtype, x, y, sum),
  min_plus: (dtype, sum, x, y) => operate('min', dtype, sum, operate('+', dtype, x, y)),
  max_plus: (dtype, sum, x, y) => operate('max', dtype, sum, operate('+', dtype, x, y)),
  or_and: (_, sum, x, y) => (sum as bigint) | ((x as bigint) & (y as bigint)),
}

/** What a chain begins with. */
const ZEROS: Readonly<Record<string, (dtype: Dtype) => Scalar>> = {
  plus_times: (dtype) => (DTYPE_INFO[dtype].kind === 'float' ? 0 : 0n),
  min_plus: (dtype) => DTYPE_INFO[dtype].max ?? Number.POSITIVE_INFINITY,
  max_plus: (dtype) => DTYPE_INFO[dtype].min ?? Number.NEGATIVE_INFINITY,
  or_and: () => 0n,
}

/** NumPy's default method (linear), over doubles; a NaN anywhere gives NaN. */
function quantile({ x }: Readonly<Record<string, Tensor>>, derive: Derivation): Tensor {
  const axes =
    derive.axis === undefined ? x!.shape.map((_, i) => i) : [wholeAxis(derive.axis, x!.shape.length)]
  const { kept, lanes: all } = lanes(x!, axes)
  const dtype = x!.dtype === 'f32' ? 'f32' : 'f64'
  return {
    dtype,
    shape: kept,
    values: all.map((lane) => fit(dtype, quantileOf(lane.map(Number), derive.q as number))),
  }
}

function quantileOf(lane: readonly number[], q: number): number {
  if (lane.some(Number.isNaN)) return Number.NaN
  const sorted = [...lane].sort((a, b) =>
    a < b || (a === b && Object.is(a, -0) && !Object.is(b, -0)) ? -1 : 1,
  )
  const place = q * (sorted.length - 1)
  const low = Math.floor(place)
  const rest = place - low
  const a = sorted[low]!
  const b = sorted[Math.min(low + 1, sorted.length - 1)]!
  // At a whole place, and between equals, there is nothing to interpolate, so that infinities stay.
  if (rest === 0 || a === b) return a
  return rest >= 0.5 ? b - (b - a) * (1 - rest) : a + (b - a) * rest
}

function topk({ x }: Readonly<Record<string, Tensor>>, derive: Derivation): Tensor {
  const axis = wholeAxis(derive.axis ?? -1, x!.shape.length)
  const { k, output, largest } = derive as unknown as { k: number; output: string; largest?: boolean }
  const { kept, lanes: all } = lanes(x!, [axis])
  const shape = x!.shape.map((size, i) => (i === axis ? k : size))
  const values = new Array<Scalar>(sizeOf(shape))
  for (const [laneNumber, lane] of all.entries()) {
    const order = [...lane.keys()].sort((i, j) => orderOf(lane[i]!, lane[j]!, largest !== false) || i - j)
    for (const [rank, index] of order.slice(0, k).entries()) {
      const coordinates = coordinatesOf(laneNumber, kept)
      coordinates.splice(axis, 0, rank)
      values[broadcastIndexExact(coordinates, shape)] = output === 'indices' ? BigInt(index) : lane[index]!
    }
  }
  return { dtype: output === 'indices' ? 'u32' : x!.dtype, shape, values }
}

/** Best first, NaN last. */
function orderOf(a: Scalar, b: Scalar, largest: boolean): number {
  const nanA = Number.isNaN(a as number) ? 1 : 0
  const nanB = Number.isNaN(b as number) ? 1 : 0
  if (nanA + nanB > 0) return nanA - nanB
  if (a === b) return 0
  return a > b === largest ? -1 : 1
}
