/**
 * The real server on real disks that are full, read-only, forbidden or failing: what
 * docs/internals/DURABILITY.md says under "When the disk fails". The disk is a small tmpfs; where none can be
 * mounted, these tests are skipped.
 */
import { randomBytes } from 'node:crypto'
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { call, type Process, run, serve } from '../cli/process.js'
import { until } from '../lib/wait.js'
import { Client } from '../stream/helpers.js'
import { smallVolume, type Volume } from './volume.js'

const MIB = 1024 ** 2
const PAGE_BYTES = 96 * 1024
const FLAGS = ['--segment-bytes', '1m', '--log-level', 'warn']

interface Answer {
  readonly status: number
  readonly body: Record<string, unknown>
}

async function put(url: string, name: string, bytes: Uint8Array): Promise<Answer> {
  const response = await fetch(`${url}/v1/pages/${name}/data`, {
    method: 'PUT',
    headers: { 'content-type': 'application/octet-stream' },
    body: bytes,
  })
  return { status: response.status, body: (await response.json()) as Record<string, unknown> }
}

async function get(url: string, name: string): Promise<Buffer> {
  const response = await fetch(`${url}/v1/pages/${name}/data`)
  return Buffer.from(await response.arrayBuffer())
}

/**
 * Fills the log with whole pages until one is refused. Returns the bytes that were acknowledged last, and the
 * refusal.
 */
async function writeUntilRefused(url: string): Promise<{ last: Buffer; refused: Answer }> {
  let last = await get(url, 'a')
  for (;;) {
    const bytes = randomBytes(PAGE_BYTES)
    const answer = await put(url, 'a', bytes)
    if (answer.status !== 200) return { last, refused: answer }
    last = bytes
  }
}

/** A ready server on the data folder. */
async function started(
  t: Test,
  dataDir: string,
  ...flags: string[]
): Promise<{ server: Process; url: string }> {
  const server = serve(t, ['--data-dir', dataDir, ...FLAGS, ...flags])
  return { server, url: await server.ready() }
}

function volumeTest(
  name: string,
  sizeBytes: number,
  body: (t: Test, volume: Volume, dataDir: string) => Promise<void>,
): void {
  t.test(name, async (t) => {
    const volume = smallVolume(t, sizeBytes)
    if (typeof volume === 'string') t.pass('on a small disk', { skip: volume })
    else await body(t, volume, join(volume.dir, 'data'))
  })
}

volumeTest(
  'a full disk: 507, nothing lost, reads go on, and writes when there is room',
  8 * MIB,
  async (t, volume, dataDir) => {
    const { server, url } = await started(t, dataDir)
    await call(url, 'PUT', '/v1/pages/a', { dtype: 'u8', shape: [PAGE_BYTES] })
    await call(url, 'PUT', '/v1/pages/n', { derive: { op: 'reduce', inputs: { x: 'a' }, fn: 'sum' } })
    const { last, refused } = await writeUntilRefused(url)
    t.match(refused, { status: 507, body: { code: 'LOG_FULL', status: 507, detail: String, hint: String } })
    const { epoch, digest } = await call(url, 'GET', '/v1/status')
    t.match(
      await put(url, 'a', randomBytes(PAGE_BYTES)),
      { status: 507 },
      'again, as long as there is no room',
    )
    t.match(await call(url, 'GET', '/v1/status'), { epoch, digest }, 'nothing was applied')
    t.ok(last.equals(await get(url, 'a')), 'what was acknowledged is there')
    t.match(await call(url, 'GET', '/readyz'), { ready: true, epoch })
    t.match(
      await call(url, 'POST', '/v1/whatif', { ops: [{ page: 'a', offset: 0, values: [1] }], read: ['n'] }),
      {
        epoch: (epoch as number) + 1,
      },
    )
    t.ok(volume.remount(`size=${12 * MIB}`))
    const bytes = randomBytes(PAGE_BYTES)
    t.match(await put(url, 'a', bytes), { status: 200, body: { epoch: (epoch as number) + 1 } })
    t.match(await call(url, 'POST', '/v1/verify', {}), { ok: true })
    t.equal(await server.end('SIGTERM'), 0)
    const { server: again, url: restarted } = await started(t, dataDir)
    t.ok(bytes.equals(await get(restarted, 'a')))
    t.equal(await again.end(), 0)
  },
)

for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
  volumeTest(
    `not a byte left: stopped by ${signal}, started, read, and written again`,
    8 * MIB,
    async (t, volume, dataDir) => {
      const { server, url } = await started(t, dataDir)
      await call(url, 'PUT', '/v1/pages/a', { dtype: 'u8', shape: [PAGE_BYTES] })
      const { last } = await writeUntilRefused(url)
      const { epoch, digest } = await call(url, 'GET', '/v1/status')
      volume.fill()
      const code = await server.end(signal)
      t.equal(code, signal === 'SIGTERM' ? 0 : signal, server.stderr)
      volume.fill()
      const { server: again, url: restarted } = await started(t, dataDir)
      t.match(await call(restarted, 'GET', '/v1/status'), { epoch, digest })
      t.ok(last.equals(await get(restarted, 'a')))
      t.match(await put(restarted, 'a', last), { status: 507, body: { code: 'LOG_FULL' } })
      t.match(await call(restarted, 'GET', '/readyz'), { ready: true })
      t.ok(volume.remount(`size=${12 * MIB}`))
      const bytes = randomBytes(PAGE_BYTES)
      t.match(await put(restarted, 'a', bytes), { status: 200 }, 'there is room again')
      t.match(await call(restarted, 'POST', '/v1/verify', {}), { ok: true })
      t.equal(await again.end(), 0, again.stderr)
    },
  )
}

volumeTest(
  'no room for a checkpoint: it fails, leaves no file, and the bus goes on',
  8 * MIB,
  async (t, volume, dataDir) => {
    const { server, url } = await started(t, dataDir, '--checkpoint-epochs', '10')
    await call(url, 'PUT', '/v1/pages/a', { dtype: 'u8', shape: [3 * MIB] })
    const bytes = randomBytes(3 * MIB)
    t.match(await put(url, 'a', bytes), { status: 200 })
    await call(url, 'PUT', '/v1/pages/b', { dtype: 'u8', shape: [1] })
    await call(url, 'PUT', '/v1/pages/half', {
      derive: { op: 'map', inputs: { x: 'a' }, expr: 'f32(x) * 1.5' },
    })
    const made = await call(url, 'POST', '/v1/checkpoints')
    t.match(made, { status: 507, code: 'LOG_FULL', detail: /checkpoint/ })
    t.same(readdirSync(join(dataDir, 'checkpoints')), [], 'no file is left')
    for (let i = 0; i < 40; i++) t.match(await put(url, 'b', Buffer.of(i)), { status: 200 })
    await until(
      () => server.stderr.includes('a checkpoint could not be made'),
      'a warning of one that was due',
    )
    await until(() => readdirSync(join(dataDir, 'checkpoints')).length === 0, 'its file removed')
    t.ok(bytes.equals(await get(url, 'a')))
    t.ok(volume.remount(`size=${40 * MIB}`))
    t.match(await call(url, 'POST', '/v1/checkpoints'), { epoch: 44, pages: 3, bytes: 15 * MIB + 1 })
    t.equal(await server.end('SIGTERM'), 0)
  },
)

volumeTest(
  'no room for a cursor: the reader is told, and keeps the place it had',
  4 * MIB,
  async (t, volume, dataDir) => {
    const { server, url } = await started(t, dataDir)
    await call(url, 'PUT', '/v1/pages/a', { dtype: 'u8', shape: [1] })
    const open = (from: string) => Client.open(Number(new URL(from).port))
    const client = await open(url)
    const subscribe = { type: 'subscribe', id: 's', pages: ['a'], durable: 'worker', from: 0 }
    t.match(await client.ask(subscribe), { type: 'subscribed' })
    await client.next((m) => m.type === 'change' && m.epoch === 1)
    t.match(await client.ask({ type: 'commit', id: 's', epoch: 1 }), { type: 'committed', epoch: 1 })
    await put(url, 'a', Buffer.of(7))
    await client.next((m) => m.type === 'change' && m.epoch === 2)
    volume.fill()
    // SQLite may still write into space that its files already have, so that is used up first.
    let refused = await client.ask({ ...subscribe, id: 'x', durable: 'x'.repeat(200) })
    for (let i = 0; i < 200 && refused.type !== 'error'; i++)
      refused = await client.ask({ ...subscribe, id: `x${i}`, durable: `${i}`.padEnd(200, 'x') })
    t.match(refused, { type: 'error', code: 'LOG_FULL' })
    t.match(await client.ask({ type: 'commit', id: 's', epoch: 2 }), { type: 'error', code: 'LOG_FULL' })
    const view = await call(url, 'GET', '/v1/subscriptions/worker')
    t.match(view, { epoch: 1, lag: 1 }, 'it has not moved')
    volume.free()
    t.equal(await server.end('SIGTERM'), 0)
    volume.fill()
    const { server: again, url: restarted } = await started(t, dataDir)
    t.match(
      await call(restarted, 'GET', '/v1/subscriptions/worker'),
      { epoch: 1, lag: 1 },
      'nor was it forgotten',
    )
    t.ok(volume.remount(`size=${12 * MIB}`))
    const reader = await open(restarted)
    t.match(await reader.ask({ ...subscribe, from: undefined }), { type: 'subscribed', epoch: 1 })
    await reader.next((m) => m.type === 'change' && m.epoch === 2)
    t.match(await reader.ask({ type: 'commit', id: 's', epoch: 2 }), { type: 'committed', epoch: 2 })
    t.equal(await again.end('SIGTERM'), 0)
  },
)

volumeTest(
  'a disk that was mounted read-only: it does not start, says why, and starts when it may write',
  8 * MIB,
  async (t, volume, dataDir) => {
    const { server, url } = await started(t, dataDir)
    await call(url, 'PUT', '/v1/pages/a', { dtype: 'u8', shape: [4] })
    await put(url, 'a', Buffer.of(1, 2, 3, 4))
    t.equal(await server.end('SIGKILL'), 'SIGKILL')
    t.ok(volume.remount('ro'))
    const { code, stderr, stdout } = await run(['serve', '--port', '0', '--data-dir', dataDir, ...FLAGS])
    t.same([code, stdout], [1, ''])
    t.match(stderr, /^mmsb: [^\n]*(read-only|readonly)[^\n]*\n$/)
    t.ok(volume.remount('rw'))
    const { server: again, url: restarted } = await started(t, dataDir)
    t.same([...(await get(restarted, 'a'))], [1, 2, 3, 4])
    t.equal(await again.end('SIGTERM'), 0)
  },
)
