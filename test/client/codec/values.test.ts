/** Elements between JavaScript, JSON and bytes: what each dtype takes, at both ends of its range. */
import { runInNewContext } from 'node:vm'
import t from 'tap'
import {
  base64,
  elementsOf,
  emptyArray,
  fromBase64,
  fromJson,
  octetsOf,
  sizeOf,
  valuesText,
  valueText,
  viewOf,
  writeValues,
} from '../../../src/client/codec/values.js'
import { DTYPE_INFO, DTYPES, type Dtype, F32_OVERFLOW } from '../../../src/wire/dtype.js'

type Refusal = { readonly code: string; readonly detail: string }

/** The elements that a page gets; or the refusal. */
function written(dtype: Dtype, values: unknown, byteOffset = 0): unknown[] | Refusal {
  const length = (values as ArrayLike<unknown>).length
  const buffer = new ArrayBuffer(byteOffset + length * sizeOf(dtype))
  try {
    writeValues(dtype, values as [], buffer, byteOffset)
  } catch (error) {
    const { code, detail } = error as Refusal
    return { code, detail }
  }
  return [...viewOf(dtype, buffer, byteOffset, length)]
}

const refusal = (index: number, shown: string, dtype: Dtype): Refusal => ({
  code: 'INVALID_DELTA',
  detail: `values[${index}]: ${shown} is not a value of dtype ${dtype}`,
})

const NARROW = ['u8', 'i8', 'u16', 'i16', 'u32', 'i32'] as const
const WIDE = ['u64', 'i64'] as const

t.test('bool takes true and false, 0 and 1', (t) => {
  t.same(written('bool', [true, 1, 1n, false, 0, 0n, -0]), [1, 1, 1, 0, 0, 0, 0])
  const wrong: [unknown, string][] = [
    [2, '2'],
    [-1, '-1'],
    [2n, '2'],
    ['1', '"1"'],
    ['true', '"true"'],
    [null, 'null'],
    [undefined, 'undefined'],
    [Number.NaN, 'NaN'],
  ]
  for (const [value, shown] of wrong) t.same(written('bool', [true, value]), refusal(1, shown, 'bool'))
  t.same(written('bool', Uint8Array.of(1, 0)), [1, 0])
  t.same(written('bool', Uint8Array.of(0, 1, 2)), refusal(2, '2', 'bool'), 'so does an array')
  t.same(written('u8', Uint8Array.of(0, 1, 2)), [0, 1, 2])
  t.end()
})

t.test('narrow integers take what is integral and in range', (t) => {
  for (const dtype of NARROW) {
    const { min, max } = DTYPE_INFO[dtype] as { min: bigint; max: bigint }
    const ends = [Number(min), Number(max)]
    t.same(written(dtype, ends), ends, dtype)
    t.same(written(dtype, [min, max, -0]), [...ends, 0], dtype)
    for (const value of [min - 1n, max + 1n, Number(min) - 1, Number(max) + 1, 1.5, Number.NaN])
      t.same(written(dtype, [0, value]), refusal(1, String(value), dtype))
    t.same(written(dtype, ['1']), refusal(0, '"1"', dtype), 'numbers as text are for wide ones')
    t.same(written(dtype, [true]), refusal(0, 'true', dtype))
    t.same(written(dtype, [Infinity]), refusal(0, 'Infinity', dtype))
    t.same(written(dtype, [2 ** 60]), refusal(0, String(2 ** 60), dtype))
  }
  t.end()
})

t.test('wide integers take bigints, decimal text, and numbers that are exact', (t) => {
  for (const dtype of WIDE) {
    const { min, max } = DTYPE_INFO[dtype] as { min: bigint; max: bigint }
    t.same(written(dtype, [min, max, String(min), String(max)]), [min, max, min, max], dtype)
    t.same(written(dtype, [7, Number.MAX_SAFE_INTEGER]), [7n, BigInt(Number.MAX_SAFE_INTEGER)])
    for (const value of [min - 1n, max + 1n, 2 ** 53, 0.5, Number.NaN, true])
      t.same(written(dtype, [value]), refusal(0, String(value), dtype))
    for (const text of [
      String(min - 1n),
      String(max + 1n),
      '',
      '-',
      '0x1',
      ' 1',
      '1 ',
      '1.0',
      '1e3',
      '1'.repeat(21),
    ])
      t.same(written(dtype, [text]), refusal(0, JSON.stringify(text), dtype))
  }
  t.same(written('i64', [-1, -1n, '-1']), [-1n, -1n, -1n])
  t.same(written('u64', ['18446744073709551615', '00000000000000000007']), [2n ** 64n - 1n, 7n])
  const long = `${'9'.repeat(39)}ab`
  t.same(written('u64', [long]), refusal(0, `"${'9'.repeat(39)}a"`, 'u64'), 'long text is cut')
  t.end()
})

t.test('floats take numbers, and three values by their names', (t) => {
  for (const dtype of ['f32', 'f64'] as const) {
    const odd = ['NaN', 'Infinity', '-Infinity', Number.NaN, Infinity, -Infinity, -0, 0.5]
    t.same(written(dtype, odd), odd.map(Number), dtype)
    for (const value of ['1', 'nan', '+Infinity', '']) {
      t.same(written(dtype, [0, value]), refusal(1, JSON.stringify(value), dtype))
    }
    for (const value of [1n, true, null, undefined])
      t.same(written(dtype, [value]), refusal(0, String(value), dtype))
  }
  const below = F32_OVERFLOW - 2 ** 75
  t.same(written('f32', [below, -below]), [Math.fround(below), -Math.fround(below)])
  t.same(written('f64', [F32_OVERFLOW, -F32_OVERFLOW]), [F32_OVERFLOW, -F32_OVERFLOW])
  for (const value of [F32_OVERFLOW, -F32_OVERFLOW, Number.MAX_VALUE])
    t.same(written('f32', [value]), refusal(0, String(value), 'f32'), 'it would become infinite')
  t.end()
})

t.test('a NaN from an array leaves without the bits that it had there', (t) => {
  const bits = BigUint64Array.of(0xfff8_0000_0000_1234n)
  const [odd] = new Float64Array(bits.buffer)
  const buffer = new ArrayBuffer(16)
  // Beside text a list keeps its numbers as they are.
  writeValues('f64', ['NaN', odd!], buffer, 0)
  const [first, second] = new BigUint64Array(buffer)
  t.equal(second, first)
  t.end()
})

t.test('an array is taken by the dtypes that it holds, and copied where it belongs', (t) => {
  for (const dtype of DTYPES) {
    const values = emptyArray(dtype, 3)
    t.equal(values.length, 3)
    t.equal(values.byteLength, 3 * sizeOf(dtype))
    const isWide = dtype === 'u64' || dtype === 'i64'
    const one = isWide ? 1n : 1
    ;(values as { [i: number]: unknown })[1] = one
    t.same(written(dtype, values, 8), [...values], dtype)
    t.same(written(dtype, values.subarray(1, 2), 16), [one], dtype)
  }
  t.match(written('f32', Float64Array.of(1)), {
    code: 'INVALID_DELTA',
    detail: 'values are a Float64Array; a page of f32 takes a Float32Array or a plain array',
  })
  t.match(written('u8', new DataView(new ArrayBuffer(1))), { detail: /are a DataView; .* a Uint8Array/ })
  const buffer = new ArrayBuffer(8)
  new Uint8Array(buffer).fill(9)
  writeValues('u16', Uint16Array.of(0x0201), buffer, 2)
  writeValues('u8', [5], buffer, 6)
  t.same([...new Uint8Array(buffer)], [9, 9, 1, 2, 9, 9, 5, 9], 'and nothing beside it')
  t.end()
})

t.test('sizes', (t) => {
  t.equal(elementsOf([]), 1)
  t.equal(elementsOf([2, 3, 4]), 24)
  t.equal(elementsOf([2, 0]), 0)
  const { buffer } = Uint16Array.of(1, 2, 3)
  t.same(viewOf('u16', buffer, 2, 1), Uint16Array.of(2))
  t.end()
})

t.test('elements as JSON text', (t) => {
  const texts: [unknown, string | undefined][] = [
    [0, '0'],
    [-0, '-0.0'],
    [1, '1'],
    [-1.5, '-1.5'],
    [1e300, '1e+300'],
    [Number.NaN, '"NaN"'],
    [Infinity, '"Infinity"'],
    [-Infinity, '"-Infinity"'],
    [5n, '5'],
    [-5n, '-5'],
    [2n ** 53n - 1n, '9007199254740991'],
    [2n ** 53n, '"9007199254740992"'],
    [-(2n ** 63n), '"-9223372036854775808"'],
    ['NaN', '"NaN"'],
    ['a"b', '"a\\"b"'],
    [true, 'true'],
    [false, 'false'],
    [null, undefined],
    [undefined, undefined],
    [{}, undefined],
  ]
  for (const [value, text] of texts) t.equal(valueText(value), text, String(value))
  t.equal(valuesText([]), '[]')
  t.equal(valuesText([1, -0, 2n ** 53n, true] as never), '[1,-0.0,"9007199254740992",true]')
  t.equal(valuesText(Float32Array.of(0.5, Number.NaN)), '[0.5,"NaN"]')
  t.throws(() => valuesText([1, null] as never), {
    code: 'INVALID_DELTA',
    detail: 'values[1]: object is not a number, bigint, string or boolean',
  })
  t.end()
})

t.test('elements of JSON answers', (t) => {
  t.same(fromJson('u64', ['18446744073709551615', 3]), BigUint64Array.of(2n ** 64n - 1n, 3n))
  t.same(fromJson('i64', ['-9223372036854775808', -3]), BigInt64Array.of(-(2n ** 63n), -3n))
  t.same(fromJson('f64', ['NaN', '-Infinity', -0]), Float64Array.of(Number.NaN, -Infinity, -0))
  t.same(fromJson('f32', [0.1]), Float32Array.of(0.1))
  t.same(fromJson('i8', [-128, 127]), Int8Array.of(-128, 127))
  t.same(fromJson('bool', [true, false, 1]), Uint8Array.of(1, 0, 1))
  t.end()
})

t.test('raw bytes of a view or a buffer, of any realm', (t) => {
  const bytes = Uint8Array.of(1, 2, 3, 4)
  t.same(octetsOf(bytes.buffer), bytes)
  t.same(octetsOf(bytes.subarray(1, 3)), Uint8Array.of(2, 3))
  t.same(octetsOf(new DataView(bytes.buffer, 2)), Uint8Array.of(3, 4))
  t.same(octetsOf(Uint16Array.of(0x0201)), Uint8Array.of(1, 2))
  t.equal(octetsOf(bytes).buffer, bytes.buffer, 'not copied')
  t.same(octetsOf(runInNewContext('Uint8Array.of(5, 6).buffer')), Uint8Array.of(5, 6))
  const shared = new SharedArrayBuffer(4)
  new Uint8Array(shared).set(bytes)
  for (const octets of [shared, new Uint8Array(shared), new DataView(shared)]) {
    const copy = octetsOf(octets)
    t.same(copy, bytes)
    t.ok(copy.buffer instanceof ArrayBuffer, 'fetch does not take shared memory')
  }
  const code = 'INVALID_DELTA'
  t.throws(() => octetsOf(undefined), { code, detail: /^octets: is missing; / } as never)
  for (const wrong of [null, 5, 'text', [1], {}])
    t.throws(() => octetsOf(wrong), { code, detail: /^octets: has another type; / } as never)
  const gone = new Uint8Array(4)
  structuredClone(gone.buffer, { transfer: [gone.buffer] })
  for (const octets of [gone, gone.buffer])
    t.throws(() => octetsOf(octets), { code, detail: /detached/ } as never)
  t.same(octetsOf(new ArrayBuffer(0)), new Uint8Array(0))
  t.end()
})

t.test('base64 there and back', (t) => {
  for (const length of [0, 1, 2, 3, 0x7fff, 0x8000, 0x8001, 0x10000 + 1]) {
    const bytes = Uint8Array.from({ length }, (_, i) => (i * 7 + (i >> 8)) & 0xff)
    const text = base64(bytes)
    t.equal(text, Buffer.from(bytes).toString('base64'), `${length} bytes`)
    t.ok(Buffer.from(fromBase64(text)).equals(bytes))
  }
  for (const wrong of ['?', 'A', 'AA', 'AAA', 'AB==', 'AA==\n', ' AAAA', 'AA-_'])
    t.throws(() => fromBase64(wrong), { code: 'INVALID_DELTA', detail: 'mask is not base64' })
  t.end()
})
