/** quantile and topk: choose from the elements along an axis by their order. */
import { elementCount, formatShape, normalizeAxis } from '../../state/shape.js'
import type { Dtype } from '../../wire/dtype.js'
import { TOPK_OUTPUTS } from '../../wire/ops.js'
import {
  checkBlockAxis,
  defineOp,
  flagOfWord,
  invalidRequest,
  nameOfWord,
  readBoolean,
  readChoice,
  readInteger,
  readNumber,
  readWords,
  shapeMismatch,
  wordBlock,
} from './op.js'

interface QuantileParams {
  readonly q: number
  /** Undefined: over all elements. */
  readonly axis: number | undefined
}

const ALL_ELEMENTS = 0xffff_ffff // -1 as i32

const quantileOp = defineOp<'quantile', QuantileParams>({
  name: 'quantile',
  code: 6,
  version: 2,
  roles: ['x'],
  parameters: { axis: 'optional', q: 'required' },
  dirtyRule: 'rows',
  example: { op: 'quantile', inputs: { x: 'P' }, q: 0.05, axis: 0 },
  read: (fields, [x]) => ({
    q: readNumber(fields, 'q', 0, 1),
    axis: fields.axis === undefined ? undefined : normalizeAxis(fields.axis, x!),
  }),
  infer: ({ axis }, [x]) => {
    if (axis !== undefined) checkBlockAxis(axis, x!)
    const size = axis === undefined ? elementCount(x!.shape) : x!.shape[axis]
    if (size === 0) {
      const where = axis === undefined ? 'has no elements' : `has size 0 on axis ${axis}`
      throw shapeMismatch(`quantile needs at least one element: ${x!.name} ${formatShape(x!.shape)} ${where}`)
    }
    const dtype: Dtype = x!.dtype === 'f32' ? 'f32' : 'f64'
    return { dtype, shape: axis === undefined ? [] : x!.shape.filter((_, i) => i !== axis) }
  },
  show: ({ q, axis }) => (axis === undefined ? { q } : { axis, q }),
  encode: ({ q, axis }) => {
    const block = wordBlock(0, 0, axis ?? ALL_ELEMENTS, 0)
    new DataView(block.buffer).setFloat64(0, q, true)
    return block
  },
  decode: (block) => {
    const [, , axis, reserved] = readWords(block, 4)
    const q = block.getFloat64(0, true)
    if (!(q >= 0 && q <= 1) || reserved !== 0)
      throw invalidRequest('the parameter block of quantile is malformed')
    return { q, axis: axis === ALL_ELEMENTS ? undefined : axis }
  },
  costPerElementNs: ({ axis }, [x]) => {
    const size = axis === undefined ? elementCount(x!.shape) : x!.shape[axis]!
    return 20 + 14 * size
  },
})

interface TopkParams {
  readonly k: number
  readonly axis: number
  readonly output: (typeof TOPK_OUTPUTS)[number]
  readonly largest: boolean
}

const topkOp = defineOp<'topk', TopkParams>({
  name: 'topk',
  code: 7,
  version: 1,
  roles: ['x'],
  parameters: { axis: 'optional', k: 'required', largest: 'optional', output: 'required' },
  dirtyRule: 'rows',
  example: { op: 'topk', inputs: { x: 'P' }, k: 10, axis: 0, output: 'indices', largest: true },
  read: (fields, [x]) => ({
    k: readInteger(fields, 'k', 0, 0xffff_ffff),
    axis: normalizeAxis(fields.axis === undefined ? -1 : fields.axis, x!),
    output: readChoice(fields, 'output', TOPK_OUTPUTS),
    largest: readBoolean(fields, 'largest', true),
  }),
  infer: ({ k, axis, output }, [x]) => {
    checkBlockAxis(axis, x!)
    if (k > x!.shape[axis]!) {
      throw shapeMismatch(
        `k is ${k} but ${x!.name} ${formatShape(x!.shape)} has size ${x!.shape[axis]} on axis ${axis}`,
      )
    }
    return {
      dtype: output === 'indices' ? 'u32' : x!.dtype,
      shape: x!.shape.map((size, i) => (i === axis ? k : size)),
    }
  },
  show: ({ k, axis, output, largest }) => ({ axis, k, largest, output }),
  encode: ({ k, axis, output, largest }) => wordBlock(k, axis, TOPK_OUTPUTS.indexOf(output), largest ? 1 : 0),
  decode: (block) => {
    const [k, axis, output, largest] = readWords(block, 4)
    return {
      k: k!,
      axis: axis!,
      output: nameOfWord(TOPK_OUTPUTS, output!, 'output'),
      largest: flagOfWord(largest!, 'largest'),
    }
  },
  // A heap holds the best k elements so far.
  costPerElementNs: ({ k, axis }, [x]) =>
    10 + (x!.shape[axis]! * (2 + 1.5 * Math.log2(Math.max(1, k)))) / Math.max(1, k),
})

export const SELECT_OPS = { quantile: quantileOp, topk: topkOp }
