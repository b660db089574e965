/**
 * `mmsb doctor` on real folders and real servers: what it finds, its exit code, and that it changes nothing.
 */
import { createHash } from 'node:crypto'
import { chmodSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { Bus } from '../../../../src/index.js'
import { folder } from '../../../lib/folder.js'
import { call, type RunOptions, run, serve } from '../../process.js'

interface Found {
  readonly code: number | string
  readonly ok: boolean
  readonly findings: readonly { name: string; level: string; detail: string; advice?: string }[]
}

async function doctor(args: readonly string[], options?: RunOptions): Promise<Found> {
  const { code, stdout, stderr } = await run(['doctor', '--json', ...args], options)
  if (stderr !== '') throw new Error(stderr)
  return { code, ...(JSON.parse(stdout) as Omit<Found, 'code'>) }
}

const named = ({ findings }: Found, name: string): Found['findings'] =>
  findings.filter((finding) => finding.name === name)

async function fill(dir: string): Promise<void> {
  const bus = await Bus.open({ dataDir: dir, backend: 'cpu', threads: 1, fsync: 'off' })
  await bus.create('a', { dtype: 'f64', shape: [100] })
  for (let i = 0; i < 9; i++) await bus.patch('a', { offset: i, values: [i + 1] })
  await bus.checkpoint()
  await bus.close()
}

/** Names, modes, times and contents of what is in a folder. */
const stateOf = (dir: string): string[] =>
  (readdirSync(dir, { recursive: true }) as string[]).sort().map((name) => {
    const file = join(dir, name)
    const { mode, mtimeMs } = statSync(file)
    const isFile = statSync(file).isFile()
    const sum = isFile ? createHash('sha256').update(readFileSync(file)).digest('hex') : ''
    return [name, mode, mtimeMs, sum].join(' ')
  })

// Many processes, one after the other.
t.setTimeout(120_000)

t.test('a sound folder: all is well, and nothing is changed', async (t) => {
  const dir = folder(t)
  await fill(dir)
  const before = stateOf(dir)
  const { code, stdout, stderr } = await run(['doctor', dir])
  t.same([code, stderr], [0, ''])
  t.match(
    stdout,
    new RegExp(`^ok +folder +${dir}: 1 segment \\([\\d.]+ [KM]iB\\), 1 checkpoint \\([\\d.]+ KiB\\)$`, 'm'),
  )
  t.match(stdout, /^ok +log +up to epoch 10; `mmsb log check` reads all of it$/m)
  t.match(stdout, /^ok +permissions +mode 700$/m)
  t.match(stdout, /^ok +node +v\d+\.\d+/m)
  t.match(stdout, /^ok +native library +\S+, with(out)? CUDA/m)
  t.match(stdout, /^ok +sqlite +3\.\d+/m)
  t.match(stdout, /^\w+ +disk +[\d.]+ [KMGT]iB of [\d.]+ [KMGT]iB free on \w+ \(\/\S*\)$/m)
  t.match(
    stdout,
    /^\w+ +sync +a durable write takes [\d.]+ m?s \(p50\), [\d.]+ m?s \(p99\), at most [\d.]+ m?s of \d+$/m,
  )
  t.match(stdout, /^(everything is as it should be|\d+ warnings?)\n$/m)
  t.same(stateOf(dir), before)
})

t.test('a folder in use: nothing is read behind the back of its server, which goes on', async (t) => {
  const dir = folder(t)
  const server = serve(t, ['--data-dir', dir])
  const url = await server.ready()
  await call(url, 'PUT', '/v1/pages/a', { dtype: 'u8', shape: [1] })
  const found = await doctor(['--data-dir', dir])
  t.same([found.code, found.ok], [0, true])
  t.match(named(found, 'log'), [
    { level: 'note', detail: new RegExp(`in use by process ${server.child.pid} on .*, so it was not read`) },
  ])
  t.match(await call(url, 'PATCH', '/v1/pages/a/data', { values: [1] }), { epoch: 2 })
  t.equal(await server.end(), 0)
  t.match(named(await doctor([dir]), 'log'), [{ level: 'ok', detail: /^up to epoch 2;/ }])
})

t.test('damage, and folders that are none', async (t) => {
  const dir = folder(t)
  await fill(dir)
  mkdirSync(join(dir, 'cut-1'))
  chmodSync(dir, 0o755)
  const file = join(dir, 'log', readdirSync(join(dir, 'log'))[0] as string)
  const bytes = readFileSync(file)
  bytes[bytes.indexOf(Buffer.from(Float64Array.of(5).buffer))] = 1
  writeFileSync(file, bytes)
  const damaged = await doctor([dir])
  t.same([damaged.code, damaged.ok], [1, false])
  t.match(named(damaged, 'log'), [{ level: 'failed', advice: /mmsb log check/ }])
  t.match(named(damaged, 'permissions'), [{ level: 'warning', detail: /mode 755/, advice: /chmod 700/ }])
  t.match(named(damaged, 'set aside'), [{ level: 'note', detail: /cut-1/ }])

  const place = t.testdir({ file: 'x', other: { 'notes.txt': 'x' }, empty: {} })
  for (const [name, code, finding] of [
    ['absent/deep', 0, { level: 'note', detail: /is absent; a server creates it/ }],
    ['empty', 0, { level: 'note', detail: /is empty/ }],
    ['other', 1, { level: 'failed', detail: /holds other files, and no log/ }],
    ['file', 1, { level: 'failed', detail: /is not a folder/ }],
    ['file/deep', 1, { level: 'failed', detail: /is absent, and cannot be made in .*file/ }],
  ] as const) {
    const found = await doctor([join(place, name)])
    t.equal(found.code, code, name)
    t.match(named(found, 'folder'), [finding], name)
  }
  t.same(readdirSync(place).sort(), ['empty', 'file', 'other'])
  t.same(readdirSync(join(place, 'empty')), [])
})

t.test('permissions and limits of the process', async (t) => {
  const dir = folder(t)
  await fill(dir)
  chmodSync(dir, 0o500)
  const sealed = await doctor([dir], { isBoundByPermissions: true })
  chmodSync(dir, 0o700)
  t.equal(sealed.code, 0)
  t.match(named(sealed, 'permissions'), [{ level: 'warning', detail: /cannot write/, advice: /--read-only/ }])
  t.match(named(sealed, 'sync'), [{ level: 'note', detail: /not measured/ }])
  const few = await doctor([dir], {
    prelude: 'ulimit -n 500; ulimit -f 1000',
    env: { MMSB_MEMORY_LIMIT: '900t' },
  })
  t.equal(few.code, 1)
  t.match(named(few, 'open files'), [{ level: 'warning', detail: /at most 500/, advice: /ulimit -n 10200/ }])
  t.match(named(few, 'file size'), [{ level: 'failed', detail: /at most 1000 KiB/ }])
  t.match(named(few, 'memory'), [{ level: 'warning', detail: /pages may take 900 TiB/ }])
  const noLibrary = await doctor([dir], { env: { MMSB_LIBRARY: '/nope.so', TMPDIR: '/nope' } })
  t.equal(noLibrary.code, 1)
  t.match(named(noLibrary, 'native library'), [
    { level: 'failed', detail: /nope\.so/, advice: /make native/ },
  ])
  t.match(named(noLibrary, 'temporary folder'), [{ level: 'warning', detail: /\/nope cannot be written/ }])
})

t.test('a server: running, risky, away; and wrong usage', async (t) => {
  const dir = folder(t)
  const server = serve(t, ['--data-dir', dir, '--fsync', 'off'])
  const url = await server.ready()
  await call(url, 'PUT', '/v1/pages/a', { dtype: 'u8', shape: [1] })
  const found = await doctor(['--url', url])
  t.same([found.code, found.ok], [0, true])
  t.match(named(found, 'server'), [{ level: 'ok', detail: /answers in [\d.]+ ms/ }])
  t.match(named(found, 'fsync'), [{ level: 'warning', detail: /^off: a crash may lose/ }])
  t.match(named(found, 'checkpoint'), [{ level: 'note', detail: /none yet; a start replays 1 epoch/ }])
  for (const name of ['state', 'version', 'backend', 'memory', 'log', 'queue', 'readers'])
    t.match(named(found, name), [{ level: 'ok' }], name)
  await server.end()
  const away = await doctor(['--url', url])
  t.same([away.code, away.ok], [1, false])
  t.match(away.findings, [{ name: 'server', level: 'failed', detail: /cannot reach .*ECONNREFUSED/ }])
  for (const args of [
    ['a', 'b'],
    ['a', '--data-dir', 'b'],
    ['a', '--url', url],
    ['--url', 'x'],
    ['--memory-limit', 'much'],
  ]) {
    const { code, stdout, stderr } = await run(['doctor', ...args])
    t.same([code, stdout], [2, ''], args.join(' '))
    t.match(stderr, /^mmsb: [^\n]+\nmmsb: see `mmsb doctor --help`\n$/)
  }
})
