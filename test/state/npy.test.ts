/** .npy files: the header that NumPy writes, every dtype and rank, and the files that are refused. */
import t from 'tap'
import { decodeNpyHeader, encodeNpyHeader } from '../../src/state/npy.js'
import { DTYPES } from '../../src/wire/dtype.js'

t.test('the header is the one that NumPy writes', async (t) => {
  const bytes = Buffer.from(encodeNpyHeader('f32', [2, 3]))
  t.equal(bytes.length, 128)
  t.equal(
    bytes.toString('latin1'),
    `\x93NUMPY\x01\x00\x76\x00${"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }".padEnd(117)}\n`,
  )
  t.match(Buffer.from(encodeNpyHeader('u8', [7])).toString('latin1'), "'descr': '|u1'")
  t.match(Buffer.from(encodeNpyHeader('u8', [7])).toString('latin1'), "'shape': (7,)")
  t.match(Buffer.from(encodeNpyHeader('bool', [])).toString('latin1'), "'shape': ()")
})

t.test('every dtype and rank is read as written', async (t) => {
  for (const dtype of DTYPES) {
    for (const shape of [[], [0], [5], [2, 3], [1, 2, 3, 4, 5, 6, 7, 8]]) {
      const header = encodeNpyHeader(dtype, shape)
      t.equal(header.length % 64, 0)
      t.same(decodeNpyHeader(header), {
        dtype,
        shape,
        dataOffset: header.length,
        isBigEndian: false,
        isFortran: false,
      })
    }
  }
})

t.test('other files, and arrays that no page can hold, are refused', async (t) => {
  const text = (dict: string, version = 1): Uint8Array => {
    const length = Buffer.alloc(version === 1 ? 2 : 4)
    length.writeUIntLE(dict.length, 0, length.length)
    return Buffer.concat([
      Buffer.from(`\x93NUMPY${String.fromCharCode(version)}\x00`, 'latin1'),
      length,
      Buffer.from(dict),
    ])
  }
  const good = "{'descr': '<i2', 'fortran_order': False, 'shape': (3,), }"
  for (const version of [1, 2, 3])
    t.match(decodeNpyHeader(text(good, version)), { dtype: 'i16', shape: [3] }, `version ${version}`)
  for (const version of [0, 4])
    t.throws(() => decodeNpyHeader(text(good, version)), { message: /version \d is not known/ })
  t.match(
    decodeNpyHeader(text(good.replace('False', 'True'))),
    { shape: [3], isFortran: false },
    'in one dimension order means nothing',
  )
  t.match(decodeNpyHeader(text(good.replace('<i2', '>i2'))), { dtype: 'i16', isBigEndian: true })
  t.match(decodeNpyHeader(text(good.replace('False', 'True').replace('(3,)', '(3, 3)'))), {
    shape: [3, 3],
    isFortran: true,
  })
  for (const [descr, why] of [
    ["'<c8'", /complex numbers/],
    ["'<f2'", /floating point of this size/],
    ["'|O'", /Python objects/],
    ["'<U5'", /text/],
    ["'<M8[ns]'", /dates/],
    ["[('a', '<i2')]", /records/],
  ] as const) {
    t.throws(() => decodeNpyHeader(text(good.replace("'<i2'", descr))), why, descr)
  }
  const bad = [
    text(good.replace("'fortran_order': False, ", '')),
    text(good.replace("'shape': (3,), ", '')),
    text(good.replace("'descr': '<i2', ", '')),
    new Uint8Array(0),
    Buffer.from('PK\x03\x04 and so on'),
    text(good).subarray(0, 40),
    text(good, 9),
    text(good.replace('<i2', '<f2')),
    text(good.replace('<i2', '<c8')),
    text("{'descr': [('a', '<i2')], 'fortran_order': False, 'shape': (3,), }"),
    text('{}'),
  ]
  for (const bytes of bad) t.throws(() => decodeNpyHeader(bytes), { code: 'INVALID_REQUEST' })
})
