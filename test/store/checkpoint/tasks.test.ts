/** The requests to the thread of checkpoints: what each answers, and what a failure leaves. */
import t from 'tap'
import { checkpointName } from '../../../src/store/checkpoint/format.js'
import { type CheckpointRequest, CheckpointTasks } from '../../../src/store/checkpoint/tasks.js'
import { BUS_ID, chunksOf, MemoryFolder, metaOf, pieceOf, written } from './memory-folder.js'

const begin = (base?: number, busId = BUS_ID): CheckpointRequest => ({ type: 'begin', base, busId })
const end = (epoch: number): CheckpointRequest => ({ type: 'end', epoch, meta: metaOf(epoch) })
const bytes = chunksOf(1, 1)
const piece: CheckpointRequest = { type: 'piece', pages: [pieceOf(1, bytes.length)], bytes }

t.test('a file from its beginning to its end, alone and on a base', async (t) => {
  const folder = new MemoryFolder()
  const tasks = new CheckpointTasks(folder)
  t.equal(await tasks.handle(begin()), undefined)
  t.equal(await tasks.handle(piece), bytes, 'the bytes come back')
  t.equal(await tasks.handle(end(1)), bytes.length)
  t.same(folder.list(), [checkpointName(1)])
  t.equal(await tasks.handle(end(2)), undefined, 'nothing was begun')
  folder.size = 1
  t.equal(await tasks.handle(begin(1)), 1)
  await tasks.handle(piece)
  t.equal(await tasks.handle(end(2)), 0)
  t.equal(folder.openCount, 0)
  t.equal(await tasks.handle({ type: 'verify', epoch: 2, busId: BUS_ID }), undefined)
  t.equal(await tasks.handle({ type: 'verify', epoch: 2, busId: 'other' }), 'it belongs to another bus')
  t.equal(folder.openCount, 0)
  t.equal(await tasks.handle({ type: 'collect', epochs: [2] }), 0)
  t.equal(await tasks.handle({ type: 'collect', epochs: [] }), 2)
  t.same(folder.list(), [])
})

t.test('a base that cannot be used is said, and the file is begun without it', async (t) => {
  const folder = new MemoryFolder()
  await written(folder, 1, new Map([[1, bytes]]))
  const tasks = new CheckpointTasks(folder)
  t.equal(await tasks.handle(begin(1, 'other')), 'it belongs to another bus')
  await tasks.handle(piece)
  t.equal(await tasks.handle(end(2)), bytes.length)
})

t.test('whatever fails, the file is given up, once', async (t) => {
  const folder = new MemoryFolder()
  const tasks = new CheckpointTasks(folder)
  await t.rejects(tasks.handle(piece), { message: /^no checkpoint is being written/ })
  t.same(folder.steps, [])
  const failures: CheckpointRequest[] = [
    { type: 'abandon' },
    { ...piece, bytes: new Uint8Array(3) },
    { type: 'piece', pages: [], bytes },
  ]
  for (const request of failures) {
    await tasks.handle(begin())
    await t.rejects(tasks.handle(request))
    t.same(folder.steps.splice(0), ['abandon'])
    await t.rejects(tasks.handle({ type: 'abandon' }), { message: /was given up/ })
    t.same(folder.steps, [], 'nothing is left to give up')
  }
  await tasks.handle(begin())
  folder.files.set(checkpointName(7), Buffer.alloc(0))
  await t.rejects(tasks.handle({ type: 'collect', epochs: [8] }))
  t.same(folder.steps.splice(0), ['abandon'])
  await tasks.handle(begin())
  await tasks.handle(end(4))
  await t.rejects(tasks.handle({ type: 'abandon' }))
  t.same(folder.steps, [`finish ${checkpointName(4)}`], 'a finished file stays')
})

t.test('a file that cannot be begun closes its base', async (t) => {
  const folder = new MemoryFolder()
  await written(folder, 1, new Map([[1, bytes]]))
  folder.create = () => {
    throw new Error('ENOSPC')
  }
  await t.rejects(new CheckpointTasks(folder).handle(begin(1)), { message: /^ENOSPC/ })
  t.equal(folder.openCount, 0)
})
