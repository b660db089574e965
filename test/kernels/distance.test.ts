/**
 * How near distances are to the true ones: against integers of any size, over elements of every size, and
 * vectors that point almost the same way.
 */
import t from 'tap'
import { DTYPE_INFO, type TypedArray } from '../../src/wire/dtype.js'
import { Draw } from '../lib/draw.js'
import { NativeRunner } from './native.js'

const ULPS = 4
const RUNS = 1500
/** Cosine distances below this are 0 (docs/guide/OPS.md). */
const LEAST_COSINE = 2 ** -200

type FloatDtype = 'f32' | 'f64'

const runner = new NativeRunner()
t.teardown(() => runner.close())

// ---- exact numbers ----------------------------------------------------------------------------------------

const word = new Float64Array(1)
const raw = new BigUint64Array(word.buffer)

/** A finite number times 2^1074. */
function exact(x: number): bigint {
  word[0] = Math.abs(x)
  const exponent = raw[0]! >> 52n
  const fraction = raw[0]! & ((1n << 52n) - 1n)
  const size = exponent === 0n ? fraction : (fraction | (1n << 52n)) << (exponent - 1n)
  return x < 0 ? -size : size
}

function squareRoot(n: bigint): bigint {
  if (n < 2n) return n
  let root = 1n << BigInt((n.toString(16).length * 4) / 2 + 1)
  for (;;) {
    const next = (root + n / root) >> 1n
    if (next >= root) return root
    root = next
  }
}

/** numerator / denominator, rounded to 64 bits, as a number times 2^exponent. */
function quotient(
  numerator: bigint,
  denominator: bigint,
): { readonly value: number; readonly exponent: number } {
  if (numerator === 0n) return { value: 0, exponent: 0 }
  const bits = (n: bigint): number => n.toString(16).length * 4
  const shift = 128 + bits(denominator) - bits(numerator)
  const wide =
    shift >= 0 ? (numerator << BigInt(shift)) / denominator : numerator / (denominator << BigInt(-shift))
  const drop = wide.toString(2).length - 64
  return { value: Number(wide >> BigInt(drop)) * 2 ** -63, exponent: 63 + drop - shift }
}

const sum = (terms: readonly bigint[]): bigint => terms.reduce((total, term) => total + term, 0n)
/** Bits that a square root of an integer keeps behind the point. */
const POINT = 600n

/** The true distance as a number times 2^exponent. */
function trueDistance(
  metric: string,
  query: readonly bigint[],
  vector: readonly bigint[],
): ReturnType<typeof quotient> {
  if (metric === 'l2') {
    const square = sum(query.map((q, i) => (q - vector[i]!) ** 2n))
    return quotient(squareRoot(square << (2n * POINT)), 1n << (POINT + 1074n))
  }
  const dot = sum(query.map((q, i) => q * vector[i]!))
  const squares = sum(query.map((q) => q * q)) * sum(vector.map((v) => v * v))
  const root = squareRoot(squares << (2n * POINT))
  const inner = dot << POINT
  // 1 - c is (1 - c c) / (1 + c), which cancels nothing where c is near 1.
  if (dot <= 0n) return quotient(root - inner, root)
  return quotient((squares - dot * dot) << (2n * POINT), root * (root + inner))
}

/** The distance of `got` from the truth in units in the last place of the dtype. */
function ulpsOff(dtype: FloatDtype, got: number, { value, exponent }: ReturnType<typeof quotient>): number {
  const [digits, least, most] = dtype === 'f32' ? [24, -149, 127] : [53, -1074, 1023]
  const size = value === 0 ? least : Math.floor(Math.log2(value)) + exponent
  if (size > most) return got === Number.POSITIVE_INFINITY ? 0 : Number.POSITIVE_INFINITY
  const last = Math.max(size - digits + 1, least)
  // In two steps, because the power may lie beyond the range.
  const inUlps = (x: number, by: number): number =>
    x * 2 ** Math.trunc(by / 2) * 2 ** (by - Math.trunc(by / 2))
  return Math.abs(inUlps(got, -last) - inUlps(value, exponent - last))
}

// ---- draws ------------------------------------------------------------------------------------------------

const fraction = (draw: Draw): number => draw.int(0, 2 ** 31) / 2 ** 31 - 0.5

/** A query and a vector of one size, nowhere near each other, almost parallel or almost opposite. */
function drawPair(draw: Draw, dtype: FloatDtype, reach: number): [TypedArray, TypedArray] {
  const depth = draw.pick([1, 2, 2, 3, 4, 31, 33, 100])
  const { view, sizeBytes } = DTYPE_INFO[dtype]
  const empty = (): TypedArray => view(new ArrayBuffer(depth * sizeBytes), 0, depth)
  const [query, vector] = [empty(), empty()]
  const size = 2 ** draw.int(-reach, reach)
  const spread = draw.pick([0, 10, 60])
  const noise = draw.pick([0, 1e-3, 1e-7, 1e-12, 1e-15])
  const factor = draw.pick([1, -1, 3, 1 / 7, 1e5])
  const isFree = draw.chance(0.4)
  const other = draw.chance(0.5) ? size : 2 ** draw.int(-reach, reach)
  for (let i = 0; i < depth; i++) {
    query[i] = fraction(draw) * size * 2 ** -draw.int(0, spread)
    const near = Number(query[i]) * factor * (1 + noise * fraction(draw))
    vector[i] = isFree ? fraction(draw) * other : near
  }
  if (draw.chance(0.2)) vector[draw.int(0, depth - 1)]! = Number(vector[0]) * (1 + 2 ** -draw.int(1, 60))
  return [query, vector]
}

function distanceOf(metric: string, dtype: FloatDtype, query: TypedArray, vector: TypedArray): number {
  const pages = {
    q: { dtype, shape: [query.length], values: query },
    v: { dtype, shape: [1, vector.length], values: vector },
  }
  const derive = { op: 'distance', inputs: { queries: 'q', vectors: 'v' }, metric }
  return Number(runner.run(derive, pages).values[0])
}

for (const dtype of ['f32', 'f64'] as const) {
  for (const metric of ['l2', 'cosine']) {
    t.test(`${metric} of ${dtype} is within ${ULPS} ulp of the true distance`, async (t) => {
      let worst = 0
      for (let run = 0; run < RUNS; run++) {
        const draw = new Draw(run)
        const [query, vector] = drawPair(draw, dtype, dtype === 'f32' ? 126 : 1020)
        const q = [...query].map(Number)
        const v = [...vector].map(Number)
        if (![...q, ...v].every(Number.isFinite)) continue
        const isZero = [q, v].some((list) => list.every((x) => x === 0))
        if (metric === 'cosine' && isZero) continue
        const got = distanceOf(metric, dtype, query, vector)
        const truth = trueDistance(metric, q.map(exact), v.map(exact))
        const isLeast = metric === 'cosine' && truth.value * 2 ** truth.exponent < LEAST_COSINE * 1.001
        if (isLeast && (got === 0 || got < LEAST_COSINE * 1.001)) continue
        if (metric === 'cosine' && !(got >= 0 && got <= 2)) t.fail(`run ${run}: ${got} is no cosine distance`)
        const off = ulpsOff(dtype, got, truth)
        worst = Math.max(worst, off)
        if (off > ULPS) {
          t.fail(`run ${run}: ${got} is ${off} ulp off, of [${query}] and [${vector}]`)
          break
        }
      }
      t.comment(`worst: ${worst.toFixed(2)} ulp of ${RUNS} pairs`)
      t.ok(worst <= ULPS, `${worst} ulp`)
    })
  }
}

t.test('distances at the ends of the range', async (t) => {
  const of = (metric: string, dtype: FloatDtype, q: readonly number[], v: readonly number[]): number => {
    const make = (list: readonly number[]): TypedArray =>
      dtype === 'f32' ? Float32Array.from(list) : Float64Array.from(list)
    return distanceOf(metric, dtype, make(q), make(v))
  }
  const angle = Math.fround(1 - Math.SQRT1_2)
  t.equal(of('cosine', 'f32', [1, 0], [1e-25, 1e-25]), angle)
  t.equal(of('cosine', 'f32', [1, 0], [1e25, 1e25]), angle)
  t.ok(Math.abs(of('cosine', 'f64', [1, 0], [1e-300, 1e-300]) - (1 - Math.SQRT1_2)) < 1e-15)
  t.equal(of('l2', 'f32', [3e30, 0], [0, 4e30]), Math.fround(5e30))
  t.equal(of('l2', 'f32', [3e-30, 0], [0, 4e-30]), Math.fround(5e-30))
  t.equal(of('l2', 'f64', [3 * 2 ** 1000, 0], [0, 4 * 2 ** 1000]), 5 * 2 ** 1000)
  t.equal(of('l2', 'f64', [3 * 2 ** -1000, 0], [0, 4 * 2 ** -1000]), 5 * 2 ** -1000)
  t.equal(
    of('l2', 'f64', [1.5e308], [-1.5e308]),
    Number.POSITIVE_INFINITY,
    'the distance is beyond the range',
  )
  t.equal(of('l2', 'f64', [Infinity], [1]), Number.POSITIVE_INFINITY)
  t.equal(of('l2', 'f64', [1e300, 5e-324], [1e300, 0]), 5e-324)
  t.equal(of('cosine', 'f64', [1, 2, 3], [1 / 3, 2 / 3, 1]) < 1e-31, true)
  for (const dtype of ['f32', 'f64'] as const) {
    t.equal(of('cosine', dtype, [1, 2, 3], [-2, -4, -6]), 2)
    t.equal(of('cosine', dtype, [1, 2, 3], [3, 6, 9]), 0, 'multiples of one vector')
    t.same(of('cosine', dtype, [0, 0], [1, 2]), Number.NaN, 'no angle with a vector of zeros')
    t.same(of('cosine', dtype, [Infinity, 0], [1, 2]), Number.NaN)
    t.same(of('l2', dtype, [Infinity], [Infinity]), Number.NaN)
    t.equal(of('l2', dtype, [], []), 0)
    t.equal(of('dot', dtype, [Infinity, 1], [1, -1]), Number.POSITIVE_INFINITY)
    t.same(of('dot', dtype, [Infinity, 1], [0, 1]), Number.NaN)
  }
  t.equal(of('dot', 'f32', [1e30, 1e30], [1e30, -1e30]), 0, 'sums of products may leave the range of f32')
  t.equal(of('dot', 'f64', [1e300, 1e300], [1e300, -1e300]), 0, 'and those of f64 the range of f64')
  t.equal(of('dot', 'f64', [1e200, 3e200], [2e200, Infinity]), Number.POSITIVE_INFINITY)
  t.equal(of('dot', 'f64', [1e200], [-1e200]), Number.NEGATIVE_INFINITY)
})
