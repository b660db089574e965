/** map: an expression over named inputs that are broadcast to one shape. */
import { broadcastShapes } from '../../state/shape.js'
import { compileExpression } from '../expression/compile.js'
import { decodeIr, encodeIr, type Ir, type IrOp, resultDtype } from '../expression/ir.js'
import { defineOp, invalidRequest, moveNs, readString } from './op.js'

interface MapParams {
  /** Shown to people; a replay runs the IR. */
  readonly expr: string
  readonly ir: Ir
}

/** Nanoseconds of the portable functions; the other instructions cost about one vector operation. */
const FUNCTION_NS: Readonly<Partial<Record<IrOp, number>>> = {
  exp: 4,
  log: 4,
  log2: 4,
  sin: 4,
  cos: 4,
  tan: 5,
  tanh: 5,
  pow: 18,
  mod: 6,
  floordiv: 6,
}
/** The changed elements of a result of truth values often form many short runs. */
const RUNS_NS = 2.5

const mapOp = defineOp<'map', MapParams>({
  name: 'map',
  code: 3,
  version: 1,
  roles: 'named',
  parameters: { expr: 'required' },
  dirtyRule: 'elementwise',
  example: { op: 'map', inputs: { a: 'P', b: 'Q' }, expr: 'a * b + 1' },
  givesDtype: true,
  read: (fields, inputs, dtype, functions) => {
    const expr = readString(fields, 'expr')
    const named = inputs.map((input) => ({ name: input.role, dtype: input.dtype }))
    return { expr, ir: compileExpression(expr, named, dtype, functions).ir }
  },
  infer: ({ ir }, inputs) => {
    if (ir.inputs.length !== inputs.length) {
      throw invalidRequest(`the IR has ${ir.inputs.length} inputs, the definition ${inputs.length}`)
    }
    for (const [i, input] of inputs.entries()) {
      if (ir.inputs[i] !== input.dtype) {
        throw invalidRequest(`${input.name} is ${input.dtype}, the IR expects ${ir.inputs[i]}`)
      }
    }
    return { dtype: resultDtype(ir), shape: broadcastShapes(inputs) }
  },
  show: ({ expr }) => ({ expr }),
  encode: ({ ir }) => encodeIr(ir),
  decode: (block, shown) => {
    const expr = readString(shown, 'expr')
    return { expr, ir: decodeIr(new Uint8Array(block.buffer, block.byteOffset, block.byteLength)) }
  },
  costPerElementNs: ({ ir }, _, { dtype }) =>
    ir.instructions.reduce(
      (sum, { op }) => sum + (FUNCTION_NS[op] ?? 0.2),
      dtype === 'bool' ? RUNS_NS : moveNs(dtype),
    ),
})

export const MAP_OPS = { map: mapOp }
