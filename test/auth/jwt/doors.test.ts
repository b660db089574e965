/** Tokens of an issuer at every door: REST, WebSockets, server-sent events, tickets. */
import { Agent, get } from 'node:http'
import { connect } from 'node:net'
import path from 'node:path'
import t, { type Test } from 'tap'
import { WebSocket } from 'ws'
import { type Authenticator, TokenAuthenticator } from '../../../src/auth/authenticator.js'
import { CombinedAuthenticator } from '../../../src/auth/combined.js'
import { JwtAuthenticator } from '../../../src/auth/jwt/jwt-authenticator.js'
import { addToken } from '../../../src/auth/token-file.js'
import { openGuard } from '../../../src/http/request/origin-guard.js'
import { JWT_SKEW_SECONDS } from '../../../src/limits.js'
import { listen, type Served, serve } from '../../http/helpers.js'
import { until } from '../../lib/wait.js'
import { AUDIENCE, type Claims, Issuer, type SigningKey, signingKey } from './issuer.js'

interface Guarded extends Served {
  readonly issuer: Issuer
  readonly key: SigningKey
  /** A token of the server itself. */
  readonly own: string
  readonly url: string
  readonly port: number
  token(claims?: Claims): Promise<string>
  /** How many tokens were looked at. */
  verified(): number
}

async function guarded(t: Test, { publicUrl }: { publicUrl?: string } = {}): Promise<Guarded> {
  const key = await signingKey('one')
  const issuer = await Issuer.start(t, [key])
  const dir = t.testdir()
  const file = path.join(dir, 'tokens.json')
  const own = addToken(file, { id: 'own', scopes: ['read:*'] }).token
  const jwt = new JwtAuthenticator({ issuer: issuer.url, audience: AUDIENCE })
  t.teardown(() => jwt.close())
  const combined = new CombinedAuthenticator({ tokens: new TokenAuthenticator(file), jwt })
  let verified = 0
  const authenticator: Authenticator = {
    login: (credential) => {
      verified++
      return combined.login(credential)
    },
    onChange: (listener) => combined.onChange(listener),
  }
  const options = { authenticator, resource: { issuer: issuer.url, publicUrl }, guard: openGuard }
  const served = await serve(t, { dataDir: path.join(dir, 'data'), fsync: 'off' }, options)
  for (const name of ['a', 'b']) await served.bus.create(name, { dtype: 'f64', shape: [2] })
  const where = await listen(served)
  return {
    ...served,
    ...where,
    issuer,
    key,
    own,
    token: (claims) => issuer.token(key, claims),
    verified: () => verified,
  }
}

const bearer = (token: string): { authorization: string } => ({ authorization: `Bearer ${token}` })

/** How each door answers to a token: 200 or 101, or the status of the refusal. */
const DOORS: Readonly<Record<string, (server: Guarded, token: string) => Promise<number>>> = {
  rest: async ({ url }, token) => (await fetch(`${url}/v1/pages/a`, { headers: bearer(token) })).status,
  json: ({ url }, token) => opened(url, ['mmsb.v1.json'], bearer(token)),
  binary: ({ url }, token) => opened(url, ['mmsb.v1.bin'], bearer(token)),
  subprotocol: ({ url }, token) =>
    opened(url, ['mmsb.v1.json', `mmsb.bearer.${Buffer.from(token).toString('base64url')}`], {}),
  events: async ({ url }, token) => {
    const response = await fetch(`${url}/v1/events?pages=*`, { headers: bearer(token) })
    await response.body?.cancel()
    return response.status
  },
  ticket: async ({ url }, token) => {
    const response = await fetch(`${url}/v1/tickets`, { method: 'POST', headers: bearer(token) })
    if (response.status !== 201) return response.status
    const { ticket } = (await response.json()) as { ticket: string }
    return opened(`${url}`, ['mmsb.v1.json'], {}, `?ticket=${ticket}`)
  },
}

function opened(
  url: string,
  protocols: string[],
  headers: Record<string, string>,
  query = '',
): Promise<number> {
  const socket = new WebSocket(`${url.replace('http', 'ws')}/v1/stream${query}`, protocols, { headers })
  return new Promise((resolve) => {
    socket.on('open', () => {
      socket.terminate()
      resolve(101)
    })
    socket.on('unexpected-response', (_request, { statusCode = 0 }) => resolve(statusCode))
    socket.on('error', () => {})
  })
}

for (const [name, door] of Object.entries(DOORS)) {
  // A server for each: one that sees so many failed logins of an address tells it to wait.
  t.test(`tokens that count open this door, of both kinds, and no others: ${name}`, async (t) => {
    const server = await guarded(t)
    const nowS = Math.floor(Date.now() / 1000)
    const good = await server.token()
    const bad: Record<string, string> = {
      'another audience': await server.token({ aud: 'other' }),
      'another issuer': await server.token({ iss: 'https://other.example.com' }),
      expired: await server.token({ exp: nowS - 60 }),
      'not yet': await server.token({ nbf: nowS + 60 }),
      'no end': await server.token({ exp: undefined }),
      'alg none': `${Buffer.from('{"alg":"none"}').toString('base64url')}.${good.split('.')[1]}.`,
      'an own token that is wrong': `${server.own}0`,
    }
    for (const token of [good, server.own]) t.ok([200, 101].includes(await door(server, token)), 'it opens')
    for (const [what, token] of Object.entries(bad)) t.equal(await door(server, token), 401, what)
  })
}

t.test('the claims of a token decide what its principal may do', async (t) => {
  const { call, token } = await guarded(t)
  const as = async (scope: string): Promise<Record<string, string>> => bearer(await token({ scope }))
  const patch = async (scope: string): Promise<number> =>
    (await call('PATCH', '/v1/pages/a/data', { offset: 0, values: [1] }, await as(scope))).status
  t.equal(await patch('write:a'), 200)
  t.equal(await patch('read:a write:b'), 403)
  t.equal(await patch('openid write:b'), 404)
  const { epochs } = (await call('GET', '/v1/epochs', undefined, await as('history:* read:*'))).body
  t.match(JSON.stringify(epochs), /"source":"desk"/)
})

t.test('a refusal says where tokens come from, and which scope is missing', async (t) => {
  const { call, token, own, inject, issuer } = await guarded(t)
  const host = 'bus.example.com:7411'
  const challenge = async (method: 'GET' | 'PATCH', url: string, headers = {}): Promise<unknown> =>
    (await call(method, url, method === 'GET' ? undefined : { values: [1] }, { host, ...headers })).headers[
      'www-authenticate'
    ]
  const metadata = `resource_metadata="http://${host}/.well-known/oauth-protected-resource"`
  t.equal(await challenge('GET', '/v1/pages'), `Bearer ${metadata}`)
  t.equal(await challenge('GET', '/v1/pages', bearer('x')), `Bearer ${metadata}, error="invalid_token"`)
  for (const held of [bearer(await token()), bearer(own)]) {
    t.equal(
      await challenge('PATCH', '/v1/pages/a/data', held),
      `Bearer ${metadata}, error="insufficient_scope", scope="write:a"`,
    )
    t.equal(
      await challenge('GET', '/metrics', held),
      `Bearer ${metadata}, error="insufficient_scope", scope="metrics:*"`,
    )
  }
  t.equal(await challenge('GET', '/v1/pages/none', bearer(own)), undefined)
  t.equal(
    await challenge('PATCH', '/v1/pages/b/data', bearer(await token())),
    undefined,
    'a page that may not be read is not there',
  )
  for (const odd of ['a"b', 'a b', 'a,b', '<a>', 'a/b', `${'a'.repeat(256)}`]) {
    const { headers } = await inject({ url: '/v1/pages', headers: { host: odd } })
    t.equal(headers['www-authenticate'], 'Bearer realm="mmsb"', odd)
  }
  t.same((await call('GET', '/.well-known/oauth-protected-resource', undefined, { host })).body, {
    resource: `http://${host}`,
    authorization_servers: [issuer.url],
    bearer_methods_supported: ['header'],
    scopes_supported: 'read write define history functions admin metrics webhook'
      .split(' ')
      .map((verb) => `${verb}:*`),
    resource_name: 'MMSB',
  })
})

t.test('a server with a public address names that', async (t) => {
  const { call } = await guarded(t, { publicUrl: AUDIENCE })
  const { headers } = await call('GET', '/v1/pages', undefined, { host: 'elsewhere' })
  t.equal(
    headers['www-authenticate'],
    `Bearer resource_metadata="${AUDIENCE}/.well-known/oauth-protected-resource"`,
  )
  const { body } = await call('GET', '/.well-known/oauth-protected-resource', undefined, {
    host: 'elsewhere',
  })
  t.equal(body.resource, AUDIENCE)
})

t.test('without an issuer there is no such document', async (t) => {
  const file = path.join(t.testdir(), 'tokens.json')
  const { token } = addToken(file, { id: 'own', scopes: ['read:a'] })
  const { call, bus } = await serve(t, {}, { authenticator: new TokenAuthenticator(file) })
  await bus.create('a', { dtype: 'f64', shape: [2] })
  const known = bearer(token)
  t.equal((await call('GET', '/.well-known/oauth-protected-resource')).status, 404)
  t.equal((await call('GET', '/v1/pages')).headers['www-authenticate'], 'Bearer realm="mmsb"')
  t.equal(
    (await call('PATCH', '/v1/pages/a/data', { values: [1] }, known)).headers['www-authenticate'],
    'Bearer error="insufficient_scope", scope="write:a"',
  )
})

t.test('streams end when their token does', async (t) => {
  const { url, token, bus } = await guarded(t)
  const exp = Math.floor(Date.now() / 1000) + 3
  const headers = bearer(await token({ exp }))
  const closed = ['mmsb.v1.json', 'mmsb.v1.bin'].map(
    (protocol) =>
      new Promise<{ code: number; at: number }>((resolve, reject) => {
        const socket = new WebSocket(`${url.replace('http', 'ws')}/v1/stream`, [protocol], { headers })
        t.teardown(() => socket.terminate())
        socket.on('close', (code) => resolve({ code, at: Date.now() })).on('error', reject)
      }),
  )
  const events = fetch(`${url}/v1/events?pages=*`, { headers }).then((response) => response.text())
  const lasting = fetch(`${url}/v1/events?pages=*`, { headers: bearer(await token()) })
  t.teardown(async () => (await lasting).body?.cancel())
  for (const { code, at } of await Promise.all(closed)) {
    t.equal(code, 4401)
    t.ok(at >= exp * 1000 && at < exp * 1000 + 10_000, `${at - exp * 1000} ms after its end`)
  }
  t.match(await events, /"type":"error","id":"events","code":"UNAUTHORIZED"/)
  const { body } = await lasting
  const reader = body!.getReader()
  await bus.patch('a', { offset: 0, values: [1] })
  t.match(Buffer.from((await reader.read()).value!).toString(), /subscribed|change/, 'others go on')
  reader.releaseLock()
})

t.test('requests that come at once on one connection stay in their order', async (t) => {
  const { port, token, bus } = await guarded(t)
  const { authorization } = bearer(await token({ scope: 'read:a write:a' }))
  const socket = connect(port, '127.0.0.1')
  t.teardown(() => socket.destroy())
  const requests = Array.from({ length: 20 }, (_, i) => {
    const body = JSON.stringify({ offset: 0, values: [i] })
    const head = ['PATCH /v1/pages/a/data HTTP/1.1', 'host: 127.0.0.1', 'content-type: application/json']
    return `${[...head, `authorization: ${authorization}`, `content-length: ${body.length}`].join('\r\n')}\r\n\r\n${body}`
  })
  socket.write(requests.join(''))
  let text = ''
  await new Promise<void>((resolve) => {
    socket.on('data', (part) => {
      text += part.toString('latin1')
      if (text.split('HTTP/1.1 200').length === 21) resolve()
    })
  })
  t.same([...bus.read('a')], [19, 0])
})

t.test('a connection has its token verified once', async (t) => {
  const { url, token, verified } = await guarded(t)
  const first = await token()
  const second = await token({ sub: 'other' })
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  t.teardown(() => agent.destroy())
  const ask = (sent: string): Promise<number> =>
    new Promise((resolve, reject) => {
      const asked = get(`${url}/v1/status`, { agent, headers: bearer(sent) }, (response) => {
        response.resume().on('end', () => resolve(response.statusCode ?? 0))
      })
      asked.on('error', reject)
    })
  for (let i = 0; i < 5; i++) t.equal(await ask(first), 200)
  t.equal(verified(), 1)
  t.equal(await ask(second), 200)
  t.equal(await ask(`${second}x`), 401)
  t.equal(verified(), 3, 'another token is another login')
  const ending = await token({ exp: Math.floor(Date.now() / 1000) - JWT_SKEW_SECONDS + 2 })
  t.equal(await ask(ending), 200)
  await until(async () => (await ask(ending)) === 401, 'the end of a token that is remembered')
})
