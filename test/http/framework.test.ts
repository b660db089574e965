/** What every app of the server gets from its framework, before any route is added. */
import t from 'tap'
import { createFastify } from '../../src/http/framework.js'
import { LimitGuard } from '../../src/operator-limits.js'

t.test('the times of a connection are those of the operator; headers take no longer than a body', (t) => {
  for (const [headersTimeoutMs, bodyTimeoutMs, wantedMs] of [
    [5_000, 9_000, 5_000],
    [9_000, 5_000, 5_000],
  ] as const) {
    const limits = new LimitGuard({ headersTimeoutMs, bodyTimeoutMs, idleTimeoutMs: 7_000 })
    const { server } = createFastify(limits, {}).app
    t.equal(server.headersTimeout, wantedMs)
    t.equal(server.requestTimeout, bodyTimeoutMs)
    t.equal(server.keepAliveTimeout, 7_000)
  }
  t.end()
})

t.test('a path that the framework refuses leaves the connection open', async (t) => {
  const { app } = createFastify(new LimitGuard(), {})
  app.get('/:name', async () => ({}))
  for (const url of ['/%', `/${'x'.repeat(4_000)}`]) {
    const { statusCode, headers } = await app.inject(url)
    t.ok(statusCode >= 400 && statusCode < 500, `${statusCode}`)
    t.match(headers['content-type'], /^application\/problem\+json/)
    t.not(headers.connection, 'close')
  }
  await app.close()
})

t.test('a small JSON body reaches its route without waiting for a promise', async (t) => {
  const { app } = createFastify(new LimitGuard(), {})
  let isLater = false
  app.addHook('preParsing', (_request, _reply, payload, done) => {
    // Called before the framework hears of the end; the tick comes before any promise.
    payload.once('end', () => {
      process.nextTick(() => {
        isLater = true
      })
    })
    done(null, payload)
  })
  app.post('/', (_request, reply) => reply.send({ isLater }))
  const post = (payload: string) =>
    app.inject({ method: 'POST', url: '/', payload, headers: { 'content-type': 'application/json' } })
  t.same((await post('[1]')).json(), { isLater: false })
  t.same((await post(`["${'x'.repeat(150_000)}"]`)).json(), { isLater: true }, 'a large one waits')
  await app.close()
})

t.test('JSON of both sizes, none, and too much', async (t) => {
  const limits = new LimitGuard({ maxJsonBytes: 200_000 })
  const { app } = createFastify(limits, {})
  app.post('/', async ({ body }) => ({ kind: typeof body, length: JSON.stringify(body ?? '').length }))
  const post = (payload: string) =>
    app.inject({ method: 'POST', url: '/', payload, headers: { 'content-type': 'application/json' } })
  t.same((await post('')).json(), { kind: 'undefined', length: 2 })
  for (const length of [2, 1_000, 150_000, 200_000]) {
    const answer = await post(`"${'x'.repeat(length - 2)}"`)
    t.same(answer.json(), { kind: 'string', length }, `${length} bytes`)
  }
  const large = await post(`"${'x'.repeat(199_999)}"`)
  t.equal(large.statusCode, 413)
  t.match((await post('{')).json(), { code: 'INVALID_REQUEST', detail: /body: is not JSON/ })
  t.match((await post(`["${'x'.repeat(150_000)}"`)).json(), { code: 'INVALID_REQUEST' })
  await app.close()
})
