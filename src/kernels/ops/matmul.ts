/** matmul: NumPy's, over a choice of semirings. */

import { broadcastShapes, formatShape } from '../../state/shape.js'
import { DTYPE_INFO, type Dtype } from '../../wire/dtype.js'
import { SEMIRINGS } from '../../wire/ops.js'
import { promoteDtypes } from '../promotion.js'
import {
  defineOp,
  invalidRequest,
  nameOfWord,
  type OpInput,
  readChoice,
  readWords,
  shapeMismatch,
  wordBlock,
} from './op.js'

export type Semiring = (typeof SEMIRINGS)[number]

const PANEL_ROWS = 10
const PANEL_COLUMNS = 32

interface MatmulParams {
  readonly semiring: Semiring
}

function matmulDtype(semiring: Semiring, a: OpInput, b: OpInput): Dtype {
  if (semiring === 'or_and') return 'bool'
  const dtype = promoteDtypes(a.dtype, b.dtype)
  if (dtype === undefined) {
    throw shapeMismatch(
      `${a.name} is ${a.dtype} and ${b.name} is ${b.dtype}: no dtype holds both; cast one of them`,
    )
  }
  if (dtype === 'bool' && semiring !== 'plus_times') {
    throw shapeMismatch(`${semiring} is not defined for bool; cast ${a.name} or ${b.name}, or use or_and`)
  }
  return dtype
}

/** Size of the axis that is summed over. */
function innerSize(semiring: Semiring, a: OpInput, b: OpInput): number {
  for (const input of [a, b]) {
    if (input.shape.length === 0) throw shapeMismatch(`${input.name} has no axes; matmul needs at least one`)
  }
  const axisOfA = a.shape.length - 1
  const axisOfB = Math.max(0, b.shape.length - 2)
  const size = a.shape[axisOfA]!
  if (size !== b.shape[axisOfB]) {
    throw shapeMismatch(
      `${a.name} ${formatShape(a.shape)} has size ${size} on axis ${axisOfA}, ` +
        `${b.name} ${formatShape(b.shape)} has size ${b.shape[axisOfB]} on axis ${axisOfB}; they must be equal`,
    )
  }
  if (size === 0 && semiring.endsWith('_plus')) {
    throw shapeMismatch(`${semiring} needs at least one element: ${a.name} has size 0 on axis ${axisOfA}`)
  }
  return size
}

function matmulShape(a: OpInput, b: OpInput): number[] {
  const batch = broadcastShapes([
    { name: `batch axes of ${a.name}`, shape: a.shape.slice(0, -2) },
    { name: `batch axes of ${b.name}`, shape: b.shape.slice(0, -2) },
  ])
  const rows = a.shape.length > 1 ? [a.shape[a.shape.length - 2]!] : []
  const columns = b.shape.length > 1 ? [b.shape[b.shape.length - 1]!] : []
  return [...batch, ...rows, ...columns]
}

const matmulOp = defineOp<'matmul', MatmulParams>({
  name: 'matmul',
  code: 5,
  version: 1,
  roles: ['a', 'b'],
  parameters: { semiring: 'optional' },
  dirtyRule: 'matmul',
  example: { op: 'matmul', inputs: { a: 'P', b: 'Q' }, semiring: 'plus_times' },
  read: (fields) => ({ semiring: readChoice(fields, 'semiring', SEMIRINGS, 'plus_times') }),
  infer: ({ semiring }, [a, b]) => {
    innerSize(semiring, a!, b!)
    return { dtype: matmulDtype(semiring, a!, b!), shape: matmulShape(a!, b!) }
  },
  show: ({ semiring }) => ({ semiring }),
  encode: ({ semiring }) => wordBlock(SEMIRINGS.indexOf(semiring), 0),
  decode: (block) => {
    const [semiring, reserved] = readWords(block, 2)
    if (reserved !== 0) throw invalidRequest('the parameter block of matmul is malformed')
    return { semiring: nameOfWord(SEMIRINGS, semiring!, 'semiring') }
  },
  costPerElementNs: (_, [a, b], { dtype }) => {
    const perProduct = DTYPE_INFO[dtype].kind === 'float' ? 0.06 : 0.12
    // Rows and columns are computed in panels, which few of them fill in part.
    const rows = a!.shape.length > 1 ? a!.shape[a!.shape.length - 2]! : 1
    const columns = b!.shape.length > 1 ? b!.shape[b!.shape.length - 1]! : 1
    const padding = Math.max(1, PANEL_COLUMNS / Math.max(1, columns), PANEL_ROWS / Math.max(1, rows))
    return 2 + perProduct * padding * (a!.shape[a!.shape.length - 1] ?? 1)
  },
})

export const MATMUL_OPS = { matmul: matmulOp }
