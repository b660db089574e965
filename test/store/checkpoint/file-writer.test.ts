/** What a checkpoint file holds: chunks, packs and references, at the sizes at which they begin. */
import type Database from 'better-sqlite3'
import t from 'tap'
import {
  CHECKPOINT_PACK_BYTES,
  CHECKPOINT_PACK_CHUNKS_MAX,
  CHECKPOINT_SYNC_BYTES,
} from '../../../src/limits.js'
import { openBase } from '../../../src/store/checkpoint/base.js'
import { type CheckpointFile, openCheckpointFile } from '../../../src/store/checkpoint/file-reader.js'
import { CheckpointWriter } from '../../../src/store/checkpoint/file-writer.js'
import { type CheckpointDraft, checkpointFolder } from '../../../src/store/checkpoint/folder.js'
import { CHUNK_ENTRY_BYTES, checkpointName, checkpointStem } from '../../../src/store/checkpoint/format.js'
import { folder as scratch } from '../../lib/folder.js'
import { BUS_ID, CHUNK, chunksOf, MemoryFolder, metaOf, pieceOf, written } from './memory-folder.js'

const PACK = CHECKPOINT_PACK_BYTES / CHUNK

function opened(folder: MemoryFolder, epoch: number): CheckpointFile {
  const file = openCheckpointFile(folder, epoch, BUS_ID)
  if (typeof file === 'string') throw new Error(file)
  return file
}

/** The pages of a checkpoint, by id. */
function pagesIn(folder: MemoryFolder, epoch: number): Map<number, Uint8Array> {
  const file = opened(folder, epoch)
  const pages = new Map(file.pages.map(({ id, bytes }) => [id, new Uint8Array(bytes)]))
  file.load((id, offset, chunk) => pages.get(id)!.set(chunk, offset))
  file.close()
  return pages
}

/** Of each pack: how many chunks, and how many bytes. */
function packsIn(folder: MemoryFolder, epoch: number): [chunks: number, bytes: number][] {
  const db = folder.open(checkpointName(epoch))
  const rows = db.prepare('SELECT length(chunks) AS list, length(data) AS bytes FROM pack ORDER BY id').all()
  db.close()
  return (rows as { list: number; bytes: number }[]).map(({ list, bytes }) => [
    list / CHUNK_ENTRY_BYTES,
    bytes,
  ])
}

const isSame = (a: ReadonlyMap<number, Uint8Array>, b: ReadonlyMap<number, Uint8Array>): boolean =>
  a.size === b.size && [...a].every(([id, bytes]) => Buffer.compare(bytes, b.get(id)!) === 0)

t.test('pages come back at every size at which a chunk or a pack begins', async (t) => {
  const folder = new MemoryFolder()
  const sizes = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, PACK * CHUNK, PACK * CHUNK + 1]
  for (const [i, size] of sizes.entries()) {
    const bytes = new Uint8Array(size).map((_, at) => (at * 7 + (at >> 9) + i) % 251)
    const pages = new Map([
      [3, bytes],
      [8, Uint8Array.of(5, 6, i)],
    ])
    const stored = await written(folder, i + 1, pages)
    t.ok(isSame(pagesIn(folder, i + 1), pages), `${size} bytes`)
    t.equal(
      stored,
      packsIn(folder, i + 1).reduce((sum, [, packed]) => sum + packed, 0),
    )
  }
})

t.test('a pack is full at 1 MiB, or at its number of chunks', async (t) => {
  const folder = new MemoryFolder()
  await written(folder, 1, new Map([[1, chunksOf(1, PACK)]]))
  t.same(packsIn(folder, 1), [[PACK, CHECKPOINT_PACK_BYTES]])
  await written(folder, 2, new Map([[1, chunksOf(1, PACK, 8)]]))
  t.same(packsIn(folder, 2), [
    [PACK, CHECKPOINT_PACK_BYTES],
    [1, 8],
  ])
  const max = CHECKPOINT_PACK_CHUNKS_MAX
  const writer = new CheckpointWriter(folder, undefined)
  const bytes = new Uint8Array(Uint32Array.from({ length: max + 1 }, (_, i) => i + 1).buffer)
  writer.piece(
    Array.from({ length: max + 1 }, (_, i) => pieceOf(i + 1, 4)),
    bytes,
  )
  t.equal(await writer.end(checkpointName(3), metaOf(3)), 4 * max + 4)
  t.same(packsIn(folder, 3), [
    [max, 4 * max],
    [1, 4],
  ])
  const joined = Buffer.concat([...pagesIn(folder, 3).values()])
  t.equal(joined.compare(bytes), 0)
})

t.test('a chunk is stored once, and one of zeros not at all', async (t) => {
  const folder = new MemoryFolder()
  const twice = Uint8Array.from([...chunksOf(5, 1), ...chunksOf(5, 1)])
  const lastByte = new Uint8Array(CHUNK)
  lastByte[CHUNK - 1] = 1
  const pages = new Map([
    [1, twice],
    [2, new Uint8Array(2 * CHUNK + 9)],
    // The chunks of the first pack are known after it was written.
    [3, chunksOf(6, PACK)],
    [4, chunksOf(5, 1)],
    [5, lastByte],
    [6, Uint8Array.of(0, 0, 4)],
  ])
  t.equal(await written(folder, 1, pages), (2 + PACK) * CHUNK + 3)
  t.ok(isSame(pagesIn(folder, 1), pages))
})

t.test('the slices of a page may come in several pieces, and pages without bytes between them', async (t) => {
  const folder = new MemoryFolder()
  const writer = new CheckpointWriter(folder, undefined)
  const large = chunksOf(1, 3, 10)
  writer.piece([pieceOf(1, 0), pieceOf(2, large.length), pieceOf(3, 0)], large.subarray(0, CHUNK))
  writer.piece([], large.subarray(CHUNK, 3 * CHUNK))
  writer.piece([], new Uint8Array(0))
  writer.piece([pieceOf(4, 2), pieceOf(5, 0)], Uint8Array.from([...large.subarray(3 * CHUNK), 7, 7]))
  await writer.end(checkpointName(1), metaOf(1))
  const pages = pagesIn(folder, 1)
  t.same([...pages.keys()], [1, 2, 3, 4, 5])
  t.equal(Buffer.compare(pages.get(2)!, large), 0)
  t.same(pages.get(4), Uint8Array.of(7, 7))
})

t.test('a piece that does not fit its pages, and a page that is not whole, are refused', async (t) => {
  const folder = new MemoryFolder()
  const writer = () => new CheckpointWriter(folder, undefined)
  const inside = /^a piece ends inside a chunk/
  t.throws(() => writer().piece([pieceOf(1, CHUNK)], new Uint8Array(CHUNK - 1)), { message: inside })
  t.throws(() => writer().piece([pieceOf(1, 5)], new Uint8Array(4)), { message: inside })
  t.throws(() => writer().piece([pieceOf(1, 5)], new Uint8Array(6)), { message: /bytes without a page/ })
  t.throws(() => writer().piece([], new Uint8Array(1)), { message: /bytes without a page/ })
  const begun = writer()
  begun.piece([pieceOf(1, 2 * CHUNK)], chunksOf(1, 1))
  await t.rejects(begun.end(checkpointName(1), metaOf(1)), { message: /^a page is missing/ })
  const waiting = writer()
  waiting.piece([pieceOf(1, 5), pieceOf(2, 5)], Uint8Array.of(1, 2, 3, 4, 5))
  await t.rejects(waiting.end(checkpointName(1), metaOf(1)), { message: /^a page is missing/ })
  t.same(folder.list(), [])
})

t.test('the disk begins to write when enough is there, and then anew', async (t) => {
  const folder = new MemoryFolder()
  const writer = new CheckpointWriter(folder, undefined)
  const packs = CHECKPOINT_SYNC_BYTES / CHECKPOINT_PACK_BYTES
  const given = (count: number, id: number): void => {
    const bytes = chunksOf(id, count * PACK)
    writer.piece([pieceOf(id, bytes.length)], bytes)
  }
  // A pack is written when a chunk comes that does not fit.
  given(packs, 1)
  t.same(folder.steps, [])
  given(1, 2)
  t.same(folder.steps, ['start sync'])
  given(packs - 2, 3)
  t.same(folder.steps, ['start sync'])
  writer.abandon()
})

t.test('a file says what it is, and is written without journal and syncs of its own', async (t) => {
  const folder = checkpointFolder(scratch(t))
  const seen: unknown[] = []
  const pragmasOf = (db: Database.Database, names: string[]): unknown[] =>
    names.map((name) => db.pragma(name, { simple: true }))
  const create = (): CheckpointDraft => {
    const draft = folder.create()
    const finish = (name: string) => {
      seen.push(...pragmasOf(draft.db, ['journal_mode', 'synchronous', 'locking_mode']))
      return draft.finish(name)
    }
    return { ...draft, finish }
  }
  await written({ ...folder, create }, 1, new Map([[1, Uint8Array.of(1)]]))
  t.same(seen, ['memory', 0, 'exclusive'])
  const db = folder.open(checkpointName(1))
  t.same(pragmasOf(db, ['page_size', 'application_id', 'user_version']), [65_536, 0x4d4d_5342, 2])
  db.close()
})

t.test('a draft in which nothing can be begun is given up', async (t) => {
  const folder = new MemoryFolder()
  const create = folder.create.bind(folder)
  folder.create = () => {
    const draft = create()
    return { ...draft, db: Object.create(draft.db, { pragma: { value: () => 'delete' } }) }
  }
  t.throws(() => new CheckpointWriter(folder, undefined), { message: /^a journal is on/ })
  t.same(folder.steps, ['abandon'])
})

t.test('what the base has is referred to, and what is new is stored', async (t) => {
  const folder = new MemoryFolder()
  folder.size = 1
  await written(
    folder,
    1,
    new Map([
      [1, chunksOf(1, 4)],
      [2, chunksOf(2, 2)],
    ]),
  )
  // Page 1 as it was, a chunk of page 2 at another place, one chunk that is new, one of zeros.
  const moved = Uint8Array.from([...chunksOf(2, 1), ...chunksOf(3, 1), ...new Uint8Array(CHUNK)])
  const second = await written(
    folder,
    2,
    new Map<number, Uint8Array | number>([
      [1, 4 * CHUNK],
      [2, moved],
    ]),
    openBase(folder, 1, BUS_ID),
  )
  t.equal(second, CHUNK)
  t.equal(folder.openCount, 0, 'the base is closed')
  t.ok(
    isSame(
      pagesIn(folder, 2),
      new Map([
        [1, chunksOf(1, 4)],
        [2, moved],
      ]),
    ),
  )
  // A third one refers to both, and an unchanged page may hold zeros.
  const third = new Map<number, Uint8Array | number>([
    [1, chunksOf(1, 3)],
    [2, moved.length],
    [4, chunksOf(3, 1)],
  ])
  t.equal(await written(folder, 3, third, openBase(folder, 2, BUS_ID)), 0)
  t.ok(
    isSame(
      pagesIn(folder, 3),
      new Map([
        [1, chunksOf(1, 3)],
        [2, moved],
        [4, chunksOf(3, 1)],
      ]),
    ),
  )
  const db = folder.open(checkpointName(3))
  const files = db.prepare('SELECT idx, name FROM file ORDER BY idx').all()
  db.close()
  t.same(files, [
    { idx: 1, name: checkpointStem(1) },
    { idx: 2, name: checkpointStem(2) },
  ])
})

t.test('chunks of a thin file are copied, each once', async (t) => {
  const folder = new MemoryFolder()
  await written(folder, 1, new Map([[1, chunksOf(1, 3)]]))
  folder.size = 1024 ** 3
  const base = openBase(folder, 1, BUS_ID)
  const pages = new Map<number, Uint8Array | number>([
    [1, 3 * CHUNK],
    [2, chunksOf(1, 2)],
  ])
  t.equal(await written(folder, 2, pages, base), 3 * CHUNK)
  folder.remove(checkpointName(1))
  t.ok(
    isSame(
      pagesIn(folder, 2),
      new Map([
        [1, chunksOf(1, 3)],
        [2, chunksOf(1, 2)],
      ]),
    ),
  )
})

t.test('an abandoned file closes its base', async (t) => {
  const folder = new MemoryFolder()
  await written(folder, 1, new Map([[1, chunksOf(1, 1)]]))
  folder.steps.length = 0
  const writer = new CheckpointWriter(folder, openBase(folder, 1, BUS_ID))
  t.equal(folder.openCount, 1)
  writer.abandon()
  t.equal(folder.openCount, 0)
  t.same(folder.steps, ['abandon'])
})

t.test('on the disk: a draft of an earlier process is replaced, and the end gives the name', async (t) => {
  const dir = scratch(t)
  const folder = checkpointFolder(dir)
  const first = folder.create()
  first.startSync()
  first.startSync()
  const second = new CheckpointWriter(folder, undefined)
  second.piece([pieceOf(1, 3)], Uint8Array.of(1, 2, 3))
  t.same(folder.list(), ['next.tmp'])
  await second.end(checkpointName(4), metaOf(4))
  t.same(folder.list(), [checkpointName(4)])
  first.abandon()
  const file = openCheckpointFile(folder, 4, BUS_ID)
  t.not(typeof file, 'string')
  if (typeof file !== 'string') file.close()
  const third = folder.create()
  third.abandon()
  t.same(folder.list(), [checkpointName(4)])
  t.same(checkpointFolder(`${dir}/none`).list(), [])
})
