/** Clients that wait, go away or send on while the server finds out whether their token counts. */
import { connect, type Socket } from 'node:net'
import t, { type Test } from 'tap'
import { JwtAuthenticator } from '../../../src/auth/jwt/jwt-authenticator.js'
import { FrameWriter } from '../../../src/state/frame/writer.js'
import { listen, type Served, serve } from '../../http/helpers.js'
import { turns, until } from '../../lib/wait.js'
import { AUDIENCE, Issuer, signingKey } from './issuer.js'

interface Slow extends Served {
  readonly port: number
  readonly head: readonly string[]
  /** How many logins wait. */
  waiting(): number
  /** Lets them go on. */
  goOn(): void
}

/** A server whose logins wait. */
async function slow(t: Test): Promise<Slow> {
  const key = await signingKey('one')
  const issuer = await Issuer.start(t, [key])
  const jwt = new JwtAuthenticator({ issuer: issuer.url, audience: AUDIENCE })
  t.teardown(() => jwt.close())
  const held: (() => void)[] = []
  const authenticator = {
    login: async (token: string) => {
      await new Promise<void>((resolve) => held.push(resolve))
      return jwt.login(token)
    },
    onChange: () => () => {},
  }
  const served = await serve(t, {}, { authenticator })
  await served.bus.create('a', { dtype: 'f64', shape: [2] })
  const { port } = await listen(served)
  const token = await issuer.token(key, { scope: 'read:a write:a' })
  return {
    ...served,
    port,
    head: [`host: 127.0.0.1:${port}`, `authorization: Bearer ${token}`],
    waiting: () => held.length,
    goOn: () => {
      for (const resolve of held.splice(0)) resolve()
    },
  }
}

const UPGRADE = [
  'upgrade: websocket',
  'connection: upgrade',
  'sec-websocket-version: 13',
  'sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==',
]

function opened(t: Test, port: number): { socket: Socket; text(): string } {
  const socket = connect(port, '127.0.0.1')
  t.teardown(() => socket.destroy())
  let text = ''
  socket.on('data', (part) => (text += part.toString('latin1'))).on('error', () => {})
  return { socket, text: () => text }
}

const lines = (...parts: string[]): string => `${parts.join('\r\n')}\r\n\r\n`

/** A frame of a WebSocket client, with a mask of zeros. */
const masked = (content: Uint8Array): Buffer =>
  Buffer.concat([Buffer.from([0x82, 0x80 | content.length, 0, 0, 0, 0]), content])

t.test('frames that come with the handshake are taken when the login is known', async (t) => {
  const { port, head, waiting, goOn, bus, server } = await slow(t)
  const { socket, text } = opened(t, port)
  const writer = new FrameWriter({})
  writer.delta(bus.peek('a').id, 'f64', 2, { offset: 0, values: [5] })
  const frame = Buffer.from(writer.finish())
  t.ok(frame.length < 126)
  const request = lines('GET /v1/stream HTTP/1.1', ...head, ...UPGRADE, 'sec-websocket-protocol: mmsb.v1.bin')
  socket.write(Buffer.concat([Buffer.from(request), masked(frame)]))
  await until(() => waiting() === 1, 'the login')
  socket.write(masked(frame))
  await turns()
  t.equal(text(), '')
  t.equal(bus.peek('a').version, bus.epoch, 'nothing is written before')
  goOn()
  await until(() => server.stream.fastMessages === 2 && bus.read('a')[0] === 5, 'both frames')
  await until(() => text().startsWith('HTTP/1.1 101 '), 'the end of the handshake')
})

t.test('who goes away while the login is found out leaves nothing behind', async (t) => {
  const { port, head, waiting, goOn, server, call, bus } = await slow(t)
  const before = bus.epoch
  for (const request of [
    lines('GET /v1/stream HTTP/1.1', ...head, ...UPGRADE),
    lines('GET /v1/events?pages=* HTTP/1.1', ...head),
    `${lines('PATCH /v1/pages/a/data HTTP/1.1', ...head, 'content-type: application/json', 'content-length: 60')}{"offset":0,`,
  ]) {
    const { socket } = opened(t, port)
    socket.write(request)
    await until(() => waiting() === 1, 'the login')
    socket.destroy()
    await turns(20)
    goOn()
    await until(async () => {
      const connections = await new Promise<number>((resolve, reject) =>
        server.app.server.getConnections((error, count) => (error === null ? resolve(count) : reject(error))),
      )
      return connections === 0
    }, 'the end of the connection')
  }
  await turns(20)
  t.equal((await call('GET', '/livez')).status, 200)
  t.equal(bus.epoch, before)
  const { body } = await call('GET', '/openapi.json')
  t.ok(body.paths, 'and the server goes on')
})

t.test('a body waits with its request, and is not lost', async (t) => {
  const { port, head, waiting, goOn, bus } = await slow(t)
  const { socket, text } = opened(t, port)
  const body = JSON.stringify({ values: [7, 8] })
  const request = ['PUT /v1/pages/a/data HTTP/1.1', ...head, 'content-type: application/json']
  socket.write(lines(...request, `content-length: ${body.length}`) + body.slice(0, 5))
  await until(() => waiting() === 1, 'the login')
  socket.write(body.slice(5))
  await turns(20)
  goOn()
  await until(() => text().startsWith('HTTP/1.1 200'), 'the answer')
  t.same([...bus.read('a')], [7, 8])
})
