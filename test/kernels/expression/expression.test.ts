/** The expression language: types, precedence, folding, limits, and errors that name the column. */
import fc from 'fast-check'
import t from 'tap'
import { MmsbError } from '../../../src/errors.js'
import { compileExpression, type ExpressionInput } from '../../../src/kernels/expression/compile.js'
import { encodeIr, printIr } from '../../../src/kernels/expression/ir.js'
import { checkInputName } from '../../../src/kernels/expression/names.js'
import { promoteDtypes } from '../../../src/kernels/promotion.js'
import { DTYPES, type Dtype } from '../../../src/wire/dtype.js'
import { refusal } from '../../lib/refusal.js'

/** One input of each dtype, by the dtype's name and an underscore. */
const INPUTS: ExpressionInput[] = DTYPES.map((dtype) => ({ name: `${dtype}_`, dtype }))
const NAMES = INPUTS.map(({ name }) => name)

const typeOf = (text: string): string => {
  try {
    return compileExpression(text, INPUTS).dtype
  } catch (error) {
    if (error instanceof MmsbError) return `${error.code} ${error.message}`
    throw error
  }
}

const program = (text: string, dtype?: Dtype): string =>
  printIr(compileExpression(text, INPUTS, dtype).ir, NAMES)

t.test('dtypes combine by the rule', async (t) => {
  const table: Record<string, string> = {
    'u8 u16': 'u16',
    'i8 i64': 'i64',
    'f32 f64': 'f64',
    'u8 i8': 'i16',
    'u16 i8': 'i32',
    'u8 i32': 'i32',
    'u32 i8': 'i64',
    'u32 i64': 'i64',
    'i64 f32': 'f32',
    'u64 f32': 'f32',
    'u8 f64': 'f64',
    'bool u8': 'u8',
    'bool f32': 'f32',
    'bool bool': 'bool',
  }
  for (const [pair, wanted] of Object.entries(table)) {
    const [a, b] = pair.split(' ') as [Dtype, Dtype]
    t.equal(promoteDtypes(a, b), wanted, pair)
    t.equal(promoteDtypes(b, a), wanted, `${pair}, turned`)
    t.equal(typeOf(`${a}_ + ${b}_`), wanted)
  }
  for (const signed of ['i8', 'i16', 'i32', 'i64'] as const) {
    t.equal(promoteDtypes('u64', signed), undefined)
    t.match(
      typeOf(`u64_ * ${signed}_`),
      /^INVALID_EXPRESSION column 6: u64 and i\d+ have no common type; cast one/,
    )
    t.equal(typeOf(`u64_ * u64(${signed}_)`), 'u64')
  }
})

t.test('types of constructs', async (t) => {
  const table: Record<string, string> = {
    // bare numbers take the array's type
    'u8_ + 1': 'u8',
    'f32_ * 2': 'f32',
    'f32_ * 0.1': 'f32',
    'i32_ * 0.5': 'f64',
    'i32_ + 2.0': 'f64',
    'bool_ + 1': 'i64',
    'bool_ * 0.5': 'f64',
    'u8_ == 255': 'bool',
    'u8_ + 2 * 3': 'u8',
    'f32_ * (1 / 3)': 'f32',
    'f32_ * exp(1)': 'f32',
    'f32_ * 10 ** -3': 'f32',
    'f32_ * pi': 'f32',
    'f32_ + where(bool_, 1, 0)': 'f32',
    'f32_ * where(bool_, 0.5, 1)': 'f32',
    'u8_ * where(bool_, 2, 1)': 'u8',
    'where(bool_, 1, 0)': 'i64',
    'where(bool_, 1, 0) + 1': 'i64',
    'where(bool_, 0.5, 0)': 'f64',
    '1 if true else 0.5': 'f64',
    // all of bare numbers
    '1 + 2': 'i64',
    '7 // 2': 'i64',
    '7 / 2': 'f64',
    '2 ** -1': 'f64',
    '1.5': 'f64',
    inf: 'f64',
    '1 < 2': 'bool',
    // division
    'i32_ / i32_': 'f64',
    'u8_ / 2': 'f64',
    'bool_ / bool_': 'f64',
    'i32_ // 2': 'i32',
    'i32_ / f32_': 'f32',
    'i32_ % 3': 'i32',
    'u8_ ** 2': 'u8',
    'i32_ ** 0.5': 'f64',
    '2 ** u8_': 'u8',
    // logic
    'f32_ and i32_': 'bool',
    'not f32_': 'bool',
    'bool_ or 1': 'bool',
    'bool_ + bool_': 'bool',
    'bool_ * bool_': 'bool',
    'min(bool_, bool_)': 'bool',
    // functions
    'sqrt(u8_)': 'f64',
    'exp(f32_)': 'f32',
    'sin(bool_)': 'f64',
    'floor(i16_)': 'i16',
    'round(f32_)': 'f32',
    'abs(u8_)': 'u8',
    'abs(bool_)': 'bool',
    'sign(i8_)': 'i8',
    'isnan(u8_)': 'bool',
    'min(u8_, i8_, 3)': 'i16',
    'clamp(f32_, -1, 1)': 'f32',
    'clamp(u8_, 0, i16_)': 'i16',
    'fma(f32_, 2, 1)': 'f32',
    'fma(i32_, 2, 1)': 'i32',
    'pow(f32_, f64_)': 'f64',
    'bitand(u8_, 15)': 'u8',
    'bitxor(bool_, bool_)': 'bool',
    'shl(u16_, 3)': 'u16',
    'where(f32_, u8_, i32_)': 'i32',
    // casts
    'f32(i64_)': 'f32',
    'u8(300.7)': 'u8',
    'bool(f32_)': 'bool',
    'f32(1) + 1': 'f32',
    'i8(1) + u8_': 'i16',
  }
  for (const [text, wanted] of Object.entries(table)) t.equal(typeOf(text), wanted, text)
})

t.test('errors say where and what', async (t) => {
  const table: Record<string, RegExp> = {
    '': /column 1: the expression is empty/,
    '  ': /column 1: the expression is empty/,
    'f32_ +': /column 7: the expression ends where a value should be/,
    '(f32_': /column 6: the expression ends where '\)' should be/,
    'f32_)': /column 5: unexpected '\)' after the expression/,
    'f32_ f64_': /column 6: unexpected 'f64_' after the expression/,
    '* 2': /column 1: unexpected '\*' where a value should be/,
    'f32_ if bool_': /column 14: the expression ends where 'else' should be/,
    'f32_ + ask': /column 8: unknown name 'ask'; the inputs are bool_, u8_/,
    'sigmoid(f32_)': /column 1: unknown function 'sigmoid'/,
    'exp + 1': /column 1: 'exp' is a function; write exp\(...\)/,
    'f32_(1)': /column 1: 'f32_' is an input, not a function/,
    'exp(1, 2)': /column 1: exp takes 1 argument, not 2/,
    'where(1, 2)': /column 1: where takes 3 arguments, not 2/,
    'min(f32_)': /column 1: min takes at least 2 arguments, not 1/,
    'min()': /column 1: min takes at least 2 arguments, not 0/,
    'exp(1,)': /column 7: unexpected '\)' where a value should be/,
    '1 < f32_ < 2': /column 10: comparisons cannot be chained; write 'a < b and b < c'/,
    'f32_ = 1': /column 6: unexpected "="; use '==' to compare/,
    'bool_ & bool_': /column 7: unexpected "&"; use 'and', or bitand/,
    'f32_ ^ 2': /column 6: unexpected "\^"; use '\*\*' for powers/,
    'f32_[0]': /column 5: unexpected "\["; an expression cannot index/,
    'f32_ + é': /column 8: unexpected "é"/,
    '1_000': /column 2: unexpected '_' in a number/,
    '1.2.3': /column 4: unexpected '\.' in a number/,
    '0x': /column 2: unexpected 'x' in a number/,
    '1e400': /column 1: 1e400 does not fit f64; write inf/,
    'u8_ + 300': /column 5: 300 does not fit u8 \(0 to 255\)/,
    'u8_ + -1': /column 5: -1 does not fit u8/,
    'u8_ < 256': /column 5: 256 does not fit u8/,
    'f32_ * 1e39': /column 6: 1e\+39 does not fit f32/,
    '2 ** 70': /column 3: the integer is too large/,
    '18446744073709551615': /does not fit i64/,
    'u8(256)': /column 1: 256 does not fit u8/,
    'bool_ - bool_': /column 7: '-' is not defined for bool; cast it/,
    'bool_ // bool_': /column 7: '\/\/' is not defined for bool/,
    'bool_ ** bool_': /column 7: '\*\*' is not defined for bool/,
    '-bool_': /column 1: '-' is not defined for bool/,
    '+bool_': /column 1: '\+' is not defined for bool/,
    'fma(bool_, bool_, bool_)': /column 1: 'fma' is not defined for bool/,
    'bitand(f32_, 1)': /column 1: bitand is not defined for f32; it works on integers/,
    'shl(bool_, bool_)': /column 1: shl is not defined for bool/,
    'i32_ ** -1': /column 6: an integer to the power -1; cast the base, such as f64\(x\)/,
    and: /column 1: unexpected 'and' where a value should be/,
    'f32_ and not': /column 13: the expression ends/,
    [`${'9'.repeat(400)} * f32_`]: /column 402: the integer does not fit f64/,
  }
  for (const [text, message] of Object.entries(table)) {
    const got = typeOf(text)
    t.match(got, /^INVALID_EXPRESSION /, text)
    t.match(got, message, text)
  }
})

t.test('names of inputs', async (t) => {
  for (const name of ['a', '_x1', 'expo', 'E', 'previous'])
    t.equal(
      refusal(() => checkInputName(name)),
      'accepted',
    )
  for (const name of ['', '1a', 'a.b', 'a-b', 'ä', 'x'.repeat(65)]) {
    t.match(
      refusal(() => checkInputName(name)),
      /^INVALID_REQUEST input name/,
    )
  }
  t.match(
    refusal(() => checkInputName('exp')),
    /^INVALID_EXPRESSION input name 'exp' is a function/,
  )
  t.match(
    refusal(() => checkInputName('f32')),
    /is a function/,
  )
  t.match(
    refusal(() => checkInputName('if')),
    /is a keyword/,
  )
  t.match(
    refusal(() => checkInputName('nan')),
    /is a constant/,
  )
})

t.test('operators bind as in Python', async (t) => {
  const same: [string, string][] = [
    ['-f64_ ** 2', '-(f64_ ** 2)'],
    ['f64_ ** -f32_', 'f64_ ** (-f32_)'],
    ['f64_ ** f32_ ** i8_', 'f64_ ** (f32_ ** i8_)'],
    ['f64_ - f32_ - i8_', '(f64_ - f32_) - i8_'],
    ['f64_ / f32_ * i8_', '(f64_ / f32_) * i8_'],
    ['f64_ + f32_ * i8_ // u8_ % 3', 'f64_ + (((f32_ * i8_) // u8_) % 3)'],
    ['not f64_ == f32_', 'not (f64_ == f32_)'],
    ['f64_ or f32_ and not i8_', 'f64_ or (f32_ and (not i8_))'],
    ['f64_ < f32_ or bool_', '(f64_ < f32_) or bool_'],
    ['f64_ if bool_ else f32_ if u8_ else i8_', 'f64_ if bool_ else (f32_ if u8_ else i8_)'],
    ['f64_ + 1 if bool_ or u8_ else i8_ * 2', '(f64_ + 1) if (bool_ or u8_) else (i8_ * 2)'],
    ['clamp(f32_, 0, 1)', 'min(max(f32_, 0), 1)'],
    ['pow(f32_, 3)', 'f32_ ** 3'],
    ['- -f64_', '-(-f64_)'],
    ['+f64_', 'f64_'],
    ['1e3 * f64_ + .5', '1000. * f64_ + 0.5'],
    ['0x1f + i32_', '31 + i32_'],
    [' f64_\t+\n1 ', 'f64_+1'],
  ]
  for (const [a, b] of same) t.equal(program(a), program(b), a)
  t.not(program('f64_ - (f32_ - i8_)'), program('f64_ - f32_ - i8_'))
})

t.test('constants are folded where that is exact, and never the portable functions', async (t) => {
  const folds: [string, string][] = [
    ['2 + 3 * 4', 'const i64 14'],
    ['-7 // 2', 'const i64 -4'],
    ['-7 % 3', 'const i64 2'],
    ['7 // 0', 'const i64 0'],
    ['1 / 3', 'const f64 0.3333333333333333'],
    ['f32(1) / 3', 'const f32 0.3333333432674408'],
    ['u8(200) + u8(100)', 'const u8 44'],
    ['i8(-128) // i8(-1)', 'const i8 -128'],
    ['sqrt(2)', 'const f64 1.4142135623730951'],
    ['sqrt(f32(2))', 'const f32 1.4142135381698608'],
    ['1 / 0', 'const f64 Infinity'],
    ['0 / 0', 'const f64 NaN'],
    ['i32(1e30)', 'const i32 2147483647'],
    ['i32(nan)', 'const i32 0'],
    ['round(2.5)', 'const f64 2'],
    ['max(1, nan)', 'const f64 NaN'],
    ['min(0.0, -0.0) == 0', 'const bool true'],
    ['not 0.5', 'const bool false'],
    ['1 < 2 and 3 >= 4', 'const bool false'],
    ['18446744073709551615 < 0', 'const bool false'],
    ['5 if 1 > 2 else 6', 'const i64 6'],
    ['f32(16777217)', 'const f32 16777216'],
    ['bitxor(6, 3)', 'const i64 5'],
    ['shl(1, 40)', 'const i64 1099511627776'],
  ]
  for (const [text, wanted] of folds) t.equal(program(text), `v0 = ${wanted}\nreturn v0`, text)
  t.match(program('exp(1)'), /v1 = exp f64 v0/)
  t.match(program('2.0 ** 0.5'), /pow f64/)
  t.match(program('f32_ * 2 * 3'), /const f32 2\n.*mul[\s\S]*const f32 3/, 'nothing is reassociated')
})

t.test('common subexpressions are computed once, dead code not at all', async (t) => {
  t.equal(program('(f64_ + f32_) * (f32_ + f64_)').match(/add/g)?.length, 1)
  t.equal(program('f64_ - f32_ + (f32_ - f64_)').match(/sub/g)?.length, 2)
  t.equal(program('exp(f64_) / (exp(f64_) + 1)').match(/exp/g)?.length, 1)
  t.notMatch(program('f64_ if true else exp(f32_)'), /exp|select/)
  t.equal(program('abs(u8_)'), 'v0 = input u8 u8_\nreturn v0')
  t.equal(program('floor(i32_)'), 'v0 = input i32 i32_\nreturn v0')
  t.equal(program('f64(f64_)'), 'v0 = input f64 f64_\nreturn v0')
  t.match(program('f64_ ** 2'), /v1 = mul f64 v0, v0/)
})

t.test('a result dtype adds a cast, and a bare number then needs not fit the default', async (t) => {
  t.equal(
    program('f32_ * 2', 'u8'),
    'v0 = input f32 f32_\nv1 = const f32 2\nv2 = mul f32 v0, v1\nv3 = cast u8 v2\nreturn v3',
  )
  t.equal(program('f32_', 'f32'), 'v0 = input f32 f32_\nreturn v0')
  t.equal(program('18446744073709551615', 'u64'), 'v0 = const u64 18446744073709551615\nreturn v0')
  t.match(program('f32_', 'bool'), /ne f32/)
})

t.test('size and depth are bounded', async (t) => {
  for (const text of [
    '('.repeat(10_000),
    '-'.repeat(10_000),
    'not '.repeat(10_000),
    'exp('.repeat(10_000),
    '2**'.repeat(10_000),
    '1 if 1 else '.repeat(4000),
  ]) {
    t.match(typeOf(text), /^INVALID_EXPRESSION column \d+: nested more than 256 deep/)
  }
  t.equal(typeOf(`${'('.repeat(250)}f32_${')'.repeat(250)}`), 'f32')
  t.match(typeOf('f32_'.padEnd(64 * 1024 + 1)), /^INVALID_EXPRESSION the expression has 65537 characters/)
  t.equal(typeOf(`f32_${' + f32_'.repeat(4000)}`), 'f32')
  t.match(
    typeOf(`f32_${' + f32_'.repeat(4096)}`),
    /^INVALID_EXPRESSION the expression needs more than 4096 instructions/,
  )
  t.equal(typeOf(`1${'+1'.repeat(30_000)}`), 'i64')
  const many = Array.from({ length: 65 }, (_, i) => ({ name: `a${i}`, dtype: 'f32' as const }))
  t.match(
    refusal(() => compileExpression('a0', many)),
    /^INVALID_REQUEST 65 inputs/,
  )
})

t.test('any text is a program or a typed error', async () => {
  const words = [
    'f32_',
    'u8_',
    'bool_',
    'exp',
    'min',
    'where',
    '(',
    ')',
    ',',
    '+',
    '-',
    '*',
    '**',
    '//',
    '%',
    '<',
    '==',
    'if',
    'else',
    'and',
    'not',
    '1',
    '2.5',
    '0x1',
    '.',
    '1e',
    ' ',
  ]
  const text = fc.oneof(
    fc.string({ maxLength: 60, unit: 'binary' }),
    fc.array(fc.constantFrom(...words), { maxLength: 25 }).map((list) => list.join('')),
    fc.array(fc.constantFrom(...words), { maxLength: 25 }).map((list) => list.join(' ')),
  )
  fc.assert(
    fc.property(text, (any) => {
      try {
        encodeIr(compileExpression(any, INPUTS).ir)
      } catch (error) {
        if (!(error instanceof MmsbError) || error.code !== 'INVALID_EXPRESSION') throw error
      }
    }),
    { numRuns: 20_000 },
  )
})
