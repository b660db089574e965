/**
 * Checkpoints and retention as a user of the server sees them: flags, environment, status, 410, a clean stop.
 */
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { folder } from '../lib/folder.js'
import { until } from '../lib/wait.js'
import { call, run, serve } from './process.js'

async function newestCheckpoint(url: string): Promise<number> {
  const { checkpoints } = await call(url, 'GET', '/v1/checkpoints')
  return (checkpoints as readonly { epoch: number }[]).at(-1)?.epoch ?? 0
}

t.test('history is deleted as the flags say, and a clean stop makes a checkpoint', async (t) => {
  const dir = folder(t)
  const flags = ['--data-dir', dir, '--fsync', 'off', '--log-level', 'warn']
  const env = { MMSB_RETAIN_EPOCHS: '50', MMSB_SEGMENT_BYTES: '64k', MMSB_CHECKPOINT_EPOCHS: '20' }
  const server = serve(t, flags, { env })
  const url = await server.ready()
  await call(url, 'PUT', '/v1/pages/a', { dtype: 'f64', shape: [100] })
  await call(url, 'PUT', '/v1/pages/sum', { derive: { op: 'reduce', inputs: { x: 'a' }, fn: 'sum' } })
  let epoch = 0
  for (let i = 0; i < 200; i++) {
    const answer = await call(url, 'PATCH', '/v1/pages/a/data', { offset: 0, values: new Array(100).fill(i) })
    epoch = answer.epoch as number
    // On a busy machine a checkpoint takes longer than twenty writes.
    if (epoch % 40 === 0) await until(async () => (await newestCheckpoint(url)) > epoch - 40, 'a checkpoint')
  }
  const made = await call(url, 'POST', '/v1/checkpoints', {})
  t.match(made, { epoch, pages: 2, bytes: 808, newBytes: Number })
  t.match(await call(url, 'POST', '/v1/checkpoints', {}), { epoch, newBytes: 0 })
  const { minEpoch, digest } = (await call(url, 'GET', '/v1/status')) as { minEpoch: number; digest: string }
  t.ok(minEpoch > 0 && minEpoch <= epoch - 50, `minEpoch ${minEpoch} of ${epoch}`)
  const gone = await call(url, 'GET', `/v1/read?pages=a&epoch=${minEpoch - 1}`)
  t.match(gone, { status: 410, code: 'EPOCH_COMPACTED', minEpoch })
  t.match(await call(url, 'GET', `/v1/epochs/${minEpoch}`), {
    status: 410,
    code: 'EPOCH_COMPACTED',
    minEpoch: minEpoch + 1,
  })
  // Epochs 1 and 2 made the pages; epoch n wrote n - 3.
  const kept = await call(url, 'GET', `/v1/read?pages=a,sum&epoch=${minEpoch}`)
  t.match(kept, { epoch: minEpoch, pages: { sum: { values: [100 * (minEpoch - 3)] } } })
  t.match(await call(url, 'POST', '/v1/verify', {}), { ok: true, from: minEpoch, to: epoch })
  await call(url, 'PATCH', '/v1/pages/a/data', { offset: 0, values: [1] })
  t.equal(await server.end('SIGTERM'), 0)
  const names = readdirSync(join(dir, 'checkpoints'))
  t.ok(names.includes(`${String(epoch + 1).padStart(20, '0')}.db`), 'a checkpoint of the newest epoch')
  t.notOk(names.includes('next.tmp'))

  const again = serve(t, flags, { env })
  const status = await call(await again.ready(), 'GET', '/v1/status')
  t.equal(status.epoch, epoch + 1)
  t.ok((status.minEpoch as number) >= minEpoch)
  t.not(status.digest, digest)
  const list = (await call(await again.ready(), 'GET', '/v1/checkpoints')) as { checkpoints?: unknown[] }
  t.ok((list.checkpoints?.length ?? 0) >= 2, JSON.stringify(list).slice(0, 200))
  t.equal(await again.end('SIGTERM'), 0)
})

t.test('invalid flags', async (t) => {
  for (const flag of ['--retain-age=7', '--retain-epochs=0', '--segment-bytes=1k', '--checkpoint-bytes=x']) {
    const { code, stderr } = await run(['serve', '--port', '0', flag])
    t.equal(code, 2, flag)
    t.match(stderr, flag.split('=')[0] as string)
  }
})
