/** When the history of a data folder stays the same, and when it changes. */
import fs from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { backupFolder } from '../../src/store/offline/backup.js'
import { checkFolder } from '../../src/store/offline/check.js'
import { repairLog } from '../../src/store/offline/repair.js'
import { restoreFolder } from '../../src/store/offline/restore.js'
import type { StoreOptions } from '../../src/store/options.js'
import { realDisk } from '../../src/store/os/disk.js'
import type { FsyncPolicy } from '../../src/store/types.js'
import { SimDisk } from '../support/simdisk.js'
import { appendAll, crc32c, openStore, scratch } from './helpers.js'

const POLICIES = ['always', 'interval', 'off'] as const

/** Opens the folder, appends some epochs and closes it; returns its history. */
async function run(dir: string, options: Partial<StoreOptions> = {}, epochs = 3): Promise<string> {
  const store = await openStore(dir, options)
  await appendAll(store, store.newestEpoch + 1, store.newestEpoch + epochs)
  await store.close()
  return store.history
}

async function damagedMiddle(dir: string): Promise<void> {
  const log = path.join(dir, 'log')
  const file = path.join(log, fs.readdirSync(log)[0]!)
  const fd = fs.openSync(file, 'r+')
  fs.writeSync(fd, Buffer.from([1, 2, 3]), 0, 3, 4096 + 60)
  fs.closeSync(fd)
}

t.test('a restart keeps it', async (t) => {
  for (const fsync of POLICIES) {
    const dir = scratch()
    const first = await run(dir, { fsync })
    t.match(first, /^[0-9a-f]{32}\.[0-9a-f]{16}$/)
    t.equal(await run(dir, { fsync }), first, fsync)
    t.equal(await run(dir, { fsync: 'always' }), first, `${fsync}, then always`)
  }
})

t.test('two folders never have the same', async (t) => {
  t.not(await run(scratch()), await run(scratch()))
})

/** What the next process finds after this one died while the store was open. */
async function killed(fsync: FsyncPolicy): Promise<{ before: string; after: string }> {
  const disk = new SimDisk()
  const store = await openStore('/sim', { disk, fsync })
  await appendAll(store, 1, 5)
  disk.dead = true
  const next = await openStore('/sim', { disk: disk.crash('drop'), fsync: 'always' })
  await next.close()
  return { before: store.history, after: next.history }
}

t.test('a crash keeps it where every epoch was synced, and changes it otherwise', async (t) => {
  const { before, after } = await killed('always')
  t.equal(after, before)
  for (const fsync of ['interval', 'off'] as const) {
    const { before, after } = await killed(fsync)
    t.not(after, before, fsync)
    t.equal(after.split('.')[0], before.split('.')[0], `${fsync}: the bus is the same`)
  }
})

t.test(
  'the machine dies at every sync of a start: an epoch never has one history and two contents',
  async (t) => {
    for (let n = 1; n <= 12; n++) {
      const disk = new SimDisk({ dieAtSync: n })
      const opening = openStore('/sim', { disk, fsync: 'interval' }).catch(() => undefined)
      const first = (await Promise.race([opening, disk.died])) ?? undefined
      if (first !== undefined) await Promise.race([appendAll(first, 1, 5), disk.died]).catch(() => {})
      disk.dead = true
      const next = await openStore('/sim', { disk: disk.crash('drop'), fsync: 'interval' })
      if (first !== undefined && next.newestEpoch < 5) t.not(next.history, first.history, `sync ${n}`)
      await next.close()
    }
  },
)

t.test('a folder without a file, with a damaged one or one of another bus begins a new one', async (t) => {
  const dir = scratch()
  const file = path.join(dir, 'history.json')
  let last = await run(dir)
  const changes: Record<string, () => void> = {
    missing: () => fs.rmSync(file),
    damaged: () => fs.truncateSync(file, 20),
    'not JSON of a history': () => fs.writeFileSync(file, '{}'),
    'of another bus': () => {
      const kept = JSON.parse(fs.readFileSync(file, 'utf8')) as object
      fs.writeFileSync(file, JSON.stringify({ ...kept, bus: 'ab'.repeat(16) }))
    },
    huge: () => fs.writeFileSync(file, 'x'.repeat(1e6)),
  }
  for (const [what, change] of Object.entries(changes)) {
    change()
    const next = await run(dir)
    t.not(next, last, what)
    t.equal(await run(dir), next, `${what}: kept from then on`)
    last = next
  }
})

t.test('a copied folder begins a new one; a moved one does not', async (t) => {
  const dir = scratch()
  const first = await run(dir)
  const copy = path.join(scratch(), 'copy')
  fs.cpSync(dir, copy, { recursive: true, preserveTimestamps: true })
  t.not(await run(copy), first)
  const moved = `${dir}-moved`
  fs.renameSync(dir, moved)
  t.teardown(() => fs.rmSync(moved, { recursive: true, force: true }))
  t.equal(await run(moved), first)
})

t.test('a restored folder begins a new one', async (t) => {
  const dir = scratch()
  const first = await run(dir)
  const access = { disk: realDisk(), crc32c }
  const copy = path.join(scratch(), 'copy')
  const restored = path.join(scratch(), 'restored')
  await backupFolder(access, dir, copy)
  await restoreFolder(access, copy, restored)
  t.not(await run(restored), first)
})

t.test('a repaired folder begins a new one', async (t) => {
  const dir = scratch()
  const first = await run(dir, {}, 20)
  await damagedMiddle(dir)
  const place = { dir, disk: realDisk(), crc32c }
  const report = checkFolder(place)
  t.not(report.repair, undefined)
  await repairLog(place, report)
  t.equal(fs.existsSync(path.join(dir, 'history.json')), false)
  t.not(await run(dir), first)
})

/** The disk of this machine, without room for history.json. */
function fullDisk(isFull: () => boolean) {
  const real = realDisk()
  return {
    ...real,
    open: (file: string, flags: Parameters<typeof real.open>[1]) => {
      if (isFull() && flags.create === true && file.includes('history'))
        throw Object.assign(new Error('ENOSPC: no room'), { code: 'ENOSPC' })
      return real.open(file, flags)
    },
  }
}

async function onFullDisk(t: Test, fsync: FsyncPolicy): Promise<void> {
  const dir = scratch()
  const first = await run(dir, { fsync: 'always' })
  const notices: string[] = []
  const store = await openStore(dir, {
    disk: fullDisk(() => true),
    fsync,
    onNotice: ({ message }) => notices.push(message),
  })
  t.equal(store.history, first, 'the store opens')
  await appendAll(store, 4, 5)
  await store.close()
  const next = await openStore(dir, { fsync: 'always' })
  await next.close()
  t.equal(next.history === first, fsync === 'always')
  t.equal(
    notices.some((line) => line.includes('history.json cannot be written')),
    fsync !== 'always',
  )
}

t.test('a full disk costs a new history at the next start, nothing else', async (t) => {
  for (const fsync of POLICIES) await onFullDisk(t, fsync)
})
