/**
 * Random expressions: what the native library computes for the compiled program equals a plain reading
 * of the text.
 */
import fc from 'fast-check'
import t from 'tap'
import { MmsbError } from '../../../src/errors.js'
import { DTYPE_INFO, DTYPES, type Dtype } from '../../../src/wire/dtype.js'
import { isNear, referenceEval, sameElement } from '../../reference/evaluate.js'
import type { TestPage } from '../../reference/ops/record.js'
import { NativeRunner } from '../native.js'

const COUNT = 37 // a whole vector or two, and a rest

const ODD_FLOATS = [
  Number.NaN,
  Infinity,
  -Infinity,
  0,
  -0,
  1,
  -1,
  0.5,
  -0.5,
  1.5,
  2.5,
  1e-40,
  -3e38,
  1e18,
  -1e300,
  255.5,
]
const ODD_INTEGERS = [
  0n,
  1n,
  -1n,
  2n,
  3n,
  7n,
  -8n,
  31n,
  64n,
  127n,
  -128n,
  255n,
  65_535n,
  1n << 53n,
  (1n << 63n) - 1n,
  -(1n << 63n),
]

/** A page of each dtype, with its ends, its oddities and some middling values. */
function pageOf(dtype: Dtype, seed: number): TestPage {
  const info = DTYPE_INFO[dtype]
  const values = info.view(new ArrayBuffer(COUNT * info.sizeBytes), 0, COUNT)
  let state = seed
  const random = (below: number): number => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
  for (let i = 0; i < COUNT; i++) {
    const odd = random(3) === 0
    if (info.kind === 'float')
      values[i] = odd ? ODD_FLOATS[random(ODD_FLOATS.length)]! : (random(4001) - 2000) / 16
    else if (info.sizeBytes === 8)
      values[i] = odd ? ODD_INTEGERS[random(ODD_INTEGERS.length)]! : BigInt(random(200) - 100)
    else if (info.kind === 'bool') values[i] = random(2)
    else
      values[i] = odd
        ? Number(BigInt.asIntN(64, ODD_INTEGERS[random(ODD_INTEGERS.length)]!))
        : random(200) - 100
  }
  return { dtype, shape: [COUNT], values }
}

const NUMBERS = [
  '0',
  '1',
  '2',
  '3',
  '5',
  '100',
  '0.5',
  '2.0',
  '1e3',
  '.25',
  '0x10',
  'inf',
  'nan',
  'true',
  '300',
]
const UNARY = ['abs', 'sign', 'sqrt', 'floor', 'ceil', 'round', 'trunc', 'isnan', ...DTYPES]
const BINARY = ['min', 'max', 'bitand', 'bitor', 'bitxor', 'shl', 'shr']

const { expression } = fc.letrec<{ expression: string }>((tie) => {
  const inner = tie('expression')
  const name = fc.constantFrom('x', 'y', 'z')
  return {
    expression: fc.oneof(
      { depthSize: 'small', withCrossShrink: true },
      fc.oneof(name, name, fc.constantFrom(...NUMBERS)),
      fc
        .tuple(inner, fc.constantFrom('+', '-', '*', '/', '//', '%'), inner)
        .map(([a, op, b]) => `(${a}) ${op} (${b})`),
      fc
        .tuple(inner, fc.constantFrom('+', '-', '*', '//', '%'), inner)
        .map(([a, op, b]) => `${a} ${op} ${b}`),
      fc
        .tuple(inner, fc.constantFrom('==', '!=', '<', '<=', '>', '>='), inner)
        .map(([a, op, b]) => `(${a} ${op} ${b})`),
      fc.tuple(inner, fc.constantFrom('and', 'or'), inner).map(([a, op, b]) => `(${a} ${op} ${b})`),
      fc.tuple(fc.constantFrom('-', '+', 'not '), inner).map(([op, a]) => `(${op}${a})`),
      fc.tuple(inner, fc.constantFrom('2', '2.0', '3')).map(([a, n]) => `i32(${a}) ** ${n}`),
      fc.tuple(inner, inner, inner).map(([a, c, b]) => `(${a} if ${c} else ${b})`),
      fc.tuple(inner, inner, inner).map(([a, b, c]) => `where(${a}, ${b}, ${c})`),
      fc.tuple(inner, inner, inner).map(([a, b, c]) => `clamp(${a}, ${b}, ${c})`),
      fc.tuple(inner, inner, inner).map(([a, b, c]) => `fma(${a}, ${b}, ${c})`),
      fc.tuple(fc.constantFrom(...UNARY), inner).map(([f, a]) => `${f}(${a})`),
      fc.tuple(fc.constantFrom(...BINARY), inner, inner).map(([f, a, b]) => `${f}(${a}, ${b})`),
    ),
  }
})

const dtypes = fc.tuple(fc.constantFrom(...DTYPES), fc.constantFrom(...DTYPES), fc.constantFrom(...DTYPES))

const runner = new NativeRunner()
t.teardown(() => runner.close())

type Outcome = { refused: string } | { dtype: Dtype; got: (number | bigint)[]; wanted: (number | bigint)[] }

function both(expr: string, [x, y, z]: readonly [Dtype, Dtype, Dtype], seed: number, asked?: Dtype): Outcome {
  const pages = { px: pageOf(x, seed), py: pageOf(y, seed + 1), pz: pageOf(z, seed + 2) }
  const derive = { op: 'map', inputs: { x: 'px', y: 'py', z: 'pz' }, expr }
  try {
    const { compiled, values } = runner.run(derive, pages, asked)
    const wanted = referenceEval(derive, { x: pages.px, y: pages.py, z: pages.pz }, asked)
    if (compiled.dtype !== wanted.dtype)
      throw new Error(`${expr}: dtype ${compiled.dtype}, should be ${wanted.dtype}`)
    return { dtype: compiled.dtype, got: Array.from(values as Float64Array), wanted: wanted.values }
  } catch (error) {
    if (error instanceof MmsbError && error.code === 'INVALID_EXPRESSION') return { refused: error.message }
    throw error
  }
}

t.test('exact operations: equal bit for bit', async (t) => {
  let compiled = 0
  fc.assert(
    fc.property(
      expression,
      dtypes,
      fc.nat(),
      fc.option(fc.constantFrom(...DTYPES), { nil: undefined }),
      (expr, types, seed, asked) => {
        const outcome = both(expr, types, seed, asked)
        if ('refused' in outcome) return
        compiled++
        const at = outcome.got.findIndex((value, i) => !sameElement(value, outcome.wanted[i]!))
        if (at >= 0)
          throw new Error(
            `${expr} over ${types}: element ${at} is ${outcome.got[at]}, should be ${outcome.wanted[at]}`,
          )
      },
    ),
    { numRuns: 4000 },
  )
  t.ok(compiled > 1000, `${compiled} of 4000 compiled`)
})

t.test('portable functions: within a few units in the last place', async (t) => {
  const calls = ['exp', 'log', 'log2', 'sin', 'cos', 'tan', 'tanh']
  for (const dtype of ['f32', 'f64'] as const) {
    for (const expr of [...calls.map((f) => `${f}(x)`), 'abs(x) ** y', 'pow(x, 3)', 'x ** 0.5']) {
      for (let seed = 0; seed < 20; seed++) {
        const outcome = both(expr, [dtype, dtype, dtype], seed)
        if ('refused' in outcome) throw new Error(outcome.refused)
        const ulp = dtype === 'f32' ? 2 ** -23 : 2 ** -52
        const bad = outcome.got.findIndex((value, i) => !isNear(value, outcome.wanted[i]!, 4 * ulp, 1e-300))
        if (bad >= 0) t.fail(`${expr} ${dtype}: ${outcome.got[bad]}, should be ${outcome.wanted[bad]}`)
      }
    }
  }
})

t.test('inputs broadcast', async (t) => {
  const ramp = (dtype: Dtype, shape: number[]): TestPage => {
    const count = shape.reduce((a, b) => a * b, 1)
    const info = DTYPE_INFO[dtype]
    const values = info.view(new ArrayBuffer(count * info.sizeBytes), 0, count)
    for (let i = 0; i < count; i++) values[i] = i + 1
    return { dtype, shape, values }
  }
  const shapes: [number[], number[]][] = [
    [[4, 3], [3]],
    [[4, 1], [3]],
    [[], [2, 2]],
    [
      [2, 1, 3],
      [5, 1],
    ],
    [[0, 3], [3]],
    [[1], [1, 1]],
  ]
  for (const [a, b] of shapes) {
    const pages = { a: ramp('f32', a), b: ramp('i16', b) }
    const derive = { op: 'map', inputs: { a: 'a', b: 'b' }, expr: 'a * 10 + b' }
    const { compiled, values } = runner.run(derive, pages)
    const wanted = referenceEval(derive, pages)
    t.same([compiled.dtype, compiled.shape, [...values]], [wanted.dtype, wanted.shape, wanted.values])
  }
})
