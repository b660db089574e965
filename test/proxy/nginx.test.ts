/**
 * The bus behind nginx, configured as docs/guide/PROXY.md says: TLS, WebSockets, events, and tokens
 * that change.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { addToken, revokeToken } from '../../src/auth/token-file.js'
import { serve } from '../cli/process.js'
import { programArgs, ROOT } from '../lib/place.js'
import { sleep, until } from '../lib/wait.js'
import { certificate } from '../support/certificate.js'
import { freePort } from '../support/free-port.js'

const NGINX = ['/usr/sbin/nginx', 'nginx'].find((name) => spawnSync(name, ['-v']).status === 0)
const IS_CI = process.env.CI === 'true'
const skip = NGINX === undefined && !IS_CI ? 'nginx is not installed' : false
/** Each stands for hours. */
const ROTATIONS = 8
const BETWEEN_ROTATIONS_MS = 500

/** The configuration of the guide, between these ports and with a certificate for localhost. */
function configuration(dir: string, port: number, behind: number): string {
  const text = /```nginx\n(.*?)```/s.exec(readFileSync(join(ROOT, 'docs/guide/PROXY.md'), 'utf8'))![1]!
  const { cert, key } = certificate(dir, 'nginx', 'DNS:localhost')
  const site = text
    .replace('127.0.0.1:7411', `127.0.0.1:${behind}`)
    .replace('listen 443 ssl', `listen 127.0.0.1:${port} ssl`)
    .replace('bus.example.com;', 'localhost;')
    .replace('/etc/nginx/bus.example.com.pem', cert)
    .replace('/etc/nginx/bus.example.com.key', key)
  const folders = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
  const temporary = folders.map((kind) => `${kind}_temp_path ${join(dir, kind)};`).join(' ')
  return `daemon off; master_process off; pid ${join(dir, 'pid')}; error_log ${join(dir, 'errors')};
    events {} http { access_log off; ${temporary} ${site} }`
}

async function behindNginx(t: Test, flags: readonly string[] = []) {
  const dir = t.testdir()
  const [port, behind] = [await freePort(), await freePort()]
  const tokens = join(dir, 'tokens.json')
  const made = new Map<string, string>()
  const scopes: Readonly<Record<string, readonly string[]>> = {
    writer: ['read:feed.*', 'write:feed.*', 'define:feed.*'],
    reader: ['read:feed.*'],
  }
  /** Gives a principal another token, which its client finds in its file. */
  const renew = (id: string): void => {
    const { token } = addToken(tokens, { id, scopes: scopes[id]! })
    made.set(id, token)
    writeFileSync(join(dir, id), token, { mode: 0o600 })
  }
  for (const id of Object.keys(scopes)) renew(id)
  const bus = serve(t, [
    ...['--port', String(behind), '--data-dir', join(dir, 'data'), '--auth', 'token', '--auth-file', tokens],
    ...['--allow-host', 'localhost', '--trust-proxy', '127.0.0.1', ...flags],
  ])
  await bus.ready()
  writeFileSync(join(dir, 'nginx.conf'), configuration(dir, port, behind))
  const nginx: ChildProcess = spawn(NGINX!, ['-p', dir, '-c', join(dir, 'nginx.conf')], { stdio: 'pipe' })
  let said = ''
  nginx.stderr!.on('data', (chunk: Buffer) => {
    said += chunk
  })
  t.teardown(async () => {
    if (nginx.exitCode !== null) return
    nginx.kill('SIGTERM')
    await once(nginx, 'exit')
  })
  const url = `https://localhost:${port}`
  const curl = (path: string, ...args: readonly string[]) =>
    spawnSync('curl', [
      '-sS',
      '--max-time',
      '10',
      '--cacert',
      join(dir, 'nginx.pem'),
      ...args,
      `${url}${path}`,
    ])
  await until(() => nginx.exitCode !== null || curl('/livez').status === 0, 'nginx')
  t.equal(nginx.exitCode, null, said)
  const takeOver = (): void => void bus.child.kill('SIGHUP')
  return { dir, url, bus, tokens, token: (id: string) => made.get(id)!, renew, takeOver, curl }
}

t.setTimeout(120_000)
t.test('two principals, and a subscriber while tokens are replaced: nothing is lost', { skip }, async (t) => {
  const { dir, url, tokens, renew, takeOver } = await behindNginx(t)
  const client = spawn(process.execPath, [...programArgs('test/proxy/rotating-clients.ts'), url, dir], {
    env: { ...process.env, NODE_EXTRA_CA_CERTS: join(dir, 'nginx.pem') },
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  t.teardown(() => client.kill('SIGKILL'))
  let out = ''
  client.stdout.on('data', (chunk: Buffer) => {
    out += chunk
  })
  const ended = once(client, 'exit')
  await until(() => out.includes('reading\n') || client.exitCode !== null, 'the clients')
  for (let i = 0; i < ROTATIONS; i++) {
    await sleep(BETWEEN_ROTATIONS_MS)
    for (const id of ['writer', 'reader']) {
      renew(id)
      revokeToken(tokens, id, 'older')
    }
    takeOver()
  }
  await sleep(BETWEEN_ROTATIONS_MS)
  client.stdin.end()
  await ended
  const { written, seen, asked, foreign } = JSON.parse(out.trim().split('\n').at(-1)!) as Record<
    string,
    number
  >
  t.ok(written! > 4 * ROTATIONS, `${written} writes`)
  t.equal(seen, written, 'each change arrived, in order and once')
  t.ok(asked! > ROTATIONS, 'each client asked for new tokens')
  t.equal(foreign, 403, 'the reader may not write')
})

t.test('events, large bodies, pages of a browser, other names, addresses of clients', { skip }, async (t) => {
  const { dir, curl, token, url, bus } = await behindNginx(t, ['--audit-fail', 'closed'])
  const as = ['-H', `authorization: Bearer ${token('writer')}`, '-H', 'content-type: application/json']
  const status = (path: string, ...args: readonly string[]): string =>
    String(curl(path, '-o', join(dir, 'body'), '-w', '%{http_code}', ...args).stdout)
  const large = JSON.stringify({ dtype: 'u8', shape: [60 * 1024 ** 2] })
  t.equal(status('/v1/pages/feed.large', '-X', 'PUT', ...as, '-d', large), '201')
  const bytes = join(dir, 'bytes')
  writeFileSync(bytes, Buffer.alloc(60 * 1024 ** 2, 7))
  const octets = [
    '-H',
    `authorization: Bearer ${token('writer')}`,
    '-H',
    'content-type: application/octet-stream',
  ]
  t.equal(status('/v1/pages/feed.large/data', '-X', 'PUT', ...octets, '--data-binary', `@${bytes}`), '200')
  t.equal(status('/v1/pages/feed.large/data', ...octets, '-H', 'accept: application/octet-stream'), '200')
  t.ok(readFileSync(join(dir, 'body')).equals(readFileSync(bytes)))

  const events = spawn('curl', [
    '-sSN',
    '--cacert',
    join(dir, 'nginx.pem'),
    ...as,
    `${url}/v1/events?pages=feed.*`,
  ])
  t.teardown(() => events.kill('SIGKILL'))
  let seen = ''
  events.stdout.on('data', (chunk: Buffer) => {
    seen += chunk
  })
  await until(() => seen !== '', 'the answer begins')
  t.equal(status('/v1/pages/feed.large/data', '-X', 'PATCH', ...as, '-d', '{"offset":3,"values":[9]}'), '200')
  await until(() => seen.includes('feed.large'), 'an event, while the answer goes on')

  t.equal(status('/docs/', '-H', `origin: ${url}`), '200', 'a page of its own, in a browser')
  t.equal(status('/v1/status', ...as, '-H', 'host: elsewhere.example'), '403', 'a name that is not allowed')
  t.equal(status('/livez', '-H', 'host: 10.1.2.3'), '200', 'a probe')
  t.match(String(curl('/asyncapi.json').stdout), new RegExp(`"host":"${new URL(url).host}","protocol":"wss"`))

  t.equal(status('/v1/status', '-H', 'x-forwarded-for: 8.8.8.8'), '401')
  await bus.end()
  const day = new Date().toISOString().slice(0, 10)
  const trail = readFileSync(join(dir, `data/audit/${day}.jsonl`), 'utf8')
  t.match(trail, /"ip":"127\.0\.0\.1"/)
  t.notMatch(trail, /8\.8\.8\.8/, 'nobody claims an address')
})
