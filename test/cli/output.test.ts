/** What commands print cannot steer a terminal. */
import t from 'tap'
import { escaped } from '../../src/cli/output.js'

t.test('control characters are escaped, other text is not', async (t) => {
  t.equal(escaped('a\u001b[2J\nb\r\u0007\u009b\u202ec\u007f'), 'a\\x1b[2J\\x0ab\\x0d\\x07\\x9b\\u202ec\\x7f')
  t.equal(escaped('prices.µ 日本 "x"'), 'prices.µ 日本 "x"')
})
