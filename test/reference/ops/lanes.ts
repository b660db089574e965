/**
 * scan, window, sort. The order of accumulation is the documented one (docs/guide/OPS.md), so
 * results are exact.
 */
import { DTYPE_INFO, DTYPES, type Dtype } from '../../../src/wire/dtype.js'
import type { Draw } from '../../lib/draw.js'
import { fit, operate, type Scalar } from '../element.js'
import {
  broadcastIndexExact,
  build,
  coordinatesOf,
  elementAt,
  type ReferenceOp,
  type Tensor,
  wholeAxis,
} from '../tensor.js'
import {
  drawPage,
  drawSmallShape,
  eitherWay,
  isFloat,
  ONE_INPUT,
  pickAxis,
  tameAxis,
  tamePage,
} from './drawing.js'
import type { OpRecord, OpRecords, TestPage } from './record.js'

function foldDtype(fn: string, dtype: Dtype): Dtype {
  if (fn === 'min' || fn === 'max' || isFloat(dtype)) return dtype
  return fn === 'mean' ? 'f64' : DTYPE_INFO[dtype].kind === 'signed' ? 'i64' : 'u64'
}

/** What a fold works in, and its operation. */
function folding(fn: string, dtype: Dtype): { wide: Dtype; join: (a: Scalar, b: Scalar) => Scalar } {
  const wide = fn === 'mean' || isFloat(dtype) ? 'f64' : foldDtype(fn, dtype)
  const name = fn === 'sum' || fn === 'mean' ? '+' : fn === 'prod' ? '*' : fn
  return { wide, join: (a, b) => operate(name, wide, a, b) }
}

/** Each lane along an axis becomes another of the same length. */
function overLanes(
  x: Tensor,
  axis: number,
  dtype: Dtype,
  turn: (lane: readonly Scalar[]) => readonly Scalar[],
): Tensor {
  const values = [...x.values]
  for (const place of x.values.keys()) {
    const start = coordinatesOf(place, x.shape)
    if (start[axis] !== 0) continue
    const places = Array.from({ length: x.shape[axis]! }, (_, i) =>
      broadcastIndexExact(
        start.map((own, d) => (d === axis ? i : own)),
        x.shape,
      ),
    )
    const turned = turn(places.map((at) => x.values[at]!))
    for (const [i, at] of places.entries()) values[at] = turned[i]!
  }
  return { dtype, shape: x.shape, values }
}

const computeScan: ReferenceOp = ({ x }, derive) => {
  const fn = String(derive.fn)
  const axis = wholeAxis(derive.axis ?? -1, x!.shape.length)
  const { wide, join } = folding(fn, x!.dtype)
  const dtype = foldDtype(fn, x!.dtype)
  const widened: Tensor = { ...x!, values: wide === 'f64' ? x!.values.map(Number) : x!.values }
  return overLanes(widened, axis, dtype, (lane) => {
    const sums: Scalar[] = []
    for (const value of lane) sums.push(sums.length === 0 ? value : join(sums.at(-1)!, value))
    return sums.map((sum) => fit(dtype, sum))
  })
}

/** A block of a power of two: as a balanced tree. */
function treeFold(block: readonly Scalar[], join: (a: Scalar, b: Scalar) => Scalar): Scalar {
  if (block.length === 1) return block[0]!
  const half = block.length / 2
  return join(treeFold(block.slice(0, half), join), treeFold(block.slice(half), join))
}

/** Blocks of powers of two, the largest and oldest first, joined from the newest. */
function windowFold(values: readonly Scalar[], join: (a: Scalar, b: Scalar) => Scalar): Scalar {
  const size = 2 ** Math.floor(Math.log2(values.length))
  const block = treeFold(values.slice(0, size), join)
  return values.length === size ? block : join(block, windowFold(values.slice(size), join))
}

const computeWindow: ReferenceOp = ({ x }, derive) => {
  const fn = String(derive.fn)
  const size = derive.size as number
  const axis = wholeAxis(derive.axis ?? -1, x!.shape.length)
  const { wide, join } = folding(fn, x!.dtype)
  const dtype = foldDtype(fn, x!.dtype)
  const widened: Tensor = { ...x!, values: wide === 'f64' ? x!.values.map(Number) : x!.values }
  return overLanes(widened, axis, dtype, (lane) =>
    lane.map((_, i) => {
      const seen = lane.slice(Math.max(0, i + 1 - size), i + 1)
      const fold = windowFold(seen, join)
      return fit(dtype, fn === 'mean' ? (fold as number) / seen.length : fold)
    }),
  )
}

const computeSort: ReferenceOp = ({ x }, derive) => {
  const axis = wholeAxis(derive.axis ?? -1, x!.shape.length)
  const sign = derive.descending === true ? -1 : 1
  const order = (a: Scalar, b: Scalar): number => {
    const nans = Number(Number.isNaN(a as number)) - Number(Number.isNaN(b as number))
    if (nans !== 0 || Number.isNaN(a as number)) return nans
    return a === b ? 0 : (a < b ? -1 : 1) * sign
  }
  const size = x!.shape[axis]!
  const sorted = new Map<string, Scalar[]>()
  return build(x!.dtype, x!.shape, (out) => {
    const place = (i: number): number[] => out.map((own, d) => (d === axis ? i : own))
    const key = place(0).join()
    const lane =
      sorted.get(key) ?? Array.from({ length: size }, (_, i) => elementAt(x!, place(i))).sort(order)
    sorted.set(key, lane)
    return lane[out[axis]!]!
  })
}

/** A page of lanes, now and then longer than a block, and one of its axes. */
function drawLanes(draw: Draw): { pages: { x: TestPage }; axis: number } {
  const shape = draw.chance(1 / 8) ? draw.pick([[1100], [2, 1030], [1030, 2]]) : drawSmallShape(draw, 1, 3)
  const axis = eitherWay(draw, draw.int(0, shape.length - 1), shape.length)
  return { pages: { x: drawPage(draw, draw.pick(DTYPES), shape) }, axis }
}

const SCANS = ['sum', 'prod', 'min', 'max']

const scan: OpRecord = {
  compute: computeScan,
  work: () => 4,
  overPages: (draw, pages) => {
    const { inputs, axis } = pickAxis(draw, pages)
    return axis === undefined ? undefined : { op: 'scan', inputs, fn: draw.pick(SCANS), axis }
  },
  withPages: (draw) => {
    const { pages, axis } = drawLanes(draw)
    return { derive: { op: 'scan', inputs: ONE_INPUT, fn: draw.pick(SCANS), axis }, pages }
  },
  numpy: (draw, dtype) =>
    SCANS.map((fn) => {
      const { shape, axis } = tameAxis(draw)
      const small = fn === 'prod' && isFloat(dtype) ? shape.map((size) => Math.min(size, 5)) : shape
      return {
        derive: { op: 'scan', inputs: ONE_INPUT, fn, axis },
        pages: { x: tamePage(draw, dtype, small, true) },
      }
    }),
  results: [
    [{ op: 'scan', inputs: { x: 'cube' }, fn: 'prod', axis: 0 }, 'i64', [2, 4, 3], [1, 0]],
    [{ op: 'scan', inputs: { x: 'cube' }, fn: 'min' }, 'i16', [2, 4, 3], [2, 2]],
    [{ op: 'scan', inputs: { x: 'flags' }, fn: 'max' }, 'bool', [3, 3], [3, 1]],
  ],
  refusals: [
    [
      { op: 'scan', inputs: { x: 'prices' }, fn: 'mean' },
      /^INVALID_REQUEST fn is "mean"; it must be one of sum, prod, min, max/,
    ],
    [{ op: 'scan', inputs: { x: 'scalar' }, fn: 'sum' }, /^SHAPE_MISMATCH axis -1: x \(scalar\) has no axes/],
  ],
  partial: [
    [
      'scan of columns: from the row on',
      { op: 'scan', inputs: { x: 'grid' }, fn: 'max', axis: 0 },
      'grid',
      28,
    ],
    [
      'scan of rows: from the column on',
      { op: 'scan', inputs: { x: 'grid' }, fn: 'sum', axis: 1 },
      'grid',
      23,
    ],
  ],
  long: [
    ...SCANS.map((fn) => ({ op: 'scan', inputs: ONE_INPUT, fn, axis: 0 })),
    ...SCANS.map((fn) => ({ op: 'scan', inputs: { x: 'wide' }, fn, axis: 0 })),
  ],
  conformance: () => [
    ['running', { op: 'scan', inputs: ONE_INPUT, fn: 'sum', axis: 0 }],
    ['peaks', { op: 'scan', inputs: { x: 'grid' }, fn: 'max', axis: 0 }],
    ['growth', { op: 'scan', inputs: { x: 'grid' }, fn: 'prod', axis: 1 }],
    ['least', { op: 'scan', inputs: ONE_INPUT, fn: 'min', axis: 0 }],
  ],
}

const WINDOWS = ['sum', 'min', 'max', 'mean']

const window: OpRecord = {
  compute: computeWindow,
  work: () => 4,
  overPages: (draw, pages) => {
    const { inputs, axis } = pickAxis(draw, pages)
    if (axis === undefined) return undefined
    const size = draw.pick([1, 2, 3, 5, 6, 40])
    return { op: 'window', inputs, fn: draw.pick(WINDOWS), size, axis }
  },
  withPages: (draw) => {
    const { pages, axis } = drawLanes(draw)
    const size = draw.pick([1, 2, 3, 4, 5, 7, 8, 13, 32, 100, 2000])
    return { derive: { op: 'window', inputs: ONE_INPUT, fn: draw.pick(WINDOWS), size, axis }, pages }
  },
  numpy: (draw, dtype) =>
    WINDOWS.map((fn) => {
      const { shape, axis } = tameAxis(draw)
      return {
        derive: { op: 'window', inputs: ONE_INPUT, fn, size: draw.pick([1, 2, 3, 5, 8, 40]), axis },
        pages: { x: tamePage(draw, dtype, shape, true) },
      }
    }),
  results: [
    [{ op: 'window', inputs: { x: 'cube' }, fn: 'mean', size: 9, axis: -2 }, 'f64', [2, 4, 3], [4, 9, 1, 0]],
    [{ op: 'window', inputs: { x: 'prices' }, fn: 'max', size: 3, axis: 0 }, 'f32', [4, 3], [3, 3, 0, 0]],
  ],
  refusals: [
    [
      { op: 'window', inputs: { x: 'prices' }, fn: 'sum', size: 0 },
      /^INVALID_REQUEST size is 0; it must be an integer from 1/,
    ],
  ],
  partial: [
    ['window of rows', { op: 'window', inputs: { x: 'grid' }, fn: 'sum', size: 4, axis: 1 }, 'grid', 4],
    [
      'window at the end',
      { op: 'window', inputs: { x: 'grid' }, fn: 'mean', size: 100, axis: 0 },
      'grid',
      28,
    ],
  ],
  long: [
    ...[1, 7, 64, 5000, 20_000].map((size) => ({
      op: 'window',
      inputs: ONE_INPUT,
      fn: 'mean',
      size,
      axis: 0,
    })),
    ...[2, 33, 100].map((size) => ({ op: 'window', inputs: { x: 'wide' }, fn: 'sum', size, axis: 0 })),
  ],
  conformance: () => [
    ['smooth', { op: 'window', inputs: ONE_INPUT, fn: 'mean', size: 5 }],
    ['lows', { op: 'window', inputs: { x: 'grid' }, fn: 'min', size: 33, axis: 0 }],
    ['sums', { op: 'window', inputs: ONE_INPUT, fn: 'sum', size: 300 }],
    ['highs', { op: 'window', inputs: { x: 'grid' }, fn: 'max', size: 100, axis: 0 }],
  ],
}

const sort: OpRecord = {
  compute: computeSort,
  overPages: (draw, pages) => {
    const { inputs, axis } = pickAxis(draw, pages)
    return axis === undefined ? undefined : { op: 'sort', inputs, axis, descending: draw.chance(0.5) }
  },
  withPages: (draw) => {
    const { pages, axis } = drawLanes(draw)
    return { derive: { op: 'sort', inputs: ONE_INPUT, axis, descending: draw.chance(0.5) }, pages }
  },
  numpy: (draw, dtype) =>
    [false, true].map((descending) => {
      const { shape, axis } = tameAxis(draw)
      const isLong = draw.chance(0.3)
      return {
        derive: { op: 'sort', inputs: ONE_INPUT, axis: isLong ? 0 : axis, descending },
        pages: { x: tamePage(draw, dtype, isLong ? [700] : shape, true) },
      }
    }),
  results: [
    [{ op: 'sort', inputs: { x: 'empty' }, axis: 0 }, 'u8', [0, 3], [0, 0]],
    [{ op: 'sort', inputs: { x: 'empty' }, descending: true }, 'u8', [0, 3], [1, 1]],
    [{ op: 'sort', inputs: { x: 'prices' }, descending: true }, 'f32', [4, 3], [1, 1]],
  ],
  refusals: [],
  partial: [['sort: the lane', { op: 'sort', inputs: { x: 'grid' }, axis: 1 }, 'grid', 30]],
  long: [
    { op: 'sort', inputs: ONE_INPUT },
    { op: 'sort', inputs: { x: 'wide' }, axis: 0, descending: true },
  ],
  conformance: () => [
    ['ordered', { op: 'sort', inputs: ONE_INPUT, descending: true }],
    ['sorted', { op: 'sort', inputs: { x: 'grid' }, axis: 0 }],
  ],
}

export const laneRecords: OpRecords = { scan, window, sort }
