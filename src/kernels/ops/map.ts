/** map: an expression over named inputs that are broadcast to one shape. */
import { broadcastShapes } from '../../state/shape.js'
import { compileExpression } from '../expression/compile.js'
import { decodeIr, encodeIr, type Ir, type IrOp, resultDtype } from '../expression/ir.js'
import { defineOp, invalidRequest, type Op, readString } from './op.js'

interface MapParams {
  /** Shown to people; a replay runs the IR. */
  readonly expr: string
  readonly ir: Ir
}

/** The portable functions; the other instructions cost about one vector operation. */
const SLOW: ReadonlySet<IrOp> = new Set<IrOp>(['exp', 'log', 'log2', 'sin', 'cos', 'tan', 'tanh'])
const SLOWER: ReadonlySet<IrOp> = new Set<IrOp>(['pow', 'mod', 'floordiv'])

const mapOp = defineOp<MapParams>({
  name: 'map',
  code: 3,
  version: 1,
  roles: 'named',
  parameters: ['expr'],
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
  costPerElementNs: ({ ir }) =>
    ir.instructions.reduce((sum, { op }) => sum + (SLOWER.has(op) ? 10 : SLOW.has(op) ? 3 : 0.2), 0.2),
})

export const MAP_OPS: readonly Op[] = [mapOp]
