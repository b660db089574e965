/**
 * A transaction of many pages is staged in slices. Between them the bus shows nothing of it, takes writes,
 * can be closed, and can stop.
 */
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { EngineBus } from '../../../src/engine/bus.js'
import { type Host, REAL_HOST } from '../../../src/engine/host.js'
import { MmsbError } from '../../../src/errors.js'
import { STAGED_AT_ONCE_MAX } from '../../../src/limits.js'

t.setTimeout(240_000)

const COUNT = 2 * STAGED_AT_ONCE_MAX
const DERIVED = Array.from({ length: COUNT }, (_, i) => ({
  name: `d${i}`,
  definition: { derive: { op: 'map' as const, inputs: { x: 's' }, expr: `scale(x) + ${i}` } },
}))

/** Every look at the clock ends a slice. */
function hastyHost(): Host {
  let ms = 0
  return {
    ...REAL_HOST,
    ticksMs: () => {
      ms += 1000
      return ms
    },
  }
}

async function open(t: Test, dataDir?: string): Promise<EngineBus> {
  const folder = dataDir === undefined ? {} : { dataDir, fsync: 'off' as const }
  const bus = await EngineBus.open({ backend: 'cpu', ...folder }, hastyHost())
  t.teardown(() => bus.close())
  await bus.create('s', { dtype: 'f32', shape: [4], fill: 1 })
  await bus.defineFunction('scale', { params: ['x'], expr: 'x * 2' })
  return bus
}

const seen = (bus: EngineBus): object => {
  const { pages, graph } = bus.stats()
  const { epoch, digest } = bus.status()
  const { dependents, version } = bus.page('s')
  return { epoch, digest, pages, graph, dependents, version, names: bus.pageNames(), s: [...bus.read('s')] }
}

/** Bytes of pages as far as they are allocated, those that are being staged included. */
const allocated = (bus: EngineBus): number => new Map(bus.limits.uses()).get('maxPageBytes') as number

/** Resolves while the pages of the newest transaction are being made. */
async function halfStaged(bus: EngineBus): Promise<void> {
  const before = allocated(bus)
  while (allocated(bus) === before) await turn()
}

const codeOf = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => 'done',
    (error: unknown) => (error instanceof MmsbError ? error.code : error),
  )

for (const place of ['in memory', 'on disk']) {
  const folderOf = (t: Test): string | undefined => (place === 'on disk' ? t.testdir() : undefined)

  t.test(`what is staged does not show, ${place}`, async (t) => {
    const bus = await open(t, folderOf(t))
    const before = seen(bus)
    const { epoch } = bus
    const created = bus.createMany(DERIVED)
    await halfStaged(bus)
    let looks = 0
    for (; bus.epoch === epoch; looks++) {
      t.same(seen(bus), before)
      await turn()
    }
    t.ok(looks >= 6, `looked ${looks} times`)
    const { pages } = await created
    t.equal(pages.length, COUNT)
    t.same(
      pages,
      bus.pages({ prefix: 'd', limit: COUNT }).pages.sort((a, b) => a.id - b.id),
    )
    t.same([...bus.read('d7')], [9, 9, 9, 9])
    t.equal(bus.stats().pages.derived, COUNT)
  })

  t.test(`writes wait, in their order, ${place}`, async (t) => {
    const bus = await open(t, folderOf(t))
    const created = bus.createMany(DERIVED)
    await halfStaged(bus)
    const write = bus.patch('s', { offset: 0, values: [5] })
    const clash = codeOf(bus.create('d1', { dtype: 'u8', shape: [1] }))
    const dry = bus.whatIf({ ops: [{ page: 's', offset: 0, values: [6] }], read: ['s'] })
    const { epoch } = await created
    t.equal((await write).epoch, epoch + 1)
    t.equal(await clash, 'PAGE_EXISTS')
    t.ok((await dry).epoch > epoch)
    t.same([...bus.read('d1')], [11, 3, 3, 3])
    const redefined = bus.defineFunction('scale', { params: ['x'], expr: 'x * 3' })
    const after = bus.patch('s', { offset: 1, values: [4] })
    t.ok((await redefined).epoch > epoch)
    await after
    t.same([...bus.read('d1')], [16, 13, 4, 4])
    const { epoch: deleted } = await bus.delete('s', { cascade: true })
    t.equal(deleted, bus.epoch)
    t.same(bus.pageNames(), [])
  })

  t.test(`a refusal half way leaves nothing, ${place}`, async (t) => {
    const bus = await open(t, folderOf(t))
    const last = DERIVED.at(-1)!.name
    const list = [...DERIVED.slice(0, -1), { name: 'clash', definition: { dtype: 'u8', shape: [1] } }]
    const created = codeOf(bus.createMany([...list, ...DERIVED.slice(-1)] as typeof DERIVED))
    // Queued first: it has less to compile.
    await bus.create(last, { dtype: 'u8', shape: [3] })
    const before = seen(bus)
    t.equal(await created, 'PAGE_EXISTS')
    t.same(seen(bus), before)
    await bus.delete(last)
    t.equal((await bus.createMany(DERIVED)).pages.length, COUNT)
  })

  t.test(`close finishes it, ${place}`, async (t) => {
    const dataDir = folderOf(t)
    const bus = await open(t, dataDir)
    const created = bus.createMany(DERIVED)
    await halfStaged(bus)
    const closed = bus.close()
    t.equal((await created).pages.length, COUNT)
    await closed
    if (dataDir === undefined) return
    const again = await EngineBus.open({ backend: 'cpu', dataDir, fsync: 'off' })
    t.teardown(() => again.close())
    t.equal(again.stats().pages.derived, COUNT)
  })

  t.test(`a stop takes it back, ${place}`, async (t) => {
    const dataDir = folderOf(t)
    const bus = await open(t, dataDir)
    const { epoch, digest } = bus.status()
    const created = codeOf(bus.createMany(DERIVED))
    await halfStaged(bus)
    const write = codeOf(bus.patch('s', { offset: 0, values: [5] }))
    const closed = bus.close({ graceMs: 0 })
    t.equal(await created, 'BUS_FAILED')
    t.equal(await write, 'BUS_FAILED')
    await closed
    if (dataDir === undefined) return
    const again = await EngineBus.open({ backend: 'cpu', dataDir, fsync: 'off' })
    t.teardown(() => again.close())
    t.match(again.status(), { epoch, digest })
  })
}

t.test('definitions that are still compiled when the bus closes are refused', async (t) => {
  const bus = await open(t)
  const created = codeOf(bus.createMany(DERIVED))
  await turn()
  await bus.close()
  t.equal(await created, 'BUS_FAILED')
})

t.test('a folder that is gone stops a bus that stages', async (t) => {
  const dataDir = join(t.testdir(), 'data')
  const bus = await open(t, dataDir)
  const created = codeOf(bus.createMany(DERIVED))
  await halfStaged(bus)
  rmSync(dataDir, { recursive: true })
  const code = await created
  t.ok(code === 'done' || code === 'BUS_FAILED', String(code))
  await bus.close()
})
