/** The bus in memory: writes, transactions, batches, idempotency keys, pages and their refusals. */
import t, { type Test } from 'tap'
import { EngineBus } from '../../src/engine/bus.js'
import type { CommitEvent } from '../../src/engine/types.js'
import { deviceCount } from '../../src/ffi/library.js'
import { Bus } from '../../src/index.js'
import { WRITE_PIECE_BYTES } from '../../src/limits.js'
import { turn } from '../lib/wait.js'
import { openOnSim } from '../support/sim-bus.js'
import { SimCatalog } from '../support/sim-world.js'
import { SimDisk } from '../support/simdisk.js'

async function open(t: Test): Promise<Bus> {
  const bus = await Bus.open({ backend: 'cpu', threads: 1 })
  t.teardown(() => bus.close())
  return bus
}

const ran = (bus: Bus): string[] => bus.executionLog().steps.map((step) => step.page)

t.test('a write moves source and derived pages in one epoch', async (t) => {
  const bus = await open(t)
  const made = await bus.create('prices', { dtype: 'f32', shape: [5] })
  t.match(made, { epoch: 1, created: true, page: { name: 'prices', version: 1, kind: 'source', bytes: 20 } })
  await bus.derive('twice', { op: 'map', inputs: { p: 'prices' }, expr: 'p*2' })
  const { epoch, version } = await bus.patch('prices', { offset: 1, values: [42] })
  t.same([epoch, version], [3, 3])
  t.same(bus.read('twice'), new Float32Array([0, 84, 0, 0, 0]))
  t.match(bus.page('twice'), {
    kind: 'derived',
    version: 3,
    createdEpoch: 2,
    opVersion: 1,
    inputs: ['prices'],
    dependents: [],
  })
  t.match(bus.page('prices'), { dependents: ['twice'] })
  t.match(await bus.readMany(['prices', 'twice']), {
    epoch: 3,
    pages: { prices: { version: 3 }, twice: { version: 3 } },
  })
})

t.test('without a wish it runs where it can', async (t) => {
  for (const options of [{}, { backend: 'auto' }] as const) {
    const bus = await Bus.open({ ...options, threads: 1 })
    t.equal(bus.status().backend, deviceCount() === 0 ? 'cpu' : 'cuda')
    await bus.close()
  }
})

t.test('cutoff: a page that keeps its bytes keeps its version and starts nothing', async (t) => {
  const bus = await open(t)
  await bus.create('x', { dtype: 'f64', shape: [4] })
  await bus.derive('positive', { op: 'map', inputs: { x: 'x' }, expr: 'x > 0' })
  await bus.derive('count', { op: 'reduce', inputs: { x: 'positive' }, fn: 'count' })
  await bus.patch('x', { values: [1, 2, 3, 4] })
  t.same(ran(bus), ['positive', 'count'])
  const events: CommitEvent[] = []
  bus.onCommit((event) => events.push(event))
  const { epoch } = await bus.patch('x', { offset: 2, values: [9] })
  t.same(ran(bus), ['positive'], 'count is not reached')
  t.equal(bus.executionLog().steps[0]?.elementsComputed, 1, 'one element is recomputed')
  t.equal(bus.page('positive').version, epoch - 1)
  t.same(
    events.map((event) => event.changes.map((change) => [change.page, change.kind, [...change.ranges]])),
    [[['x', 'source', [2, 1]]]],
  )
  const same = await bus.patch('x', { offset: 2, values: [9] })
  t.strictSame(same, { epoch: epoch + 1, version: epoch, page: 'x' }, 'the answer has the version that stays')
  t.same(ran(bus), [], 'the same bytes start nothing')
  t.equal(bus.page('x').version, epoch, 'and move no version')
  t.equal(bus.epoch, epoch + 1, 'though the commit is an epoch')
  t.same(events[1]?.changes, [])
})

t.test('the newest epoch by its number is read like the present', async (t) => {
  const bus = await open(t)
  await bus.create('x', { dtype: 'u8', shape: [2], fill: 7 })
  const { epoch } = bus
  const wanted = { name: 'x', epoch, version: epoch }
  t.match(await bus.data('x', { epoch }), { ...wanted, values: Uint8Array.of(7, 7) })
  t.match(await bus.peekAt('x', epoch), wanted)
  t.match(await bus.readMany(['x'], { epoch }), { epoch, pages: { x: wanted } })
  const [read] = await Promise.all([bus.data('x', { epoch }), bus.patch('x', { values: [8] })])
  t.match(read, { ...wanted, values: Uint8Array.of(7, 7) }, 'while the next one is on its way')
  await t.rejects(bus.data('x', { epoch }), { code: 'EPOCH_COMPACTED' })
  await t.rejects(bus.data('x', { epoch: epoch + 2 }), { code: 'EPOCH_NOT_FOUND' })
})

t.test('one refused transaction of a batch does not touch the others', async (t) => {
  const bus = await open(t)
  await bus.create('x', { dtype: 'u8', shape: [4] })
  const version = bus.page('x').version
  const answers = await Promise.allSettled([
    bus.patch('x', { offset: 0, values: [1] }),
    bus.patch('x', { offset: 1, values: [2] }, { expectVersion: version + 7 }),
    bus.patch('x', { offset: 2, values: [3] }),
  ])
  t.same(
    answers.map((answer) => answer.status),
    ['fulfilled', 'rejected', 'fulfilled'],
  )
  t.match((answers[1] as PromiseRejectedResult).reason, { code: 'PRECONDITION_FAILED' })
  t.same(bus.read('x'), new Uint8Array([1, 0, 3, 0]))
})

t.test('compare and set: of many that expect the same version exactly one wins', async (t) => {
  const bus = await open(t)
  await bus.create('x', { dtype: 'i32', shape: [1] })
  const expectVersion = bus.page('x').version
  const answers = await Promise.allSettled(
    Array.from({ length: 50 }, (_, i) => bus.patch('x', { values: [i + 1] }, { expectVersion })),
  )
  t.equal(answers.filter((answer) => answer.status === 'fulfilled').length, 1)
  t.same(bus.read('x'), new Int32Array([1]))
})

t.test('concurrent writes share an epoch and all count', async (t) => {
  const bus = await open(t)
  await bus.create('n', { dtype: 'u32', shape: [1] })
  const results = await Promise.all(
    Array.from({ length: 1000 }, () => bus.patch('n', { values: [1], merge: 'add' })),
  )
  t.same(bus.read('n'), new Uint32Array([1000]))
  t.ok(new Set(results.map((result) => result.epoch)).size < 1000)
})

t.test('an idempotency key gets the first answer, while queued and after', async (t) => {
  const bus = await open(t)
  await bus.create('n', { dtype: 'u32', shape: [1] })
  const write = () => bus.patch('n', { values: [1], merge: 'add' }, { key: 'k' })
  const [first, second] = await Promise.all([write(), write()])
  const third = await write()
  t.same(second, first)
  t.same(third, first)
  t.same(bus.read('n'), new Uint32Array([1]))
})

t.test('transactions are all or nothing', async (t) => {
  const bus = await open(t)
  await bus.create('a', { dtype: 'u8', shape: [2] })
  await bus.create('b', { dtype: 'u8', shape: [2] })
  const before = bus.status()
  const bad = [
    {
      ops: [
        { page: 'a', values: [1] },
        { page: 'b', values: [300] },
      ],
    },
    {
      ops: [
        { page: 'a', values: [1] },
        { page: 'b', offset: 2, values: [1] },
      ],
    },
    {
      ops: [
        { page: 'a', values: [1] },
        { page: 'nowhere', values: [1] },
      ],
    },
  ]
  for (const transaction of bad) await t.rejects(async () => bus.transact(transaction))
  t.match(bus.status(), { epoch: before.epoch, digest: before.digest })
  const { pages, epoch } = await bus.transact({
    ops: [
      { page: 'a', values: [1] },
      { page: 'b', offset: 1, values: [2] },
    ],
  })
  t.same(pages, { a: epoch, b: epoch })
})

t.test('pages: same definition, other definition, cycles, use, deletion', async (t) => {
  const bus = await open(t)
  await bus.create('x', { dtype: 'f32', shape: [3] })
  t.match(await bus.create('x', { dtype: 'f32', shape: [3] }), { created: false, epoch: 1 })
  await t.rejects(bus.create('x', { dtype: 'f64', shape: [3] }), { code: 'PAGE_EXISTS' })
  await bus.derive('y', { op: 'map', inputs: { x: 'x' }, expr: 'x+1' })
  await bus.derive('z', { op: 'map', inputs: { x: 'y' }, expr: 'x+1' })
  t.match(await bus.derive('y', { op: 'map', inputs: { x: 'x' }, expr: 'x+1' }), { created: false })
  await t.rejects(bus.derive('y', { op: 'map', inputs: { x: 'x' }, expr: 'x+2' }), { code: 'PAGE_EXISTS' })
  await t.rejects(bus.derive('w', { op: 'map', inputs: { x: 'w' }, expr: 'x' }), {
    code: 'GRAPH_CYCLE',
    message: /w -> w/,
  })
  await t.rejects(bus.derive('y', { op: 'map', inputs: { x: 'z' }, expr: 'x' }), {
    code: 'GRAPH_CYCLE',
    message: /y -> z -> y/,
  })
  await t.rejects(async () => bus.patch('y', { values: [1] }), { code: 'PAGE_READ_ONLY' })
  await t.rejects(bus.delete('x'), { code: 'PAGE_IN_USE' })
  await t.rejects(bus.delete('q'), { code: 'PAGE_NOT_FOUND' })
  const { digest } = bus.status()
  const { epoch } = await bus.delete('y', { cascade: true })
  t.equal(bus.epoch, epoch)
  t.same(bus.pageNames(), ['x'])
  t.not(bus.status().digest, digest)
  await bus.delete('x')
  t.equal(bus.status().digest, (await open(t)).status().digest, 'an empty bus is an empty bus')
  t.match(bus.graph(), { nodes: [], edges: [] })
})

t.test('ids that no page was created with are given again', async (t) => {
  const bus = await open(t)
  await bus.create('a', { dtype: 'u8', shape: [2] })
  for (let i = 0; i < 3; i++) await bus.create('a', { dtype: 'u8', shape: [2] })
  await t.rejects(bus.create('a', { dtype: 'i8', shape: [2] }), { code: 'PAGE_EXISTS' })
  await t.rejects(bus.create('g', { dtype: 'u8', shape: [2], location: 'gpu' }), {
    code: 'UNSUPPORTED_LOCATION',
  })
  const past = { op: 'map' as const, inputs: { p: { prev: 'a' } }, expr: 'p +' }
  await t.rejects(bus.derive('d', past), { code: 'INVALID_EXPRESSION' })
  await t.rejects(
    bus.createMany([
      { name: 'b', definition: { dtype: 'u8', shape: [2] } },
      { name: 'a', definition: { dtype: 'u8', shape: [2] } },
    ]),
    { code: 'PAGE_EXISTS' },
  )
  const made = await Promise.allSettled(
    ['b', 'b', 'a', 'c'].map((name) => bus.create(name, { dtype: 'i8', shape: [2] })),
  )
  t.same(
    made.map(({ status }) => status),
    ['fulfilled', 'fulfilled', 'rejected', 'fulfilled'],
  )
  const ids = [...bus.pages().pages.map(({ id }) => id)]
  t.same([...new Set(ids)], ids)
  t.ok(Math.max(...ids) <= 5, ids.join())
})

t.test('many pages in one epoch, with derived ones on top of each other', async (t) => {
  const bus = await open(t)
  const { epoch } = await bus.createMany([
    { name: 'x', definition: { dtype: 'f64', shape: [3], fill: 2 } },
    { name: 'y', definition: { derive: { op: 'map', inputs: { x: 'x' }, expr: 'x*x' } } },
    { name: 'z', definition: { derive: { op: 'reduce', inputs: { x: 'y' }, fn: 'sum' } } },
  ])
  t.equal(epoch, 1)
  t.same(bus.read('z'), new Float64Array([12]))
  await t.rejects(
    bus.createMany([
      { name: 'v', definition: { dtype: 'u8', shape: [1] } },
      { name: 'x', definition: { dtype: 'u8', shape: [1] } },
    ]),
    { code: 'PAGE_EXISTS' },
  )
  t.notOk(bus.hasPage('v'), 'all or nothing')
  t.equal(bus.graph().nodes.length, 3)
})

/** Turns of the event loop that a write takes. */
async function turnsOf(write: Promise<unknown>): Promise<number> {
  let turns = 0
  let isDone = false
  const ended = write.finally(() => {
    isDone = true
  })
  for (; !isDone; turns++) await turn()
  await ended
  return turns
}

t.test('a long execution leaves the event loop, and a synchronous read waits for it', async (t) => {
  const bus = await open(t)
  const elements = 4 * 1024 ** 2
  await bus.create('big', { dtype: 'f64', shape: [elements] })
  await bus.derive('sum', { op: 'reduce', inputs: { x: 'big' }, fn: 'sum' })
  const write = bus.write('big', new Float64Array(elements).fill(1))
  await new Promise((resolve) => setImmediate(() => setImmediate(resolve)))
  t.same(bus.read('sum'), new Float64Array([elements]), 'the read finishes the epoch in flight')
  t.equal(bus.epoch, 3)
  t.match(await write, { epoch: 3, version: 3 })
  await bus.patch('big', { values: [3] })
  t.same(bus.read('sum'), new Float64Array([elements + 2]))
  await bus.create('small', { dtype: 'u8', shape: [1] })
  const short = await turnsOf(bus.patch('small', { values: [3] }))
  // A busy machine may give this thread few turns, but not each time.
  let most = 0
  for (let i = 2; i < 7 && most <= 10 * short; i++)
    most = Math.max(most, await turnsOf(bus.write('big', new Float64Array(elements).fill(i))))
  t.ok(most > 10 * short, `${most} turns of the event loop meanwhile, ${short} for a short one`)
})

t.test('the memory quota refuses a page and changes nothing', async (t) => {
  const bus = await Bus.open({ backend: 'cpu', memoryLimitBytes: 1024 ** 2 })
  t.teardown(() => bus.close())
  await bus.create('a', { dtype: 'u8', shape: [512 * 1024] })
  const before = bus.status()
  await t.rejects(bus.create('b', { dtype: 'u8', shape: [600 * 1024] }), { code: 'OUT_OF_MEMORY' })
  t.match(bus.status(), { epoch: before.epoch, digest: before.digest, pages: 1 })
  await bus.delete('a')
  await bus.create('b', { dtype: 'u8', shape: [600 * 1024] })
})

t.test('a location this machine lacks is refused', async (t) => {
  const bus = await open(t)
  for (const location of ['gpu', 'unified'] as const) {
    await t.rejects(bus.create('g', { dtype: 'u8', shape: [1], location }), { code: 'UNSUPPORTED_LOCATION' })
  }
})

t.test('a closed bus takes nothing', async (t) => {
  const bus = await Bus.open({ backend: 'cpu' })
  await bus.create('x', { dtype: 'u8', shape: [1] })
  const last = bus.patch('x', { values: [1] })
  const closed = bus.close()
  t.match(await last, { epoch: 2 }, 'what was queued is finished')
  await closed
  await t.rejects(async () => bus.patch('x', { values: [1] }), { code: 'BUS_FAILED' })
  t.throws(() => bus.read('x'), { code: 'BUS_FAILED' })
})

t.test('a write of many pieces is repeated under its key, and checked as a whole', async (t) => {
  const bus = await open(t)
  const size = WRITE_PIECE_BYTES + 1_000
  await bus.create('big', { dtype: 'u8', shape: [size] })
  const values = new Uint8Array(size).fill(3)
  const first = await bus.write('big', values, { key: 'k' })
  t.strictSame(first, { epoch: 3, version: 3, page: 'big' })
  t.strictSame(await bus.write('big', values, { key: 'k' }), first)
  t.equal(bus.epoch, 3, 'nothing was written again')
  await t.rejects(bus.write('big', values.subarray(1), { key: 'k' }), { code: 'IDEMPOTENCY_MISMATCH' })
  await t.rejects(bus.write('big', values.subarray(1), { key: 'l' }), { code: 'INVALID_DELTA' })
  await t.rejects(bus.write('big', values.subarray(1)), { code: 'INVALID_DELTA' })
  t.equal(bus.epoch, 3, 'no piece of a wrong write is committed')
  t.match(await bus.write('big', values.fill(4)), { epoch: 5 }, 'without a key as well')
})

t.test('closing finishes what is computed, however long it takes', async (t) => {
  const bus = await open(t)
  await bus.create('m', { dtype: 'f64', shape: [90, 90], fill: 1 })
  await bus.derive('conv', { op: 'conv', inputs: { x: 'm', kernel: 'm' }, boundary: 'wrap' })
  const answer = bus.patch('m', { offset: 0, values: [2] })
  await turn()
  await bus.close()
  t.match(await answer, { epoch: 3 })
})

t.test('a clock that is behind the log is reported when the folder is opened', async (t) => {
  const disk = new SimDisk()
  const catalog = new SimCatalog()
  const now = 1_700_000_000_000
  const openedAt = async (nowMs: number): Promise<string[]> => {
    const notices: string[] = []
    const options = { onNotice: ({ message }: { message: string }) => void notices.push(message) }
    const bus = await openOnSim(t, { disk, catalog, host: { nowMs: () => nowMs }, options })
    if (bus.epoch === 0) await bus.create('x', { dtype: 'u8', shape: [1] })
    await bus.close()
    return notices.filter((notice) => notice.includes('behind the log'))
  }
  t.same(await openedAt(now), [])
  t.same(await openedAt(now), [])
  t.match(await openedAt(now - 3_600_000), [/the clock is 3600.0 s behind the log/])
})

t.test('the status names the device, where there is one', async (t) => {
  const nothing = (): void => {}
  const statusWith = (device: object) => {
    const lifecycle = { isReadOnly: false, beginClose: nothing }
    const committer = { epoch: 3, digest: Uint8Array.of(1, 2), lifecycle, close: nothing }
    const context = { deviceInfo: () => ({ name: 'a device' }), close: nothing }
    const state = { registry: { size: 4 }, context }
    const past = { minEpoch: 2, close: nothing }
    const parts = { committer, state, device, historyId: 'h', past, fsync: 'off' }
    const bus = new EngineBus(parts as unknown as ConstructorParameters<typeof EngineBus>[0])
    t.teardown(() => bus.close())
    return bus.status()
  }
  const { version, uptimeMs, ...rest } = statusWith({ backend: 'cpu' })
  t.ok(version.length > 0 && uptimeMs >= 0)
  const of = { history: 'h', epoch: 3, digest: '0102', pages: 4, fsync: 'off', readOnly: false, minEpoch: 2 }
  t.strictSame(rest as object, { ...of, backend: 'cpu' })
  t.match(statusWith({ backend: 'cuda' }), { ...of, backend: 'cuda', device: { name: 'a device' } })
  const loss = { epoch: 2, reason: 'lost' }
  const lost = statusWith({ backend: 'cpu', loss })
  t.strictSame(lost.deviceLoss as object, loss)
  t.notOk('device' in lost)
})
