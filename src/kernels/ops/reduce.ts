/** reduce: one value from the elements along some axes. */

import { elementCount, formatShape } from '../../state/shape.js'
import { DTYPE_INFO, type Dtype } from '../../wire/dtype.js'
import { REDUCE_FUNCTIONS } from '../../wire/ops.js'
import {
  axesOfMask,
  checkBlockAxes,
  defineOp,
  flagOfWord,
  invalidRequest,
  maskOfAxes,
  nameOfWord,
  readAxes,
  readBoolean,
  readChoice,
  readWords,
  shapeMismatch,
  wordBlock,
} from './op.js'

export type ReduceFunction = (typeof REDUCE_FUNCTIONS)[number]

interface ReduceParams {
  readonly fn: ReduceFunction
  /** Ascending, counted from 0. */
  readonly axes: readonly number[]
  readonly keepdims: boolean
}

const NEEDS_ELEMENTS: ReadonlySet<ReduceFunction> = new Set<ReduceFunction>([
  'min',
  'max',
  'argmin',
  'argmax',
])

/** The dtype of a result before a cast (ops.h). */
export function reduceDtype(fn: ReduceFunction, dtype: Dtype): Dtype {
  const { kind } = DTYPE_INFO[dtype]
  switch (fn) {
    case 'sum':
    case 'prod':
      return kind === 'float' ? dtype : kind === 'signed' ? 'i64' : 'u64'
    case 'min':
    case 'max':
      return dtype
    case 'mean':
    case 'var':
      return kind === 'float' ? dtype : 'f64'
    case 'any':
    case 'all':
      return 'bool'
    default:
      return 'u32'
  }
}

/** Nanoseconds per element of the input; the other functions take half a nanosecond. */
const ELEMENT_NS: Readonly<Partial<Record<ReduceFunction, number>>> = { var: 1.2, argmin: 1.2, argmax: 1.2 }

function reducedShape(shape: readonly number[], axes: readonly number[], keepdims: boolean): number[] {
  return keepdims
    ? shape.map((size, axis) => (axes.includes(axis) ? 1 : size))
    : shape.filter((_, axis) => !axes.includes(axis))
}

const reduceOp = defineOp<'reduce', ReduceParams>({
  name: 'reduce',
  code: 4,
  version: 1,
  roles: ['x'],
  parameters: { axes: 'optional', fn: 'required', keepdims: 'optional' },
  dirtyRule: 'rows',
  example: { op: 'reduce', inputs: { x: 'P' }, fn: 'sum', axes: [1], keepdims: false },
  read: (fields, [x]) => ({
    fn: readChoice(fields, 'fn', REDUCE_FUNCTIONS),
    axes: readAxes(fields.axes, x!),
    keepdims: readBoolean(fields, 'keepdims', false),
  }),
  infer: ({ fn, axes, keepdims }, [x]) => {
    checkBlockAxes(axes, x!)
    const empty = axes.find((axis) => x!.shape[axis] === 0)
    if (empty !== undefined && NEEDS_ELEMENTS.has(fn)) {
      throw shapeMismatch(
        `${fn} needs at least one element: ${x!.name} ${formatShape(x!.shape)} has size 0 on axis ${empty}`,
      )
    }
    return { dtype: reduceDtype(fn, x!.dtype), shape: reducedShape(x!.shape, axes, keepdims) }
  },
  show: ({ fn, axes, keepdims }) => ({ axes, fn, keepdims }),
  encode: ({ fn, axes, keepdims }) =>
    wordBlock(REDUCE_FUNCTIONS.indexOf(fn), maskOfAxes(axes), keepdims ? 1 : 0, 0),
  decode: (block) => {
    const [fn, mask, keepdims, reserved] = readWords(block, 4)
    if (reserved !== 0) throw invalidRequest('the parameter block of reduce is malformed')
    return {
      fn: nameOfWord(REDUCE_FUNCTIONS, fn!, 'function'),
      axes: axesOfMask(mask!, 'reduce'),
      keepdims: flagOfWord(keepdims!, 'keepdims'),
    }
  },
  costPerElementNs: ({ fn }, [x], { shape }) =>
    8 + ((ELEMENT_NS[fn] ?? 0.5) * elementCount(x!.shape)) / Math.max(1, elementCount(shape)),
})

export const REDUCE_OPS = { reduce: reduceOp }
