/** A server whose clients show certificates. */
import { once } from 'node:events'
import { chmodSync, copyFileSync, readFileSync, writeFileSync } from 'node:fs'
import type { IncomingMessage } from 'node:http'
import { Agent, get, request } from 'node:https'
import { join } from 'node:path'
import { connect as connectTls, type TLSSocket } from 'node:tls'
import t, { type Test } from 'tap'
import { WebSocket } from 'ws'
import { addToken } from '../../src/auth/token-file.js'
import { AUTH_FLAGS, authOf } from '../../src/cli/auth-flags.js'
import { parseFlags } from '../../src/cli/flags.js'
import { connect } from '../../src/client/node.js'
import { type Process, run, serve } from '../cli/process.js'
import { until } from '../lib/wait.js'
import { Authority, type Pair, pemOf } from './certificates.js'

interface World {
  readonly server: Process
  readonly url: string
  /** The authority of the server, as text. */
  readonly ca: string
  readonly clients: Authority
  readonly authFile: string
  /** What the server reads its client authorities from. */
  readonly caFile: string
  readonly dir: string
}

async function world(t: Test, ways = 'mtls'): Promise<World> {
  const dir = t.testdir()
  const servers = new Authority(dir, 'servers')
  const clients = new Authority(dir, 'clients')
  const { cert, key } = servers.certify('server', { san: 'IP:127.0.0.1' })
  const authFile = join(dir, 'tokens.json')
  const caFile = join(dir, 'client-ca.pem')
  copyFileSync(clients.cert, caFile)
  const principals = [
    { id: 'desk', scopes: ['read:*', 'write:*', 'define:*', 'history:*'], certificates: ['spiffe://p/desk'] },
    { id: 'reader.example.com', scopes: ['read:a'] },
  ]
  writeFileSync(authFile, JSON.stringify({ principals }), { mode: 0o600 })
  const server = serve(t, [
    ...['--data-dir', join(dir, 'data'), '--auth', ways, '--auth-file', authFile],
    ...['--tls-cert', cert, '--tls-key', key, '--tls-client-ca', caFile],
  ])
  await until(() => {
    if (server.child.exitCode !== null) throw new Error(server.stderr)
    return /^mmsb listening on https:/m.test(server.stdout)
  }, 'readiness')
  const url = /https:\/\/\S+/.exec(server.stdout)![0]
  return { server, url, ca: servers.pem, clients, authFile, caFile, dir }
}

interface Asked {
  readonly status: number
  readonly detail: string
  readonly connection: string | undefined
  readonly ticket: string
}

interface AskOptions {
  readonly method?: string
  readonly path?: string
  readonly headers?: object
  readonly agent?: Agent
}

const ask = (
  { url, ca }: World,
  pair?: Pair,
  { method = 'GET', headers = {}, agent, path = '/v1/pages/a' }: AskOptions = {},
): Promise<Asked> =>
  new Promise((resolve, reject) => {
    const shown = pair === undefined ? {} : pemOf(pair)
    const sent = request(
      `${url}${path}`,
      { method, ca, ...shown, agent: agent ?? false, headers: headers as Record<string, string> },
      (response) => {
        let text = ''
        response.on('data', (part) => (text += part))
        response.on('end', () => {
          const { connection } = response.headers
          const detail = /"detail":"([^"]*)/.exec(text)?.[1] ?? ''
          const ticket = /"ticket":"([^"]*)/.exec(text)?.[1] ?? ''
          resolve({ status: response.statusCode ?? 0, detail, connection, ticket })
        })
      },
    )
    sent.on('error', reject).end()
  })

t.test('programs use the bus with a certificate, on every door', async (t) => {
  const here = await world(t)
  const { url, ca, clients, dir } = here
  const desk = clients.certify('desk', { san: 'URI:spiffe://p/desk' })
  const client = connect(url, { ca, ...pemOf(desk) })
  t.teardown(() => client.close())
  await client.create('a', { dtype: 'f64', shape: [2] })
  const changes = client.subscribe({ pages: ['*'], from: 'snapshot' })[Symbol.asyncIterator]()
  t.match(await changes.next(), { value: { type: 'snapshot' } })
  await client.patch('a', { offset: 0, values: [1] })
  t.match(await changes.next(), { value: { changes: [{ page: 'a' }] } })
  await client.writer().transact({ ops: [{ page: 'a', values: [3, 4] }] })
  t.same([...(await client.read('a')).values], [3, 4])
  t.match(JSON.stringify((await client.epochs()).epochs), /"source":"desk"/)

  const sent = get(`${url}/v1/events?pages=*&from=snapshot`, { ca, ...pemOf(desk), agent: false })
  const [events] = (await once(sent, 'response')) as [IncomingMessage]
  t.match(String(await once(events, 'data')), /"snapshot"|"subscribed"/)
  events.destroy()
  const ticket = await ask(here, desk, { method: 'POST', path: '/v1/tickets' })
  t.equal(ticket.status, 201)
  const socket = new WebSocket(`${url.replace('https', 'wss')}/v1/stream?ticket=${ticket.ticket}`, { ca })
  t.teardown(() => socket.terminate())
  await once(socket, 'open')

  const reader = clients.certify('reader', { san: 'DNS:reader.example.com' })
  t.equal((await ask(here, reader)).status, 200)
  const narrow = connect(url, { ca, ...pemOf(reader), protocol: 'json' })
  t.teardown(() => narrow.close())
  await t.rejects(narrow.patch('a', { offset: 0, values: [1] }), { code: 'FORBIDDEN' })

  const command = async (...more: string[]): Promise<{ code: number | string; stderr: string }> =>
    run(['export', '--url', url, '--out', dir, '--pages', 'a', '--ca', join(dir, 'servers.pem'), ...more])
  const good = await command('--cert', desk.cert, '--key', desk.key)
  t.equal(good.code, 0, good.stderr)
  const none = await command()
  t.equal(none.code, 1)
  t.match(none.stderr, /UNAUTHORIZED/)
})

t.test('who shows no certificate that counts is told so', async (t) => {
  const here = await world(t)
  const { clients, dir } = here
  const others = new Authority(dir, 'others')
  const desk = { san: 'URI:spiffe://p/desk' }
  const below = clients.intermediate('below').certify('deep', desk)
  const cases: [string, Pair | undefined, RegExp][] = [
    ['none', undefined, /This server needs credentials/],
    ['of another authority', others.certify('foreign', desk), /is not accepted: UNABLE_TO_(VERIFY|GET)/],
    ['of nobody', clients.certify('nobody', { san: 'DNS:nobody.example.com' }), /names nobody/],
    ['with a name as its subject', clients.certify('desk'), /names nobody/],
    [
      'of two',
      clients.certify('two', { san: 'DNS:reader.example.com,URI:spiffe://p/desk' }),
      /more than one/,
    ],
    ['that has ended', clients.certify('past', { ...desk, days: -1 }), /is not accepted: CERT_HAS_EXPIRED/],
    [
      'for servers',
      clients.certify('purpose', { ...desk, extensions: ['extendedKeyUsage=serverAuth'] }),
      /is not accepted: INVALID_PURPOSE/,
    ],
    ['without its chain', below, /is not accepted: UNABLE_TO_(VERIFY|GET)/],
  ]
  for (const [what, pair, detail] of cases) {
    const answer = await ask(here, pair)
    t.equal(answer.status, 401, what)
    t.match(answer.detail, detail, what)
    t.equal((await ask(here, pair, { path: '/livez' })).status, 200, `${what}: health is open`)
    t.equal((await ask(here, pair, { headers: { authorization: 'Bearer x' } })).status, 401)
  }
  writeFileSync(below.cert, readFileSync(below.cert, 'utf8') + readFileSync(join(dir, 'below.pem'), 'utf8'))
  t.equal((await ask(here, below)).status, 404, 'with its chain: the page is not there')
})

t.test('a web page of another origin does not use the certificate of its user', async (t) => {
  const here = await world(t)
  const desk = here.clients.certify('desk', { san: 'URI:spiffe://p/desk' })
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  t.teardown(() => agent.destroy())
  const from = async (origin?: string): Promise<number> =>
    (await ask(here, desk, { agent, headers: origin === undefined ? {} : { origin } })).status
  t.equal(await from(), 404)
  t.equal(await from(here.url), 404)
  for (const origin of ['https://evil.example.com', 'null', here.url.replace('https', 'http')])
    t.equal(await from(origin), 403, origin)
  const opened = (origin: string): Promise<number> =>
    new Promise((resolve) => {
      const socket = new WebSocket(`${here.url.replace('https', 'wss')}/v1/stream`, ['mmsb.v1.json'], {
        ca: here.ca,
        ...pemOf(desk),
        origin,
      })
      t.teardown(() => socket.terminate())
      socket.on('open', () => resolve(101)).on('error', () => {})
      socket.on('unexpected-response', (_request, { statusCode = 0 }) => resolve(statusCode))
    })
  t.equal(await opened('https://evil.example.com'), 403)
  t.equal(await opened(here.url), 101)
})

t.test('with both, a token that is sent counts, and else the certificate', async (t) => {
  const here = await world(t, 'token,mtls')
  const { token } = addToken(here.authFile, { id: 'other', scopes: [] })
  here.server.child.kill('SIGHUP')
  const desk = here.clients.certify('desk', { san: 'URI:spiffe://p/desk' })
  const as = (sent: string, pair?: Pair): Promise<Asked> =>
    ask(here, pair, { headers: { authorization: `Bearer ${sent}` }, path: '/v1/epochs' })
  await until(async () => (await as(token)).status === 403, 'the new token')
  t.equal((await as(token, desk)).status, 403, 'the token may not')
  t.equal((await as(`${token}0`, desk)).status, 401, 'a token that does not count is not passed over')
  t.equal((await ask(here, desk, { path: '/v1/epochs' })).status, 200)
})

t.test('authorities and names change while the server runs, all or nothing', async (t) => {
  const here = await world(t)
  const { server, url, ca, clients, authFile, caFile, dir } = here
  const next = new Authority(dir, 'next')
  const [old, young] = [clients, next].map((authority, i) =>
    authority.certify(`desk${i}`, { san: 'URI:spiffe://p/desk' }),
  ) as [Pair, Pair]
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  t.teardown(() => agent.destroy())
  const stream = new WebSocket(`${url.replace('https', 'wss')}/v1/stream`, ['mmsb.v1.json'], {
    ca,
    ...pemOf(old),
  })
  t.teardown(() => stream.terminate())
  const closed = new Promise<number>((resolve) => stream.once('close', resolve))
  await new Promise((resolve, reject) => stream.once('open', resolve).once('error', reject))
  t.equal((await ask(here, old, { agent })).status, 404)
  // A handshake that begins now, and a session that could be taken up again.
  let session: Buffer | undefined
  const first = connectTls({ ...where(url), ca, ...pemOf(old) })
  first.on('session', (given: Buffer) => {
    session = given
  })
  first.write('GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n')
  await until(() => session !== undefined, 'the session')
  t.equal(await status(connectTls({ ...where(url), ca, ...pemOf(old), session: session! }), t), 404)

  const principals = readFileSync(authFile, 'utf8')
  const lines = (): number => server.stderr.split('were not taken over').length - 1
  const refusals: [string, () => void, () => void][] = [
    ['no certificate', () => writeFileSync(caFile, 'none'), () => copyFileSync(clients.cert, caFile)],
    [
      'half a certificate',
      () => writeFileSync(caFile, broken(next.pem)),
      () => copyFileSync(clients.cert, caFile),
    ],
    ['no authority', () => copyFileSync(young.cert, caFile), () => copyFileSync(clients.cert, caFile)],
    [
      'a broken auth file beside good authorities',
      () => {
        copyFileSync(next.cert, caFile)
        writeFileSync(authFile, '{')
      },
      () => {
        copyFileSync(clients.cert, caFile)
        writeFileSync(authFile, principals)
      },
    ],
  ]
  for (const [i, [what, harm, mend]] of refusals.entries()) {
    harm()
    server.child.kill('SIGHUP')
    await until(() => lines() === i + 1, what)
    t.equal((await ask(here, old)).status, 404, `${what}: the old one counts`)
    t.equal((await ask(here, young)).status, 401, `${what}: the new one does not`)
    mend()
  }
  t.equal(stream.readyState, WebSocket.OPEN)

  copyFileSync(next.cert, caFile)
  server.child.kill('SIGHUP')
  await until(async () => (await ask(here, young)).status === 404, 'the new authority')
  t.equal(await closed, 4401, 'streams of the old one end')
  const stale = await ask(here, old, { agent })
  t.match(stale, {
    status: 401,
    connection: 'close',
    detail: /authorities of client certificates have changed/,
  })
  t.match(await ask(here, old, { agent }), { status: 401, detail: /is not accepted/ })
  t.equal(await status(connectTls({ ...where(url), ca, ...pemOf(old), session: session! }), t), 401)
  first.destroy()

  writeFileSync(authFile, JSON.stringify({ principals: [] }))
  server.child.kill('SIGHUP')
  await until(async () => (await ask(here, young)).status === 401, 'the end of the principal')
})

const where = (url: string): { host: string; port: number } => ({
  host: '127.0.0.1',
  port: Number(new URL(url).port),
})

/** The middle of a certificate is missing. */
const broken = (pem: string): string => pem.replace(/\n[^\n]+\n[^\n]+\n/, '\n')

async function status(socket: TLSSocket, t: Test): Promise<number> {
  t.teardown(() => socket.destroy())
  socket.write('GET /v1/pages/a HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n')
  let text = ''
  socket.on('data', (part) => (text += part.toString('latin1')))
  await new Promise((resolve, reject) => socket.once('close', resolve).once('error', reject))
  return Number(/^HTTP\/1.1 (\d+)/.exec(text)?.[1])
}

t.test('commands take certificates from files, and name the file that is wrong', async (t) => {
  const here = await world(t)
  const { url, clients, dir } = here
  const ca = join(dir, 'servers.pem')
  const desk = clients.certify('desk', { san: 'URI:spiffe://p/desk' })
  const status = async (
    args: string[],
    env: Record<string, string> = {},
  ): Promise<{ code: number | string; text: string }> => {
    const { code, stdout, stderr } = await run(['status', '--url', url, ...args], { env })
    return { code, text: code === 0 ? stdout : stderr }
  }
  const files = { MMSB_CA: ca, MMSB_CERT: desk.cert, MMSB_KEY: desk.key }
  t.equal((await status([], files)).code, 0, 'from the environment')
  for (const [args, code, text] of [
    [[], 1, /cannot reach .*certificate/],
    [['--ca', ca], 1, /UNAUTHORIZED/],
    [['--ca', ca, '--cert', desk.cert], 2, /--cert needs --key/],
    [['--ca', ca, '--key', desk.key], 2, /--key needs --cert/],
    [['--ca', join(dir, 'none.pem')], 1, /none\.pem cannot be read: ENOENT/],
    [['--ca', desk.key], 2, /is not a certificate in PEM/],
    [['--ca', ca, '--cert', ca, '--key', desk.key], 2, /is not a certificate that fits/],
  ] as [string[], number, RegExp][]) {
    const answer = await status(args)
    t.equal(answer.code, code, `${args.join(' ')}: ${answer.text}`)
    t.match(answer.text, text)
  }
  chmodSync(desk.key, 0o644)
  t.match((await status([], files)).text, /desk\.key can be read by others/)
  const plain = await run(['status', '--url', 'http://127.0.0.1:1'], { env: files })
  t.match(plain.stderr, /cannot reach http:/, 'an environment for another server is passed over')
  const asked = await run(['status', '--url', 'http://127.0.0.1:1', '--ca', ca])
  t.match(asked.stderr, /needs a URL with https/)
})

t.test('flags of client certificates need each other', async (t) => {
  const judge = (...args: string[]) => authOf(parseFlags(args, AUTH_FLAGS, {}), [])
  const tls = ['--tls-cert', 'c', '--tls-key', 'k']
  const full = ['--auth', 'mtls', '--auth-file', 'f', '--tls-client-ca', 'a']
  t.match(judge(...full, ...tls), { tokenFile: 'f', tls: { cert: 'c', key: 'k', clientCa: 'a' } })
  t.same([...judge(...full, ...tls, '--auth', 'token,mtls').ways], ['token', 'mtls'])
  for (const [args, message] of [
    [full, /--tls-client-ca needs --tls-cert/],
    [['--auth', 'mtls', '--auth-file', 'f', ...tls], /--auth mtls needs --tls-client-ca/],
    [['--auth', 'mtls', '--tls-client-ca', 'a', ...tls], /--auth mtls needs --auth-file/],
    [['--auth', 'token', '--auth-file', 'f', '--tls-client-ca', 'a', ...tls], /needs --auth mtls/],
  ] as const)
    t.throws(() => judge(...args), { message })
})
