/**
 * The file of cursors: what it keeps, what it sets aside, and that one which the disk or another process
 * keeps from being opened is left as it is.
 * Null because SQLite has it.
 */
import { readdirSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import t from 'tap'
import {
  CURSORS_NAME,
  CursorDb,
  type CursorRow,
  cursorProblems,
  readCursors,
} from '../../../src/store/cursors/cursor-db.js'
import { smallVolume } from '../../disk/volume.js'
import { folder, openFilesIn } from '../../lib/folder.js'

const ROW: CursorRow = { name: 'reader', epoch: 7, definition: '{}', createdMs: 1, seenMs: 2 }

/** Changes the file with a statement. */
function change(dir: string, sql: string): void {
  const db = new Database(join(dir, CURSORS_NAME))
  db.exec(sql)
  db.close()
}

t.test('a file that another process has locked is not set aside', async (t) => {
  const dir = folder(t)
  const db = new CursorDb(dir)
  db.open()
  db.write([ROW], [])
  db.close()
  const other = new Database(join(dir, CURSORS_NAME))
  other.pragma('locking_mode = EXCLUSIVE')
  other.exec('BEGIN EXCLUSIVE')
  t.throws(() => db.open(), { code: /^SQLITE_BUSY/ })
  other.exec('ROLLBACK')
  other.close()
  t.same(openFilesIn(dir), [], 'the one that was refused is closed')
  t.same(
    readdirSync(dir).filter((name) => name.endsWith('.bad')),
    [],
  )
  t.same(db.open(), { rows: [ROW], problems: [] })
  db.close()
})

t.test(
  'a full disk on which it cannot be begun: nothing is left that looks like a damaged one',
  async (t) => {
    const volume = smallVolume(t, 1024 ** 2)
    if (typeof volume === 'string') {
      t.pass('on a full disk', { skip: volume })
      return
    }
    volume.fill()
    const db = new CursorDb(volume.dir)
    t.throws(() => db.open(), { code: /^SQLITE_(FULL|IOERR_WRITE)/ })
    t.same(
      readdirSync(volume.dir).filter((name) => name.endsWith('.bad')),
      [],
    )
    volume.free()
    t.same(db.open(), { rows: [], problems: [] })
    db.write([ROW], [])
    db.close()
  },
)

t.test('rows are written and removed together, or not at all', async (t) => {
  const dir = folder(t)
  const db = new CursorDb(dir)
  t.throws(() => db.write([ROW], []), { message: /not open/ })
  t.same(db.open(), { rows: [], problems: [] })
  const other = { ...ROW, name: 'another', epoch: null }
  db.write([ROW, other], [])
  db.write([{ ...ROW, epoch: 8 }], ['another', 'unknown'])
  const broken = { ...ROW, name: 'x', definition: null as unknown as string }
  t.throws(() => db.write([other, broken], ['reader']), { message: /NOT NULL/ })
  t.same(readCursors(dir), { rows: [{ ...ROW, epoch: 8 }], problems: [] })
  db.write([other], [])
  db.close()
  t.throws(() => db.write([ROW], []), { message: /not open/ })
  t.same(db.open().rows, [other, { ...ROW, epoch: 8 }], 'by name')
  t.equal(statSync(join(dir, CURSORS_NAME)).mode & 0o777, 0o600)
  db.close()
  t.same(openFilesIn(dir), [])
})

t.test('a row counts only with its checksum', async (t) => {
  const changes = ['name', 'epoch', 'definition', 'created_ms', 'seen_ms', 'sum']
  for (const column of changes) {
    const dir = folder(t)
    const db = new CursorDb(dir)
    db.open()
    db.write([ROW, { ...ROW, name: 'sound' }], [])
    db.close()
    change(dir, `UPDATE cursor SET ${column} = 3 WHERE name = 'reader'`)
    const name = column === 'name' ? '3' : 'reader'
    const found = { rows: [{ ...ROW, name: 'sound' }], problems: [`the row of "${name}" is damaged`] }
    t.same(readCursors(dir), found, column)
    t.same(cursorProblems(dir), [`${CURSORS_NAME}: the row of "${name}" is damaged`], column)
    t.same(db.open(), found, column)
    db.close()
  }
  t.same(cursorProblems(folder(t)), [], 'no file is no fault')
  t.same(readCursors(folder(t)), { rows: [], problems: [] })
})

t.test('a file that is no cursor file is set aside, and a new one begun', async (t) => {
  const breakers: Record<string, (dir: string) => void> = {
    'another application': (dir) => change(dir, 'PRAGMA application_id = 5'),
    'another version': (dir) => change(dir, 'PRAGMA user_version = 2'),
    'no table': (dir) => change(dir, 'DROP TABLE cursor'),
    text: (dir) => writeFileSync(join(dir, CURSORS_NAME), 'text '.repeat(1000)),
  }
  for (const [what, breakIt] of Object.entries(breakers)) {
    const dir = folder(t)
    const db = new CursorDb(dir)
    db.open()
    db.write([ROW], [])
    db.close()
    breakIt(dir)
    t.equal(cursorProblems(dir).length, 1, what)
    t.throws(() => readCursors(dir), what)
    t.same(openFilesIn(dir), [])
    const found = db.open()
    t.same(found.rows, [], what)
    t.match(found.problems, [/^it was set aside: /], what)
    db.write([ROW], [])
    db.close()
    t.same(readdirSync(dir).sort(), [CURSORS_NAME, `${CURSORS_NAME}.bad`], what)
    t.same(db.open(), { rows: [ROW], problems: [] }, what)
    db.close()
    t.same(openFilesIn(dir), [], what)
  }
})
