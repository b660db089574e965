/**
 * `restore` takes what the backup lists, checks it, follows no links, and leaves no half-made data folder.
 */
import fs from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { Bus } from '../../../src/index.js'
import { backupFolder } from '../../../src/store/offline/backup.js'
import { restoreFolder } from '../../../src/store/offline/restore.js'
import { realDisk } from '../../../src/store/os/disk.js'
import { folder } from '../../lib/folder.js'
import { crc32c } from '../helpers.js'

const access = { disk: realDisk(), crc32c }
const open = (dataDir: string, notices: string[] = []): Promise<Bus> =>
  Bus.open({
    dataDir,
    backend: 'cpu',
    threads: 1,
    onNotice: ({ message }) => notices.push(message),
  })

/** A backup with a log and a checkpoint. */
async function backedUp(t: Test): Promise<{ dir: string; copy: string; target: string }> {
  const dir = folder(t)
  const bus = await open(path.join(dir, 'data'))
  await bus.create('a', { dtype: 'f64', shape: [100] })
  await bus.patch('a', { offset: 0, values: [1, 2, 3] })
  await bus.checkpoint()
  await bus.patch('a', { offset: 9, values: [4] })
  await bus.close()
  const copy = path.join(dir, 'copy')
  await backupFolder(access, path.join(dir, 'data'), copy)
  return { dir, copy, target: path.join(dir, 'restored') }
}

/** The path of each file below a folder, with its permissions. */
const modesIn = (dir: string): [string, number][] =>
  ['', ...fs.readdirSync(dir, { recursive: true, encoding: 'utf8' })].map((name) => [
    name,
    fs.statSync(path.join(dir, name)).mode & 0o777,
  ])

t.test('every file is listed with its hash, and one flipped bit in any of them is found', async (t) => {
  const { copy, target } = await backedUp(t)
  const info = JSON.parse(fs.readFileSync(path.join(copy, 'backup.json'), 'utf8'))
  t.match(info, { format: 2, epoch: 3 })
  for (const { path: name } of info.files as { path: string }[]) {
    const file = path.join(copy, name)
    const bytes = fs.readFileSync(file)
    const broken = Uint8Array.from(bytes)
    broken[bytes.length - 9] = (bytes[bytes.length - 9] as number) ^ 4
    fs.writeFileSync(file, broken)
    await t.rejects(restoreFolder(access, copy, target), { code: 'BUS_FAILED', message: /damaged/ })
    t.notOk(fs.existsSync(target), 'nothing is left')
    fs.writeFileSync(file, bytes.subarray(0, -8))
    await t.rejects(restoreFolder(access, copy, target), { code: 'BUS_FAILED', message: /bytes, not/ })
    fs.writeFileSync(file, bytes)
  }
  await restoreFolder(access, copy, target)
  const bus = await open(target)
  t.equal(bus.epoch, 3)
  await bus.close()
})

t.test('links, strangers and paths that lead elsewhere are not copied', async (t) => {
  const { dir, copy, target } = await backedUp(t)
  fs.writeFileSync(path.join(dir, 'secret'), 'secret')
  fs.symlinkSync(path.join(dir, 'secret'), path.join(copy, 'log', 'link'))
  fs.writeFileSync(path.join(copy, 'log', 'stranger'), 'x')
  fs.writeFileSync(path.join(copy, 'history.json'), '{}')
  await restoreFolder(access, copy, target)
  t.same(fs.readdirSync(target).sort(), ['checkpoints', 'log'])
  t.same(fs.readdirSync(path.join(target, 'log')), ['00000000000000000001.seg'])
  fs.rmSync(target, { recursive: true })

  const segment = path.join(copy, 'log', '00000000000000000001.seg')
  fs.renameSync(segment, path.join(dir, 'moved'))
  fs.symlinkSync(path.join(dir, 'moved'), segment)
  await t.rejects(restoreFolder(access, copy, target), { code: 'BUS_FAILED', message: /not a plain file/ })
  fs.rmSync(segment)
  fs.renameSync(path.join(dir, 'moved'), segment)

  const manifest = path.join(copy, 'backup.json')
  const info = JSON.parse(fs.readFileSync(manifest, 'utf8'))
  for (const name of ['../secret', '/etc/passwd', 'log/../../secret', 'history.json', 'log/a.seg', 7]) {
    const files = [{ ...info.files[0], path: name }, ...info.files.slice(1)]
    fs.writeFileSync(manifest, JSON.stringify({ ...info, files }))
    await t.rejects(restoreFolder(access, copy, target), {
      code: 'BUS_FAILED',
      message: /no file of a backup/,
    })
  }
  for (const broken of ['', '[]', 'null', '{"format":3}', '{"format":2}']) {
    fs.writeFileSync(manifest, broken)
    await t.rejects(restoreFolder(access, copy, target), { code: 'BUS_FAILED' }, broken)
  }
  t.notOk(fs.existsSync(target))
})

t.test('an interrupted restore is not opened, and the next one removes it', async (t) => {
  const { copy, target } = await backedUp(t)
  fs.mkdirSync(path.join(target, 'restore.tmp', 'log'), { recursive: true })
  fs.writeFileSync(path.join(target, 'restore.tmp', 'log', '00000000000000000001.seg'), 'half')
  fs.mkdirSync(path.join(target, 'checkpoints'))
  await t.rejects(open(target), { code: 'BUS_FAILED', message: /interrupted restore/ })
  await restoreFolder(access, copy, target)
  const bus = await open(target)
  t.equal(bus.epoch, 3)
  await bus.close()
  await t.rejects(restoreFolder(access, copy, target), { code: 'BUS_FAILED', message: /not empty/ })
})

t.test('what is created can be read by its owner alone', async (t) => {
  const { dir, copy, target } = await backedUp(t)
  await restoreFolder(access, copy, target)
  for (const made of [path.join(dir, 'data'), copy, target]) {
    for (const [name, mode] of modesIn(made)) t.equal(mode & 0o077, 0, `${made}/${name}`)
  }
  const notices: string[] = []
  fs.chmodSync(target, 0o755)
  const bus = await open(target, notices)
  t.equal(notices.filter((notice) => /chmod 700/.test(notice)).length, 1)
  await bus.close()
  t.equal(fs.statSync(target).mode & 0o777, 0o755, 'a wider mode is left alone')
})
