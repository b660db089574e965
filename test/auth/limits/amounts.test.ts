/**
 * Amounts that a principal may have: pages and their bytes, functions, connections, subscriptions, answers.
 */
import { get } from 'node:http'
import t, { type Test } from 'tap'
import { WebSocket } from 'ws'
import type { PrincipalLimits } from '../../../src/auth/limits/principal-limits.js'
import type { PrincipalUsage } from '../../../src/auth/limits/usage.js'
import { createCommand, sourceRecord } from '../../../src/engine/pages/page-records.js'
import { PAGE_OWN_BYTES } from '../../../src/limits.js'
import { FrameWriter } from '../../../src/state/frame/writer.js'
import { PAGE_ID_UNASSIGNED } from '../../../src/wire/frame.js'
import { isProblem, listen } from '../../http/helpers.js'
import { until } from '../../lib/wait.js'
import { Client } from '../../stream/helpers.js'
import { type Guarded, serveTo } from '../helpers.js'

const PAGE = { dtype: 'f64', shape: [4] }

const DESK = ['read:*', 'define:desk.*', 'write:desk.*', 'functions:*', 'metrics:*']

interface Limited extends Guarded {
  readonly usage: PrincipalUsage
  put(name: string, id?: string): Promise<{ status: number }>
  setLimits(limits: PrincipalLimits): void
}

async function limited(t: Test, limits: PrincipalLimits): Promise<Limited> {
  const all = ['read:*', 'define:*', 'write:*', 'functions:*']
  const guarded = await serveTo(t, { desk: DESK, all }, {}, { desk: limits })
  const { call, as, server, authenticator } = guarded
  await call('GET', '/v1/status', undefined, as('desk'))
  const { principal } = authenticator.login(guarded.tokens.desk as string)
  return {
    ...guarded,
    usage: server.usages?.of(principal) as PrincipalUsage,
    put: (name, id = 'desk') => call('PUT', `/v1/pages/${name}`, PAGE, as(id)),
    setLimits: (own) => guarded.limits.replace({ defaults: {}, own: new Map([['desk', own]]) }),
  }
}

t.test('pages: those under the names that it may define count, whoever created them', async (t) => {
  const { put, call, as, setLimits, bus } = await limited(t, { pages: 2 })
  t.equal((await put('desk.a', 'all')).status, 201)
  t.equal((await put('other.a', 'all')).status, 201)
  t.equal((await put('desk.b')).status, 201)
  const refused = await call('PUT', '/v1/pages/desk.c', PAGE, as('desk'))
  isProblem(t, refused, 'QUOTA_EXCEEDED')
  t.match(refused.body, { limit: 'pages', max: 2 })
  t.equal(refused.headers['retry-after'], undefined, 'waiting would not help')
  t.equal((await put('desk.b')).status, 200, 'a page that is there is no new one')
  t.equal((await put('desk.c', 'all')).status, 201, 'another one has no limit')
  await call('DELETE', '/v1/pages/desk.c', undefined, as('all'))
  await call('DELETE', '/v1/pages/desk.a', undefined, as('desk'))
  t.equal((await put('desk.c')).status, 201)
  setLimits({ pages: 3 })
  const many = (names: string[]): Promise<{ status: number; headers: Record<string, unknown> }> =>
    call('POST', '/v1/pages', { pages: names.map((name) => ({ name, ...PAGE })) }, as('desk')) as never
  t.equal((await many(['desk.d', 'desk.e'])).status, 507, 'all of a list, or none')
  t.notOk(bus.hasPage('desk.d'))
  const at = await Promise.all(['x', 'y', 'z'].map((name) => put(`desk.${name}`)))
  t.same(at.map(({ status }) => status).sort(), [201, 507, 507], 'those that come at once')
})

t.test('pages that frames create count too', async (t) => {
  const limited_ = await limited(t, { pages: 1 })
  const { as, bus } = limited_
  const { port } = await listen(limited_)
  const client = await Client.open(port, ['mmsb.v1.bin'], { headers: as('desk') })
  const creating = (...names: string[]): Buffer => {
    const frames = new FrameWriter({})
    for (const name of names)
      frames.createPage(
        createCommand(sourceRecord(PAGE_ID_UNASSIGNED, name, { dtype: 'f64', shape: [1], location: 'cpu' })),
      )
    return Buffer.from(frames.finish())
  }
  const text = (): string => Buffer.concat(client.binary).toString('latin1')
  client.send(creating('desk.a', 'desk.b'))
  await client.until(() => text().includes('"code":"QUOTA_EXCEEDED"'))
  t.notOk(bus.hasPage('desk.a'))
  client.send(creating('desk.a'))
  await until(() => bus.hasPage('desk.a'), 'the page')
  client.send(creating('desk.b'))
  await client.until(() => text().split('QUOTA_EXCEEDED').length === 3)
  t.notOk(bus.hasPage('desk.b'))
  await client.close()
})

t.test('page bytes: elements, and what a page takes itself', async (t) => {
  const { put, call, as } = await limited(t, { pageBytes: 2 * (32 + PAGE_OWN_BYTES) })
  t.equal((await put('desk.a')).status, 201)
  t.match((await call('PUT', '/v1/pages/desk.big', { dtype: 'f64', shape: [5] }, as('desk'))).body, {
    code: 'QUOTA_EXCEEDED',
    limit: 'pageBytes',
  })
  const derive = { op: 'map', inputs: { a: 'desk.a' }, expr: 'a' }
  t.equal((await call('PUT', '/v1/pages/desk.d', { derive }, as('desk'))).status, 507)
  t.equal((await put('desk.b')).status, 201)
})

t.test('functions', async (t) => {
  const { call, as, bus } = await limited(t, { functions: 1 })
  const define = (name: string): Promise<{ status: number }> =>
    call('PUT', `/v1/functions/${name}`, { params: ['x'], expr: 'x' }, as('desk'))
  await bus.defineFunction('one', { params: ['x'], expr: 'x + 1' })
  t.equal((await define('two')).status, 507)
  t.equal((await define('one')).status, 200, 'one that is there may change')
})

/** Opens an event stream; resolves with its status. */
const events = (url: string, headers: Record<string, string>): Promise<{ status: number; end: () => void }> =>
  new Promise((resolve, reject) => {
    const request = get(`${url}/v1/events?pages=*`, { headers }, (response) => {
      resolve({ status: response.statusCode as number, end: () => request.destroy() })
      response.on('error', () => {})
      response.resume()
    })
    request.on('error', reject)
  })

t.test('connections: WebSockets and event streams together, and each way out gives one back', async (t) => {
  const limited_ = await limited(t, { connections: 2 })
  const { as, usage } = limited_
  const { port, url } = await listen(limited_)
  const opened = async (): Promise<number> => {
    const socket = new WebSocket(`ws://127.0.0.1:${port}/v1/stream`, ['mmsb.v1.json'], {
      headers: as('desk'),
    })
    t.teardown(() => socket.terminate())
    return new Promise((resolve) => {
      socket.on('open', () => resolve(101))
      socket.on('unexpected-response', (_request, { statusCode = 0 }) => resolve(statusCode))
      socket.on('error', () => {})
    })
  }
  const first = await Client.open(port, ['mmsb.v1.json'], { headers: as('desk') })
  const stream = await events(url, as('desk'))
  t.same(usage.held.connections, 2)
  t.equal(await opened(), 507)
  const refused = await events(url, as('desk'))
  t.equal(refused.status, 507)
  t.equal((await events(url, as('all'))).status, 200, 'another one has no limit')
  await first.close()
  await until(() => usage.held.connections === 1, 'a closed WebSocket')
  stream.end()
  await until(() => usage.held.connections === 0, 'an event stream whose reader left')
  const cut = await Client.open(port, ['mmsb.v1.bin'], { headers: as('desk') })
  cut.socket.terminate()
  await until(() => usage.held.connections === 0, 'a WebSocket that was cut off')
  t.equal(await opened(), 101)
  const failed = await fetch(`${url}/v1/events?pages=*&from=99999`, { headers: as('desk') })
  t.equal(failed.status, 404)
  await failed.arrayBuffer()
  t.equal(usage.held.connections, 1, 'an event stream that never began')
})

t.test('subscriptions, over all connections', async (t) => {
  const limited_ = await limited(t, { subscriptions: 2 })
  const { as, usage } = limited_
  const { port } = await listen(limited_)
  const connect = (): Promise<Client> => Client.open(port, ['mmsb.v1.json'], { headers: as('desk') })
  const [one, other] = [await connect(), await connect()]
  const subscribe = (client: Client, id: string): Promise<{ type: string }> =>
    client.ask({ type: 'subscribe', id, pages: ['*'] })
  t.equal((await subscribe(one, 'a')).type, 'subscribed')
  t.equal((await subscribe(other, 'a')).type, 'subscribed')
  t.match(await subscribe(other, 'b'), {
    type: 'error',
    code: 'QUOTA_EXCEEDED',
    limit: 'subscriptions',
    max: 2,
  })
  await one.ask({ type: 'unsubscribe', id: 'a' })
  t.equal((await subscribe(other, 'c')).type, 'subscribed')
  await other.close()
  await until(() => usage.held.subscriptions === 0, 'those of a closed connection')
  await one.close()
  await until(() => usage.isIdle, 'nothing is held')
})

t.test('answers in flight', async (t) => {
  const limited_ = await limited(t, { answerBytesInFlight: 100_000 })
  const { as, usage, bus } = limited_
  await bus.create('big', { dtype: 'f64', shape: [2_000_000] })
  const { url } = await listen(limited_)
  const read = (signal?: AbortSignal): Promise<Response> =>
    fetch(`${url}/v1/pages/big/data`, {
      headers: { ...as('desk'), accept: 'application/octet-stream' },
      signal: signal ?? null,
    })
  const controller = new AbortController()
  const first = await read(controller.signal)
  t.equal(first.status, 200, 'one that is larger than the limit is sent while it is alone')
  t.ok(usage.held.answerBytesInFlight > 100_000)
  const second = await read()
  t.match(await second.json(), { code: 'RATE_LIMITED', limit: 'answerBytesInFlight', max: 100_000 })
  t.equal(second.headers.get('retry-after'), '1')
  controller.abort()
  await first.arrayBuffer().catch(() => {})
  await until(() => usage.held.answerBytesInFlight === 0, 'an answer whose reader left')
  const third = await read()
  t.equal((await third.arrayBuffer()).byteLength, 16_000_000)
  await until(() => usage.held.answerBytesInFlight === 0, 'an answer that was sent')
  const small = await fetch(`${url}/v1/pages/big/data?count=1`, { headers: as('desk') })
  t.equal(small.status, 206)
  const metrics = await (await fetch(`${url}/metrics`, { headers: as('desk') })).text()
  t.match(metrics, /mmsb_principal_limit_refusals_total\{limit="answerBytesInFlight"\} 1/)
})

t.test('a page whose creation fails does not go on to count', async (t) => {
  const { call, as } = await serveTo(
    t,
    { desk: DESK },
    { limits: { maxPageBytes: 1024 ** 2 } },
    { desk: { pages: 1, pageBytes: 2 ** 30 } },
  )
  const create = (name: string, elements: number): ReturnType<typeof call> =>
    call('PUT', `/v1/pages/desk.${name}`, { dtype: 'f64', shape: [elements] }, as('desk'))
  for (let i = 0; i < 3; i++)
    t.match((await create('large', 2 ** 20)).body, { code: 'QUOTA_EXCEEDED', limit: '--max-page-bytes' })
  t.equal((await create('small', 1)).status, 201)
  t.match((await create('other', 1)).body, { limit: 'pages' })
})
