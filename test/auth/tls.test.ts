/** A server that speaks HTTPS. */
import { chmodSync, copyFileSync, readFileSync, writeFileSync } from 'node:fs'
import { Agent, request } from 'node:https'
import { connect as connectPlain } from 'node:net'
import { join } from 'node:path'
import { connect as connectTls } from 'node:tls'
import t, { type Test } from 'tap'
import { WebSocket } from 'ws'
import { run, serve } from '../cli/process.js'
import { until } from '../lib/wait.js'
import { certificate, type Pair } from '../support/certificate.js'

const flagsOf = ({ cert, key }: Pair): string[] => ['--tls-cert', cert, '--tls-key', key]

/** The status of a request; the name of the certificate. */
async function ask(url: string, ca: string, agent?: Agent): Promise<{ status: number; name: string }> {
  return new Promise((resolve, reject) => {
    const sent = request(`${url}/v1/status`, { ca, agent: agent ?? false }, (response) => {
      const { CN: name } = (response.socket as ReturnType<typeof connectTls>).getPeerCertificate().subject
      response.resume().on('end', () => resolve({ status: response.statusCode ?? 0, name: String(name) }))
    })
    sent.on('error', reject).end()
  })
}

const ready = async (server: ReturnType<typeof serve>): Promise<string> => {
  await until(() => /^mmsb listening on https:/m.test(server.stdout), `readiness, ${server.stderr}`)
  return /https:\/\/\S+/.exec(server.stdout)![0]
}

async function frames(t: Test, url: string, ca: string): Promise<WebSocket> {
  const socket = new WebSocket(`${url.replace('https', 'wss')}/v1/stream`, ['mmsb.v1.json'], { ca })
  t.teardown(() => socket.terminate())
  await new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject))
  return socket
}

t.test('requests and streams over TLS; another certificate while it runs; an orderly end', async (t) => {
  const dir = t.testdir()
  const first = certificate(dir, 'first')
  const second = certificate(dir, 'second')
  const used = { cert: join(dir, 'used.pem'), key: join(dir, 'used.key') }
  const use = ({ cert, key }: Pair): void => {
    copyFileSync(cert, used.cert)
    copyFileSync(key, used.key)
  }
  use(first)
  const [caFirst, caSecond] = [readFileSync(first.cert, 'utf8'), readFileSync(second.cert, 'utf8')]
  const server = serve(t, ['--data-dir', join(dir, 'data'), ...flagsOf(used)])
  const url = await ready(server)
  t.same(await ask(url, caFirst), { status: 200, name: 'first' })
  await t.rejects(ask(url, caSecond), { code: /SELF_SIGNED|UNABLE_TO_VERIFY/ }, 'another authority')

  const stream = await frames(t, url, caFirst)
  const answer = new Promise<string>((resolve) => stream.once('message', (data) => resolve(String(data))))
  stream.send(JSON.stringify({ type: 'subscribe', id: 's', pages: ['*'] }))
  t.match(JSON.parse(await answer), { type: 'subscribed', id: 's' })

  const port = Number(new URL(url).port)
  const plain = connectPlain(port, '127.0.0.1')
  plain.write('GET /v1/status HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n')
  const heard = await new Promise<string>((resolve) => {
    let text = ''
    plain.on('data', (part) => (text += part.toString('latin1'))).on('error', () => {})
    plain.on('close', () => resolve(text))
  })
  t.notMatch(heard, /HTTP\/1\.1 200|"epoch"/, 'nothing is said in the open')
  const old = connectTls({ port, host: '127.0.0.1', ca: caFirst, maxVersion: 'TLSv1.1', minVersion: 'TLSv1' })
  await t.rejects(new Promise((resolve, reject) => old.on('secureConnect', resolve).on('error', reject)))

  writeFileSync(used.cert, 'no certificate')
  server.child.kill('SIGHUP')
  await until(() => server.stderr.includes('were not taken over'), 'the line about the bad certificate')
  t.same(await ask(url, caFirst), { status: 200, name: 'first' }, 'the old one goes on to count')
  use({ cert: second.cert, key: first.key })
  server.child.kill('SIGHUP')
  await until(() => server.stderr.split('were not taken over').length === 3, 'the line about the wrong key')
  use(second)
  server.child.kill('SIGHUP')
  await until(async () => (await ask(url, caSecond).catch(() => undefined))?.name === 'second', 'the new one')
  t.equal(stream.readyState, WebSocket.OPEN, 'an open stream goes on')

  const agent = new Agent({ keepAlive: true })
  t.teardown(() => agent.destroy())
  t.equal((await ask(url, caSecond, agent)).status, 200)
  const half = connectPlain(port, '127.0.0.1')
  half.on('error', () => {})
  t.teardown(() => half.destroy())
  await new Promise((resolve) => half.once('connect', resolve))
  const closed = new Promise<number>((resolve) => stream.once('close', resolve))
  t.equal(await server.end(), 0, 'an idle connection and half a handshake do not hold it up')
  t.equal(await closed, 1001)
})

t.test(
  'a server does not start with a key that others can read, or that is of another certificate',
  async (t) => {
    const dir = t.testdir()
    const one = certificate(dir, 'one')
    const other = certificate(dir, 'other')
    const start = async (pair: Pair): Promise<string> => {
      const { code, stderr } = await run([
        'serve',
        '--port',
        '0',
        '--data-dir',
        join(dir, 'd'),
        ...flagsOf(pair),
      ])
      t.equal(code, 1)
      return stderr
    }
    t.match(await start({ cert: one.cert, key: other.key }), /are not a certificate and its key/)
    t.match(await start({ cert: join(dir, 'none'), key: one.key }), /none cannot be read: ENOENT/)
    chmodSync(one.key, 0o640)
    t.match(await start(one), /one\.key can be read by others \(mode 640\)/)
  },
)
