/**
 * The store as a whole: what opening leaves behind when it refuses, what a close ends and in which order,
 * what is read, what retention removes.
 */
import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { type CheckpointFolder, checkpointFolder } from '../../src/store/checkpoint/folder.js'
import { CheckpointTasks } from '../../src/store/checkpoint/tasks.js'
import type { StoreOptions } from '../../src/store/options.js'
import { type Disk, realDisk } from '../../src/store/os/disk.js'
import type { FolderLock } from '../../src/store/os/lock.js'
import type { Store } from '../../src/store/store.js'
import type { Catalog, CheckpointSource, Notice } from '../../src/store/types.js'
import { turn } from '../lib/wait.js'
import { NO_LOCK, SimDisk } from '../support/simdisk.js'
import {
  appendAll,
  epochsIn,
  epochsTo,
  framesOf,
  inlineCatalog,
  openStore,
  plain,
  recordOf,
  scratch,
} from './helpers.js'

const SMALL = { segmentBytes: 8192 }

function fail(text: string): never {
  throw new Error(text)
}

const sourceOf = (epoch: number): CheckpointSource => ({
  header: { epoch, timestampMs: 1, digest: framesOf(1, 16), nextPageId: 2, extra: '{}' },
  pages: [{ id: 1, version: epoch, createdEpoch: 1, bytes: 100, meta: framesOf(2, 40) }],
  read: (_, offset, into) => into.set(framesOf(epoch, 100).subarray(offset, offset + into.length)),
})

/** The parts of a store on the real disk, without threads; each notes when it is let go. */
function partsIn(dir: string, changes: Partial<Disk> = {}, catalogChanges: Partial<Catalog> = {}) {
  const steps: string[] = []
  const state = { openFiles: 0, openCheckpoints: 0 }
  const real = realDisk()
  const disk: Disk = {
    ...real,
    open: (file, flags) => {
      const fd = (changes.open ?? real.open)(file, flags)
      state.openFiles++
      return fd
    },
    close: (fd) => {
      state.openFiles--
      real.close(fd)
    },
    remove: (file) => {
      if (file.endsWith('.seg')) steps.push(`remove ${Number.parseInt(path.basename(file), 10)}`)
      real.remove(file)
    },
    syncDir: async (folder) => {
      await (changes.syncDir ?? real.syncDir)(folder)
      if (folder.endsWith('log')) steps.push('sync names')
    },
  }
  const checkpoints = checkpointFolder(path.join(dir, 'checkpoints'))
  const counted: CheckpointFolder = {
    ...checkpoints,
    open: (name) => {
      const db = checkpoints.open(name)
      state.openCheckpoints++
      const close = db.close.bind(db)
      db.close = () => {
        if (db.open) state.openCheckpoints--
        return close()
      }
      return db
    },
  }
  const catalog = inlineCatalog(dir)
  const lock: FolderLock = { ...NO_LOCK, release: () => steps.push('unlock') }
  const tasks = new CheckpointTasks(checkpoints)
  const notices: Notice[] = []
  const options: Partial<StoreOptions> = {
    ...SMALL,
    disk,
    lock: () => lock,
    checkpointFolder: counted,
    checkpointThread: () => ({
      ask: (request) => tasks.handle(request),
      end: async () => void steps.push('end thread'),
    }),
    catalog: {
      ...catalog,
      dropBlocksBefore: async (epoch) => {
        steps.push(`drop blocks before ${epoch}`)
        await catalog.dropBlocksBefore(epoch)
      },
      close: async () => {
        steps.push('close catalog')
        await catalog.close()
      },
      ...catalogChanges,
    },
    onNotice: (notice) => notices.push(notice),
  }
  const open = (more: Partial<StoreOptions> = {}): Promise<Store> => openStore(dir, { ...options, ...more })
  return { open, steps, state, notices }
}

/** A folder with epochs 1..20 and checkpoints at 10 and 15, and the log as it was at epoch 16. */
async function folder(): Promise<{ dir: string; log: string }> {
  const dir = scratch()
  const log = path.join(scratch(), 'log')
  for (const to of [10, 15, 16, 20]) {
    const store = await partsIn(dir).open({ segmentBytes: 65_536 })
    await appendAll(store, store.newestEpoch + 1, to, 500)
    if (to === 10 || to === 15) await store.checkpoint(sourceOf(to))
    await store.close()
    if (to === 16) fs.cpSync(path.join(dir, 'log'), log, { recursive: true })
  }
  return { dir, log }
}

t.test(
  'a refused start lets everything go: the checkpoint that it had opened, the catalog, the lock',
  async (t) => {
    const { dir, log } = await folder()
    fs.rmSync(path.join(dir, 'log'), { recursive: true })
    fs.cpSync(log, path.join(dir, 'log'), { recursive: true })
    const { open, steps, state } = partsIn(dir)
    const why = /ends at epoch 16, but the index shows that epoch 20 was durable \(recovery row R2\)/
    await t.rejects(open(), { code: 'BUS_FAILED', message: why })
    t.same(state, { openFiles: 0, openCheckpoints: 0 })
    t.same(steps, ['close catalog', 'unlock'])
  },
)

t.test('so does a start that fails on the way', async (t) => {
  const { dir } = await folder()
  const faults: [string, Partial<Disk>, RegExp][] = [
    [
      'the log cannot be written',
      { open: (f, flags) => (f.endsWith('.seg') && flags.write ? fail('EROFS') : realDisk().open(f, flags)) },
      /cannot be written: EROFS/,
    ],
    [
      'the names of the log are not durable',
      { syncDir: async (d) => (d.endsWith('log') ? fail('EIO') : undefined) },
      /the store cannot be opened: EIO/,
    ],
  ]
  for (const [what, changes, message] of faults) {
    const { open, steps, state } = partsIn(dir, changes)
    await t.rejects(open(), { code: 'BUS_FAILED', message }, what)
    t.same(state, { openFiles: 0, openCheckpoints: 0 }, what)
    t.same(steps.slice(-2), ['close catalog', 'unlock'], what)
  }
  const { open } = partsIn(dir)
  const store = await open()
  t.equal(store.newestEpoch, 20)
  await store.close()
})

t.test('a history that can neither be written nor forgotten: the log is closed again', async (t) => {
  const disk = new SimDisk()
  let broken = true
  disk.fault = (call, file) => {
    if (
      broken &&
      (file.includes('history') ||
        (call === 'syncDir' && file === '/sim' && disk.exists('/sim/log/00000000000000000001.seg')))
    )
      fail('EIO')
  }
  await t.rejects(openStore('/sim', { disk, ...SMALL }), {
    code: 'BUS_FAILED',
    message: /history.json cannot be written/,
  })
  t.equal(disk.openCount, 0)
  broken = false
  const store = await openStore('/sim', { disk, ...SMALL })
  t.equal(store.newestEpoch, 0)
  await store.close()
})

t.test('a folder that cannot be made, or that a restore has left, is refused before the lock', async (t) => {
  let locks = 0
  const lock = (): FolderLock => {
    locks++
    return NO_LOCK
  }
  const disk = new SimDisk()
  disk.fault = (call) => call === 'syncDir' && fail('EIO')
  await t.rejects(openStore('/sim', { disk, lock }), { code: 'BUS_FAILED', message: /cannot be used: EIO/ })
  t.equal(locks, 0)
})

t.test('a start that is given up rejects with the reason', async (t) => {
  const { dir } = await folder()
  const { open, steps, state } = partsIn(dir)
  const given = new AbortController()
  given.abort(new Error('never mind'))
  // Each slice of the work is long over.
  let ms = 0
  const ticksMs = (): number => (ms += 1000)
  await t.rejects(open({ signal: given.signal, ticksMs }), { message: 'never mind' })
  t.same(state, { openFiles: 0, openCheckpoints: 0 })
  t.same(steps, ['close catalog', 'unlock'])
})

t.test('the folder is let go only when the catalog is closed', async (t) => {
  const { dir } = await folder()
  const { open, steps } = partsIn(
    dir,
    { syncDir: async (d) => (d.endsWith('log') ? fail('EIO') : undefined) },
    {
      close: async () => {
        await turn()
        steps.push('closed')
      },
    },
  )
  await t.rejects(open(), { code: 'BUS_FAILED' })
  t.same(steps, ['closed', 'unlock'])
})

t.test('nothing is removed after the close', async (t) => {
  const { open, steps } = partsIn(scratch())
  const store = await open()
  await appendAll(store, 1, 15, 1000)
  for (const epoch of [5, 12, 15]) await store.checkpoint(sourceOf(epoch))
  await store.close()
  steps.length = 0
  t.equal(await store.retain({ maxEpochs: 1 }), 0)
  t.same(steps, [])
  t.equal(store.checkpoints().length, 3)
})

t.test('a catalog that cannot be begun costs the index, not the start', async (t) => {
  const { dir } = await folder()
  const { open, notices } = partsIn(dir, {}, { begin: async () => fail('full') })
  const store = await open()
  t.match(notices, [{ level: 'warn', message: /the log index has stopped; .*: full/ }])
  t.equal(plain(await store.read(3)) !== undefined, true)
  await store.close()
})

t.test(
  'the checkpoint of the start is handed out once, then opened again; the close lets it go',
  async (t) => {
    const { dir } = await folder()
    const { open, state } = partsIn(dir)
    const store = await open()
    t.equal(state.openCheckpoints, 1)
    const one = store.openCheckpoint()
    t.equal(state.openCheckpoints, 1)
    const two = store.openCheckpoint()
    t.equal(state.openCheckpoints, 2)
    t.equal(one?.header.epoch, 15)
    for (const reader of [one, two]) reader?.close()
    await store.close()
    t.same(state, { openFiles: 0, openCheckpoints: 0 })
    const again = await open()
    await again.close()
    t.equal(state.openCheckpoints, 0, 'also one that nobody took')
    const empty = await openStore('/sim', { disk: new SimDisk() })
    t.equal(empty.openCheckpoint(), undefined)
    await empty.close()
  },
)

t.test('a checkpoint that went bad after the start is refused', async (t) => {
  const { dir } = await folder()
  const store = await partsIn(dir).open()
  store.openCheckpoint()?.close()
  for (const name of fs.readdirSync(path.join(dir, 'checkpoints')))
    fs.rmSync(path.join(dir, 'checkpoints', name))
  t.throws(() => store.openCheckpoint(), {
    code: 'BUS_FAILED',
    message: /checkpoint 15 cannot be read any more/,
  })
  await store.close()
})

t.test('a close ends everything, once, and lets the folder go last', async (t) => {
  const { dir } = await folder()
  const { open, steps } = partsIn(dir)
  const store = await open()
  await store.checkpoint(sourceOf(20))
  steps.length = 0
  const first = store.close()
  t.equal(store.close(), first)
  await first
  t.same(steps, ['end thread', 'close catalog', 'unlock'])
  await t.rejects(store.checkpoint(sourceOf(20)), { code: 'BUS_FAILED', message: /the store is closed/ })
  t.equal(await store.retain({ maxEpochs: 1 }), 0)
})

t.test('a close that fails still lets the folder go', async (t) => {
  const disk = new SimDisk()
  let isFree = false
  const lock: FolderLock = { ...NO_LOCK, release: () => (isFree = true) }
  const store = await openStore('/sim', { disk, lock: () => lock })
  disk.fault = (call) => call === 'write' && fail('EIO')
  await t.rejects(store.close(), { code: 'BUS_FAILED', message: /EIO/ })
  t.ok(isFree)
})

t.test('a failure is told once: as a notice, to the listener, and by the store', async (t) => {
  const disk = new SimDisk()
  const notices: Notice[] = []
  const store = await openStore('/sim', { disk, onNotice: (notice) => notices.push(notice) })
  const told: string[] = []
  store.onFailed((error) => told.push(error.message))
  t.equal(store.stats().failure, null)
  disk.fault = (call) => call === 'write' && fail('EIO')
  await t.rejects(store.append(recordOf(1)), { code: 'BUS_FAILED' })
  t.match(told, [/EIO/])
  t.match(notices, [{ level: 'error', message: told[0] }])
  t.equal(store.failure, told[0])
  t.equal(store.stats().failure, told[0])
  t.throws(() => store.refuseWhenLost(), { message: told[0] as string })
  await t.rejects(store.checkpoint(sourceOf(0)), { message: told[0] as string })
  t.equal(await store.retain({ maxEpochs: 1 }), 0)
  disk.fault = undefined
  await store.close()
})

t.test('a checkpoint makes the log durable first, and is of an epoch that is there', async (t) => {
  const dir = scratch()
  const { open } = partsIn(dir)
  const store = await open({ fsync: 'off' })
  await appendAll(store, 1, 5)
  t.equal(store.stats().durableEpoch, 0)
  await t.rejects(store.checkpoint(sourceOf(6)), {
    code: 'INTERNAL',
    message: /epoch 6, which is not in the log/,
  })
  t.match(await store.checkpoint(sourceOf(5)), { epoch: 5, pages: 1 })
  t.equal(store.stats().durableEpoch, 5)
  t.same(
    store.checkpoints().map(({ epoch }) => epoch),
    [5],
  )
  await store.close()
})

t.test('room is reserved for the page ids too', async (t) => {
  const disk = new SimDisk()
  const store = await openStore('/sim', { disk, ...SMALL })
  // The segment has 4096 bytes; a void record and a seal take 128, the header of the record 64, and
  // 8 are spare.
  const most = Math.floor((4096 - 128 - 64 - 8) / 1.25)
  t.equal(store.reserve(most), undefined)
  const more = store.reserve(most + 2)
  t.ok(more instanceof Promise)
  await more
  await store.close()
})

t.test('what the store holds: segments, bytes, the oldest and newest epoch', async (t) => {
  const disk = new SimDisk()
  const store = await openStore('/sim', { disk, ...SMALL })
  t.match(store.stats(), { bytes: 4096, segments: 1, records: 0, minEpoch: 1, newestEpoch: 0, failure: null })
  await appendAll(store, 1, 12, 1000)
  await turn()
  const { segments, bytes, records, newestEpoch } = store.stats()
  t.same([records, newestEpoch, store.newestEpoch], [12, 12, 12])
  const names = disk.files.filter((file) => file.endsWith('.seg'))
  t.equal(names.length, segments)
  t.ok(segments >= 3)
  const size = 64 + 1000 + 16
  t.equal(bytes, segments * 4096 + 12 * size)
  t.equal(store.appendedBytes, 12 * size)
  t.equal(store.bytesSince(0), bytes)
  t.equal(store.bytesSince(3), bytes - 4096 - 3 * size)
  t.equal(store.bytesSince(2), bytes, 'counted in whole segments')
  t.equal(store.bytesSince(12), 4096 + (12 % 3 || 3) * size)
  store.appendVoid(12, 1)
  t.equal(store.stats().bytes, bytes + 64)
  t.match(store.history, new RegExp(`^${store.busId}\\.[0-9a-f]{16}$`))
  await store.close()
})

t.test('epochs that are not there, or not any more', async (t) => {
  const { dir } = await folder()
  const { open, steps, state } = partsIn(dir)
  const store = await open()
  await appendAll(store, 21, 40, 1000)
  const read = async (from: number, to: number): Promise<number[]> => {
    const epochs: number[] = []
    for await (const record of store.range(from, to)) epochs.push(record.epoch)
    return epochs
  }
  t.same(await read(19, 23), [19, 20, 21, 22, 23])
  t.same(await read(39, 99), [39, 40], 'up to the newest')
  t.same(await read(41, 99), [])
  await t.rejects(store.read(41), {
    code: 'EPOCH_NOT_FOUND',
    message: 'Epoch 41 is not in the log; the newest is 40.',
  })
  t.same(epochsIn(store, 38), [39, 40])
  t.same(epochsIn(store, 40), [])
  t.same(epochsIn(store), epochsTo(40))
  await store.checkpoint(sourceOf(30))
  await store.checkpoint(sourceOf(40))
  steps.length = 0
  t.equal(await store.retain({ maxEpochs: 1 }, () => 1), 0, 'a reader needs epoch 1')
  t.same(steps, [])
  const removed = await store.retain({ maxEpochs: 1 })
  t.ok(removed >= 2)
  const firsts = steps.filter((step) => step.startsWith('remove')).map((step) => Number(step.slice(7)))
  t.equal(firsts.length, removed)
  t.same(
    firsts,
    [...firsts].sort((a, b) => a - b),
    'oldest first',
  )
  t.same(steps, [
    ...firsts.flatMap((first) => [`remove ${first}`, 'sync names']),
    `drop blocks before ${store.minEpoch}`,
  ])
  t.ok(store.minEpoch > 20 && store.minEpoch <= 31)
  t.same(
    store.checkpoints().map(({ epoch }) => epoch),
    [30, 40],
  )
  t.equal(store.stats().minEpoch, store.minEpoch)
  const gone = { code: 'EPOCH_COMPACTED', extra: { minEpoch: store.minEpoch } }
  await t.rejects(store.read(store.minEpoch - 1), gone)
  t.throws(() => epochsIn(store, store.minEpoch - 2), gone)
  t.same(epochsIn(store, store.minEpoch - 1), epochsTo(40, store.minEpoch))
  t.equal((await store.read(store.minEpoch)).epoch, store.minEpoch)
  t.equal(await store.retain({ maxEpochs: 1 }), 0, 'nothing is left to remove')
  await store.close()
  t.same(state, { openFiles: 0, openCheckpoints: 0 })
})

t.test('the segment with the first epoch after the checkpoint stays, the one before it goes', async (t) => {
  const store = await partsIn(scratch()).open()
  await appendAll(store, 1, 15, 1000)
  for (const epoch of [5, 12, 15]) await store.checkpoint(sourceOf(epoch))
  t.equal(store.bytesSince(3), store.bytesSince(0) - store.bytesSince(12), 'three epochs in a segment')
  for (const [epochs, anchor, minEpoch] of [
    [10, 5, 4],
    [3, 12, 13],
  ] as const) {
    await store.retain({ maxEpochs: epochs })
    t.equal(store.checkpoints()[0]?.epoch, anchor)
    t.equal(store.minEpoch, minEpoch)
    t.same(epochsIn(store, anchor), epochsTo(15, anchor + 1), 'what the checkpoint needs is there')
  }
  await store.close()
})

t.test('a folder that is lost while a checkpoint is written gets none, and keeps all it has', async (t) => {
  const dir = scratch()
  const { open, steps } = partsIn(dir)
  let isLost = false
  const store = await open({ lock: () => ({ ...NO_LOCK, lost: () => (isLost ? 'it is gone' : undefined) }) })
  await appendAll(store, 1, 15, 1000)
  for (const epoch of [5, 12]) await store.checkpoint(sourceOf(epoch))
  const files = (): string[] => fs.readdirSync(path.join(dir, 'checkpoints')).sort()
  const before = files()
  const onRead = (): void => {
    isLost = true
  }
  const source = { ...sourceOf(15), onRead }
  await t.rejects(store.checkpoint(source), { code: 'BUS_FAILED', message: /it is gone/ })
  t.same(files(), before)
  steps.length = 0
  t.equal(await store.retain({ maxEpochs: 1 }), 0)
  t.same([steps, files()], [[], before])
  await store.close()
})

t.test('the index is built again on request', async (t) => {
  const { dir } = await folder()
  const { open } = partsIn(dir)
  const store = await open()
  await store.rebuildIndex()
  t.equal(store.stats().indexedEpoch, store.recovery.newestEpoch)
  await store.close()
})
