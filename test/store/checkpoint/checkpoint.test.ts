/** Checkpoints: full states in one file, each chunk stored once, damage found. */
import fs from 'node:fs'
import path from 'node:path'
import Database from 'better-sqlite3'
import t, { type Test } from 'tap'
import { catalogIn } from '../../../src/store/catalog/catalog.js'
import { openCheckpointFile } from '../../../src/store/checkpoint/file-reader.js'
import { checkpointFolder } from '../../../src/store/checkpoint/folder.js'
import { checkpointName } from '../../../src/store/checkpoint/format.js'
import type { Store } from '../../../src/store/store.js'
import type { CheckpointPage, CheckpointSource } from '../../../src/store/types.js'
import { appendAll, framesOf, openStore, plain, recordOf, scratch } from '../helpers.js'

const CHUNK = 64 * 1024

interface MemoryState {
  readonly source: CheckpointSource
  readonly bytes: Map<number, Uint8Array>
}

function stateOf(epoch: number, pages: ReadonlyMap<number, Uint8Array>): MemoryState {
  const list: CheckpointPage[] = [...pages].map(([id, bytes]) => ({
    id,
    version: epoch - 1,
    createdEpoch: 1,
    bytes: bytes.length,
    meta: framesOf(id, 48),
  }))
  const source: CheckpointSource = {
    header: {
      epoch,
      timestampMs: 1_700_000_000_000 + epoch,
      digest: framesOf(epoch, 16),
      nextPageId: 900,
      extra: JSON.stringify({ kept: 'ü' }),
    },
    pages: list,
    read: (id, offset, into) => into.set(pages.get(id)?.subarray(offset, offset + into.length) ?? []),
  }
  return { source, bytes: new Map(pages) }
}

function variedPages(): Map<number, Uint8Array> {
  const sparse = new Uint8Array(5 * CHUNK)
  sparse.set(framesOf(9, 1000), 2 * CHUNK + 5)
  const twice = new Uint8Array(2 * CHUNK + 10)
  twice.set(framesOf(5, CHUNK), 0)
  twice.set(framesOf(5, CHUNK), CHUNK)
  const pages = new Map<number, Uint8Array>([
    [3, framesOf(3, 10 * CHUNK)],
    [1, framesOf(1, CHUNK)],
    [2, framesOf(2, CHUNK - 1)],
    [7, framesOf(7, CHUNK + 1)],
    [8, new Uint8Array(0)],
    [9, new Uint8Array(3 * CHUNK)],
    [10, sparse],
    [11, twice],
    [12, framesOf(12, 33 * CHUNK + 17)],
  ])
  for (let id = 100; id < 3300; id++) pages.set(id, framesOf(id, 1 + (id % 90)))
  return pages
}

function loaded(store: Store): { epoch: number; bytes: Map<number, Uint8Array>; extra: string } {
  const reader = store.openCheckpoint()
  if (reader === undefined) throw new Error('no checkpoint')
  const bytes = new Map(reader.pages.map((p) => [p.id, new Uint8Array(p.bytes)]))
  reader.load((id, offset, chunk) => bytes.get(id)?.set(chunk, offset))
  const { epoch, extra } = reader.header
  reader.close()
  return { epoch, bytes, extra }
}

function same(
  t: Test,
  found: ReadonlyMap<number, Uint8Array>,
  wanted: ReadonlyMap<number, Uint8Array>,
): void {
  t.same([...found.keys()].sort(), [...wanted.keys()].sort())
  const differing = [...wanted].filter(
    ([id, bytes]) => Buffer.compare(found.get(id) ?? Buffer.alloc(0), bytes) !== 0,
  )
  t.same(
    differing.map(([id]) => id),
    [],
  )
}

t.test(
  'a state of pages of all sizes comes back, chunks of zeros and repeated chunks are not stored twice',
  async (t) => {
    const dir = scratch()
    const store = await openStore(dir)
    await appendAll(store, 1, 20)
    const pages = variedPages()
    const { source } = stateOf(20, pages)
    let read = 0
    const info = await store.checkpoint({ ...source, onRead: () => read++ })
    t.equal(read, 1)
    t.match(info, { epoch: 20, pages: pages.size, file: '00000000000000000020.db' })
    await appendAll(store, 21, 25)
    await store.close()
    const again = await openStore(dir)
    t.match(again.recovery, { newestEpoch: 25, checkpointEpoch: 20, row: 'A' })
    t.same(again.checkpoints(), [info])
    const found = loaded(again)
    t.equal(found.epoch, 20)
    t.equal(found.extra, source.header.extra)
    same(t, found.bytes, pages)
    await again.close()
  },
)
/** A small state with every kind of chunk. */
function smallPages(): Map<number, Uint8Array> {
  const twice = new Uint8Array(2 * CHUNK)
  twice.set(framesOf(5, CHUNK), 0)
  twice.set(framesOf(5, CHUNK), CHUNK)
  return new Map([
    [1, framesOf(1, 3 * CHUNK + 100)],
    [2, new Uint8Array(CHUNK)],
    [3, twice],
    [4, framesOf(4, 100)],
  ])
}

t.test('a byte flipped anywhere in the file is found, or means nothing', async (t) => {
  const dir = scratch()
  const store = await openStore(dir)
  await appendAll(store, 1, 5)
  const pages = smallPages()
  const { source } = stateOf(5, pages)
  await store.checkpoint(source)
  const folder = path.join(dir, 'checkpoints')
  const file = path.join(folder, checkpointName(5))
  const whole = fs.readFileSync(file)
  let found = 0
  let harmless = 0
  for (let at = 0; at < whole.length; at += at < 128 ? 1 : 2999) {
    const broken = Buffer.from(whole)
    broken[at] = (broken[at] ?? 0) ^ 0x20
    fs.writeFileSync(file, broken)
    const opened = openCheckpointFile(checkpointFolder(folder), 5, store.busId)
    if (typeof opened === 'string') {
      found++
      continue
    }
    harmless++
    const bytes = new Map(opened.pages.map((p) => [p.id, new Uint8Array(p.bytes)]))
    opened.load((id, offset, chunk) => bytes.get(id)?.set(chunk, offset))
    t.same(opened.header, source.header)
    same(t, bytes, pages)
    opened.close()
  }
  t.ok(found > 100, `${found} found, ${harmless} in bytes that nothing reads`)
  await store.close()
})

t.test('chunks of zeros and repeated chunks take no space', async (t) => {
  const store = await openStore(scratch())
  await appendAll(store, 1, 3)
  const one = framesOf(77, CHUNK)
  const repeated = new Uint8Array(64 * CHUNK)
  for (let i = 0; i < 64; i += 2) repeated.set(one, i * CHUNK)
  const info = await store.checkpoint(stateOf(3, new Map([[1, repeated]])).source)
  t.equal(info.bytes, 64 * CHUNK)
  t.equal(info.newBytes, CHUNK)
  t.same(store.checkpoints(), [info])
  await store.close()
})

t.test(
  'the event loop runs while a checkpoint is written, appends go on, and one waits for the other',
  async (t) => {
    const dir = scratch()
    const store = await openStore(dir, { catalog: catalogIn(dir) })
    await appendAll(store, 1, 10)
    const pages = new Map([[1, framesOf(1, 400 * CHUNK)]])
    let turns = 0
    const timer = setInterval(() => turns++, 1)
    let readAt = 0
    const { source } = stateOf(10, pages)
    const first = store.checkpoint({ ...source, onRead: () => (readAt = store.newestEpoch) })
    const second = store.checkpoint(stateOf(10, pages).source)
    let epoch = 10
    while (readAt === 0) await appendAll(store, ++epoch, epoch)
    t.match(await first, { epoch: 10 })
    t.match(await second, { epoch: 10 })
    clearInterval(timer)
    t.ok(turns > 10, `${turns} turns`)
    t.same(
      store.checkpoints().map((c) => c.epoch),
      [10],
    )
    await store.close()
  },
)

t.test('a source that fails leaves no file, and the store goes on', async (t) => {
  const dir = scratch()
  const store = await openStore(dir)
  await appendAll(store, 1, 3)
  const { source } = stateOf(3, smallPages())
  const broken: CheckpointSource = {
    ...source,
    read: (id, offset, into) => {
      if (id === 3) throw new Error('page 3 is gone')
      source.read(id, offset, into)
    },
  }
  await t.rejects(store.checkpoint(broken), { code: 'INTERNAL', message: /page 3 is gone/ })
  t.same(fs.readdirSync(path.join(dir, 'checkpoints')), [])
  await t.rejects(
    store.checkpoint(stateOf(9, smallPages()).source),
    { code: 'INTERNAL' },
    'an epoch not in the log',
  )
  t.match(await store.checkpoint(source), { epoch: 3 })
  await store.close()
})

t.test('a process killed while it writes a checkpoint leaves the older one', async (t) => {
  const dir = scratch()
  const store = await openStore(dir)
  await appendAll(store, 1, 5)
  await store.checkpoint(stateOf(5, smallPages()).source)
  await store.close()
  fs.writeFileSync(path.join(dir, 'checkpoints', 'next.tmp'), framesOf(1, 100_000))
  const again = await openStore(dir)
  t.match(again.recovery, { checkpointEpoch: 5, row: 'A' })
  same(t, loaded(again).bytes, smallPages())
  await appendAll(again, 6, 7)
  t.match(await again.checkpoint(stateOf(7, smallPages()).source), { epoch: 7 })
  await again.close()
})

t.test('the catalog in its thread: the index finds epochs, and a damaged row makes it rebuild', async (t) => {
  const dir = scratch()
  const notices: string[] = []
  const options = {
    catalog: catalogIn(dir),
    segmentBytes: 1 << 20,
    onNotice: (n: { message: string }) => notices.push(n.message),
  }
  const store = await openStore(dir, options)
  await appendAll(store, 1, 1500, 1500)
  t.ok(store.stats().segments > 2)
  t.same(plain(await store.read(700)), plain(recordOf(700, 1500)))
  await store.close()
  t.equal(store.stats().indexedEpoch, 1500)
  const db = new Database(path.join(dir, 'catalog.db'))
  t.ok(Number(db.prepare('SELECT count(*) FROM block').pluck().get()) > 8)
  db.exec('UPDATE block SET stop = stop + 8 WHERE first_epoch < 700 AND last_epoch >= 700')
  db.close()
  const again = await openStore(dir, { ...options, catalog: catalogIn(dir) })
  t.equal(again.recovery.row, 'A')
  t.same(plain(await again.read(700)), plain(recordOf(700, 1500)), 'read in spite of the row')
  t.match(notices.join(), /index is damaged and is being rebuilt/)
  await again.rebuildIndex()
  t.equal(again.stats().indexedEpoch, 1500)
  await appendAll(again, 1501, 1510, 1500)
  await again.close()
  const third = await openStore(dir)
  t.match(third.recovery, { row: 'A', notes: [] })
  await third.close()
})

t.test('more checkpoints than are kept', async (t) => {
  const store = await openStore(scratch(), { checkpointsKept: 3 })
  for (let epoch = 1; epoch <= 6; epoch++) {
    await appendAll(store, epoch, epoch)
    await store.checkpoint(stateOf(epoch, new Map([[1, framesOf(epoch, 90)]])).source)
  }
  const kept = store.checkpoints().map(({ epoch }) => epoch)
  t.equal(kept.length, 3)
  t.equal(kept.at(-1), 6)
  await store.close()
})
