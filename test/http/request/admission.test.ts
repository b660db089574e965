/** Requests that are refused for their headers, and those that do not arrive in time. */
import { connect } from 'node:net'
import { gzipSync } from 'node:zlib'
import t, { type Test } from 'tap'
import { isProblem, listen, serve } from '../helpers.js'

/** Sends text over a connection of its own; resolves with all that comes back until the server closes it. */
async function exchange(t: Test, port: number, text: string): Promise<string> {
  const socket = connect(port, '127.0.0.1')
  t.teardown(() => socket.destroy())
  socket.write(text)
  let answer = ''
  for await (const chunk of socket) answer += String(chunk)
  return answer
}

t.test('a body with a Content-Encoding is refused, and changes nothing', async (t) => {
  const { bus, call } = await serve(t)
  await bus.create('a', { dtype: 'u8', shape: [64] })
  const body = gzipSync(Buffer.alloc(64, 7))
  for (const encoding of ['gzip', 'br', 'GZIP', 'identity, gzip']) {
    const answer = await call('PATCH', '/v1/pages/a/data', body, { 'content-encoding': encoding })
    isProblem(t, answer, 'UNSUPPORTED_MEDIA_TYPE')
  }
  t.equal(bus.epoch, 1)
  const answer = await call('PATCH', '/v1/pages/a/data', Buffer.of(1), { 'content-encoding': 'identity' })
  t.equal(answer.status, 200)
})

t.test('content types that a route does not read', async (t) => {
  const { call } = await serve(t)
  const plain = { 'content-type': 'text/plain' }
  isProblem(
    t,
    await call('PUT', '/v1/pages/a', '{"dtype":"u8","shape":[1]}', plain),
    'UNSUPPORTED_MEDIA_TYPE',
  )
  isProblem(t, await call('PUT', '/v1/pages/a', Buffer.of(1)), 'UNSUPPORTED_MEDIA_TYPE')
})

t.test('two Host headers', async (t) => {
  const { port } = await listen(await serve(t))
  const host = `127.0.0.1:${port}`
  const request = `GET /v1/status HTTP/1.1\r\nHost: ${host}\r\nhost: ${host}\r\nConnection: close\r\n\r\n`
  t.match(await exchange(t, port, request), /^HTTP\/1\.1 400 .*Host is there twice/s)
})

t.test('requests that another site makes a browser send', async (t) => {
  const { call } = await serve(t)
  const site = { 'sec-fetch-site': 'cross-site' }
  const visit = { ...site, 'sec-fetch-mode': 'navigate', 'sec-fetch-dest': 'document' }
  isProblem(t, await call('GET', '/v1/status', undefined, site), 'FORBIDDEN')
  isProblem(t, await call('GET', '/v1/status', undefined, visit), 'FORBIDDEN')
  isProblem(t, await call('GET', '/', undefined, { ...visit, 'sec-fetch-dest': 'iframe' }), 'FORBIDDEN')
  for (const path of ['/', '/ui/', '/docs?x=1']) {
    t.not((await call('GET', path, undefined, visit)).status, 403, path)
  }
  for (const other of ['same-origin', 'same-site', 'none']) {
    t.equal((await call('GET', '/v1/status', undefined, { 'sec-fetch-site': other })).status, 200, other)
  }
})

t.test('headers and bodies that do not arrive in time, and connections that stay silent', async (t) => {
  const limits = { headersTimeoutMs: 300, bodyTimeoutMs: 600, idleTimeoutMs: 300 }
  const { port } = await listen(await serve(t, { limits }))
  const head = `POST /v1/transactions HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\ncontent-type: application/json\r\n`
  const [headers, body, idle] = await Promise.all([
    exchange(t, port, head),
    exchange(t, port, `${head}content-length: 100\r\n\r\n{"ops`),
    exchange(t, port, `GET /livez HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\n\r\n`),
  ])
  t.match(headers, /^HTTP\/1\.1 408 .*REQUEST_TIMEOUT/s)
  t.match(body, /^HTTP\/1\.1 408 .*REQUEST_TIMEOUT/s)
  t.match(idle, /^HTTP\/1\.1 200 /, 'answered, then closed')
})
