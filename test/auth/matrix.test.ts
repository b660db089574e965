/**
 * Who may use which route: every operation of the API is tried without a token, with a wrong one, with a
 * token of somebody who may do nothing with these pages, with exactly the scopes that it needs, and with each
 * of them left out. An operation without an entry fails the test.
 */
import type { InjectOptions } from 'fastify'
import t, { type Test } from 'tap'
import { newToken } from '../../src/auth/tokens.js'
import { type Guarded, serveTo } from './helpers.js'

interface Entry {
  readonly method: 'GET' | 'PUT' | 'PATCH' | 'POST' | 'DELETE'
  readonly url: string
  readonly body?: object
  /** Exactly what it needs; empty: a known sender. Undefined: nothing at all. */
  readonly scopes?: readonly string[]
  /** The status where one of the scopes is missing, in their order. 200: the answer shows less. */
  readonly without?: readonly number[]
}

const DELTA = { offset: 0, values: [1] }
const SOURCE = { dtype: 'f64', shape: [4] }
const derived = (input: string): object => ({ derive: { op: 'map', inputs: { a: input }, expr: 'a * 2' } })

/** In an order in which each can succeed. */
const MATRIX: Readonly<Record<string, Entry>> = {
  getLiveness: { method: 'GET', url: '/livez' },
  getReadiness: { method: 'GET', url: '/readyz' },
  getStartup: { method: 'GET', url: '/startupz' },
  getMetrics: { method: 'GET', url: '/metrics', scopes: ['metrics:*'], without: [403] },
  getStatus: { method: 'GET', url: '/v1/status', scopes: [] },
  getStats: { method: 'GET', url: '/v1/stats', scopes: [] },
  listPages: { method: 'GET', url: '/v1/pages', scopes: ['read:p.*'], without: [200] },
  getGraph: { method: 'GET', url: '/v1/graph', scopes: ['read:p.*'], without: [200] },
  getPage: { method: 'GET', url: '/v1/pages/p.a', scopes: ['read:p.a'], without: [404] },
  readPage: { method: 'GET', url: '/v1/pages/p.a/data', scopes: ['read:p.a'], without: [404] },
  readPages: {
    method: 'GET',
    url: '/v1/read?pages=p.a,p.b',
    scopes: ['read:p.a', 'read:p.b'],
    without: [404, 404],
  },
  createPage: {
    method: 'PUT',
    url: '/v1/pages/p.new',
    body: derived('p.a'),
    scopes: ['define:p.new', 'read:p.a'],
    without: [404, 404],
  },
  createPages: {
    method: 'POST',
    url: '/v1/pages',
    body: {
      pages: [
        { name: 'p.many', ...SOURCE },
        { name: 'p.many2', ...derived('p.many') },
      ],
    },
    scopes: ['define:p.many', 'define:p.many2', 'read:p.many'],
    without: [403, 404, 404],
  },
  patchPage: {
    method: 'PATCH',
    url: '/v1/pages/p.a/data',
    body: DELTA,
    scopes: ['write:p.a'],
    without: [404],
  },
  writePage: {
    method: 'PUT',
    url: '/v1/pages/p.a/data',
    body: { values: [1, 2, 3, 4] },
    scopes: ['write:p.a'],
    without: [404],
  },
  commitTransaction: {
    method: 'POST',
    url: '/v1/transactions',
    body: { ops: [{ page: 'p.a', ...DELTA }], expect: [{ page: 'p.b', version: 2 }] },
    scopes: ['write:p.a', 'read:p.b'],
    without: [404, 404],
  },
  whatIf: {
    method: 'POST',
    url: '/v1/whatif',
    body: { ops: [{ page: 'p.a', ...DELTA }], read: ['p.d'] },
    scopes: ['write:p.a', 'read:p.d'],
    without: [404, 404],
  },
  defineFunction: {
    method: 'PUT',
    url: '/v1/functions/f',
    body: { params: ['x'], expr: 'x + 3' },
    scopes: ['functions:*', 'define:p.f'],
    without: [403, 403],
  },
  listFunctions: { method: 'GET', url: '/v1/functions', scopes: ['read:p.f'], without: [200] },
  getFunction: { method: 'GET', url: '/v1/functions/f', scopes: ['read:p.f'], without: [404] },
  getEpoch: { method: 'GET', url: '/v1/epochs/1', scopes: ['history:p.*'], without: [403] },
  listEpochs: { method: 'GET', url: '/v1/epochs', scopes: ['history:p.*'], without: [403] },
  getPageHistory: {
    method: 'GET',
    url: '/v1/pages/p.a/history',
    scopes: ['read:p.a', 'history:p.a'],
    without: [404, 403],
  },
  diffEpochs: {
    method: 'GET',
    url: '/v1/diff?from=0&pages=p.a',
    scopes: ['read:p.a', 'history:p.a'],
    without: [404, 403],
  },
  streamEvents: { method: 'GET', url: '/v1/events?pages=*', scopes: [] },
  openStream: { method: 'GET', url: '/v1/stream', scopes: [] },
  listSubscriptions: { method: 'GET', url: '/v1/subscriptions', scopes: [] },
  getSubscription: { method: 'GET', url: '/v1/subscriptions/none', scopes: [] },
  deleteSubscription: { method: 'DELETE', url: '/v1/subscriptions/none', scopes: [] },
  createTicket: { method: 'POST', url: '/v1/tickets', scopes: [] },
  createCheckpoint: { method: 'POST', url: '/v1/checkpoints', scopes: ['admin:*'], without: [403] },
  listCheckpoints: { method: 'GET', url: '/v1/checkpoints', scopes: ['admin:*'], without: [403] },
  verifyLog: { method: 'POST', url: '/v1/verify', scopes: ['admin:*'], without: [403] },
  deletePage: {
    method: 'DELETE',
    url: '/v1/pages/p.gone?cascade=true',
    scopes: ['define:p.gone', 'define:p.gone2'],
    without: [404, 403],
  },
  deleteFunction: { method: 'DELETE', url: '/v1/functions/unused', scopes: ['functions:*'], without: [403] },
}

/** What an operation answers to those who may use it, where that is not a success. */
const ANSWERS: Readonly<Record<string, number>> = {
  // Without an upgrade.
  openStream: 400,
  getSubscription: 404,
  deleteSubscription: 404,
}

const principals: Record<string, readonly string[]> = { stranger: ['read:q.*', 'write:q.*', 'define:q.*'] }
for (const [operation, { scopes = [] }] of Object.entries(MATRIX)) {
  principals[operation] = scopes
  for (const [i] of scopes.entries()) principals[`${operation}.${i}`] = scopes.filter((_, k) => k !== i)
}

async function served(t: Test): Promise<Guarded> {
  const guarded = await serveTo(t, principals)
  const { bus } = guarded
  for (const name of ['p.a', 'p.b', 'p.gone', 'q.a']) await bus.create(name, { dtype: 'f64', shape: [4] })
  await bus.defineFunction('f', { params: ['x'], expr: 'x + 1' })
  await bus.defineFunction('unused', { params: ['x'], expr: 'x' })
  await bus.derive('p.d', { op: 'map', inputs: { a: 'p.a' }, expr: 'a + 1' })
  await bus.derive('p.f', { op: 'map', inputs: { a: 'p.b' }, expr: 'f(a)' })
  await bus.derive('p.gone2', { op: 'map', inputs: { a: 'p.gone' }, expr: 'a' })
  return guarded
}

function request({ method, url, body }: Entry, headers: Record<string, string>): InjectOptions {
  // An event stream has no end; its head says the same.
  const isStream = url.startsWith('/v1/events')
  return {
    method: isStream ? 'HEAD' : method,
    url,
    headers: { ...headers, ...(body === undefined ? {} : { 'content-type': 'application/json' }) },
    ...(body === undefined ? {} : { payload: JSON.stringify(body) }),
  }
}

/** What an answer says of an error. Data of pages does not belong into the output of a test. */
const detailOf = (body: string): string => /"detail":"([^"]*)/.exec(body)?.[1] ?? ''

t.test('every operation of the API has an entry', async (t) => {
  const { call } = await served(t)
  const { body } = await call('GET', '/openapi.json')
  const paths = Object.values(body.paths as Record<string, Record<string, { operationId: string }>>)
  const operations = paths.flatMap((path) => Object.values(path).map(({ operationId }) => operationId))
  t.same(operations.sort(), Object.keys(MATRIX).sort())
})

t.test('nobody gets in without a token that counts', async (t) => {
  const { inject } = await served(t)
  let address = 0
  for (const [operation, entry] of Object.entries(MATRIX)) {
    // An address whose logins fail all the time is told to wait.
    const remoteAddress = `10.0.0.${++address}`
    if (entry.scopes === undefined) {
      t.equal((await inject(request(entry, {}))).statusCode, 200, `${operation} is open`)
      continue
    }
    const wrong = { authorization: `Bearer ${newToken('stranger')}` }
    for (const headers of [{}, wrong, { authorization: 'Basic eDp5' }, { authorization: 'Bearer ' }]) {
      const { statusCode, headers: answered } = await inject({
        ...request(entry, headers as Record<string, string>),
        remoteAddress,
      })
      t.equal(statusCode, 401, `${operation} ${JSON.stringify(headers)}`)
      t.match(answered['www-authenticate'], /^Bearer /)
    }
  }
})

t.test('a scope that is missing is refused; a page that may not be read is not there', async (t) => {
  const { inject, as, bus } = await served(t)
  const before = bus.status().digest
  for (const [operation, entry] of Object.entries(MATRIX)) {
    for (const [i, scope] of (entry.scopes ?? []).entries()) {
      const answer = await inject(request(entry, as(`${operation}.${i}`)))
      t.equal(
        answer.statusCode,
        entry.without?.[i],
        `${operation} without ${scope}: ${detailOf(answer.body)}`,
      )
      if (answer.statusCode === 403) t.match(answer.json(), { code: 'FORBIDDEN', scope: String })
    }
    const { statusCode, body } = await inject(request(entry, as('stranger')))
    const isOpen = entry.scopes === undefined || entry.scopes.length === 0
    const shows = isOpen || entry.without?.includes(200) === true
    if (!shows) t.ok(statusCode === 403 || statusCode === 404, `${operation}: a stranger gets ${statusCode}`)
    t.notMatch(
      body.replaceAll(entry.url, ''),
      /p\.(a|b|d|f)\b.*p\.(a|b|d|f)\b/,
      `${operation}: shows a stranger nothing`,
    )
  }
  t.equal(bus.status().digest, before, 'and nothing has changed')
})

t.test('exactly the scopes that an operation needs are enough', async (t) => {
  const { inject, as } = await served(t)
  for (const [operation, entry] of Object.entries(MATRIX)) {
    const { statusCode, body } = await inject(request(entry, as(operation)))
    const wanted = ANSWERS[operation]
    if (wanted === undefined)
      t.ok(statusCode === 200 || statusCode === 201, `${operation}: ${statusCode} ${detailOf(body)}`)
    else t.equal(statusCode, wanted, `${operation}: ${detailOf(body)}`)
  }
})

t.test('a path that is written in another way opens nothing', async (t) => {
  const { inject, as } = await served(t)
  const statusOf = async (url: string, headers = {}): Promise<number> =>
    (await inject({ url, headers })).statusCode
  for (const url of ['/%6Detrics', '/%76%31/checkpoints', '/metrics?x=/livez']) {
    t.equal(await statusOf(url), url.startsWith('/%76') ? await statusOf('/v1/checkpoints') : 401, url)
    t.ok([400, 403, 404].includes(await statusOf(url, as('stranger'))), url)
  }
  t.ok([401, 404].includes(await statusOf('/docs/../v1/pages')), 'no way up')
  t.equal(await statusOf('/%6Civez'), 401, 'and one that is open may need a token')
})
