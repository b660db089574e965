/**
 * `mmsb serve --read-only` and `--until-epoch N`, and the commands that only read, on folders that nobody may
 * write: because of their permissions, and because their file system is mounted read-only.
 */
import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { Bus } from '../../src/index.js'
import { folder } from '../lib/folder.js'
import { call, run, serve } from './process.js'

const QUIET = ['--backend', 'cpu', '--threads', '1', '--log-level', 'silent']

/** A closed folder: at epoch n, `a` holds n - 1. With a checkpoint at epoch 3, a catalog and a cursor. */
async function filled(dataDir: string): Promise<string> {
  const bus = await Bus.open({ dataDir, backend: 'cpu', threads: 1 })
  await bus.create('a', { dtype: 'u8', shape: [1] })
  for (let i = 1; i <= 5; i++) {
    await bus.patch('a', { values: [i] })
    if (bus.epoch === 3) await bus.checkpoint()
  }
  await bus.cursors?.define('reader', ['a'], 2)
  await bus.close()
  return bus.historyId
}

/** Names, times and sizes of everything below a folder. */
const traces = (dir: string): string[] =>
  ['.', ...fs.readdirSync(dir, { recursive: true, encoding: 'utf8' })].sort().map((name) => {
    const { mode, mtimeMs, ctimeMs, size, ino } = fs.statSync(path.join(dir, name))
    return [name, mode, mtimeMs, ctimeMs, size, ino].join(' ')
  })

t.test('--until-epoch opens at that epoch and refuses writes; --read-only at the newest', async (t) => {
  const dataDir = folder(t)
  const history = await filled(dataDir)
  const before = traces(dataDir)
  const args = ['--data-dir', dataDir, ...QUIET]
  const [at3, newest] = [serve(t, [...args, '--until-epoch', '3']), serve(t, [...args, '--read-only'])]
  const urls = [await at3.ready(), await newest.ready()] as const
  for (const [i, epoch] of [3, 6].entries()) {
    const url = urls[i]!
    t.match(await call(url, 'GET', '/v1/status'), { epoch, history, readOnly: true, minEpoch: 0 })
    t.match(await call(url, 'GET', '/readyz'), { ready: true, epoch, readOnly: true })
    t.match(await call(url, 'GET', '/v1/read?pages=a'), { epoch, pages: { a: { values: [epoch - 1] } } })
    t.match(await call(url, 'PATCH', '/v1/pages/a/data', { values: [9] }), { status: 409, code: 'READ_ONLY' })
    t.match(await call(url, 'GET', '/v1/read?pages=a&epoch=2'), { pages: { a: { values: [1] } } })
    t.match(await call(url, 'POST', '/v1/verify'), { ok: true, to: epoch })
  }
  t.match(await call(urls[0], 'GET', '/v1/epochs/4'), { status: 404, code: 'EPOCH_NOT_FOUND' })
  t.match(await run(['serve', '--port', '0', ...args]), { code: 1, stderr: /is in use/ })
  t.match(await run(['verify', '--data-dir', dataDir]), { code: 0 }, 'another reader')
  t.equal(await at3.end(), 0)
  t.equal(await newest.end(), 0)
  t.same(traces(dataDir), before)
  t.match(await run(['serve', '--port', '0', ...args, '--until-epoch', '99']), {
    code: 1,
    stderr: /Epoch 99 is not in the log; the newest is 6/,
  })
  t.match(await run(['serve', ...args, '--cut', '--until-epoch', '3', '--read-only']), {
    code: 2,
    stderr: /--cut writes; leave --read-only away/,
  })
  t.same(traces(dataDir), before)
})

t.test(
  'after a crash the newest epoch may not be durable, so it is read in a history of its own',
  async (t) => {
    const dataDir = folder(t)
    const args = ['--data-dir', dataDir, ...QUIET]
    const history = await filled(dataDir)
    const crashing = serve(t, args)
    const url = await crashing.ready()
    t.match(await call(url, 'PATCH', '/v1/pages/a/data', { values: [6] }), { epoch: 7 })
    await crashing.end('SIGKILL')
    const before = traces(dataDir)
    const reader = serve(t, [...args, '--read-only'])
    const read = await call(await reader.ready(), 'GET', '/v1/status')
    t.equal(read.epoch, 7)
    t.not(read.history, history)
    await reader.end()
    const earlier = serve(t, [...args, '--until-epoch', '6'])
    t.match(
      await call(await earlier.ready(), 'GET', '/v1/status'),
      { epoch: 6, history },
      'epoch 6 is durable',
    )
    await earlier.end()
    t.same(traces(dataDir), before)
    const writer = serve(t, args)
    t.match(await call(await writer.ready(), 'GET', '/v1/status'), { epoch: 7, history })
  },
)

t.test('a folder without permission to write is read', async (t) => {
  const dataDir = folder(t)
  await filled(dataDir)
  const files = fs
    .readdirSync(dataDir, { recursive: true, encoding: 'utf8' })
    .map((name) => path.join(dataDir, name))
  const modes = [dataDir, ...files].map((file) => [file, fs.statSync(file).mode] as const)
  for (const [file, mode] of modes) fs.chmodSync(file, mode & 0o555)
  t.teardown(() => {
    for (const [file, mode] of modes) fs.chmodSync(file, mode)
  })
  await isReadWithoutATrace(t, dataDir, true)
})

t.test('a folder on a file system that is mounted read-only is read', async (t) => {
  const dataDir = folder(t)
  await filled(dataDir)
  const place = folder(t)
  const mount = (...args: string[]): string => {
    const { error, status, stderr } = spawnSync('mount', args, { encoding: 'utf8' })
    return error?.message ?? (status === 0 ? '' : stderr.trim())
  }
  const refusal = mount('--bind', dataDir, place) || mount('-o', 'remount,bind,ro', place)
  if (refusal !== '') {
    t.comment(`nothing can be mounted here: ${refusal}`)
    spawnSync('umount', ['-l', place])
    t.pass('skipped')
    return
  }
  t.teardown(() => spawnSync('umount', ['-l', place]))
  t.throws(() => fs.writeFileSync(path.join(place, 'x'), ''), { code: 'EROFS' })
  await isReadWithoutATrace(t, place, false)
})

/** A server and every command that only reads work on the folder and leave it as it was. */
async function isReadWithoutATrace(t: Test, dataDir: string, isBoundByPermissions: boolean): Promise<void> {
  const options = { isBoundByPermissions }
  const before = traces(dataDir)
  const at = ['--data-dir', dataDir]
  const writing = await run(['serve', '--port', '0', ...at, ...QUIET], options)
  t.equal(writing.code, 1, 'it cannot be opened for writing')
  t.same(traces(dataDir), before)
  const server = serve(t, [...at, ...QUIET, '--read-only'], options)
  const url = await server.ready()
  t.match(await call(url, 'GET', '/v1/status'), { epoch: 6, readOnly: true })
  t.match(await call(url, 'GET', '/v1/read?pages=a&epoch=4'), { pages: { a: { values: [3] } } })
  t.match(await call(url, 'POST', '/v1/verify'), { ok: true, problems: [] })
  t.match(await call(url, 'GET', '/v1/subscriptions'), { subscriptions: [{ name: 'reader', epoch: 2 }] })
  t.match(await call(url, 'POST', '/v1/checkpoints'), { code: 'READ_ONLY' })
  t.equal(await server.end(), 0, server.stderr)
  for (const command of [
    ['log', 'check'],
    ['log', 'check', '--quick'],
    ['verify'],
    ['export', '--out', folder(t)],
    ['events', 'export', path.join(folder(t), 'a.ev')],
  ]) {
    const { code, stderr, stdout } = await run([...command, ...at], options)
    t.equal(code, 0, `${command.join(' ')}: ${stdout}${stderr}`)
  }
  t.same(traces(dataDir), before)
}
