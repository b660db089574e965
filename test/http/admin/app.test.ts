/** What the admin listener answers in each state, and how it stops; the test plays the main thread. */
import { once } from 'node:events'
import { connect } from 'node:net'
import t, { type Test } from 'tap'
import { type AdminAppOptions, buildAdminApp } from '../../../src/http/admin/app.js'
import type { Health } from '../../../src/http/health.js'
import { NO_ORIGINS, openGuard } from '../../../src/http/request/origin-guard.js'
import { ADMIN_STALLED_MS } from '../../../src/limits.js'
import { LimitGuard } from '../../../src/operator-limits.js'
import { sleep } from '../../lib/wait.js'

async function listening(t: Test, given: Partial<AdminAppOptions> = {}) {
  const main = { health: { state: 'ready', percent: 100 } as Health, stalledMs: 0 }
  const admin = await buildAdminApp({
    limits: new LimitGuard(),
    guard: openGuard,
    allowedOrigins: NO_ORIGINS,
    health: () => main.health,
    stalledMs: () => main.stalledMs,
    metrics: async () => ({ text: 'main 1\n', takenNs: process.hrtime.bigint() - 3_000_000_000n }),
    ...given,
  })
  t.equal(admin.port(), undefined)
  await admin.listen('127.0.0.1', 0)
  t.teardown(() => admin.close())
  const port = admin.port()!
  const get = async (path: string): Promise<[number, unknown]> => {
    const response = await fetch(`http://127.0.0.1:${port}${path}`)
    const text = await response.text()
    return [response.status, /json/.test(response.headers.get('content-type')!) ? JSON.parse(text) : text]
  }
  return { admin, main, port, get }
}

t.test('each state', async (t) => {
  const { main, get } = await listening(t)
  t.same(await get('/livez'), [200, { alive: true, stalledMs: 0 }])
  t.same(await get('/readyz'), [200, { ready: true }])
  t.same(await get('/startupz'), [200, { state: 'ready', percent: 100 }])
  main.health = { state: 'recovering', percent: 30, reason: 'replaying' }
  const starting = { code: 'OVERLOADED', state: 'recovering', percent: 30, detail: /30 %\): replaying$/ }
  t.match(await get('/readyz'), [503, starting])
  t.match(await get('/startupz'), [503, starting])
  t.match(await get('/livez'), [200, { alive: true }])
  main.health = { state: 'failed', percent: 100, reason: 'the disk is full' }
  t.match(await get('/readyz'), [503, { code: 'BUS_FAILED', state: 'failed', detail: 'the disk is full' }])
  t.same(await get('/startupz'), [200, { state: 'failed', percent: 100 }])
  main.health = { state: 'stopping', percent: 100 }
  t.match(await get('/readyz'), [503, { state: 'stopping', detail: 'the server is not ready' }])
})

t.test('a main thread that is held makes it not ready, from a bound on', async (t) => {
  const { main, get } = await listening(t)
  main.stalledMs = ADMIN_STALLED_MS - 1
  t.same(await get('/readyz'), [200, { ready: true }])
  t.same(await get('/livez'), [200, { alive: true, stalledMs: ADMIN_STALLED_MS - 1 }])
  main.stalledMs = ADMIN_STALLED_MS
  t.match(await get('/readyz'), [
    503,
    {
      code: 'OVERLOADED',
      state: 'ready',
      stalledMs: ADMIN_STALLED_MS,
      detail: 'the main thread has been held for 1.0 s',
    },
  ])
  main.stalledMs = 12_340
  t.match(await get('/readyz'), [503, { detail: /for 12\.3 s$/ }])
})

t.test('metrics of the main thread, and what this one knows', async (t) => {
  const { main, get } = await listening(t)
  main.stalledMs = 2_500
  const [status, text] = await get('/metrics')
  t.equal(status, 200)
  t.match(text, /^main 1\n/)
  t.match(text, /^mmsb_event_loop_stalled_seconds 2\.5$/m)
  const age = Number(/^mmsb_metrics_age_seconds (\S+)$/m.exec(text as string)![1])
  t.ok(age >= 3 && age < 60, `${age} s`)
})

t.test('other routes, and requests that the guard refuses', async (t) => {
  const { get, port } = await listening(t)
  t.match(await get('/v1/status'), [404, { code: 'NOT_FOUND' }])
  const posted = await fetch(`http://127.0.0.1:${port}/livez`, { method: 'POST' })
  t.equal(posted.status, 405)
  const upgrade = connect(port, '127.0.0.1')
  upgrade.write('GET /livez HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n')
  t.match(String((await once(upgrade, 'data'))[0]), /^HTTP\/1\.1 404 .*connection: close/s, 'answered')
  upgrade.destroy()
})

t.test('it stops: a request that is on its way is answered, silent connections are closed', async (t) => {
  const { admin, port } = await listening(t)
  const silent = connect(port, '127.0.0.1')
  const kept = connect(port, '127.0.0.1')
  await Promise.all([once(silent, 'connect'), once(kept, 'connect')])
  const ask = 'GET /livez HTTP/1.1\r\nhost: x\r\n\r\n'
  kept.write(ask)
  t.match(String((await once(kept, 'data'))[0]), /connection: keep-alive/i)
  const ends = [silent, kept].map((socket) => once(socket.resume(), 'close'))
  const closed = admin.close()
  await sleep(1)
  kept.write(ask)
  t.match(String((await once(kept, 'data'))[0]), /^HTTP\/1\.1 200 .*connection: close/is)
  await closed
  await Promise.all(ends)
  await t.rejects(fetch(`http://127.0.0.1:${port}/livez`))
})
