/**
 * Every error code of the table, provoked over HTTP by something a user could do. No answer reveals more than
 * it should.
 */
import { connect } from 'node:net'
import t from 'tap'
import { ERRORS, type ErrorCode } from '../../../src/errors.js'
import { QUEUE_MAX_BYTES } from '../../../src/limits.js'
import { HTTP_BODY_MAX_BYTES } from '../../../src/wire/limits.js'
import { Process } from '../../cli/process.js'
import { turn } from '../../lib/wait.js'
import { type Answer, isProblem, listen, type Served, SOURCE, serve } from '../helpers.js'

type Test = Parameters<typeof serve>[0]

/** Codes that no request can provoke yet, and why. */
const NOT_YET: Partial<Record<ErrorCode, string>> = {
  AUDIT_FAILED: 'there is no audit trail here; test/http/observe/audit.test.ts',
  UNAUTHORIZED: 'there are no credentials before there is authentication',
  RATE_LIMITED: 'nobody has limits of their own here; test/auth/limits/rates.test.ts',
  IDEMPOTENCY_MISMATCH: 'the first write under the key is committed; test/http/routes/data.test.ts',
  FOLDER_LOCKED: 'a server that cannot lock its folder does not start',
  READ_ONLY: 'the bus takes writes here; test/http/reply/read-only.test.ts',
}

const map = (input: string, expr: string): object => ({ derive: { op: 'map', inputs: { x: input }, expr } })

async function withPages(t: Test): Promise<Served> {
  const served = await serve(t)
  await served.call('PUT', '/v1/pages/a', SOURCE)
  await served.call('PUT', '/v1/pages/b', map('a', 'x'))
  await served.call('PUT', '/v1/pages/wide', { dtype: 'f32', shape: [3] })
  return served
}

type Provocation = (served: Served, t: Test) => Promise<Answer>

/** Sends bytes over a connection, keeps it open, and returns everything the server answers. */
async function told(port: number, bytes: string): Promise<Buffer> {
  const socket = connect(port, '127.0.0.1')
  socket.write(bytes)
  const chunks: Buffer[] = []
  for await (const chunk of socket) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks)
}

/** The same for a single answer. */
async function answerTo(port: number, bytes: string): Promise<Answer> {
  const raw = await told(port, bytes)
  const [head = '', body = ''] = raw.toString().split('\r\n\r\n')
  const [start = '', ...fields] = head.split('\r\n')
  const headers = Object.fromEntries(fields.map((field) => field.toLowerCase().split(': ')))
  return { status: Number(start.split(' ')[1]), headers, body: JSON.parse(body), raw }
}

const PROVOKED: Partial<Record<ErrorCode, Provocation>> = {
  UNSUPPORTED_MEDIA_TYPE: ({ call }) =>
    call('PATCH', '/v1/pages/a/data', { values: [1] }, { 'content-encoding': 'gzip' }),
  NOT_ACCEPTABLE: ({ call }) => call('GET', '/v1/pages/a/data', undefined, { accept: 'text/html' }),
  INVALID_REQUEST: ({ call }) => call('PUT', '/v1/pages/new', { ...SOURCE, colour: 'red' }),
  INVALID_DELTA: ({ call }) => call('PATCH', '/v1/pages/a/data', { values: ['x'] }),
  INVALID_EXPRESSION: ({ call }) => call('PUT', '/v1/pages/new', map('a', 'x +')),
  FORBIDDEN: ({ call }) => call('GET', '/v1/pages', undefined, { host: 'example.com' }),
  PAGE_NOT_FOUND: ({ call }) => call('GET', '/v1/pages/none'),
  EPOCH_NOT_FOUND: ({ call }) => call('GET', '/v1/pages/a/data?epoch=99'),
  NOT_FOUND: ({ call }) => call('GET', '/v1/nothing'),
  METHOD_NOT_ALLOWED: ({ call }) => call('DELETE', '/v1/status'),
  PAGE_EXISTS: ({ call }) => call('PUT', '/v1/pages/a', { dtype: 'f64', shape: [4] }),
  PAGE_IN_USE: ({ call }) => call('DELETE', '/v1/pages/a'),
  PAGE_READ_ONLY: ({ call }) => call('PATCH', '/v1/pages/b/data', { values: [1] }),
  COST_EXCEEDED: async (_served, t) => {
    const { call } = await serve(t)
    await call('PUT', '/v1/pages/x', { dtype: 'f64', shape: [700, 700] })
    const inputs = { x: 'x', kernel: 'x' }
    return call('PUT', '/v1/pages/new', { derive: { op: 'conv', inputs, boundary: 'wrap' } })
  },
  HISTORY_CHANGED: ({ call }) => call('GET', `/v1/epochs?history=${'0'.repeat(32)}.${'0'.repeat(16)}`),
  GRAPH_CYCLE: ({ call }) => call('PUT', '/v1/pages/a', map('b', 'x')),
  EPOCH_COMPACTED: ({ call }) => call('GET', '/v1/pages/a/data?epoch=1'),
  PRECONDITION_FAILED: ({ call }) =>
    call('PATCH', '/v1/pages/a/data', { values: [1] }, { 'if-match': '"v99"' }),
  REQUEST_TIMEOUT: async (served) => {
    const { port } = await listen(served)
    // Node's timer does this after a minute.
    served.server.app.server.once('connection', (socket) => {
      const error = Object.assign(new Error('Request timeout'), { code: 'ERR_HTTP_REQUEST_TIMEOUT' })
      served.server.app.server.emit('clientError', error, socket)
    })
    return answerTo(port, 'GET /livez')
  },
  HEADERS_TOO_LARGE: async (served) => {
    const { port } = await listen(served)
    return answerTo(port, `GET /v1/read?pages=${'x'.repeat(1_000_000)} HTTP/1.1\r\nHost: localhost\r\n\r\n`)
  },
  PAYLOAD_TOO_LARGE: ({ call }) =>
    call('PUT', '/v1/pages/a/data', Buffer.alloc(0), { 'content-length': String(HTTP_BODY_MAX_BYTES + 1) }),
  RANGE_NOT_SATISFIABLE: ({ call }) => call('GET', '/v1/pages/a/data', undefined, { range: 'bytes=99-' }),
  UNSUPPORTED_LOCATION: ({ call }) => call('PUT', '/v1/pages/new', { ...SOURCE, location: 'gpu' }),
  SHAPE_MISMATCH: ({ call }) =>
    call('PUT', '/v1/pages/new', { derive: { op: 'map', inputs: { x: 'a', y: 'wide' }, expr: 'x+y' } }),
  QUOTA_EXCEEDED: async (_served, t) => {
    const { call } = await serve(t, { limits: { maxPages: 1 } })
    await call('PUT', '/v1/pages/a', SOURCE)
    return call('PUT', '/v1/pages/b', SOURCE)
  },
  OUT_OF_MEMORY: async (_served, t) => {
    const { call } = await serve(t, { memoryLimitBytes: 1024 ** 2 })
    return call('PUT', '/v1/pages/new', { dtype: 'f64', shape: [1024 ** 2] })
  },
  OVERLOADED: async ({ bus, call }) => {
    const bytes = 1024 ** 2
    await bus.create('big', { dtype: 'u8', shape: [bytes] })
    const values = new Uint8Array(bytes)
    let isOver = false
    const keepWriting = async (): Promise<void> => {
      while (!isOver) await bus.write('big', values).catch(() => turn())
    }
    const writers = Array.from({ length: QUEUE_MAX_BYTES / bytes + 64 }, keepWriting)
    let answer = await call('PUT', '/v1/pages/big/data', Buffer.from(values))
    for (let i = 0; i < 200 && answer.status === 200; i++) {
      answer = await call('PUT', '/v1/pages/big/data', Buffer.from(values))
    }
    isOver = true
    await Promise.all(writers)
    return answer
  },
  BUS_FAILED: async (_served, t) => {
    const { bus, call } = await serve(t)
    await bus.close()
    return call('PUT', '/v1/pages/a', SOURCE)
  },
  INTERNAL: async (_served, t) => {
    const { bus, call } = await serve(t)
    bus.status = () => {
      throw new TypeError('secret thing at /secret/path')
    }
    return call('GET', '/v1/status')
  },
  LOG_FULL: async (_served, t) => {
    // A limit on file size stands in for a full disk: a segment fits, a record larger than a segment does
    // not.
    const server = new Process(['serve', '--port', '0', '--data-dir', t.testdir()], {
      prelude: "trap '' XFSZ; ulimit -f 65536",
    })
    t.teardown(() => server.end('SIGKILL'))
    const page = `${await server.ready()}/v1/pages/a`
    const size = HTTP_BODY_MAX_BYTES - 1024
    const json = { 'content-type': 'application/json' }
    await fetch(page, { method: 'PUT', headers: json, body: JSON.stringify({ dtype: 'u8', shape: [size] }) })
    const octets = { 'content-type': 'application/octet-stream' }
    const full = await fetch(`${page}/data`, { method: 'PUT', headers: octets, body: Buffer.alloc(size, 1) })
    const small = await fetch(`${page}/data`, { method: 'PATCH', headers: octets, body: Buffer.of(1) })
    t.match(await small.json(), { epoch: 2 }, 'nothing was applied, and the bus goes on')
    const body = (await full.json()) as Record<string, unknown>
    return { status: full.status, headers: Object.fromEntries(full.headers), body, raw: Buffer.alloc(0) }
  },
}

t.test('every code of the table is provoked, or it is said why it cannot be', async (t) => {
  t.same(Object.keys({ ...PROVOKED, ...NOT_YET }).sort(), Object.keys(ERRORS).sort())
})

for (const [code, provoke] of Object.entries(PROVOKED) as [ErrorCode, Provocation][]) {
  t.test(code, async (t) => {
    const served = await withPages(t)
    const { epoch, digest } = served.bus.status()
    const answer = await provoke(served, t)
    isProblem(t, answer, code)
    if (code !== 'OVERLOADED')
      t.match(served.bus.status(), { epoch, digest }, 'nothing applied, nothing logged')
    t.equal((await served.call('GET', '/v1/pages/a')).status, 200, 'and the server goes on')
    if (code === 'OVERLOADED') t.match(answer.headers['retry-after'], /^\d+$/)
    if (code === 'INTERNAL') t.notMatch(JSON.stringify(answer.body), /secret/)
    if (code === 'EPOCH_COMPACTED') t.match(answer.body, { minEpoch: epoch })
  })
}

t.test('errors inside the server are logged whole, errors of clients are not', async (t) => {
  const logged: unknown[] = []
  const log = Object.assign(
    { fatal() {}, warn() {}, info() {}, debug() {}, trace() {}, silent() {}, level: 'info' },
    { error: (entry: unknown) => void logged.push(entry), child: () => logger },
  )
  const logger = log as unknown as NonNullable<Parameters<typeof serve>[2]>['logger']
  const { bus, call } = await serve(t, {}, { logger: logger! })
  await call('GET', '/v1/pages/none')
  await call('PUT', '/v1/pages/a', '{')
  t.same(logged, [])
  bus.graphLists = () => {
    throw new TypeError('broken')
  }
  isProblem(t, await call('GET', '/v1/graph'), 'INTERNAL')
  t.match(logged, [{ err: { message: 'broken', stack: String } }])
})

t.test('what is no request: a problem document, and the end of the connection', async (t) => {
  const served = await withPages(t)
  const { port } = await listen(served)
  const patch = 'PATCH /v1/pages/a/data HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n'
  const cases: Record<string, ErrorCode> = {
    'nonsense\r\n\r\n': 'INVALID_REQUEST',
    'GET / HTTP/9.9\r\n\r\n': 'INVALID_REQUEST',
    'FLY /v1/pages HTTP/1.1\r\nHost: localhost\r\n\r\n': 'INVALID_REQUEST',
    'CONNECT /v1/pages HTTP/1.1\r\nHost: localhost\r\n\r\n': 'INVALID_REQUEST',
    'GET /livez HTTP/1.1\r\nConnection: close\r\n\r\n': 'INVALID_REQUEST',
    [`${patch}Content-Length: abc\r\n\r\n`]: 'INVALID_REQUEST',
    [`${patch}Transfer-Encoding: chunked\r\n\r\nzz\r\n`]: 'INVALID_REQUEST',
    [`${patch}X: ${'x'.repeat(100_000)}\r\n\r\n`]: 'HEADERS_TOO_LARGE',
  }
  for (const [bytes, code] of Object.entries(cases)) {
    const answer = await answerTo(port, bytes)
    isProblem(t, answer, code, bytes.slice(0, 200))
    t.match(answer.headers, { connection: 'close' })
  }
  const expecting = `${patch}Connection: close\r\nExpect: miracles\r\nContent-Length: 14\r\n\r\n{"values":[1]}`
  t.match(await answerTo(port, expecting), { status: 200 }, 'an expectation nobody knows is ignored')
})

t.test('nonsense behind a request does not take the place of its answer', async (t) => {
  const served = await withPages(t)
  const { port } = await listen(served)
  const body = '{"values":[1]}'
  const head = `PATCH /v1/pages/a/data HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${body.length}`
  const raw = await told(port, `${head}\r\n\r\n${body}nonsense\r\n\r\n`)
  const [first, second, ...others] = raw.toString().split(/(?=HTTP\/1\.1 )/)
  t.match(first, /^HTTP\/1\.1 200 /)
  t.match(second, /^HTTP\/1\.1 400 /)
  t.same(others, [])
})

t.test('a content-type without a body is no body', async (t) => {
  const { call, bus } = await serve(t)
  const json = { 'content-type': 'application/json' }
  await bus.create('a', { dtype: 'f32', shape: [4] })
  await call('PUT', '/v1/functions/f', { params: ['x'], expr: 'x' })
  for (const [method, url] of [
    ['DELETE', '/v1/pages/a'],
    ['DELETE', '/v1/functions/f'],
    ['GET', '/v1/status'],
  ] as const) {
    t.equal((await call(method, url, undefined, json)).status, 200, `${method} ${url}`)
  }
  const durable = await serve(t, { dataDir: t.testdir() })
  t.equal((await durable.call('POST', '/v1/checkpoints', undefined, json)).status, 201)
  t.match((await durable.call('POST', '/v1/verify', undefined, json)).body, { ok: true })
  await durable.bus.create('a', { dtype: 'f32', shape: [4] })
  for (const [method, url] of [
    ['PUT', '/v1/pages/b'],
    ['PATCH', '/v1/pages/a/data'],
    ['PUT', '/v1/pages/a/data'],
    ['POST', '/v1/transactions'],
    ['POST', '/v1/whatif'],
    ['PUT', '/v1/functions/f'],
  ] as const) {
    for (const headers of [{}, json]) {
      const answer = await durable.call(method, url, undefined, headers)
      isProblem(t, answer, 'INVALID_REQUEST', `${method} ${url}`)
      t.match(answer.body.detail, /^body: is missing/)
    }
  }
})

t.test('a method that a path does not take: 405, and those it takes; OPTIONS asks for them', async (t) => {
  const { inject } = await withPages(t)
  const paths: Record<string, string> = {
    '/v1/status': 'GET, HEAD, OPTIONS',
    '/v1/pages': 'GET, HEAD, OPTIONS, POST',
    '/v1/pages/a': 'DELETE, GET, HEAD, OPTIONS, PUT',
    '/v1/pages/none/data?epoch=1': 'GET, HEAD, OPTIONS, PATCH, PUT',
    '/v1/transactions': 'OPTIONS, POST',
    '/v1/epochs/7': 'GET, HEAD, OPTIONS',
    '/v1/events': 'GET, HEAD, OPTIONS',
    '/v1/stream': 'GET, HEAD, OPTIONS',
    '/openapi.json': 'GET, HEAD, OPTIONS',
  }
  // The bodies would be refused if the server read them.
  const body = { headers: { 'content-type': 'text/plain' }, payload: '{' }
  for (const [url, allow] of Object.entries(paths)) {
    for (const method of ['GET', 'HEAD', 'PUT', 'PATCH', 'POST', 'DELETE', 'OPTIONS'] as const) {
      const { statusCode, headers, body: text } = await inject({ method, url, ...body })
      const isTaken = allow.includes(method)
      t.equal(statusCode === 405, !isTaken, `${method} ${url}: ${statusCode}`)
      if (!isTaken && method !== 'HEAD')
        t.match(JSON.parse(text), { code: 'METHOD_NOT_ALLOWED', detail: allow })
      if (!isTaken || method === 'OPTIONS') t.equal(headers.allow, allow)
    }
    const asked = await inject({ method: 'OPTIONS', url })
    t.match([asked.statusCode, asked.body], [204, ''])
    const odd = await inject({ method: 'PROPFIND' as 'GET', url })
    t.match([odd.statusCode, odd.headers.allow], [405, allow])
  }
  for (const method of ['GET', 'POST', 'OPTIONS'] as const) {
    const { statusCode, headers } = await inject({ method, url: '/v1/pages/a/nothing', ...body })
    t.match([statusCode, headers.allow], [404, undefined])
  }
})

t.test('requests that no route takes', async (t) => {
  const { call, inject } = await withPages(t)
  isProblem(t, await call('GET', '/nowhere'), 'NOT_FOUND')
  isProblem(t, await call('GET', `/v1/pages/${'x'.repeat(9000)}`), 'INVALID_REQUEST')
  isProblem(t, await call('GET', '/v1/pages/%zz'), 'INVALID_REQUEST')
  isProblem(
    t,
    await call('PUT', '/v1/pages/new', Buffer.from('{}')),
    'UNSUPPORTED_MEDIA_TYPE',
    'octets where JSON is meant',
  )
  for (const type of [
    'text/plain',
    'application/xml',
    'application/x-www-form-urlencoded',
    'nonsense',
    'application/json; charset=',
  ]) {
    const response = await inject({
      method: 'PUT',
      url: '/v1/pages/new',
      headers: { 'content-type': type },
      payload: '{}',
    })
    const code = type.endsWith('=') ? 'INVALID_REQUEST' : 'UNSUPPORTED_MEDIA_TYPE'
    t.match(response.json(), { status: response.statusCode, code }, type)
  }
  const large = { 'content-length': String(HTTP_BODY_MAX_BYTES + 1), 'content-type': 'application/json' }
  isProblem(t, await call('POST', '/v1/transactions', '{}', large), 'PAYLOAD_TOO_LARGE')
})

t.test(
  'pages of other sites, and names that were made to lead here, are kept out of every route',
  async (t) => {
    const { call } = await withPages(t)
    const foreign = [
      { host: 'example.com' },
      { origin: 'http://example.com' },
      { origin: 'null' },
      { host: 'localhost', origin: 'http://localhost:1' },
    ]
    for (const headers of foreign) {
      for (const url of [
        '/v1/pages',
        '/v1/pages/a/data',
        '/livez',
        '/metrics',
        '/openapi.json',
        '/docs/',
        '/v1/events?pages=a',
        '/none',
      ]) {
        // A probe may send any Host, but is no web page.
        if (url === '/livez' && !('origin' in headers)) continue
        isProblem(
          t,
          await call('GET', url, undefined, headers),
          'FORBIDDEN',
          `${url} ${JSON.stringify(headers)}`,
        )
      }
      isProblem(t, await call('PATCH', '/v1/pages/a/data', { values: [1] }, headers), 'FORBIDDEN')
    }
    t.equal(
      (await call('GET', '/v1/pages', undefined, { host: 'localhost', origin: 'http://localhost' })).status,
      200,
    )
  },
)
