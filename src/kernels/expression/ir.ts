/**
 * The expression IR (docs/internals/FORMAT.md, "Expression IR"): opcodes, the binary form, the
 * form for people.
 *
 * Invariants: the form is SSA; instruction i defines value i and uses earlier values only. decodeIr accepts
 * exactly the bytes that encodeIr writes for well-typed programs, so bytes from a log or a client that it
 * accepts are safe to run. Codes are written to logs and never change their meaning; build/libmmsb.so has the
 * same table (a test compares).
 */
import { MmsbError } from '../../errors.js'
import { DEFINITION_MAX_BYTES, IR_MAX_INPUTS, IR_MAX_INSTRUCTIONS } from '../../limits.js'
import { isZero } from '../../state/bytes.js'
import { fillToJson } from '../../state/value.js'
import { align8 } from '../../wire/align.js'
import { DTYPE_INFO, type Dtype, dtypeOfCode } from '../../wire/dtype.js'

/**
 * An opcode: its code, how many of the operands a, b, c it uses, the dtypes it works in, and whether its
 * result is bool. Operands have the instruction's dtype, except for `cast` (any dtype) and the condition of
 * `select` (bool).
 */
interface IrOpInfo {
  readonly code: number
  readonly arity: 0 | 1 | 2 | 3
  readonly domain: 'any' | 'number' | 'bool' | 'integer' | 'float' | 'bits'
  readonly toBool: boolean
}

const op = (
  code: number,
  arity: IrOpInfo['arity'],
  domain: IrOpInfo['domain'],
  toBool = false,
): IrOpInfo => ({ code, arity, domain, toBool })

export const IR_OPS = {
  input: op(0, 0, 'any'),
  const: op(1, 0, 'any'),
  cast: op(2, 1, 'any'),
  add: op(3, 2, 'any'),
  sub: op(4, 2, 'number'),
  mul: op(5, 2, 'any'),
  div: op(6, 2, 'float'),
  floordiv: op(7, 2, 'number'),
  mod: op(8, 2, 'number'),
  pow: op(9, 2, 'number'),
  neg: op(10, 1, 'number'),
  abs: op(11, 1, 'number'),
  sign: op(12, 1, 'number'),
  eq: op(16, 2, 'any', true),
  ne: op(17, 2, 'any', true),
  lt: op(18, 2, 'any', true),
  le: op(19, 2, 'any', true),
  gt: op(20, 2, 'any', true),
  ge: op(21, 2, 'any', true),
  and: op(22, 2, 'bool'),
  or: op(23, 2, 'bool'),
  not: op(24, 1, 'bool'),
  select: op(25, 3, 'any'),
  min: op(26, 2, 'any'),
  max: op(27, 2, 'any'),
  sqrt: op(32, 1, 'float'),
  exp: op(33, 1, 'float'),
  log: op(34, 1, 'float'),
  log2: op(35, 1, 'float'),
  sin: op(36, 1, 'float'),
  cos: op(37, 1, 'float'),
  tan: op(38, 1, 'float'),
  tanh: op(39, 1, 'float'),
  floor: op(40, 1, 'float'),
  ceil: op(41, 1, 'float'),
  round: op(42, 1, 'float'),
  trunc: op(43, 1, 'float'),
  isnan: op(48, 1, 'float', true),
  fma: op(49, 3, 'number'),
  bitand: op(50, 2, 'bits'),
  bitor: op(51, 2, 'bits'),
  bitxor: op(52, 2, 'bits'),
  shl: op(53, 2, 'integer'),
  shr: op(54, 2, 'integer'),
} as const satisfies Record<string, IrOpInfo>

export type IrOp = keyof typeof IR_OPS

const OP_NAMES = new Map<number, IrOp>(
  (Object.keys(IR_OPS) as IrOp[]).map((name) => [IR_OPS[name].code, name]),
)

export interface IrInstruction {
  readonly op: IrOp
  /** The dtype the operation works in: of the operands for comparisons, the destination for `cast`. */
  readonly dtype: Dtype
  /** The values it uses, as many as the op's arity. */
  readonly args: readonly number[]
  /** For `input` its index; for `const` the bits of the value, zero-extended; else 0. */
  readonly imm: bigint
}

export interface Ir {
  /** Dtype of each input. */
  readonly inputs: readonly Dtype[]
  readonly instructions: readonly IrInstruction[]
  /** The number of the value that becomes the element of the output. */
  readonly result: number
}

const IR_MAGIC = 0x3152_494d // "MIR1", little-endian
const IR_VERSION = 1
const HEADER_BYTES = 16
const INSTRUCTION_BYTES = 16

/** The dtype of the value an instruction defines. */
export function valueDtype(instruction: Pick<IrInstruction, 'op' | 'dtype'>): Dtype {
  return IR_OPS[instruction.op].toBool ? 'bool' : instruction.dtype
}

/** The dtype of the result. */
export function resultDtype(ir: Ir): Dtype {
  return valueDtype(ir.instructions[ir.result]!)
}

/** Whether an op works in a dtype. */
export function isInDomain(name: IrOp, dtype: Dtype): boolean {
  const { kind } = DTYPE_INFO[dtype]
  switch (IR_OPS[name].domain) {
    case 'any':
      return true
    case 'number':
      return kind !== 'bool'
    case 'bool':
      return kind === 'bool'
    case 'integer':
      return kind === 'unsigned' || kind === 'signed'
    case 'float':
      return kind === 'float'
    case 'bits':
      return kind !== 'float'
  }
}

// ---- binary form ------------------------------------------------------------------------------------------

/** The binary form. @throws MmsbError INTERNAL when the program is not well-typed: a bug of the compiler */
export function encodeIr(ir: Ir): Uint8Array {
  const fault = findFault(ir)
  if (fault !== undefined) throw new MmsbError('INTERNAL', `IR: ${fault}`)
  const start = HEADER_BYTES + align8(ir.inputs.length)
  const bytes = new Uint8Array(start + ir.instructions.length * INSTRUCTION_BYTES)
  const view = new DataView(bytes.buffer)
  view.setUint32(0, IR_MAGIC, true)
  view.setUint16(4, IR_VERSION, true)
  view.setUint16(6, ir.inputs.length, true)
  view.setUint32(8, ir.instructions.length, true)
  view.setUint32(12, ir.result, true)
  for (const [i, dtype] of ir.inputs.entries()) bytes[HEADER_BYTES + i] = DTYPE_INFO[dtype].code
  for (const [i, { op, dtype, args, imm }] of ir.instructions.entries()) {
    const at = start + i * INSTRUCTION_BYTES
    bytes[at] = IR_OPS[op].code
    bytes[at + 1] = DTYPE_INFO[dtype].code
    for (const [k, value] of args.entries()) view.setUint16(at + 2 + k * 2, value, true)
    view.setBigUint64(at + 8, imm, true)
  }
  return bytes
}

const malformed = (detail: string): MmsbError => new MmsbError('INVALID_REQUEST', `IR: ${detail}`)

/**
 * Reads the binary form. The bytes need not be trusted.
 * @throws MmsbError INVALID_REQUEST
 */
export function decodeIr(bytes: Uint8Array): Ir {
  if (bytes.length < HEADER_BYTES || bytes.length > DEFINITION_MAX_BYTES) {
    throw malformed(`${bytes.length} bytes; a program has ${HEADER_BYTES} to ${DEFINITION_MAX_BYTES}`)
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  if (view.getUint32(0, true) !== IR_MAGIC) throw malformed('does not begin with MIR1')
  const version = view.getUint16(4, true)
  if (version !== IR_VERSION) throw malformed(`version ${version}; this build reads version ${IR_VERSION}`)
  const inputCount = view.getUint16(6, true)
  const count = view.getUint32(8, true)
  const start = HEADER_BYTES + align8(inputCount)
  if (start + count * INSTRUCTION_BYTES !== bytes.length) {
    throw malformed(`${inputCount} inputs and ${count} instructions do not make ${bytes.length} bytes`)
  }
  if (!isZero(bytes, HEADER_BYTES + inputCount, start)) throw malformed('its padding is not 0')
  const inputs = Array.from(bytes.subarray(HEADER_BYTES, HEADER_BYTES + inputCount), (code, i) =>
    readDtype(code, `input ${i}`),
  )
  const instructions: IrInstruction[] = []
  for (let i = 0; i < count; i++) {
    instructions.push(readInstruction(bytes, view, start + i * INSTRUCTION_BYTES, i))
  }
  const ir = { inputs, instructions, result: view.getUint32(12, true) }
  const fault = findFault(ir)
  if (fault !== undefined) throw malformed(fault)
  return ir
}

function readDtype(code: number, where: string): Dtype {
  const dtype = dtypeOfCode(code)
  if (dtype === undefined) throw malformed(`${where}: there is no dtype code ${code}`)
  return dtype
}

function readInstruction(bytes: Uint8Array, view: DataView, at: number, index: number): IrInstruction {
  const name = OP_NAMES.get(bytes[at]!)
  if (name === undefined) throw malformed(`instruction ${index}: there is no opcode ${bytes[at]}`)
  const { arity } = IR_OPS[name]
  const operands = [0, 1, 2].map((k) => view.getUint16(at + 2 + k * 2, true))
  if (operands.slice(arity).some((value) => value !== 0)) {
    throw malformed(`instruction ${index}: an operand that ${name} does not use is not 0`)
  }
  return {
    op: name,
    dtype: readDtype(bytes[at + 1]!, `instruction ${index}`),
    args: operands.slice(0, arity),
    imm: view.getBigUint64(at + 8, true),
  }
}

/** The first fault of a program's counts, operands, types or constants; undefined if it has none. */
function findFault(ir: Ir): string | undefined {
  if (ir.inputs.length > IR_MAX_INPUTS) return `${ir.inputs.length} inputs; at most ${IR_MAX_INPUTS}`
  const count = ir.instructions.length
  if (count < 1 || count > IR_MAX_INSTRUCTIONS) {
    return `${count} instructions; 1 to ${IR_MAX_INSTRUCTIONS} are possible`
  }
  if (ir.result >= count) return `the result is value ${ir.result} of ${count}`
  for (const [i, instruction] of ir.instructions.entries()) {
    const fault = findInstructionFault(ir, instruction, i)
    if (fault !== undefined) return `instruction ${i} (${instruction.op}): ${fault}`
  }
  return undefined
}

function findInstructionFault(ir: Ir, instruction: IrInstruction, index: number): string | undefined {
  const { op, dtype, args, imm } = instruction
  const info = IR_OPS[op]
  if (!isInDomain(op, dtype)) return `not defined for ${dtype}`
  if (args.length !== info.arity) return `${args.length} operands instead of ${info.arity}`
  for (const [k, value] of args.entries()) {
    if (value >= index) return `operand ${value} is not an earlier value`
    const is = valueDtype(ir.instructions[value]!)
    const wanted = op === 'select' && k === 0 ? 'bool' : dtype
    if (op !== 'cast' && is !== wanted) return `operand ${value} is ${is} instead of ${wanted}`
  }
  if (op === 'input') {
    if (imm >= BigInt(ir.inputs.length)) return `there is no input ${imm}`
    if (ir.inputs[Number(imm)] !== dtype) return `input ${imm} is ${ir.inputs[Number(imm)]}, not ${dtype}`
    return undefined
  }
  if (op !== 'const') return imm === 0n ? undefined : 'its immediate is not 0'
  const limit = dtype === 'bool' ? 2n : 1n << BigInt(DTYPE_INFO[dtype].sizeBytes * 8)
  return imm < limit ? undefined : `a constant wider than ${dtype}`
}

// ---- as text ----------------------------------------------------------------------------------------------

/** One line per instruction, such as `v3 = mul f32 v1, v2`, then `return v3`. `names`: of the inputs. */
export function printIr(ir: Ir, names: readonly string[] = []): string {
  const lines = ir.instructions.map(({ op, dtype, args, imm }, i) => {
    const head = `v${i} = ${op} ${dtype}`
    if (op === 'input') return `${head} ${names[Number(imm)] ?? `in${imm}`}`
    if (op === 'const') return `${head} ${fillToJson(dtype, imm)}`
    return `${head} ${args.map((value) => `v${value}`).join(', ')}`
  })
  return [...lines, `return v${ir.result}`].join('\n')
}
