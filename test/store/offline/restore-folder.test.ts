/** A restore step by step: what it refuses, where it may write, and in which order that becomes durable. */
import { createHash } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { type BackupAccess, backupFolder } from '../../../src/store/offline/backup.js'
import type { BackupInfo } from '../../../src/store/offline/manifest.js'
import { interruptedRestore, restoreFolder } from '../../../src/store/offline/restore.js'
import { realDisk } from '../../../src/store/os/disk.js'
import { crc32c } from '../helpers.js'
import {
  breakRecords,
  EPOCHS,
  openSmall,
  recordAt,
  segmentsOf,
  smallFolder,
  tellingDisk,
} from './small-folder.js'

const access: BackupAccess = { disk: realDisk(), crc32c }

t.test('without its folders, its files or their sizes a backup is not complete', async (t) => {
  const { place, dir } = await smallFolder(t, [12])
  const copy = path.join(place, 'copy')
  const target = path.join(place, 'target')
  const info = await backupFolder(access, dir, copy)
  for (const part of ['log', 'checkpoints']) {
    const at = path.join(copy, part)
    const why = { code: 'BUS_FAILED', message: `${copy} is not a complete backup: ${part} is not a folder` }
    fs.renameSync(at, `${at}.moved`)
    await t.rejects(restoreFolder(access, copy, target), why)
    fs.writeFileSync(at, '')
    await t.rejects(restoreFolder(access, copy, target), why)
    fs.rmSync(at)
    fs.symlinkSync(`${at}.moved`, at)
    await t.rejects(restoreFolder(access, copy, target), why, 'a link')
    fs.rmSync(at)
    fs.renameSync(`${at}.moved`, at)
  }
  for (const { path: name, bytes } of info.files!) {
    const at = path.join(copy, name)
    fs.renameSync(at, `${at}.moved`)
    const gone = { code: 'BUS_FAILED', message: `${copy} is not complete: ${name} is missing` }
    await t.rejects(restoreFolder(access, copy, target), gone)
    fs.renameSync(`${at}.moved`, at)
    fs.appendFileSync(at, 'x')
    const longer = { code: 'BUS_FAILED', message: `${at} has ${bytes + 1} bytes, not ${bytes}` }
    await t.rejects(restoreFolder(access, copy, target), longer)
    fs.truncateSync(at, bytes)
  }
  t.notOk(fs.existsSync(target), 'nothing is begun')
  t.same(await restoreFolder(access, copy, target), info)
})

t.test('a log that is not the one that the list is about is refused', async (t) => {
  const { place, dir } = await smallFolder(t)
  const copy = path.join(place, 'copy')
  const target = path.join(place, 'target')
  const info = await backupFolder(access, dir, copy)
  const refuse = async (changes: Partial<BackupInfo>, message: RegExp): Promise<void> => {
    fs.writeFileSync(path.join(copy, 'backup.json'), JSON.stringify({ ...info, ...changes }))
    await t.rejects(restoreFolder(access, copy, target), { code: 'BUS_FAILED', message })
    t.notOk(fs.existsSync(target))
  }
  const other = /is not sound: its log ends at epoch 30, not \d+, or is of another bus/
  await refuse({ epoch: EPOCHS - 1 }, other)
  await refuse({ epoch: EPOCHS + 1 }, other)
  await refuse({ busId: '0'.repeat(32) }, other)
  const { file } = recordAt(copy, EPOCHS)
  breakRecords(copy, segmentsOf(copy).at(-1)!.first)
  const sha256 = createHash('sha256').update(fs.readFileSync(file)).digest('hex')
  const name = `log/${path.basename(file)}`
  const files = info.files!.map((entry) => (entry.path === name ? { ...entry, sha256 } : entry))
  await refuse({ files }, /is not sound: segment/)
})

t.test('a backup of format 1 has no list, and is taken by the names of its files', async (t) => {
  const { place, dir } = await smallFolder(t, [12])
  const copy = path.join(place, 'copy')
  const { files: _, ...info } = await backupFolder(access, dir, copy)
  fs.writeFileSync(path.join(copy, 'backup.json'), JSON.stringify({ ...info, format: 1 }))
  for (const name of ['log/x.seg', 'checkpoints/x', 'log/next.tmp'])
    fs.writeFileSync(path.join(copy, name), '')
  const target = path.join(place, 'target')
  await restoreFolder(access, copy, target)
  for (const part of ['log', 'checkpoints']) {
    const wanted = fs.readdirSync(path.join(dir, part))
    t.same(fs.readdirSync(path.join(target, part)), wanted)
  }
  const store = await openSmall(target)
  t.equal(store.newestEpoch, EPOCHS)
  await store.close()
})

t.test('where it may restore, and what a failure leaves there', async (t) => {
  const { place, dir } = await smallFolder(t)
  const copy = path.join(place, 'copy')
  await backupFolder(access, dir, copy)
  const broken = path.join(place, 'broken')
  fs.cpSync(copy, broken, { recursive: true })
  breakRecords(broken, 3)
  const targetOf = (name: string, ...parts: string[]): string => {
    const target = path.join(place, name)
    for (const part of parts) fs.mkdirSync(path.join(target, part), { recursive: true })
    return target
  }
  const isDraft = (target: string): boolean => interruptedRestore(realDisk(), target)
  const accepted: [string, ...string[]][] = [
    ['new'],
    ['empty', ''],
    ['draft', 'restore.tmp/log'],
    ['half', 'restore.tmp/log', 'checkpoints'],
  ]
  for (const [name, ...parts] of accepted) {
    const target = targetOf(name, ...parts)
    t.equal(isDraft(target), parts[0]?.startsWith('restore') === true, name)
    await t.rejects(restoreFolder(access, broken, target), { message: /its hash is not/ }, name)
    t.same(fs.existsSync(target) ? fs.readdirSync(target) : 'nothing', name === 'new' ? 'nothing' : [], name)
    targetOf(name, ...parts)
    await restoreFolder(access, copy, target)
    t.same(fs.readdirSync(target).sort(), ['checkpoints', 'log'], name)
    t.equal(isDraft(target), false)
  }
  const refused: [string, ...string[]][] = [
    ['full', 'log'],
    ['complete', 'restore.tmp', 'checkpoints', 'log'],
    ['other', 'restore.tmp', 'x'],
    ['part', 'checkpoints'],
  ]
  for (const [name, ...parts] of refused) {
    const target = targetOf(name, ...parts)
    t.equal(isDraft(target), name === 'other')
    const why = { code: 'BUS_FAILED', message: `${target} is not empty` }
    await t.rejects(restoreFolder(access, copy, target), why, name)
    t.same(fs.readdirSync(target).sort(), [...parts].sort(), 'all of it stays')
  }
})

t.test('the log gets its place last, when all of it is durable', async (t) => {
  const { place, dir } = await smallFolder(t, [12])
  const copy = path.join(place, 'copy')
  await backupFolder(access, dir, copy)
  const target = path.join(place, 'target')
  const said: string[] = []
  const look = (at: string): string => (at === target ? ` with ${fs.readdirSync(target).sort().join()}` : '')
  await restoreFolder({ ...access, disk: tellingDisk(said, look) }, copy, target)
  t.same(said.slice(-5), [
    'sync checkpoints',
    'sync log',
    'sync target with checkpoints,restore.tmp',
    'sync target with checkpoints,log,restore.tmp',
    'sync target with checkpoints,log',
  ])
  t.equal(fs.statSync(target).mode & 0o777, 0o700)
  const open = path.join(place, 'open')
  fs.mkdirSync(open)
  fs.chmodSync(open, 0o755)
  await restoreFolder(access, copy, open)
  t.equal(fs.statSync(open).mode & 0o777, 0o755, 'the mode of a folder that was there stays')
})
