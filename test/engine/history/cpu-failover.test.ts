/**
 * The device fails in mid-run: the bus goes on on the CPU, with the same digests, and says so. Over the
 * emulated device.
 */
import { execFile } from 'node:child_process'
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import { Bus } from '../../../src/index.js'
import { programArgs, ROOT } from '../../lib/place.js'

const EMULATED = 'build/native/libmmsb_emulated.so'
const run = promisify(execFile)

interface Outcome {
  readonly before: { backend: string; equal: boolean; launched: number }
  readonly status: { backend: string; deviceLoss?: { epoch: number; reason: string } }
  readonly after: { equal?: boolean; later?: number[]; digest?: string; epoch?: number }
  readonly failures: string[]
  readonly notices: string[]
  readonly isEven: boolean
}

async function lose(dir: string, kind: 'durable' | 'memory'): Promise<Outcome> {
  rmSync(join(dir, 'lost'), { force: true })
  const env = { MMSB_LIBRARY: `${ROOT}${EMULATED}`, MMSB_EMULATED_LOST: join(dir, 'lost') }
  const args = [...programArgs('test/support/cpu-failover.ts'), dir, kind]
  const { stdout } = await run(process.execPath, args, { cwd: ROOT, env: { ...process.env, ...env } })
  return JSON.parse(stdout) as Outcome
}

await run('make', ['-s', EMULATED], { cwd: ROOT, maxBuffer: 1 << 24 })

t.test('the epoch in flight is acknowledged, those behind it too, and nothing differs', async (t) => {
  const dir = t.testdir()
  const { before, status, after, failures, notices, isEven } = await lose(dir, 'durable')
  t.match(before, { backend: 'cuda', equal: true })
  t.ok(before.launched >= 3, `${before.launched} captured graphs were launched`)
  t.equal(status.backend, 'cpu')
  t.match(status.deviceLoss?.reason, /the device was lost/)
  t.ok((status.deviceLoss?.epoch ?? 0) > 0)
  t.same(failures, ['UNSUPPORTED_LOCATION'], 'only a page that asks for the device is refused')
  t.equal(after.equal, true)
  t.same(after.later, [6, 6, 6, 6])
  t.ok(isEven, 'every epoch was published once')
  t.match(notices.join('\n'), /the device failed \(.*\): epoch \d+ was rebuilt on the CPU/)

  const again = await Bus.open({ dataDir: join(dir, 'data'), backend: 'cpu' })
  t.equal(again.epoch, after.epoch)
  t.equal(again.status().digest, after.digest, 'a restart without the device has the same state')
  t.match(await again.verify(), { ok: true, to: after.epoch, divergence: null })
  await again.close()
})

t.test('in memory there is nothing to rebuild from: the bus fails and says why', async (t) => {
  const { failures, after } = await lose(t.testdir(), 'memory')
  t.same(after, {})
  t.ok(failures.includes('BUS_FAILED'))
})
