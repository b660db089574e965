/**
 * The real server when its disk returns errors or its folder may not be accessed, as
 * docs/internals/DURABILITY.md says under "When the disk fails". failing_io.cpp, loaded before the system's
 * library, makes calls fail.
 */
import { chmodSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { Bus } from '../../src/index.js'
import { call, type Process, run, serve } from '../cli/process.js'
import { until } from '../lib/wait.js'
import { builtLibrary } from './preload.js'

const LIBRARY = builtLibrary('failing_io')

interface Failing {
  readonly dataDir: string
  readonly server: Process
  /** Makes calls fail from now on. */
  begin(): void
  end(): void
}

/** A server whose calls on files with `path` in their names can be made to fail. */
function serveFailing(
  t: Test,
  kind: 'write' | 'sync' | 'syncdir',
  path: string,
  flags: readonly string[] = [],
): Failing {
  const dir = t.testdir({ data: {} })
  const when = join(dir, 'failing')
  const dataDir = join(dir, 'data')
  const server = serve(t, ['--data-dir', dataDir, '--log-level', 'warn', ...flags], {
    env: { LD_PRELOAD: LIBRARY, FAIL_CALL: kind, FAIL_PATH: path, FAIL_WHEN: when },
  })
  return { dataDir, server, begin: () => writeFileSync(when, ''), end: () => rmSync(when) }
}

const patch = (url: string, value: number) =>
  call(url, 'PATCH', '/v1/pages/a/data', { offset: 0, values: [value] })

async function define(url: string): Promise<void> {
  await call(url, 'PUT', '/v1/pages/a', { dtype: 'i32', shape: [4] })
  await call(url, 'PUT', '/v1/pages/b', { derive: { op: 'map', inputs: { x: 'a' }, expr: 'x + 1' } })
}

/** The server has stopped for good and says why; a start without the fault finds every acknowledged write. */
async function stopped(t: Test, { server, dataDir, end }: Failing, acknowledged: number): Promise<void> {
  const url = await server.ready()
  const reason = { status: 503, code: 'BUS_FAILED', detail: /EIO/ }
  t.match(await call(url, 'GET', '/readyz'), { status: 503, code: 'BUS_FAILED', detail: /not ready/ })
  t.match(await call(url, 'GET', '/v1/status'), { state: 'failed', reason: /EIO/ }, 'it says why')
  t.match(await call(url, 'GET', '/livez'), { alive: true })
  end()
  t.match(await patch(url, 99), reason, 'not taken up again, though the disk would')
  t.match(await call(url, 'GET', '/v1/read?pages=a'), { status: 503, code: 'BUS_FAILED' })
  t.match(server.stderr, /EIO/)
  await server.end('SIGTERM')
  // In this process: the recovery is the same, and a server needs fifteen times as long to start.
  const bus = await Bus.open({ dataDir, backend: 'cpu' })
  const value = bus.read('a')[0] as number
  t.ok(value === acknowledged || value === acknowledged + 1, `${value} after ${acknowledged}`)
  t.equal(bus.read('b')[0], value + 1)
  t.match(await bus.patch('a', { values: [5] }), { epoch: Number })
  await bus.close()
}

t.test('a write to the log fails', async (t) => {
  const failing = serveFailing(t, 'write', '.seg')
  const url = await failing.server.ready()
  await define(url)
  for (let i = 1; i <= 5; i++) t.match(await patch(url, i), { epoch: i + 2 })
  failing.begin()
  t.match(await patch(url, 6), { status: 503, code: 'BUS_FAILED', detail: /EIO/ })
  await stopped(t, failing, 5)
})

t.test('a sync of the log fails, under interval', async (t) => {
  const failing = serveFailing(t, 'sync', '.seg', ['--fsync', 'interval'])
  const url = await failing.server.ready()
  await define(url)
  failing.begin()
  for (let i = 1; i <= 5; i++) t.match(await patch(url, i), { epoch: i + 2 })
  await until(async () => (await call(url, 'GET', '/readyz')).code === 'BUS_FAILED', 'the failure')
  await stopped(t, failing, 5)
})

t.test("the sync of the log's folder fails when a segment is begun", async (t) => {
  const failing = serveFailing(t, 'syncdir', '/log', ['--segment-bytes', '64k'])
  const url = await failing.server.ready()
  await define(url)
  failing.begin()
  let acknowledged = 0
  let last: Record<string, unknown> = {}
  for (let i = 1; i < 200 && last.code === undefined; i++) {
    const ops = [{ page: 'a', offset: 0, values: [i] }]
    last = await call(url, 'POST', '/v1/transactions', { ops, intent: 'x'.repeat(3000) })
    if (last.code === undefined) acknowledged = i
  }
  t.match(last, { status: 503, code: 'BUS_FAILED', detail: /EIO/ })
  t.ok(acknowledged > 5, `after ${acknowledged}`)
  await stopped(t, failing, acknowledged)
})

t.test('the sync of the data folder fails at the start: it is not opened', async (t) => {
  const { server, dataDir, begin, end } = serveFailing(t, 'syncdir', '/data')
  begin()
  t.equal(await server.exited, 1)
  t.match(server.stderr, /data folder .* cannot be used: EIO/)
  end()
  const bus = await Bus.open({ dataDir, backend: 'cpu' })
  t.equal(bus.epoch, 0)
  await bus.close()
})

for (const [kind, path] of [
  ['write', '/checkpoints/'],
  ['sync', '/checkpoints/'],
  ['syncdir', '/checkpoints'],
] as const) {
  t.test(`a ${kind} of a checkpoint fails: that checkpoint does, and nothing else`, async (t) => {
    const { server, dataDir, begin, end } = serveFailing(t, kind, path)
    const url = await server.ready()
    await define(url)
    t.match(await patch(url, 1), { epoch: 3 })
    begin()
    t.match(await call(url, 'POST', '/v1/checkpoints'), { status: 500, code: 'INTERNAL' })
    t.same(readdirSync(join(dataDir, 'checkpoints')), [])
    t.match(await patch(url, 2), { epoch: 4 })
    end()
    t.match(await call(url, 'POST', '/v1/checkpoints'), { epoch: 4, pages: 2 })
    t.equal(await server.end(), 0)
  })
}

t.test(
  'the catalogue cannot be written: a warning, commits go on, the next start brings it up',
  async (t) => {
    const { server, dataDir, begin, end } = serveFailing(t, 'write', 'catalog.db')
    const url = await server.ready()
    await define(url)
    begin()
    for (let i = 1; i <= 5; i++) t.match(await patch(url, i), { epoch: i + 2 })
    t.match(await call(url, 'POST', '/v1/checkpoints'), { epoch: 7 })
    t.match(server.stderr, /the catalog could not list checkpoint 7/)
    t.equal(await server.end(), 0)
    end()
    const again = serve(t, ['--data-dir', dataDir, '--log-level', 'warn'])
    const restarted = await again.ready()
    t.match(await call(restarted, 'GET', '/v1/status'), { epoch: 7 })
    t.match(await call(restarted, 'GET', '/v1/checkpoints'), { checkpoints: [{ epoch: 7 }] })
    t.equal(await again.end(), 0)
    t.equal((await run(['log', 'check', '--data-dir', dataDir])).code, 0)
  },
)

t.test('permission denied', async (t) => {
  const user = { isBoundByPermissions: true }
  const dir = t.testdir({ data: {} })
  const dataDir = join(dir, 'data')
  const flags = ['--data-dir', dataDir, '--segment-bytes', '64k', '--log-level', 'error']
  const refused = async (what: string): Promise<void> => {
    const { code, stdout, stderr } = await run(['serve', '--port', '0', ...flags], user)
    t.same([code, stdout], [1, ''], what)
    t.match(stderr, new RegExp(`^mmsb: [^\\n]*${dataDir}[^\\n]*\\n$`), what)
    t.match(stderr, /permission denied|unable to open|readonly/i, what)
  }
  chmodSync(dataDir, 0o500)
  await refused('the folder may not be written')
  chmodSync(dataDir, 0o700)
  const server = serve(t, flags, user)
  const url = await server.ready()
  await define(url)
  t.match(await patch(url, 1), { epoch: 3 })
  chmodSync(join(dataDir, 'log'), 0o500)
  let last: Record<string, unknown> = {}
  let acknowledged = 1
  for (let i = 2; i < 200 && last.code === undefined; i++) {
    const ops = [{ page: 'a', offset: 0, values: [i] }]
    last = await call(url, 'POST', '/v1/transactions', { ops, intent: 'x'.repeat(3000) })
    if (last.code === undefined) acknowledged = i
  }
  t.match(last, { status: 503, code: 'BUS_FAILED', detail: /EACCES/ }, 'no new segment may be made')
  t.match(await call(url, 'GET', '/v1/status'), { state: 'failed', reason: /EACCES/ })
  t.equal(await server.end('SIGTERM'), 0)
  chmodSync(join(dataDir, 'log'), 0o700)
  const tail = join(dataDir, 'log', readdirSync(join(dataDir, 'log')).at(-1) as string)
  chmodSync(tail, 0o400)
  await refused('the log may not be written')
  chmodSync(tail, 0o600)
  chmodSync(join(dataDir, 'catalog.db'), 0)
  const again = serve(t, flags, user)
  t.match(await call(await again.ready(), 'GET', '/v1/read?pages=a'), {
    pages: { a: { values: [acknowledged] } },
  })
  t.equal(await again.end(), 0)
  t.notOk(
    readdirSync(dataDir).includes('catalog.db.bad'),
    'a catalogue that may not be read is left where it is',
  )
})
