/** The issuer of the guide, a real one, and a server that takes its tokens: all as processes. */
import { type ChildProcess, spawn } from 'node:child_process'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { connect } from '../../../src/client/node.js'
import { type Process, run, serve } from '../../cli/process.js'
import { plainEnvironment } from '../../lib/environment.js'
import { ROOT } from '../../lib/place.js'
import { until } from '../../lib/wait.js'
import { freePort } from '../../support/free-port.js'

const BUS_URL = 'https://bus.example.com'

class Provider {
  readonly url: string
  readonly #port: number
  #child: ChildProcess | undefined

  constructor(t: Test, port: number) {
    this.#port = port
    this.url = `http://127.0.0.1:${port}`
    t.teardown(() => this.stop())
  }

  /** Starts it, with new keys. */
  async start(tokenSeconds = 600): Promise<void> {
    const child = spawn(process.execPath, [`${ROOT}examples/oidc-issuer.mjs`], {
      env: {
        ...plainEnvironment(),
        BUS_URL,
        ISSUER_PORT: String(this.#port),
        TOKEN_SECONDS: String(tokenSeconds),
      },
    })
    this.#child = child
    let text = ''
    child.stdout!.on('data', (part) => (text += part))
    child.stderr!.on('data', (part) => (text += part))
    await until(() => {
      if (child.exitCode !== null) throw new Error(`the issuer has ended: ${text}`)
      return text.includes(`issuer ${this.url}`)
    }, 'the issuer')
  }

  async stop(): Promise<void> {
    const child = this.#child
    this.#child = undefined
    if (child === undefined) return
    const ended = new Promise((resolve) => child.once('exit', resolve))
    child.kill('SIGKILL')
    await ended
  }

  async token(scope: string): Promise<string> {
    const response = await fetch(`${this.url}/token`, {
      method: 'POST',
      headers: { authorization: `Basic ${Buffer.from('desk:a-secret-for-trying').toString('base64')}` },
      body: new URLSearchParams({ grant_type: 'client_credentials', scope }),
    })
    const { access_token: token } = (await response.json()) as { access_token: string }
    return token
  }
}

const serveFor = (t: Test, { url }: Provider, dir: string): Process =>
  serve(t, [
    '--data-dir',
    join(dir, 'data'),
    '--auth',
    'jwt',
    '--oidc-issuer',
    url,
    '--oidc-audience',
    BUS_URL,
  ])

t.test('clients get tokens of the issuer, and use the bus with them', async (t) => {
  const dir = t.testdir()
  const provider = new Provider(t, await freePort())
  await provider.start()
  const server = serveFor(t, provider, dir)
  const url = await server.ready()
  const anonymous = await fetch(`${url}/v1/pages`)
  const metadata = /resource_metadata="([^"]+)"/.exec(anonymous.headers.get('www-authenticate') ?? '')?.[1]
  t.match(await (await fetch(metadata!)).json(), { resource: url, authorization_servers: [provider.url] })

  const client = connect(url, { token: () => provider.token('define:risk.* read:risk.* write:risk.*') })
  t.teardown(() => client.close())
  await client.create('risk.a', { dtype: 'f64', shape: [2] })
  const changes = client.subscribe({ pages: ['*'], from: 'snapshot' })[Symbol.asyncIterator]()
  t.match(await changes.next(), { value: { type: 'snapshot' } })
  await client.patch('risk.a', { offset: 0, values: [7] })
  t.match(await changes.next(), { value: { changes: [{ page: 'risk.a' }] } })
  await t.rejects(client.create('other', { dtype: 'f64', shape: [2] }), { code: 'PAGE_NOT_FOUND' })

  const file = join(dir, 'token')
  writeFileSync(file, await provider.token('read:risk.* history:risk.*'), { mode: 0o600 })
  const exported = await run([
    'export',
    '--url',
    url,
    '--token-file',
    file,
    '--out',
    dir,
    '--pages',
    'risk.a',
  ])
  t.equal(exported.code, 0, exported.stderr)

  const narrow = connect(url, { token: await provider.token('read:risk.*') })
  t.teardown(() => narrow.close())
  await t.rejects(narrow.patch('risk.a', { offset: 0, values: [1] }), {
    code: 'FORBIDDEN',
    extra: { scope: 'write:risk.a' },
  })
  t.equal(await server.end(), 0)
})

t.test('an issuer that is down at the start, and one whose keys are all new', async (t) => {
  const dir = t.testdir()
  const provider = new Provider(t, await freePort())
  const server = serveFor(t, provider, dir)
  const url = await server.ready()
  await until(() => server.stderr.includes('cannot be read; no token of it counts'), 'the line in the log')
  const ask = async (token: string): Promise<number> =>
    (await fetch(`${url}/v1/status`, { headers: { authorization: `Bearer ${token}` } })).status
  t.equal(await ask('e30.e30.e30'), 401, 'what is no token needs no issuer')
  await provider.start()
  server.child.kill('SIGHUP')
  const first = await provider.token('read:risk.*')
  await until(async () => (await ask(first)) === 200, 'the first token')
  await provider.stop()
  t.equal(await ask(first), 200, 'while it is down')
  await provider.start()
  const second = await provider.token('read:risk.*')
  server.child.kill('SIGHUP')
  await until(async () => (await ask(second)) === 200, 'a token with the new key')
  t.equal(await ask(first), 401, 'the old key is gone')
  const trail = join(dir, 'data', 'audit')
  const lines = (): string =>
    readdirSync(trail)
      .map((name) => readFileSync(join(trail, name), 'utf8'))
      .join('')
  await until(() => lines().includes('"action":"login"'), 'the line about the refused login')
  t.notMatch(lines() + server.stderr, new RegExp(first.split('.')[2]!), 'no token stands in a file')
})

t.test('a subscriber outlives many tokens', async (t) => {
  const dir = t.testdir()
  const provider = new Provider(t, await freePort())
  await provider.start(2)
  const server = serveFor(t, provider, dir)
  const url = await server.ready()
  let asked = 0
  const client = connect(url, {
    token: () => {
      asked++
      return provider.token('define:risk.* read:risk.* write:risk.*')
    },
  })
  t.teardown(() => client.close())
  await client.create('risk.a', { dtype: 'f64', shape: [1] })
  const last = 24
  const seen: number[] = []
  const reading = (async () => {
    for await (const change of client.subscribe({ pages: ['risk.a'], from: 1 })) {
      for (const { values } of change.changes) if (values !== undefined) seen.push(Number(values[0]))
      if (seen.at(-1) === last) return
    }
  })()
  for (let value = 1; value <= last; value++) {
    await client.write('risk.a', [value])
    await new Promise((resolve) => setTimeout(resolve, 250))
  }
  await reading
  t.same(
    seen,
    Array.from({ length: last }, (_, i) => i + 1),
    'every change, once and in order',
  )
  t.ok(asked >= 2, `${asked} tokens`)
})
