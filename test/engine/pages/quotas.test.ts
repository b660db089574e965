/** Limits on pages, their bytes and functions: every way to make or grow them is refused; recovery is not. */
import t, { type Test } from 'tap'
import type { BusOptions } from '../../../src/engine/types.js'
import { Bus } from '../../../src/index.js'
import { DERIVED_OWN_BYTES, PAGE_OWN_BYTES } from '../../../src/limits.js'
import type { LimitName } from '../../../src/operator-limits.js'
import { FrameWriter } from '../../../src/state/frame/writer.js'
import { PAGE_ID_UNASSIGNED } from '../../../src/wire/frame.js'
import { folder } from '../../lib/folder.js'

const K = 1024
const open = async (t: Test, options: BusOptions): Promise<Bus> => {
  const bus = await Bus.open({ backend: 'cpu', threads: 1, ...options })
  t.teardown(() => bus.close())
  return bus
}
const bytes = (elements: number) => ({ dtype: 'u8' as const, shape: [elements] })
const useOf = (bus: Bus, name: LimitName): number | undefined => new Map(bus.limits.uses()).get(name)
const refusalsOf = (bus: Bus, name: LimitName): number | undefined => new Map(bus.limits.refusals()).get(name)

/** A binary transaction that creates source pages, as a WebSocket sends it. */
function creating(...names: readonly string[]): Uint8Array {
  const writer = new FrameWriter({})
  const none = { fill: 0n, definition: new Uint8Array(0), kind: 'source', location: 'auto' } as const
  for (const name of names)
    writer.createPage({ id: PAGE_ID_UNASSIGNED, name, dtype: 'u8', shape: [1], ...none })
  return writer.finish()
}

t.test('the number of pages: every way to create one', async (t) => {
  const bus = await open(t, { limits: { maxPages: 3 } })
  await bus.createMany([
    { name: 'a', definition: bytes(1) },
    { name: 'b', definition: bytes(0) },
  ])
  const full = { code: 'QUOTA_EXCEEDED', extra: { limit: '--max-pages', max: 3 } }
  const two = ['c', 'd'].map((name) => ({ name, definition: bytes(1) }))
  await t.rejects(bus.createMany(two), full, 'all of them or none')
  await t.rejects(bus.submit(creating('c', 'd')), full, 'a binary transaction')
  t.equal(bus.epoch, 1)
  await bus.submit(creating('c'))
  await t.rejects(bus.create('d', bytes(1)), full)
  await t.rejects(bus.derive('d', { op: 'map', inputs: { x: 'a' }, expr: 'x' }), full)
  t.match(await bus.create('a', bytes(1)), { created: false }, 'a page that exists is no new one')
  await bus.patch('a', { offset: 0, values: [1] })
  await bus.delete('b')
  await bus.create('d', bytes(1))
  t.equal(useOf(bus, 'maxPages'), 3)
  t.equal(refusalsOf(bus, 'maxPages'), 4)
})

t.test('creations that share an epoch do not pass the limit together', async (t) => {
  const bus = await open(t, { limits: { maxPages: 10 } })
  const names = Array.from({ length: 40 }, (_, i) => `p${i}`)
  const made = await Promise.allSettled(names.map((name) => bus.create(name, bytes(1))))
  t.equal(made.filter(({ status }) => status === 'fulfilled').length, 10)
  t.equal(bus.pages().pages.length, 10)
})

t.test('the bytes of pages: elements, pasts, empty pages, definitions, functions', async (t) => {
  const bus = await open(t, { limits: { maxPageBytes: 64 * K } })
  const full = { code: 'QUOTA_EXCEEDED', extra: { limit: '--max-page-bytes', max: 64 * K } }
  await bus.create('a', bytes(24 * K))
  t.equal(useOf(bus, 'maxPageBytes'), 24 * K + PAGE_OWN_BYTES + 1)
  await t.rejects(bus.create('b', bytes(38 * K)), full)
  const left = 64 * K - (24 * K + PAGE_OWN_BYTES + 1)
  await t.rejects(bus.create('b', bytes(left - (PAGE_OWN_BYTES + 1) + 1)), full, 'one byte too many')
  await bus.create('b', bytes(left - (PAGE_OWN_BYTES + 1)))
  t.equal(useOf(bus, 'maxPageBytes'), 64 * K, 'all of it')
  await bus.delete('b')
  // Its own elements would fit, with the past that it reads they do not.
  const past = { op: 'map' as const, inputs: { x: { prev: 'a' } }, expr: 'any(x)' }
  await t.rejects(bus.derive('b', { ...past, expr: 'x' }), full)
  const last = { op: 'reduce' as const, inputs: { x: { prev: 'a' } }, fn: 'max' as const, axes: [0] }
  await bus.derive('last', last as never)
  t.ok((useOf(bus, 'maxPageBytes') as number) > 48 * K + 2 * PAGE_OWN_BYTES + DERIVED_OWN_BYTES)
  // Empty pages cannot go on for ever.
  let made = 0
  const empty = async (): Promise<void> => {
    for (;;) await bus.create(`e${made}`, bytes(0)).then(() => made++)
  }
  await t.rejects(empty(), full)
  t.ok(made > 0 && made < 64 / 2, `${made} empty pages`)
  await t.rejects(bus.defineFunction('f', { params: ['x'], expr: `x + ${'1 + '.repeat(2000)}1` }), full)
  for (let i = 0; i < made; i++) await bus.delete(`e${i}`)
  await bus.delete('last')
  t.equal(useOf(bus, 'maxPageBytes'), 24 * K + PAGE_OWN_BYTES + 1, 'everything is given back')
})

t.test('a function that is redefined makes its pages larger', async (t) => {
  const bus = await open(t, { limits: { maxPageBytes: 64 * K } })
  await bus.create('a', bytes(1))
  await bus.defineFunction('f', { params: ['x'], expr: 'x' })
  for (let i = 0; i < 6; i++) await bus.derive(`d${i}`, { op: 'map', inputs: { x: 'a' }, expr: 'f(x)' })
  const before = useOf(bus, 'maxPageBytes') as number
  const { epoch } = bus
  const long = { params: ['x'], expr: Array.from({ length: 200 }, (_, i) => `x * ${i}`).join(' + ') }
  await t.rejects(bus.defineFunction('f', long), { code: 'QUOTA_EXCEEDED' })
  t.equal(bus.epoch, epoch, 'nothing has changed')
  t.equal(useOf(bus, 'maxPageBytes'), before)
  await bus.defineFunction('f', { params: ['x'], expr: 'x + 1' })
  await bus.defineFunction('f', { params: ['x'], expr: 'x' })
  t.equal(useOf(bus, 'maxPageBytes'), before, 'counted both ways')
})

t.test('the number of functions', async (t) => {
  const bus = await open(t, { limits: { maxFunctions: 2 } })
  const body = { params: ['x'], expr: 'x' }
  await bus.defineFunction('f', body)
  const both = await Promise.allSettled(['g', 'h'].map((name) => bus.defineFunction(name, body)))
  t.equal(both.filter(({ status }) => status === 'rejected').length, 1, 'two at once are counted too')
  await t.rejects(bus.defineFunction('i', body), {
    code: 'QUOTA_EXCEEDED',
    extra: { limit: '--max-functions', max: 2 },
  })
  await bus.defineFunction('f', { params: ['x'], expr: 'x + 1' })
  await bus.deleteFunction('f')
  await bus.defineFunction('i', body)
  t.equal(useOf(bus, 'maxFunctions'), 2)
})

t.test('a folder that holds more than the limits opens, replays and verifies', async (t) => {
  const dataDir = folder(t)
  const first = await Bus.open({ backend: 'cpu', threads: 1, dataDir })
  await first.createMany(['a', 'b', 'c'].map((name) => ({ name, definition: bytes(K) })))
  await first.defineFunction('f', { params: ['x'], expr: 'x' })
  await first.defineFunction('g', { params: ['x'], expr: 'x' })
  await first.close()
  const limits = { maxPages: 1, maxPageBytes: K, maxFunctions: 1 }
  const bus = await open(t, { dataDir, limits })
  t.equal(bus.pages().pages.length, 3)
  t.match(await bus.verify(), { ok: true })
  await bus.patch('a', { offset: 0, values: [1] })
  await t.rejects(bus.create('d', bytes(1)), { code: 'QUOTA_EXCEEDED' })
  await t.rejects(bus.defineFunction('h', { params: ['x'], expr: 'x' }), { code: 'QUOTA_EXCEEDED' })
  t.match(await bus.migrate(), { pages: [] })
  await bus.delete('b')
  await bus.deleteFunction('g')
})

t.test('more memory alone raises the limit of bytes with it', async (t) => {
  const bus = await open(t, { memoryLimitBytes: 32 * 2 ** 30 })
  t.equal(bus.limits.values.maxPageBytes, 32 * 2 ** 30)
  const both = await open(t, { memoryLimitBytes: 32 * 2 ** 30, limits: { maxPageBytes: 2 ** 20 } })
  t.equal(both.limits.values.maxPageBytes, 2 ** 20)
})
