/** gather, scatter, bincount, histogram: values of one page choose places in another. */
import { PAGE_MAX_ELEMENTS } from '../../limits.js'
import { elementCount, formatShape, normalizeAxis, sameShape } from '../../state/shape.js'
import { DTYPE_INFO } from '../../wire/dtype.js'
import {
  checkBlockAxis,
  checkRank,
  defineOp,
  type Fields,
  invalidRequest,
  nameOfWord,
  type OpInput,
  readChoice,
  readInteger,
  readWords,
  shapeMismatch,
  wordBlock,
} from './op.js'

const MERGES = ['set', 'add', 'min', 'max', 'and', 'or', 'xor'] as const
type Merge = (typeof MERGES)[number]

const readAxis = (fields: Fields, x: OpInput): number =>
  normalizeAxis(fields.axis === undefined ? 0 : fields.axis, x)

/**
 * The shape of x with the axes of the indices in place of `axis`: the result of gather, and the
 * values of scatter.
 */
function gatheredShape(x: OpInput, axis: number, indices: OpInput): number[] {
  checkBlockAxis(axis, x)
  const { kind } = DTYPE_INFO[indices.dtype]
  if (kind === 'bool' || kind === 'float') {
    throw shapeMismatch(`${indices.name} is ${indices.dtype}; indices are integers`)
  }
  const shape = [...x.shape.slice(0, axis), ...indices.shape, ...x.shape.slice(axis + 1)]
  checkRank(shape)
  return shape
}

const gatherOp = defineOp<'gather', { readonly axis: number }>({
  name: 'gather',
  code: 12,
  version: 1,
  roles: ['x', 'indices'],
  parameters: { axis: 'optional' },
  dirtyRule: 'indexed',
  example: { op: 'gather', inputs: { x: 'P', indices: 'Q' }, axis: 0 },
  read: (fields, [x]) => ({ axis: readAxis(fields, x!) }),
  infer: ({ axis }, [x, indices]) => ({ dtype: x!.dtype, shape: gatheredShape(x!, axis, indices!) }),
  show: ({ axis }) => ({ axis }),
  encode: ({ axis }) => wordBlock(axis, 0),
  decode: (block) => {
    const [axis, reserved] = readWords(block, 2)
    if (reserved !== 0) throw invalidRequest('the parameter block of gather is malformed')
    return { axis: axis! }
  },
  costPerElementNs: () => 2,
})

interface ScatterParams {
  readonly axis: number
  readonly merge: Merge
}

const scatterOp = defineOp<'scatter', ScatterParams>({
  name: 'scatter',
  code: 13,
  version: 1,
  roles: ['x', 'indices', 'values'],
  parameters: { axis: 'optional', merge: 'optional' },
  dirtyRule: 'indexed',
  example: { op: 'scatter', inputs: { x: 'P', indices: 'Q', values: 'R' }, axis: 0, merge: 'set' },
  read: (fields, [x]) => ({ axis: readAxis(fields, x!), merge: readChoice(fields, 'merge', MERGES, 'set') }),
  infer: ({ axis, merge }, [x, indices, values]) => {
    const shape = gatheredShape(x!, axis, indices!)
    if (elementCount(values!.shape) !== 1 && !sameShape(values!.shape, shape)) {
      throw shapeMismatch(
        `${values!.name} ${formatShape(values!.shape)} must have shape ${formatShape(shape)}, or one element`,
      )
    }
    if (DTYPE_INFO[x!.dtype].kind === 'float' && MERGES.indexOf(merge) >= MERGES.indexOf('and')) {
      throw shapeMismatch(`merge ${merge} is not defined for ${x!.dtype}, the dtype of ${x!.name}`)
    }
    return { dtype: x!.dtype, shape: x!.shape }
  },
  show: ({ axis, merge }) => ({ axis, merge }),
  encode: ({ axis, merge }) => wordBlock(axis, MERGES.indexOf(merge)),
  decode: (block) => {
    const [axis, merge] = readWords(block, 2)
    return { axis: axis!, merge: nameOfWord(MERGES, merge!, 'merge') }
  },
  costPerElementNs: (_, [x, indices]) =>
    1 + (20 * elementCount(indices!.shape)) / Math.max(1, elementCount(x!.shape)),
})

const bincountOp = defineOp<'bincount', { readonly length: number }>({
  name: 'bincount',
  code: 14,
  version: 1,
  roles: ['x'],
  parameters: { length: 'required' },
  dirtyRule: 'all',
  example: { op: 'bincount', inputs: { x: 'P' }, length: 256 },
  read: (fields) => ({ length: readInteger(fields, 'length', 0, PAGE_MAX_ELEMENTS) }),
  infer: ({ length }, [x]) => {
    if (DTYPE_INFO[x!.dtype].kind === 'float') {
      throw shapeMismatch(`${x!.name} is ${x!.dtype}; bincount counts integers`)
    }
    return { dtype: 'u32', shape: [length] }
  },
  show: ({ length }) => ({ length }),
  encode: ({ length }) => wordBlock(length, 0),
  decode: (block) => {
    const [length, reserved] = readWords(block, 2)
    if (reserved !== 0 || length! > PAGE_MAX_ELEMENTS) {
      throw invalidRequest('the parameter block of bincount is malformed')
    }
    return { length: length! }
  },
  // The more counters, the fewer of them are in the cache.
  costPerElementNs: ({ length }, [x]) =>
    2 + ((1 + Math.log2(length + 1) / 6) * elementCount(x!.shape)) / Math.max(1, length),
})

interface HistogramParams {
  readonly bins: number
  readonly range: readonly [number, number]
}

const isRange = (low: unknown, high: unknown): boolean =>
  Number.isFinite(low) && Number.isFinite(high) && (low as number) < (high as number)

/** Whether a bin has a width above 0 with a finite inverse. The range itself may be wider than any number. */
function hasWidth(low: number, high: number, bins: number): boolean {
  const range = Number.isFinite(high - low) ? high - low : high / 2 - low / 2
  return Number.isFinite(bins / range) && range / bins > 0
}

const histogramOp = defineOp<'histogram', HistogramParams>({
  name: 'histogram',
  code: 15,
  version: 1,
  roles: ['x'],
  parameters: { bins: 'required', range: 'required' },
  dirtyRule: 'all',
  example: { op: 'histogram', inputs: { x: 'P' }, bins: 10, range: [0, 1] },
  read: (fields) => {
    const bins = readInteger(fields, 'bins', 1, PAGE_MAX_ELEMENTS)
    const { range } = fields
    if (!Array.isArray(range) || range.length !== 2 || !isRange(range[0], range[1])) {
      throw invalidRequest('range must be two finite numbers, the lower one first')
    }
    const [low, high] = range as [number, number]
    if (!hasWidth(low, high, bins)) throw invalidRequest(`range is too narrow for ${bins} bins`)
    return { bins, range: [low, high] }
  },
  infer: ({ bins }) => ({ dtype: 'u32', shape: [bins] }),
  show: ({ bins, range }) => ({ bins, range }),
  encode: ({ bins, range }) => {
    const block = wordBlock(bins, 0, 0, 0, 0, 0)
    const view = new DataView(block.buffer)
    view.setFloat64(8, range[0], true)
    view.setFloat64(16, range[1], true)
    return block
  },
  decode: (block) => {
    const [bins, reserved] = readWords(block, 6)
    const [low, high] = [block.getFloat64(8, true), block.getFloat64(16, true)]
    const isSound = isRange(low, high) && hasWidth(low, high, bins!)
    if (reserved !== 0 || bins! < 1 || bins! > PAGE_MAX_ELEMENTS || !isSound) {
      throw invalidRequest('the parameter block of histogram is malformed')
    }
    return { bins: bins!, range: [low, high] }
  },
  costPerElementNs: ({ bins }, [x]) => 2 + (5 * elementCount(x!.shape)) / bins,
})

export const INDEXED_OPS = {
  gather: gatherOp,
  scatter: scatterOp,
  bincount: bincountOp,
  histogram: histogramOp,
}
