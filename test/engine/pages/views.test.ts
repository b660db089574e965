/**
 * Descriptions while an epoch is in flight: they wait for nothing and show the published epoch, although the
 * batch has changed graph and memory already and another thread is changing the pages.
 */
import t, { type Test } from 'tap'
import { Bus } from '../../../src/index.js'
import { turn } from '../../lib/wait.js'

const SIDE = 900

/** A bus whose next write of `a` computes for a long time on another thread. */
async function slowBus(t: Test): Promise<Bus> {
  const bus = await Bus.open({ backend: 'cpu', threads: 1 })
  t.teardown(() => bus.close())
  await bus.create('a', { dtype: 'f64', shape: [SIDE, SIDE], fill: 1 })
  await bus.derive('product', { op: 'matmul', inputs: { a: 'a', b: 'a' } })
  await bus.derive('extra', { op: 'map', inputs: { x: 'a' }, expr: 'x + 1' })
  return bus
}

const views = (bus: Bus): unknown => {
  const { pages, graph } = bus.stats()
  return {
    epoch: bus.epoch,
    digest: bus.status().digest,
    pages: { ...pages, poolBytes: 0 },
    graph,
    list: bus.pages(),
    nodes: bus.graph(),
    functions: bus.functions(),
  }
}

t.test('views show the published epoch and do not wait for the one in flight', async (t) => {
  const bus = await slowBus(t)
  const before = views(bus)
  const patched = bus.write('a', new Float64Array(SIDE * SIDE).fill(2))
  const deleted = bus.delete('extra')
  const created = bus.create('new', { dtype: 'u8', shape: [1000], fill: 9 })
  let isDone = false
  const all = Promise.all([patched, deleted, created]).then(() => {
    isDone = true
  })
  let looks = 0
  for (let i = 0; !isDone; i++) {
    await turn()
    // A view that waited would publish the epoch, and nothing more could be looked at.
    const now = views(bus)
    if (isDone) break
    if (bus.epoch !== 3) break
    looks++
    if (i % 16 === 0) t.same(now, before, 'as published')
    await new Promise((resolve) => setTimeout(resolve, 1))
  }
  t.ok(looks > 5, `looked ${looks} times while the epoch was in flight`)
  await all
  const after = views(bus) as { list: { pages: { name: string }[] } }
  t.same(
    after.list.pages.map(({ name }) => name),
    ['a', 'new', 'product'],
  )
  t.notSame(bus.page('product').digest, (before as typeof after).list.pages[2], 'the digest has moved')
})

t.test('views show the published epoch during a what-if on another thread', async (t) => {
  const bus = await slowBus(t)
  const before = views(bus)
  let isDone = false
  const tried = bus
    .whatIf({ ops: [{ page: 'a', values: new Float64Array(SIDE * SIDE).fill(2) }], read: ['a'] })
    .finally(() => {
      isDone = true
    })
  let looks = 0
  while (!isDone) {
    await new Promise((resolve) => setTimeout(resolve, 2))
    t.same(views(bus), before)
    looks++
  }
  t.ok(looks > 3)
  await tried
  t.same(views(bus), before)
})

t.test('pages are listed by prefix and cursor while names come and go', async (t) => {
  const bus = await Bus.open({ backend: 'cpu', threads: 1 })
  t.teardown(() => bus.close())
  const names = (options: Parameters<Bus['pages']>[0]): [string[], string | null] => {
    const { pages, next } = bus.pages(options)
    return [pages.map(({ name }) => name), next]
  }
  for (const name of ['b.2', 'a', 'b.1', 'c', 'b.3']) await bus.create(name, { dtype: 'u8', shape: [1] })
  t.same(names({}), [['a', 'b.1', 'b.2', 'b.3', 'c'], null])
  t.same(names({ prefix: 'b.' }), [['b.1', 'b.2', 'b.3'], null])
  t.same(names({ prefix: 'b.', limit: 2 }), [['b.1', 'b.2'], 'b.2'])
  t.same(names({ prefix: 'b.', limit: 2, cursor: 'b.2' }), [['b.3'], null])
  t.same(names({ prefix: 'b.', cursor: 'b.3' }), [[], null])
  t.same(names({ cursor: 'zzz' }), [[], null])
  await bus.delete('b.1')
  await bus.create('b.0', { dtype: 'u8', shape: [1] })
  t.same(names({ prefix: 'b.', limit: 2 }), [['b.0', 'b.2'], 'b.2'])
  await bus.delete('a')
  await bus.create('a', { dtype: 'u16', shape: [2] })
  t.same(names({}), [['a', 'b.0', 'b.2', 'b.3', 'c'], null])
  await bus.delete('a')
  t.same(names({}), [['b.0', 'b.2', 'b.3', 'c'], null])
})

t.test('a large page is filled by the epoch that creates it', async (t) => {
  const bus = await Bus.open({ backend: 'cpu', threads: 2 })
  t.teardown(() => bus.close())
  const side = 1500
  await bus.create('filled', { dtype: 'f32', shape: [side, side], fill: 2.5 })
  await bus.create('written', { dtype: 'f32', shape: [side, side] })
  await bus.write('written', new Float32Array(side * side).fill(2.5))
  t.same(bus.read('filled'), bus.read('written'))
  await bus.derive('same', { op: 'map', inputs: { a: 'filled', b: 'written' }, expr: 'a == b' })
  await bus.derive('all', { op: 'reduce', inputs: { x: 'same' }, fn: 'all' })
  t.same([...bus.read('all')], [1])
  // The same definition and bytes give the same digest, whichever way the bytes came.
  await bus.create('again', { dtype: 'f32', shape: [side, side], fill: 1 })
  await bus.write('again', new Float32Array(side * side).fill(2.5))
  const other = await Bus.open({ backend: 'cpu', threads: 1 })
  t.teardown(() => other.close())
  await other.create('filled', { dtype: 'f32', shape: [side, side] })
  await other.write('filled', new Float32Array(side * side).fill(2.5))
  t.equal(bus.page('filled').digest, other.page('filled').digest)
})
