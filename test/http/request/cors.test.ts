/** Web pages of other origins: those named at start get every header a browser asks for, others get none. */
import t from 'tap'
import { originsOf } from '../../../src/cli/flags.js'
import { CORS_MAX_AGE_SECONDS } from '../../../src/limits.js'
import { type Answer, isProblem, SOURCE, serve } from '../helpers.js'

const PAGE = 'http://localhost:5173'
const OTHER = 'http://localhost:5174'
const allowedOrigins = new Set([PAGE])
const HOST = { host: '127.0.0.1:7411' }

const preflight = (origin: string): Record<string, string> => ({
  ...HOST,
  origin,
  'access-control-request-method': 'PATCH',
  'access-control-request-headers': 'content-type,idempotency-key,if-match,mmsb-dtype',
})

const lists = (answer: Answer, header: string): string[] => String(answer.headers[header]).split(', ')

t.test('a named origin may ask, write, and read answers and refusals', async (t) => {
  const { call, inject } = await serve(t, {}, { allowedOrigins })
  const asked = await inject({ method: 'OPTIONS', url: '/v1/pages/a/data', headers: preflight(PAGE) })
  t.equal(asked.statusCode, 204)
  t.equal(asked.headers['access-control-allow-origin'], PAGE)
  t.equal(asked.headers.vary, 'origin')
  t.equal(Number(asked.headers['access-control-max-age']), CORS_MAX_AGE_SECONDS)
  const answer = { status: 204, headers: asked.headers, body: {}, raw: asked.rawPayload }
  for (const method of ['PATCH', 'PUT', 'DELETE'])
    t.ok(lists(answer, 'access-control-allow-methods').includes(method))
  for (const header of ['content-type', 'idempotency-key', 'if-match', 'mmsb-dtype'])
    t.ok(lists(answer, 'access-control-allow-headers').includes(header), header)

  const headers = { ...HOST, origin: PAGE }
  t.equal((await call('PUT', '/v1/pages/a', SOURCE, headers)).status, 201)
  const read = await call('GET', '/v1/pages/a/data', undefined, headers)
  t.equal(read.headers['access-control-allow-origin'], PAGE)
  t.match(read.headers.vary, /origin/)
  for (const header of ['etag', 'mmsb-epoch', 'mmsb-dtype', 'mmsb-shape']) {
    t.ok(header in read.headers, header)
    t.ok(lists(read, 'access-control-expose-headers').includes(header), header)
  }
  const refused = await call('GET', '/v1/pages/none', undefined, headers)
  isProblem(t, refused, 'PAGE_NOT_FOUND')
  t.equal(refused.headers['access-control-allow-origin'], PAGE)
})

t.test('another origin is refused and told nothing', async (t) => {
  const { call, inject } = await serve(t, {}, { allowedOrigins })
  const refused = await call('GET', '/v1/status', undefined, { ...HOST, origin: OTHER })
  isProblem(t, refused, 'FORBIDDEN')
  t.notOk('access-control-allow-origin' in refused.headers)
  const asked = await inject({ method: 'OPTIONS', url: '/v1/status', headers: preflight(OTHER) })
  t.equal(asked.statusCode, 403)
  const own = await call('GET', '/v1/status', undefined, HOST)
  t.equal(own.status, 200)
  t.notOk('access-control-allow-origin' in own.headers, 'who sends no Origin gets no such header')
})

t.test('origins are written as browsers write them', async (t) => {
  const from = '--allow-origin'
  t.same([...originsOf({ text: `${PAGE}, https://example.com`, from })], [PAGE, 'https://example.com'])
  for (const text of ['*', 'null', 'localhost:5173', `${PAGE}/`, 'file://x', '', 'https://EXAMPLE.com']) {
    t.throws(() => originsOf({ text, from }), { message: /is not an origin/ }, text)
  }
})

t.test('octets that say their dtype are refused by a page of another', async (t) => {
  const { call, bus } = await serve(t)
  await bus.create('a', { dtype: 'f32', shape: [2, 2] })
  await bus.create('flags', { dtype: 'bool', shape: [] })
  const eight = Buffer.alloc(8)
  for (const method of ['PATCH', 'PUT'] as const) {
    const bytes = method === 'PATCH' ? eight : Buffer.alloc(16)
    const wrong = await call(method, '/v1/pages/a/data', bytes, { 'mmsb-dtype': 'f64' })
    isProblem(t, wrong, 'INVALID_DELTA', method)
    t.equal((await call(method, '/v1/pages/a/data', bytes, { 'mmsb-dtype': 'f32' })).status, 200, method)
  }
  t.equal(bus.epoch, 4, 'what was refused made no epoch')
  const either = await call('PATCH', '/v1/pages/flags/data', Buffer.of(1), { 'mmsb-dtype': 'u8,bool' })
  t.equal(either.status, 200)
  const read = await call('GET', '/v1/pages/a/data')
  t.equal(read.headers['mmsb-dtype'], 'f32')
  t.equal(read.headers['mmsb-shape'], '2,2')
  t.equal((await call('GET', '/v1/pages/flags/data')).headers['mmsb-shape'], '')
})
