/** Tokens, the file that holds their hashes, and the logins that it makes. */
import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { TokenAuthenticator } from '../../src/auth/authenticator.js'
import { isPrivate } from '../../src/auth/private-file.js'
import { addToken, readAuthFile, readEntries, revokeToken } from '../../src/auth/token-file.js'
import { hashOf, isToken, newToken } from '../../src/auth/tokens.js'

const fileIn = (dir: string): string => path.join(dir, 'tokens.json')
const principal = { id: 'desk', scopes: ['read:risk.*'] }

t.test('a token has a form, and a checksum that finds a mistyped one', async (t) => {
  const token = newToken('desk_1.a:b-c')
  t.match(token, /^mmsb_desk_1\.a:b-c_[A-Za-z0-9_-]{43}[0-9a-f]{8}$/)
  t.ok(isToken(token))
  for (let i = 0; i < token.length; i++) {
    const other = token[i] === 'x' ? 'y' : 'x'
    t.notOk(isToken(token.slice(0, i) + other + token.slice(i + 1)), `character ${i}`)
  }
  for (const text of ['', 'mmsb_', token.slice(0, -1), `${token}0`, ` ${token}`, token.toUpperCase()])
    t.notOk(isToken(text), text)
  t.not(newToken('a'), newToken('a'))
})

t.test('the file holds hashes, and only its owner can read it', async (t) => {
  const file = fileIn(t.testdir())
  const { token, scopes } = addToken(file, principal)
  t.same(scopes, principal.scopes)
  t.equal(fs.statSync(file).mode & 0o777, 0o600)
  const text = fs.readFileSync(file, 'utf8')
  t.notOk(text.includes(token))
  t.notOk(text.includes(token.split('_').at(-1) as string))
  t.same(readEntries(file), [{ ...principal, sha256: [hashOf(token)] }])
  t.equal(readAuthFile(file).tokens.get(hashOf(token))?.id, 'desk')
  t.same(fs.readdirSync(path.dirname(file)), ['tokens.json'], 'no draft stays')
})

t.test('a new token works beside the old one, which can then be taken away', async (t) => {
  const file = fileIn(t.testdir())
  const first = addToken(file, principal).token
  addToken(file, { id: 'other', scopes: ['admin:*'] })
  const second = addToken(file, { id: 'desk', scopes: [] }).token
  t.same(readEntries(file).find(({ id }) => id === 'desk')?.scopes, principal.scopes, 'the scopes stay')
  t.same(
    [first, second].map((token) => readAuthFile(file).tokens.get(hashOf(token))?.id),
    ['desk', 'desk'],
  )
  t.throws(() => addToken(file, principal), { code: 'INVALID_REQUEST', message: /revoke the older one/ })
  revokeToken(file, 'desk', 'older')
  t.same(
    [first, second].map((token) => readAuthFile(file).tokens.get(hashOf(token))?.id),
    [undefined, 'desk'],
  )
  revokeToken(file, 'desk', 'all')
  t.same(
    readEntries(file).map(({ id }) => id),
    ['other'],
  )
  t.throws(() => revokeToken(file, 'desk', 'all'), { code: 'NOT_FOUND' })
})

t.test('a file that cannot be trusted is refused, and says why without quoting it', async (t) => {
  const file = fileIn(t.testdir())
  const entry = { id: 'a', sha256: ['0'.repeat(64)], scopes: ['read:*'] }
  const cases: [unknown, RegExp][] = [
    ['no json secret', /is not JSON/],
    ['[]', /has no list/],
    [null, /has no list/],
    [{ principals: [1] }, /principals\[0\]: is not an object/],
    [{ principals: [entry, { ...entry, sha256: ['1'.repeat(64)] }] }, /names a principal twice/],
    [{ principals: [entry, { ...entry, id: 'b' }] }, /has a hash twice/],
    [{ principals: [{ ...entry, id: 'a b' }] }, /id is not a name/],
    [{ principals: [{ ...entry, sha256: [] }] }, /sha256 is not a list of hashes/],
    [{ principals: [{ ...entry, sha256: ['F'.repeat(64)] }] }, /sha256 is not a list of hashes/],
    [{ principals: [{ ...entry, scopes: ['read'] }] }, /scope "read"/],
    [{ principals: [{ ...entry, scopes: 'read:*' }] }, /scopes is not a list/],
    [{ principals: [{ ...entry, expires: 'soon' }] }, /expires is not a time/],
    [{ principals: [{ ...entry, admin: true }] }, /unknown field "admin"/],
  ]
  for (const [content, message] of cases) {
    fs.writeFileSync(file, typeof content === 'string' ? content : JSON.stringify(content), { mode: 0o600 })
    t.throws(() => readAuthFile(file).tokens, { code: 'INVALID_REQUEST', message }, String(message))
  }
  fs.writeFileSync(file, JSON.stringify({ principals: [entry] }))
  for (const mode of [0o604, 0o640, 0o602]) {
    fs.chmodSync(file, mode)
    t.throws(() => readAuthFile(file).tokens, { message: /can be read by others/ })
  }
  t.throws(() => readAuthFile(`${file}.none`).tokens, { message: /cannot be read: ENOENT/ })
})

t.test('a reload counts whole or not at all, and ends what it takes away', async (t) => {
  const file = fileIn(t.testdir())
  const kept = addToken(file, { id: 'kept', scopes: ['read:a'] }).token
  const changed = addToken(file, { id: 'changed', scopes: ['read:a'] }).token
  const gone = addToken(file, { id: 'gone', scopes: ['read:a'] }).token
  const authenticator = new TokenAuthenticator(file)
  const logins = [kept, changed, gone].map((token) => authenticator.login(token))
  let changes = 0
  const stop = authenticator.onChange(() => changes++)
  fs.writeFileSync(file, '{')
  t.throws(() => authenticator.reload())
  t.same(
    logins.map((login) => login.isValid()),
    [true, true, true],
    'the old file goes on to count',
  )
  t.equal(changes, 0)
  fs.writeFileSync(
    file,
    JSON.stringify({
      principals: [
        { id: 'kept', sha256: [hashOf(kept)], scopes: ['read:a'] },
        { id: 'changed', sha256: [hashOf(changed)], scopes: ['read:b'] },
      ],
    }),
  )
  authenticator.reload()
  t.same(
    logins.map((login) => login.isValid()),
    [true, false, false],
  )
  t.equal(changes, 1)
  stop()
  authenticator.reload()
  t.equal(changes, 1)
  t.throws(() => authenticator.login(gone), { code: 'UNAUTHORIZED' })
})

t.test('an expired token is as one that never was', async (t) => {
  const file = fileIn(t.testdir())
  const soon = new Date(Date.now() + 60_000).toISOString()
  const past = new Date(Date.now() - 1).toISOString()
  const alive = addToken(file, { id: 'alive', scopes: ['read:a'], expires: soon }).token
  const dead = addToken(file, { id: 'dead', scopes: ['read:a'], expires: past }).token
  const authenticator = new TokenAuthenticator(file)
  t.ok(authenticator.login(alive).isValid())
  const messageOf = (token: string): string => {
    try {
      authenticator.login(token)
      return ''
    } catch (error) {
      return (error as Error).message
    }
  }
  t.equal(messageOf(dead), messageOf(newToken('nobody')))
  t.equal(messageOf('x'), messageOf(newToken('nobody')))
})

// ---- who may be able to read a file with secrets ----------------------------------------------------------

const ROOT_USER = 0
const SERVER = 7411

t.test('a file of the user is for the user alone', async (t) => {
  for (const user of [ROOT_USER, SERVER]) {
    for (const mode of [0o600, 0o400, 0o700]) t.ok(isPrivate({ mode, uid: user }, user), mode.toString(8))
    for (const mode of [0o640, 0o440, 0o620, 0o610, 0o604, 0o602, 0o601])
      t.notOk(isPrivate({ mode, uid: user }, user), mode.toString(8))
  }
})

t.test('root may lend a file to the group of the server', async (t) => {
  for (const mode of [0o440, 0o640, 0o400])
    t.ok(isPrivate({ mode, uid: ROOT_USER }, SERVER), mode.toString(8))
  for (const mode of [0o460, 0o450, 0o444, 0o442, 0o441])
    t.notOk(isPrivate({ mode, uid: ROOT_USER }, SERVER), mode.toString(8))
})

t.test('anybody else may not', async (t) => {
  t.ok(isPrivate({ mode: 0o600, uid: 1 }, SERVER))
  t.notOk(isPrivate({ mode: 0o640, uid: 1 }, SERVER))
})
