/**
 * A read of the past replays only what its pages derive from, and still answers exactly what was live: with
 * pasts of pages, functions, pages deleted and made again, from checkpoints and from the beginning.
 */
import t from 'tap'
import { Timelines } from '../../../../src/engine/history/cones/timelines.js'
import { pastEpochs } from '../../../../src/engine/history/past-changes.js'
import { type Asker, historyPast, peekPast, readPast } from '../../../../src/engine/history/replay-queries.js'
import type { PastEpochs } from '../../../../src/engine/types.js'
import { crc32c } from '../../../../src/ffi/library.js'
import { Bus } from '../../../../src/index.js'
import { HistoryReader } from '../../../../src/store/history.js'
import type { TypedArray } from '../../../../src/wire/dtype.js'
import { Draw } from '../../../lib/draw.js'
import { folder } from '../../../lib/folder.js'

const open = (dataDir: string): Promise<Bus> =>
  Bus.open({ dataDir, backend: 'cpu', threads: 1, fsync: 'off' })

const hexOf = (values: TypedArray): string =>
  Buffer.from(values.buffer, values.byteOffset, values.byteLength).toString('hex')

/** Pages at one epoch: bytes and version. */
type Seen = Map<string, string>

const seen = (bus: Bus): Seen =>
  new Map(bus.pageNames().map((name) => [name, `${hexOf(bus.read(name))} v${bus.peek(name).version}`]))

const map = (expr: string, inputs: Record<string, string>) => ({ op: 'map', expr, inputs }) as const

/** Each makes one epoch. */
const build = (bus: Bus): (() => Promise<unknown>)[] => [
  () => bus.createMany(['a', 'b', 'c'].map((name) => ({ name, definition: { dtype: 'f64', shape: [8] } }))),
  () => bus.defineFunction('f', { params: ['x'], expr: 'x + 1' }),
  () => bus.derive('was', map('x - prev(x)', { x: 'a' })),
  () => bus.derive('sum', map('prev(sum) + x', { sum: 'sum', x: 'b' }), { dtype: 'f64', shape: [8] }),
  () => bus.derive('called', map('f(x) + y', { x: 'c', y: 'was' })),
  () => bus.derive('top', { op: 'reduce', inputs: { x: 'called' }, fn: 'sum' }),
  () => bus.derive('trail', map('prev(x)', { x: 'top' })),
]

/** One commit at random. Pages `t0` to `t2` come and go, as sources and as derived pages. */
async function step(bus: Bus, draw: Draw): Promise<void> {
  const dice = draw.int(0, 15)
  const name = `t${draw.int(0, 2)}`
  if (dice === 0) await bus.defineFunction('f', { params: ['x'], expr: `x * ${draw.int(0, 2)}` })
  else if (dice <= 3 && bus.hasPage(name)) await bus.delete(name, { cascade: true })
  else if (dice === 1) await bus.create(name, { dtype: 'f64', shape: [8], fill: draw.int(0, 2) })
  else if (dice === 2) await bus.derive(name, map('prev(x) + f(y)', { x: draw.pick(['a', 'sum']), y: 'c' }))
  else if (dice === 3) await bus.derive(name, map('prev(x) * 2', { x: draw.pick(['was', 'top', 'trail']) }))
  else {
    const pages = ['a', 'b', 'c', ...['t0', 't1', 't2'].filter((page) => isSource(bus, page))]
    const ops = Array.from({ length: draw.int(1, 2) }, () => {
      const offset = draw.int(0, 7)
      return { page: draw.pick(pages), offset, values: [draw.int(0, 3)], merge: 'add' as const }
    })
    await bus.transact({ ops })
  }
}

const isSource = (bus: Bus, name: string): boolean => bus.hasPage(name) && bus.peek(name).kind === 'source'

async function pastOf(bus: Bus, name: string, epoch: number, caller: string): Promise<string | undefined> {
  try {
    const { values, version } = await bus.data(name, { epoch, caller })
    return `${hexOf(values)} v${version}`
  } catch (error) {
    if ((error as { code: string }).code === 'PAGE_NOT_FOUND') return undefined
    throw error
  }
}

for (const seed of [1, 2, 4]) {
  t.test(`every page alone, at every distance: seed ${seed}`, async (t) => {
    const bus = await open(folder(t))
    t.teardown(() => bus.close())
    const draw = new Draw(seed)
    const all = [new Map()] as Seen[]
    const run = async (work: Promise<unknown>): Promise<void> => {
      await work
      all[bus.epoch] = seen(bus)
    }
    for (const part of build(bus)) await run(part())
    while (bus.epoch < 130) {
      if (bus.epoch === 70 && seed % 2 === 0) await bus.checkpoint()
      await run(step(bus, draw))
    }
    const names = ['a', 'b', 'c', 'was', 'sum', 'called', 'top', 'trail', 't0', 't1', 't2']
    const wrong: string[] = []
    let epoch = all.length - 1
    for (let i = 0; i < 160; i++) {
      if (draw.chance(0.2)) epoch = draw.int(0, all.length - 1)
      else epoch = Math.min(all.length - 1, Math.max(0, epoch + draw.int(-3, 3)))
      const name = draw.pick(names)
      const got = await pastOf(bus, name, epoch, draw.pick(['ann', 'bob', 'cy']))
      if (got !== all[epoch]?.get(name)) wrong.push(`${name} at ${epoch}`)
    }
    t.same(wrong, [])
    for (const name of names) t.same(await versionsOf(bus, name), versionsIn(all, name), `history of ${name}`)
    t.same(await changesOf(bus, ['t*', 'sum']), await changesOf(bus, ['*'], /^(t|sum)/))
  })
}

async function versionsOf(bus: Bus, name: string): Promise<number[]> {
  const { versions } = await bus
    .history(name, { from: 1, limit: 1000 })
    .catch(() => ({ versions: [] as { epoch: number }[] }))
  return versions.map(({ epoch }) => epoch)
}

/** The epochs in which the page appears, changes or goes. */
function versionsIn(all: readonly Seen[], name: string): number[] {
  const epochs: number[] = []
  for (let epoch = 1; epoch < all.length; epoch++)
    if (all[epoch]?.get(name) !== all[epoch - 1]?.get(name)) epochs.push(epoch)
  return epochs
}

/** What subscribers of these pages get from epoch 1 on, as text; only names that match. */
async function changesOf(bus: Bus, pages: readonly string[], only = /./): Promise<string[]> {
  const lines: string[] = []
  for (let after = 0; after < bus.epoch; ) {
    const query = { after, to: bus.epoch, pages, values: true }
    const found: PastEpochs = await bus.pastChanges(query)
    for (const { epoch, changes } of found.epochs)
      for (const { page, kind, ranges, values } of changes)
        if (only.test(page)) lines.push(`${epoch} ${page} ${kind} ${[...ranges]} ${hexOf(values)}`)
    after = found.through
  }
  return lines
}

t.test('what the pages do not derive from is not computed', async (t) => {
  const dir = folder(t)
  const bus = await open(dir)
  await bus.create('x', { dtype: 'f64', shape: [4, 4], fill: 1 })
  await bus.create('small', { dtype: 'f64', shape: [4] })
  await bus.derive('double', map('x * 2', { x: 'small' }))
  for (let i = 0; i < 4; i++)
    await bus.derive(`heavy${i}`, { op: 'matmul', inputs: { a: i === 0 ? 'x' : `heavy${i - 1}`, b: 'x' } })
  for (let i = 0; i < 30; i++) {
    await bus.patch('x', { offset: i % 16, values: [i] })
    await bus.patch('small', { offset: 0, values: [i] })
  }
  const epoch = bus.epoch - 2
  await bus.close()

  const reader = new HistoryReader({ dir, crc32c, isOffline: true })
  t.teardown(() => reader.close())
  const asks: Record<string, (asker: Asker) => unknown> = {
    read: (asker) => readPast(asker, epoch, [{ name: 'double' }]),
    peek: (asker) => peekPast(asker, epoch, 'double'),
    history: (asker) => historyPast(asker, 'double', { from: epoch - 9, to: epoch, limit: 100 }),
    changes: (asker) => pastEpochs(asker, { after: epoch - 9, to: epoch, pages: ['double'], values: true }),
  }
  const answers: Record<string, unknown> = {
    read: [{ name: 'double', version: epoch, values: [56] }],
    peek: { name: 'double', version: epoch },
    history: { versions: { length: 5 } },
    changes: { epochs: { length: 5 }, through: epoch },
  }
  for (const [kind, ask] of Object.entries(asks)) {
    const timelines = new Timelines({ reader, onPause: () => {} })
    t.match(ask({ timelines, caller: 1 }), answers[kind], kind)
    // The state that has answered is at hand: it holds what the page derives from, and nothing else.
    const {
      registry,
      graph,
      epoch: at,
    } = timelines.get({
      caller: 1,
      wanted: { names: ['double'] },
      from: epoch,
      to: epoch,
    })
    t.equal(at, epoch, kind)
    t.same([...registry.all()].map(({ name }) => name).sort(), ['double', 'small'], kind)
    t.equal(graph.nodeCount, 2, kind)
    timelines.trim(true)
  }
  const timelines = new Timelines({ reader, onPause: () => {} })
  readPast({ timelines, caller: 1 }, epoch, [{ name: 'heavy1' }])
  const { registry } = timelines.get({ caller: 1, wanted: { names: ['heavy1'] }, from: epoch, to: epoch })
  t.same([...registry.all()].map(({ name }) => name).sort(), ['heavy0', 'heavy1', 'x'])
})
