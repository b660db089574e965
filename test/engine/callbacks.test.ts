/** Functions of the program that throw hurt neither writers nor the bus. */
import { getEventListeners } from 'node:events'
import t from 'tap'
import { Bus, type BusOptions } from '../../src/index.js'
import { turn } from '../lib/wait.js'

const boom = (): never => {
  throw new Error('boom')
}

t.test('a listener that throws becomes a notice; writers are answered and the bus goes on', async (t) => {
  const notices: string[] = []
  const bus = await Bus.open({
    dataDir: t.testdir(),
    backend: 'cpu',
    threads: 1,
    onNotice: ({ message }) => notices.push(message),
  })
  t.teardown(() => bus.close())
  await bus.create('a', { dtype: 'u8', shape: [4] })
  const seen: number[] = []
  const stop = bus.onCommit(boom, boom)
  bus.onCommit(({ epoch }) => seen.push(epoch))
  const watched = bus.subscribe({ pages: ['a'] })
  t.match(await bus.patch('a', { values: [1] }), { epoch: 2 })
  t.match(await bus.patch('a', { values: [2] }), { epoch: 3 })
  stop()
  t.match(await bus.patch('a', { values: [3] }), { epoch: 4 })
  t.same(seen, [2, 3, 4], 'other listeners are called')
  t.match((await watched.next()).value, { epoch: 2 })
  t.equal(bus.failure, null)
  const thrown = notices.filter((text) => text.startsWith('a listener of onCommit has thrown: Error: boom'))
  t.equal(thrown.length, 4)
})

t.test('lowestNeeded that throws keeps all history', async (t) => {
  const notices: string[] = []
  const options: BusOptions = {
    dataDir: t.testdir(),
    backend: 'cpu',
    threads: 1,
    segmentBytes: 8192,
    retention: { maxEpochs: 1 },
    onNotice: ({ message }) => notices.push(message),
  }
  const bus = await Bus.open(options)
  t.teardown(() => bus.close())
  bus.holdHistory(boom)
  await bus.create('a', { dtype: 'f64', shape: [64] })
  for (let i = 0; i < 60; i++) {
    await bus.write('a', new Float64Array(64).fill(i))
    if (i % 20 === 0) await bus.checkpoint()
  }
  await bus.checkpoint()
  t.equal(bus.minEpoch, 0)
  t.ok(notices.some((text) => text.includes('lowestNeeded of holdHistory has thrown')))
})

t.test('onNotice and onFailure that throw do not reach the bus', async (t) => {
  const warnings: string[] = []
  const listen = ({ message }: Error): void => {
    warnings.push(message)
  }
  process.on('warning', listen)
  t.teardown(() => process.off('warning', listen))
  const bus = await Bus.open({ backend: 'cpu', threads: 1, onNotice: boom })
  t.teardown(() => bus.close())
  bus.onCommit(boom)
  bus.onFailure(boom)
  await bus.create('a', { dtype: 'u8', shape: [4] })
  await turn()
  t.match(warnings, [/onNotice has thrown: Error: boom/])
})

t.test('nothing is committed once close was called', async (t) => {
  const dataDir = t.testdir()
  const bus = await Bus.open({ dataDir, backend: 'cpu', threads: 1 })
  await bus.create('a', { dtype: 'u8', shape: [4] })
  const closing = bus.close()
  await t.rejects(bus.patch('a', { values: [1] }), { code: 'BUS_FAILED' })
  await Promise.resolve()
  await t.rejects(bus.patch('a', { values: [1] }), { code: 'BUS_FAILED' })
  await closing
  const again = await Bus.open({ dataDir, backend: 'cpu', threads: 1 })
  t.equal(again.epoch, 1)
  await again.close()
})

t.test('a signal, throw() and await using end a subscription', async (t) => {
  const bus = await Bus.open({ backend: 'cpu', threads: 1 })
  t.teardown(() => bus.close())
  await bus.create('a', { dtype: 'u8', shape: [4] })
  const controller = new AbortController()
  const watched = bus.subscribe({ pages: ['a'], signal: controller.signal })
  const waiting = watched.next()
  controller.abort(new Error('enough'))
  await t.rejects(waiting, /enough/)
  t.same(await watched.next(), { done: true, value: undefined })
  const late = bus.subscribe({ pages: ['a'], signal: controller.signal })
  await t.rejects(late.next(), /enough/, 'a signal that was aborted before')
  t.same(await late.next(), { done: true, value: undefined })

  const thrown = bus.subscribe({ pages: ['a'] })
  const pending = thrown.next()
  await t.rejects(thrown.throw(new Error('mine')), /mine/)
  t.same(await pending, { done: true, value: undefined })

  const used = bus.subscribe({ pages: ['a'] })
  await used[Symbol.asyncDispose]()
  t.same(await used.next(), { done: true, value: undefined })

  const other = await Bus.open({ backend: 'cpu', threads: 1 })
  await other[Symbol.asyncDispose]()
  t.equal(other.failure, 'the bus is closed')
})

t.test('nothing that has ended listens to a signal any more', async (t) => {
  const bus = await Bus.open({ dataDir: t.testdir(), backend: 'cpu', threads: 1 })
  await bus.create('a', { dtype: 'u8', shape: [4] })
  await bus.patch('a', { values: [1] })
  const { signal } = new AbortController()
  for (let i = 0; i < 3; i++) await bus.data('a', { epoch: 1, signal })
  await t.rejects(bus.data('b', { epoch: 1, signal }), { code: 'PAGE_NOT_FOUND' })
  t.equal(getEventListeners(signal, 'abort').length, 0, 'reads of the past')
  await bus.whatIf({ ops: [{ page: 'a', values: [2] }], read: ['a'] }, { signal })
  t.equal(getEventListeners(signal, 'abort').length, 0, 'a what-if')
  const left = bus.subscribe({ pages: ['a'], signal })
  await left.return?.()
  t.throws(() => bus.subscribe({ pages: ['a'], from: 99, signal }), { code: 'EPOCH_NOT_FOUND' })
  const kept = bus.subscribe({ pages: ['a'], signal })
  t.equal(getEventListeners(signal, 'abort').length, 1)
  await bus.close()
  await kept.next().catch(() => undefined)
  t.equal(getEventListeners(signal, 'abort').length, 0, 'subscriptions')
})
