/** Checkpoints: full states in one file, chunks stored once, damage found. */
import fs from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import type { Store } from '../../src/store/store.js'
import type { CheckpointPage, CheckpointSource } from '../../src/store/types.js'
import { appendAll, framesOf, openStore, scratch } from './helpers.js'

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
    read: (id, offset, length) => pages.get(id)?.subarray(offset, offset + length) ?? new Uint8Array(0),
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
  if (reader === null) throw new Error('no checkpoint')
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
void fs
void path
