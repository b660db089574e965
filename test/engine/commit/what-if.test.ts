/**
 * What-if: the answer is what a commit would give, and afterwards nothing at all has changed: no
 * byte, digest, version, execution log or kept partial, whatever the graph. Concurrent what-ifs do
 * not see each other.
 */
import { getEventListeners } from 'node:events'
import t from 'tap'
import { readingDuringDryRun } from '../../../src/engine/commit/what-if.js'
import type { EngineState } from '../../../src/engine/pages/engine-state.js'
import type { PageRecord } from '../../../src/engine/pages/registry.js'
import { MmsbError } from '../../../src/errors.js'
import { Bus } from '../../../src/index.js'
import { READ_SLICE_BYTES } from '../../../src/limits.js'
import type { TypedArray } from '../../../src/wire/dtype.js'
import { bytesOf } from '../../lib/bytes.js'
import { Draw, type PageSketch } from '../../lib/draw.js'
import { turn, turns } from '../../lib/wait.js'
import { drawDelta, drawDerivation, drawSources } from '../../property/random.js'

const open = (threads = 1): Promise<Bus> => Bus.open({ backend: 'cpu', threads })

async function randomBus(draw: Draw): Promise<{ bus: Bus; pages: PageSketch[]; sources: PageSketch[] }> {
  const bus = await open(draw.int(1, 3))
  const pages = drawSources(draw, draw.int(1, 4))
  const sources = [...pages]
  for (const { name, dtype, shape } of sources) await bus.create(name, { dtype, shape })
  for (let i = 0; i < 12; i++) {
    const derive = drawDerivation(draw, pages)
    if (derive === undefined) continue
    try {
      const { page } = await bus.derive(`d${i}`, derive)
      pages.push({ name: page.name, dtype: page.dtype, shape: page.shape, derive })
    } catch (error) {
      if (!(error instanceof MmsbError)) throw error
    }
  }
  return { bus, pages, sources }
}

t.test('a past that only a what-if brought up to date is behind again', async (t) => {
  const bus = await open()
  t.teardown(() => bus.close())
  await bus.create('x', { dtype: 'i32', shape: [2000] })
  await bus.create('y', { dtype: 'i32', shape: [1] })
  await bus.derive('was', { op: 'copy', inputs: { x: { prev: 'x' } } })
  await bus.patch('x', { offset: 3, values: [7] })
  const ops = [{ page: 'y', values: [1] }]
  const { pages } = await bus.whatIf({ ops, read: ['was'] })
  t.equal(pages.was?.values[3], 7)
  t.equal(bus.read('was')[3], 0)
  await bus.transact({ ops })
  t.equal(bus.read('was')[3], 7)
})

t.test('over random graphs a what-if equals the commit, and leaves no trace', async (t) => {
  for (let seed = 1; seed <= 20; seed++) {
    const draw = new Draw(seed)
    const { bus, pages, sources } = await randomBus(draw)
    const names = pages.map((page) => page.name)
    const problems: string[] = []
    for (let round = 0; round < 8; round++) {
      const drawOps = (): { page: string; values: TypedArray }[] =>
        Array.from({ length: draw.int(1, 4) }, () => {
          const page = draw.pick(sources)
          return { page: page.name, ...drawDelta(draw, page) } as { page: string; values: TypedArray }
        })
      const before = {
        status: bus.status().digest,
        pages: bus.pages({ limit: 1000 }),
        log: bus.executionLog(),
      }
      const ops = drawOps()
      // Others, with other deltas, go before and after it.
      const all = await Promise.all([
        bus.whatIf({ ops: drawOps(), read: names }),
        bus.whatIf({ ops, read: names }),
        bus.whatIf({ ops: drawOps(), read: names }),
      ])
      const after = {
        status: bus.status().digest,
        pages: bus.pages({ limit: 1000 }),
        log: bus.executionLog(),
      }
      if (JSON.stringify(after) !== JSON.stringify(before)) problems.push(`round ${round}: a trace is left`)
      const wanted = all[1] as (typeof all)[number]
      const { epoch } = await bus.transact({ ops })
      if (epoch !== wanted.epoch) problems.push(`round ${round}: epoch ${wanted.epoch}, not ${epoch}`)
      const real = await bus.readMany(names)
      for (const name of names) {
        const a = real.pages[name]
        const b = wanted.pages[name]
        if (a === undefined || b === undefined || !bytesOf(a.values).equals(bytesOf(b.values)))
          problems.push(`round ${round}: page ${name} differs`)
        if (a?.version !== b?.version) problems.push(`round ${round}: version of ${name}`)
      }
      if (problems.length > 0) break
    }
    t.same(problems, [], `seed ${seed}`)
    await bus.close()
  }
})

t.test('partials of a long reduction are exact after a what-if', async (t) => {
  const bus = await open(2)
  const n = 300_000
  await bus.create('x', { dtype: 'f32', shape: [n] })
  await bus.write(
    'x',
    Float32Array.from({ length: n }, (_, i) => Math.fround(Math.sin(i))),
  )
  await bus.derive('sum', { op: 'reduce', inputs: { x: 'x' }, fn: 'sum' })
  await bus.derive('top', { op: 'reduce', inputs: { x: 'x' }, fn: 'argmax' })
  await bus.patch('x', { offset: 5, values: [1] })
  const before = bus.status().digest
  const { pages } = await bus.whatIf({
    ops: [{ page: 'x', offset: 777, values: [1e6] }],
    read: ['top', 'sum'],
  })
  t.equal(pages.top?.values[0], 777)
  t.equal(bus.status().digest, before)
  // A change elsewhere reuses the partials around 777: they must not be those of the what-if.
  await bus.patch('x', { offset: 200_000, values: [0.25] })
  const incremental = [bus.read('sum')[0], bus.read('top')[0]]
  t.ok(
    bus.executionLog().steps.every((step) => !step.full),
    'nothing was computed wholly',
  )
  const fresh = await open()
  await fresh.create('x', { dtype: 'f32', shape: [n] })
  await fresh.write('x', bus.read('x'))
  await fresh.derive('sum', { op: 'reduce', inputs: { x: 'x' }, fn: 'sum' })
  await fresh.derive('top', { op: 'reduce', inputs: { x: 'x' }, fn: 'argmax' })
  t.same(incremental, [fresh.read('sum')[0], fresh.read('top')[0]])
  await fresh.close()
  await bus.close()
})

t.test('long what-ifs leave the event loop, and nobody sees them', async (t) => {
  const bus = await open(2)
  const n = 600
  await bus.create('a', { dtype: 'f64', shape: [n, n], fill: 1 })
  await bus.derive('b', { op: 'matmul', inputs: { a: 'a', b: 'a' } })
  await bus.derive('c', { op: 'reduce', inputs: { x: 'b' }, fn: 'sum' })
  const ops = [{ page: 'a', values: new Float64Array(n * n).fill(2) }]
  await bus.patch('a', { offset: 0, values: [1] })
  const digest = bus.status().digest
  const whole = n ** 3
  let turns = 0
  const timer = setInterval(() => turns++, 1)
  const trials = [1, 2].map(() => bus.whatIf({ ops, read: ['c'] }))
  const data = bus.data('c')
  const writes = [1, 2, 3].map((k) => bus.patch('a', { offset: k, values: [1] }))
  t.equal((await data).values[0], whole, 'a waiting read sees the state as it is')
  for (const { pages } of await Promise.all(trials)) t.equal(pages.c?.values[0], whole * 4)
  await Promise.all(writes)
  clearInterval(timer)
  t.ok(turns > 0, 'the event loop went on')
  t.equal(bus.read('c')[0], whole)
  t.equal(bus.status().digest, digest)

  const late = bus.whatIf({ ops, read: ['c'] })
  await new Promise((resolve) => setTimeout(resolve, 3))
  t.equal(bus.read('c')[0], whole, 'a synchronous read finishes it first')
  t.equal((await late).pages.c?.values[0], whole * 4)
  const last = bus.whatIf({ ops, read: ['c'] })
  await new Promise((resolve) => setTimeout(resolve, 3))
  await Promise.all([last.catch(() => {}), bus.close()])
})

t.test(
  'pages that read the past: a what-if is one more epoch, and they go on as if it had not been',
  async (t) => {
    const bus = await open()
    await bus.create('x', { dtype: 'i32', shape: [3] })
    await bus.derive('n', { op: 'map', inputs: { n: 'n' }, expr: 'prev(n) + 1' }, { dtype: 'u32', shape: [] })
    await bus.derive('step', { op: 'map', inputs: { x: 'x' }, expr: 'x - prev(x)' })
    for (let i = 1; i < 6; i++) {
      await bus.patch('x', { offset: i % 3, values: [i * i] })
      const before = { n: bus.read('n'), step: bus.read('step'), digest: bus.status().digest }
      const ops = [{ page: 'x', offset: (i + 1) % 3, values: [100 + i] }]
      const twice = await Promise.all([
        bus.whatIf({ ops, read: ['n', 'step'] }),
        bus.whatIf({ ops, read: ['n', 'step'] }),
      ])
      t.same(twice[0], twice[1])
      t.same({ n: bus.read('n'), step: bus.read('step'), digest: bus.status().digest }, before)
      if (i % 2 === 0) continue
      await bus.transact({ ops })
      t.same(bus.read('n'), twice[0]?.pages.n?.values)
      t.same(bus.read('step'), twice[0]?.pages.step?.values)
    }
    await bus.close()
  },
)

t.test('what is not right is refused and changes nothing', async (t) => {
  const bus = await open()
  await bus.create('a', { dtype: 'u8', shape: [2] })
  await bus.derive('b', { op: 'map', inputs: { a: 'a' }, expr: 'a+1' })
  const digest = bus.status().digest
  const set = { page: 'a', values: [1] }
  await t.rejects(bus.whatIf({ ops: [{ page: 'b', values: [1] }], read: ['a'] }), { code: 'PAGE_READ_ONLY' })
  await t.rejects(bus.whatIf({ ops: [{ page: 'z', values: [1] }], read: ['a'] }), { code: 'PAGE_NOT_FOUND' })
  await t.rejects(bus.whatIf({ ops: [set], read: ['z'] }), { code: 'PAGE_NOT_FOUND' })
  await t.rejects(bus.whatIf({ ops: [set], read: [] }), { code: 'INVALID_REQUEST' })
  await t.rejects(bus.whatIf({ ops: [{ page: 'a', values: [300] }], read: ['a'] }), { code: 'INVALID_DELTA' })
  t.equal(bus.status().digest, digest)
  await bus.close()
  await t.rejects(bus.whatIf({ ops: [set], read: ['a'] }), { code: 'BUS_FAILED' })
})

t.test('a what-if that reads much leaves the event loop its turns', async (t) => {
  const bus = await open()
  t.teardown(() => bus.close())
  const count = 20_000
  await bus.createMany(
    Array.from({ length: count }, (_, i) => ({ name: `s${i}`, definition: { dtype: 'f32', shape: [4] } })),
  )
  await bus.create('big', { dtype: 'u8', shape: [192 * 1024 ** 2] })
  const { digest } = bus.status()
  const small = Array.from({ length: count }, (_, i) => `s${i}`)
  let shortest = 0
  // The first reads little: how many turns a what-if takes that is not read in slices.
  for (const read of [['s1'], small, ['big', 's1']]) {
    const input = { ops: [{ page: 's1', offset: 0, values: [5] }], read }
    let turns = 0
    let isDone = false
    const tried = bus.whatIf(input).finally(() => {
      isDone = true
    })
    // While it reads, a synchronous read ends it, and others wait.
    const other = bus.patch('s1', { offset: 1, values: [turns] })
    while (!isDone) {
      turns++
      await turn()
    }
    t.same([...((await tried).pages.s1?.values ?? [])], [5, 0, 0, 0])
    if (read.length === 1) shortest = turns
    else t.ok(turns > shortest, `${turns} turns, ${shortest} without slices`)
    await other
  }
  t.equal(bus.status().digest, digest)
})

t.test('a synchronous read ends a what-if that is being read; a stop too', async (t) => {
  const bus = await open()
  await bus.create('big', { dtype: 'u8', shape: [64 * 1024 ** 2], fill: 3 })
  const input = { ops: [{ page: 'big', offset: 0, values: [5] }], read: ['big'] }
  const tried = bus.whatIf(input)
  await turns(5)
  t.equal(bus.read('big', { count: 1 })[0], 3)
  t.equal((await tried).pages.big?.values[0], 5)
  // Enough that it is still being read after three turns, however long a slice is on this machine.
  const others = ['big2', 'big3', 'big4', 'big5']
  for (const name of others) await bus.create(name, { dtype: 'u8', shape: [64 * 1024 ** 2], fill: 3 })
  const left = new AbortController()
  const cancelled = bus.whatIf({ ...input, read: ['big', ...others] }, { signal: left.signal })
  const refused = t.rejects(cancelled, { code: 'COST_EXCEEDED' })
  await turns(3)
  left.abort()
  await refused
  t.equal(getEventListeners(left.signal, 'abort').length, 0)
  t.equal(bus.read('big', { count: 1 })[0], 3)
  await bus.close()
})

t.test('large pages, and many small ones, are read in slices', async (t) => {
  const reads: string[] = []
  const context = {
    readPage: (id: number, offset: number, piece: Float64Array) => {
      reads.push(`${id} ${offset} ${piece.byteLength}`)
      piece.fill(id)
    },
  }
  const state = { context } as unknown as EngineState
  const slice = READ_SLICE_BYTES
  const page = (id: number, elements: number) =>
    ({ id, name: `p${id}`, dtype: 'f64', shape: [elements], elements, version: 3 }) as unknown as PageRecord
  const pauses = (pages: readonly PageRecord[]): unknown[] => {
    const reading = readingDuringDryRun(state, pages, new Set([1]), 9)
    for (let count = 0; ; count++) {
      const step = reading.next()
      if (step.done === true) return [count, step.value]
    }
  }
  const [count, found] = pauses([page(1, slice / 4 + 1), page(2, 1), page(3, 0)]) as [number, object]
  t.strictSame(reads, [`1 0 ${slice}`, `1 ${slice} ${slice}`, `1 ${2 * slice} 8`, '2 0 8'])
  t.equal(count, 2)
  t.match(found, {
    epoch: 9,
    pages: {
      p1: { version: 9, epoch: 9, shape: [slice / 4 + 1] },
      p2: { version: 3, values: Float64Array.of(2) },
      p3: { version: 3, values: new Float64Array(0) },
    },
  })
  const small = (pages: number): unknown => pauses(Array.from({ length: pages }, (_, i) => page(i, 1)))[0]
  t.strictSame([small(200), small(256), small(600)], [0, 1, 2], 'a page takes time too')
})
