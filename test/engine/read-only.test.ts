/**
 * A folder opened for reading only, at its newest epoch or at an earlier one: it answers everything that
 * asks, refuses everything that writes, and leaves the folder exactly as it was.
 */
import { createHash } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { Bus, type BusOptions } from '../../src/index.js'
import { FrameWriter } from '../../src/state/frame/writer.js'
import { folder } from '../lib/folder.js'
import { refusal } from '../lib/refusal.js'
import { fillWithVoids } from '../lib/void-epochs.js'
import { until } from '../lib/wait.js'

const EPOCHS = 60
const COMMON: BusOptions = { backend: 'cpu', threads: 1 }

async function open(t: Test, options: BusOptions): Promise<Bus> {
  const bus = await Bus.open({ ...COMMON, ...options })
  t.teardown(() => bus.close())
  return bus
}

const reading = (t: Test, dataDir: string, options: BusOptions = {}): Promise<Bus> =>
  open(t, { dataDir, readOnly: true, ...options })

/**
 * A closed folder with several segments, checkpoints at 20 and 40 and a durable reader. At epoch n, `a` is
 * filled with n.
 */
async function filled(dataDir: string): Promise<{ history: string; digests: string[] }> {
  const bus = await Bus.open({ ...COMMON, dataDir, fsync: 'off', segmentBytes: 64 * 1024 })
  const digests = [bus.status().digest]
  await bus.create('a', { dtype: 'f64', shape: [1_000], fill: 1 })
  digests.push(bus.status().digest)
  await bus.derive('twice', { op: 'map', inputs: { a: 'a' }, expr: 'a * 2' })
  digests.push(bus.status().digest)
  while (bus.epoch < EPOCHS) {
    await bus.write('a', new Float64Array(1_000).fill(bus.epoch + 1), { key: `k${bus.epoch + 1}` })
    digests.push(bus.status().digest)
    if (bus.epoch % 20 === 0 && bus.epoch < EPOCHS) await bus.checkpoint()
  }
  await bus.cursors?.define('reader', ['a'], EPOCHS)
  await bus.close()
  return { history: bus.historyId, digests }
}

/** Names, modes, times and contents of everything below a folder. */
function traces(dir: string): string[] {
  return ['.', ...fs.readdirSync(dir, { recursive: true, encoding: 'utf8' })].sort().map((name) => {
    const file = path.join(dir, name)
    const { mode, mtimeMs, ctimeMs, size, ino } = fs.statSync(file)
    const content = fs.statSync(file).isFile()
      ? createHash('sha256').update(fs.readFileSync(file)).digest('hex')
      : ''
    return [name, mode, mtimeMs, ctimeMs, size, ino, content].join(' ')
  })
}

t.test('reads, the past, verify, what-if and subscriptions work; the folder is not touched', async (t) => {
  const dir = folder(t)
  const { history, digests } = await filled(dir)
  const before = traces(dir)
  const notices: string[] = []
  const bus = await reading(t, dir, {
    onNotice: ({ level, message }) => level === 'info' || notices.push(message),
  })
  t.match(bus.status(), { epoch: EPOCHS, digest: digests[EPOCHS], readOnly: true, history, minEpoch: 0 })
  t.equal(bus.isReadOnly, true)
  t.same([bus.read('a')[0], bus.read('twice')[999]], [EPOCHS, 2 * EPOCHS])
  for (const epoch of [3, 19, 20, 21, 45, EPOCHS]) t.equal((await bus.readAt('twice', epoch))[7], 2 * epoch)
  t.match(await bus.verify(), { ok: true, problems: [] })
  t.same((await bus.epochInfo(30)).changed, ['a', 'twice'])
  const { epoch, pages } = await bus.whatIf({ ops: [{ page: 'a', offset: 0, values: [7] }], read: ['twice'] })
  t.same([epoch, pages.twice!.values[0], bus.read('twice')[0]], [EPOCHS + 1, 14, 2 * EPOCHS])
  const seen: number[] = []
  for await (const change of bus.subscribe({ pages: ['twice'], from: 50 })) {
    seen.push(change.epoch)
    if (change.epoch === EPOCHS) break
  }
  t.same(seen, [51, 52, 53, 54, 55, 56, 57, 58, 59, 60])
  const { values } = (await bus.subscribe({ pages: ['a'], from: 'snapshot' }).next()).value!.changes[0]!
  t.equal(values![0], EPOCHS)
  t.same(
    bus.checkpoints().map((checkpoint) => checkpoint.epoch),
    [20, 40],
  )
  t.match(bus.stats().log, { records: 0, newestEpoch: EPOCHS, durableEpoch: EPOCHS })
  t.match(bus.cursors!.list(), [{ name: 'reader', epoch: EPOCHS }])
  await bus.close()
  t.same(traces(dir), before)
  t.same(notices, [])
  const writer = await open(t, { dataDir: dir })
  t.match(writer.status(), { epoch: EPOCHS, history, readOnly: false })
})

t.test('every write is refused with READ_ONLY', async (t) => {
  const dir = folder(t)
  await filled(dir)
  const before = traces(dir)
  const bus = await reading(t, dir)
  const values = new Float64Array(1_000)
  const writes: Record<string, () => Promise<unknown>> = {
    create: () => bus.create('b', { dtype: 'u8', shape: [1] }),
    'create again': () => bus.create('a', { dtype: 'f64', shape: [1_000], fill: 1 }),
    derive: () => bus.derive('c', { op: 'map', inputs: { a: 'a' }, expr: 'a' }),
    createMany: () => bus.createMany([{ name: 'b', definition: { dtype: 'u8', shape: [1] } }]),
    delete: () => bus.delete('twice'),
    defineFunction: () => bus.defineFunction('f', { params: ['x'], expr: 'x' }),
    deleteFunction: () => bus.deleteFunction('f'),
    migrate: () => bus.migrate(),
    patch: () => bus.patch('a', { offset: 0, values: [1] }),
    write: () => bus.write('a', values),
    'write again': () => bus.write('a', values.fill(30), { key: 'k30' }),
    writeOnce: () => bus.writeOnce('gone', undefined, () => t.fail('its content was asked for') as never),
    transact: () => bus.transact({ ops: [{ page: 'a', offset: 0, values: [1] }] }),
    submit: () => bus.submit(new Uint8Array(64)),
    checkpoint: () => bus.checkpoint(),
    'a durable subscription': async () => bus.subscribe({ pages: ['a'], durable: 'reader' }).next(),
    'a cursor': () => bus.cursors!.commit('reader', EPOCHS),
    'removing a cursor': () => bus.cursors!.remove('reader'),
  }
  for (const [what, write] of Object.entries(writes)) await t.rejects(write(), { code: 'READ_ONLY' }, what)
  const refused: unknown[] = []
  bus.submitAll(
    {
      committed: () => t.fail('a frame was committed'),
      failed: (first, _count, _bytes, error) => refused.push([first, (error as { code: string }).code]),
      refused: (number, error) => refused.push([number, (error as { code: string }).code]),
    },
    5,
    frameFor(bus),
  )
  await until(() => refused.length === 1, 'the refusal')
  t.same(refused, [[5, 'READ_ONLY']])
  t.equal(bus.epoch, EPOCHS)
  await bus.close()
  t.same(traces(dir), before)
})

/** A plain frame, which joins the queue without a promise of its own where writes are taken. */
function frameFor(bus: Bus): Uint8Array {
  const writer = new FrameWriter({})
  writer.delta(bus.page('a').id, 'f64', 1_000, { offset: 0, values: [1] })
  return Uint8Array.from(writer.finish())
}

t.test('it opens at any epoch exactly', async (t) => {
  const dir = folder(t)
  const { digests, history } = await filled(dir)
  const before = traces(dir)
  for (const epoch of [0, 1, 2, 19, 20, 21, 39, 40, 41, EPOCHS - 1, EPOCHS]) {
    const bus = await reading(t, dir, { untilEpoch: epoch })
    t.match(bus.status(), { epoch, digest: digests[epoch], history, readOnly: true, minEpoch: 0 })
    t.match(await bus.verify(), { ok: true, to: epoch })
    await t.rejects(bus.readAt('a', epoch + 1), { code: 'EPOCH_NOT_FOUND' })
    if (epoch > 0) t.equal((await bus.readAt('a', epoch))[0], epoch < 3 ? 1 : epoch)
    t.same(
      bus.checkpoints().map((checkpoint) => checkpoint.epoch),
      [20, 40].filter((at) => at <= epoch),
    )
    await bus.close()
  }
  await t.rejects(reading(t, dir, { untilEpoch: EPOCHS + 1 }), {
    code: 'EPOCH_NOT_FOUND',
    message: `Epoch ${EPOCHS + 1} is not in the log; the newest is ${EPOCHS}.`,
  })
  const log = path.join(dir, 'log')
  t.same(traces(dir), before)
  fs.rmSync(path.join(log, fs.readdirSync(log).sort()[0]!))
  await t.rejects(reading(t, dir, { untilEpoch: 3 }), { code: 'EPOCH_COMPACTED', extra: { minEpoch: 20 } })
  t.equal((await reading(t, dir, { untilEpoch: 25 })).read('a')[0], 25)
})

t.test('it opens at epochs that were cancelled, and beside them', async (t) => {
  const dir = folder(t)
  const { states, newest } = await fillWithVoids(dir, 1)
  for (let epoch = 0; epoch <= newest; epoch++) {
    const bus = await reading(t, dir, { untilEpoch: epoch })
    t.match(bus.status(), { epoch, digest: states[epoch]!.digest })
    await bus.close()
  }
})

t.test('a log that is damaged later can be read before the damage', async (t) => {
  const dir = folder(t)
  await filled(dir)
  const log = path.join(dir, 'log')
  const last = path.join(log, fs.readdirSync(log).sort().at(-1)!)
  const first = Number(path.basename(last, '.seg'))
  const bytes = fs.readFileSync(last)
  bytes[Math.floor(bytes.length / 2)]! ^= 1
  bytes[bytes.length - 5000]! ^= 1
  fs.writeFileSync(last, bytes)
  const before = traces(dir)
  await t.rejects(reading(t, dir), { code: 'BUS_FAILED', message: /not safe to open/ })
  t.equal((await reading(t, dir, { untilEpoch: first - 1 })).read('a')[0], first - 1)
  t.same(traces(dir), before)
})

t.test('readers share a folder; a writer has it alone', async (t) => {
  const dir = folder(t)
  await filled(dir)
  const [one, two] = [await reading(t, dir), await reading(t, dir, { untilEpoch: 30 })]
  t.same([one.read('a')[0], two.read('a')[0]], [EPOCHS, 30])
  await t.rejects(open(t, { dataDir: dir }), { code: 'FOLDER_LOCKED' })
  await one.close()
  await t.rejects(open(t, { dataDir: dir }), { code: 'FOLDER_LOCKED' })
  await two.close()
  const writer = await open(t, { dataDir: dir })
  await t.rejects(reading(t, dir), { code: 'FOLDER_LOCKED' })
  await writer.patch('a', { offset: 0, values: [1] })
})

t.test('what cannot be opened for reading is refused, and not changed', async (t) => {
  const dir = folder(t)
  await t.rejects(reading(t, path.join(dir, 'no')), { code: 'BUS_FAILED', message: /not a data folder/ })
  t.same(fs.readdirSync(dir), [])
  fs.mkdirSync(path.join(dir, 'log'))
  await t.rejects(reading(t, dir), { code: 'BUS_FAILED', message: /its log has no segments/ })
  t.same(fs.readdirSync(dir), ['log'])
  fs.writeFileSync(path.join(dir, 'cut.json'), '{}')
  await t.rejects(reading(t, dir), { code: 'BUS_FAILED', message: /a cut of .* was interrupted/ })
  const invalid: [BusOptions, RegExp][] = [
    [{ readOnly: true }, /there is no dataDir to read/],
    [{ dataDir: dir, untilEpoch: 3 }, /untilEpoch: needs readOnly/],
    [{ dataDir: dir, readOnly: true, untilEpoch: -1 }, /untilEpoch: -1 is not a whole number/],
  ]
  for (const [options, message] of invalid)
    await t.rejects(Bus.open(options), { code: 'INVALID_REQUEST', message })
})

t.test('a folder that is renamed while it is open is no longer read', async (t) => {
  const dir = path.join(folder(t), 'data')
  await filled(dir)
  const bus = await reading(t, dir)
  fs.renameSync(dir, `${dir}-moved`)
  await t.rejects(bus.readAt('a', 3), { code: 'BUS_FAILED', message: /was removed or renamed/ })
  t.match(
    refusal(() => bus.read('a')[0]),
    'accepted',
    'the newest epoch is in memory',
  )
})
