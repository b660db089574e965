/** Cursors behind their thread: what is durable when a promise resolves, in which order, and what fails. */
import fs from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { CURSORS_NAME, type CursorRow, readCursors } from '../../../src/store/cursors/cursor-db.js'
import { cursorsIn, cursorsOfReader } from '../../../src/store/cursors/cursors.js'
import { folder } from '../../lib/folder.js'

const rowOf = (name: string, epoch: number): CursorRow => ({
  ...{ name, epoch, definition: '{}', createdMs: 1, seenMs: epoch },
})

/** Names and epochs that are durable in the folder. */
const durableIn = (dir: string): string[] =>
  readCursors(dir).rows.map(({ name, epoch }) => `${name} ${epoch}`)

/** How many threads this process starts from now on. */
function countThreads(t: Test): () => number {
  let count = 0
  const add = (): void => void count++
  process.on('worker', add)
  t.teardown(() => process.off('worker', add))
  return () => count
}

t.test('each change is durable when its promise resolves, and the last one of a name counts', async (t) => {
  const dir = folder(t)
  const threads = countThreads(t)
  const cursors = cursorsIn(dir)
  t.same(await cursors.load(), { rows: [], problems: [] })
  t.equal(threads(), 0, 'no thread before the first reader')
  await cursors.put(rowOf('a', 1))
  t.same(durableIn(dir), ['a 1'])
  // While this write is on its way, others wait to be written together.
  const first = cursors.put(rowOf('a', 2))
  const waiting = [
    cursors.put(rowOf('a', 3)),
    cursors.put(rowOf('b', 1)),
    cursors.remove('b'),
    cursors.remove('c'),
    cursors.put(rowOf('c', 7)),
  ]
  await first
  t.ok(['a 2', 'a 3,c 7'].includes(durableIn(dir).join()))
  await Promise.all(waiting)
  t.same(durableIn(dir), ['a 3', 'c 7'])
  await cursors.remove('a')
  t.same(durableIn(dir), ['c 7'])
  t.match(await cursors.load(), { problems: [] })
  const late = cursors.put(rowOf('d', 1))
  await cursors.close()
  await late
  t.same(durableIn(dir), ['c 7', 'd 1'], 'what was begun before the close is written')
  for (const call of [() => cursors.put(rowOf('e', 1)), () => cursors.remove('c')])
    await t.rejects(call(), { code: 'BUS_FAILED', message: /closed/ })
  t.equal(threads(), 1)
  t.same(durableIn(dir), ['c 7', 'd 1'])
})

t.test('cursors that nobody used start no thread, and those of a folder are found again', async (t) => {
  const dir = folder(t)
  const threads = countThreads(t)
  await cursorsIn(dir).close()
  t.equal(threads(), 0)
  t.same(fs.readdirSync(dir), [])
  const cursors = cursorsIn(dir)
  await cursors.put(rowOf('a', 5))
  await cursors.close()
  const again = cursorsIn(dir)
  t.same(await again.load(), { rows: [rowOf('a', 5)], problems: [] })
  await again.close()
})

t.test('a file that cannot be opened is said, and the next write tries again', async (t) => {
  const dir = folder(t)
  let isLost = true
  let asked = 0
  const cursors = cursorsIn(dir, () => {
    asked++
    if (isLost) throw new Error('another folder')
  })
  await t.rejects(cursors.put(rowOf('a', 1)), { message: 'another folder' })
  t.same(fs.readdirSync(dir), [], 'nothing is made in a folder that is lost')
  isLost = false
  const file = path.join(dir, CURSORS_NAME)
  fs.mkdirSync(file)
  const why = { code: 'BUS_FAILED', message: /\(cursors\.db\) cannot be opened: / }
  await t.rejects(cursors.put(rowOf('a', 1)), why)
  await t.rejects(cursors.load(), why)
  fs.rmdirSync(file)
  await cursors.put(rowOf('a', 2))
  t.equal(asked, 4)
  await cursors.put(rowOf('a', 3))
  t.equal(asked, 4, 'an open file is not asked about')
  t.same(durableIn(dir), ['a 3'])
  const broken = { ...rowOf('b', 1), definition: undefined as unknown as string }
  await t.rejects(cursors.put(broken), { code: 'BUS_FAILED', message: /cannot be written: .*NOT NULL/ })
  t.same(durableIn(dir), ['a 3'])
  await cursors.put(rowOf('c', 1))
  await cursors.close()
  t.same(durableIn(dir), ['a 3', 'c 1'])
})

t.test('a folder that is only read: cursors are listed, and nothing moves', async (t) => {
  const dir = folder(t)
  const reader = cursorsOfReader(dir)
  t.same(await reader.load(), { rows: [], problems: [] })
  const cursors = cursorsIn(dir)
  await cursors.put(rowOf('a', 5))
  await cursors.close()
  t.same(await reader.load(), { rows: [rowOf('a', 5)], problems: [] })
  await t.rejects(reader.put(rowOf('a', 6)), { code: 'READ_ONLY' })
  await t.rejects(reader.remove('a'), { code: 'READ_ONLY' })
  await reader.close()
  fs.writeFileSync(path.join(dir, CURSORS_NAME), 'no database, but long enough to be looked at')
  const found = await reader.load()
  t.same(found.rows, [])
  t.match(found.problems, [/^cursors\.db cannot be read: /])
})
