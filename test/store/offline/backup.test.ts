/** What a backup takes from a folder, what it refuses, and in which order it becomes durable. */
import { createHash } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { type BackupAccess, backupFolder } from '../../../src/store/offline/backup.js'
import { readManifest } from '../../../src/store/offline/manifest.js'
import { realDisk } from '../../../src/store/os/disk.js'
import { crc32c } from '../helpers.js'
import { breakRecords, EPOCHS, flip, recordAt, segmentsOf, smallFolder, tellingDisk } from './small-folder.js'

const access: BackupAccess = { disk: realDisk(), crc32c }
const nameOf = (epoch: number, ending = 'db'): string => `${String(epoch).padStart(20, '0')}.${ending}`

const filesBelow = (dir: string): string[] =>
  fs
    .readdirSync(dir, { recursive: true, encoding: 'utf8' })
    .filter((name) => fs.statSync(path.join(dir, name)).isFile())
    .sort()

t.test('log and checkpoints are copied, listed with size and hash, and nothing else', async (t) => {
  const { dir, place, busId } = await smallFolder(t, [12, EPOCHS])
  for (const name of ['next.tmp', nameOf(EPOCHS + 1), 'x.db'])
    fs.writeFileSync(path.join(dir, 'checkpoints', name), 'x')
  fs.renameSync(path.join(dir, 'checkpoints', nameOf(12)), path.join(dir, 'checkpoints', nameOf(12, 'old')))
  const copy = path.join(place, 'copies', 'copy')
  const info = await backupFolder(access, dir, copy)
  t.match(info, { format: 2, busId, epoch: EPOCHS, checkpoints: [EPOCHS] })
  t.same(readManifest(copy), info)
  const kept = [...segmentsOf(dir).map(({ file }) => `log/${path.basename(file)}`)]
  const checkpoints = [nameOf(12, 'old'), nameOf(EPOCHS)].map((name) => `checkpoints/${name}`)
  t.same(filesBelow(copy), ['backup.json', ...checkpoints, ...kept].sort())
  t.same(info.files!.map((file) => file.path).sort(), [...checkpoints, ...kept].sort())
  for (const { path: name, bytes, sha256 } of info.files!) {
    const content = fs.readFileSync(path.join(copy, name))
    t.equal(bytes, content.length)
    t.equal(sha256, createHash('sha256').update(content).digest('hex'))
    t.equal(content.compare(fs.readFileSync(path.join(dir, name)).subarray(0, bytes)), 0, name)
    t.equal(fs.statSync(path.join(copy, name)).mode & 0o777, 0o600)
  }
  t.equal(fs.statSync(path.join(copy, 'backup.json')).mode & 0o777, 0o600)
  t.equal(
    info.bytes,
    info.files!.reduce((sum, { bytes }) => sum + bytes, 0),
  )
})

t.test('the copy ends with the last sound record', async (t) => {
  const { dir, place } = await smallFolder(t)
  const { file, offset } = recordAt(dir, EPOCHS)
  fs.truncateSync(file, offset + 70)
  const copy = path.join(place, 'copy')
  const info = await backupFolder(access, dir, copy)
  t.equal(info.epoch, EPOCHS - 1)
  t.equal(fs.statSync(path.join(copy, 'log', path.basename(file))).size, offset)
})

t.test('a target that is not empty, and a source that is not sound, are refused', async (t) => {
  const { dir, place } = await smallFolder(t)
  const copy = path.join(place, 'copy')
  fs.mkdirSync(copy)
  fs.writeFileSync(path.join(copy, 'x'), '')
  await t.rejects(backupFolder(access, dir, copy), { code: 'BUS_FAILED', message: `${copy} is not empty` })
  fs.rmSync(path.join(copy, 'x'))
  await backupFolder(access, dir, copy)
  const none = path.join(place, 'none')
  const why = { code: 'BUS_FAILED', message: `${none} cannot be copied: there is no log` }
  await t.rejects(backupFolder(access, none, path.join(place, 'other')), why)
  const { first } = segmentsOf(dir).at(-1)!
  breakRecords(dir, first)
  await t.rejects(backupFolder(access, dir, path.join(place, 'other')), {
    code: 'BUS_FAILED',
    message: new RegExp(`cannot be copied: segment .+ the record of epoch ${first} is damaged`),
  })
  t.notOk(fs.existsSync(path.join(place, 'other')), 'nothing is begun')
})

t.test('a log that looks damaged while it is written is looked at again, five times', async (t) => {
  const { dir, place } = await smallFolder(t)
  for (const [failures, isCopied] of [
    [4, true],
    [5, false],
  ] as const) {
    let left = failures
    const disk = { ...realDisk(), list: (at: string) => (left-- > 0 ? [] : realDisk().list(at)) }
    const done = backupFolder({ disk, crc32c }, dir, path.join(place, `copy-${failures}`))
    if (isCopied) t.equal((await done).epoch, EPOCHS)
    else await t.rejects(done, { message: /there is no log/ })
  }
})

t.test('a log without its beginning needs a sound checkpoint that reaches it', async (t) => {
  for (const [from, damaged, isCopied] of [
    ['at', false, true],
    ['before', false, false],
    ['at', true, false],
  ] as const) {
    const { dir: probe } = await smallFolder(t)
    const first = segmentsOf(probe)[2]!.first
    const { dir, place } = await smallFolder(t, [from === 'at' ? first - 1 : first - 2])
    for (const { file } of segmentsOf(dir).slice(0, 2)) fs.rmSync(file)
    const [name] = fs.readdirSync(path.join(dir, 'checkpoints'))
    if (damaged) flip(path.join(dir, 'checkpoints', name!), 65_536 * 2 + 20)
    const done = backupFolder(access, dir, path.join(place, 'copy'))
    const why = `the log begins at epoch ${first}, and no sound checkpoint reaches it`
    if (isCopied) t.equal((await done).epoch, EPOCHS)
    else if (!damaged) await t.rejects(done, { code: 'BUS_FAILED', message: why })
    else await done.catch(({ message }) => t.equal(message, why))
  }
})

t.test('checkpoints that come or go meanwhile', async (t) => {
  const { dir, place } = await smallFolder(t, [12, 20])
  const at = (name: string): string => path.join(dir, 'checkpoints', name)
  fs.copyFileSync(at(nameOf(20)), at(nameOf(7, 'old')))
  let isFirst = true
  const onCopied = (): void => {
    if (!isFirst) return
    isFirst = false
    fs.rmSync(at(nameOf(12)))
    fs.renameSync(at(nameOf(20)), at(nameOf(20, 'old')))
    fs.copyFileSync(at(nameOf(7, 'old')), at(nameOf(25, 'old')))
  }
  const info = await backupFolder({ ...access, onCopied }, dir, path.join(place, 'copy'))
  const copied = info.files!.map((file) => path.basename(file.path)).filter((name) => !name.endsWith('seg'))
  t.same(copied, [nameOf(7, 'old'), nameOf(20, 'old'), nameOf(25, 'old')])
})

t.test('a copy that is not what was read is refused', async (t) => {
  const { dir, place } = await smallFolder(t)
  const last = recordAt(dir, EPOCHS)
  const cases: [change: (copy: string) => void, why: RegExp][] = [
    [(copy) => flip(copy, last.offset - 30), /is not sound: segment/],
    [
      (copy) => fs.truncateSync(copy, last.offset),
      new RegExp(`is not sound: it ends at epoch ${EPOCHS - 1}$`),
    ],
  ]
  for (const [i, [change, message]] of cases.entries()) {
    const to = path.join(place, `copy-${i}`)
    const onCopied = (_: number, file: string): void => {
      if (file === last.file) change(path.join(to, 'log', path.basename(file)))
    }
    await t.rejects(backupFolder({ ...access, onCopied }, dir, to), { code: 'BUS_FAILED', message })
    t.notOk(fs.existsSync(path.join(to, 'backup.json')))
  }
})

t.test('what is copied is reported', async (t) => {
  const { dir, place } = await smallFolder(t, [12])
  const seen: string[] = []
  const onCopied = (bytes: number, file: string): void => void seen.push(`${bytes} ${file}`)
  const { files } = await backupFolder({ ...access, onCopied }, dir, path.join(place, 'copy'))
  t.same(
    seen,
    files!.map(({ path: name, bytes }) => `${bytes} ${path.join(dir, name)}`),
  )
})

t.test('the list of files comes last, when everything else is durable', async (t) => {
  const { dir, place } = await smallFolder(t)
  const copy = path.join(place, 'copy')
  const said: string[] = []
  const look = (): string => (fs.existsSync(path.join(copy, 'backup.json')) ? ' with the list' : '')
  await backupFolder({ disk: tellingDisk(said, look), crc32c }, dir, copy)
  t.same(said.slice(-3), ['sync checkpoints', 'sync log', 'sync copy with the list'])
  t.ok(said.slice(0, -3).includes(`sync ${path.basename(place)}`), 'its own name too')
})
