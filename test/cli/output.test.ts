/** What commands print cannot steer a terminal. */
import t from 'tap'
import { escaped, sizeText } from '../../src/cli/output.js'

t.test('control characters are escaped, other text is not', async (t) => {
  t.equal(escaped('a\u001b[2J\nb\r\u0007\u009b\u202ec\u007f'), 'a\\x1b[2J\\x0ab\\x0d\\x07\\x9b\\u202ec\\x7f')
  t.equal(escaped('prices.µ 日本 "x"'), 'prices.µ 日本 "x"')
})

t.test('sizes are shown in the largest unit that fits', async (t) => {
  t.same([0, 1023, 1536, 5 * 1024 ** 3].map(sizeText), ['0 bytes', '1023 bytes', '1.5 KiB', '5.0 GiB'])
})
