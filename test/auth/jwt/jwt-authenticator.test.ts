/** Which tokens of an issuer count, and what those are told whose tokens do not. */
import { generateKeyPairSync } from 'node:crypto'
import { CompactSign, exportJWK, exportSPKI, generateKeyPair } from 'jose'
import t, { type Test } from 'tap'
import { JwtAuthenticator } from '../../../src/auth/jwt/jwt-authenticator.js'
import { principalOf } from '../../../src/auth/jwt/subject.js'
import { newToken, PRINCIPAL_PATTERN } from '../../../src/auth/tokens.js'
import { JWT_SKEW_SECONDS } from '../../../src/limits.js'
import { AUDIENCE, type Claims, Issuer, type SigningKey, signingKey } from './issuer.js'

interface World {
  readonly issuer: Issuer
  readonly key: SigningKey
  readonly authenticator: JwtAuthenticator
}

async function world(t: Test, alg = 'ES256'): Promise<World> {
  const key = await signingKey('one', alg)
  const issuer = await Issuer.start(t, [key])
  const authenticator = new JwtAuthenticator({ issuer: issuer.url, audience: AUDIENCE })
  t.teardown(() => authenticator.close())
  return { issuer, key, authenticator }
}

const nowS = (): number => Math.floor(Date.now() / 1000)
const base64url = (content: object | string): string =>
  Buffer.from(typeof content === 'string' ? content : JSON.stringify(content)).toString('base64url')

t.test('a token names a principal, its scopes and its end', async (t) => {
  const { issuer, key, authenticator } = await world(t)
  const exp = nowS() + 40
  const token = await issuer.token(key, { exp, scope: 'openid read:risk.* write:desk.*' })
  const login = await authenticator.login(token)
  t.equal(login.principal.id, 'desk')
  t.same(login.principal.scopes.texts, ['read:risk.*', 'write:desk.*'])
  t.equal(login.principal.expiresMs, exp * 1000)
  t.equal(login.isValid(), true)
  t.same(
    (await authenticator.login(await issuer.token(key, { scope: undefined }))).principal.scopes.texts,
    [],
  )
  const several = await issuer.token(key, { aud: ['https://other.example.com', AUDIENCE] })
  t.equal((await authenticator.login(several)).principal.id, 'desk')
})

t.test('four algorithms count', async (t) => {
  for (const alg of ['EdDSA', 'ES256', 'RS256', 'PS256']) {
    const { issuer, key, authenticator } = await world(t, alg)
    t.equal((await authenticator.login(await issuer.token(key))).principal.id, 'desk', alg)
  }
})

t.test('what a token says decides whether it counts', async (t) => {
  const { issuer, key, authenticator } = await world(t)
  const cases: [Claims, Claims, RegExp][] = [
    [{ exp: undefined }, {}, /it has no exp\b/],
    [{ exp: nowS() - JWT_SKEW_SECONDS - 1 }, {}, /it has expired/],
    [{ exp: 'tomorrow' }, {}, /its exp is wrong/],
    [{ nbf: nowS() + JWT_SKEW_SECONDS + 5 }, {}, /it does not count yet/],
    [{ iss: undefined }, {}, /it has no iss\b/],
    [{ iss: `${issuer.url}/` }, {}, /it is of another issuer/],
    [{ iss: 'https://evil.example.com' }, {}, /it is of another issuer/],
    [{ aud: undefined }, {}, /it has no aud\b/],
    [{ aud: 'https://other.example.com' }, {}, /it is for another audience/],
    [{ aud: [`${AUDIENCE}/`] }, {}, /it is for another audience/],
    [{ sub: undefined }, {}, /it has no sub\b/],
    [{ sub: '' }, {}, /it names no subject/],
    [{ sub: 7 }, {}, /it names no subject/],
    [{ scope: ['read:a'] }, {}, /its scope is not a text/],
    [{ scope: 'read:a admin:x' }, {}, /"admin:x" is not admin:\*/],
    [{ cnf: { jkt: 'x' } }, {}, /only together with a key/],
    [{}, { typ: 'logout+jwt' }, /it is not an access token/],
    [{}, { typ: 'dpop+jwt' }, /it is not an access token/],
    [{}, { kid: 'unknown' }, /its issuer has no such key/],
  ]
  for (const [claims, header, message] of cases) {
    const token = await issuer.token(key, claims, header)
    await t.rejects(authenticator.login(token), { code: 'UNAUTHORIZED', message }, String(message))
  }
  for (const [claims, header] of [
    [{}, { typ: undefined }],
    [{}, { typ: 'JWT' }],
    [{}, { typ: 'application/at+jwt' }],
    [{ nbf: nowS() + JWT_SKEW_SECONDS - 5 }, {}],
  ] as [Claims, Claims][])
    t.equal((await authenticator.login(await issuer.token(key, claims, header))).isValid(), true)
})

t.test('a token that has ended counts as long as clocks may differ, and no longer', async (t) => {
  const { issuer, key, authenticator } = await world(t)
  const exp = nowS() - JWT_SKEW_SECONDS + 5
  const login = await authenticator.login(await issuer.token(key, { exp }))
  t.equal(login.isValid(), true)
  t.equal(login.principal.expiresMs, (exp + JWT_SKEW_SECONDS) * 1000)
})

t.test('a signature that is not by a private key of the issuer does not count', async (t) => {
  const { issuer, key, authenticator } = await world(t, 'RS256')
  const good = await issuer.token(key)
  const [head, body, signature] = good.split('.') as [string, string, string]
  const payload = JSON.parse(Buffer.from(body, 'base64url').toString()) as object

  const signed = async (alg: string, secret: Uint8Array, kid = 'one'): Promise<string> =>
    new CompactSign(Buffer.from(JSON.stringify(payload)))
      .setProtectedHeader({ alg, kid, typ: 'at+jwt' })
      .sign(secret)
  const pem = Buffer.from(await exportSPKI(key.publicKey))
  const jwk = Buffer.from(JSON.stringify(key.jwk))
  const { privateKey } = await generateKeyPair('RS256', { extractable: true })
  const foreign = await issuer.token({ ...key, privateKey })
  const extended = base64url({ alg: 'RS256', kid: 'one', crit: ['x'], x: 1 })
  const none = base64url({ alg: 'none', kid: 'one', typ: 'at+jwt' })

  const cases: [string, string, RegExp][] = [
    ['alg none', `${none}.${body}.`, /its algorithm is none of|not a signed JSON Web Token/],
    ['alg none with the old signature', `${none}.${body}.${signature}`, /its algorithm is none of/],
    ['HS256 with the public key', await signed('HS256', pem), /its algorithm is none of/],
    ['HS512 with the public key as JWK', await signed('HS512', jwk), /its algorithm is none of/],
    ['the key of somebody else', foreign, /its signature is wrong/],
    [
      'another content',
      `${head}.${base64url({ ...payload, sub: 'root' })}.${signature}`,
      /signature is wrong/,
    ],
    [
      'another algorithm of the key',
      await issuer.token({ ...key, alg: 'PS256', privateKey: (await signingKey('one', 'PS256')).privateKey }),
      /has no such key/,
    ],
    ['no signature', `${head}.${body}.`, /signature is wrong|not a signed/],
    ['two parts', `${head}.${body}`, /not a signed JSON Web Token/],
    ['five parts', `${good}.a.b`, /not a signed JSON Web Token/],
    ['an extension that must be known', `${extended}.${body}.${signature}`, /not a signed JSON Web Token/],
    ['no token', 'nonsense', /not a signed JSON Web Token/],
    ['a token of a server', newToken('desk'), /not a signed JSON Web Token/],
    ['a payload that is no object', `${head}.${base64url('[]')}.${signature}`, /signature is wrong/],
  ]
  for (const [what, token, message] of cases)
    await t.rejects(authenticator.login(token), { code: 'UNAUTHORIZED', message }, what)
  t.equal((await authenticator.login(good)).principal.id, 'desk')
})

t.test('a key that is too short or broken verifies nothing, and harms no other key', async (t) => {
  const [good, bad] = [await signingKey('good'), await signingKey('bad', 'RS256')]
  const { publicKey } = generateKeyPairSync('rsa', { modulusLength: 1024 })
  const { n: _n, ...withoutModulus } = bad.jwk
  const point = { kty: 'EC', crv: 'P-256', x: 'AAAA', y: 'AAAA', alg: 'ES256', kid: 'bad' }
  for (const [jwk, key] of [
    [{ ...publicKey.export({ format: 'jwk' }), kid: 'bad', alg: 'RS256' }, bad],
    [withoutModulus, bad],
    [{ ...bad.jwk, n: 7 }, bad],
    [{ ...bad.jwk, use: 'enc' }, bad],
    [{ ...bad.jwk, ...(await exportJWK(bad.privateKey)) }, bad],
    [point, { ...(await signingKey('bad')) }],
  ] as [object, SigningKey][]) {
    const issuer = await Issuer.start(t, [good])
    issuer.keys.push(jwk)
    const authenticator = new JwtAuthenticator({ issuer: issuer.url, audience: AUDIENCE })
    t.teardown(() => authenticator.close())
    await t.rejects(authenticator.login(await issuer.token(key)), {
      code: 'UNAUTHORIZED',
      message: /its key cannot be used|has no such key|its signature is wrong|is not a signed/,
    })
    t.equal((await authenticator.login(await issuer.token(good))).isValid(), true)
  }
})

t.test('a secret among the keys of the issuer signs nothing', async (t) => {
  const { issuer, authenticator } = await world(t)
  const secret = Buffer.alloc(32, 7)
  issuer.keys = [{ kty: 'oct', k: secret.toString('base64url'), kid: 'secret', alg: 'HS256' }]
  const token = await new CompactSign(Buffer.from('{}'))
    .setProtectedHeader({ alg: 'HS256', kid: 'secret' })
    .sign(secret)
  await t.rejects(authenticator.login(token), { code: 'UNAUTHORIZED', message: /its algorithm is none of/ })
})

t.test('a subject that cannot be a name gets one, and no two the same', async (t) => {
  for (const subject of ['desk', 'system:serviceaccount:ns:bus', 'a'.repeat(64), '_x'])
    t.equal(principalOf(subject), subject)
  const others = ['auth0|5f', 'a/b', 'a b', 'ä', '.a', 'a'.repeat(65), 'sub:x', principalOf('auth0|5f')]
  const names = others.map(principalOf)
  t.equal(new Set(names).size, others.length)
  for (const name of names) t.match(name, new RegExp(PRINCIPAL_PATTERN))
  t.equal(principalOf('auth0|5f'), 'sub:hy6QgKb_8VWQxkbyi8ENOfZkYUGfjtMUMvitP4XdcRI')
})
