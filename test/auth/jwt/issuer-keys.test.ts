/** Where the keys of an issuer come from, when they are read, and what counts while they cannot be. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import t, { type Test } from 'tap'
import { issuerFault } from '../../../src/auth/jwt/issuer-document.js'
import type { IssuerKeysOptions } from '../../../src/auth/jwt/issuer-keys.js'
import { JwtAuthenticator } from '../../../src/auth/jwt/jwt-authenticator.js'
import { ISSUER_DOCUMENT_MAX_BYTES, ISSUER_KEYS_MAX, ISSUER_TIMEOUT_MS } from '../../../src/limits.js'
import { until } from '../../lib/wait.js'
import { AUDIENCE, type Claims, Issuer, signingKey } from './issuer.js'

type Notices = { level: string; message: string }[]

function authenticatorOf(
  t: Test,
  issuer: string,
  options: Partial<IssuerKeysOptions> = {},
): { authenticator: JwtAuthenticator; notices: Notices } {
  const notices: Notices = []
  const authenticator = new JwtAuthenticator({
    issuer,
    audience: AUDIENCE,
    onNotice: (notice) => notices.push(notice),
    ...options,
  })
  t.teardown(() => authenticator.close())
  return { authenticator, notices }
}

t.test('an issuer with a path has its document in one of two places', async (t) => {
  for (const documentPath of [
    '/realms/a/.well-known/openid-configuration',
    '/.well-known/oauth-authorization-server/realms/a',
  ]) {
    const key = await signingKey('one')
    const issuer = await Issuer.start(t, [key], '/realms/a')
    issuer.documentPath = documentPath
    const { authenticator } = authenticatorOf(t, issuer.url)
    t.equal((await authenticator.login(await issuer.token(key))).principal.id, 'desk', documentPath)
  }
})

t.test('an issuer that is down at the start counts from when it is up', async (t) => {
  const key = await signingKey('one')
  const issuer = await Issuer.down(t)
  issuer.keys = [key.jwk]
  const { authenticator, notices } = authenticatorOf(t, issuer.url, { pauseMs: 50 })
  const token = await issuer.token(key)
  await t.rejects(authenticator.login(token), { code: 'OVERLOADED', message: /keys of the issuer/ })
  t.match(notices, [{ level: 'warn', message: /cannot be read; no token of it counts: .*ECONNREFUSED/ }])
  await issuer.up()
  await until(
    () =>
      authenticator.login(token).then(
        () => true,
        () => false,
      ),
    'the login',
  )
  t.match(notices.slice(1), [{ level: 'info', message: /gives its keys again/ }])
  t.equal(notices.length, 2, 'not a line for each attempt')
})

t.test('while nobody can ask an issuer that is down, it is not asked for every token', async (t) => {
  const key = await signingKey('one')
  const issuer = await Issuer.start(t, [])
  issuer.documentPath = '/elsewhere'
  const { authenticator } = authenticatorOf(t, issuer.url, { pauseMs: 60_000 })
  const token = await issuer.token(key)
  await Promise.all(
    Array.from({ length: 20 }, () => t.rejects(authenticator.login(token), { code: 'OVERLOADED' })),
  )
  await t.rejects(authenticator.login(token), { code: 'OVERLOADED' })
  t.equal(issuer.asked.length, 2, 'both places, once')
})

t.test('the keys that were read last count while the issuer is down', async (t) => {
  const key = await signingKey('one')
  const other = await signingKey('two')
  const issuer = await Issuer.start(t, [key])
  const { authenticator, notices } = authenticatorOf(t, issuer.url, { refreshMs: 20, pauseMs: 10 })
  await authenticator.login(await issuer.token(key))
  await issuer.stop()
  await until(() => notices.length > 0, 'the line about the issuer')
  t.match(notices, [{ level: 'warn', message: /the keys read last go on to count/ }])
  t.equal((await authenticator.login(await issuer.token(key))).isValid(), true)
  await t.rejects(authenticator.login(await issuer.token(other)), { code: 'UNAUTHORIZED' })
})

t.test('keys are rotated: both count for a while, then the new one alone', async (t) => {
  const [first, second] = [await signingKey('first'), await signingKey('second', 'RS256')]
  const issuer = await Issuer.start(t, [first])
  const { authenticator } = authenticatorOf(t, issuer.url, { pauseMs: 0 })
  const [old, young] = [await issuer.token(first), await issuer.token(second)]
  await authenticator.login(old)
  await t.rejects(authenticator.login(young), { message: /its issuer has no such key/ }, 'not published yet')
  issuer.keys = [first.jwk, second.jwk]
  t.equal((await authenticator.login(young)).isValid(), true, 'read again for a key that is not known')
  t.equal((await authenticator.login(old)).isValid(), true)
  issuer.keys = [second.jwk]
  authenticator.reload()
  await until(
    () =>
      authenticator.login(old).then(
        () => false,
        () => true,
      ),
    'the end of the old key',
  )
  t.equal((await authenticator.login(young)).isValid(), true)
})

t.test('the keys are read again by and by', async (t) => {
  const [first, second] = [await signingKey('same'), await signingKey('same')]
  const issuer = await Issuer.start(t, [first])
  const { authenticator } = authenticatorOf(t, issuer.url, { refreshMs: 20, pauseMs: 60_000 })
  await authenticator.login(await issuer.token(first))
  issuer.keys = [second.jwk]
  const young = await issuer.token(second)
  await until(
    () =>
      authenticator.login(young).then(
        () => true,
        () => false,
      ),
    'the other key of that name',
  )
})

t.test('tokens with unknown keys make the keys be read once in a while only', async (t) => {
  const key = await signingKey('one')
  const issuer = await Issuer.start(t, [key])
  const { authenticator } = authenticatorOf(t, issuer.url)
  await authenticator.login(await issuer.token(key))
  const before = issuer.asked.length
  for (let i = 0; i < 50; i++) {
    const token = await issuer.token(key, {}, { kid: `k${i}` })
    await t.rejects(authenticator.login(token), { code: 'UNAUTHORIZED' })
  }
  t.equal(issuer.asked.length, before)
  t.equal((await authenticator.login(await issuer.token(key))).isValid(), true, 'others are not affected')
})

t.test('two keys that fit a token without a key name are one too many', async (t) => {
  const [one, two] = [await signingKey('one'), await signingKey('two')]
  const issuer = await Issuer.start(t, [one])
  const { authenticator } = authenticatorOf(t, issuer.url, { pauseMs: 0 })
  const unnamed = await issuer.token(one, {}, { kid: undefined })
  t.equal((await authenticator.login(unnamed)).isValid(), true)
  issuer.keys = [one.jwk, two.jwk]
  await authenticator.login(await issuer.token(two))
  await t.rejects(authenticator.login(unnamed), { message: /does not say which key/ })
})

t.test('documents that cannot be trusted are not used', async (t) => {
  const key = await signingKey('one')
  const filler = 'x'.repeat(ISSUER_DOCUMENT_MAX_BYTES)
  const many = (count: number): unknown[] =>
    Array.from({ length: count }, (_, i) => ({ ...key.jwk, kid: i === 0 ? 'one' : `k${i}` }))
  const cases: [Claims, unknown[], RegExp][] = [
    [{ issuer: 'https://evil.example.com' }, [key.jwk], /is of issuer "https:\/\/evil/],
    [{ issuer: undefined }, [key.jwk], /is of issuer undefined/],
    [{ jwks_uri: undefined }, [key.jwk], /has no jwks_uri/],
    [{ jwks_uri: '/keys' }, [key.jwk], /has no jwks_uri/],
    [{ jwks_uri: 'http://192.0.2.1/keys' }, [key.jwk], /does not begin with https/],
    [{ filler }, [key.jwk], /more than 262144 bytes/],
    [{}, many(ISSUER_KEYS_MAX + 1), /it has more than 100 keys/],
    [{}, 7 as never, /not a JSON Web Key Set/],
    [{}, [7], /malformed/],
  ]
  for (const [document, keys, message] of cases) {
    const issuer = await Issuer.start(t, [])
    Object.assign(issuer, { document, keys })
    const { authenticator, notices } = authenticatorOf(t, issuer.url)
    await t.rejects(authenticator.login(await issuer.token(key)), { code: 'OVERLOADED' }, String(message))
    t.match(notices, [{ message }])
  }
  const issuer = await Issuer.start(t, [])
  issuer.keys = many(ISSUER_KEYS_MAX)
  const { authenticator } = authenticatorOf(t, issuer.url)
  t.equal((await authenticator.login(await issuer.token(key))).isValid(), true)
})

t.test('no redirection is followed', async (t) => {
  const key = await signingKey('one')
  const issuer = await Issuer.start(t, [key])
  const elsewhere = createServer((_request, response) => {
    response.writeHead(302, { location: `${issuer.url}/.well-known/openid-configuration` }).end()
  })
  await new Promise<void>((resolve) => elsewhere.listen(0, '127.0.0.1', resolve))
  t.teardown(() => elsewhere.close())
  const url = `http://127.0.0.1:${(elsewhere.address() as AddressInfo).port}`
  const { authenticator, notices } = authenticatorOf(t, url)
  await t.rejects(authenticator.login(await issuer.token(key, { iss: url })), { code: 'OVERLOADED' })
  t.match(notices, [{ message: /status 302/ }])
  t.same(issuer.asked, [])
})

t.test('an issuer that does not answer holds nobody up for long', async (t) => {
  const key = await signingKey('one')
  const silent = createServer(() => {})
  await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    silent.closeAllConnections()
    silent.close()
  })
  const url = `http://127.0.0.1:${(silent.address() as AddressInfo).port}`
  const { authenticator, notices } = authenticatorOf(t, url)
  const issuer = await Issuer.down(t)
  const startMs = performance.now()
  await t.rejects(authenticator.login(await issuer.token(key, { iss: url })), { code: 'OVERLOADED' })
  const ms = performance.now() - startMs
  t.ok(ms > ISSUER_TIMEOUT_MS * 0.9 && ms < ISSUER_TIMEOUT_MS * 1.9, `${ms} ms`)
  t.match(notices, [{ message: /timeout/ }])
})

t.test('the address of an issuer', async (t) => {
  for (const url of [
    'https://a.example.com',
    'https://a/realms/b/',
    'http://127.0.0.1:1/x',
    'http://[::1]:1',
  ])
    t.equal(issuerFault(url), undefined, url)
  for (const [url, fault] of [
    ['a.example.com', /is not a URL/],
    ['http://a.example.com', /does not begin with https/],
    ['ftp://localhost', /does not begin with https/],
    ['https://a/?b', /has a query/],
    ['https://a/#b', /has a query or a fragment/],
    ['https://u:p@a', /has a user/],
  ] as const)
    t.match(issuerFault(url), fault, url)
})
