/** conv and distance: chains of products over neighbours, or over vectors. */

import { elementCount, formatShape } from '../../state/shape.js'
import { DTYPE_INFO } from '../../wire/dtype.js'
import { BOUNDARIES, METRICS } from '../../wire/ops.js'
import { promoteDtypes } from '../promotion.js'
import {
  commonDtypeOf,
  defineOp,
  invalidRequest,
  nameOfWord,
  readChoice,
  readWords,
  shapeMismatch,
  wordBlock,
} from './op.js'

const convOp = defineOp<'conv', { readonly boundary: (typeof BOUNDARIES)[number] }>({
  name: 'conv',
  code: 9,
  version: 1,
  roles: ['x', 'kernel'],
  parameters: { boundary: 'optional' },
  dirtyRule: 'near',
  example: { op: 'conv', inputs: { x: 'P', kernel: 'Q' }, boundary: 'zero' },
  read: (fields) => ({ boundary: readChoice(fields, 'boundary', BOUNDARIES, 'zero') }),
  infer: (_, [x, kernel]) => {
    const rank = kernel!.shape.length
    if (rank < 1 || rank > 2) {
      throw shapeMismatch(`${kernel!.name} has ${rank} axes; a kernel has one or two`)
    }
    if (x!.shape.length < rank) {
      throw shapeMismatch(
        `${x!.name} has ${x!.shape.length} axes; with ${kernel!.name} ${formatShape(kernel!.shape)} it needs at least ${rank}`,
      )
    }
    const empty = kernel!.shape.indexOf(0)
    if (empty >= 0) {
      throw shapeMismatch(`${kernel!.name} ${formatShape(kernel!.shape)} has size 0 on axis ${empty}`)
    }
    return { dtype: commonDtypeOf([x!, kernel!]), shape: x!.shape }
  },
  show: ({ boundary }) => ({ boundary }),
  encode: ({ boundary }) => wordBlock(BOUNDARIES.indexOf(boundary), 0),
  decode: (block) => {
    const [boundary, reserved] = readWords(block, 2)
    if (reserved !== 0) throw invalidRequest('the parameter block of conv is malformed')
    return { boundary: nameOfWord(BOUNDARIES, boundary!, 'boundary') }
  },
  costPerElementNs: (_, [, kernel], { dtype }) =>
    1 + (DTYPE_INFO[dtype].kind === 'float' ? 0.5 : 1) * elementCount(kernel!.shape),
})

const distanceOp = defineOp<'distance', { readonly metric: (typeof METRICS)[number] }>({
  name: 'distance',
  code: 20,
  version: 2,
  roles: ['queries', 'vectors'],
  parameters: { metric: 'required' },
  dirtyRule: 'matmul',
  example: { op: 'distance', inputs: { queries: 'P', vectors: 'Q' }, metric: 'l2' },
  read: (fields) => ({ metric: readChoice(fields, 'metric', METRICS) }),
  infer: (_, [queries, vectors]) => {
    const rank = queries!.shape.length
    if (rank < 1 || rank > 2)
      throw shapeMismatch(`${queries!.name} has ${rank} axes; it must have one or two`)
    if (vectors!.shape.length !== 2) {
      throw shapeMismatch(`${vectors!.name} has ${vectors!.shape.length} axes; it must have two`)
    }
    const size = queries!.shape[rank - 1]!
    if (size !== vectors!.shape[1]) {
      throw shapeMismatch(
        `${queries!.name} ${formatShape(queries!.shape)} has size ${size} on axis ${rank - 1}, ` +
          `${vectors!.name} ${formatShape(vectors!.shape)} has size ${vectors!.shape[1]} on axis 1; they must be equal`,
      )
    }
    const common = promoteDtypes(queries!.dtype, vectors!.dtype)
    const isFloat = common !== undefined && DTYPE_INFO[common].kind === 'float'
    return { dtype: isFloat ? common : 'f64', shape: [...queries!.shape.slice(0, -1), vectors!.shape[0]!] }
  },
  show: ({ metric }) => ({ metric }),
  encode: ({ metric }) => wordBlock(METRICS.indexOf(metric), 0),
  decode: (block) => {
    const [metric, reserved] = readWords(block, 2)
    if (reserved !== 0) throw invalidRequest('the parameter block of distance is malformed')
    return { metric: nameOfWord(METRICS, metric!, 'metric') }
  },
  costPerElementNs: (_, [queries]) => 15 + 0.3 * queries!.shape[queries!.shape.length - 1]!,
})

export const CONV_OPS = { conv: convOp, distance: distanceOp }
