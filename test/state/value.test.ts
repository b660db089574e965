/** Values of deltas, to and from JSON: the range of each dtype, and refusals that name the position. */
import fc from 'fast-check'
import t from 'tap'
import { JSON_PIECE_ELEMENTS } from '../../src/limits.js'
import type { DeltaValues } from '../../src/state/types.js'
import {
  encodeValues,
  fillBits,
  fillToJson,
  parseValue,
  valuesToJson,
  valuesToJsonText,
  valuesToJsonTexts,
} from '../../src/state/value.js'
import { DTYPE_INFO, DTYPES, type Dtype, type TypedArray } from '../../src/wire/dtype.js'
import { refusal } from '../lib/refusal.js'

const decode = (dtype: Dtype, bytes: Uint8Array): TypedArray =>
  DTYPE_INFO[dtype].view(bytes.buffer, bytes.byteOffset, bytes.length / DTYPE_INFO[dtype].sizeBytes)

t.test('values at the ends of each range are accepted, values past them are not', async (t) => {
  for (const dtype of DTYPES) {
    const { min, max, sizeBytes } = DTYPE_INFO[dtype]
    if (min === undefined || max === undefined) continue
    const json = sizeBytes === 8 ? [String(min), String(max)] : [Number(min), Number(max)]
    t.same([...decode(dtype, encodeValues(dtype, json))].map(BigInt), [min, max], dtype)
    t.same([...decode(dtype, encodeValues(dtype, [min, max]))].map(BigInt), [min, max], `${dtype} bigint`)
    for (const past of [min - 1n, max + 1n]) {
      t.match(
        refusal(() => encodeValues(dtype, [0, 1, past])),
        /^INVALID_DELTA values\[2\]: /,
      )
      const asJson = sizeBytes === 8 ? String(past) : Number(past)
      t.match(
        refusal(() => encodeValues(dtype, [0, asJson])),
        /^INVALID_DELTA values\[1\]: /,
      )
    }
  }
})

t.test('anything but a value of the dtype is refused, with its position', async (t) => {
  const cases: [Dtype, unknown[], RegExp][] = [
    ['u8', [1, 300], /^INVALID_DELTA values\[1\]: 300 is out of range 0 to 255 \(dtype u8\)/],
    ['i32', [1.5], /^INVALID_DELTA values\[0\]: 1.5 must be an integer \(dtype i32\)/],
    ['i32', [Number.NaN], /^INVALID_DELTA values\[0\]: NaN must be an integer/],
    ['i32', ['5'], /^INVALID_DELTA values\[0\]: "5" must be an integer/],
    ['i32', [true], /^INVALID_DELTA values\[0\]: true must be an integer/],
    ['u32', [Number.POSITIVE_INFINITY], /^INVALID_DELTA values\[0\]/],
    ['u64', [2 ** 53], /is not exact as a number/],
    ['u64', ['-1'], /is out of range/],
    ['u64', ['1e3'], /must be an integer or a decimal string/],
    ['i64', ['99999999999999999999999999'], /must be an integer or a decimal string/],
    ['i64', [null], /null must be an integer/],
    ['f32', [1, 1e39], /^INVALID_DELTA values\[1\]: 1e\+39 is out of range \(dtype f32\)/],
    ['f32', ['1.5'], /"1.5" must be a number, "NaN"/],
    ['f64', [1n], /must be a number/],
    ['f64', [undefined], /undefined must be a number/],
    ['f64', [{}], /an object must be a number/],
    ['f64', [[1]], /an array must be a number/],
    ['bool', [2], /^INVALID_DELTA values\[0\]: 2 must be true, false, 0 or 1/],
    ['bool', ['true'], /"true" must be true/],
  ]
  for (const [dtype, values, message] of cases) {
    t.match(
      refusal(() => encodeValues(dtype, values as number[])),
      message,
    )
  }
  t.match(
    refusal(() => parseValue('u8', 300)),
    /^INVALID_DELTA value: 300/,
  )
  const holes = new Array<number>(2)
  for (const dtype of DTYPES)
    t.match(
      refusal(() => encodeValues(dtype, holes)),
      /values\[0\]: undefined/,
    )
})

t.test('an f32 takes numbers that round to a finite f32 and no others', async (t) => {
  const max = 3.4028234663852886e38
  const belowHalf = 3.4028235677973362e38
  t.equal(decode('f32', encodeValues('f32', [belowHalf]))[0], max)
  t.match(
    refusal(() => encodeValues('f32', [3.4028235677973366e38])),
    /out of range/,
  )
  t.match(
    refusal(() => encodeValues('f32', [-3.4028235677973366e38])),
    /out of range/,
  )
  t.equal(decode('f32', encodeValues('f32', [Number.NEGATIVE_INFINITY]))[0], Number.NEGATIVE_INFINITY)
  t.equal(parseValue('f32', 0.1), Math.fround(0.1))
})

t.test("a typed array must be the dtype's own", async (t) => {
  t.match(
    refusal(() => encodeValues('f32', new Float64Array(2))),
    /^INVALID_DELTA values are a Float64Array; a page of f32 takes a Float32Array/,
  )
  t.match(
    refusal(() => encodeValues('i8', new Uint8Array(2))),
    /INVALID_DELTA/,
  )
  t.match(
    refusal(() => encodeValues('u8', new DataView(new ArrayBuffer(2)) as never)),
    /DataView/,
  )
  t.match(
    refusal(() => encodeValues('bool', Uint8Array.of(1, 0, 2))),
    /values\[2\]: 2 must be 0 or 1/,
  )
  t.same([...encodeValues('u8', Buffer.from([1, 2, 3]).subarray(1))], [2, 3])
  const odd = new Float32Array(Float32Array.of(0, 1.5, -2).buffer, 4)
  t.same([...decode('f32', encodeValues('f32', odd))], [1.5, -2])
})

/** Any elements of a dtype, by their bits. */
const anyElements = fc
  .tuple(fc.constantFrom(...DTYPES), fc.uint8Array({ maxLength: 64 }))
  .map(([dtype, bytes]) => {
    const size = DTYPE_INFO[dtype].sizeBytes
    const whole = new Uint8Array(bytes.length - (bytes.length % size))
    whole.set(bytes.subarray(0, whole.length))
    if (dtype === 'bool') for (let i = 0; i < whole.length; i++) whole[i]! &= 1
    return { dtype, values: decode(dtype, whole) }
  })

t.test('values written as JSON are read with the same bits', async (t) => {
  const sameBits = (dtype: Dtype, json: DeltaValues, values: TypedArray): void => {
    // NaN has many bit patterns but one name.
    const isFloat = DTYPE_INFO[dtype].kind === 'float'
    const named = isFloat
      ? Array.from(values as Float64Array, (v) => (Number.isNaN(v) ? Number.NaN : v))
      : values
    const wanted = encodeValues(dtype, named)
    t.same(encodeValues(dtype, json), wanted)
  }
  fc.assert(
    fc.property(anyElements, ({ dtype, values }) => {
      const text = valuesToJsonText(dtype, values)
      sameBits(dtype, JSON.parse(text), values)
      if (!values.some((v) => Object.is(v, -0))) {
        t.equal(text, JSON.stringify(valuesToJson(dtype, values)))
        sameBits(dtype, valuesToJson(dtype, values), values)
      }
    }),
    { numRuns: 1500 },
  )
})

t.test('the rules of JSON output', async (t) => {
  t.same(valuesToJson('bool', Uint8Array.of(1, 0)), [true, false])
  t.same(valuesToJson('i64', BigInt64Array.of(-(2n ** 63n))), ['-9223372036854775808'])
  t.same(valuesToJson('f32', Float32Array.of(1.5, Number.NaN, -Number.POSITIVE_INFINITY)), [
    1.5,
    'NaN',
    '-Infinity',
  ])
  t.equal(valuesToJsonText('f64', Float64Array.of(-0, 1e21, Number.NaN)), '[-0.0,1e+21,"NaN"]')
  t.equal(valuesToJsonText('f64', Float64Array.of(1, 0.1)), '[1,0.1]')
  t.equal(valuesToJsonText('u64', BigUint64Array.of(2n ** 64n - 1n, 0n)), '["18446744073709551615","0"]')
  t.equal(valuesToJsonText('bool', Uint8Array.of(0, 1, 1)), '[false,true,true]')
  for (const dtype of DTYPES) t.equal(valuesToJsonText(dtype, decode(dtype, new Uint8Array(0))), '[]')
})

t.test('-0 keeps its sign wherever it lies, and so do the names of what is not finite', async (t) => {
  for (const odd of [-0, Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
    const text = Object.is(odd, -0) ? '-0.0' : `"${odd}"`
    for (const [dtype, values] of [
      ['f32', new Float32Array(5).fill(1.5)],
      ['f64', new Float64Array(5).fill(1.5)],
    ] as const)
      for (let at = 0; at < values.length; at++) {
        const wanted = new Array<string>(values.length).fill('1.5')
        wanted[at] = text
        t.equal(valuesToJsonText(dtype, values.slice().fill(odd, at, at + 1)), `[${wanted}]`)
      }
  }
})

t.test('in parts it is the same text: at the end of a part, before it and behind it', async (t) => {
  const most = JSON_PIECE_ELEMENTS
  for (const length of [0, 1, most - 1, most, most + 1])
    for (const parts of [1, 2]) {
      const values = Float64Array.from({ length: length * parts }, (_, i) => i)
      const texts = [...valuesToJsonTexts('f64', values)]
      t.equal(texts.join(''), `[${values.join(',')}]`, `${values.length} elements`)
      t.equal(texts.length, 2 + Math.ceil(values.length / most))
    }
})

t.test('fill bits are those of one element, zero-extended', async (t) => {
  t.equal(fillBits('f32', 1), 0x3f80_0000n)
  t.equal(fillBits('i8', -1), 0xffn)
  t.equal(fillBits('i64', '-1'), 2n ** 64n - 1n)
  t.equal(fillBits('bool', true), 1n)
  t.equal(fillBits('f64', 'Infinity'), 0x7ff0_0000_0000_0000n)
  t.match(
    refusal(() => fillBits('u8', 256)),
    /^INVALID_DELTA value: 256/,
  )
  for (const [dtype, value] of [
    ['f32', 'NaN'],
    ['u64', '18446744073709551615'],
    ['i16', -3],
    ['bool', true],
  ] as const) {
    t.equal(fillToJson(dtype, fillBits(dtype, value)), value)
  }
})

t.test('a NaN of a list is always the same one, a NaN of an array keeps its bits', async (t) => {
  const odd = new Float64Array(BigUint64Array.of(0xfff8_0000_0001_2345n).buffer)
  const bits = (bytes: Uint8Array): bigint => new DataView(bytes.buffer).getBigUint64(0, true)
  t.equal(bits(encodeValues('f64', [odd[0]!])), 0x7ff8_0000_0000_0000n)
  t.equal(bits(encodeValues('f64', odd)), 0xfff8_0000_0001_2345n)
  t.equal(bits(encodeValues('f64', [1])), 0x3ff0_0000_0000_0000n)
})
