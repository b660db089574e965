/**
 * Durable subscriptions: the cursor survives connections, restarts and crashes, and retains the past
 * within bounds.
 */
import { cpSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { Cursors } from '../../../src/engine/durable-cursors.js'
import { crc32c } from '../../../src/ffi/library.js'
import { Bus } from '../../../src/index.js'
import { SEGMENT_BYTES_MIN } from '../../../src/limits.js'
import { CursorDb, type CursorRow } from '../../../src/store/cursors/cursor-db.js'
import type { CursorStore } from '../../../src/store/cursors/cursors.js'
import { checkFolder } from '../../../src/store/offline/check.js'
import { realDisk } from '../../../src/store/os/disk.js'
import { isProblem, listen, type Served, serve } from '../../http/helpers.js'
import { folder } from '../../lib/folder.js'
import { Client, type Message } from '../helpers.js'

interface Streamed extends Served {
  connect(): Promise<Client>
}

async function stream(t: Parameters<typeof serve>[0], dataDir?: string): Promise<Streamed> {
  const served = await serve(t, dataDir === undefined ? {} : { dataDir, fsync: 'off' })
  const { port } = await listen(served)
  await served.bus.create('a', { dtype: 'u32', shape: [4] })
  const connect = async (): Promise<Client> => {
    const client = await Client.open(port)
    t.teardown(() => client.socket.terminate())
    return client
  }
  return { ...served, connect }
}

const subscribe = { type: 'subscribe', id: 's', pages: ['a'], durable: 'worker.1' }
const commit = (client: Client, epoch: number): Promise<Message> =>
  client.ask({ type: 'commit', id: 's', epoch })
const epochsOf = (client: Client): number[] => client.changes('s').map(({ epoch }) => epoch!)
const write = async (bus: Bus, count: number): Promise<void> => {
  for (let i = 0; i < count; i++) await bus.patch('a', { offset: i % 4, values: [bus.epoch * 2 + 1] })
}

t.test('it goes on after the epoch committed last, over connections and restarts', async (t) => {
  const dataDir = folder(t)
  await t.test('first run', async (t) => {
    const { bus, connect, server } = await stream(t, dataDir)
    const first = await connect()
    t.match(await first.ask(subscribe), { type: 'subscribed', epoch: 1 })
    await write(bus, 5)
    await first.until(() => epochsOf(first).length === 5)
    t.same(await commit(first, 4), { type: 'committed', id: 's', epoch: 4 })
    t.match(await commit(first, 3), { type: 'committed', epoch: 4 }, 'a cursor only goes forward')
    await first.close()
    await write(bus, 2)
    const second = await connect()
    t.match(await second.ask(subscribe), { type: 'subscribed', epoch: 4 })
    await second.until(() => epochsOf(second).length === 4)
    t.same(epochsOf(second), [5, 6, 7, 8], 'what was not committed comes again')
    t.match(await commit(second, 7), { type: 'committed', epoch: 7 })
    // A crash leaves the files as they are at this moment.
    const copy = folder(t)
    for (const name of readdirSync(dataDir)) {
      if (name.startsWith('cursors.db')) cpSync(join(dataDir, name), join(copy, name))
    }
    const crashed = new CursorDb(copy)
    t.match(crashed.open(), { rows: [{ name: 'worker.1', epoch: 7 }], problems: [] })
    crashed.close()
    await server.close()
  })
  await t.test('second run', async (t) => {
    const { bus, connect } = await stream(t, dataDir)
    await write(bus, 1)
    const client = await connect()
    t.match(await client.ask({ ...subscribe, from: 'now' }), { type: 'subscribed', epoch: 7 }, 'not `from`')
    await client.until(() => epochsOf(client).length === 2)
    t.same(epochsOf(client), [8, 9])
  })
})

t.test('a new one begins where it wants; with a snapshot until it has committed something', async (t) => {
  const { bus, connect } = await stream(t, folder(t))
  await write(bus, 3)
  const old = await connect()
  t.match(await old.ask({ ...subscribe, durable: 'old', from: 2 }), { type: 'subscribed', epoch: 2 })
  await old.until(() => epochsOf(old).length === 2)
  for (let i = 0; i < 2; i++) {
    const client = await connect()
    t.match(await client.ask({ ...subscribe, durable: 'whole', from: 'snapshot' }), { type: 'subscribed' })
    t.match(await client.next(({ type }) => type === 'snapshot'), { epoch: bus.epoch })
    if (i === 1) t.match(await commit(client, bus.epoch), { type: 'committed', epoch: bus.epoch })
    await client.close()
    await write(bus, 1)
  }
  const again = await connect()
  t.match(await again.ask({ ...subscribe, durable: 'whole', from: 'snapshot' }), {
    type: 'subscribed',
    epoch: bus.epoch - 1,
  })
  await again.until(() => epochsOf(again).length === 1)
  t.notOk(again.messages.some(({ type }) => type === 'snapshot'))
})

t.test('what was not delivered cannot be committed, nor what is not durable', async (t) => {
  const { bus, connect, call } = await stream(t, folder(t))
  const client = await connect()
  await client.ask(subscribe)
  await client.ask({ ...subscribe, id: 'plain', durable: undefined })
  for (const message of [
    { type: 'commit', id: 's', epoch: bus.epoch + 1 },
    { type: 'commit', id: 'plain', epoch: 1 },
    { type: 'commit', id: 'nobody', epoch: 1 },
    { type: 'commit', id: 's' },
    { type: 'commit', id: 's', epoch: -1 },
    { type: 'commit', id: 's', epoch: 1, colour: 'red' },
    { ...subscribe, id: 'x', durable: 'a b' },
    { ...subscribe, id: 'x', durable: '' },
  ]) {
    t.match(await client.ask(message), { type: 'error', code: 'INVALID_REQUEST' }, JSON.stringify(message))
  }
  const { body } = await call('GET', '/v1/subscriptions/worker.1')
  t.match(body, { epoch: 1, lag: 0 })
  const memory = await stream(t)
  t.match(await (await memory.connect()).ask(subscribe), { type: 'error', code: 'INVALID_REQUEST' })
})

t.test('who comes later takes it over', async (t) => {
  const { bus, connect } = await stream(t, folder(t))
  const [first, second] = [await connect(), await connect()]
  await first.ask(subscribe)
  await second.ask(subscribe)
  t.match(await first.next(({ type }) => type === 'error'), { id: 's', code: 'INVALID_REQUEST' })
  await write(bus, 1)
  await second.until(() => epochsOf(second).length === 1)
  t.same(epochsOf(first), [])
  t.match(await commit(second, bus.epoch), { type: 'committed' })
  t.match(await commit(first, bus.epoch), { type: 'error' })
})

t.test('listed, shown in statistics and metrics, deleted', async (t) => {
  const { bus, connect, call } = await stream(t, folder(t))
  t.same((await call('GET', '/v1/subscriptions')).body, { subscriptions: [] })
  const client = await connect()
  await client.ask(subscribe)
  await write(bus, 3)
  const view = { name: 'worker.1', pages: ['a'], epoch: 1, lag: 3, connected: true, held: true }
  t.match((await call('GET', '/v1/subscriptions')).body, { subscriptions: [view] })
  t.match((await call('GET', '/v1/subscriptions/worker.1')).body, view)
  t.match((await call('GET', '/v1/stats')).body, {
    subscriptions: { durable: [{ name: 'worker.1', lag: 3, connected: true }] },
  })
  const metrics = (await call('GET', '/metrics')).raw.toString()
  t.match(metrics, /^mmsb_durable_lag_epochs\{name="worker\.1"\} 3$/m)
  t.match(metrics, /^mmsb_durable_connected\{name="worker\.1"\} 1$/m)
  isProblem(t, await call('GET', '/v1/subscriptions/other'), 'NOT_FOUND')
  isProblem(t, await call('DELETE', '/v1/subscriptions/other'), 'NOT_FOUND')
  t.same((await call('DELETE', '/v1/subscriptions/worker.1')).body, { name: 'worker.1' })
  t.match(await client.next(({ type }) => type === 'error'), { id: 's', code: 'NOT_FOUND' })
  t.same((await call('GET', '/v1/subscriptions')).body, { subscriptions: [] })
  t.match(await client.ask(subscribe), { type: 'subscribed', epoch: bus.epoch }, 'and begins anew')
})

t.test('the library: commits through the iterator', async (t) => {
  const bus = await Bus.open({ dataDir: folder(t), backend: 'cpu', threads: 1, fsync: 'off' })
  t.teardown(() => bus.close())
  await bus.create('a', { dtype: 'u32', shape: [4] })
  const read = async (count: number): Promise<number[]> => {
    const epochs: number[] = []
    const changes = bus.subscribe({ pages: ['a'], durable: 'mine', from: 0 })
    for await (const { epoch } of changes) {
      epochs.push(epoch)
      if (epochs.length === count) {
        await changes.commit(epoch - 1)
        break
      }
    }
    return epochs
  }
  await write(bus, 5)
  t.same(await read(4), [1, 2, 3, 4])
  t.same(await read(3), [4, 5, 6])
})

const DAY_MS = 24 * 3_600_000

t.test('what it holds back is bounded in time and bytes', async (t) => {
  let nowMs = 100 * DAY_MS
  const kept = new Map<string, CursorRow>()
  const store: CursorStore = {
    load: async () => ({ rows: [...kept.values()], problems: [] }),
    put: async (row) => void kept.set(row.name, row),
    remove: async (name) => void kept.delete(name),
    close: async () => {},
  }
  const deps = {
    store,
    nowMs: () => nowMs,
    newestEpoch: () => 1000,
    history: 'h',
    bytesSince: (epoch: number) => 1000 - epoch,
    holdMs: 7 * DAY_MS,
    holdBytes: 900,
    onNotice: () => {},
  }
  const cursors = await Cursors.open(deps)
  t.equal(cursors.lowestNeeded(), undefined)
  await cursors.define('far', ['*'], 50)
  t.equal(cursors.lowestNeeded(), undefined, 'too many bytes')
  await cursors.define('near', ['*'], 200)
  await cursors.define('none', ['*'], null)
  t.equal(cursors.lowestNeeded(), 200)
  nowMs += 6 * DAY_MS
  await cursors.define('late', ['*'], 900)
  t.equal(cursors.lowestNeeded(), 200)
  nowMs += 2 * DAY_MS
  t.equal(cursors.lowestNeeded(), 900, 'not heard of for too long')
  cursors.touch('near')
  t.equal(cursors.lowestNeeded(), 200)
  await cursors.commit('near', 950)
  t.equal(cursors.lowestNeeded(), 900)
  const again = await Cursors.open({ ...deps, newestEpoch: () => 920 })
  t.same(
    again.list().map(({ name, epoch }) => [name, epoch]),
    [
      ['far', 50],
      ['late', 900],
      ['near', 920],
      ['none', null],
    ],
    'no further than the log goes',
  )
})

t.test('retention waits for a reader that is held, and tells one that is not', async (t) => {
  const dataDir = folder(t)
  const options = { segmentBytes: SEGMENT_BYTES_MIN, retention: { maxEpochs: 10 }, fsync: 'off' as const }
  const fill = async (bus: Bus): Promise<void> => {
    for (let i = 0; i < 12; i++) {
      await bus.write('big', new Uint8Array(SEGMENT_BYTES_MIN / 2).fill(bus.epoch % 200))
      if (i % 3 === 2) await bus.checkpoint()
    }
  }
  await t.test('held', async (t) => {
    const served = await serve(t, { dataDir, ...options })
    const { port } = await listen(served)
    const { bus } = served
    await bus.create('a', { dtype: 'u32', shape: [4] })
    await bus.create('big', { dtype: 'u8', shape: [SEGMENT_BYTES_MIN / 2] })
    const client = await Client.open(port)
    await client.ask(subscribe)
    await client.ask({ ...subscribe, id: 'other', durable: 'other' })
    await write(bus, 3)
    await client.close()
    await fill(bus)
    t.ok(bus.minEpoch <= 2, `nothing it needs went: ${bus.minEpoch}`)
    const again = await Client.open(port)
    t.match(await again.ask(subscribe), { type: 'subscribed', epoch: 2 })
    await again.until(() => epochsOf(again).length === 3)
    t.same(epochsOf(again), [3, 4, 5])
    await again.close()
  })
  await t.test('not held', async (t) => {
    const served = await serve(t, { dataDir, ...options, durableHoldBytes: 1 })
    const { port } = await listen(served)
    const { bus } = served
    await fill(bus)
    await fill(bus)
    t.ok(bus.minEpoch > 5, `history went up to ${bus.minEpoch}`)
    const client = await Client.open(port)
    t.teardown(() => client.socket.terminate())
    const { minEpoch } = bus
    t.match(await client.ask(subscribe), { type: 'compacted', minEpoch })
    t.match(await client.ask({ ...subscribe, from: minEpoch }), { type: 'subscribed', epoch: minEpoch })
    t.match((await served.call('GET', '/v1/subscriptions')).body, {
      subscriptions: [
        { name: 'other', epoch: 2, held: false },
        { name: 'worker.1', epoch: minEpoch, connected: true },
      ],
    })
    const late = { ...subscribe, id: 'late', durable: undefined, from: minEpoch - 1 }
    t.match(await client.ask(late), { type: 'compacted', minEpoch })
  })
})

t.test('a reader of a quiet page is heard of while it is connected, and held after', async (t) => {
  const options = { segmentBytes: SEGMENT_BYTES_MIN, retention: { maxEpochs: 10 }, fsync: 'off' as const }
  const holdMs = 2_000
  const served = await serve(t, { dataDir: folder(t), ...options, durableHoldMs: holdMs })
  const { port } = await listen(served)
  const { bus, call } = served
  for (const name of ['a', 'b']) await bus.create(name, { dtype: 'u32', shape: [4] })
  await bus.create('big', { dtype: 'u8', shape: [SEGMENT_BYTES_MIN / 2] })
  const client = await Client.open(port)
  await client.ask(subscribe)
  // It was told of one epoch, and has not committed it.
  await client.ask({ ...subscribe, id: 'other', pages: ['b'], durable: 'other' })
  const { epoch } = await bus.patch('a', { values: [1] })
  const told = await bus.patch('b', { values: [1] })
  await client.until(() => epochsOf(client).includes(epoch))
  await client.ask({ type: 'commit', id: subscribe.id, epoch })
  const untilMs = Date.now() + holdMs + 2_000
  while (Date.now() < untilMs) {
    await bus.write('big', new Uint8Array(SEGMENT_BYTES_MIN / 2).fill(bus.epoch % 200))
    if (bus.epoch % 3 === 0) await bus.checkpoint()
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  const { subscriptions } = (await call('GET', '/v1/subscriptions')).body as { subscriptions: unknown[] }
  t.match(subscriptions, [
    { name: 'other', epoch: told.epoch - 2, connected: true, held: true },
    { name: 'worker.1', connected: true, held: true },
  ])
  const [, { epoch: cursor }] = subscriptions as [unknown, { epoch: number }]
  t.ok(cursor > epoch + 20, `what was not for it is behind it: ${cursor} of ${bus.epoch}`)
  await client.close()
  const next = await bus.patch('a', { values: [2] })
  const again = await Client.open(port)
  t.match(await again.ask(subscribe), { type: 'subscribed', epoch: Number })
  await again.until(() => epochsOf(again).length === 1)
  t.same(epochsOf(again), [next.epoch], 'it misses nothing')
  t.match(await again.ask({ ...subscribe, id: 'other', pages: ['b'], durable: 'other' }), {
    type: 'subscribed',
  })
  await again.close()
})

t.test('a damaged row is left out, a damaged file set aside; both are said', async (t) => {
  const dir = folder(t)
  const row = { definition: '{"pages":["a"]}', createdMs: 1, seenMs: 2 }
  const db = new CursorDb(dir)
  t.same(db.open(), { rows: [], problems: [] })
  db.write(
    [
      { ...row, name: 'first', epoch: 11 },
      { ...row, name: 'second', epoch: null },
    ],
    [],
  )
  db.close()
  const file = join(dir, 'cursors.db')
  const bytes = readFileSync(file)
  bytes.write('"b"', bytes.indexOf('"a"', bytes.indexOf('first')))
  writeFileSync(file, bytes)
  const place = { dir, disk: realDisk(), crc32c }
  // The folder has no log, which is a problem of its own.
  const problems = (): string[] => checkFolder(place).problems.filter((text) => text.startsWith('cursors.db'))
  t.same(problems(), ['cursors.db: the row of "first" is damaged'])
  const damaged = new CursorDb(dir)
  t.match(damaged.open(), { rows: [{ name: 'second' }], problems: [/"first" is damaged/] })
  damaged.close()
  writeFileSync(file, 'no database at all, but long enough to be looked at'.repeat(100))
  t.match(problems(), [/^cursors\.db: /])
  const lost = new CursorDb(dir)
  t.match(lost.open(), { rows: [], problems: [/set aside/] })
  lost.write([{ ...row, name: 'third', epoch: 1 }], [])
  lost.close()
  t.ok(readdirSync(dir).includes('cursors.db.bad'))
  const notices: string[] = []
  rmSync(join(dir, 'cursors.db'))
  writeFileSync(join(dir, 'cursors.db'), 'x'.repeat(5000))
  const bus = await Bus.open({
    dataDir: dir,
    backend: 'cpu',
    threads: 1,
    onNotice: ({ level, message }) => notices.push(`${level} ${message}`),
  })
  await bus.close()
  t.match(notices, [/^warn durable subscriptions: it was set aside/])
})
