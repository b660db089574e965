/**
 * Fused multiply-add with one rounding, in plain TypeScript: for the reference of matmul and fma.
 *
 * Method: the exact sum as a few doubles (T. J. Dekker's product, D. E. Knuth's sum), the small ones rounded
 * to odd, so that the last rounding is the only one that counts (S. Boldo and G. Melquiond, "Emulation of FMA
 * and correctly rounded sums"). Where exponents are too extreme for that, integers of any size.
 */

const float = new Float64Array(1)
const bits = new BigInt64Array(float.buffer)

/** `sum`, whose exact value is sum + rest, rounded to odd instead of to nearest. */
function roundToOdd(sum: number, rest: number): number {
  if (rest === 0 || !Number.isFinite(sum)) return sum
  float[0] = sum
  if ((bits[0]! & 1n) === 1n) return sum
  if (sum === 0) return rest
  bits[0]! += rest > 0 === sum > 0 ? 1n : -1n
  return float[0]!
}

/** What `a + b` lost. */
function sumError(a: number, b: number, sum: number): number {
  const back = sum - a
  return a - (sum - back) + (b - back)
}

function productError(a: number, b: number, product: number): number {
  const split = (x: number): [number, number] => {
    const c = 134_217_729 * x
    const high = c - (c - x)
    return [high, x - high]
  }
  const [aHigh, aLow] = split(a)
  const [bHigh, bLow] = split(b)
  return aLow * bLow - (product - aHigh * bHigh - aLow * bHigh - aHigh * bLow)
}

/** fma of f32 operands, rounded to f32. */
export function fmaF32(a: number, b: number, c: number): number {
  const product = a * b // exact: 48 bits
  const sum = product + c
  return Math.fround(roundToOdd(sum, sumError(product, c, sum)))
}

const isTame = (x: number): boolean => x === 0 || (Math.abs(x) > 2 ** -400 && Math.abs(x) < 2 ** 400)

/** fma of f64 operands. */
export function fmaF64(a: number, b: number, c: number): number {
  if (a === 0 || b === 0 || !Number.isFinite(a) || !Number.isFinite(b)) return a * b + c
  // A product of finite numbers is finite before it is rounded, however large.
  if (!Number.isFinite(c)) return c
  if (!isTame(a) || !isTame(b) || !isTame(c)) return fmaByIntegers(a, b, c)
  const high = a * b
  const low = productError(a, b, high)
  const middle = c + low
  const middleRest = sumError(c, low, middle)
  const sum = high + middle
  const sumRest = sumError(high, middle, sum)
  const small = middleRest + sumRest
  const exactZero = sum === 0 && small === 0
  return exactZero ? 0 : sum + roundToOdd(small, sumError(middleRest, sumRest, small))
}

/** A finite double as integer * 2^exponent. */
function decompose(x: number): [bigint, number] {
  float[0] = x
  const raw = BigInt.asUintN(64, bits[0]!)
  const exponent = Number((raw >> 52n) & 0x7ffn)
  const fraction = raw & ((1n << 52n) - 1n)
  const magnitude = exponent === 0 ? fraction : fraction | (1n << 52n)
  return [x < 0 ? -magnitude : magnitude, Math.max(exponent, 1) - 1075]
}

/** For finite operands, a and b not 0. */
export function fmaByIntegers(a: number, b: number, c: number): number {
  const [am, ae] = decompose(a)
  const [bm, be] = decompose(b)
  const [cm, ce] = decompose(c)
  const exponent = Math.min(ae + be, ce)
  const sum = ((am * bm) << BigInt(ae + be - exponent)) + (cm << BigInt(ce - exponent))
  return sum === 0n ? 0 : roundInteger(sum, exponent)
}

/** integer * 2^exponent, rounded to the nearest double, ties to even. */
function roundInteger(integer: bigint, exponent: number): number {
  const magnitude = integer < 0n ? -integer : integer
  const length = magnitude.toString(2).length
  // The exponent of the last bit that the result keeps.
  const last = Math.max(length + exponent - 53, -1074)
  let kept: bigint
  if (last <= exponent) {
    kept = magnitude << BigInt(exponent - last)
  } else {
    const drop = BigInt(last - exponent)
    kept = magnitude >> drop
    const rest = magnitude - (kept << drop)
    const half = 1n << (drop - 1n)
    if (rest > half || (rest === half && (kept & 1n) === 1n)) kept += 1n
  }
  // kept is at most 2^53, so it is exact; the power is applied in two steps so that it does not
  // overflow on the way.
  const step = Math.trunc(last / 2)
  const value = Number(kept) * 2 ** step * 2 ** (last - step)
  return integer < 0n ? -value : value
}
