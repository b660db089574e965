/**
 * Limits as operators write them: in the token file, as defaults, and for one principal on the command line.
 */
import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { TokenAuthenticator } from '../../../src/auth/authenticator.js'
import { readDefaultLimits } from '../../../src/auth/limits/default-limits.js'
import { LimitBook } from '../../../src/auth/limits/limit-book.js'
import { limitsFault, PRINCIPAL_LIMIT_NAMES } from '../../../src/auth/limits/principal-limits.js'
import { addToken, readEntries } from '../../../src/auth/token-file.js'

t.test('each limit takes whole numbers, and no other name is taken', async (t) => {
  for (const name of PRINCIPAL_LIMIT_NAMES) {
    t.equal(limitsFault({ [name]: 1 }), undefined, name)
    for (const bad of [-1, 1.5, '1', 2 ** 53, Number.NaN, undefined])
      t.match(
        limitsFault({ [name]: bad }),
        new RegExp(`limits\\.${name} is not a whole number`),
        `${name} ${bad}`,
      )
  }
  t.equal(limitsFault({ pages: 0, pageBytes: 0, functions: 0, connections: 0, subscriptions: 0 }), undefined)
  t.match(limitsFault({ writeBytesPerSecond: 0 }), /at least 1/, 'a rate of nothing never lets anything in')
  t.match(limitsFault({ page: 1 }), /no "page"; there are pages, pageBytes/)
  t.match(limitsFault({ toString: 1 }), /no "toString"/)
  for (const bad of [[], 1, 'x', undefined]) t.match(limitsFault(bad), /not an object/)
})

t.test('defaults are JSON or a file of it', async (t) => {
  const file = path.join(t.testdir({ 'limits.json': '{"pages": 3}' }), 'limits.json')
  t.same(readDefaultLimits(file), { pages: 3 })
  t.same(readDefaultLimits(' {"pages": 4}'), { pages: 4 })
  for (const [given, why] of [
    ['{"pages":', /limits of principals: is not JSON/],
    ['{"page": 1}', /no "page"/],
    [`${file}.none`, /cannot be read: ENOENT/],
  ] as const)
    t.throws(() => readDefaultLimits(given), { code: 'INVALID_REQUEST', message: why })
})

t.test('limits of the token file come before the defaults, one by one', async (t) => {
  const file = path.join(t.testdir(), 'tokens.json')
  addToken(file, { id: 'desk', scopes: ['read:*'], limits: { pages: 5 } })
  addToken(file, { id: 'desk', scopes: [] })
  t.same(readEntries(file)[0]?.limits, { pages: 5 }, 'a second token keeps them')
  addToken(file, { id: 'other', scopes: ['read:*'] })
  const authenticator = new TokenAuthenticator(file)
  const book = new LimitBook({ defaults: { pages: 1, functions: 2 }, own: authenticator.limits })
  t.same(book.limitsOf('desk'), { pages: 5, functions: 2 })
  t.same(book.limitsOf('other'), { pages: 1, functions: 2 })
  t.same(book.limitsOf('a subject of an issuer'), { pages: 1, functions: 2 })
  const entries = readEntries(file).map((entry) => ({ ...entry, limits: { pages: 'many' } }))
  fs.writeFileSync(file, JSON.stringify({ principals: entries }))
  t.throws(() => authenticator.reload(), { code: 'INVALID_REQUEST', message: /limits\.pages is not a whole/ })
  t.same(authenticator.limits.get('desk'), { pages: 5 }, 'the old ones go on to count')
})
