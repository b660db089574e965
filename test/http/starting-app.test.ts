/** What a server answers before its bus is open, without a process and without a bus. */
import t from 'tap'
import type { Health } from '../../src/http/health.js'
import { openGuard } from '../../src/http/request/origin-guard.js'
import { buildStartingApp } from '../../src/http/starting.js'
import { LimitGuard } from '../../src/operator-limits.js'

t.test('it says how far it is, and puts everything else off', async (t) => {
  const main = { health: { state: 'recovering', percent: 40, reason: 'replaying' } as Health }
  const starting = await buildStartingApp({
    limits: new LimitGuard(),
    health: () => main.health,
    guard: openGuard,
    allowedOrigins: new Set(),
  })
  t.teardown(() => starting.close())
  t.equal(starting.port(), undefined)
  await starting.listen('127.0.0.1', 0)
  const url = `http://127.0.0.1:${starting.port()}`
  const ask = async (path: string, init: RequestInit = {}) => {
    const response = await fetch(`${url}${path}`, init)
    const { status, headers } = response
    return { status, text: await response.text(), type: headers.get('content-type') ?? '', headers }
  }
  t.match(await ask('/livez'), { status: 200, text: '{"alive":true}' })
  t.match(await ask('/livez?x=1'), { status: 200 })
  t.match(await ask('/livez', { method: 'HEAD' }), { status: 200, text: '' })
  const metrics = await ask('/metrics')
  t.match(metrics, { status: 200, type: /^text\/plain; .*version=/, text: /^mmsb_up 0$/m })
  t.match(metrics.text, /^mmsb_recovery_ratio 0\.4$/m)
  t.match(await starting.report.metrics(), /^mmsb_recovery_ratio 0\.4$/m)
  t.equal(starting.report.health(), main.health)
  t.match(await ask('/readyz'), { status: 503, text: /"the server is not ready"/ })
  const off = { status: 503, text: /"the server is starting \(40 %\): replaying"/ }
  t.match(await ask('/v1/status'), off)
  t.match(await ask('/startupz'), off)
  for (const method of ['POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'])
    t.match(await ask('/livez', { method }), off, `${method} has an effect`)
  const headers = { 'content-type': 'application/json' }
  const body = '{"not": json'
  const put = await ask('/v1/pages/a', { method: 'PUT', headers, body })
  t.match(put, off, 'the body is not looked at')
  t.match(put.headers.get('retry-after'), /^\d+$/)
  main.health = { state: 'recovering', percent: 41 }
  t.match(await ask('/v1/status'), { text: /\(41 %\)"/ })
  await starting.close()
  await t.rejects(ask('/livez'))
})

t.test('with authentication its metrics are put off too', async (t) => {
  const starting = await buildStartingApp({
    limits: new LimitGuard(),
    health: () => ({ state: 'recovering', percent: 40 }),
    guard: openGuard,
    allowedOrigins: new Set(),
    needsLogin: true,
  })
  t.teardown(() => starting.close())
  await starting.listen('127.0.0.1', 0)
  const { status } = await fetch(`http://127.0.0.1:${starting.port()}/metrics`)
  t.equal(status, 503)
  t.match(await starting.report.metrics(), /^mmsb_up 0$/m, 'the admin listener still has them')
})
