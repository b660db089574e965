/**
 * The past equals what was live then: every page of every epoch of random histories with pages made and
 * ended, read forwards, backwards and at random, while writes go on.
 */
import t from 'tap'
import type { PageData } from '../../../src/engine/types.js'
import { MmsbError } from '../../../src/errors.js'
import { Bus } from '../../../src/index.js'
import type { TypedArray } from '../../../src/wire/dtype.js'
import { Draw, type PageSketch } from '../../lib/draw.js'
import { folder } from '../../lib/folder.js'
import { drawDelta, drawDerivation } from '../../property/random.js'

const open = (dataDir: string): Promise<Bus> =>
  Bus.open({ dataDir, backend: 'cpu', threads: 1, fsync: 'off' })

const bytesOf = (values: TypedArray): string =>
  Buffer.from(values.buffer, values.byteOffset, values.byteLength).toString('hex')

/** What every page was at every epoch. */
type Memory = Map<number, Map<string, { bytes: string; version: number }>>

class History {
  readonly memory: Memory = new Map([[0, new Map()]])
  readonly digests = new Map<number, string>()
  readonly #draw: Draw
  #pages: PageSketch[] = []
  #made = 0

  constructor(
    readonly bus: Bus,
    seed: number,
  ) {
    this.#draw = new Draw(seed)
  }

  async step(): Promise<void> {
    const draw = this.#draw
    const kind = draw.int(0, 19)
    if (this.#pages.length < 2 || kind === 0) await this.#create()
    else if (kind <= 3) await this.#derive()
    else if (kind === 4) await this.#delete()
    else await this.#write()
    this.#remember()
  }

  async #create(): Promise<void> {
    const draw = this.#draw
    // Names come back, with other definitions.
    const name = draw.chance(0.5) ? `p${draw.int(0, 4)}` : `n${this.#made++}`
    const definition = {
      dtype: draw.pick(['f32', 'f64', 'i32', 'u8', 'i64'] as const),
      shape: [draw.int(1, 40)],
    }
    await this.#try(async () => {
      const { created } = await this.bus.create(name, { ...definition, fill: draw.int(0, 3) })
      if (created) this.#pages.push({ name, ...definition })
    })
  }

  async #derive(): Promise<void> {
    const derive = drawDerivation(this.#draw, this.#pages)
    if (derive === undefined) return
    await this.#try(async () => {
      const { page } = await this.bus.derive(`d${this.#made++}`, derive)
      this.#pages.push({ name: page.name, dtype: page.dtype, shape: page.shape, derive })
    })
  }

  async #delete(): Promise<void> {
    await this.bus.delete(this.#draw.pick(this.#pages).name, { cascade: true })
    this.#pages = this.#pages.filter(({ name }) => this.bus.hasPage(name))
  }

  async #write(): Promise<void> {
    const draw = this.#draw
    const sources = this.#pages.filter((page) => page.derive === undefined)
    if (sources.length === 0) return
    const ops = Array.from({ length: draw.int(1, 3) }, () => {
      const page = draw.pick(sources)
      return { page: page.name, ...drawDelta(draw, page) }
    })
    await this.bus.transact({ ops, source: draw.pick(['ann', 'bob']), intent: { n: draw.int(0, 9) } })
  }

  async #try(work: () => Promise<void>): Promise<void> {
    try {
      await work()
    } catch (error) {
      if (!(error instanceof MmsbError)) throw error
    }
  }

  #remember(): void {
    const pages = new Map<string, { bytes: string; version: number }>()
    for (const name of this.bus.pageNames()) {
      pages.set(name, { bytes: bytesOf(this.bus.read(name)), version: this.bus.peek(name).version })
    }
    this.memory.set(this.bus.epoch, pages)
    this.digests.set(this.bus.epoch, this.bus.status().digest)
  }

  /** What is wrong with the past at an epoch. */
  async problemsAt(epoch: number): Promise<string[]> {
    const expected = this.memory.get(epoch) as Map<string, { bytes: string; version: number }>
    const { epoch: answered, pages } = await this.bus.readMany([...expected.keys()], { epoch })
    const problems: string[] = answered === epoch ? [] : [`epoch ${epoch} was answered as ${answered}`]
    for (const [name, { bytes, version }] of expected) {
      const page = pages[name] as PageData
      if (bytesOf(page.values) !== bytes) problems.push(`epoch ${epoch}, page ${name}: other bytes`)
      if (page.version !== version)
        problems.push(`epoch ${epoch}, page ${name}: version ${page.version}, not ${version}`)
    }
    return problems
  }
}

for (const seed of [1, 2, 3]) {
  t.test(`forwards, backwards and at random, with writes meanwhile: seed ${seed}`, async (t) => {
    const bus = await open(folder(t))
    const history = new History(bus, seed)
    for (let i = 0; i < 120; i++) await history.step()
    if (seed !== 1) await bus.checkpoint()
    for (let i = 0; i < 60; i++) await history.step()
    const epochs = [...history.memory.keys()].sort((a, b) => a - b)
    const problems: string[] = []
    const look = async (epoch: number): Promise<void> => {
      problems.push(...(await history.problemsAt(epoch)))
    }
    for (const epoch of epochs) await look(epoch)
    t.same(problems, [], 'forwards')
    for (const epoch of epochs.toReversed()) await look(epoch)
    t.same(problems, [], 'backwards')
    const draw = new Draw(seed + 100)
    for (let i = 0; i < 60; i++) {
      if (i % 3 === 0) await history.step()
      await look(draw.pick([...history.memory.keys()]))
    }
    t.same(problems, [], 'at random, with writes meanwhile')
    t.match(await bus.verify(), { ok: true, from: 0, to: bus.epoch, divergence: null, problems: [] })
    await bus.close()
  })
}

t.test('epochs, histories and differences tell what happened', async (t) => {
  const bus = await open(folder(t))
  const history = new History(bus, 7)
  const wrong: string[] = []
  for (let i = 0; i < 80; i++) await history.step()
  const { epochs, next } = await bus.epochs({ limit: 1000 })
  t.equal(next, null)
  t.same(
    epochs.map(({ epoch }) => epoch),
    Array.from({ length: bus.epoch }, (_, i) => i + 1),
  )
  for (const info of epochs) {
    const before = history.memory.get(info.epoch - 1)
    const after = history.memory.get(info.epoch)
    if (before === undefined || after === undefined) continue
    if (info.digest !== history.digests.get(info.epoch)) wrong.push(`digest of ${info.epoch}`)
    const changed = new Set<string>()
    for (const [name, page] of after) if (page.version === info.epoch) changed.add(name)
    for (const name of before.keys()) if (!after.has(name)) changed.add(name)
    if ([...changed].sort().join() !== info.changed.join()) {
      wrong.push(`epoch ${info.epoch}: ${info.changed.join()} instead of ${[...changed].sort().join()}`)
    }
    if (JSON.stringify(await bus.epochInfo(info.epoch)) !== JSON.stringify(info))
      wrong.push(`info of ${info.epoch}`)
  }
  t.same(wrong, [])
  for (const name of bus.pageNames()) {
    const { versions } = await bus.history(name, { from: 1 })
    const expected = epochs.filter(({ changed }) => changed.includes(name)).map(({ epoch }) => epoch)
    t.same(
      versions.map(({ epoch }) => epoch),
      expected,
      `history of ${name}`,
    )
  }
  const byAnn = await bus.epochs({ source: 'ann', limit: 1000 })
  t.same(
    byAnn.epochs,
    epochs.filter(({ transactions }) => transactions.some(({ source }) => source === 'ann')),
  )
  const first = await bus.epochs({ limit: 5 })
  t.equal(first.next, 6)
  t.same((await bus.epochs({ from: 6, to: 8 })).epochs, epochs.slice(5, 8))
  await bus.close()
})

t.test('a difference is exact: what changed and changed back is not in it', async (t) => {
  const bus = await open(folder(t))
  await bus.create('a', { dtype: 'i32', shape: [10] })
  await bus.derive('b', { op: 'map', inputs: { a: 'a' }, expr: 'a*2' })
  await bus.patch('a', { offset: 2, values: [5, 6] })
  const from = bus.epoch
  await bus.patch('a', { offset: 0, values: [1, 2, 3, 4] })
  await bus.patch('a', { offset: 2, values: [5] })
  await bus.create('c', { dtype: 'u8', shape: [3] })
  const ranges = [
    [0, 2],
    [3, 1],
  ]
  t.same(await bus.diff({ from }), {
    from,
    to: bus.epoch,
    pages: { a: { ranges }, b: { ranges }, c: { ranges: [[0, 3]], created: true } },
  })
  const to = bus.epoch
  await bus.delete('b')
  t.same((await bus.diff({ from: to })).pages, { b: { ranges: [], deleted: true } })
  t.same((await bus.diff({ from, to, pages: ['b'] })).pages, { b: { ranges } })
  t.same((await bus.diff({ from: to, to })).pages, {})
  await t.rejects(bus.diff({ from, pages: ['nobody'] }), { code: 'PAGE_NOT_FOUND' })
  await t.rejects(bus.diff({ from: 3, to: 2 }), { code: 'INVALID_REQUEST' })
  const [write] = (await bus.epochInfo(from)).transactions
  t.same(write, {
    source: null,
    intent: null,
    ops: [{ page: 'a', offset: 2, values: [5, 6], merge: 'set' }],
  })
  t.match((await bus.epochInfo(2)).transactions[0]?.ops, [
    { op: 'create', page: 'b', derive: { op: 'map', inputs: { a: 'a' } } },
  ])
  await bus.close()
})

t.test('what cannot be had is refused by name', async (t) => {
  const bus = await open(folder(t))
  await bus.create('a', { dtype: 'u8', shape: [2] })
  await bus.patch('a', { values: [1] })
  t.same(await bus.read('a', { epoch: 1 }), Uint8Array.of(0, 0))
  t.same(await bus.readAt('a', 2, { count: 1 }), Uint8Array.of(1))
  t.equal((await bus.peekAt('a', 1)).version, 1)
  t.equal(bus.minEpoch, 0)
  await t.rejects(bus.readAt('a', 0), { code: 'PAGE_NOT_FOUND' })
  await t.rejects(bus.readAt('a', 3), { code: 'EPOCH_NOT_FOUND' })
  await t.rejects(bus.readAt('a', -1), { code: 'INVALID_REQUEST' })
  await t.rejects(bus.readAt('a', 1, { offset: 2, count: 1 }), { code: 'RANGE_NOT_SATISFIABLE' })
  await t.rejects(bus.epochInfo(0), { code: 'EPOCH_NOT_FOUND' })
  await t.rejects(bus.epochInfo(9), { code: 'EPOCH_NOT_FOUND' })
  t.same(await bus.epochs({ from: 3 }), { epochs: [], next: null }, 'who has read all goes on after it')
  await t.rejects(bus.epochs({ from: 4 }), { code: 'EPOCH_NOT_FOUND' })
  await t.rejects(bus.history('z'), { code: 'PAGE_NOT_FOUND' })
  await t.rejects(bus.epochs({ limit: 0 }), { code: 'INVALID_REQUEST' })
  const gone = AbortSignal.abort()
  await t.rejects(bus.readAt('a', 1).then(() => bus.data('a', { epoch: 1, signal: gone })))
  t.same(await bus.readAt('a', 1), Uint8Array.of(0, 0), 'the next question is answered')
  const late = bus.readAt('a', 1)
  await Promise.all([late.catch(() => {}), bus.close()])
  await t.rejects(bus.readAt('a', 1), { code: 'BUS_FAILED' })

  const memory = await Bus.open({ backend: 'cpu' })
  await memory.create('a', { dtype: 'u8', shape: [2] })
  await memory.patch('a', { values: [1] })
  t.equal(memory.minEpoch, 2)
  await t.rejects(memory.readAt('a', 1), { code: 'EPOCH_COMPACTED', extra: { minEpoch: 2 } })
  t.same(await memory.readAt('a', 2), Uint8Array.of(1, 0))
  await memory.close()
})
