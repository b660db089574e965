/** gather, scatter, bincount, histogram. */
import { DTYPE_INFO, DTYPES, type Dtype } from '../../../src/wire/dtype.js'
import type { Draw } from '../../lib/draw.js'
import { castScalar, operate, type Scalar } from '../element.js'
import {
  broadcastIndexExact,
  build,
  coordinatesOf,
  elementAt,
  type ReferenceOp,
  sizeOf,
  wholeAxis,
} from '../tensor.js'
import {
  drawPage,
  drawShape,
  drawSmallShape,
  eitherWay,
  INTEGERS,
  isFloat,
  isInteger,
  ONE_INPUT,
  pickAxis,
  tameAxis,
  tamePage,
  tameShape,
} from './drawing.js'
import type { OpRecord, OpRecords, TestPage } from './record.js'

/** The element an index names, or undefined. */
function wholeIndex(index: Scalar, size: number): number | undefined {
  const i = (index as bigint) < 0n ? (index as bigint) + BigInt(size) : (index as bigint)
  return i >= 0n && i < BigInt(size) ? Number(i) : undefined
}

const computeGather: ReferenceOp = ({ x, indices }, derive) => {
  const axis = wholeAxis(derive.axis ?? 0, x!.shape.length)
  const rank = indices!.shape.length
  const nothing = DTYPE_INFO[x!.dtype].kind === 'float' ? Number.NaN : 0n
  const shape = [...x!.shape.slice(0, axis), ...indices!.shape, ...x!.shape.slice(axis + 1)]
  return build(x!.dtype, shape, (out) => {
    const index = wholeIndex(elementAt(indices!, out.slice(axis, axis + rank)), x!.shape[axis]!)
    if (index === undefined) return nothing
    return elementAt(x!, [...out.slice(0, axis), index, ...out.slice(axis + rank)])
  })
}

const computeScatter: ReferenceOp = ({ x, indices, values }, derive) => {
  const axis = wholeAxis(derive.axis ?? 0, x!.shape.length)
  const rank = indices!.shape.length
  const merge = String(derive.merge ?? 'set')
  const shape = [...x!.shape.slice(0, axis), ...indices!.shape, ...x!.shape.slice(axis + 1)]
  const out = [...x!.values]
  for (let place = 0; place < sizeOf(shape); place++) {
    const coordinates = coordinatesOf(place, shape)
    const index = wholeIndex(elementAt(indices!, coordinates.slice(axis, axis + rank)), x!.shape[axis]!)
    if (index === undefined) continue
    const target = [...coordinates.slice(0, axis), index, ...coordinates.slice(axis + rank)]
    const to = broadcastIndexExact(target, x!.shape)
    const value = values!.values[values!.values.length === 1 ? 0 : place]!
    out[to] = merged(merge, x!.dtype, out[to]!, castScalar(value, values!.dtype, x!.dtype))
  }
  return { ...x!, values: out }
}

function merged(merge: string, dtype: Dtype, now: Scalar, value: Scalar): Scalar {
  if (merge === 'set') return value
  if (merge === 'add') return operate('+', dtype, now, value)
  if (merge === 'min' || merge === 'max') return operate(merge, dtype, now, value)
  return operate(`bit${merge}`, dtype, now, value)
}

const computeBincount: ReferenceOp = ({ x }, { length }) => {
  const counts = new Array<bigint>(length as number).fill(0n)
  for (const value of x!.values) {
    if ((value as bigint) >= 0n && (value as bigint) < BigInt(length as number)) counts[Number(value)]! += 1n
  }
  return { dtype: 'u32', shape: [length as number], values: counts }
}

const computeHistogram: ReferenceOp = ({ x }, derive) => {
  const bins = derive.bins as number
  const [low, high] = derive.range as [number, number]
  // A range wider than the largest number is halved.
  const half = Number.isFinite(high - low) ? 1 : 0.5
  const width = (high * half - low * half) / bins
  const edges = Array.from({ length: bins + 1 }, (_, i) =>
    i === bins ? high : (low * half + i * width) / half,
  )
  const counts = new Array<bigint>(bins).fill(0n)
  for (const value of x!.values) {
    const v = Number(value)
    const bin = edges.findIndex((edge, i) => v >= edge && (i + 1 === bins ? v <= high : v < edges[i + 1]!))
    if (bin >= 0) counts[bin]! += 1n
  }
  return { dtype: 'u32', shape: [bins], values: counts }
}

// ---- gather, scatter --------------------------------------------------------------------------------------

const INDEXED = { x: 'x', indices: 'indices' }
const MERGES = ['set', 'add', 'min', 'max', 'and', 'or', 'xor']
/** Those that floats have. */
const FLOAT_MERGES = MERGES.slice(0, 4)

/** A page, one of its axes, and indices around the size of that axis, some outside on both sides. */
function drawIndexed(draw: Draw): { x: TestPage; indices: TestPage; axis: number } {
  const shape = drawSmallShape(draw, 1, 3)
  const axis = draw.int(0, shape.length - 1)
  const dtype = draw.pick(DTYPES)
  const indices = drawPage(draw, draw.pick(INTEGERS), draw.pick([[], [1], [7], [3, 2], [0], [40]]))
  const size = shape[axis]!
  for (const i of indices.values.keys()) {
    const at = BigInt(draw.int(-size - 1, size + 1))
    const word = DTYPE_INFO[indices.dtype].kind === 'unsigned' && at < 0n ? -at : at
    indices.values[i] = (DTYPE_INFO[indices.dtype].sizeBytes === 8 ? word : Number(word)) as never
  }
  return { x: drawPage(draw, dtype, shape), indices, axis }
}

const gather: OpRecord = {
  compute: computeGather,
  overPages: (draw, pages) => {
    const { page, axis } = pickAxis(draw, pages)
    const integers = pages.filter(({ dtype }) => isInteger(dtype))
    if (axis === undefined || integers.length === 0) return undefined
    return { op: 'gather', inputs: { x: page.name, indices: draw.pick(integers).name }, axis }
  },
  withPages: (draw) => {
    const { x, indices, axis } = drawIndexed(draw)
    return {
      derive: { op: 'gather', inputs: INDEXED, axis: eitherWay(draw, axis, x.shape.length) },
      pages: { x, indices },
    }
  },
  runs: 150,
  numpy: (draw, dtype) =>
    INTEGERS.map((of) => {
      const { shape, axis } = tameAxis(draw)
      const indices = tamePage(draw, of, draw.pick([[], [9], [3, 4]]))
      return {
        derive: { op: 'gather', inputs: INDEXED, axis },
        pages: { x: tamePage(draw, dtype, shape), indices },
      }
    }),
  results: [
    [{ op: 'gather', inputs: { x: 'cube', indices: 'ints' }, axis: 1 }, 'i16', [2, 3, 3, 3], [1, 0]],
    [{ op: 'gather', inputs: { x: 'vector', indices: 'qty' } }, 'f64', [3], [0, 0]],
    [{ op: 'gather', inputs: { x: 'prices', indices: 'qty' }, axis: 1 }, 'f32', [4, 3], [1, 0]],
  ],
  refusals: [
    [
      { op: 'gather', inputs: { x: 'prices', indices: 'vector' } },
      /^SHAPE_MISMATCH indices \(vector\) is f64; indices are/,
    ],
    [
      { op: 'gather', inputs: { x: 'prices', indices: 'qty' }, axis: 2 },
      /^SHAPE_MISMATCH axis 2 is out of range: x/,
    ],
  ],
  partial: [
    [
      'gather, x changes',
      { op: 'gather', inputs: { x: 'grid', indices: 'places' } },
      'grid',
      2 /* two indices name row 12 */,
    ],
    ['gather, an index changes', { op: 'gather', inputs: { x: 'grid', indices: 'places' } }, 'places', 30],
  ],
  long: [{ op: 'gather', inputs: INDEXED }],
  conformance: () => [
    ['picked', { op: 'gather', inputs: { x: 'grid', indices: 'places' }, axis: 0 }],
    ['chosen', { op: 'gather', inputs: { x: 'x', indices: 'places' }, axis: 0 }],
  ],
}

const scatter: OpRecord = {
  compute: computeScatter,
  overPages: (draw, pages) => {
    const { page, axis } = pickAxis(draw, pages)
    const integers = pages.filter(({ dtype }) => isInteger(dtype))
    if (axis === undefined || integers.length === 0) return undefined
    const inputs = { x: page.name, indices: draw.pick(integers).name, values: draw.pick(pages).name }
    return { op: 'scatter', inputs, axis, merge: draw.pick(['set', ...MERGES]) }
  },
  withPages: (draw) => {
    const { x, indices, axis } = drawIndexed(draw)
    const gathered = [...x.shape.slice(0, axis), ...indices.shape, ...x.shape.slice(axis + 1)]
    const shape = draw.chance(0.25) ? draw.pick([[], [1]]) : gathered
    return {
      derive: {
        op: 'scatter',
        inputs: { ...INDEXED, values: 'values' },
        axis: eitherWay(draw, axis, x.shape.length),
        merge: draw.pick(isFloat(x.dtype) ? FLOAT_MERGES : MERGES),
      },
      pages: { x, indices, values: drawPage(draw, draw.pick(DTYPES), shape) },
    }
  },
  runs: 150,
  numpy: (draw, dtype) =>
    (isFloat(dtype) ? FLOAT_MERGES : MERGES).map((merge) => {
      const { shape, axis, own } = tameAxis(draw)
      const indices = tamePage(draw, draw.pick(INTEGERS), draw.pick([[], [30], [5, 4]]))
      const full = [...shape.slice(0, own), ...indices.shape, ...shape.slice(own + 1)]
      const values = tamePage(draw, draw.pick([dtype, dtype, 'i16', 'f32']), draw.chance(0.2) ? [] : full)
      return {
        derive: { op: 'scatter', inputs: { ...INDEXED, values: 'values' }, axis, merge },
        pages: { x: tamePage(draw, dtype, shape), indices, values },
      }
    }),
  results: [
    [
      { op: 'scatter', inputs: { x: 'vector', indices: 'qty', values: 'scalar' }, merge: 'add' },
      'f64',
      [3],
      [0, 1],
    ],
    [
      { op: 'scatter', inputs: { x: 'vector', indices: 'qty', values: 'scalar' }, merge: 'max' },
      'f64',
      [3],
      [0, 3],
    ],
  ],
  refusals: [
    [
      { op: 'scatter', inputs: { x: 'prices', indices: 'qty', values: 'vector' } },
      /^SHAPE_MISMATCH values \(vector\) \[3\] must have shape \[3, 3\], or one element/,
    ],
    [
      { op: 'scatter', inputs: { x: 'prices', indices: 'qty', values: 'scalar' }, merge: 'xor' },
      /^SHAPE_MISMATCH merge xor is not defined for f32/,
    ],
  ],
  partial: [
    [
      'scatter, x changes',
      { op: 'scatter', inputs: { x: 'grid', indices: 'places', values: 'one' } },
      'grid',
      1,
    ],
    [
      'scatter, a value changes',
      { op: 'scatter', inputs: { x: 'line', indices: 'sixteen', values: 'line' }, merge: 'add' },
      'line',
      2 /* where x changed, and where the value goes */,
    ],
  ],
  long: [{ op: 'scatter', inputs: { ...INDEXED, values: 'x' }, merge: 'add' }],
  conformance: () => [
    ['placed', { op: 'scatter', inputs: { x: 'x', indices: 'places', values: 'x' }, merge: 'add' }],
    ['lowest', { op: 'scatter', inputs: { x: 'x', indices: 'places', values: 'x' }, merge: 'min' }],
    ['topmost', { op: 'scatter', inputs: { x: 'x', indices: 'places', values: 'x' }, merge: 'max' }],
    ['rowsSet', { op: 'scatter', inputs: { x: 'grid', indices: 'places', values: 'grid' }, merge: 'set' }],
  ],
}

// ---- bincount, histogram ----------------------------------------------------------------------------------

const bincount: OpRecord = {
  compute: computeBincount,
  overPages: (draw, pages) => ({
    op: 'bincount',
    inputs: pickAxis(draw, pages).inputs,
    length: draw.pick([1, 10, 101]),
  }),
  withPages: (draw) => ({
    derive: { op: 'bincount', inputs: ONE_INPUT, length: draw.pick([0, 1, 5, 30, 300]) },
    pages: {
      x: drawPage(draw, draw.pick(DTYPES.filter((name) => !isFloat(name))), drawShape(draw, 0, 3)),
    },
  }),
  numpy: (draw, dtype) => {
    if (isFloat(dtype)) return []
    const length = draw.pick([0, 1, 20, 61, 200])
    return [
      {
        derive: { op: 'bincount', inputs: ONE_INPUT, length },
        pages: { x: tamePage(draw, dtype, tameShape(draw, 0, 3)) },
      },
    ]
  },
  results: [
    [{ op: 'bincount', inputs: { x: 'cube' }, length: 7 }, 'u32', [7], [7, 0]],
    [{ op: 'bincount', inputs: { x: 'qty' }, length: 9 }, 'u32', [9], [9, 0]],
  ],
  refusals: [
    [
      { op: 'bincount', inputs: { x: 'prices' }, length: 3 },
      /^SHAPE_MISMATCH x \(prices\) is f32; bincount counts integers/,
    ],
  ],
  long: [1000, 5000].map((length) => ({ op: 'bincount', inputs: { x: 'indices' }, length })),
  conformance: () => [['tally', { op: 'bincount', inputs: { x: 'places' }, length: 50 }]],
}

const WIDEST = [-Number.MAX_VALUE, Number.MAX_VALUE]

const histogram: OpRecord = {
  compute: computeHistogram,
  overPages: (draw, pages) => ({
    op: 'histogram',
    inputs: pickAxis(draw, pages).inputs,
    bins: draw.pick([1, 7, 50]),
    range: [-100, 100],
  }),
  withPages: (draw) => {
    const low = draw.pick([-100, 0, -0.3, 7])
    const near = [low, low + draw.pick([1e-3, 1, 50, 1 / 3])]
    const isWide = draw.chance(0.2)
    const range = isWide ? draw.pick([WIDEST, [-1e308, 1e308], [-1.7e308, 3e307]]) : near
    const x = drawPage(draw, isWide ? 'f64' : draw.pick(DTYPES), drawShape(draw, 0, 3))
    if (isWide) for (const i of x.values.keys()) x.values[i] = draw.pick([-1, 1]) * draw.int(0, 17) * 1e307
    return {
      derive: { op: 'histogram', inputs: ONE_INPUT, bins: draw.pick([1, 2, 3, 10, 100]), range },
      pages: { x },
    }
  },
  numpy: (draw, dtype) => {
    const ranges = [
      [0, 1],
      [-25, 25.5],
      [3, 60],
    ]
    const [bins, range] = [draw.pick([1, 3, 10, 64]), draw.pick(ranges)]
    return [
      {
        derive: { op: 'histogram', inputs: ONE_INPUT, bins, range },
        pages: { x: tamePage(draw, dtype, tameShape(draw, 0, 3), true) },
      },
    ]
  },
  results: [
    [
      { op: 'histogram', inputs: { x: 'prices' }, bins: 4, range: [0, 2] },
      'u32',
      [4],
      [4, 0, 0, 0, 0, 0x4000_0000],
    ],
    [
      { op: 'histogram', inputs: { x: 'prices' }, bins: 3, range: [-0.5, 1e9] },
      'u32',
      [3],
      [3, 0, 0, 0xbfe0_0000, 0, 0x41cd_cd65],
    ],
  ],
  refusals: [
    [{ op: 'histogram', inputs: { x: 'prices' }, bins: 0, range: [0, 1] }, /^INVALID_REQUEST bins is 0/],
    [
      { op: 'histogram', inputs: { x: 'prices' }, bins: 2, range: [1, 1] },
      /^INVALID_REQUEST range must be two finite numbers/,
    ],
    [
      { op: 'histogram', inputs: { x: 'prices' }, bins: 10, range: [0, 5e-324] },
      /^INVALID_REQUEST range is too narrow for 10 bins/,
    ],
  ],
  long: [7, 5000].map((bins) => ({ op: 'histogram', inputs: ONE_INPUT, bins, range: [-500, 500] })),
  conformance: () => [['spread', { op: 'histogram', inputs: ONE_INPUT, bins: 7, range: [-50, 50] }]],
}

export const indexedRecords: OpRecords = { gather, scatter, bincount, histogram }
