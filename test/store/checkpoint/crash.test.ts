/**
 * The machine dies at every sync of a workload of checkpoints, merges of thin files, deletions and retention,
 * with unsynced data kept, dropped or torn. Afterwards the newest acknowledged checkpoint, or a newer one, is
 * there with every chunk, and the log reaches from it to the newest epoch.
 */
import t, { type Test } from 'tap'
import { collectFiles } from '../../../src/store/checkpoint/collect.js'
import { openCheckpointFile } from '../../../src/store/checkpoint/file-reader.js'
import { checkpointEpochs } from '../../../src/store/checkpoint/folder.js'
import { checkpointName } from '../../../src/store/checkpoint/format.js'
import { CheckpointTasks } from '../../../src/store/checkpoint/tasks.js'
import { Store } from '../../../src/store/store.js'
import type { CheckpointSource } from '../../../src/store/types.js'
import { SIM_DIR, SimCatalog, simFolder } from '../../support/sim-world.js'
import { type CrashPolicy, NO_LOCK, SimDisk, type SimDiskOptions } from '../../support/simdisk.js'
import { appendAll, crc32c, epochsTo, framesOf } from '../helpers.js'

const CHUNK = 64 * 1024
const CHUNKS = 12
const POLICIES: readonly CrashPolicy[] = ['keep', 'drop', { seed: 7 }]
const CHECKPOINTS = [4, 9, 14, 19, 24]

/** The page as of an epoch. Chunk i was last written at the newest epoch up to it with the same remainder. */
function pageAt(epoch: number): Uint8Array {
  const bytes = new Uint8Array(CHUNKS * CHUNK)
  for (let i = 0; i < CHUNKS; i++) {
    const written = epoch - ((epoch - i) % (2 * CHUNKS))
    if (written > 0 && i % 5 !== 4) bytes.set(framesOf(written, 3000), i * CHUNK)
  }
  return bytes
}

function sourceAt(epoch: number): CheckpointSource {
  const page = pageAt(epoch)
  return {
    header: { epoch, timestampMs: 1, digest: framesOf(epoch, 16), nextPageId: 3, extra: '{}' },
    pages: [
      { id: 1, version: epoch, createdEpoch: 1, bytes: page.length, meta: framesOf(1, 40) },
      { id: 2, version: 2, createdEpoch: 1, bytes: 3 * CHUNK, meta: framesOf(2, 40) },
    ],
    read: (id, offset, into) =>
      into.set((id === 1 ? page : framesOf(77, 3 * CHUNK)).subarray(offset, offset + into.length)),
  }
}

function openOn(disk: SimDisk, catalog: SimCatalog): Promise<Store> {
  const place = simFolder(disk)
  return Store.open({
    dir: SIM_DIR,
    fsync: 'always',
    crc32c,
    disk,
    catalog,
    lock: () => NO_LOCK,
    segmentBytes: 12 * 1024,
    checkpointsKept: 4,
    checkpointFolder: place,
    checkpointThread: () => {
      const tasks = new CheckpointTasks(place)
      return { ask: (request) => tasks.handle(request), end: async () => {} }
    },
  })
}

interface Run {
  readonly disk: SimDisk
  readonly catalog: SimCatalog
  epoch: number
  checkpoint: number
}

async function run(options: SimDiskOptions): Promise<Run> {
  const state: Run = { disk: new SimDisk(options), catalog: new SimCatalog(), epoch: 0, checkpoint: 0 }
  const work = async (): Promise<void> => {
    const store = await openOn(state.disk, state.catalog)
    for (const epoch of CHECKPOINTS) {
      await appendAll(store, store.newestEpoch + 1, epoch, 900)
      state.epoch = epoch
      await store.checkpoint(sourceAt(epoch))
      state.checkpoint = epoch
      await store.retain({ maxEpochs: 6 })
    }
    await store.close()
  }
  const done = work().catch((error: unknown) => {
    if (!state.disk.dead) throw error
  })
  await Promise.race([done, state.disk.died])
  return state
}

async function check(t: Test, { disk, catalog, epoch, checkpoint }: Run, policy: CrashPolicy, name: string) {
  const after = disk.crash(policy)
  const place = simFolder(after)
  for (const at of checkpointEpochs(place)) {
    const file = openCheckpointFile(place, at, undefined)
    if (typeof file === 'string') {
      t.fail(`${name}: checkpoint ${at}: ${file}`)
      continue
    }
    const bytes = new Map(file.pages.map((page) => [page.id, Buffer.alloc(page.bytes)]))
    file.load((id, offset, chunk) => bytes.get(id)?.set(chunk, offset))
    if (bytes.get(1)?.equals(pageAt(at)) !== true) t.fail(`${name}: checkpoint ${at} has other bytes`)
    file.close()
  }
  const store = await openOn(after, catalog.copy())
  const from = store.recovery.checkpointEpoch ?? 0
  if (from < checkpoint) t.fail(`${name}: recovered from ${from}, but ${checkpoint} was acknowledged`)
  const epochs = [...store.records(from)].map((record) => record.epoch)
  if (store.newestEpoch < epoch || epochs.length !== store.newestEpoch - from) {
    t.fail(`${name}: from ${from} to ${store.newestEpoch}, ${epochs.length} records`)
  }
  store.openCheckpoint()?.close()
  if (store.newestEpoch > from) await store.checkpoint(sourceAt(store.newestEpoch))
  await store.close()
}

t.test('off at every sync', async (t) => {
  const whole = await run({})
  t.equal(whole.checkpoint, 24)
  const left = whole.disk.files.filter((file) => file.includes('checkpoints'))
  t.ok(left.length <= 6, `checkpoints were let go: ${left.join()}`)
  t.notOk(
    whole.disk.files.some((file) => file.endsWith(`${'1'.padStart(20, '0')}.seg`)),
    'so were segments',
  )
  let runs = 0
  for (let n = 1; n <= whole.disk.syncs; n++) {
    const state = await run({ dieAtSync: n })
    for (const policy of POLICIES) {
      const name = `sync ${n}, ${JSON.stringify(policy)}`
      await check(t, state, policy, name).catch((error: unknown) => t.fail(`${name}: ${String(error)}`))
      runs++
    }
  }
  t.comment(`${runs} crashes`)
  t.ok(runs > 100)
})

t.test('segments that are removed together leave no gap, whichever removals a crash keeps', async (t) => {
  const removing = async (options: SimDiskOptions) => {
    const [disk, catalog] = [new SimDisk(options), new SimCatalog()]
    const seen = { syncsBefore: 0, removed: 0 }
    const work = async (): Promise<void> => {
      const store = await openOn(disk, catalog)
      await appendAll(store, 1, 50, 900)
      for (const epoch of [45, 50]) await store.checkpoint(sourceAt(epoch))
      seen.syncsBefore = disk.syncs
      seen.removed = await store.retain({ maxEpochs: 1 })
    }
    const done = work().catch((error: unknown) => {
      if (!disk.dead) throw error
    })
    await Promise.race([done, disk.died])
    return { disk, catalog, ...seen }
  }
  const whole = await removing({})
  t.ok(whole.removed >= 4, `${whole.removed} segments go`)
  for (let n = whole.syncsBefore + 1; n <= whole.disk.syncs + 1; n++) {
    const { disk, catalog } = await removing({ dieAtSync: n })
    for (let seed = 1; seed <= 6; seed++) {
      const name = `sync ${n}, seed ${seed}`
      const after = disk.crash({ seed })
      const store = await openOn(after, catalog.copy()).catch((error: unknown) => t.fail(`${name}: ${error}`))
      if (typeof store === 'boolean') continue
      t.same([store.recovery.checkpointEpoch, store.newestEpoch], [50, 50], name)
      // A gap would be found by the first reader of the past.
      try {
        const epochs = [...store.records(store.minEpoch - 1)].map(({ epoch }) => epoch)
        t.same(epochs, epochsTo(50, store.minEpoch), name)
      } catch (error) {
        t.fail(`${name}: ${error}`)
      }
      store.openCheckpoint()?.close()
      await store.close()
    }
  }
})

t.test('a checkpoint that is complete stays, whatever fails after it', async (t) => {
  const place = simFolder(new SimDisk())
  const tasks = new CheckpointTasks(place)
  const meta = { bus_id: 'b', bytes: '0', digest: framesOf(1, 16), epoch: '5', extra: '{}' }
  await tasks.handle({ type: 'begin', base: undefined, busId: 'b' })
  await tasks.handle({
    type: 'end',
    epoch: 5,
    meta: { ...meta, next_page_id: '1', pages: '0', timestamp_ms: '1' },
  })
  await t.rejects(tasks.handle({ type: 'abandon' }))
  t.same(place.list(), [checkpointName(5)])
})

t.test('files that a kept checkpoint refers to stay, and their loss is noticed', async (t) => {
  const { disk } = await run({})
  const place = simFolder(disk)
  const newest = checkpointEpochs(place)[0] as number
  await collectFiles(place, [newest], new Map())
  const opened = openCheckpointFile(place, newest, undefined)
  if (typeof opened === 'string') throw new Error(opened)
  opened.close()
  const others = place.list().filter((name) => name !== checkpointName(newest))
  t.ok(others.length > 0, 'it refers to others')
  for (const name of others) place.remove(name)
  t.match(openCheckpointFile(place, newest, undefined), /whose chunks it needs: the file is missing/)
})
