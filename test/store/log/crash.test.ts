/**
 * A simulated machine dies at the n-th sync, for every n of a workload, with unsynced data kept, dropped or
 * torn. Afterwards every acknowledged epoch is there (without `always`: every epoch known to be durable), no
 * epoch is there by halves, and the log continues.
 */
import t, { type Test } from 'tap'
import { Store } from '../../../src/store/store.js'
import type { FsyncPolicy } from '../../../src/store/types.js'
import { type CrashPolicy, NO_LOCK, SimDisk, type SimDiskOptions } from '../../support/simdisk.js'
import { crc32c, noCatalog, plain, recordOf } from '../helpers.js'

const DIR = '/sim'
const POLICIES: readonly CrashPolicy[] = ['keep', 'drop', { seed: 1 }, { seed: 2 }, { seed: 3 }]

interface Machine {
  readonly disk: SimDisk
  readonly fsync: FsyncPolicy
  /** Newest acknowledged epoch. */
  acknowledged: number
  /** Newest epoch begun. */
  begun: number
  /** Newest epoch that a sync covered. */
  durable: number
}

function openOn(
  disk: SimDisk,
  fsync: FsyncPolicy,
  timers: (() => void)[] = [],
  segmentBytes = 12 * 1024,
): Promise<Store> {
  return Store.open({
    dir: DIR,
    fsync,
    crc32c,
    disk,
    catalog: noCatalog(),
    lock: () => NO_LOCK,
    segmentBytes,
    clock: () => 1_700_000_000_000,
    setTimer: (callback) => {
      timers.push(callback)
      return () => {}
    },
  })
}

/**
 * Small and large records, one larger than a segment, synchronous completions, a clean restart in the middle.
 */
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

/** Runs until the workload is done or the machine dies. */
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
  // The same bytes as before the crash, in the same place: records behind them must not reappear.
  if (newest < 36) await store.append(wanted(newest + 1))
  const again = await openOn(disk.crash('keep'), machine.fsync)
  if (again.recovery.newestEpoch !== Math.min(newest + 1, 36)) {
    t.fail(`${name}: went on to ${again.recovery.newestEpoch} after ${newest}`)
  }
  await again.close()
  await store.close()
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

t.test('zeros written ahead never overwrite a record, however late they are written', async (t) => {
  const lengthOf = (epoch: number): number => (epoch % 40 === 0 ? 120_000 : 900)
  let pieces = 0
  for (let run = 0; run < 24; run++) {
    const dieAtSync = run === 0 ? undefined : 15 + run * 11
    const disk = new SimDisk({ zeroAhead: true, lateWrites: true, ...(dieAtSync ? { dieAtSync } : {}) })
    disk.fault = (call, file) => {
      if (call === 'open' && file.endsWith('.seg')) pieces++
    }
    let acknowledged = 0
    const work = async (): Promise<void> => {
      const store = await openOn(disk, 'always', [], 512 * 1024)
      for (let epoch = 1; epoch <= 240; epoch++) {
        const record = recordOf(epoch, lengthOf(epoch))
        await store.reserve(record.frames.length)
        const appended = store.append(record)
        if (epoch % 20 === 0) {
          appended.catch(() => {})
          store.completeSync()
          acknowledged = epoch
        }
        await appended
        acknowledged = epoch
      }
      await store.close()
    }
    const dying = work().catch((error: unknown) => {
      if (!disk.dead) throw error
    })
    await Promise.race([dying, disk.died])
    const store = await openOn(disk.crash(run % 2 === 0 ? 'drop' : { seed: run }), 'always', [], 512 * 1024)
    const found = [...store.records(0)].length
    if (found < acknowledged) t.fail(`run ${run}: ${found} found, ${acknowledged} acknowledged`)
    await store.close()
  }
  t.ok(pieces > 10, `${pieces} openings of segments: zeros were written`)
})
