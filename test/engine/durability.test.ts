/** The bus on a data folder: what a reopened bus holds, checkpoints, and the order of log and events. */
import t from 'tap'
import { EngineBus } from '../../src/engine/bus.js'
import { REAL_HOST } from '../../src/engine/host.js'
import type { TransactionInput } from '../../src/engine/types.js'
import { Bus } from '../../src/index.js'
import { type Disk, realDisk } from '../../src/store/os/disk.js'
import { Draw } from '../lib/draw.js'
import { folder } from '../lib/folder.js'
import { turn, until } from '../lib/wait.js'
import { Scheduler, SIM_DIR, SimCatalog, simWorld } from '../support/sim-world.js'
import { SimDisk } from '../support/simdisk.js'

const open = (dataDir: string, threads = 1): Promise<Bus> => Bus.open({ dataDir, backend: 'cpu', threads })

async function define(bus: Bus): Promise<void> {
  await bus.create('x', { dtype: 'f32', shape: [64, 33], fill: 0.5 })
  await bus.create('w', { dtype: 'f32', shape: [33, 5] })
  await bus.derive('y', { op: 'matmul', inputs: { a: 'x', b: 'w' } })
  await bus.derive('m', { op: 'reduce', inputs: { x: 'y' }, fn: 'mean', axes: [0] })
  await bus.derive('e', { op: 'map', inputs: { m: 'm', y: 'y' }, expr: 'exp(y) / (1 + abs(m))' })
}

async function fill(bus: Bus): Promise<void> {
  await define(bus)
  for (let i = 0; i < 50; i++) await bus.transact(step(i))
}

const step = (i: number): TransactionInput => ({
  ops: [
    { page: 'x', offset: i * 33, values: Array.from({ length: 33 }, (_, k) => Math.fround(k / (i + 1))) },
    { page: 'w', indices: [i, i + 7, i], values: [i, 2, 3], merge: 'add' },
  ],
  source: 'test',
  intent: { step: i },
  key: `step-${i}`,
})

t.test('a reopened bus has the same epoch, digest, values, versions and answers', async (t) => {
  const dir = folder(t)
  const first = await open(dir)
  await fill(first)
  await first.create('doomed', { dtype: 'u8', shape: [3] })
  await first.delete('doomed')
  // Without a key: recovery takes another way.
  await first.patch('w', { values: [7] })
  const before = { status: first.status(), pages: first.pages(), graph: first.graph(), y: first.read('y') }
  await first.close()

  for (const threads of [1, 3]) {
    const again = await open(dir, threads)
    t.match(again.status(), { epoch: before.status.epoch, digest: before.status.digest })
    t.same(again.pages(), before.pages)
    t.same(again.graph(), before.graph)
    t.same(again.read('y'), before.y)
    t.same(await again.transact(step(3)), {
      epoch: 9,
      pages: { x: 9, w: 9 },
    })
    t.equal(again.status().epoch, before.status.epoch, 'a remembered key writes nothing')
    await again.close()
  }
})

t.test('the digest of a recovered state is that of a full recompute', async (t) => {
  const dir = folder(t)
  const first = await open(dir)
  await fill(first)
  await first.checkpoint()
  await first.transact({ ...step(7), key: 'after the checkpoint' })
  await first.patch('x', { offset: 70, values: [9] })
  await first.close()

  const again = await open(dir)
  const fresh = await Bus.open({ backend: 'cpu', threads: 1 })
  t.teardown(() => Promise.all([again.close(), fresh.close()]))
  await define(fresh)
  for (const name of ['x', 'w']) await fresh.write(name, again.read(name))
  t.equal(again.status().digest, fresh.status().digest, 'as recovered')
  await again.patch('w', { offset: 3, values: [5] })
  await fresh.patch('w', { offset: 3, values: [5] })
  t.equal(again.status().digest, fresh.status().digest, 'and after a write')
})

t.test('page ids are not used again after a restart', async (t) => {
  const dir = folder(t)
  const first = await open(dir)
  await first.create('a', { dtype: 'u8', shape: [1] })
  const { page } = await first.create('b', { dtype: 'u8', shape: [1] })
  await first.delete('b')
  await first.close()
  const again = await open(dir)
  t.ok((await again.create('c', { dtype: 'u8', shape: [1] })).page.id > page.id)
  await again.close()
})

t.test('a checkpoint shortens recovery and changes nothing else', async (t) => {
  const dir = folder(t)
  const first = await open(dir)
  await fill(first)
  const { epoch, pages, bytes } = await first.checkpoint()
  t.same([epoch, pages], [55, 5])
  t.equal(bytes, first.stats().pages.bytes)
  await first.patch('x', { offset: 3, values: [9] })
  const before = { status: first.status(), pages: first.pages() }
  await first.close()
  const notices: string[] = []
  const again = await Bus.open({
    dataDir: dir,
    backend: 'cpu',
    onNotice: ({ message }) => notices.push(message),
  })
  t.match(again.status(), { epoch: before.status.epoch, digest: before.status.digest })
  t.same(again.pages(), before.pages)
  t.match(notices.join('\n'), /1 epochs replayed/)
  await again.patch('x', { offset: 4, values: [9] })
  t.same(
    again.executionLog().steps.map((step) => step.page),
    ['y', 'm', 'e'],
    'the loaded graph propagates',
  )
  await again.close()
})

t.test('writes during a checkpoint wait and are kept', async (t) => {
  const dir = folder(t)
  const bus = await open(dir)
  await bus.create('n', { dtype: 'u32', shape: [100_000] })
  const writes = Array.from({ length: 20 }, () => bus.patch('n', { values: [1], merge: 'add' }))
  const checkpoint = bus.checkpoint()
  const late = Array.from({ length: 20 }, () => bus.patch('n', { values: [1], merge: 'add' }))
  await Promise.all([...writes, checkpoint, ...late])
  await bus.close()
  const again = await open(dir)
  t.equal(again.read('n')[0], 40)
  await again.close()
})

t.test('a synchronous read sees only durable epochs, and the log stays in order', async (t) => {
  const dir = folder(t)
  const bus = await open(dir)
  await bus.create('n', { dtype: 'u32', shape: [1] })
  const { id } = bus.page('n')
  const published = new Map<number, number>([[bus.epoch, 0]])
  bus.onCommit(({ epoch }) => published.set(epoch, bus.gather(id, Uint32Array.of(0, 1))[0] as number))
  const wrong: unknown[] = []
  for (let i = 0; i < 200; i++) {
    const write = bus.patch('n', { values: [1], merge: 'add' })
    await turn()
    const seen = bus.read('n')[0] as number
    if (seen !== published.get(bus.epoch))
      wrong.push({ epoch: bus.epoch, seen, published: published.get(bus.epoch) })
    if (i % 3 === 0) await write
  }
  t.same(wrong, [])
  t.ok(published.size > 66)
  await bus.close()
  const again = await open(dir)
  t.equal(again.read('n')[0], 200)
  await again.close()
})

t.test('what a synchronous read shows survives a power cut in the same turn', async (t) => {
  const draw = new Draw(1)
  const scheduler = new Scheduler(draw)
  const options = { dataDir: SIM_DIR, backend: 'cpu', threads: 1 } as const
  const openOn = (disk: SimDisk, catalog: SimCatalog): Promise<EngineBus> =>
    scheduler.until(EngineBus.open(options, simWorld(disk, catalog, scheduler, draw)))
  let asked = 0
  const schedule = (run: () => void): void => {
    asked++
    scheduler.add(run)
  }
  const disk = new SimDisk({ schedule })
  const catalog = new SimCatalog()
  const bus = await openOn(disk, catalog)
  await scheduler.until(bus.create('n', { dtype: 'u32', shape: [1] }))
  let early = 0
  for (let value = 1; value <= 12; value++) {
    let isAnswered = false
    const write = bus.patch('n', { values: [value] }).then(() => {
      isAnswered = true
    })
    // The append is begun, and the disk has not done it.
    for (const before = asked; asked === before; ) await scheduler.step()
    const [shown] = bus.read('n')
    if (shown === value && !isAnswered) early++
    const after = await openOn(disk.crash('drop'), catalog.copy())
    t.same([...after.read('n')], [shown])
    await scheduler.until(after.close())
    await scheduler.until(write)
  }
  t.ok(early > 0, 'reads came before the disk answered')
  await scheduler.until(bus.close())
})

t.test('an epoch is told ahead while the disk writes it, with the event that follows', async (t) => {
  const bus = await open(folder(t))
  await bus.create('n', { dtype: 'u32', shape: [2] })
  await bus.derive('m', { op: 'map', inputs: { n: 'n' }, expr: 'n + 1' })
  const { id } = bus.page('m')
  const told: unknown[] = []
  const end = bus.onCommit(
    (event) => told.push(['commit', event, bus.epoch]),
    (event) => told.push(['ahead', event, bus.epoch, bus.gather(id, Uint32Array.of(0, 2))]),
  )
  await bus.patch('n', { offset: 1, values: [7] })
  const [ahead, commit] = told as [unknown[], unknown[]]
  t.same(ahead.slice(2), [2, Uint32Array.of(1, 8)], 'executed, not yet an epoch')
  t.equal(commit[1], ahead[1])
  t.match(commit, ['commit', { epoch: 3 }, 3])
  end()
  await bus.patch('n', { values: [1] })
  t.equal(told.length, 2)
  await bus.close()
})

t.test('a second bus on the same folder is refused', async (t) => {
  const dir = folder(t)
  const bus = await open(dir)
  await t.rejects(open(dir))
  await bus.create('x', { dtype: 'u8', shape: [1] })
  await bus.close()
})

t.test('much that comes in one turn is written in parts, so that the rest gathers meanwhile', async (t) => {
  const dir = folder(t)
  const bus = await open(dir)
  await bus.create('p', { dtype: 'f32', shape: [2 ** 18] })
  const writes = Array.from({ length: 12 }, (_, i) => bus.write('p', new Float32Array(2 ** 18).fill(i)))
  const epochs = (await Promise.all(writes)).map(({ epoch }) => epoch)
  t.same(epochs, [...Array(8).fill(2), ...Array(4).fill(3)])
  const { digest } = bus.status()
  t.equal(bus.read('p')[2 ** 18 - 1], 11)
  await bus.close()
  const again = await open(dir)
  t.match(again.status(), { epoch: 3, digest })
  await again.close()
})

t.test('a sync that fails while no write waits for it stops the bus', async (t) => {
  const real = realDisk()
  let isBroken = false
  let syncs = 0
  const sync: Disk['sync'] = (fd, done) => {
    if (!isBroken) return real.sync(fd, done)
    syncs++
    done(Object.assign(new Error('EIO: i/o error'), { code: 'EIO' }))
  }
  const options = { dataDir: folder(t), backend: 'cpu', threads: 1, fsync: 'interval' } as const
  const bus = await EngineBus.open(options, { ...REAL_HOST, store: { disk: { ...real, sync } } })
  t.teardown(() => bus.close())
  await bus.create('n', { dtype: 'u32', shape: [1] })
  const told: string[] = []
  bus.onFailure((reason) => told.push(reason))
  isBroken = true
  await bus.patch('n', { values: [1] })
  await until(() => syncs > 0, 'a sync')
  for (let i = 0; i < 5; i++) await turn()
  t.match(bus.failure, /EIO/)
  t.same(told, [bus.failure])
  await t.rejects(async () => bus.patch('n', { values: [2] }), { code: 'BUS_FAILED' })
  t.equal(syncs, 1, 'it is not tried again')
})
