/** `mmsb verify`: what it prints, and its exit code. */
import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { Bus } from '../../src/index.js'
import { folder } from '../lib/folder.js'
import { moduleUrl, NODE_ARGS } from '../lib/place.js'

const MAIN = moduleUrl('src/cli/main.ts')

function mmsb(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  const script = `import { run } from ${JSON.stringify(MAIN)}\nawait run(process.argv.slice(1))`
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [...NODE_ARGS, '--input-type=module', '-e', script, '--', ...args],
    { encoding: 'utf8' },
  )
  return { status, stdout, stderr }
}

t.test('a sound folder, one in use, a damaged one', async (t) => {
  const dir = folder(t)
  const bus = await Bus.open({ dataDir: dir, backend: 'cpu', threads: 1, fsync: 'off' })
  await bus.create('a', { dtype: 'f64', shape: [100] })
  for (let i = 0; i < 9; i++) await bus.patch('a', { offset: i, values: [i + 1] })
  const busy = mmsb('verify', '--data-dir', dir)
  t.equal(busy.status, 1)
  t.match(busy.stderr, /in use/)
  await bus.close()

  const sound = mmsb('verify', '--data-dir', dir)
  t.same([sound.status, sound.stdout], [0, 'ok: epochs 0 to 10, 10 replayed\n'], sound.stderr)
  t.equal(
    mmsb('verify', '--data-dir', dir, '--from', '4', '--to', '6').stdout,
    'ok: epochs 4 to 6, 2 replayed\n',
  )
  t.equal(mmsb('verify', '--data-dir', dir, '--to', '11').status, 1)
  t.equal(mmsb('verify', '--nothing').status, 2)
  t.equal(mmsb('verify', '--data-dir', join(dir, 'none')).status, 1)
  t.match(mmsb('verify', '--help').stdout, /--data-dir/)

  const file = join(dir, 'log', readdirSync(join(dir, 'log'))[0] as string)
  const bytes = readFileSync(file)
  const at = bytes.indexOf(Buffer.from(Float64Array.of(5).buffer))
  bytes[at] = 1
  writeFileSync(file, bytes)
  const bad = mmsb('verify', '--data-dir', dir)
  t.equal(bad.status, 1)
  t.match(bad.stdout, /^diverges at epoch 6: /)
})
