/** A cursor file that the disk or another process keeps from being opened is left as it is. */
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import t from 'tap'
import { CURSORS_NAME, CursorDb, type CursorRow } from '../../../src/store/cursors/cursor-db.js'
import { smallVolume } from '../../disk/volume.js'
import { folder } from '../../lib/folder.js'

const ROW: CursorRow = { name: 'reader', epoch: 7, definition: '{}', createdMs: 1, seenMs: 2 }

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
