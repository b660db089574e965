/** What keeps a checkpoint from being opened, and what an opened one hands out, in slices. */
import type Database from 'better-sqlite3'
import t from 'tap'
import type { Sliced } from '../../../src/slices.js'
import { openBase } from '../../../src/store/checkpoint/base.js'
import {
  type CheckpointFile,
  closeFamily,
  isSoundCheckpoint,
  openCheckpointFile,
  openFamily,
  openingCheckpointFile,
  readingInfo,
  readPages,
  soundCheckpointsFrom,
} from '../../../src/store/checkpoint/file-reader.js'
import {
  CHUNK_ENTRY_BYTES,
  type ChunkRef,
  checkpointName,
  checkpointStem,
  writeRef,
} from '../../../src/store/checkpoint/format.js'
import { BUS_ID, CHUNK, chunksOf, MemoryFolder, pieceOf, written } from './memory-folder.js'

const FIRST = checkpointName(1)
const SECOND = checkpointName(2)

/** Checkpoint 1, and checkpoint 2, which refers to it; both with a chunk of their own. */
async function twoFiles(): Promise<MemoryFolder> {
  const folder = new MemoryFolder()
  folder.size = 1
  await written(folder, 1, new Map([[1, chunksOf(1, 2, 100)]]))
  const pages = new Map<number, Uint8Array | number>([
    [1, 2 * CHUNK + 100],
    [2, chunksOf(2, 1)],
    [3, new Uint8Array(7)],
  ])
  await written(folder, 2, pages, openBase(folder, 1, BUS_ID))
  return folder
}

function fileOf(folder: MemoryFolder, epoch: number, busId: string | undefined = BUS_ID): CheckpointFile {
  const opened = openCheckpointFile(folder, epoch, busId)
  if (typeof opened === 'string') throw new Error(opened)
  return opened
}

/** What the work returns, and how often it may be interrupted. */
function run<T>(work: Sliced<T>): { value: T; pauses: number } {
  for (let pauses = 0; ; pauses++) {
    const { done, value } = work.next()
    if (done === true) return { value, pauses }
  }
}

const refOf = (ref: ChunkRef): Buffer => {
  const refs = Buffer.alloc(8)
  writeRef(refs, 0, ref)
  return refs
}

/** Another reference for page 2, whose one chunk is 0 of pack 1. */
const refer = (ref: ChunkRef) => (db: Database.Database) =>
  db.prepare('UPDATE page SET refs = ? WHERE id = 2').run(refOf(ref))

const exec = (sql: string) => (db: Database.Database) => void db.exec(sql)

/** Faults that the hash of the tables does not have. */
const FORGED: Record<string, [change: (db: Database.Database) => void, why: string]> = {
  'another bus': [exec("UPDATE meta SET value = x'6363' WHERE key = 'bus_id'"), 'it belongs to another bus'],
  'another epoch': [
    exec("UPDATE meta SET value = x'33' WHERE key = 'epoch'"),
    'its name and its epoch differ',
  ],
  'a gap in the files': [exec('UPDATE file SET idx = 2'), 'its list of files has a gap'],
  'a file too many': [
    exec("INSERT INTO file VALUES (2, '00000000000000000007', x'00')"),
    'the file 00000000000000000007, whose chunks it needs: the file is missing',
  ],
  'another root': [
    exec("UPDATE file SET root = x'00'"),
    `the file ${checkpointStem(1)}, whose chunks it needs, has changed`,
  ],
  'half a reference': [
    exec("UPDATE page SET refs = x'01020304' WHERE id = 2"),
    'page 2 has 4 bytes of references',
  ],
  'a reference too many': [
    exec('UPDATE page SET refs = zeroblob(16) WHERE id = 2'),
    'page 2 has 16 bytes of references',
  ],
  'a slot that is not there': [
    refer({ pack: 1, slot: 1, file: 0 }),
    'page 2 refers to a chunk that is not there',
  ],
  'a pack that is not there': [
    refer({ pack: 2, slot: 0, file: 0 }),
    'page 2 refers to a chunk that is not there',
  ],
  'a file that is not there': [
    refer({ pack: 1, slot: 0, file: 2 }),
    'page 2 refers to a chunk that is not there',
  ],
  'a chunk of another length': [
    refer({ pack: 1, slot: 2, file: 1 }),
    'page 2 refers to a chunk that is not there',
  ],
  'a page that is longer': [
    exec(`UPDATE page SET bytes = ${CHUNK + 1}, refs = CAST(zeroblob(8) || refs AS BLOB) WHERE id = 2`),
    'page 2 refers to a chunk that is not there',
  ],
}

t.test('a fault under a right hash is found, and nothing stays open', async (t) => {
  for (const [what, [change, why]] of Object.entries(FORGED)) {
    const folder = await twoFiles()
    folder.forge(SECOND, change)
    t.equal(openCheckpointFile(folder, 2, BUS_ID), why, what)
    t.equal(folder.openCount, 0, what)
    t.equal(isSoundCheckpoint(folder, 2, BUS_ID), false, what)
    t.equal(folder.openCount, 0, what)
  }
})

/** Faults of the file itself. */
const BROKEN: Record<string, [change: (db: Database.Database) => void, why: string | RegExp]> = {
  'another kind of file': [exec('PRAGMA application_id = 1'), 'it is not a checkpoint'],
  'version 0': [exec('PRAGMA user_version = 0'), 'its version 0 is not known to this release'],
  'version 3': [exec('PRAGMA user_version = 3'), 'its version 3 is not known to this release'],
  'a key that is missing': [exec("DELETE FROM meta WHERE key = 'extra'"), 'its extra is missing'],
  'a text for bytes': [exec("UPDATE meta SET value = '2' WHERE key = 'epoch'"), 'its epoch is missing'],
  'no root': [exec("DELETE FROM meta WHERE key = 'root'"), 'its tables do not match their hash'],
  'another root': [
    exec("UPDATE meta SET value = x'00' WHERE key = 'root'"),
    'its tables do not match their hash',
  ],
  'a changed key': [
    exec("UPDATE meta SET value = x'00' WHERE key = 'digest'"),
    'its tables do not match their hash',
  ],
  'a changed file': [exec("UPDATE file SET name = 'x'"), 'its tables do not match their hash'],
  'a changed page': [exec('UPDATE page SET version = 1 WHERE id = 3'), 'its tables do not match their hash'],
  'a page less': [exec('DELETE FROM page WHERE id = 3'), 'its tables do not match their hash'],
  'a pack less': [exec('DELETE FROM pack'), 'its tables do not match their hash'],
  'a longer pack': [
    exec("UPDATE pack SET data = CAST(data || x'00' AS BLOB)"),
    'its tables do not match their hash',
  ],
  'a changed chunk': [
    exec("UPDATE pack SET data = CAST(x'01' || substr(data, 2) AS BLOB)"),
    'chunk 0 of pack 1 does not match its hash',
  ],
}

t.test('a broken file is not opened; its list and info need its tables alone', async (t) => {
  for (const [what, [change, why]] of Object.entries(BROKEN)) {
    const folder = await twoFiles()
    folder.change(SECOND, change)
    t.match(openCheckpointFile(folder, 2, BUS_ID), why, what)
    const isTable = what !== 'a changed chunk'
    t.equal(run(readingInfo(folder, 2, BUS_ID)).value === undefined, isTable, what)
    t.equal(readPages(folder, 2, BUS_ID) === undefined, isTable, what)
    t.equal(folder.openCount, 0, what)
  }
})

t.test('so is one whose other file is broken, missing or retired', async (t) => {
  const folder = await twoFiles()
  const whole = folder.files.get(FIRST)!
  folder.change(FIRST, exec("UPDATE pack SET data = CAST(x'01' || substr(data, 2) AS BLOB)"))
  t.equal(
    openCheckpointFile(folder, 2, BUS_ID),
    `chunk 0 of pack 1 of the file ${checkpointStem(1)} does not match its hash`,
  )
  folder.change(FIRST, exec('PRAGMA application_id = 1'))
  t.equal(
    openCheckpointFile(folder, 2, BUS_ID),
    `the file ${checkpointStem(1)}, whose chunks it needs: it is not a checkpoint`,
  )
  folder.remove(FIRST)
  t.match(openCheckpointFile(folder, 2, BUS_ID), /whose chunks it needs: the file is missing/)
  t.equal(openCheckpointFile(folder, 1, BUS_ID), 'the file is missing')
  folder.files.set(`${checkpointStem(1)}.old`, whole)
  t.equal(openCheckpointFile(folder, 1, BUS_ID), 'the file is missing', 'a retired file is no checkpoint')
  fileOf(folder, 2).close()
  t.equal(folder.openCount, 0)
})

t.test('an opened checkpoint says what it holds', async (t) => {
  const folder = await twoFiles()
  for (const busId of [BUS_ID, undefined]) {
    const file = fileOf(folder, 2, busId)
    t.same(file.header, {
      epoch: 2,
      timestampMs: 1_700_000_000_001,
      digest: Uint8Array.of(9, 8, 7),
      nextPageId: 900,
      extra: '{"a":"ü"}',
    })
    const info = { epoch: 2, pages: 3, bytes: 3 * CHUNK + 107, newBytes: CHUNK, ms: 0, file: SECOND }
    t.same(file.info, info)
    t.same(run(readingInfo(folder, 2, busId)).value, info)
    const pages = [
      [1, 2 * CHUNK + 100],
      [2, CHUNK],
      [3, 7],
    ].map(([id, bytes]) => {
      const { unchanged: _, ...page } = pieceOf(id!, bytes!)
      return { ...page, meta: Buffer.from(page.meta) }
    })
    t.same(file.pages, pages)
    t.same(readPages(folder, 2, busId), pages)
    t.equal(folder.openCount, 2, 'its files stay open for it alone')
    file.close()
    t.equal(folder.openCount, 0)
  }
})

t.test('chunks are handed out for the pages that are wanted, those of zeros are not', async (t) => {
  const folder = await twoFiles()
  const file = fileOf(folder, 2)
  const loaded = (wants?: (id: number) => boolean) => {
    const seen: string[] = []
    file.load((id, offset, { length }) => seen.push(`${id}: ${offset} ${length}`), wants)
    return seen.sort()
  }
  const first = ['1: 0 65536', '1: 131072 100', '1: 65536 65536']
  t.same(loaded(), [...first, '2: 0 65536'])
  t.same(
    loaded((id) => id === 1),
    first,
  )
  t.same(
    loaded((id) => id === 2),
    ['2: 0 65536'],
  )
  t.same(
    loaded((id) => id > 2),
    [],
  )
  file.close()
})

t.test('sound checkpoints from an epoch on, newest first', async (t) => {
  const folder = await twoFiles()
  await written(folder, 5, new Map([[1, chunksOf(4, 1)]]))
  t.same(soundCheckpointsFrom(folder, 0, BUS_ID), [5, 2, 1])
  t.same(soundCheckpointsFrom(folder, 2, BUS_ID), [5, 2])
  t.same(soundCheckpointsFrom(folder, 3, BUS_ID), [5])
  folder.change(FIRST, exec("UPDATE pack SET data = CAST(x'01' || substr(data, 2) AS BLOB)"))
  t.same(soundCheckpointsFrom(folder, 0, undefined), [5])
  t.same(soundCheckpointsFrom(folder, 0, 'other'), [])
  t.equal(isSoundCheckpoint(folder, 5, BUS_ID), true)
  t.equal(folder.openCount, 0)
})

t.test('the tables of a checkpoint and of those that it refers to', async (t) => {
  const folder = await twoFiles()
  const family = openFamily(folder, 2, BUS_ID)
  t.same(
    family.map(({ stem, name, rows, packs }) => [stem, name, rows.length, [...packs.keys()]]),
    [
      [checkpointStem(2), SECOND, 3, [1]],
      [checkpointStem(1), FIRST, 1, [1]],
    ],
  )
  t.equal(family[0]!.packs.get(1)!.length, CHUNK_ENTRY_BYTES)
  closeFamily(family)
  t.equal(folder.openCount, 0)
})

t.test('a file of version 1, which refers to no others', async (t) => {
  const folder = new MemoryFolder()
  await written(folder, 1, new Map([[1, chunksOf(1, 1)]]))
  folder.forge(FIRST, exec('DROP TABLE file; PRAGMA user_version = 1'))
  t.equal(isSoundCheckpoint(folder, 1, BUS_ID), true)
})

t.test('long work can be interrupted every few rows and chunks, and not at each', async (t) => {
  const folder = new MemoryFolder()
  await written(folder, 1, new Map([[1, chunksOf(1, 1)]]))
  const few = run(openingCheckpointFile(folder, 1, BUS_ID)).pauses
  t.ok(few <= 1, `${few} pauses`)
  // 1,024 references of one page, of which 100 are to the same chunk; 600 pages; 512 packs.
  folder.forge(FIRST, (db) => {
    const refs = Buffer.alloc(8 * 1024)
    for (let i = 0; i < 100; i++) writeRef(refs, i * 10, { pack: 1, slot: 0, file: 0 })
    db.prepare('UPDATE page SET bytes = ?, refs = ?').run(1024 * CHUNK, refs)
    const page = db.prepare('INSERT INTO page VALUES (?, 1, 1, 0, ?, ?)')
    for (let id = 2; id <= 600; id++) page.run(id, Buffer.alloc(1), Buffer.alloc(0))
    const pack = db.prepare('INSERT INTO pack VALUES (?, ?, ?)')
    for (let id = 2; id <= 512; id++) pack.run(id, Buffer.alloc(CHUNK_ENTRY_BYTES), Buffer.alloc(0))
  })
  t.ok(run(readingInfo(folder, 1, BUS_ID)).pauses >= 4, 'two in the pages, two in the packs')
  const { value, pauses } = run(openingCheckpointFile(folder, 1, BUS_ID))
  t.ok(pauses >= few + 8 && pauses <= 12, `${pauses} pauses`)
  if (typeof value === 'string') throw new Error(value)
  const seen: number[] = []
  const loading = run(value.loading((_, offset) => seen.push(offset))).pauses
  t.same(
    seen,
    Array.from({ length: 100 }, (_, i) => i * 10 * CHUNK),
  )
  t.ok(loading >= 6 && loading <= 7, `${loading} pauses`)
  value.close()
})

t.test('an opening that is given up closes what it had opened', async (t) => {
  const folder = new MemoryFolder()
  await written(folder, 1, new Map([[1, chunksOf(1, 17)]]))
  const opening = openingCheckpointFile(folder, 1, BUS_ID)
  t.equal(opening.next().done, false)
  t.equal(folder.openCount, 1)
  opening.return('given up')
  t.equal(folder.openCount, 0)
})
