/** `--json` of the commands that work on a data folder or on a file. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { Bus } from '../../../src/index.js'
import { run } from '../process.js'

/** The values that a command printed, and its exit code. */
async function json(
  ...args: string[]
): Promise<{ code: number | string; values: unknown[]; stderr: string }> {
  const { code, stdout, stderr } = await run([...args, '--json'])
  const lines = stdout.split('\n').slice(0, -1)
  return { code, stderr, values: lines.map((line) => JSON.parse(line) as unknown) }
}

async function makeFolder(dir: string): Promise<void> {
  const bus = await Bus.open({ dataDir: dir, backend: 'cpu', threads: 1, fsync: 'off' })
  await bus.create('a', { dtype: 'f64', shape: [100] })
  for (let i = 0; i < 9; i++) await bus.patch('a', { offset: i, values: [i + 1] })
  await bus.close()
}

// Many processes, one after the other.
t.setTimeout(120_000)

t.test('of a sound folder', async (t) => {
  const dir = t.testdir()
  const data = join(dir, 'data')
  await makeFolder(data)
  const flags = ['--data-dir', data]
  t.same(await json('verify', ...flags), {
    code: 0,
    values: [{ ok: true, from: 0, to: 10, epochs: 10, divergence: null, problems: [] }],
    stderr: '',
  })
  t.match(await json('log', 'check', ...flags), {
    code: 0,
    values: [{ ok: true, segments: 1, soundEpoch: 10, problems: [], notes: [] }],
  })
  t.match(await json('index', 'rebuild', ...flags), { code: 0, values: [{ minEpoch: 1, indexedEpoch: 10 }] })
  t.same((await json('migrate', ...flags)).values, [{ pages: [] }])
  const file = join(dir, 'day.ev')
  t.same((await json('events', 'export', file, ...flags, '--from', '2')).values, [{ file, from: 2, to: 10 }])
  t.match((await json('events', 'replay', file)).values[0], {
    type: 'change',
    epoch: 2,
    changes: [{ page: 'a' }],
  })
  const out = join(dir, 'out')
  const npy = join(out, 'a.npy')
  const written = { page: 'a', file: npy, dtype: 'f64', shape: [100], epoch: 10 }
  t.same((await json('export', ...flags, '--out', out)).values, [written])
  const other = join(dir, 'other')
  t.same((await json('import', '--data-dir', other, '--files', npy)).values, [
    { page: 'a', dtype: 'f64', shape: [100], epoch: 2 },
  ])
  const copy = join(dir, 'copy')
  const [copied] = (await json('backup', ...flags, copy)).values as { bytes: number }[]
  t.match(copied, { folder: copy, epoch: 10 })
  t.ok(copied!.bytes > 4096)
  const again = join(dir, 'again')
  t.match((await json('restore', copy, '--data-dir', again)).values, [{ folder: again, epoch: 10 }])
})

t.test('of a damaged folder', async (t) => {
  const data = t.testdir()
  await makeFolder(data)
  const file = join(data, 'log', readdirSync(join(data, 'log'))[0] as string)
  const bytes = readFileSync(file)
  bytes[bytes.indexOf(Buffer.from(Float64Array.of(5).buffer))] = 1
  writeFileSync(file, bytes)
  const flags = ['--data-dir', data]
  const verified = await json('verify', ...flags)
  t.equal(verified.code, 1)
  t.match(verified.values, [{ ok: false, divergence: { epoch: 6 } }])
  const checked = await json('log', 'check', ...flags)
  t.equal(checked.code, 1)
  t.match(checked.values, [{ ok: false, problems: [String], wouldLose: String }])
  const mended = await json('log', 'check', '--fix', ...flags)
  t.equal(mended.code, 0, mended.stderr)
  t.match(mended.values, [{ ok: false }, { ok: true, lost: String, aside: String, problems: [] }])
})

t.test('of a token file', async (t) => {
  const flags = ['--auth-file', join(t.testdir(), 'tokens.json')]
  t.match((await json('token', 'create', 'desk', '--scope', 'read:*', ...flags)).values, [
    { id: 'desk', token: String },
  ])
  t.same((await json('token', 'revoke', 'desk', ...flags)).values, [{ id: 'desk', revoked: 'all' }])
  t.same((await json('token', 'list', ...flags)).values, [[]])
})
