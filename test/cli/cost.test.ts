/**
 * A definition that would take minutes, against a real server: refused at once; with the limits raised it is
 * cancelled, at its deadline and by a stop, and leaves nothing that the next start would have to compute.
 */
import t from 'tap'
import { STOP_GRACE_MS } from '../../src/limits.js'
import { shortestMs, sleep } from '../lib/wait.js'
import { call, type Process, serve } from './process.js'

type Test = Parameters<typeof serve>[0]

/** Some 2.4e11 multiplications. */
const SHAPE = [700, 700]
const DEFINITION = { op: 'conv', inputs: { x: 'x', kernel: 'x' }, boundary: 'wrap' }
const UNLIMITED = ['--max-step-cost', '3600s', '--max-commit-cost', '3600s']
/** Within this much of the moment it was cancelled, on a slow machine. */
const PROMPT_MS = 3_000

t.setTimeout(120_000)

interface Started {
  readonly server: Process
  readonly url: string
  readonly define: () => Promise<Record<string, unknown>>
}

async function started(t: Test, dataDir: string, flags: readonly string[]): Promise<Started> {
  const server = serve(t, ['--data-dir', dataDir, '--backend', 'cpu', ...flags])
  const url = await server.ready()
  return { server, url, define: () => call(url, 'PUT', '/v1/pages/y', { derive: DEFINITION }) }
}

/** Starts again with the usual limits: quick, with x alone and with one void epoch. */
async function restarted(t: Test, dataDir: string, digest: unknown): Promise<void> {
  const startedMs = performance.now()
  const { server, url } = await started(t, dataDir, [])
  t.ok(performance.now() - startedMs < STOP_GRACE_MS, 'nothing is computed at start')
  t.match(await call(url, 'GET', '/v1/status'), { epoch: 2, pages: 1, digest })
  t.match(await call(url, 'GET', '/v1/epochs/2'), { void: true, transactions: [], changed: [], digest })
  t.match(await call(url, 'POST', '/v1/verify'), { ok: true, to: 2 })
  t.match(await call(url, 'PATCH', '/v1/pages/x/data', { offset: 0, values: [1] }), { epoch: 3 })
  t.equal(await server.end(), 0)
}

t.test('it is refused at once, and holds nobody', async (t) => {
  const { server, url, define } = await started(t, t.testdir(), [])
  await call(url, 'PUT', '/v1/pages/x', { dtype: 'f64', shape: SHAPE })
  const startedMs = performance.now()
  const refused = await define()
  t.match(refused, { status: 422, code: 'COST_EXCEEDED', limit: '--max-step-cost', limitMs: 10_000 })
  t.ok((refused.estimateMs as number) > 40_000, `estimated ${refused.estimateMs} ms`)
  t.match(await call(url, 'PATCH', '/v1/pages/x/data', { offset: 0, values: [1] }), { epoch: 2 })
  t.ok(performance.now() - startedMs < PROMPT_MS)
  t.equal(await server.end(), 0)
})

t.test('it is cancelled at its deadline', async (t) => {
  const dataDir = t.testdir()
  const { server, url, define } = await started(t, dataDir, [...UNLIMITED, '--max-commit-time', '500ms'])
  await call(url, 'PUT', '/v1/pages/x', { dtype: 'f64', shape: SHAPE })
  const { digest } = await call(url, 'GET', '/v1/status')
  const startedMs = performance.now()
  t.match(await define(), { status: 422, code: 'COST_EXCEEDED', limit: '--max-commit-time', max: 500 })
  t.ok(performance.now() - startedMs < 500 + PROMPT_MS)
  t.match(await call(url, 'GET', '/v1/status'), { epoch: 2, pages: 1, digest })
  t.match(await call(url, 'GET', '/v1/pages/y'), { code: 'PAGE_NOT_FOUND' })
  t.equal(await server.end(), 0)
  await restarted(t, dataDir, digest)
})

t.test('it is cancelled by a stop', async (t) => {
  const dataDir = t.testdir()
  const { server, url, define } = await started(t, dataDir, UNLIMITED)
  await call(url, 'PUT', '/v1/pages/x', { dtype: 'f64', shape: SHAPE })
  const { digest } = await call(url, 'GET', '/v1/status')
  const defined = define().catch(() => undefined)
  await sleep(500)
  const startedMs = performance.now()
  t.equal(await server.end(), 0)
  const tookMs = performance.now() - startedMs
  t.ok(tookMs < STOP_GRACE_MS + 1_000, `ended after ${tookMs} ms`)
  await defined
  t.notMatch(server.stderr, 'cut off', 'the log was closed in order')
  await restarted(t, dataDir, digest)
})

t.test('a what-if like it ends when its caller leaves, and writes go on', async (t) => {
  const { server, url } = await started(t, t.testdir(), UNLIMITED)
  await call(url, 'PUT', '/v1/pages/x', { dtype: 'f64', shape: [250, 250] })
  const { digest } = await call(url, 'GET', '/v1/status')
  const startedMs = performance.now()
  t.match(await call(url, 'PUT', '/v1/pages/y', { derive: DEFINITION }), { name: 'y' })
  const stepMs = performance.now() - startedMs
  const before = await call(url, 'GET', '/v1/status')
  t.not(before.digest, digest)
  const body = JSON.stringify({ ops: [{ page: 'x', offset: 0, values: [1] }], read: ['y'] })
  const headers = { 'content-type': 'application/json' }
  const writeMs = await shortestMs(stepMs / 2, async () => {
    const controller = new AbortController()
    const left = fetch(`${url}/v1/whatif`, { method: 'POST', body, headers, signal: controller.signal })
    await sleep(stepMs / 8)
    controller.abort()
    await t.rejects(left)
    const startMs = performance.now()
    await call(url, 'PUT', '/v1/pages/z', { dtype: 'u8', shape: [1] })
    const tookMs = performance.now() - startMs
    await call(url, 'DELETE', '/v1/pages/z')
    return tookMs
  })
  t.ok(writeMs < stepMs / 2, 'a write need not wait for the what-if')
  t.match(await call(url, 'GET', '/v1/status'), { digest: before.digest })
  t.equal(await server.end(), 0)
})
