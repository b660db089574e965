/** A cut behind an epoch: what stays, what is refused, and a crash at every step. */
import fs from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { cutFolder, planCut } from '../../../src/store/offline/cut.js'
import type { StoreOptions } from '../../../src/store/options.js'
import { type Disk, realDisk } from '../../../src/store/os/disk.js'
import { appendAll, crc32c, epochsIn, openStore, plain, recordOf, scratch } from '../helpers.js'

const EPOCHS = 40
const OPTIONS: Partial<StoreOptions> = { segmentBytes: 8 * 1024 }

/** A folder with some segments. Returns its history. */
async function filled(dir: string): Promise<string> {
  const store = await openStore(dir, OPTIONS)
  await appendAll(store, 1, EPOCHS, 600)
  await store.close()
  return store.history
}

const place = (dir: string, disk: Disk = realDisk()) => ({ dir, disk, crc32c })

/** Opens the folder, checks every record up to the newest epoch, and returns that and the history. */
async function checked(t: Test, dir: string): Promise<{ newest: number; history: string }> {
  const store = await openStore(dir, OPTIONS)
  const newest = store.newestEpoch
  t.same(
    epochsIn(store),
    Array.from({ length: newest }, (_, i) => i + 1),
  )
  for await (const record of store.range(1, newest)) t.same(plain(record), plain(recordOf(record.epoch, 600)))
  await store.close()
  return { newest, history: store.history }
}

t.test('the epoch is the newest one from then on, in a new history', async (t) => {
  for (const epoch of [0, 1, 12, 13, 25, EPOCHS - 1]) {
    const dir = scratch()
    const before = await filled(dir)
    t.ok(fs.readdirSync(path.join(dir, 'log')).length > 2, 'several segments')
    const plan = planCut(place(dir), epoch)
    t.same(plan, { epoch, newestEpoch: EPOCHS, checkpoints: [] })
    const aside = await cutFolder(place(dir), plan)
    t.ok(fs.readdirSync(aside).length > 0, 'what was cut is kept aside')
    const { newest, history } = await checked(t, dir)
    t.equal(newest, epoch)
    t.not(history, before)
    const store = await openStore(dir, OPTIONS)
    await appendAll(store, epoch + 1, epoch + 3, 600)
    await store.close()
    t.same(await checked(t, dir), { newest: epoch + 3, history }, 'it goes on from there')
  }
})

t.test('an epoch that the folder cannot go back to is refused', async (t) => {
  const dir = scratch()
  await filled(dir)
  t.throws(() => planCut(place(dir), EPOCHS + 1), { code: 'EPOCH_NOT_FOUND' })
  const log = path.join(dir, 'log')
  fs.rmSync(path.join(log, fs.readdirSync(log)[0]!))
  t.throws(() => planCut(place(dir), 30), { code: 'EPOCH_COMPACTED' })
  t.throws(() => planCut(place(scratch()), 1), { code: 'BUS_FAILED' })
})

/** The disk of this machine until the n-th change of a file or name, which does not happen. */
function dyingDisk(n: number): { disk: Disk; isDead: () => boolean } {
  const real = realDisk()
  let changes = 0
  const step = (): void => {
    if (++changes >= n) throw new Error('the process was killed')
  }
  const disk: Disk = {
    ...real,
    makeDir: (...args) => {
      step()
      real.makeDir(...args)
    },
    writeSync: (fd, parts, position) => {
      if (changes + 1 >= n) real.writeSync(fd, [parts[0]!.subarray(0, parts[0]!.length >> 1)], position)
      step()
      real.writeSync(fd, parts, position)
    },
    rename: (...args) => {
      step()
      real.rename(...args)
    },
    remove: (file) => {
      if (real.exists(file)) step()
      real.remove(file)
    },
    truncate: (...args) => {
      step()
      real.truncate(...args)
    },
  }
  return { disk, isDead: () => changes >= n }
}

t.test('killed at every step: the old state or the new one', async (t) => {
  const seen = new Set<number>()
  for (let n = 1; ; n++) {
    const dir = scratch()
    const before = await filled(dir)
    const { disk, isDead } = dyingDisk(n)
    await cutFolder(place(dir, disk), planCut(place(dir), 17)).catch(() => {})
    const { newest, history } = await checked(t, dir)
    t.ok(newest === EPOCHS || newest === 17, `step ${n}: the newest epoch is ${newest}`)
    if (newest === 17) t.not(history, before)
    seen.add(newest)
    t.equal(fs.existsSync(path.join(dir, 'cut.json')), false, 'the start has completed the cut')
    if (!isDead()) break
  }
  t.same([...seen], [EPOCHS, 17], 'both were met')
})
