/**
 * conv. The order of accumulation is the documented one (docs/guide/OPS.md), so results are exact.
 */
import { DTYPES } from '../../../src/wire/dtype.js'
import { fusedMultiplyAdd, type Scalar } from '../element.js'
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

const BOUNDARIES = ['zero', 'wrap', 'edge']

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

export const convRecords: OpRecords = { conv }
