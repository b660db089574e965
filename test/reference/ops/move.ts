/** transpose, reshape, slice, flip, concat. */
import { DTYPES } from '../../../src/wire/dtype.js'
import type { Draw } from '../../lib/draw.js'
import { commonDtype } from '../expression.js'
import { build, castTensor, elementAt, type ReferenceOp, sizeOf, wholeAxis } from '../tensor.js'
import {
  drawOrder,
  drawPage,
  drawShape,
  eitherWay,
  isInteger,
  ONE_INPUT,
  pickAxis,
  tameAxis,
  tamePage,
  tameShape,
} from './drawing.js'
import type { OpRecord, OpRecords } from './record.js'

const computeTranspose: ReferenceOp = ({ x }, derive) => {
  const rank = x!.shape.length
  const axes =
    (derive.axes as number[] | undefined)?.map((axis) => wholeAxis(axis, rank)) ??
    x!.shape.map((_, axis) => rank - 1 - axis)
  return build(
    x!.dtype,
    axes.map((axis) => x!.shape[axis]!),
    (out) =>
      elementAt(
        x!,
        x!.shape.map((_, axis) => out[axes.indexOf(axis)]!),
      ),
  )
}

const computeReshape: ReferenceOp = ({ x }, { shape }) => {
  const asked = shape as number[]
  const rest = sizeOf(asked.filter((size) => size !== -1))
  return { ...x!, shape: asked.map((size) => (size === -1 ? x!.values.length / rest : size)) }
}

/** The indices of Python's range(size)[start:stop:step], walked one by one. */
function pickIndices(size: number, start: number | null, stop: number | null, step: number): number[] {
  const place = (bound: number): number => (bound < 0 ? bound + size : bound)
  const out: number[] = []
  if (step > 0) {
    const end = stop === null ? size : Math.min(size, place(stop))
    for (let i = start === null ? 0 : Math.max(0, place(start)); i < end; i += step) out.push(i)
  } else {
    const end = stop === null ? -1 : Math.max(-1, place(stop))
    for (let i = start === null ? size - 1 : Math.min(size - 1, place(start)); i > end; i += step) out.push(i)
  }
  return out
}

const computeSlice: ReferenceOp = ({ x }, derive) => {
  const [start, stop, step] = ['start', 'stop', 'step'].map(
    (name) => (derive[name] as (number | null)[] | undefined) ?? [],
  )
  const picked = x!.shape.map((size, axis) =>
    pickIndices(size, start![axis] ?? null, stop![axis] ?? null, step![axis] ?? 1),
  )
  return build(
    x!.dtype,
    picked.map((list) => list.length),
    (out) =>
      elementAt(
        x!,
        out.map((i, axis) => picked[axis]![i]!),
      ),
  )
}

const computeFlip: ReferenceOp = ({ x }, derive) => {
  const rank = x!.shape.length
  const named = ((derive.axes ?? []) as number[]).map((axis) => wholeAxis(axis, rank))
  const turns = (axis: number): boolean => named.length === 0 || named.includes(axis)
  return build(x!.dtype, x!.shape, (out) =>
    elementAt(
      x!,
      out.map((i, axis) => (turns(axis) ? x!.shape[axis]! - 1 - i : i)),
    ),
  )
}

const computeConcat: ReferenceOp = (inputs, derive) => {
  const list = Object.values(inputs)
  const axis = wholeAxis(derive.axis ?? 0, list[0]!.shape.length)
  const dtype = commonDtype(list.map((input) => input.dtype))
  const cast = list.map((input) => castTensor(input, dtype))
  const total = list.reduce((sum, { shape }) => sum + shape[axis]!, 0)
  return build(
    dtype,
    list[0]!.shape.map((size, i) => (i === axis ? total : size)),
    (out) => {
      let rest = out[axis]!
      const part = cast.find(({ shape }) => {
        if (rest < shape[axis]!) return true
        rest -= shape[axis]!
        return false
      })
      return elementAt(
        part!,
        out.map((i, d) => (d === axis ? rest : i)),
      )
    },
  )
}

const transpose: OpRecord = {
  compute: computeTranspose,
  overPages: (draw, pages) => {
    const x = draw.pick(pages)
    const axes = draw.chance(0.5) ? {} : { axes: drawOrder(draw, x.shape.length) }
    return { op: 'transpose', inputs: { x: x.name }, ...axes }
  },
  withPages: (draw) => {
    const shape = drawShape(draw, 0, 4)
    const axes = draw.chance(1 / 3) ? {} : { axes: drawOrder(draw, shape.length) }
    return {
      derive: { op: 'transpose', inputs: ONE_INPUT, ...axes },
      pages: { x: drawPage(draw, draw.pick(DTYPES), shape) },
    }
  },
  numpy: (draw, dtype) => {
    const shape = tameShape(draw, 0, 5)
    const axes = draw.chance(0.3) ? {} : { axes: drawOrder(draw, shape.length) }
    return [
      {
        derive: { op: 'transpose', inputs: ONE_INPUT, ...axes },
        pages: { x: tamePage(draw, dtype, shape) },
      },
    ]
  },
  results: [
    [{ op: 'transpose', inputs: { x: 'prices' } }, 'f32', [3, 4], [1, 0]],
    [{ op: 'transpose', inputs: { x: 'cube' } }, 'i16', [3, 4, 2], [2, 1, 0, 0]],
    [{ op: 'transpose', inputs: { x: 'cube' }, axes: [1, -1, 0] }, 'i16', [4, 3, 2], [1, 2, 0, 0]],
    [{ op: 'transpose', inputs: { x: 'cube' }, axes: [1, 0, 2] }, 'i16', [4, 2, 3], [1, 0, 2, 0]],
    [{ op: 'transpose', inputs: { x: 'scalar' } }, 'f32', [], []],
  ],
  refusals: [
    [
      { op: 'transpose', inputs: { x: 'prices' }, axes: [0] },
      /^SHAPE_MISMATCH axes has 1 entries; x \(prices\) \[4, 3\] has 2/,
    ],
    [{ op: 'transpose', inputs: { x: 'prices' }, axes: [0, -2] }, /^INVALID_REQUEST axes names axis 0 twice/],
  ],
  partial: [['transpose', { op: 'transpose', inputs: { x: 'grid' } }, 'grid', 1]],
  long: [{ op: 'transpose', inputs: { x: 'wide' } }],
  conformance: () => [['turned', { op: 'transpose', inputs: { x: 'grid' } }]],
}

const reshape: OpRecord = {
  compute: computeReshape,
  overPages: (draw, pages) => {
    const x = draw.pick(pages)
    const shape = draw.chance(0.5) ? [-1] : [1, ...[...x.shape].reverse()]
    return { op: 'reshape', inputs: { x: x.name }, shape }
  },
  withPages: (draw) => {
    const shape = drawShape(draw, 0, 4)
    const open = [-1, ...shape.filter((size) => size > 1 && draw.chance(0.5))]
    const asked = draw.chance(0.5) && sizeOf(shape) > 0 ? open : [1, ...[...shape].reverse()]
    return {
      derive: { op: 'reshape', inputs: ONE_INPUT, shape: asked },
      pages: { x: drawPage(draw, draw.pick(DTYPES), shape) },
    }
  },
  numpy: (draw, dtype) => [
    {
      derive: { op: 'reshape', inputs: ONE_INPUT, shape: [3, -1, 2] },
      pages: { x: tamePage(draw, dtype, [4, 3, 5]) },
    },
    {
      derive: { op: 'reshape', inputs: ONE_INPUT, shape: [-1] },
      pages: { x: tamePage(draw, dtype, tameShape(draw, 0, 4)) },
    },
  ],
  results: [
    [{ op: 'reshape', inputs: { x: 'cube' }, shape: [-1, 6] }, 'i16', [4, 6], [2, 4, 6, 0]],
    [{ op: 'reshape', inputs: { x: 'cube' }, shape: [6, -1] }, 'i16', [6, 4], [2, 6, 4, 0]],
    [{ op: 'reshape', inputs: { x: 'scalar' }, shape: [1, 1, 1] }, 'f32', [1, 1, 1], [3, 1, 1, 1]],
    [{ op: 'reshape', inputs: { x: 'empty' }, shape: [5, 0] }, 'u8', [5, 0], [2, 5, 0, 0]],
  ],
  refusals: [
    [
      { op: 'reshape', inputs: { x: 'prices' }, shape: [5, -1] },
      /^SHAPE_MISMATCH x \(prices\) \[4, 3\] has 12 elements; no size/,
    ],
    [
      { op: 'reshape', inputs: { x: 'prices' }, shape: [13] },
      /^SHAPE_MISMATCH x \(prices\) \[4, 3\] has 12 elements; shape/,
    ],
    [{ op: 'reshape', inputs: { x: 'prices' }, shape: [-1, -1] }, /^INVALID_REQUEST shape has -1 twice/],
    [
      { op: 'reshape', inputs: { x: 'prices' }, shape: Array(9).fill(1) },
      /^INVALID_REQUEST shape has 9 axes/,
    ],
  ],
  partial: [['reshape', { op: 'reshape', inputs: { x: 'grid' }, shape: [-1] }, 'grid', 1]],
  long: [{ op: 'reshape', inputs: { x: 'wide' }, shape: [-1] }],
  conformance: () => [['flat', { op: 'reshape', inputs: { x: 'grid' }, shape: [-1] }]],
}

const slice: OpRecord = {
  compute: computeSlice,
  overPages: (draw, pages) => {
    const x = draw.pick(pages)
    const bound = (size: number): number | null => (draw.chance(0.4) ? null : draw.int(-size - 1, size + 1))
    return {
      op: 'slice',
      inputs: { x: x.name },
      start: x.shape.map(bound),
      stop: x.shape.map(bound),
      step: x.shape.map(() => draw.pick([1, 1, 2, -1, -3])),
    }
  },
  withPages: (draw) => {
    const shape = drawShape(draw, 0, 4)
    const bound = (size: number): number | null =>
      draw.chance(1 / 3) ? null : draw.int(0, 3 * size + 3) - Math.floor(1.5 * size) - 2
    const listed = shape.slice(0, draw.int(0, shape.length))
    const steps = [1, 1, 2, 3, -1, -2, 7, null]
    return {
      derive: {
        op: 'slice',
        inputs: ONE_INPUT,
        ...(draw.chance(0.75) && { start: listed.map(bound) }),
        ...(draw.chance(0.75) && { stop: listed.map(bound) }),
        ...(draw.chance(0.75) && { step: listed.map(() => draw.pick(steps)) }),
      },
      pages: { x: drawPage(draw, draw.pick(DTYPES), shape) },
    }
  },
  numpy: (draw, dtype) => {
    const shape = tameShape(draw, 0, 4)
    const bound = (size: number): number | null => (draw.chance(0.3) ? null : draw.int(-size - 2, size + 2))
    const step = shape.map(() => draw.pick([null, 1, 2, 3, -1, -2]))
    return [
      {
        derive: { op: 'slice', inputs: ONE_INPUT, start: shape.map(bound), stop: shape.map(bound), step },
        pages: { x: tamePage(draw, dtype, shape) },
      },
    ]
  },
  results: [
    [
      { op: 'slice', inputs: { x: 'prices' }, start: [-2], step: [null, -2] },
      'f32',
      [2, 2],
      [2, 2, 1, 0, 2, 2, 0xffff_fffe, 0],
    ],
    [{ op: 'slice', inputs: { x: 'vector' }, start: [2], stop: [1] }, 'f64', [0], [0, 0, 1, 0]],
    [
      { op: 'slice', inputs: { x: 'cube' }, start: [null, 5], stop: [1], step: [1, -2, 1] },
      'i16',
      [1, 2, 3],
      [0, 1, 1, 0, 3, 2, 0xffff_fffe, 0, 0, 3, 1, 0],
    ],
  ],
  refusals: [
    [{ op: 'slice', inputs: { x: 'prices' }, step: [0] }, /^INVALID_REQUEST step is 0/],
    [
      { op: 'slice', inputs: { x: 'prices' }, start: [0, 0, 0] },
      /^SHAPE_MISMATCH start has 3 entries; x \(prices\) has 2 axes/,
    ],
    [{ op: 'slice', inputs: { x: 'prices' }, start: [0.5] }, /^INVALID_REQUEST start is 0.5/],
  ],
  partial: [
    ['slice with it', { op: 'slice', inputs: { x: 'grid' }, step: [-3, 7] }, 'grid', 1],
    ['slice without it', { op: 'slice', inputs: { x: 'grid' }, start: [13] }, 'grid', 0],
  ],
  long: [{ op: 'slice', inputs: { x: 'wide' }, step: [-2, 3] }],
  conformance: () => [
    ['backward', { op: 'slice', inputs: { x: 'grid' }, start: [null, 0], stop: [null, 2], step: [-2, 1] }],
    ['few', { op: 'slice', inputs: { x: 'grid' }, stop: [4] }],
  ],
}

/** Some of the axes, or no list of them. */
function drawFlip(draw: Draw, rank: number): { axes?: number[] } {
  const axes = drawOrder(draw, rank).slice(0, draw.int(0, rank))
  return axes.length === 0 ? {} : { axes }
}

const flip: OpRecord = {
  compute: computeFlip,
  overPages: (draw, pages) => {
    const x = draw.pick(pages)
    return { op: 'flip', inputs: { x: x.name }, ...drawFlip(draw, x.shape.length) }
  },
  withPages: (draw) => {
    const shape = drawShape(draw, 0, 4)
    return {
      derive: { op: 'flip', inputs: ONE_INPUT, ...drawFlip(draw, shape.length) },
      pages: { x: drawPage(draw, draw.pick(DTYPES), shape) },
    }
  },
  numpy: (draw, dtype) => {
    const shape = tameShape(draw, 0, 5)
    return [
      {
        derive: { op: 'flip', inputs: ONE_INPUT, ...drawFlip(draw, shape.length) },
        pages: { x: tamePage(draw, dtype, shape, true) },
      },
    ]
  },
  results: [
    [{ op: 'flip', inputs: { x: 'cube' } }, 'i16', [2, 4, 3], [7, 0]],
    [{ op: 'flip', inputs: { x: 'cube' }, axes: [] }, 'i16', [2, 4, 3], [7, 0]],
    [{ op: 'flip', inputs: { x: 'prices' }, axes: [-1] }, 'f32', [4, 3], [2, 0]],
    [{ op: 'flip', inputs: { x: 'cube' }, axes: [2, 0] }, 'i16', [2, 4, 3], [5, 0]],
    [{ op: 'flip', inputs: { x: 'empty' }, axes: [0] }, 'u8', [0, 3], [1, 0]],
    [{ op: 'flip', inputs: { x: 'scalar' } }, 'f32', [], [0, 0]],
  ],
  refusals: [
    [{ op: 'flip', inputs: { x: 'prices' }, axes: 0 }, /^INVALID_REQUEST axes must be an array/],
    [{ op: 'flip', inputs: { x: 'prices' }, axes: [0, -2] }, /^INVALID_REQUEST axes names axis 0 twice/],
    [
      { op: 'flip', inputs: { x: 'prices' }, axes: [2] },
      /^SHAPE_MISMATCH axes: 2 is out of range: x \(prices\) has shape \[4, 3\]/,
    ],
    [
      { op: 'flip', inputs: { x: 'prices' }, axis: 0 },
      /^INVALID_REQUEST flip has no parameter 'axis'; its parameters: axes/,
    ],
  ],
  partial: [
    ['flip', { op: 'flip', inputs: { x: 'grid' } }, 'grid', 1],
    ['flip of rows', { op: 'flip', inputs: { x: 'grid' }, axes: [1] }, 'grid', 1],
  ],
  long: [
    { op: 'flip', inputs: ONE_INPUT },
    { op: 'flip', inputs: { x: 'wide' }, axes: [1] },
  ],
  conformance: () => [
    ['reversed', { op: 'flip', inputs: ONE_INPUT }],
    ['mirrored', { op: 'flip', inputs: { x: 'grid' }, axes: [1] }],
  ],
}

const concat: OpRecord = {
  compute: computeConcat,
  overPages: (draw, pages) => {
    const { page, axis } = pickAxis(draw, pages)
    if (axis === undefined) return undefined
    const alike = pages.filter(({ shape }) => shape.length === page.shape.length)
    return { op: 'concat', inputs: { a: page.name, b: draw.pick(alike).name, c: page.name }, axis }
  },
  withPages: (draw) => {
    const first = drawShape(draw, 1, 4)
    const axis = draw.int(0, first.length - 1)
    const parts = [first]
    for (let i = draw.int(0, 3); i > 0; i--) {
      parts.push(first.map((size, d) => (d === axis ? draw.pick([0, 1, 2, 9]) : size)))
    }
    const names = parts.map((_, i) => `p${i}`)
    return {
      derive: {
        op: 'concat',
        inputs: Object.fromEntries(names.map((name) => [name, name])),
        axis: eitherWay(draw, axis, first.length),
      },
      pages: Object.fromEntries(parts.map((part, i) => [`p${i}`, drawPage(draw, draw.pick(DTYPES), part)])),
    }
  },
  numpy: (draw, dtype) => {
    const { shape, axis, own } = tameAxis(draw)
    const other = draw.pick(DTYPES.filter((name) => !isInteger(name) || name === dtype))
    const second = shape.map((size, d) => (d === own ? draw.int(0, 5) : size))
    return [
      {
        derive: { op: 'concat', inputs: { a: 'a', b: 'b', c: 'a' }, axis },
        pages: { a: tamePage(draw, dtype, shape), b: tamePage(draw, other, second) },
      },
    ]
  },
  results: [
    [{ op: 'concat', inputs: { a: 'prices', b: 'flags' } }, 'f32', [7, 3], [0, 0]],
    [{ op: 'concat', inputs: { b: 'prices', a: 'flags' } }, 'f32', [7, 3], [0, 0]],
    [{ op: 'concat', inputs: { b: 'wide', a: 'flags' }, axis: -1 }, 'u64', [3, 5], [1, 0]],
  ],
  refusals: [
    [
      { op: 'concat', inputs: { a: 'prices', b: 'wide' } },
      /^SHAPE_MISMATCH a \(prices\) \[4, 3\] has size 3 on axis 1, b \(wide\) \[3, 2\] has size 2; they may differ on axis 0/,
    ],
    [
      { op: 'concat', inputs: { a: 'prices', b: 'cube' } },
      /^SHAPE_MISMATCH a \(prices\) \[4, 3\] has 2 axes, b/,
    ],
    [
      { op: 'concat', inputs: { a: 'ints', b: 'wide' }, axis: 1 },
      /^SHAPE_MISMATCH a \(ints\) is i64 and b \(wide\) is u64/,
    ],
  ],
  partial: [['concat', { op: 'concat', inputs: { a: 'grid', b: 'grid', c: 'grid' }, axis: 1 }, 'grid', 3]],
  long: [{ op: 'concat', inputs: { a: 'wide', b: 'wide' }, axis: 1 }],
  conformance: () => [['both', { op: 'concat', inputs: { a: 'x', b: 'flat' } }]],
}

export const moveRecords: OpRecords = { transpose, reshape, slice, flip, concat }
