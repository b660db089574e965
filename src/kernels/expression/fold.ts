/**
 * Evaluates IR operations on constants where JavaScript gives the same bits as the VM: integers, logic,
 * selections, comparisons, casts, and the IEEE operations that round correctly. exp, sin, pow and the like
 * are never folded; the native library has its own portable code for them.
 *
 * Invariants: a constant is a bigint for bool (0 or 1) and integers, a number for floats; an f32 is a number
 * that Math.fround leaves alone. f32 + - * / sqrt through doubles round twice, which is harmless: 53 >= 2 *
 * 24 + 2 bits (S. A. Figueroa, "When is double rounding innocuous?").
 */
import { DTYPE_INFO, type Dtype } from '../../wire/dtype.js'
import type { IrOp } from './ir.js'

export type Constant = bigint | number

const scratch = new DataView(new ArrayBuffer(8))

/** The bits of a constant, zero-extended. NaN is the canonical one. */
export function constantBits(dtype: Dtype, value: Constant): bigint {
  const { kind, sizeBytes } = DTYPE_INFO[dtype]
  if (kind !== 'float') return BigInt.asUintN(sizeBytes * 8, value as bigint)
  if (Number.isNaN(value)) return sizeBytes === 4 ? 0x7fc0_0000n : 0x7ff8_0000_0000_0000n
  if (sizeBytes === 8) {
    scratch.setFloat64(0, value as number)
    return scratch.getBigUint64(0)
  }
  scratch.setFloat32(0, value as number)
  return BigInt(scratch.getUint32(0))
}

/** Wraps to the width of an integer dtype. */
export function wrapInteger(dtype: Dtype, value: bigint): bigint {
  const { kind, sizeBytes } = DTYPE_INFO[dtype]
  return kind === 'signed' ? BigInt.asIntN(sizeBytes * 8, value) : BigInt.asUintN(sizeBytes * 8, value)
}

/**
 * The result of an operation in `dtype`; undefined if it is not folded. Not for input, const,
 * cast and select.
 */
export function foldOp(op: IrOp, dtype: Dtype, args: readonly Constant[]): Constant | undefined {
  const { kind, sizeBytes } = DTYPE_INFO[dtype]
  if (kind === 'float') {
    const [a, b] = args as [number, number]
    const result = foldFloat(op, a, b)
    if (typeof result !== 'number' || sizeBytes === 8) return result
    return Math.fround(result)
  }
  const [a, b, c] = args as [bigint, bigint, bigint]
  if (kind === 'bool') return foldBool(op, a, b)
  return foldInteger(op, a, b, c, sizeBytes * 8, (value) => wrapInteger(dtype, value))
}

const bit = (condition: boolean): bigint => (condition ? 1n : 0n)

function foldComparison(op: IrOp, a: Constant, b: Constant): bigint | undefined {
  switch (op) {
    case 'eq':
      return bit(a === b)
    case 'ne':
      return bit(a !== b)
    case 'lt':
      return bit(a < b)
    case 'le':
      return bit(a <= b)
    case 'gt':
      return bit(a > b)
    case 'ge':
      return bit(a >= b)
    default:
      return undefined
  }
}

function foldBool(op: IrOp, a: bigint, b: bigint): bigint | undefined {
  switch (op) {
    case 'add':
    case 'or':
    case 'max':
    case 'bitor':
      return a | b
    case 'mul':
    case 'and':
    case 'min':
    case 'bitand':
      return a & b
    case 'bitxor':
      return a ^ b
    case 'not':
      return 1n - a
    default:
      return foldComparison(op, a, b)
  }
}

/**
 * Integer operations by the rules of docs/guide/OPS.md: division by zero gives 0, a negative power of
 * anything but 1 and -1 gives 0, shifts by the width or more shift everything out. `wrap` brings a
 * result into range.
 */
export function foldInteger(
  op: IrOp,
  a: bigint,
  b: bigint,
  c: bigint,
  widthBits: number,
  wrap: (value: bigint) => bigint,
): bigint | undefined {
  switch (op) {
    case 'add':
      return wrap(a + b)
    case 'sub':
      return wrap(a - b)
    case 'mul':
      return wrap(a * b)
    case 'floordiv':
      return b === 0n ? 0n : wrap(floorDivide(a, b))
    case 'mod':
      return b === 0n ? 0n : a - b * floorDivide(a, b)
    case 'pow':
      return integerPower(a, b, wrap)
    case 'neg':
      return wrap(-a)
    case 'abs':
      return wrap(a < 0n ? -a : a)
    case 'sign':
      return a < 0n ? -1n : bit(a > 0n)
    case 'min':
      return a < b ? a : b
    case 'max':
      return a > b ? a : b
    case 'fma':
      return wrap(a * b + c)
    case 'bitand':
      return a & b
    case 'bitor':
      return a | b
    case 'bitxor':
      return a ^ b
    case 'shl':
      return b < 0n || b >= widthBits ? 0n : wrap(a << b)
    case 'shr':
      return a >> (b < 0n || b >= widthBits ? BigInt(widthBits) : b)
    default:
      return foldComparison(op, a, b)
  }
}

function floorDivide(a: bigint, b: bigint): bigint {
  const quotient = a / b
  return quotient * b !== a && a < 0n !== b < 0n ? quotient - 1n : quotient
}

function integerPower(base: bigint, power: bigint, wrap: (value: bigint) => bigint): bigint {
  if (power < 0n) return base === 1n ? 1n : base === -1n ? (power % 2n === 0n ? 1n : -1n) : 0n
  let result = 1n
  let square = base
  for (let left = power; left > 0n; ) {
    if (left % 2n === 1n) result = wrap(result * square)
    left /= 2n
    if (left > 0n) square = wrap(square * square)
  }
  return result
}

function foldFloat(op: IrOp, a: number, b: number): Constant | undefined {
  switch (op) {
    case 'add':
      return a + b
    case 'sub':
      return a - b
    case 'mul':
      return a * b
    case 'div':
      return a / b
    case 'neg':
      return -a
    case 'abs':
      return Math.abs(a)
    case 'sign':
      return Number.isNaN(a) ? a : a > 0 ? 1 : a < 0 ? -1 : 0
    case 'min':
      return Math.min(a, b)
    case 'max':
      return Math.max(a, b)
    case 'sqrt':
      return Math.sqrt(a)
    case 'floor':
      return Math.floor(a)
    case 'ceil':
      return Math.ceil(a)
    case 'trunc':
      return Math.trunc(a)
    case 'round':
      return roundHalfEven(a)
    case 'isnan':
      return bit(Number.isNaN(a))
    default:
      return foldComparison(op, a, b)
  }
}

/** Rounds to an integer, halves to the even one; keeps -0. */
export function roundHalfEven(value: number): number {
  if (!(Math.abs(value) < 2 ** 52)) return value
  const floor = Math.floor(value)
  const rest = value - floor
  const rounded = rest < 0.5 || (rest === 0.5 && floor % 2 === 0) ? floor : floor + 1
  return rounded === 0 && (value < 0 || Object.is(value, -0)) ? -0 : rounded
}

/** A cast: integers saturate, NaN gives 0, fractions are cut off; bool is true for all but 0. */
export function foldCast(value: Constant, to: Dtype): Constant {
  const info = DTYPE_INFO[to]
  // A bigint is rounded to the nearest double. NaN is not 0, so it is true.
  if (info.kind === 'bool') return bit(Number(value) !== 0)
  if (info.kind === 'float') {
    if (info.sizeBytes === 8) return Number(value)
    return typeof value === 'bigint' ? integerToF32(value) : Math.fround(value)
  }
  if (typeof value === 'bigint') return clampInteger(value, info.min!, info.max!)
  if (Number.isNaN(value)) return 0n
  if (!Number.isFinite(value)) return value > 0 ? info.max! : info.min!
  return clampInteger(BigInt(Math.trunc(value)), info.min!, info.max!)
}

function clampInteger(value: bigint, min: bigint, max: bigint): bigint {
  return value < min ? min : value > max ? max : value
}

/** The nearest f32, rounded once: goes through a double only where that is exact. */
export function integerToF32(value: bigint): number {
  const magnitude = value < 0n ? -value : value
  const excess = magnitude.toString(2).length - 53
  if (excess <= 0) return Math.fround(Number(value))
  // Keep 53 bits. The last one is set if any bit cut off is, which decides ties.
  const shift = BigInt(excess)
  const sticky = (magnitude & ((1n << shift) - 1n)) === 0n ? 0n : 1n
  const rounded = Math.fround(Number((magnitude >> shift) | sticky)) * 2 ** excess
  return Math.fround(value < 0n ? -rounded : rounded)
}
