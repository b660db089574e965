/** What every request meets before and behind its route: methods, bodies, histories, origins and errors. */
import t from 'tap'
import { MmsbError } from '../../src/errors.js'
import { pathOf, rawProblem, shownPath, toMmsbError } from '../../src/http/reply/problem.js'
import { etagOf } from '../../src/http/request/negotiate.js'
import { folder } from '../lib/folder.js'
import { isProblem, SOURCE, serve } from './helpers.js'

const ELSEWHERE = `${'12'.repeat(16)}.${'34'.repeat(8)}`

t.test('a path that is not there, and a method that it does not have', async (t) => {
  const { call, inject } = await serve(t)
  for (const path of ['/v1', '/v1/pages/a/b/c', '/v2/pages']) {
    const answer = await call('GET', path)
    isProblem(t, answer, 'NOT_FOUND')
    t.match(answer.body.detail, `GET ${path}`)
  }
  const refused = await call('POST', '/v1/pages/a/data?x=1')
  isProblem(t, refused, 'METHOD_NOT_ALLOWED')
  t.equal(refused.headers.allow, 'GET, HEAD, OPTIONS, PATCH, PUT')
  t.match(refused.body.detail, /^POST \/v1\/pages\/a\/data: allowed methods are GET, HEAD, /)
  const asked = await inject({ method: 'OPTIONS', url: '/v1/pages/a' })
  t.equal(asked.statusCode, 204)
  t.match(asked.headers.allow, /DELETE, GET, HEAD, OPTIONS/)
  t.equal((await inject({ method: 'OPTIONS', url: '/v1/none' })).statusCode, 404)
})

t.test('a body that is empty is none, whatever its type says', async (t) => {
  const { call, inject } = await serve(t)
  await call('PUT', '/v1/pages/a', SOURCE)
  const empty = await inject({
    method: 'PATCH',
    url: '/v1/pages/a/data',
    headers: { 'content-type': 'application/json', 'content-length': '0' },
    payload: '',
  })
  t.equal(empty.statusCode, 400)
  t.match(empty.json(), { detail: /^body: is missing/ })
  const gone = await inject({
    method: 'DELETE',
    url: '/v1/pages/a',
    headers: { 'content-type': 'application/json', 'content-length': '0' },
    payload: '',
  })
  t.match([200, 204].includes(gone.statusCode), true)
  const text = await inject({
    method: 'PUT',
    url: '/v1/pages/b',
    headers: { 'content-type': 'text/plain' },
    payload: 'x',
  })
  t.equal(text.statusCode, 415)
  const bytes = await inject({
    method: 'PUT',
    url: '/v1/pages/b',
    headers: { 'content-type': 'application/octet-stream' },
    payload: 'x',
  })
  t.equal(bytes.statusCode, 415, 'bytes are for page data only')
})

t.test('whoever names another history is refused; reads name the present one', async (t) => {
  const { bus, call } = await serve(t)
  await call('PUT', '/v1/pages/a', SOURCE)
  const named = (history: string) => ({ 'mmsb-history': history })
  for (const [method, url, body] of [
    ['GET', '/v1/pages/a/data', undefined],
    ['GET', '/v1/read?pages=a', undefined],
    ['PATCH', '/v1/pages/a/data', { values: [1], offset: 0 }],
  ] as const) {
    isProblem(t, await call(method, url, body, named(ELSEWHERE)), 'HISTORY_CHANGED')
    const separator = url.includes('?') ? '&' : '?'
    if (method === 'GET')
      isProblem(t, await call(method, `${url}${separator}history=${ELSEWHERE}`), 'HISTORY_CHANGED')
    const answer = await call(method, url, body, named(bus.historyId))
    t.equal(answer.status, 200, url)
    t.equal(answer.headers['mmsb-history'], method === 'GET' ? bus.historyId : undefined)
  }
  t.equal((await call('GET', `/v1/read?pages=a&history=${bus.historyId}`)).status, 200)
  t.equal(bus.epoch, 2, 'what was refused changed nothing')
})

t.test('the epoch that an answer names is the one that was asked for', async (t) => {
  const { bus, call } = await serve(t, { dataDir: folder(t), fsync: 'off' })
  await call('PUT', '/v1/pages/a', SOURCE)
  await call('PUT', '/v1/pages/b', SOURCE)
  const tag = { 'if-none-match': etagOf(bus.historyId, 1) }
  for (const [url, epoch] of [
    ['/v1/pages/a/data', 2],
    ['/v1/pages/a/data?epoch=1', 1],
  ] as const) {
    const answer = await call('GET', url, undefined, tag)
    t.same([answer.status, Number(answer.headers['mmsb-epoch'])], [304, epoch])
    t.equal(Number((await call('GET', url)).headers['mmsb-epoch']), epoch)
  }
})

t.test('only programs on this machine, and origins that are allowed, are served', async (t) => {
  const origin = 'http://localhost:5173'
  const { call, inject } = await serve(t, {}, { allowedOrigins: new Set([origin]) })
  const host = { host: '127.0.0.1:7411' }
  isProblem(t, await call('GET', '/v1/status', undefined, { host: 'example.org' }), 'FORBIDDEN')
  isProblem(
    t,
    await call('GET', '/v1/status', undefined, { ...host, origin: 'http://example.org' }),
    'FORBIDDEN',
  )
  const answer = await call('GET', '/v1/status', undefined, { ...host, origin })
  t.same([answer.status, answer.headers['access-control-allow-origin']], [200, origin])
  t.equal(
    (await call('GET', '/v1/status', undefined, host)).headers['access-control-allow-origin'],
    undefined,
  )
  const preflight = { ...host, origin, 'access-control-request-method': 'PATCH' }
  const asked = await inject({ method: 'OPTIONS', url: '/v1/none', headers: preflight })
  t.same([asked.statusCode, asked.headers['access-control-allow-private-network']], [204, undefined])
  const local = await inject({
    method: 'OPTIONS',
    url: '/v1/status',
    headers: { ...preflight, 'access-control-request-private-network': 'true' },
  })
  t.equal(local.headers['access-control-allow-private-network'], 'true')
  isProblem(t, await call('GET', '/v1/none', undefined, preflight), 'NOT_FOUND')
})

t.test(
  'a body in an encoding that is not decoded is refused, and so is a request without a host',
  async (t) => {
    const { call } = await serve(t)
    isProblem(
      t,
      await call('PUT', '/v1/pages/a', SOURCE, { 'content-encoding': 'gzip' }),
      'UNSUPPORTED_MEDIA_TYPE',
    )
    for (const encoding of ['identity', 'IDENTITY'])
      t.ok((await call('PUT', '/v1/pages/a', SOURCE, { 'content-encoding': encoding })).status < 300)
  },
)

t.test('the document has the routes for clients, each with its answers, and no other', async (t) => {
  const { call } = await serve(t)
  const { paths } = (await call('GET', '/openapi.json')).body as { paths: Record<string, object> }
  t.same(
    ['/', '/openapi.json', '/v1/pages/{name}'].map((path) => path in paths),
    [false, false, true],
  )
  t.match(paths['/v1/pages/{name}'], { get: { responses: { 200: {}, 404: {} } } })
})

// ---- errors -----------------------------------------------------------------------------------------------

t.test('any error becomes one for the client; faults of the server are told to it alone', async (t) => {
  const internal: unknown[] = []
  const of = (error: unknown): [string, string] => {
    const { code, message } = toMmsbError(error, (cause) => internal.push(cause))
    return [code, message]
  }
  t.same(of(new MmsbError('NOT_FOUND', 'x')), ['NOT_FOUND', 'x'])
  t.equal(of({ code: 'FST_ERR_CTP_BODY_TOO_LARGE', statusCode: 413 })[0], 'PAYLOAD_TOO_LARGE')
  t.equal(of({ code: 'FST_ERR_CTP_INVALID_MEDIA_TYPE' })[0], 'UNSUPPORTED_MEDIA_TYPE')
  t.match(of({ code: 'FST_ERR_MAX_PARAM_LENGTH' }), ['INVALID_REQUEST', /^path\.name/])
  t.match(of({ code: 'FST_ERR_CTP_INVALID_CONTENT_LENGTH' }), ['INVALID_REQUEST', /content-length/])
  for (const statusCode of [400, 499])
    t.same(of({ code: 'X', statusCode, message: 'y'.repeat(400) }), ['INVALID_REQUEST', 'y'.repeat(300)])
  t.equal(of({ statusCode: 400 })[1], 'the request cannot be read')
  t.same(internal, [])
  const causes = [new MmsbError('INTERNAL', 'a'), new Error('b'), { statusCode: 500 }, { statusCode: 399 }]
  for (const cause of causes) t.equal(of(cause)[0], 'INTERNAL')
  t.same(internal, causes)
  t.notMatch(of(new Error('secret'))[1], /secret/)
})

t.test('an error as a whole response; a path as it is shown', async (t) => {
  const text = rawProblem(new MmsbError('OVERLOADED', 'é'), { 'x-a': '1' })
  const [head, body] = text.split('\r\n\r\n') as [string, string]
  t.match(JSON.parse(body), { code: 'OVERLOADED', status: 503, detail: 'é' })
  t.match(head, /^HTTP\/1\.1 503 Service Unavailable\r\n/)
  t.match(
    head,
    new RegExp(
      `content-length: ${Buffer.byteLength(body)}\\r\\nconnection: close\\r\\nretry-after: \\d+\\r\\n[^]*x-a: 1$`,
    ),
  )
  t.notMatch(rawProblem(new MmsbError('NOT_FOUND', 'x'), {}), /retry-after/)
  t.same([pathOf('/a?b?c'), pathOf('/a'), shownPath(`/${'b'.repeat(300)}?x`).length], ['/a', '/a', 200])
})
