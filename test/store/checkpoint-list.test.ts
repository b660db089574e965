/** The list of checkpoints of an open store: order of the steps, what is kept, and what failures cost. */
import t from 'tap'
import type { CheckpointRequest } from '../../src/store/checkpoint/tasks.js'
import { CheckpointList } from '../../src/store/checkpoint-list.js'
import type { Catalog, CheckpointInfo, CheckpointSource } from '../../src/store/types.js'
import { Gate } from '../lib/gate.js'
import { turns } from '../lib/wait.js'
import { noCatalog } from './helpers.js'

const infoOf = (epoch: number): CheckpointInfo => ({
  ...{ epoch, pages: 1, bytes: 10, newBytes: 10, ms: 5, file: `${epoch}.db` },
})

const sourceOf = (epoch: number, steps: string[] = []): CheckpointSource => ({
  header: { epoch, timestampMs: 1, digest: new Uint8Array(16), nextPageId: 2, extra: '' },
  pages: [{ id: 1, version: epoch, createdEpoch: 1, bytes: 8, meta: new Uint8Array(1) }],
  read: () => {},
  onRead: () => steps.push(`read ${epoch}`),
})

/** A list with checkpoints of these epochs, and every step that it asks for, in order. */
function listOf(epochs: readonly number[], verified?: number, keptMax = 32) {
  const steps: string[] = []
  /** What a step fails with, or waits for; or what a verification answers. */
  const answers = new Map<string, () => unknown>()
  const step = async (text: string): Promise<unknown> => {
    steps.push(text)
    return answers.get(text)?.()
  }
  const catalog: Catalog = {
    ...noCatalog(),
    addCheckpoint: async ({ epoch }) => {
      await step(`list ${epoch}`)
    },
    removeCheckpoint: async (epoch) => {
      await step(`unlist ${epoch}`)
    },
  }
  const ask = async (request: CheckpointRequest): Promise<unknown> => {
    const { type } = request
    if (type === 'begin') return (await step(`begin on ${request.base}`)) ?? request.base
    if (type === 'piece') return request.bytes
    if (type === 'end') return (await step(`end ${request.epoch}`)) ?? 7
    if (type === 'verify') return step(`verify ${request.epoch}`)
    if (type === 'collect') return step(`collect ${request.epochs.join()}`)
    return step(type)
  }
  const startThread = () => {
    steps.push('start')
    return { ask, end: async () => void (await step('stop')) }
  }
  const notices: string[] = []
  const notify = (level: string, message: string): void => void notices.push(`${level}: ${message}`)
  const options = { busId: 'ab', catalog, startThread, keptMax, pieceBytes: 65_536, notify }
  const list = new CheckpointList(options, epochs.map(infoOf), verified)
  const told = (): string[] => steps.splice(0)
  const sync = async (): Promise<void> => void (await step('sync'))
  return { list, told, notices, answers, sync, steps }
}

const fail = (text: string) => () => {
  throw new Error(text)
}
t.test('checkpoints are listed oldest first, and the list is a copy', async (t) => {
  const { list } = listOf([30, 10, 20])
  t.same(list.epochs(), [10, 20, 30])
  t.same(
    list.all().map(({ epoch }) => epoch),
    [10, 20, 30],
  )
  list.all().pop()
  t.equal(list.all().length, 3)
})

t.test(
  'a checkpoint is written, listed, and the rest is thinned out, each step after the other',
  async (t) => {
    const { list, told, sync, notices, steps } = listOf([10, 20], undefined, 3)
    const info = await list.write(sourceOf(30, steps), sync)
    t.match(info, { epoch: 30, pages: 1, bytes: 8, newBytes: 7 })
    const written = ['start', 'begin on 20', 'read 30', 'sync', 'end 30', 'list 30', 'collect 10,20,30']
    t.same(told(), written)
    await list.write(sourceOf(40), sync)
    t.same(told(), ['begin on 30', 'sync', 'end 40', 'list 40', 'unlist 20', 'collect 10,30,40'])
    t.same(list.epochs(), [10, 30, 40])
    t.same(notices, [])
  },
)

t.test('the first checkpoint has no base', async (t) => {
  const { list, told, sync } = listOf([])
  await list.write(sourceOf(5), sync)
  t.same(told(), ['start', 'begin on undefined', 'sync', 'end 5', 'list 5', 'collect 5'])
  t.same(list.epochs(), [5])
})

t.test('a checkpoint that exists is not written again', async (t) => {
  const { list, told, sync, steps } = listOf([10, 20])
  const info = await list.write(sourceOf(20, steps), sync)
  t.same(info, { ...infoOf(20), pages: 1, bytes: 8, newBytes: 0, ms: 0 })
  t.same(told(), ['read 20'], 'the source is let go')
})

t.test('a base that cannot be used is said', async (t) => {
  const { list, notices, answers, sync } = listOf([10])
  answers.set('begin on 10', () => 'its table is damaged')
  await list.write(sourceOf(20), sync)
  t.match(notices, [/^warn: checkpoint 10 cannot be built on \(its table is damaged\)/])
})

t.test('a writing that fails leaves the list as it was and ends the thread', async (t) => {
  for (const step of ['begin on 10', 'sync', 'end 20']) {
    const { list, told, answers, sync } = listOf([10])
    answers.set(step, fail('no'))
    const stopped = new Gate()
    answers.set('stop', stopped.wait)
    let isOver = false
    const written = list.write(sourceOf(20), sync).catch((error: Error) => {
      isOver = true
      return error
    })
    await turns(10)
    t.notOk(isOver, 'the thread has ended when the failure is told')
    stopped.open()
    t.match(await written, { code: 'INTERNAL', message: /checkpoint of epoch 20 could not be written: no/ })
    t.same(told().slice(-2), ['abandon', 'stop'])
    t.same(list.epochs(), [10])
    answers.clear()
    await list.write(sourceOf(20), sync)
    t.equal(told()[0], 'start', 'the next one has a thread of its own')
    t.same(list.epochs(), [10, 20])
  }
})

t.test('a catalog that does not list it is no failure', async (t) => {
  const { list, told, notices, answers, sync } = listOf([10])
  answers.set('list 20', fail('full'))
  await list.write(sourceOf(20), sync)
  t.same(notices, ['warn: the catalog could not list checkpoint 20: full'])
  t.equal(told().at(-1), 'collect 10,20')
  t.same(list.epochs(), [10, 20])
})

t.test('files are collected only after the catalog has let go of them', async (t) => {
  const { list, told, answers, sync } = listOf([10, 20, 30], undefined, 3)
  const unlisted = new Gate()
  answers.set('unlist 20', unlisted.wait)
  const written = list.write(sourceOf(40), sync)
  await turns(10)
  t.equal(told().at(-1), 'unlist 20')
  unlisted.open()
  await written
  t.same(told(), ['collect 10,30,40'])
})

t.test('a catalog that does not let go is no failure; files that cannot be removed are said', async (t) => {
  const { list, notices, answers, sync } = listOf([10, 20, 30], undefined, 3)
  answers.set('unlist 20', fail('full'))
  await list.write(sourceOf(40), sync)
  t.same(notices, [])
  t.same(list.epochs(), [10, 30, 40])
  answers.set('collect 10,40,50', fail('read-only'))
  const info = await list.write(sourceOf(50), sync)
  t.equal(info.epoch, 50)
  t.same(notices, ['warn: old checkpoints could not be removed: read-only'])
})

t.test('jobs run one after the other, also behind one that fails', async (t) => {
  const { list } = listOf([])
  const order: string[] = []
  const first = new Gate()
  const one = list.inTurn(async () => {
    order.push('one begins')
    await first.wait()
    order.push('one ends')
    throw new Error('one')
  })
  const two = list.inTurn(async () => {
    order.push('two')
    return 2
  })
  one.catch(() => {})
  await turns(10)
  t.same(order, ['one begins'])
  first.open()
  await t.rejects(one, /one/)
  t.equal(await two, 2)
  t.same(order, ['one begins', 'one ends', 'two'])
})

t.test('the close waits for the jobs, then ends the thread', async (t) => {
  const { list, told, answers, sync } = listOf([])
  const ended = new Gate()
  answers.set('end 5', ended.wait)
  void list.inTurn(() => list.write(sourceOf(5), sync))
  let isClosed = false
  const closed = list.close().then(() => {
    isClosed = true
  })
  await turns(10)
  t.notOk(isClosed)
  t.notOk(told().includes('stop'))
  const stopped = new Gate()
  answers.set('stop', stopped.wait)
  ended.open()
  await turns(10)
  t.equal(told().at(-1), 'stop')
  t.notOk(isClosed, 'not before the thread has ended')
  stopped.open()
  await closed
  const idle = listOf([1])
  await idle.list.close()
  t.same(idle.told(), [], 'no thread is started to be ended')
})

t.test('what is before the anchor goes once the anchor and the two newest are verified', async (t) => {
  const { list, told } = listOf([10, 20, 30, 40], 40)
  t.equal(await list.removeBefore(() => undefined), undefined)
  t.same(told(), [], 'nothing is begun without an anchor')
  t.equal(await list.removeBefore(() => 20), 20)
  t.same(told(), ['start', 'verify 20', 'verify 30', 'unlist 10', 'collect 20,30,40'])
  t.same(list.epochs(), [20, 30, 40])
  t.equal(await list.removeBefore(() => 30), 30)
  t.same(told(), ['unlist 20', 'collect 30,40'], 'each is read back once')
})

t.test('a damaged one leaves the list, and the anchor is chosen again', async (t) => {
  const { list, told, answers, notices } = listOf([10, 20, 30, 40])
  answers.set('verify 30', () => 'a chunk is bad')
  const anchors: (number | undefined)[] = []
  const anchorNow = (): number | undefined => {
    anchors.push(list.epochs().at(-2))
    return anchors.at(-1)
  }
  t.equal(await list.removeBefore(anchorNow), 20)
  const verified = ['verify 30', 'verify 20', 'verify 40']
  t.same(told(), ['start', ...verified, 'unlist 10', 'collect 20,40'])
  t.same(notices, ['error: checkpoint 30 is not sound and is not counted: a chunk is bad'])
  t.same(list.epochs(), [20, 40])
})

t.test('no anchor is left after a damaged one: nothing goes', async (t) => {
  const { list, told, answers } = listOf([10, 20])
  answers.set('verify 10', () => 'bad')
  t.equal(await list.removeBefore(() => (list.epochs().length > 1 ? 10 : undefined)), undefined)
  t.same(told(), ['start', 'verify 10'])
  t.same(list.epochs(), [20])
})

t.test('a thread that dies while it verifies removes nothing', async (t) => {
  const { list, told, answers } = listOf([10, 20, 30])
  answers.set('verify 20', fail('it has ended'))
  await t.rejects(
    list.removeBefore(() => 20),
    /it has ended/,
  )
  t.same(told(), ['start', 'verify 20', 'stop'])
  t.same(list.epochs(), [10, 20, 30])
})
