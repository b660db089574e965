/**
 * Handshakes of the stream: which are accepted, how the others are refused, and that hooks of the app run for
 * them.
 */
import { once } from 'node:events'
import { type IncomingHttpHeaders, request } from 'node:http'
import { connect } from 'node:net'
import t from 'tap'
import { listen, serve } from '../helpers.js'
import { streamServer } from './stream-server.js'

t.test('subprotocols: the first known one offered, JSON when none is, none when none is known', async (t) => {
  const { port, connect } = await streamServer(t)
  t.equal((await connect(['mmsb.v1.json'])).socket.protocol, 'mmsb.v1.json')
  t.equal((await connect(['mmsb.v9', 'mmsb.v1.bin', 'mmsb.v1.json'])).socket.protocol, 'mmsb.v1.bin')
  const plain = await connect([])
  t.equal(plain.socket.protocol, '')
  t.match(await plain.ask({ type: 'subscribe', id: 's', pages: ['*'] }), { type: 'subscribed' })
  t.match(await refusal(port, '/v1/stream', { 'sec-websocket-protocol': 'chat' }), {
    status: 400,
    code: 'INVALID_REQUEST',
  })
})

t.test('handshakes that are refused get a problem document', async (t) => {
  const { port, call } = await streamServer(t)
  const own = `127.0.0.1:${port}`
  t.match(await refusal(port, '/v1/other'), { status: 404, code: 'NOT_FOUND' })
  t.match(await refusal(port, '/v1/stream?x=1'), { status: 400, code: 'INVALID_REQUEST' })
  t.match(await refusal(port, '/v1/stream', { host: 'example.com' }), { status: 403, code: 'FORBIDDEN' })
  t.match(await refusal(port, '/v1/stream', { origin: 'http://example.com' }), {
    status: 403,
    code: 'FORBIDDEN',
  })
  t.match(await refusal(port, '/v1/stream', { origin: 'null' }), { status: 403, code: 'FORBIDDEN' })
  t.match(await refusal(port, '/v1/stream', { host: own, origin: `http://${own}` }), { status: 101 })
  const plain = await call('GET', '/v1/stream')
  t.match(plain, { status: 400, body: { code: 'INVALID_REQUEST' }, headers: { upgrade: 'websocket' } })
})

t.test(
  'what the library refuses gets a problem document too, and so does an upgrade of another route',
  async (t) => {
    const { port, bus } = await streamServer(t)
    t.match(await refusal(port, '/v1/stream', { 'sec-websocket-version': '7' }), {
      status: 400,
      code: 'INVALID_REQUEST',
      headers: { 'content-type': /^application\/problem\+json/, 'sec-websocket-version': '13, 8' },
    })
    t.match(await refusal(port, '/v1/stream', { 'sec-websocket-key': 'short' }), { status: 400 })
    t.match(await refusal(port, '/v1/stream', { upgrade: 'h2c' }), { status: 400, code: 'INVALID_REQUEST' })
    t.match(await refusal(port, '/v1/stream', {}, 'POST'), { status: 405, code: 'METHOD_NOT_ALLOWED' })
    t.match(await refusal(port, '/%zz'), { status: 400, code: 'INVALID_REQUEST' })
    const { epoch } = bus
    t.match(await refusal(port, '/v1/status'), { status: 404, code: 'NOT_FOUND' })
    t.match(await refusal(port, '/v1/pages/prices', {}, 'DELETE'), { status: 404, code: 'NOT_FOUND' })
    t.equal(bus.epoch, epoch, 'the other route did not run')
  },
)

t.test('an upgrade behind a request under way is answered after it', async (t) => {
  const { port } = await streamServer(t)
  const read = 'GET /v1/pages/prices HTTP/1.1\r\nhost: localhost\r\n\r\n'
  const upgrade = (path: string): string =>
    `GET ${path} HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n` +
    `sec-websocket-version: 13\r\nsec-websocket-key: ${Buffer.alloc(16).toString('base64')}\r\n\r\n`
  // A close frame without a code, masked by zeros.
  const close = '\x88\x80\0\0\0\0'
  const accepted = await sentAtOnce(port, read + upgrade('/v1/stream') + close)
  t.match(accepted, /^HTTP\/1.1 200 .*"prices".*HTTP\/1.1 101 /s)
  const refused = await sentAtOnce(port, read + read + upgrade('/v1/other'))
  t.match(refused, /^HTTP\/1.1 200 .*HTTP\/1.1 200 .*HTTP\/1.1 404 .*NOT_FOUND/s)
})

t.test('an upgrade behind a large answer waits until all of it has left', async (t) => {
  const { port, bus } = await streamServer(t)
  const elements = 4 * 1024 ** 2
  await bus.create('large', { dtype: 'u8', shape: [elements] })
  const read =
    'GET /v1/pages/large/data HTTP/1.1\r\nhost: localhost\r\naccept: application/octet-stream\r\n\r\n'
  const upgrade =
    'GET /v1/other HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n'
  const text = await sentAtOnce(port, read + upgrade)
  t.match(text.slice(0, 100), /^HTTP\/1.1 200 /)
  t.equal(text.split('\0').length - 1, elements)
  t.match(text.slice(text.lastIndexOf('\0') + 1), /^HTTP\/1.1 404 /)
})

t.test('a refused handshake ends its connection', async (t) => {
  const { port } = await streamServer(t)
  for (const path of ['/v1/stream?x=1', '/v1/status', '/none', '/%zz']) {
    const socket = connect({ host: '127.0.0.1', port, allowHalfOpen: true })
    t.teardown(() => socket.destroy())
    socket.resume()
    socket.write(
      `GET ${path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n`,
    )
    await once(socket, 'end')
    t.pass(path)
  }
})

t.test('the hooks of the app run for a handshake as for any request', async (t) => {
  const own = 'http://pages.example.com'
  const served = await serve(t, {}, { allowedOrigins: new Set([own]) })
  const { port } = await listen(served)
  const origin = { origin: own }
  t.match(await refusal(port, '/v1/stream', origin), { status: 101 })
  const refused = await refusal(port, '/v1/stream', { ...origin, 'sec-websocket-protocol': 'chat' })
  t.match(refused, { status: 400, headers: { 'access-control-allow-origin': own } })
})

/** All that a connection gets, up to its end, for bytes sent in one packet. */
async function sentAtOnce(port: number, bytes: string): Promise<string> {
  const socket = connect(port, '127.0.0.1')
  socket.setTimeout(5_000, () => socket.destroy(new Error('the connection has not ended')))
  socket.write(bytes, 'latin1')
  let text = ''
  for await (const chunk of socket) text += chunk
  return text
}

/** The answer to an upgrade request. */
function refusal(
  port: number,
  path: string,
  headers: Record<string, string> = {},
  method = 'GET',
): Promise<{ status: number; code?: string; headers: IncomingHttpHeaders }> {
  return new Promise((resolve, reject) => {
    const upgrade = {
      connection: 'Upgrade',
      upgrade: 'websocket',
      'sec-websocket-version': '13',
      'sec-websocket-key': 'dGhlIHNhbXBsZSBub25jZQ==',
    }
    const sent = request({ host: '127.0.0.1', port, path, method, headers: { ...upgrade, ...headers } })
    sent.on('upgrade', (response, socket) => {
      socket.destroy()
      resolve({ status: response.statusCode!, headers: response.headers })
    })
    sent.on('response', async (response) => {
      const chunks: Buffer[] = []
      for await (const chunk of response) chunks.push(chunk as Buffer)
      const { code } = JSON.parse(Buffer.concat(chunks).toString()) as { code: string }
      resolve({ status: response.statusCode!, code, headers: response.headers })
    })
    sent.on('error', reject)
    sent.end()
  })
}
