/** Elements as text, both ways, and places in a page. */
import t from 'tap'
import { offsetOf, rowsText, valuesOf, valuesText } from '../../../../src/cli/commands/remote/values.js'
import { encodeValues } from '../../../../src/state/value.js'
import { DTYPE_INFO, DTYPES } from '../../../../src/wire/dtype.js'
import { bytesOf } from '../../../lib/bytes.js'
import { Draw } from '../../../lib/draw.js'

t.test('text to elements', async (t) => {
  t.same([...valuesOf('1, 2;3\t4\n5', 'u8')], [1, 2, 3, 4, 5])
  t.same([...valuesOf('[[1,-2],["3", 4e0]]', 'i16')], [1, -2, 3, 4])
  t.same([...valuesOf('9223372036854775807 -9223372036854775808', 'i64')], [2n ** 63n - 1n, -(2n ** 63n)])
  t.same(
    [...valuesOf('NaN inf -Infinity +inf -0 1e400', 'f64')],
    [NaN, Infinity, -Infinity, Infinity, -0, Infinity],
  )
  t.same([...valuesOf('true,0,1,false', 'bool')], [1, 0, 1, 0])
  t.equal(valuesOf('0.1', 'f32')[0], Math.fround(0.1))
  for (const [text, dtype, message] of [
    ['', 'f64', /there are no values/],
    [' ,[]', 'f64', /there are no values/],
    ['1 x', 'f64', /values\[1\]: "x" is not a value of f64/],
    ['true', 'f64', /values\[0\]: "true" is not a value of f64/],
    ['256', 'u8', /values\[0\]: 256 is out of range 0 to 255/],
    ['1.5', 'i64', /values\[0\]: 1.5 must be an integer/],
    ['nan', 'i32', /must be an integer/],
    ['18446744073709551616', 'u64', /out of range/],
    ['2', 'bool', /must be true, false, 0 or 1/],
    ['1e39', 'f32', /out of range/],
  ] as const)
    t.throws(() => valuesOf(text, dtype), message, text)
})

t.test('elements to text and back: the same bits, for every dtype', async (t) => {
  const draw = new Draw(3)
  for (const dtype of DTYPES) {
    const bytes = encodeValues(dtype, draw.values(dtype, 50))
    const values = DTYPE_INFO[dtype].view(bytes.buffer, bytes.byteOffset, 50)
    t.same(bytesOf(valuesOf(valuesText(dtype, values), dtype)), Buffer.from(bytes), dtype)
  }
})

t.test('rows, and tables with an empty line between them, in one piece or in many', async (t) => {
  const values = Float64Array.from({ length: 12 }, (_, i) => i)
  const whole = rowsText('f64', [2, 3, 2], 0, values, true)
  t.equal(whole, '0 1\n2 3\n4 5\n\n6 7\n8 9\n10 11\n')
  for (const size of [1, 2, 3, 5, 7, 12]) {
    let text = ''
    for (let at = 0; at < 12; at += size)
      text += rowsText('f64', [2, 3, 2], at, values.subarray(at, at + size), at === 0)
    t.equal(text, whole, `pieces of ${size}`)
  }
  t.equal(rowsText('f64', [], 0, values.subarray(0, 1), true), '0\n')
  t.equal(rowsText('f64', [4], 2, values.subarray(2, 4), true), '2 3\n')
  t.equal(rowsText('f64', [3, 4], 2, values.subarray(2, 7), true), '2 3\n4 5 6')
  t.equal(rowsText('f64', [2, 3, 2], 6, values.subarray(6, 8), true), '6 7\n')
})

t.test('an offset, or an index for each axis', async (t) => {
  const at = (text: string, shape: readonly number[]): number => offsetOf({ text, from: '--at' }, shape)
  t.same(
    [at('0', [2, 3]), at('6', [2, 3]), at('1,2', [2, 3]), at('1, 0', [2, 3]), at('2', [5])],
    [0, 6, 5, 3, 2],
  )
  t.equal(offsetOf(undefined, [4]), 0)
  for (const [text, message] of [
    ['7', /--at: the page has 6 elements, so 7 is past its end/],
    ['1,3', /axis 1 has 3 elements, so 3 is past its end/],
    ['2,0', /axis 0 has 2 elements/],
    ['1,1,1', /an index of this page has 2 numbers/],
    ['x', /"x" is not a whole number/],
    ['1,', /"" is not a whole number/],
  ] as const)
    t.throws(() => at(text, [2, 3]), message, text)
})
