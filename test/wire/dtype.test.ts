/** The codes of dtypes are part of every format and never change. */
import t from 'tap'
import { DTYPE_INFO, DTYPES, dtypeOfCode, isDtype } from '../../src/wire/dtype.js'

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
