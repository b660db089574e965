/**
 * The typing rules of the expression language: for each construct, the dtype it works in and the IR it emits.
 * docs/guide/OPS.md states the same rules for users.
 *
 * Invariants: operands and results are typed, so each program is well-typed by construction. A bare number is
 * weak until it meets an array; then it takes the array's dtype, and must fit it. The typer does not know the
 * grammar; the parser passes in columns for messages.
 */
import { DTYPE_INFO, type Dtype, F32_OVERFLOW } from '../../wire/dtype.js'
import { promoteDtypes } from '../promotion.js'
import { type Constant, foldInteger, integerToF32 } from './fold.js'
import type { IrOp } from './ir.js'
import type { IrBuilder } from './ir-builder.js'
import { expressionError } from './lexer.js'

/**
 * The result of an expression. `value`: a value of the program; weak if it comes from bare numbers alone
 * (then f64). `integer`: a bare integer of any size. `choice`: one of two weak expressions, which get their
 * dtype together.
 */
export type Expression =
  | { readonly kind: 'value'; readonly value: number; readonly weak: boolean }
  | { readonly kind: 'integer'; readonly integer: bigint }
  | {
      readonly kind: 'choice'
      readonly condition: number
      readonly a: Expression
      readonly b: Expression
      readonly isFloat: boolean
    }

export type ArithmeticOperator = '+' | '-' | '*' | '/' | '//' | '%' | '**'
export type ComparisonOperator = '==' | '!=' | '<' | '<=' | '>' | '>='

const ARITHMETIC: Readonly<Record<ArithmeticOperator, IrOp>> = {
  '+': 'add',
  '-': 'sub',
  '*': 'mul',
  '/': 'div',
  '//': 'floordiv',
  '%': 'mod',
  '**': 'pow',
}

const COMPARISONS: Readonly<Record<ComparisonOperator, IrOp>> = {
  '==': 'eq',
  '!=': 'ne',
  '<': 'lt',
  '<=': 'le',
  '>': 'gt',
  '>=': 'ge',
}

/** Bound on the magnitude of bare integers while they are computed with. */
const INTEGER_LIMIT = 1n << 64n

export class Typer {
  readonly #builder: IrBuilder

  constructor(builder: IrBuilder) {
    this.#builder = builder
  }

  input(index: number): Expression {
    return strong(this.#builder.input(index))
  }

  integer(integer: bigint): Expression {
    return { kind: 'integer', integer }
  }

  float(value: number): Expression {
    return weak(this.#builder.constant('f64', value))
  }

  bool(value: boolean): Expression {
    return strong(this.#builder.constant('bool', value ? 1n : 0n))
  }

  /** The value that a program returns: a weak one becomes i64 or f64. */
  settle(expression: Expression, column: number): number {
    const dtype = this.#strongDtype(expression) ?? (isFloat(expression) ? 'f64' : 'i64')
    return this.#convert(expression, dtype, column)
  }

  // ---- operators ------------------------------------------------------------------------------------------

  arithmetic(operator: ArithmeticOperator, a: Expression, b: Expression, column: number): Expression {
    // As in Python, bare integers divide to a float, and so does a negative power of one.
    const bare = a.kind === 'integer' && b.kind === 'integer'
    const isFraction = operator === '/' || (bare && operator === '**' && b.integer < 0n)
    if (bare && !isFraction) return this.#integers(ARITHMETIC[operator], column, a.integer, b.integer)
    const common = this.#common([a, b], column)
    const dtype = isFraction && DTYPE_INFO[common].kind !== 'float' ? 'f64' : common
    if (dtype === 'bool' && operator !== '+' && operator !== '*') throw notForBool(operator, column)
    if (operator === '**') return this.#power(a, b, dtype, column)
    return this.#emit(ARITHMETIC[operator], dtype, [a, b], column)
  }

  #power(a: Expression, b: Expression, dtype: Dtype, column: number): Expression {
    const base = this.#convert(a, dtype, column)
    const power = this.#convert(b, dtype, column)
    const constant = this.#builder.constantOf(power)
    // Correctly rounded, which pow is not, at a tenth of its cost.
    if (constant !== undefined && Number(constant) === 2)
      return this.#wrap('mul', dtype, [base, base], [a, b])
    if (typeof constant === 'bigint' && constant < 0n) {
      throw expressionError(
        column,
        `an integer to the power ${constant}; cast the base, such as f64(x) ** ${constant}`,
      )
    }
    return this.#wrap('pow', dtype, [base, power], [a, b])
  }

  negate(a: Expression, column: number): Expression {
    if (a.kind === 'integer') return this.#integers('neg', column, a.integer)
    const dtype = this.#common([a], column)
    if (dtype === 'bool') throw expressionError(column, "'-' is not defined for bool; use 'not', or cast it")
    return this.#emit('neg', dtype, [a], column)
  }

  /** Unary plus does nothing; as in NumPy it is refused for bool. */
  plus(a: Expression, column: number): Expression {
    if (this.#strongDtype(a) === 'bool') throw notForBool('+', column)
    return a
  }

  compare(operator: ComparisonOperator, a: Expression, b: Expression, column: number): Expression {
    const op = COMPARISONS[operator]
    if (a.kind === 'integer' && b.kind === 'integer') {
      return this.bool(foldInteger(op, a.integer, b.integer, 0n, 64, (value) => value) === 1n)
    }
    const dtype = this.#common([a, b], column)
    return strong(this.#builder.emit(op, dtype, this.#convertAll([a, b], dtype, column)))
  }

  logical(op: 'and' | 'or', a: Expression, b: Expression, column: number): Expression {
    return strong(this.#builder.emit(op, 'bool', [this.#truth(a, column), this.#truth(b, column)]))
  }

  not(a: Expression, column: number): Expression {
    return strong(this.#builder.emit('not', 'bool', [this.#truth(a, column)]))
  }

  select(condition: Expression, a: Expression, b: Expression, column: number): Expression {
    const test = this.#truth(condition, column)
    if (this.#strongDtype(a) === undefined && this.#strongDtype(b) === undefined) {
      return { kind: 'choice', condition: test, a, b, isFloat: isFloat(a) || isFloat(b) }
    }
    const dtype = this.#common([a, b], column)
    return strong(this.#builder.emit('select', dtype, [test, ...this.#convertAll([a, b], dtype, column)]))
  }

  // ---- functions ------------------------------------------------------------------------------------------

  /** Functions of floats; integers and bool become f64 first. */
  transcendental(op: IrOp, a: Expression, column: number): Expression {
    const dtype = this.#common([a], column)
    return this.#emit(op, DTYPE_INFO[dtype].kind === 'float' ? dtype : 'f64', [a], column)
  }

  /** floor, ceil, round, trunc: integers and bool stay as they are. */
  rounding(op: IrOp, a: Expression, column: number): Expression {
    const dtype = this.#common([a], column)
    return DTYPE_INFO[dtype].kind === 'float' ? this.#emit(op, dtype, [a], column) : a
  }

  /** abs and sign: bool stays as it is. */
  magnitude(op: 'abs' | 'sign', a: Expression, column: number): Expression {
    if (a.kind === 'integer') return this.#integers(op, column, a.integer)
    const dtype = this.#common([a], column)
    const { kind } = DTYPE_INFO[dtype]
    if (kind === 'bool' || (kind === 'unsigned' && op === 'abs')) return a
    return this.#emit(op, dtype, [a], column)
  }

  extremum(op: 'min' | 'max', a: Expression, b: Expression, column: number): Expression {
    if (a.kind === 'integer' && b.kind === 'integer') return this.#integers(op, column, a.integer, b.integer)
    return this.#emit(op, this.#common([a, b], column), [a, b], column)
  }

  isNan(a: Expression, column: number): Expression {
    const dtype = this.#common([a], column)
    if (DTYPE_INFO[dtype].kind !== 'float') return this.bool(false)
    return strong(this.#builder.emit('isnan', dtype, [this.#convert(a, dtype, column)]))
  }

  fma(a: Expression, b: Expression, c: Expression, column: number): Expression {
    if (a.kind === 'integer' && b.kind === 'integer' && c.kind === 'integer') {
      return this.#integers('fma', column, a.integer, b.integer, c.integer)
    }
    const dtype = this.#common([a, b, c], column)
    if (dtype === 'bool') throw notForBool('fma', column)
    return this.#emit('fma', dtype, [a, b, c], column)
  }

  /** bitand, bitor, bitxor on integers and bool; shl, shr on integers. */
  bits(op: IrOp, a: Expression, b: Expression, column: number): Expression {
    if (a.kind === 'integer' && b.kind === 'integer') return this.#integers(op, column, a.integer, b.integer)
    const dtype = this.#common([a, b], column)
    if (DTYPE_INFO[dtype].kind === 'float' || (dtype === 'bool' && (op === 'shl' || op === 'shr'))) {
      throw expressionError(column, `${op} is not defined for ${dtype}; it works on integers`)
    }
    return this.#emit(op, dtype, [a, b], column)
  }

  cast(a: Expression, to: Dtype, column: number): Expression {
    if (to === 'bool') return strong(this.#truth(a, column))
    const from = this.#strongDtype(a)
    if (from === undefined && (!isFloat(a) || DTYPE_INFO[to].kind === 'float')) {
      return strong(this.#convert(a, to, column))
    }
    return strong(this.#builder.cast(this.#convert(a, from ?? 'f64', column), to))
  }

  // ---- dtypes ---------------------------------------------------------------------------------------------

  /** The dtype of an expression; undefined if it is made of bare numbers alone. */
  #strongDtype(expression: Expression): Dtype | undefined {
    if (expression.kind !== 'value' || expression.weak) return undefined
    return this.#builder.dtypeOf(expression.value)
  }

  /** The common dtype of the operands of an operation. */
  #common(operands: readonly Expression[], column: number): Dtype {
    let common: Dtype | undefined
    for (const operand of operands) {
      const dtype = this.#strongDtype(operand)
      if (dtype === undefined) continue
      const joined = common === undefined ? dtype : promoteDtypes(common, dtype)
      if (joined === undefined) {
        throw expressionError(column, `${common} and ${dtype} have no common type; cast one, such as i64(x)`)
      }
      common = joined
    }
    const weakFloat = operands.some((operand) => this.#strongDtype(operand) === undefined && isFloat(operand))
    const weakInteger = operands.some(
      (operand) => this.#strongDtype(operand) === undefined && !isFloat(operand),
    )
    if (common !== undefined && DTYPE_INFO[common].kind === 'float') return common
    if (weakFloat) return 'f64'
    return common === undefined || (common === 'bool' && weakInteger) ? 'i64' : common
  }

  #convertAll(operands: readonly Expression[], dtype: Dtype, column: number): number[] {
    return operands.map((operand) => this.#convert(operand, dtype, column))
  }

  /** The expression as a value of `dtype`; a bare number must fit it. */
  #convert(expression: Expression, dtype: Dtype, column: number): number {
    switch (expression.kind) {
      case 'integer':
        return this.#builder.constant(dtype, fitInteger(expression.integer, dtype, column))
      case 'choice':
        return this.#builder.emit('select', dtype, [
          expression.condition,
          this.#convert(expression.a, dtype, column),
          this.#convert(expression.b, dtype, column),
        ])
      case 'value': {
        const constant = expression.weak ? this.#builder.constantOf(expression.value) : undefined
        if (dtype === 'f32' && typeof constant === 'number') checkFitsF32(constant, column)
        return this.#builder.cast(expression.value, dtype)
      }
    }
  }

  /** As bool: whether the value is not 0. */
  #truth(expression: Expression, column: number): number {
    if (expression.kind === 'integer') {
      return this.#builder.constant('bool', expression.integer === 0n ? 0n : 1n)
    }
    const dtype = this.#common([expression], column)
    const value = this.#convert(expression, dtype, column)
    if (dtype === 'bool') return value
    const zero: Constant = DTYPE_INFO[dtype].kind === 'float' ? 0 : 0n
    return this.#builder.emit('ne', dtype, [value, this.#builder.constant(dtype, zero)])
  }

  #emit(op: IrOp, dtype: Dtype, operands: readonly Expression[], column: number): Expression {
    return this.#wrap(op, dtype, this.#convertAll(operands, dtype, column), operands)
  }

  /** A float result of bare numbers alone stays weak. */
  #wrap(op: IrOp, dtype: Dtype, values: readonly number[], operands: readonly Expression[]): Expression {
    const value = this.#builder.emit(op, dtype, values)
    const bare = operands.every((operand) => this.#strongDtype(operand) === undefined)
    return { kind: 'value', value, weak: bare && dtype === 'f64' }
  }

  #integers(op: IrOp, column: number, a: bigint, b = 0n, c = 0n): Expression {
    const wrap = (value: bigint): bigint => {
      if (value > INTEGER_LIMIT || value < -INTEGER_LIMIT) {
        throw expressionError(column, 'the integer is too large; write it as a float, such as 1e30')
      }
      return value
    }
    return { kind: 'integer', integer: foldInteger(op, a, b, c, 64, wrap)! }
  }
}

function strong(value: number): Expression {
  return { kind: 'value', value, weak: false }
}

function weak(value: number): Expression {
  return { kind: 'value', value, weak: true }
}

/** What the parser needs of a typer. */
export type Meaning = Pick<Typer, keyof Typer>

const NOTHING: Expression = { kind: 'integer', integer: 0n }
const nothing = (): Expression => NOTHING

/** A typer that accepts everything: with it the parser checks only syntax, names and numbers of arguments. */
export const ANY_MEANING: Meaning = {
  input: nothing,
  integer: nothing,
  float: nothing,
  bool: nothing,
  settle: () => 0,
  arithmetic: nothing,
  negate: nothing,
  plus: nothing,
  compare: nothing,
  logical: nothing,
  not: nothing,
  select: nothing,
  transcendental: nothing,
  rounding: nothing,
  magnitude: nothing,
  extremum: nothing,
  isNan: nothing,
  fma: nothing,
  bits: nothing,
  cast: nothing,
}

/** Whether a weak expression is a float. */
function isFloat(expression: Expression): boolean {
  return expression.kind === 'choice' ? expression.isFloat : expression.kind === 'value'
}

function notForBool(what: string, column: number): Error {
  return expressionError(column, `'${what}' is not defined for bool; cast it, such as i32(x)`)
}

function fitInteger(integer: bigint, dtype: Dtype, column: number): Constant {
  const { kind, min, max } = DTYPE_INFO[dtype]
  if (kind === 'float') {
    const value = Number(integer)
    if (!Number.isFinite(value)) throw expressionError(column, 'the integer does not fit f64')
    if (dtype === 'f32') checkFitsF32(value, column)
    return dtype === 'f32' ? integerToF32(integer) : value
  }
  if (integer < min! || integer > max!) {
    throw expressionError(
      column,
      `${shorten(integer)} does not fit ${dtype} (${min} to ${max}); cast the other operand to a wider type`,
    )
  }
  return integer
}

function checkFitsF32(value: number, column: number): void {
  if (Number.isFinite(value) && Math.abs(value) >= F32_OVERFLOW) {
    throw expressionError(column, `${value} does not fit f32; cast the other operand to f64`)
  }
}

function shorten(integer: bigint): string {
  const text = integer.toString()
  return text.length > 24 ? `${text.slice(0, 20)}... (${text.length} digits)` : text
}
