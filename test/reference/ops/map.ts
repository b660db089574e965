/** map: its values are tested expression by expression in test/kernels/expression/values.test.ts. */
import type { Dtype } from '../../../src/wire/dtype.js'
import type { Draw } from '../../lib/draw.js'
import { castScalar } from '../element.js'
import { evaluate, readTree } from '../expression.js'
import { broadcast, broadcastIndex, coordinatesOf, type ReferenceOp, sizeOf } from '../tensor.js'
import { isFloat, isInteger, tamePage, tameShape } from './drawing.js'
import type { NumpyCase, OpRecord, OpRecords } from './record.js'

const compute: ReferenceOp = (inputs, derive) => {
  const tree = readTree(String(derive.expr))
  const shape = broadcast(Object.values(inputs).map((input) => input.shape))
  const environment = (at: number) => {
    const coordinates = coordinatesOf(at, shape)
    return Object.fromEntries(
      Object.entries(inputs).map(([name, { dtype, shape: own, values }]) => [
        name,
        { dtype, value: values[broadcastIndex(coordinates, own)]! },
      ]),
    )
  }
  const results = Array.from({ length: sizeOf(shape) }, (_, at) => evaluate(tree, environment(at)))
  // Types do not depend on values: zeros tell the dtype of a page without elements.
  const zeros = Object.entries(inputs).map(([name, { dtype }]) => [
    name,
    { dtype, value: castScalar(0, 'f64', dtype) },
  ])
  const { dtype } = results[0] ?? evaluate(tree, Object.fromEntries(zeros))
  return { dtype, shape, values: results.map(({ value }) => value) }
}

// ---- random expressions -----------------------------------------------------------------------------------

const LEAVES = [
  'a',
  'a',
  'b',
  '1',
  '3',
  '0.5',
  '-7',
  'f64(a)',
  'f32(a)',
  'i32(a)',
  'u8(a)',
  'i64(b)',
  'bool(a)',
]
const FORMS = [
  '{} + {}',
  '{} - {}',
  '{} * {}',
  '{} / {}',
  'i32({}) // {}',
  '{} % 7',
  '-{}',
  'abs({})',
  'sign({})',
  'sqrt(abs({}))',
  'floor({})',
  'round({})',
  'where({} > 3, {}, -{})',
  '{} if {} <= {} else {}',
  'not ({} and {})',
  'clamp({}, 0, 50)',
  'min({}, {})',
  'max({}, {}, 2)',
  'isnan(f64({}))',
  'fma(f64({}), {}, {})',
  'bitand(i32({}), i32({}))',
  'bitxor(u16({}), u16({}))',
  'shl(i32({}), 3)',
  'shr(i64({}), u8({}))',
  'i16({}) ** 2',
  'f64({})',
  'f32({})',
  'i8({})',
]
/**
 * JavaScript rounds these in its own way. They come last in an expression, so that their error is the
 * whole error.
 */
const INEXACT_FORMS = ['exp', 'log', 'log2', 'sin', 'cos', 'tan', 'tanh'].map((name) => `${name}({})`)

const fill = (form: string, part: () => string): string => form.replace(/\{\}/g, part)

function drawExact(draw: Draw, depth: number): string {
  if (depth === 0 || draw.chance(0.2)) return draw.pick(LEAVES)
  return `(${fill(draw.pick(FORMS), () => drawExact(draw, depth - 1))})`
}

/** An expression over `a` and `b`; it need not compile. */
function drawExpression(draw: Draw): string {
  const inner = drawExact(draw, draw.int(1, 3))
  if (!draw.chance(0.2)) return inner
  const form = draw.chance(0.2) ? `abs({}) ** 1.5` : draw.pick(INEXACT_FORMS)
  return fill(form, () => `${draw.pick(['f32', 'f64'])}(${inner})`)
}

// ---- NumPy ------------------------------------------------------------------------------------------------

/** Expressions, and the same in NumPy's words. */
const EXPRESSIONS: readonly (readonly [string, string])[] = [
  ['a + b', 'a + b'],
  ['a * b', 'a * b'],
  ['a / b', 'np.true_divide(a, b, dtype=a.dtype if a.dtype.kind == "f" else np.float64)'],
  ['a == b', 'a == b'],
  ['a <= b and a != 3', '(a <= b) & (a != 3)'],
  ['where(a > b, a, b)', 'np.where(a > b, a, b)'],
  ['min(a, b)', 'np.minimum(a, b)'],
  ['max(a, b, a)', 'np.maximum(a, b)'],
]
const ARITHMETIC: readonly (readonly [string, string])[] = [
  ['a - b', 'a - b'],
  ['a // b', 'a // b'],
  ['a % b', 'a % b'],
  ['a ** 2', 'a ** 2'],
  ['abs(a)', 'np.abs(a)'],
  ['sign(a)', 'np.sign(a)'],
  ['clamp(a, 3, 20)', 'np.clip(a, 3, 20)'],
]
const BITS: readonly (readonly [string, string])[] = [
  ['bitand(a, b)', 'a & b'],
  ['bitor(a, b)', 'a | b'],
  ['bitxor(a, b)', 'a ^ b'],
  ['shl(a, 3)', 'a << a.dtype.type(3)'],
  ['shr(a, 2)', 'a >> a.dtype.type(2)'],
]
const MATHS: readonly (readonly [string, string])[] = [
  ...['sqrt', 'exp', 'log', 'log2'].map(
    (name) => [`${name}(abs(a) / 8 + 1)`, `np.${name}(np.abs(a) / 8 + 1)`] as const,
  ),
  ...['sin', 'cos', 'tanh', 'floor', 'ceil', 'trunc'].map((name) => [`${name}(a)`, `np.${name}(a)`] as const),
  ['round(a)', 'np.rint(a)'],
  ['isnan(a)', 'np.isnan(a)'],
  ['tan(a / 64)', 'np.tan(a / 64)'],
  ['(abs(a) + 1) ** (b / 16)', '(np.abs(a) + 1) ** (b / 16)'],
]

function numpyCases(draw: Draw, dtype: Dtype): NumpyCase[] {
  const list = [
    ...EXPRESSIONS,
    ...(dtype === 'bool' ? [] : ARITHMETIC),
    ...(isInteger(dtype) ? BITS : []),
    ...(isFloat(dtype) ? MATHS : []),
  ]
  return list.map(([expr, numpy]) => {
    const a = tameShape(draw, 0, 3)
    const b = a.map((size) => (draw.chance(0.3) ? 1 : size)).slice(draw.int(0, a.length))
    return {
      derive: { op: 'map', inputs: { a: 'a', b: 'b' }, expr },
      pages: { a: tamePage(draw, dtype, a, isFloat(dtype)), b: tamePage(draw, dtype, b) },
      numpy,
    }
  })
}

/** Of floats, where the sign of a zero, an infinity or a NaN decides. */
const ODD_EXPRESSIONS = [
  'min(a, 0)',
  'max(a, -0.0)',
  'where(a < 0, 1, where(a == a, 2, 3))',
  'a % 3 + a // 2',
  'sign(a) * clamp(a, -1, 1)',
]

const map: OpRecord = {
  compute,
  weight: 4,
  overPages: (draw, pages) => {
    const a = draw.pick(pages)
    const b = draw.chance(0.4) ? draw.pick(pages) : a
    return { op: 'map', inputs: { a: a.name, b: b.name }, expr: drawExpression(draw) }
  },
  numpy: numpyCases,
  results: [
    [{ op: 'map', inputs: { a: 'prices', b: 'qty' }, expr: 'a*b' }, 'f32', [4, 3], undefined],
    [{ op: 'map', inputs: { a: 'empty', b: 'vector' }, expr: 'a+b' }, 'f64', [0, 3], undefined],
    [{ op: 'map', inputs: { a: 'scalar' }, expr: 'a > 0' }, 'bool', [], undefined],
    [
      { op: 'map', inputs: { ask: 'prices', b: 'qty' }, expr: 'ask*b + 1 if ask > 0 else 2' },
      'f32',
      [4, 3],
      undefined,
    ],
  ],
  refusals: [
    [
      { op: 'map', inputs: { a: 'tall', b: 'flat' }, expr: 'a+b' },
      /^INVALID_REQUEST the result of shape \[70000, 70000\]/,
    ],
    [{ op: 'map', inputs: {}, expr: '1' }, /^INVALID_REQUEST map takes 1 to 64 inputs, not 0/],
    [{ op: 'map', inputs: { a: 'qty' } }, /^INVALID_REQUEST map needs expr/],
    [{ op: 'map', inputs: { a: 'qty' }, expr: 7 }, /^INVALID_REQUEST expr is 7; it must be a string/],
    [{ op: 'map', inputs: { 'a.b': 'qty' }, expr: '1' }, /^INVALID_REQUEST input name "a.b"/],
    [{ op: 'map', inputs: { exp: 'qty' }, expr: '1' }, /^INVALID_EXPRESSION input name 'exp' is a function/],
    [{ op: 'map', inputs: { a: 'qty' }, expr: 'a + b' }, /^INVALID_EXPRESSION column 5: unknown name 'b'/],
    [
      { op: 'map', inputs: { a: 'prices', b: 'wide' }, expr: 'a+b' },
      /^SHAPE_MISMATCH shapes do not broadcast: a \(prices\) \[4, 3\] has size 4 on axis 0, b \(wide\) \[3, 2\] has size 3 on axis 0/,
    ],
  ],
  long: [
    { op: 'map', inputs: { x: 'x' }, expr: 'x * 3 + 1' },
    { op: 'map', inputs: { a: 'rows', b: 'column' }, expr: 'a - b' },
  ],
  conformance: (dtype) => [
    [
      'mapped',
      {
        op: 'map',
        inputs: { a: 'x', b: 'x' },
        expr: isFloat(dtype) ? 'exp(a / 1000) * b - 1' : 'a * b - a // 3',
      },
    ],
    ['maths', { op: 'map', inputs: { a: 'x' }, expr: 'sin(f64(a)) + log(abs(f64(a)) + 1) * tanh(f32(a))' }],
    ...(isFloat(dtype) ? ODD_EXPRESSIONS : []).map(
      (expr, i) => [`odd.${i}`, { op: 'map', inputs: { a: 'x' }, expr }] as const,
    ),
  ],
}

export const mapRecords: OpRecords = { map }
