/**
 * One element of each dtype, and every scalar operation, as plainly as can be: bool and integers are bigints,
 * floats numbers. For tests only; shares nothing with src/kernels, so that it can disagree.
 */
import { DTYPE_INFO, type Dtype } from '../../src/wire/dtype.js'
import { fmaF32, fmaF64 } from './fma.js'

export type Scalar = number | bigint

const isFloat = (dtype: Dtype): boolean => DTYPE_INFO[dtype].kind === 'float'

/** A typed array's element as a scalar. */
export function toScalar(dtype: Dtype, element: number | bigint): Scalar {
  return isFloat(dtype) ? Number(element) : BigInt(element)
}

/** A scalar as a typed array of the dtype shows it. */
export function toElement(dtype: Dtype, value: Scalar): number | bigint {
  return dtype === 'u64' || dtype === 'i64' ? value : Number(value)
}

/** Brings the result of an operation into a dtype: integers wrap, f32 rounds. */
export function fit(dtype: Dtype, value: Scalar): Scalar {
  const { kind, sizeBytes } = DTYPE_INFO[dtype]
  if (kind === 'float') return dtype === 'f32' ? Math.fround(value as number) : value
  return kind === 'signed'
    ? BigInt.asIntN(sizeBytes * 8, value as bigint)
    : BigInt.asUintN(sizeBytes * 8, value as bigint)
}

/** A cast: saturating, NaN to 0, fractions cut off. */
export function castScalar(value: Scalar, from: Dtype, to: Dtype): Scalar {
  const { kind, min, max } = DTYPE_INFO[to]
  if (kind === 'bool') return value !== 0 && value !== 0n ? 1n : 0n
  if (kind === 'float') {
    if (to === 'f64') return Number(value)
    return typeof value === 'bigint' ? bigintToF32(value) : Math.fround(value)
  }
  if (!isFloat(from)) return clip(value as bigint, min!, max!)
  const x = value as number
  if (Number.isNaN(x)) return 0n
  if (x === Number.POSITIVE_INFINITY) return max!
  if (x === Number.NEGATIVE_INFINITY) return min!
  return clip(BigInt(Math.trunc(x)), min!, max!)
}

const clip = (x: bigint, low: bigint, high: bigint): bigint => (x < low ? low : x > high ? high : x)

/** The f32 nearest to an integer: of its neighbours, the closer one, and the even one on a tie. */
function bigintToF32(value: bigint): number {
  const near = Math.fround(Number(value))
  const word = new Float32Array([near])
  const raw = new Int32Array(word.buffer)
  let best = near
  let bestGap = gap(near, value)
  for (const step of [-1, 1]) {
    word[0] = near
    raw[0]! += step
    const other = word[0]!
    const otherGap = gap(other, value)
    if (otherGap < bestGap || (otherGap === bestGap && raw[0]! % 2 === 0)) {
      best = other
      bestGap = otherGap
    }
  }
  return best
}

const gap = (x: number, value: bigint): bigint => {
  if (!Number.isInteger(x)) return 1n << 70n
  const difference = BigInt(x) - value
  return difference < 0n ? -difference : difference
}

/** Python's remainder and floor division of floats, from the exact remainder. */
function floatMod(a: number, b: number): number {
  if (b === 0) return Number.NaN
  const r = a % b
  if (r !== 0) return r < 0 === b < 0 ? r : r + b
  return Number.isNaN(r) ? r : b < 0 ? -0 : 0
}

function floatFloorDivide(a: number, b: number, round: (x: number) => number): number {
  if (b === 0) return a / b
  const r = a % b
  let q = round(round(a - r) / b)
  if (r !== 0 && r < 0 !== b < 0) q = round(q - 1)
  if (q === 0) return a / b < 0 || Object.is(a / b, -0) ? -0 : 0
  const whole = Math.floor(q)
  return q - whole > 0.5 ? whole + 1 : whole
}

function integerFloorDivide(a: bigint, b: bigint): bigint {
  if (b === 0n) return 0n
  const q = a / b
  return q * b !== a && a < 0n !== b < 0n ? q - 1n : q
}

function integerPower(dtype: Dtype, base: bigint, power: bigint): bigint {
  if (power < 0n) {
    if (base === 1n) return 1n
    if (base === -1n) return power % 2n === 0n ? 1n : -1n
    return 0n
  }
  let result = 1n
  for (let square = base, left = power; left > 0n; left >>= 1n) {
    if (left % 2n === 1n) result = fit(dtype, result * square) as bigint
    square = fit(dtype, square * square) as bigint
  }
  return result
}

const halfEven = (x: number): number => {
  if (!Number.isFinite(x) || Number.isInteger(x)) return x
  const low = Math.floor(x)
  const gapBelow = x - low
  const up = gapBelow > 0.5 || (gapBelow === 0.5 && low % 2 !== 0)
  const rounded = up ? low + 1 : low
  return rounded === 0 && x < 0 ? -0 : rounded
}

const extreme = (a: bigint, b: bigint, least: boolean): bigint => (a < b === least ? a : b)

const FLOAT_OPS: Readonly<Record<string, (a: number, b: number, f32: boolean) => number>> = {
  '+': (a, b) => a + b,
  '-': (a, b) => a - b,
  '*': (a, b) => a * b,
  '/': (a, b) => a / b,
  '//': (a, b, f32) => floatFloorDivide(a, b, f32 ? Math.fround : (x) => x),
  '%': floatMod,
  // C's pow gives 1 for base 1 and for -1 to an infinite power, where JavaScript gives NaN.
  '**': (a, b) => (a === 1 || (a === -1 && Math.abs(b) === Number.POSITIVE_INFINITY) ? 1 : a ** b),
  neg: (a) => -a,
  abs: (a) => Math.abs(a),
  sign: (a) => (Number.isNaN(a) ? a : a > 0 ? 1 : a < 0 ? -1 : 0),
  min: (a, b) => Math.min(a, b),
  max: (a, b) => Math.max(a, b),
  sqrt: (a) => Math.sqrt(a),
  exp: (a) => Math.exp(a),
  log: (a) => Math.log(a),
  log2: (a) => Math.log2(a),
  sin: (a) => Math.sin(a),
  cos: (a) => Math.cos(a),
  tan: (a) => Math.tan(a),
  tanh: (a) => Math.tanh(a),
  floor: (a) => Math.floor(a),
  ceil: (a) => Math.ceil(a),
  round: halfEven,
  trunc: (a) => Math.trunc(a),
}

const INTEGER_OPS: Readonly<Record<string, (a: bigint, b: bigint, dtype: Dtype) => bigint>> = {
  '+': (a, b) => a + b,
  '-': (a, b) => a - b,
  '*': (a, b) => a * b,
  '//': integerFloorDivide,
  '%': (a, b) => (b === 0n ? 0n : a - b * integerFloorDivide(a, b)),
  '**': (a, b, dtype) => integerPower(dtype, a, b),
  neg: (a) => -a,
  abs: (a) => (a < 0n ? -a : a),
  sign: (a) => (a < 0n ? -1n : a > 0n ? 1n : 0n),
  min: (a, b) => extreme(a, b, true),
  max: (a, b) => extreme(a, b, false),
  bitand: (a, b) => a & b,
  bitor: (a, b) => a | b,
  bitxor: (a, b) => a ^ b,
  shl: (a, b, dtype) => (outOfWidth(b, dtype) ? 0n : a << b),
  shr: (a, b, dtype) => (outOfWidth(b, dtype) ? (a < 0n ? -1n : 0n) : a >> b),
}

const outOfWidth = (shift: bigint, dtype: Dtype): boolean =>
  shift < 0n || shift >= BigInt(DTYPE_INFO[dtype].sizeBytes * 8)

const BOOL_OPS: Readonly<Record<string, (a: bigint, b: bigint) => bigint>> = {
  '+': (a, b) => a | b,
  '*': (a, b) => a & b,
  min: (a, b) => a & b,
  max: (a, b) => a | b,
  bitand: (a, b) => a & b,
  bitor: (a, b) => a | b,
  bitxor: (a, b) => a ^ b,
}

/** An operation on operands of one dtype that gives the same dtype. */
export function operate(name: string, dtype: Dtype, a: Scalar, b: Scalar): Scalar {
  if (isFloat(dtype)) return fit(dtype, FLOAT_OPS[name]!(a as number, b as number, dtype === 'f32'))
  if (dtype === 'bool') return BOOL_OPS[name]!(a as bigint, b as bigint)
  return fit(dtype, INTEGER_OPS[name]!(a as bigint, b as bigint, dtype))
}

export function fusedMultiplyAdd(dtype: Dtype, a: Scalar, b: Scalar, c: Scalar): Scalar {
  if (dtype === 'f32') return fmaF32(a as number, b as number, c as number)
  if (dtype === 'f64') return fmaF64(a as number, b as number, c as number)
  return fit(dtype, (a as bigint) * (b as bigint) + (c as bigint))
}
