/** The codes of dtypes are part of every format and never change. */
import t from 'tap'
import { DTYPE_INFO, DTYPES, dtypeOfCode, F32_OVERFLOW, isDtype } from '../../src/wire/dtype.js'

t.test('codes are the positions in DTYPES and never move', async (t) => {
  t.same(DTYPES, ['bool', 'u8', 'i8', 'u16', 'i16', 'u32', 'i32', 'u64', 'i64', 'f32', 'f64'])
  for (const [code, name] of DTYPES.entries()) {
    t.equal(DTYPE_INFO[name].code, code)
    t.equal(dtypeOfCode(code), name)
    t.equal(DTYPE_INFO[name].view(new ArrayBuffer(64), 8, 2).BYTES_PER_ELEMENT, DTYPE_INFO[name].sizeBytes)
  }
  t.equal(dtypeOfCode(11), undefined)
  t.notOk(isDtype('toString'))
})

t.test('each dtype has its kind, its range and its array', async (t) => {
  const table = Object.values(DTYPE_INFO).map(({ name, kind, min, max, arrayName, view }) => {
    const array = view(new ArrayBuffer(64), 16, 3)
    t.equal(array.constructor.name, arrayName, name)
    t.match(array, { byteOffset: 16, length: 3 }, name)
    return [name, kind, min, max, arrayName]
  })
  t.same(table, [
    ['bool', 'bool', 0n, 1n, 'Uint8Array'],
    ['u8', 'unsigned', 0n, 255n, 'Uint8Array'],
    ['i8', 'signed', -128n, 127n, 'Int8Array'],
    ['u16', 'unsigned', 0n, 65_535n, 'Uint16Array'],
    ['i16', 'signed', -32_768n, 32_767n, 'Int16Array'],
    ['u32', 'unsigned', 0n, 4_294_967_295n, 'Uint32Array'],
    ['i32', 'signed', -2_147_483_648n, 2_147_483_647n, 'Int32Array'],
    ['u64', 'unsigned', 0n, 18_446_744_073_709_551_615n, 'BigUint64Array'],
    ['i64', 'signed', -9_223_372_036_854_775_808n, 9_223_372_036_854_775_807n, 'BigInt64Array'],
    ['f32', 'float', undefined, undefined, 'Float32Array'],
    ['f64', 'float', undefined, undefined, 'Float64Array'],
  ])
  const below = 3.402823567797336e38
  t.equal(Math.fround(F32_OVERFLOW), Infinity)
  t.ok(below < F32_OVERFLOW && Number.isFinite(Math.fround(below)), 'and it is the smallest')
  t.ok(isDtype('bool') && !isDtype(0))
})
