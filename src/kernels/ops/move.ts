/**
 * transpose, reshape, slice, flip, concat: elements move to other places and keep their values.
 *
 * Null because the JSON of a slice has it for a bound that is left out.
 */
import { PAGE_MAX_ELEMENTS } from '../../limits.js'
import { elementCount, formatShape, normalizeAxis } from '../../state/shape.js'
import { PAGE_MAX_RANK } from '../../wire/page.js'
import {
  axesOfMask,
  checkBlockAxes,
  checkBlockAxis,
  commonDtypeOf,
  defineOp,
  type Fields,
  invalidRequest,
  maskOfAxes,
  moveNs,
  type OpInput,
  readAxes,
  readIntegers,
  readWords,
  shapeMismatch,
  wordBlock,
} from './op.js'

/** Words padded to a multiple of 8 bytes. */
const paddedBlock = (words: readonly number[]): Uint8Array =>
  wordBlock(...words, ...(words.length % 2 === 0 ? [] : [0]))

// ---- transpose --------------------------------------------------------------------------------------------

/** For each axis of the result, the axis of the input that it comes from; without `axes` in reverse. */
function readPermutation(fields: Fields, x: OpInput): number[] {
  const rank = x.shape.length
  if (fields.axes === undefined) return x.shape.map((_, axis) => rank - 1 - axis)
  if (!Array.isArray(fields.axes)) throw invalidRequest('axes must be an array of integers')
  const axes = fields.axes.map((axis: unknown) => normalizeAxis(axis, x, 'axes:'))
  const twice = axes.find((axis, i) => axes.indexOf(axis) !== i)
  if (twice !== undefined) throw invalidRequest(`axes names axis ${twice} twice`)
  if (axes.length !== rank) {
    throw shapeMismatch(
      `axes has ${axes.length} entries; ${x.name} ${formatShape(x.shape)} has ${rank} axes, and each must be named`,
    )
  }
  return axes
}

const transposeOp = defineOp<'transpose', { readonly axes: readonly number[] }>({
  name: 'transpose',
  code: 16,
  version: 1,
  roles: ['x'],
  parameters: { axes: 'optional' },
  dirtyRule: 'moved',
  example: { op: 'transpose', inputs: { x: 'P' }, axes: [1, 0] },
  read: (fields, [x]) => ({ axes: readPermutation(fields, x!) }),
  infer: ({ axes }, [x]) => {
    const rank = x!.shape.length
    const missing = x!.shape.findIndex((_, axis) => !axes.slice(0, rank).includes(axis))
    if (missing >= 0 || axes.length - rank > 1 || axes.slice(rank).some((pad) => pad !== 0)) {
      throw invalidRequest('the axes in the parameter block of transpose are not a permutation')
    }
    return { dtype: x!.dtype, shape: axes.slice(0, rank).map((axis) => x!.shape[axis]!) }
  },
  show: ({ axes }) => ({ axes }),
  encode: ({ axes }) => paddedBlock(axes),
  decode: (block, { axes }) => {
    // Padding looks like axis 0, so the number of axes is taken from the logged text. The text is compared
    // with the result later.
    const words = readWords(block, block.byteLength / 4)
    const rank = Array.isArray(axes) ? axes.length : words.length
    if (words.length !== rank + (rank % 2))
      throw invalidRequest('the parameter block of transpose is malformed')
    if (words.slice(rank).some((pad) => pad !== 0))
      throw invalidRequest('the parameter block of transpose is malformed')
    return { axes: words.slice(0, rank) }
  },
  costPerElementNs: () => 5,
})

// ---- reshape ----------------------------------------------------------------------------------------------

/** The shape asked for; -1 stands for the size that is left. */
function readShape(fields: Fields, x: OpInput): number[] {
  const shape = readIntegers(fields, 'shape', -1, PAGE_MAX_ELEMENTS)
  if (shape.length > PAGE_MAX_RANK) {
    throw invalidRequest(`shape has ${shape.length} axes; a page has at most ${PAGE_MAX_RANK}`)
  }
  const open = shape.indexOf(-1)
  if (open < 0) return shape
  if (shape.lastIndexOf(-1) !== open)
    throw invalidRequest('shape has -1 twice; only one size can be left open')
  const rest = elementCount(shape.filter((_, axis) => axis !== open))
  const elements = elementCount(x.shape)
  if (rest === 0 || elements % rest !== 0) {
    throw shapeMismatch(
      `${x.name} ${formatShape(x.shape)} has ${elements} elements; no size for axis ${open} of ${formatShape(shape)} gives as many`,
    )
  }
  return shape.map((size, axis) => (axis === open ? elements / rest : size))
}

const reshapeOp = defineOp<'reshape', { readonly shape: readonly number[] }>({
  name: 'reshape',
  code: 17,
  version: 1,
  roles: ['x'],
  parameters: { shape: 'required' },
  dirtyRule: 'elementwise',
  example: { op: 'reshape', inputs: { x: 'P' }, shape: [2, -1] },
  read: (fields, [x]) => ({ shape: readShape(fields, x!) }),
  infer: ({ shape }, [x]) => {
    const [wanted, elements] = [elementCount(shape), elementCount(x!.shape)]
    if (wanted !== elements) {
      throw shapeMismatch(
        `${x!.name} ${formatShape(x!.shape)} has ${elements} elements; shape ${formatShape(shape)} has ${wanted}`,
      )
    }
    return { dtype: x!.dtype, shape }
  },
  show: ({ shape }) => ({ shape }),
  encode: ({ shape }) => paddedBlock([shape.length, ...shape]),
  decode: (block) => {
    const [rank, ...words] = readWords(block, block.byteLength / 4)
    const isWhole = rank !== undefined && rank <= PAGE_MAX_RANK && words.length === rank + ((rank + 1) % 2)
    if (!isWhole || words.slice(rank).some((pad) => pad !== 0)) {
      throw invalidRequest('the parameter block of reshape is malformed')
    }
    return { shape: words.slice(0, rank) }
  },
  costPerElementNs: (_, __, { dtype }) => moveNs(dtype),
})

// ---- slice ------------------------------------------------------------------------------------------------

/** One axis: `count` elements from `start` on, `step` apart. An empty slice starts at 0. */
interface AxisSlice {
  readonly start: number
  readonly count: number
  readonly step: number
}

const STEP_MAX = 0x7fff_ffff

/** Python's slice(start, stop, step) of an axis of `size` elements. */
function sliceAxis(start: number | null, stop: number | null, step: number, size: number): AxisSlice {
  const [low, high] = step > 0 ? [0, size] : [-1, size - 1]
  const clip = (place: number): number => Math.min(Math.max(place < 0 ? place + size : place, low), high)
  const from = start === null ? (step > 0 ? low : high) : clip(start)
  const to = stop === null ? (step > 0 ? high : low) : clip(stop)
  const count = Math.max(0, Math.ceil((to - from) / step))
  return { start: count === 0 ? 0 : from, count, step }
}

function readBounds(fields: Fields, name: string, x: OpInput): (number | null)[] {
  const value = fields[name]
  if (value === undefined) return []
  if (!Array.isArray(value))
    throw invalidRequest(`${name} must be an array of integers or null, one per axis`)
  if (value.length > x.shape.length) {
    throw shapeMismatch(`${name} has ${value.length} entries; ${x.name} has ${x.shape.length} axes`)
  }
  return value.map((entry: unknown) => {
    if (entry === null) return null
    const [found] = readIntegers({ [name]: [entry] }, name, -PAGE_MAX_ELEMENTS, PAGE_MAX_ELEMENTS)
    if (name === 'step' && (found === 0 || Math.abs(found!) > STEP_MAX)) {
      throw invalidRequest(`step is ${found}; it must not be 0, nor beyond ${STEP_MAX}`)
    }
    return found!
  })
}

function readSlices(fields: Fields, x: OpInput): AxisSlice[] {
  const [start, stop, step] = ['start', 'stop', 'step'].map((name) => readBounds(fields, name, x))
  return x.shape.map((size, axis) =>
    sliceAxis(start![axis] ?? null, stop![axis] ?? null, step![axis] ?? 1, size),
  )
}

/** The least stop that gives the slice; null where it would lie before element 0. */
function stopOf({ start, count, step }: AxisSlice): number | null {
  if (count === 0) return 0
  const last = start + (count - 1) * step
  return step > 0 ? last + 1 : last === 0 ? null : last - 1
}

const sliceOp = defineOp<'slice', { readonly axes: readonly AxisSlice[] }>({
  name: 'slice',
  code: 18,
  version: 1,
  roles: ['x'],
  parameters: { start: 'optional', step: 'optional', stop: 'optional' },
  dirtyRule: 'moved',
  example: { op: 'slice', inputs: { x: 'P' }, start: [1, null], stop: [9, -1], step: [2, -1] },
  read: (fields, [x]) => ({ axes: readSlices(fields, x!) }),
  infer: ({ axes }, [x]) => {
    if (axes.length !== x!.shape.length) throw invalidRequest('the parameter block of slice has other axes')
    for (const [axis, { start, count, step }] of axes.entries()) {
      const size = x!.shape[axis]!
      const last = start + (count - 1) * step
      if (count > 0 && (start >= size || last < 0 || last >= size)) {
        throw invalidRequest(`the parameter block of slice leaves axis ${axis} of ${x!.name}`)
      }
    }
    return { dtype: x!.dtype, shape: axes.map(({ count }) => count) }
  },
  show: ({ axes }) => ({
    start: axes.map(({ start }) => start),
    step: axes.map(({ step }) => step),
    stop: axes.map(stopOf),
  }),
  encode: ({ axes }) => wordBlock(...axes.flatMap(({ start, count, step }) => [start, count, step >>> 0, 0])),
  decode: (block) => {
    if (block.byteLength % 16 !== 0) throw invalidRequest('the parameter block of slice is malformed')
    const words = readWords(block, block.byteLength / 4)
    const axes: AxisSlice[] = []
    for (let at = 0; at < words.length; at += 4) {
      const step = words[at + 2]! | 0
      const [start, count] = [words[at]!, words[at + 1]!]
      if (step === 0 || words[at + 3] !== 0 || (count === 0 && start !== 0)) {
        throw invalidRequest('the parameter block of slice is malformed')
      }
      axes.push({ start, count, step })
    }
    return { axes }
  },
  costPerElementNs: (_, __, { dtype }) => 0.3 + moveNs(dtype),
})

// ---- flip -------------------------------------------------------------------------------------------------

const flipOp = defineOp<'flip', { readonly axes: readonly number[] }>({
  name: 'flip',
  code: 21,
  version: 1,
  roles: ['x'],
  parameters: { axes: 'optional' },
  dirtyRule: 'moved',
  example: { op: 'flip', inputs: { x: 'P' }, axes: [0] },
  read: (fields, [x]) => ({ axes: readAxes(fields.axes, x!) }),
  infer: ({ axes }, [x]) => {
    checkBlockAxes(axes, x!)
    return { dtype: x!.dtype, shape: x!.shape }
  },
  show: ({ axes }) => ({ axes }),
  encode: ({ axes }) => wordBlock(maskOfAxes(axes), 0),
  decode: (block) => {
    const [mask, reserved] = readWords(block, 2)
    if (reserved !== 0) throw invalidRequest('the parameter block of flip is malformed')
    return { axes: axesOfMask(mask!, 'flip') }
  },
  costPerElementNs: (_, __, { dtype }) => 0.3 + moveNs(dtype),
})

// ---- concat -----------------------------------------------------------------------------------------------

const concatOp = defineOp<'concat', { readonly axis: number }>({
  name: 'concat',
  code: 19,
  version: 1,
  roles: 'named',
  ordersInputs: true,
  parameters: { axis: 'optional' },
  dirtyRule: 'moved',
  example: { op: 'concat', inputs: { a: 'P', b: 'Q' }, axis: 0 },
  read: (fields, [first]) => ({ axis: normalizeAxis(fields.axis === undefined ? 0 : fields.axis, first!) }),
  infer: ({ axis }, inputs) => {
    const [first] = inputs
    checkBlockAxis(axis, first!)
    for (const input of inputs.slice(1)) {
      if (input.shape.length !== first!.shape.length) {
        throw shapeMismatch(
          `${first!.name} ${formatShape(first!.shape)} has ${first!.shape.length} axes, ${input.name} ${formatShape(input.shape)} has ${input.shape.length}`,
        )
      }
      const other = input.shape.findIndex((size, i) => i !== axis && size !== first!.shape[i])
      if (other >= 0) {
        throw shapeMismatch(
          `${first!.name} ${formatShape(first!.shape)} has size ${first!.shape[other]} on axis ${other}, ` +
            `${input.name} ${formatShape(input.shape)} has size ${input.shape[other]}; they may differ on axis ${axis} only`,
        )
      }
    }
    const total = inputs.reduce((sum, { shape }) => sum + shape[axis]!, 0)
    return {
      dtype: commonDtypeOf(inputs),
      shape: first!.shape.map((size, i) => (i === axis ? total : size)),
    }
  },
  show: ({ axis }) => ({ axis }),
  encode: ({ axis }) => wordBlock(axis, 0),
  decode: (block) => {
    const [axis, reserved] = readWords(block, 2)
    if (reserved !== 0) throw invalidRequest('the parameter block of concat is malformed')
    return { axis: axis! }
  },
  costPerElementNs: (_, __, { dtype }) => 0.3 + moveNs(dtype),
})

export const MOVE_OPS = {
  transpose: transposeOp,
  reshape: reshapeOp,
  slice: sliceOp,
  flip: flipOp,
  concat: concatOp,
}
