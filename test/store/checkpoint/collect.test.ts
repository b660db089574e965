/** Which checkpoint files are removed or retired, in which order, and when that is durable. */
import t from 'tap'
import { openBase } from '../../../src/store/checkpoint/base.js'
import { collectFiles, type References } from '../../../src/store/checkpoint/collect.js'
import { isSoundCheckpoint } from '../../../src/store/checkpoint/file-reader.js'
import { checkpointName, checkpointStem } from '../../../src/store/checkpoint/format.js'
import { BUS_ID, CHUNK, chunksOf, MemoryFolder, written } from './memory-folder.js'

const retired = (epoch: number): string => `${checkpointStem(epoch)}.old`

/** Checkpoints 1, 2, 3: 2 refers to 1, and 3 stands alone. */
async function threeFiles(): Promise<MemoryFolder> {
  const folder = new MemoryFolder()
  folder.size = 1
  await written(folder, 1, new Map([[1, chunksOf(1, 1)]]))
  const second = new Map<number, Uint8Array | number>([
    [1, CHUNK],
    [2, chunksOf(2, 1)],
  ])
  await written(folder, 2, second, openBase(folder, 1, BUS_ID))
  await written(folder, 3, new Map([[1, chunksOf(3, 1)]]))
  folder.steps.length = 0
  return folder
}

t.test('while every checkpoint is kept, nothing is changed and nothing synced', async (t) => {
  const folder = await threeFiles()
  t.equal(await collectFiles(folder, [1, 2, 3], new Map()), 0)
  t.same(folder.steps, [])
  t.equal(folder.openCount, 0)
})

t.test('a file that others need is retired, and removed once nobody needs it', async (t) => {
  const folder = await threeFiles()
  const known: References = new Map()
  t.equal(await collectFiles(folder, [2, 3], known), 0)
  t.same(folder.steps.splice(0), [`rename ${checkpointName(1)} ${retired(1)}`, 'sync'])
  t.equal(isSoundCheckpoint(folder, 2, BUS_ID), true)
  t.equal(await collectFiles(folder, [2, 3], known), 0)
  t.same(folder.steps, [])
  t.equal(await collectFiles(folder, [3], known), 2)
  t.same(folder.steps, [`remove ${checkpointName(2)}`, 'sync', `remove ${retired(1)}`, 'sync'])
  t.same(folder.list(), [checkpointName(3)])
  t.equal(folder.openCount, 0)
})

t.test('one that nobody needs is removed at once', async (t) => {
  const folder = await threeFiles()
  t.equal(await collectFiles(folder, [1, 2], new Map()), 1)
  t.same(folder.steps, [`remove ${checkpointName(3)}`, 'sync'])
})

t.test('the removals are durable when the promise resolves', async (t) => {
  const folder = await threeFiles()
  folder.files.set(retired(9), Buffer.alloc(1))
  const done = collectFiles(folder, [1, 2, 3], new Map())
  t.equal(await done, 1)
  t.same(folder.steps, [`remove ${retired(9)}`, 'sync'])
})

t.test('other files stay', async (t) => {
  const folder = await threeFiles()
  folder.files.set('next.tmp', Buffer.alloc(1))
  await collectFiles(folder, [3], new Map())
  t.same(folder.list(), [checkpointName(3), 'next.tmp'])
})

t.test('each file is asked once for its references, and one of version 1 has none', async (t) => {
  const folder = await threeFiles()
  const opened: string[] = []
  const open = folder.open.bind(folder)
  folder.open = (name) => {
    opened.push(name)
    return open(name)
  }
  folder.change(checkpointName(3), (db) => db.exec('DROP TABLE file; PRAGMA user_version = 1'))
  const known: References = new Map()
  for (let i = 0; i < 2; i++) await collectFiles(folder, [2, 3], known)
  t.same(opened, [checkpointName(2), checkpointName(3)])
  t.same(
    [...known],
    [
      [2, [checkpointStem(1)]],
      [3, []],
    ],
  )
})

t.test('if the references of one cannot be read, nothing is removed', async (t) => {
  const folder = await threeFiles()
  folder.change(checkpointName(2), (db) => db.exec('DROP TABLE file'))
  await t.rejects(collectFiles(folder, [2], new Map()), { message: /no such table/ })
  t.same(folder.steps, [])
  t.equal(folder.openCount, 0, 'the file is closed')
})
