/**
 * A simulated machine goes off at the n-th sync, for every n of a workload, with what was not synced kept, dropped or torn.
 * Afterwards every acknowledged epoch is there (or, without `always`, every epoch known to be durable), nothing is
 * half there, and the log goes on.
 */
import t, { type Test } from 'tap'
import { Store } from '../../src/store/store.js'
import type { FsyncPolicy } from '../../src/store/types.js'
import { crc32c, noCatalog, plain, recordOf } from './helpers.js'
import { type CrashPolicy, SimCrash, SimDisk, type SimDiskOptions } from './simdisk.js'

const DIR = '/sim'
const POLICIES: readonly CrashPolicy[] = ['keep', 'drop', { seed: 1 }, { seed: 2 }, { seed: 3 }]

interface Machine {
  readonly disk: SimDisk
  readonly fsync: FsyncPolicy
  /** Newest epoch that was acknowledged. */
  acknowledged: number
  /** Newest epoch begun. */
  begun: number
  /** Newest epoch that a sync covered. */
  durable: number
}

function openOn(disk: SimDisk, fsync: FsyncPolicy, timers: (() => void)[] = []): Promise<Store> {
  return Store.open({
    dir: DIR,
    fsync,
    crc32c,
    io: disk,
    catalog: noCatalog(),
    lock: () => () => {},
    segmentBytes: 12 * 1024,
    clock: () => 1_700_000_000_000,
    setTimer: (callback) => {
      timers.push(callback)
      return () => {}
    },
  })
}

/** Small and large records, one larger than a segment, synchronous completions, a clean restart in the middle. */
async function workload(machine: Machine): Promise<void> {
  const timers: (() => void)[] = []
  let store = await openOn(machine.disk, machine.fsync, timers)
  for (let epoch = 1; epoch <= 36; epoch++) {
    const length = epoch === 17 ? 20_000 : epoch % 7 === 0 ? 3000 : 40 + (epoch % 5) * 160
    const record = recordOf(epoch, length)
    await store.reserve(length)
    machine.begun = epoch
    const appended = store.append(record)
    if (epoch % 4 === 0) {
      appended.catch(() => {})
      store.completeSync()
      machine.acknowledged = epoch
    }
    await appended
    machine.acknowledged = epoch
    machine.durable = Math.max(machine.durable, store.stats().durableEpoch)
    if (epoch % 9 === 0) for (const timer of timers.splice(0)) timer()
    if (epoch === 20) {
      await store.close()
      machine.durable = epoch
      store = await openOn(machine.disk, machine.fsync, timers)
    }
  }
  await store.close()
  machine.durable = 36
}

/** Runs until done or off. */
async function run(fsync: FsyncPolicy, options: SimDiskOptions): Promise<Machine> {
  const machine: Machine = { disk: new SimDisk(options), fsync, acknowledged: 0, begun: 0, durable: 0 }
  const work = workload(machine).catch((error: unknown) => {
    if (!machine.disk.dead) throw error
  })
  await Promise.race([work, machine.disk.died])
  return machine
}

async function checkAfter(t: Test, machine: Machine, policy: CrashPolicy, name: string): Promise<void> {
  const disk = machine.disk.crash(policy)
  const store = await openOn(disk, machine.fsync)
  const found: number[] = []
  for (const record of store.records(0)) {
    found.push(record.epoch)
    if (JSON.stringify(plain(record)) !== JSON.stringify(plain(wanted(record.epoch))))
      t.fail(`${name}: ${record.epoch}`)
  }
  const newest = store.recovery.newestEpoch
  const floor = machine.fsync === 'always' ? machine.acknowledged : machine.durable
  if (newest < floor || newest > machine.begun || found.length !== newest) {
    t.fail(`${name}: newest ${newest}, ${found.length} found, floor ${floor}, begun ${machine.begun}`)
  }
  await store.append(recordOf(newest + 1, 100))
  await store.close()
  const again = await openOn(disk.crash('drop'), machine.fsync)
  if (again.recovery.newestEpoch !== newest + 1) t.fail(`${name}: does not go on`)
  await again.close()
  if (disk.openCount > 0) t.fail(`${name}: ${disk.openCount} files left open`)
}

const wanted = (epoch: number) =>
  recordOf(epoch, epoch === 17 ? 20_000 : epoch % 7 === 0 ? 3000 : 40 + (epoch % 5) * 160)

for (const fsync of ['always', 'interval', 'off'] as const) {
  t.test(`fsync ${fsync}: off at every sync`, async (t) => {
    const whole = await run(fsync, {})
    t.equal(whole.durable, 36)
    t.equal(whole.disk.openCount, 0)
    let runs = 0
    for (let n = 1; n <= whole.disk.syncs; n++) {
      for (const policy of POLICIES) {
        const machine = await run(fsync, { dieAtSync: n })
        if (!machine.disk.dead) t.fail(`sync ${n} did not come`)
        const name = `sync ${n}, ${JSON.stringify(policy)}`
        await checkAfter(t, machine, policy, name).catch((error: unknown) =>
          t.fail(`${name}: ${String(error)}`),
        )
        runs++
      }
    }
    t.ok(runs >= 5 * 5, `${runs} crashes`)
    t.comment(`${runs} crashes`)
  })
}

t.test('zeros written ahead never reach a record', async (t) => {
  const options = { zeroAhead: true }
  for (let n = 0; n < 40; n++) {
    const disk = new SimDisk(n === 0 ? options : { ...options, dieAtSync: 20 + n * 7 })
    const go = async (): Promise<number> => {
      const store = await Store.open({
        dir: DIR,
        fsync: 'always',
        crc32c,
        io: disk,
        catalog: noCatalog(),
        lock: () => () => {},
        segmentBytes: 200 * 1024,
      })
      let acknowledged = 0
      const note = (epoch: number): void => {
        last = Math.max(last, epoch)
      }
      for (let epoch = 1; epoch <= 300; epoch++) {
        const record = recordOf(epoch, epoch % 50 === 0 ? 30_000 : 900)
        await store.reserve(record.frames.length)
        await store.append(record)
        acknowledged = epoch
        note(epoch)
      }
      await store.close()
      return acknowledged
    }
    let last = 0
    await Promise.race([
      go().catch((error: unknown) => t.ok(error instanceof SimCrash || disk.dead)),
      disk.died,
    ])
    const store = await openOn(disk.crash(n % 2 === 0 ? 'drop' : { seed: n }), 'always')
    const found = [...store.records(0)].length
    if (found < last) t.fail(`run ${n}: ${found} found, ${last} acknowledged`)
    await store.close()
  }
})
