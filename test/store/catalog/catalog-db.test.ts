/**
 * catalog.db: what it finds, which rows count, which file is set aside, and how a reader sees it.
 * Null because SQLite has it.
 */
import fs from 'node:fs'
import path from 'node:path'
import Database from 'better-sqlite3'
import t, { type Test } from 'tap'
import { CATALOG_NAME, CatalogDb } from '../../../src/store/catalog/catalog-db.js'
import { CatalogReader } from '../../../src/store/catalog/catalog-reader.js'
import type { CheckpointInfo, IndexBlock } from '../../../src/store/types.js'
import { folder, openFilesIn } from '../../lib/folder.js'

const blockOf = (firstEpoch: number, lastEpoch: number, pages?: Uint8Array): IndexBlock => ({
  ...{ segment: 1, offset: firstEpoch * 100, end: lastEpoch * 100 + 100, firstEpoch, lastEpoch, pages },
})
const BLOCKS = [blockOf(1, 9), blockOf(10, 19, Uint8Array.of(1, 2)), blockOf(20, 24)]
const infoOf = (epoch: number, changes: Partial<CheckpointInfo> = {}): CheckpointInfo => ({
  ...{ epoch, pages: 3, bytes: 90, newBytes: 40, ms: 7, file: `${epoch}.db` },
  ...changes,
})

/** A closed catalog with blocks and checkpoints. */
function filled(t: Test): string {
  const dir = folder(t)
  const db = new CatalogDb(dir)
  db.open()
  db.begin('ab', false)
  db.addBlocks(BLOCKS)
  for (const epoch of [20, 12]) db.addCheckpoint(infoOf(epoch))
  db.close()
  return dir
}

function change(dir: string, sql: string): void {
  const db = new Database(path.join(dir, CATALOG_NAME))
  db.exec(sql)
  db.close()
}

const FOUND = { state: 'read', busId: 'ab', lastEpoch: 24, checkpoints: [infoOf(12), infoOf(20)] }

t.test('a new one is empty and private, and what was added is found again', async (t) => {
  const dir = folder(t)
  const db = new CatalogDb(dir)
  t.throws(() => db.blockOf(1), { message: /^the catalog is not open/ })
  t.same(db.open(), { state: 'lost', why: 'it is missing' })
  t.equal(fs.statSync(path.join(dir, CATALOG_NAME)).mode & 0o777, 0o600)
  t.equal(db.blockOf(5), undefined)
  db.begin('ab', false)
  db.close()
  t.same(db.open(), { state: 'read', busId: 'ab', lastEpoch: 0, checkpoints: [] })
  db.addBlocks(BLOCKS)
  db.addCheckpoint(infoOf(20))
  db.addCheckpoint(infoOf(12))
  db.close()
  t.same(openFilesIn(dir), [])
  t.throws(() => db.clearBlocks(), { message: /^the catalog is not open/ })
  t.same(db.open(), FOUND)
  db.begin('cd', false)
  db.close()
  t.same(db.open(), { ...FOUND, busId: 'cd' })
  db.begin('ef', true)
  db.close()
  t.same(db.open(), { state: 'read', busId: 'ef', lastEpoch: 0, checkpoints: [] })
  db.close()
})

t.test('the block of an epoch, and blocks and checkpoints that are removed', async (t) => {
  const dir = filled(t)
  const db = new CatalogDb(dir)
  db.open()
  for (const [epoch, block] of [
    [0, undefined],
    [1, BLOCKS[0]],
    [9, BLOCKS[0]],
    [10, BLOCKS[1]],
    [19, BLOCKS[1]],
    [24, BLOCKS[2]],
    [25, undefined],
  ] as const)
    t.same(db.blockOf(epoch), block, `epoch ${epoch}`)
  db.addBlocks([{ ...blockOf(20, 29), segment: 4 }])
  t.match(db.blockOf(25), { segment: 4, lastEpoch: 29 }, 'a longer block takes the place')
  db.dropBlocksBefore(9)
  t.match(db.blockOf(9), { lastEpoch: 9 })
  db.dropBlocksBefore(10)
  t.equal(db.blockOf(9), undefined)
  t.match(db.blockOf(10), { lastEpoch: 19 })
  db.clearBlocks()
  t.equal(db.blockOf(10), undefined)
  db.removeCheckpoint(13)
  db.removeCheckpoint(12)
  db.addCheckpoint(infoOf(20, { ms: 8 }))
  db.close()
  t.match(db.open(), { lastEpoch: 0, checkpoints: [infoOf(20, { ms: 8 })] })
  const gap = [blockOf(1, 3), blockOf(7, 9)]
  db.addBlocks(gap)
  t.equal(db.blockOf(5), undefined, 'between two blocks')
  t.throws(() => db.addBlocks([blockOf(11, 12), { ...blockOf(13, 14), end: undefined as unknown as number }]))
  t.equal(db.blockOf(11), undefined, 'all blocks or none')
  db.close()
})

t.test('rows of earlier releases have the size of the file as new bytes', async (t) => {
  const dir = filled(t)
  const db = new CatalogDb(dir)
  db.open()
  db.addCheckpoint(infoOf(12, { newBytes: 91 }))
  db.close()
  t.match(db.open(), { checkpoints: [infoOf(12, { newBytes: 90 }), infoOf(20)] })
  db.close()
})

const BLOCK_COLUMNS = ['first_epoch', 'last_epoch', 'segment', 'start', 'stop', 'pages', 'sum']
const CHECKPOINT_COLUMNS = ['epoch', 'pages', 'bytes', 'new_bytes', 'ms', 'file', 'sum']

t.test('a changed row is found, whichever field it is', async (t) => {
  const damaged = [
    ...BLOCK_COLUMNS.map((column) => ['block', column, 'first_epoch = 20'] as const),
    ...CHECKPOINT_COLUMNS.map((column) => ['checkpoint', column, 'epoch = 12'] as const),
  ]
  for (const [table, column, where] of damaged) {
    const what = `${table}.${column}`
    const dir = filled(t)
    change(dir, `UPDATE ${table} SET ${column} = ${column === 'pages' ? "x'05'" : 21} WHERE ${where}`)
    const epoch = column === 'first_epoch' || column === 'epoch' ? 21 : table === 'block' ? 20 : 12
    const why =
      table === 'block' ? `the index row of epoch ${epoch}` : `the catalog row of checkpoint ${epoch}`
    const reader = new CatalogReader(dir, true)
    t.same(reader.problems(), [`${CATALOG_NAME}: ${why} is damaged`], what)
    t.same(reader.findings(), { state: 'lost', why: `${why} is damaged` }, what)
    if (table === 'block') t.equal(reader.blockBefore(24), undefined, what)
    t.match(reader.blockBefore(12), { lastEpoch: 19 }, what)
    reader.close()
    const db = new CatalogDb(dir)
    t.same(db.open(), { state: 'lost', why: `${why} is damaged` }, what)
    t.equal(db.blockOf(1), undefined, 'a new one is begun')
    db.close()
    t.ok(fs.existsSync(path.join(dir, `${CATALOG_NAME}.bad`)), what)
    t.same(openFilesIn(dir), [], what)
  }
  const none = filled(t)
  change(none, 'UPDATE block SET pages = NULL WHERE first_epoch = 10')
  t.match(new CatalogReader(none, true).problems(), ['the index row of epoch 10 is damaged'])
})

/** An index of a table that has fewer rows: quick_check and integrity_check find it. */
function breakInside(dir: string): void {
  const file = path.join(dir, CATALOG_NAME)
  const db = new Database(file)
  db.pragma('journal_mode = DELETE')
  const page = db.prepare("SELECT rootpage FROM sqlite_schema WHERE name = 'block'").pluck().get() as number
  const size = db.pragma('page_size', { simple: true }) as number
  db.close()
  const bytes = fs.readFileSync(file)
  // The count of free bytes of the page that has the blocks, which nothing needs to read them.
  bytes[(page - 1) * size + 7] = 9
  fs.writeFileSync(file, bytes)
}

t.test('a file that is none, or is damaged inside, is set aside', async (t) => {
  const breakers: Record<string, [breakIt: (dir: string) => void, why: RegExp]> = {
    'another application': [(dir) => change(dir, 'PRAGMA application_id = 5'), /^it is not a catalog$/],
    'a later release': [
      (dir) => change(dir, 'PRAGMA user_version = 2'),
      /^its version 2 is of a later release$/,
    ],
    'no bus': [(dir) => change(dir, 'DELETE FROM meta'), /^it names no bus$/],
    'damage inside': [breakInside, /fragment|free|Tree|Fragmentation/i],
    text: [(dir) => fs.writeFileSync(path.join(dir, CATALOG_NAME), 'text '.repeat(999)), /not a database/],
  }
  for (const [what, [breakIt, why]] of Object.entries(breakers)) {
    const dir = filled(t)
    breakIt(dir)
    const reader = new CatalogReader(dir, true)
    t.match(reader.findings(), { state: 'lost', why }, what)
    t.same(openFilesIn('mmsb-read-'), [], `${what}: the copy is closed`)
    if (what === 'damage inside' || what === 'text') t.match(reader.problems(), [why], what)
    const db = new CatalogDb(dir)
    t.match(db.open(), { state: 'lost', why }, what)
    db.begin('ab', true)
    db.addBlocks(BLOCKS)
    db.close()
    t.same(fs.readdirSync(dir).sort(), [CATALOG_NAME, `${CATALOG_NAME}.bad`], what)
    t.match(db.open(), { state: 'read', lastEpoch: 24 }, what)
    db.close()
    t.same(openFilesIn(dir), [], what)
  }
})

t.test('one that another process holds is left as it is', async (t) => {
  const dir = filled(t)
  const other = new Database(path.join(dir, CATALOG_NAME))
  other.pragma('locking_mode = EXCLUSIVE')
  other.exec('BEGIN EXCLUSIVE')
  const db = new CatalogDb(dir)
  t.throws(() => db.open(), { code: /^SQLITE_BUSY/ })
  other.exec('ROLLBACK')
  other.close()
  t.same(openFilesIn(dir), [], 'the one that was refused is closed')
  t.same(db.open(), FOUND)
  db.close()
})

t.test('a reader finds the last block that begins before an epoch, and changes nothing', async (t) => {
  const dir = filled(t)
  for (const isOffline of [true, false]) {
    const reader = new CatalogReader(dir, isOffline)
    for (const [epoch, block] of [
      [0, undefined],
      [1, BLOCKS[0]],
      [19, BLOCKS[1]],
      [20, BLOCKS[2]],
      [99, BLOCKS[2]],
    ] as const)
      t.same(reader.blockBefore(epoch), block, `epoch ${epoch}`)
    reader.close()
    t.same(openFilesIn(isOffline ? 'mmsb-read-' : dir), [])
    t.same(reader.blockBefore(1), BLOCKS[0], 'it opens again')
    reader.close()
    t.same(reader.findings(), FOUND)
    t.same(reader.problems(), [])
    t.same(openFilesIn(isOffline ? 'mmsb-read-' : dir), [])
  }
  t.same(fs.readdirSync(filled(t)), [CATALOG_NAME])
  const none = new CatalogReader(folder(t))
  t.equal(none.blockBefore(1), undefined)
  t.same(none.findings(), { state: 'lost', why: 'it is missing' })
  t.same(none.problems(), [])
})

t.test('the checksums of rows stay what they were in earlier releases', async (t) => {
  const db = new Database(path.join(filled(t), CATALOG_NAME), { readonly: true })
  const blocks = db.prepare('SELECT sum FROM block ORDER BY first_epoch').pluck().all()
  t.same(blocks, [2_027_753_307, 2_478_863_835, 1_068_117_506])
  t.equal(db.prepare('SELECT sum FROM checkpoint WHERE epoch = 12').pluck().get(), 783_306_694)
  db.close()
})
