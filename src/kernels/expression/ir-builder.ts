/**
 * Builds IR programs from typed instructions. Folds constants and reuses common subexpressions as
 * instructions come in, and drops dead code at the end.
 *
 * Invariants: nothing is reassociated; a fold gives the same bits as the VM (fold.ts). The builder does not
 * know the text of expressions or the typing rules.
 */
import { MmsbError } from '../../errors.js'
import { IR_MAX_INSTRUCTIONS } from '../../limits.js'
import type { Dtype } from '../../wire/dtype.js'
import { type Constant, constantBits, foldCast, foldOp } from './fold.js'
import { type Ir, type IrInstruction, type IrOp, valueDtype } from './ir.js'

/** Bounds the compiler's memory; counts instructions before dead code is dropped. */
const WORKING_MAX_INSTRUCTIONS = IR_MAX_INSTRUCTIONS * 16

/** Operations whose operands may be swapped without changing a bit of the result. */
const COMMUTATIVE: ReadonlySet<IrOp> = new Set<IrOp>([
  'add',
  'mul',
  'eq',
  'ne',
  'and',
  'or',
  'bitand',
  'bitor',
  'bitxor',
])

export class IrBuilder {
  readonly #inputs: readonly Dtype[]
  readonly #instructions: IrInstruction[] = []
  readonly #constants: (Constant | undefined)[] = []
  readonly #known = new Map<string, number>()

  constructor(inputs: readonly Dtype[]) {
    this.#inputs = inputs
  }

  dtypeOf(value: number): Dtype {
    return valueDtype(this.#instructions[value]!)
  }

  /** The value of a constant; undefined for other values. */
  constantOf(value: number): Constant | undefined {
    return this.#constants[value]
  }

  input(index: number): number {
    return this.#add({ op: 'input', dtype: this.#inputs[index]!, args: [], imm: BigInt(index) })
  }

  /** `value` is in range of the dtype. */
  constant(dtype: Dtype, value: Constant): number {
    const id = this.#add({ op: 'const', dtype, args: [], imm: constantBits(dtype, value) })
    this.#constants[id] = value
    return id
  }

  cast(value: number, to: Dtype): number {
    if (this.dtypeOf(value) === to) return value
    const constant = this.#constants[value]
    if (constant !== undefined) return this.constant(to, foldCast(constant, to))
    return this.#add({ op: 'cast', dtype: to, args: [value], imm: 0n })
  }

  /** Any operation except input, const and cast. The operands must have the dtypes it needs. */
  emit(op: IrOp, dtype: Dtype, args: readonly number[]): number {
    const constants = args.map((value) => this.#constants[value])
    if (op === 'select') {
      const condition = constants[0]
      if (condition !== undefined) return args[condition === 0n ? 2 : 1]!
    } else if (constants.every((constant) => constant !== undefined)) {
      const folded = foldOp(op, dtype, constants)
      if (folded !== undefined) return this.constant(valueDtype({ op, dtype }), folded)
    }
    const [a, b] = args
    const ordered = COMMUTATIVE.has(op) && a! > b! ? [b!, a!] : args
    return this.#add({ op, dtype, args: ordered, imm: 0n })
  }

  #add(instruction: IrInstruction): number {
    const { op, dtype, args, imm } = instruction
    const key = `${op} ${dtype} ${args.join(' ')} ${imm}`
    const known = this.#known.get(key)
    if (known !== undefined) return known
    const id = this.#instructions.length
    if (id >= WORKING_MAX_INSTRUCTIONS) throw tooLong()
    this.#instructions.push(instruction)
    this.#constants.push(undefined)
    this.#known.set(key, id)
    return id
  }

  /**
   * The program that computes `result`, without dead code. @throws MmsbError INVALID_EXPRESSION when too long
   */
  finish(result: number): Ir {
    const used = new Uint8Array(this.#instructions.length)
    used[result] = 1
    for (let id = result; id >= 0; id--) {
      if (used[id] === 1) for (const value of this.#instructions[id]!.args) used[value] = 1
    }
    const renumbered = new Int32Array(this.#instructions.length)
    const instructions: IrInstruction[] = []
    for (let id = 0; id <= result; id++) {
      if (used[id] === 0) continue
      renumbered[id] = instructions.length
      const instruction = this.#instructions[id]!
      instructions.push({ ...instruction, args: instruction.args.map((value) => renumbered[value]!) })
    }
    if (instructions.length > IR_MAX_INSTRUCTIONS) throw tooLong()
    return { inputs: this.#inputs, instructions, result: renumbered[result]! }
  }
}

function tooLong(): MmsbError {
  return new MmsbError(
    'INVALID_EXPRESSION',
    `the expression needs more than ${IR_MAX_INSTRUCTIONS} instructions; split it over several pages`,
  )
}
