/**
 * reduce. The order of accumulation is the documented one (docs/internals/DETERMINISM.md), so
 * results are exact.
 */
import { DTYPE_INFO, DTYPES, type Dtype } from '../../../src/wire/dtype.js'
import { fit, operate, type Scalar } from '../element.js'
import { lanes, type ReferenceOp, wholeAxis } from '../tensor.js'
import { drawPage, drawShape, eitherWay, ONE_INPUT, pickAxis, tameAxis, tamePage } from './drawing.js'
import type { OpRecord, OpRecords } from './record.js'

const compute: ReferenceOp = ({ x }, derive) => {
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

const FUNCTIONS = ['sum', 'prod', 'min', 'max', 'mean', 'var', 'any', 'all', 'count', 'argmin', 'argmax']
/** Around the sizes of blocks. */
const LONG_SHAPES = [[5000], [3, 2049], [1023], [1024], [1025], [4097, 2], [2, 1500, 3]]

const reduce: OpRecord = {
  compute,
  overPages: (draw, pages) => {
    const { inputs, axis } = pickAxis(draw, pages)
    return {
      op: 'reduce',
      inputs,
      fn: draw.pick(FUNCTIONS),
      ...(axis !== undefined && draw.chance(0.6) && { axes: [axis] }),
      ...(draw.chance(0.3) && { keepdims: true }),
    }
  },
  withPages: (draw) => {
    const shape = draw.chance(0.25) ? draw.pick(LONG_SHAPES) : drawShape(draw, 0, 4)
    const axes = shape.map((_, axis) => axis).filter(() => draw.chance(0.5))
    const derive = {
      op: 'reduce',
      inputs: ONE_INPUT,
      fn: draw.pick(FUNCTIONS),
      ...(axes.length > 0 && { axes: axes.map((axis) => eitherWay(draw, axis, shape.length)) }),
      ...(draw.chance(1 / 3) && { keepdims: true }),
    }
    return { derive, pages: { x: drawPage(draw, draw.pick(DTYPES), shape) } }
  },
  runs: 500,
  numpy: (draw, dtype) =>
    FUNCTIONS.map((fn) => {
      const { shape } = tameAxis(draw)
      if (shape.includes(0)) shape.splice(0, shape.length, 7, 6)
      const axes = shape.map((_, axis) => axis).filter(() => draw.chance(0.6))
      const listed =
        axes.length === 0 ? {} : { axes: axes.map((axis) => eitherWay(draw, axis, shape.length)) }
      return {
        derive: { op: 'reduce', inputs: ONE_INPUT, fn, ...listed, keepdims: draw.chance(0.5) },
        pages: { x: tamePage(draw, dtype, fn === 'prod' ? [3, 2, 2].slice(0, shape.length) : shape, true) },
      }
    }),
  results: [
    [{ op: 'reduce', inputs: { x: 'prices' }, fn: 'sum' }, 'f32', [], [0, 3, 0, 0]],
    [{ op: 'reduce', inputs: { x: 'prices' }, fn: 'mean', axes: [-1] }, 'f32', [4], [4, 2, 0, 0]],
    [
      { op: 'reduce', inputs: { x: 'cube' }, fn: 'sum', axes: [2, 0], keepdims: true },
      'i64',
      [1, 4, 1],
      [0, 5, 1, 0],
    ],
    [{ op: 'reduce', inputs: { x: 'cube' }, fn: 'var', axes: [1] }, 'f64', [2, 3], [5, 2, 0, 0]],
    [{ op: 'reduce', inputs: { x: 'flags' }, fn: 'prod', axes: [0] }, 'u64', [3], [1, 1, 0, 0]],
    [{ op: 'reduce', inputs: { x: 'cube' }, fn: 'max', axes: [0] }, 'i16', [4, 3], [3, 1, 0, 0]],
    [{ op: 'reduce', inputs: { x: 'cube' }, fn: 'any', axes: [0, 1] }, 'bool', [3], [6, 3, 0, 0]],
    [{ op: 'reduce', inputs: { x: 'cube' }, fn: 'argmin', axes: [0] }, 'u32', [4, 3], [9, 1, 0, 0]],
    [{ op: 'reduce', inputs: { x: 'empty' }, fn: 'sum', axes: [0] }, 'u64', [3], [0, 1, 0, 0]],
    [{ op: 'reduce', inputs: { x: 'empty' }, fn: 'max', axes: [1] }, 'u8', [0], [3, 2, 0, 0]],
    [{ op: 'reduce', inputs: { x: 'scalar' }, fn: 'count' }, 'u32', [], [8, 0, 0, 0]],
  ],
  refusals: [
    [
      { op: 'reduce', inputs: { x: 'prices' }, fn: 'sum', axis: 1 },
      /^INVALID_REQUEST reduce has no parameter 'axis'; its parameters: axes, fn, keepdims/,
    ],
    [{ op: 'reduce', inputs: { x: 'prices' } }, /^INVALID_REQUEST reduce needs fn/],
    [
      { op: 'reduce', inputs: { x: 'prices' }, fn: 'median' },
      /^INVALID_REQUEST fn is "median"; it must be one of sum, prod/,
    ],
    [{ op: 'reduce', inputs: { x: 'prices' }, fn: 'sum', axes: 1 }, /^INVALID_REQUEST axes must be an array/],
    [
      { op: 'reduce', inputs: { x: 'prices' }, fn: 'sum', axes: [0, -2] },
      /^INVALID_REQUEST axes names axis 0 twice/,
    ],
    [
      { op: 'reduce', inputs: { x: 'prices' }, fn: 'sum', axes: [2] },
      /^SHAPE_MISMATCH axes: 2 is out of range: x \(prices\) has shape \[4, 3\]/,
    ],
    [
      { op: 'reduce', inputs: { x: 'prices' }, fn: 'sum', keepdims: 1 },
      /^INVALID_REQUEST keepdims is 1; it must be true or false/,
    ],
    [
      { op: 'reduce', inputs: { x: 'empty' }, fn: 'min' },
      /^SHAPE_MISMATCH min needs at least one element: x \(empty\) \[0, 3\] has size 0 on axis 0/,
    ],
    [{ op: 'reduce', inputs: { x: 'empty' }, fn: 'argmax', axes: [0] }, /^SHAPE_MISMATCH argmax needs/],
  ],
  long: FUNCTIONS.flatMap((fn) => [
    { op: 'reduce', inputs: ONE_INPUT, fn },
    { op: 'reduce', inputs: { x: 'wide' }, fn, axes: [0] },
    { op: 'reduce', inputs: { x: 'wide' }, fn, axes: [1] },
    { op: 'reduce', inputs: { x: 'rows' }, fn, axes: [1] },
  ]),
  conformance: (_, length) => [
    ['total', { op: 'reduce', inputs: ONE_INPUT, fn: 'sum' }],
    ['rows', { op: 'reduce', inputs: { x: 'grid' }, fn: 'mean', axes: [1] }],
    ['columns', { op: 'reduce', inputs: { x: 'grid' }, fn: 'var', axes: [0] }],
    ...['prod', 'any', 'all', 'count'].map(
      (fn) => [`x.${fn}`, { op: 'reduce', inputs: ONE_INPUT, fn }] as const,
    ),
    ...(length === 0 ? [] : ['min', 'max', 'argmin', 'argmax']).flatMap((fn) => [
      [`x.${fn}`, { op: 'reduce', inputs: ONE_INPUT, fn }] as const,
      [`columns.${fn}`, { op: 'reduce', inputs: { x: 'grid' }, fn, axes: [0] }] as const,
      [`rows.${fn}`, { op: 'reduce', inputs: { x: 'grid' }, fn, axes: [1] }] as const,
    ]),
  ],
}

export const reduceRecords: OpRecords = { reduce }
