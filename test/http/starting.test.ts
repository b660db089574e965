/** The server before it is ready: it listens, says how far it is, and can be stopped. */
import { once } from 'node:events'
import { cpSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import WebSocket from 'ws'
import { connect } from '../../src/client/node.js'
import { Bus } from '../../src/index.js'
import { STOP_GRACE_MS } from '../../src/limits.js'
import { call, type Process, serve } from '../cli/process.js'
import { until } from '../lib/wait.js'

/** Side of a page whose convolution with itself takes some 100 ms. */
const SIDE = 100
const EPOCHS = 14

/** A folder without a checkpoint whose replay takes more than a second. Tests copy it. */
const SLOW_FOLDER = join(t.testdir(), 'slow')

async function makeSlowFolder(dataDir: string): Promise<void> {
  const limits = { maxStepCostMs: 3_600_000, maxCommitCostMs: 3_600_000 }
  const bus = await Bus.open({ dataDir, backend: 'cpu', fsync: 'off', limits })
  await bus.create('x', { dtype: 'f64', shape: [SIDE, SIDE], fill: 1 })
  await bus.derive('y', { op: 'conv', inputs: { x: 'x', kernel: 'x' }, boundary: 'wrap' })
  for (let i = 1; i <= EPOCHS; i++) await bus.patch('x', { offset: i, values: [i] })
  await bus.close()
}

await makeSlowFolder(SLOW_FOLDER)

/** Where a server listens that is not ready yet. */
async function listening(server: Process): Promise<string> {
  const found = /Server listening at (http:\/\/[^"\s]+)/
  await until(() => found.test(server.stderr), 'the server listens')
  return found.exec(server.stderr)![1]!
}

const isStarting = async (url: string): Promise<boolean> =>
  ((await call(url, 'GET', '/startupz')).percent as number) > 0

t.test('a server that recovers says so, and puts requests off', async (t) => {
  const dataDir = join(t.testdir(), 'data')
  cpSync(SLOW_FOLDER, dataDir, { recursive: true })
  const server = serve(t, ['--data-dir', dataDir])
  const url = await listening(server)
  await until(() => isStarting(url), 'progress')
  t.match(await call(url, 'GET', '/livez'), { alive: true })
  const started = await fetch(`${url}/startupz`)
  t.equal(started.status, 503)
  t.match(await started.json(), { code: 'OVERLOADED', state: 'recovering', percent: Number })
  const ready = await call(url, 'GET', '/readyz')
  t.match(ready, { status: 503, detail: 'the server is not ready' })
  t.match(
    (await call(url, 'GET', '/v1/status')).detail,
    /^the server is starting \(\d+ %\): replaying epoch \d+ of 16$/,
  )
  t.match(await (await fetch(`${url}/metrics`)).text(), /^mmsb_up 0$/m)
  const write = { method: 'PATCH', headers: { 'content-type': 'application/json' }, body: '{"values":[1]}' }
  const refused = await fetch(`${url}/v1/pages/x/data`, write)
  t.equal(refused.status, 503)
  t.match(refused.headers.get('retry-after'), /^\d+$/)
  t.equal((await fetch(`${url}/livez`, { headers: { origin: 'http://example.com' } })).status, 403)
  const socket = new WebSocket(`${url.replace('http', 'ws')}/v1/stream`)
  const [, response] = (await once(socket, 'unexpected-response')) as [unknown, { statusCode: number }]
  t.equal(response.statusCode, 503)
  t.equal(server.stdout, '', 'the line on standard output means ready')

  const client = connect(url, { timeoutMs: 60_000, retries: 100 })
  t.teardown(() => client.close())
  t.match(await client.patch('x', { offset: 0, values: [7] }), { epoch: EPOCHS + 3 }, 'the client bridges it')
  t.equal(await server.ready(), url)
  t.match(await call(url, 'GET', '/startupz'), { state: 'ready', percent: 100 })
  t.match(await call(url, 'GET', '/readyz'), { ready: true })
  t.equal(await server.end(), 0)
})

t.test('SIGTERM ends a server that recovers, and the next start finds everything', async (t) => {
  const dataDir = join(t.testdir(), 'data')
  cpSync(SLOW_FOLDER, dataDir, { recursive: true })
  const server = serve(t, ['--data-dir', dataDir])
  const url = await listening(server)
  await until(() => isStarting(url), 'progress')
  t.equal(server.stdout, '', 'it still recovers')
  const startMs = performance.now()
  t.equal(await server.end('SIGTERM'), 0)
  t.ok(performance.now() - startMs < STOP_GRACE_MS, `${performance.now() - startMs} ms`)
  t.equal(server.stdout, '')
  const bus = await Bus.open({ dataDir, backend: 'cpu' })
  t.equal(bus.epoch, EPOCHS + 2)
  await bus.close()
})

t.test('SIGTERM at any moment of the start', async (t) => {
  const dataDir = t.testdir()
  for (let delayMs = 0; delayMs <= 800; delayMs += 200) {
    const server = serve(t, ['--data-dir', dataDir])
    await until(() => server.stderr !== '' || delayMs === 0, 'it runs')
    await new Promise((resolve) => setTimeout(resolve, delayMs / 4))
    const code = await server.end('SIGTERM')
    // Before the command is loaded the signal has its default action.
    t.ok(code === 0 || (code === 'SIGTERM' && server.stderr === ''), `${delayMs}: ${code}`)
  }
})
