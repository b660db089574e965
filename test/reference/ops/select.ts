/** quantile, topk. */
import { DTYPES } from '../../../src/wire/dtype.js'
import type { Draw } from '../../lib/draw.js'
import { fit, type Scalar } from '../element.js'
import { broadcastIndexExact, coordinatesOf, lanes, type ReferenceOp, sizeOf, wholeAxis } from '../tensor.js'
import { drawPage, drawShape, ONE_INPUT, pickAxis, tameAxis, tamePage } from './drawing.js'
import type { OpRecord, OpRecords, TestPage } from './record.js'

type Quantile = (lane: readonly number[], q: number) => number

/** NumPy's default method (linear), over doubles; a NaN anywhere gives NaN. */
const computeQuantile =
  (quantileOf: Quantile): ReferenceOp =>
  ({ x }, derive) => {
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

const quantile2: Quantile = (lane, q) => quantileOf(lane, q, between)
/** Version 1: wrong where the neighbours lie further apart than the largest number. */
const quantile1: Quantile = (lane, q) => quantileOf(lane, q, step)

const step = (a: number, b: number, rest: number): number =>
  rest >= 0.5 ? b - (b - a) * (1 - rest) : a + (b - a) * rest

function between(a: number, b: number, rest: number): number {
  if (Math.abs(a) === Infinity || Math.abs(b) === Infinity) return a + b
  return Number.isFinite(b - a) ? step(a, b, rest) : 2 * step(a / 2, b / 2, rest)
}

function quantileOf(lane: readonly number[], q: number, interpolate: typeof step): number {
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
  return interpolate(a, b, rest)
}

const computeTopk: ReferenceOp = ({ x }, derive) => {
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

/** Lanes that are longer than a block now and then. */
function drawLanes(draw: Draw): { pages: { x: TestPage }; axis: number; size: number } {
  const shape = draw.chance(0.2) ? draw.pick([[9000], [5000, 2], [2, 4100]]) : drawShape(draw, 1, 3)
  const axis = draw.int(0, shape.length - 1)
  return { pages: { x: drawPage(draw, draw.pick(DTYPES), shape) }, axis, size: shape[axis]! }
}

const quantile: OpRecord = {
  compute: computeQuantile(quantile2),
  old: [computeQuantile(quantile1)],
  overPages: (draw, pages) => {
    const { inputs, axis } = pickAxis(draw, pages)
    const q = draw.pick([0, 0.05, 0.5, 0.77, 1])
    return { op: 'quantile', inputs, q, ...(axis !== undefined && { axis }) }
  },
  withPages: (draw) => {
    const { pages, axis } = drawLanes(draw)
    const q = draw.pick([0, 0.05, 0.25, 0.5, 0.77, 1 / 3, 0.999, 1])
    const along = draw.chance(0.25) ? {} : { axis }
    return { derive: { op: 'quantile', inputs: ONE_INPUT, q, ...along }, pages }
  },
  runs: 150,
  numpy: (draw, dtype) =>
    [0, 0.05, 0.5, 0.77, 1].map((q) => {
      const { shape, axis } = tameAxis(draw)
      return {
        derive: { op: 'quantile', inputs: ONE_INPUT, q, axis },
        pages: { x: tamePage(draw, dtype, shape, draw.chance(0.3)) },
      }
    }),
  results: [
    [{ op: 'quantile', inputs: { x: 'prices' }, q: 0.5, axis: -2 }, 'f32', [3], [0, 0x3fe0_0000, 0, 0]],
    [{ op: 'quantile', inputs: { x: 'cube' }, q: 1 }, 'f64', [], [0, 0x3ff0_0000, 0xffff_ffff, 0]],
    [
      { op: 'quantile', inputs: { x: 'cube' }, q: 0.05 },
      'f64',
      [],
      [0x9999_999a, 0x3fa9_9999, 0xffff_ffff, 0],
    ],
    [
      { op: 'quantile', inputs: { x: 'cube' }, q: 0.05, axis: 1 },
      'f64',
      [2, 3],
      [0x9999_999a, 0x3fa9_9999, 1, 0],
    ],
  ],
  refusals: [
    [
      { op: 'quantile', inputs: { x: 'prices' }, q: 1.5 },
      /^INVALID_REQUEST q is 1.5; it must be a number from 0 to 1/,
    ],
    [{ op: 'quantile', inputs: { x: 'prices' }, q: Number.NaN }, /^INVALID_REQUEST q is NaN/],
    [{ op: 'quantile', inputs: { x: 'prices' }, q: '0.5' }, /^INVALID_REQUEST q is "0.5"/],
    [
      { op: 'quantile', inputs: { x: 'prices' }, q: Number.POSITIVE_INFINITY },
      /^INVALID_REQUEST q is Infinity; it must be a number/,
    ],
    [
      { op: 'quantile', inputs: { x: 'prices' }, q: 0.5, axis: '0' },
      /^INVALID_REQUEST axis must be an integer/,
    ],
    [
      { op: 'quantile', inputs: { x: 'empty' }, q: 0.5 },
      /^SHAPE_MISMATCH quantile needs at least one element: x \(empty\) \[0, 3\] has no elements/,
    ],
  ],
  long: [
    { op: 'quantile', inputs: ONE_INPUT, q: 0.3 },
    { op: 'quantile', inputs: { x: 'wide' }, q: 0.5, axis: 0 },
    { op: 'quantile', inputs: { x: 'rows' }, q: 0.9, axis: 1 },
  ],
  conformance: (_, length) =>
    length === 0
      ? []
      : [
          ['median', { op: 'quantile', inputs: ONE_INPUT, q: 0.5 }],
          ['low', { op: 'quantile', inputs: { x: 'grid' }, q: 0.05, axis: 0 }],
        ],
}

const topk: OpRecord = {
  compute: computeTopk,
  overPages: (draw, pages) => {
    const { page, inputs, axis } = pickAxis(draw, pages)
    if (axis === undefined) return undefined
    const k = draw.int(0, page.shape.at(axis)!)
    const output = draw.pick(['indices', 'values'])
    return { op: 'topk', inputs, k, axis, output, largest: draw.chance(0.5) }
  },
  withPages: (draw) => {
    const { pages, axis, size } = drawLanes(draw)
    const k = draw.chance(1 / 3) ? size : draw.int(0, Math.min(size, 9))
    const largest = draw.chance(0.5)
    const output = draw.pick(['indices', 'values'])
    return { derive: { op: 'topk', inputs: ONE_INPUT, k, axis, output, largest }, pages }
  },
  runs: 150,
  numpy: (draw, dtype) =>
    ['indices', 'values'].map((output) => {
      const { shape, axis, own } = tameAxis(draw)
      const k = draw.int(0, shape[own]!)
      return {
        derive: { op: 'topk', inputs: ONE_INPUT, k, axis, output, largest: draw.chance(0.5) },
        pages: { x: tamePage(draw, dtype, shape, true) },
      }
    }),
  results: [
    [{ op: 'topk', inputs: { x: 'prices' }, k: 2, output: 'values' }, 'f32', [4, 2], [2, 1, 1, 1]],
    [{ op: 'topk', inputs: { x: 'prices' }, k: 2, output: 'indices' }, 'u32', [4, 2], [2, 1, 0, 1]],
    [
      { op: 'topk', inputs: { x: 'prices' }, k: 4, axis: 0, output: 'indices', largest: false },
      'u32',
      [4, 3],
      [4, 0, 0, 0],
    ],
  ],
  refusals: [
    [
      { op: 'topk', inputs: { x: 'prices' }, k: 4, output: 'values' },
      /^SHAPE_MISMATCH k is 4 but x \(prices\) \[4, 3\] has size 3 on axis 1/,
    ],
    [
      { op: 'topk', inputs: { x: 'prices' }, k: -1, output: 'values' },
      /^INVALID_REQUEST k is -1; it must be an integer from 0/,
    ],
    [{ op: 'topk', inputs: { x: 'prices' }, k: 1 }, /^INVALID_REQUEST topk needs output/],
    [{ op: 'topk', inputs: { x: 'prices' }, k: 1, output: 'both' }, /^INVALID_REQUEST output is "both"/],
    [
      { op: 'topk', inputs: { x: 'scalar' }, k: 1, output: 'values' },
      /^SHAPE_MISMATCH axis -1: x \(scalar\) has no axes/,
    ],
  ],
  long: [1, 40, 1025].flatMap((k) =>
    ['values', 'indices'].map((output) => ({ op: 'topk', inputs: ONE_INPUT, k, output })),
  ),
  conformance: (_, length) => {
    if (length === 0) return []
    const along = { axis: 0, largest: true }
    return [
      ['top', { op: 'topk', inputs: ONE_INPUT, k: Math.min(length, 7), output: 'indices', ...along }],
      ['best', { op: 'topk', inputs: { x: 'grid' }, k: Math.min(length, 40), output: 'values', ...along }],
      ['bottom', { op: 'topk', inputs: { x: 'grid' }, k: 2, axis: 1, output: 'values', largest: false }],
    ]
  },
}

export const selectRecords: OpRecords = { quantile, topk }
