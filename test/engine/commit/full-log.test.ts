/**
 * Pages and functions that are made, changed and deleted while the log has no room: each is refused, leaves
 * nothing behind, and goes through once there is room. The disk is simulated.
 */
import t from 'tap'
import type { EngineBus } from '../../../src/engine/bus.js'
import { FrameWriter } from '../../../src/state/frame/writer.js'
import { PAGE_ID_UNASSIGNED } from '../../../src/wire/frame.js'
import { turn } from '../../lib/wait.js'
import { openOnSim } from '../../support/sim-bus.js'
import { SimCatalog } from '../../support/sim-world.js'
import { SimDisk } from '../../support/simdisk.js'

async function define(bus: EngineBus): Promise<void> {
  await bus.create('x', { dtype: 'f64', shape: [4], fill: 1 })
  await bus.create('other', { dtype: 'i32', shape: [3] })
  await bus.defineFunction('scale', { params: ['a'], expr: 'a * 2' })
  await bus.defineFunction('unused', { params: ['a'], expr: 'a' })
  await bus.derive('twice', { op: 'map', inputs: { x: 'x' }, expr: 'scale(x)' })
  await bus.derive('step', { op: 'map', inputs: { x: 'x' }, expr: 'x - prev(x)' })
  await bus.derive('sum', { op: 'reduce', inputs: { x: 'twice' }, fn: 'sum' })
  await bus.patch('x', { values: [1, 2, 3, 4] })
}

/** Everything that a caller can see, and what the native side holds. */
function seen(bus: EngineBus): object {
  const { pages, graph } = bus.stats()
  const { poolBytes: _, ...counts } = pages
  const { epoch, digest } = bus.status()
  return {
    epoch,
    digest,
    counts,
    graph,
    lists: bus.graph(),
    infos: bus.pages(),
    functions: bus.functions(),
    memory: new Map(bus.limits.uses()).get('maxPageBytes'),
    values: bus.pageNames().map((name) => [name, [...(bus.read(name) as Float64Array)].map(String)]),
  }
}

/** Writes until the log has no room for one more small record. */
async function fill(bus: EngineBus, disk: SimDisk): Promise<void> {
  disk.roomBytes = 0
  for (const intent of ['x'.repeat(2000), undefined]) {
    const values = { page: 'other', offset: 0, values: [0] }
    const full = (async () => {
      for (;;) await bus.transact({ ops: [values], ...(intent === undefined ? {} : { intent }) })
    })()
    await full.catch((error: unknown) => {
      if ((error as { code?: string }).code !== 'LOG_FULL') throw error
    })
  }
}

function createFrame(): Uint8Array {
  const writer = new FrameWriter({ key: 'frame' })
  const fields = { name: 'framed', dtype: 'f32', shape: [2], kind: 'source', location: 'auto' } as const
  writer.createPage({ id: PAGE_ID_UNASSIGNED, ...fields, fill: 0n, definition: new Uint8Array(0) })
  return writer.finish().slice()
}

/** In an order in which each can be done after those before it. */
const CHANGES: readonly (readonly [what: string, run: (bus: EngineBus) => Promise<unknown>])[] = [
  ['a page is created', (bus) => bus.create('new', { dtype: 'u8', shape: [100], fill: 9 })],
  [
    'a page is derived',
    (bus) => bus.derive('more', { op: 'map', inputs: { s: 'sum' }, expr: 'scale(s) + 1' }),
  ],
  [
    'a page that reads the past',
    (bus) => bus.derive('was', { op: 'map', inputs: { s: 'sum' }, expr: 'prev(s)' }),
  ],
  ['a frame creates a page', (bus) => bus.submit(createFrame())],
  [
    'several pages are created',
    (bus) =>
      bus.createMany([
        { name: 'm1', definition: { dtype: 'f64', shape: [4] } },
        {
          name: 'm2',
          definition: { derive: { op: 'map', inputs: { a: 'm1', b: 'x' }, expr: 'a + prev(b)' } },
        },
      ]),
  ],
  ['a function is defined', (bus) => bus.defineFunction('extra', { params: ['a'], expr: 'a + 5' })],
  [
    'a function that pages use changes',
    (bus) => bus.defineFunction('scale', { params: ['a'], expr: 'a * 3' }),
  ],
  ['a function is deleted', (bus) => bus.deleteFunction('unused')],
  ['a page is written', (bus) => bus.patch('x', { offset: 1, values: [7] }, { key: 'written' })],
  ['a page whose past was read is deleted', (bus) => bus.delete('step')],
  ['a page is deleted', (bus) => bus.delete('other')],
  ['pages are deleted with what derives from them', (bus) => bus.delete('twice', { cascade: true })],
  [
    'a page is deleted and made anew in one epoch',
    (bus) =>
      Promise.all([bus.delete('x', { cascade: true }), bus.create('fresh', { dtype: 'i8', shape: [2] })]),
  ],
]

t.test('each change that the log has no room for is refused and leaves nothing', async (t) => {
  const disk = new SimDisk()
  const catalog = new SimCatalog()
  const bus = await openOnSim(t, { disk, catalog })
  await define(bus)
  await fill(bus, disk)
  const before = seen(bus)
  for (const [what, run] of CHANGES) {
    await t.rejects(run(bus), { code: 'LOG_FULL', status: 507 }, what)
    await turn()
    t.same(seen(bus), before, what)
  }
  const all = await Promise.allSettled(CHANGES.slice(0, 12).map(([, run]) => run(bus)))
  t.same(
    all.filter(({ status }) => status === 'fulfilled'),
    [],
    'all of them together',
  )
  t.same(seen(bus), before)
  await t.rejects(bus.patch('x', { offset: 1, values: [8] }, { key: 'written' }), { code: 'LOG_FULL' })

  disk.roomBytes = Number.POSITIVE_INFINITY
  for (const [what, run] of CHANGES) {
    const { epoch } = bus
    await t.resolves(run(bus), `${what}, once there is room`)
    t.ok(bus.epoch > epoch)
    if (what.startsWith('a page is written')) {
      t.same([...(bus.read('twice') as Float64Array)], [3, 21, 9, 12])
      t.same([...(bus.read('step') as Float64Array)], [0, 5, 0, 0])
      t.same([...(bus.read('was') as Float64Array)], [30])
      t.same([...(bus.read('more') as Float64Array)], [136])
    }
  }
  const after = seen(bus)
  await bus.close()
  const again = await openOnSim(t, { disk: disk.crash('drop'), catalog })
  t.same(seen(again), after, 'and it is all in the log')
})

t.test('a function with many pages, refused: its pages keep their steps', async (t) => {
  const disk = new SimDisk()
  const bus = await openOnSim(t, { disk })
  await define(bus)
  for (let i = 0; i < 20; i++)
    await bus.derive(`d${i}`, { op: 'map', inputs: { x: i === 0 ? 'x' : `d${i - 1}` }, expr: 'scale(x) - x' })
  await fill(bus, disk)
  const before = seen(bus)
  for (let i = 0; i < 3; i++)
    await t.rejects(bus.defineFunction('scale', { params: ['a'], expr: 'a * 5' }), { code: 'LOG_FULL' })
  t.same(seen(bus), before)
  disk.roomBytes = Number.POSITIVE_INFINITY
  await bus.patch('x', { offset: 0, values: [10] })
  t.equal(bus.read('d19')[0], 10, 'computed by the old definition')
  await bus.defineFunction('scale', { params: ['a'], expr: 'a * 3' })
  t.equal(bus.read('d19')[0], 10 * 2 ** 20, 'and by the new one')
})
