/**
 * Checkpoints while commits run, by themselves and at close, and what is kept of the past: each checkpoint is
 * exactly the state of its epoch, and every epoch at or above minEpoch stays exact.
 */
import { readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { Snapshot } from '../../../src/engine/checkpoints/snapshot.js'
import type { BusOptions } from '../../../src/engine/types.js'
import { Bus } from '../../../src/index.js'
import { openCheckpointFile } from '../../../src/store/checkpoint/file-reader.js'
import { checkpointEpochs, checkpointFolder } from '../../../src/store/checkpoint/folder.js'
import type { CheckpointInfo } from '../../../src/store/types.js'
import { Draw } from '../../lib/draw.js'
import { folder } from '../../lib/folder.js'

const open = (dataDir: string, options: Partial<BusOptions> = {}): Promise<Bus> =>
  Bus.open({ dataDir, backend: 'cpu', threads: 2, fsync: 'off', ...options })

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')

const ELEMENTS = 640 * 1024

async function fill(bus: Bus): Promise<void> {
  await bus.create('still', { dtype: 'f32', shape: [100_000], fill: 7 })
  await bus.create('large', { dtype: 'f32', shape: [ELEMENTS] })
  await bus.derive('twice', { op: 'map', inputs: { x: 'large' }, expr: 'x * 2 + 1' })
  await bus.create('small', { dtype: 'i32', shape: [10] })
  await bus.derive('was', { op: 'map', inputs: { x: 'large' }, expr: 'x - prev(x)' })
  const values = Float32Array.from({ length: ELEMENTS }, (_, i) => Math.fround(Math.sin(i)))
  await bus.patch('large', { values })
}

/** Commits of all kinds until told to stop; the digest after each epoch. */
async function churn(
  bus: Bus,
  draw: Draw,
  digests: Map<number, string>,
  goesOn: () => boolean,
): Promise<void> {
  const end = bus.onCommit(({ epoch }) => digests.set(epoch, bus.status().digest))
  for (let round = bus.epoch; goesOn(); round++) {
    const from = draw.int(0, ELEMENTS - 5000)
    const kind = draw.int(0, 9)
    if (kind === 0) {
      await bus.patch('large', { values: new Float32Array(ELEMENTS).fill(round) })
    } else if (kind === 1) {
      await bus.whatIf({ ops: [{ page: 'large', offset: from, values: [round] }], read: ['small'] })
      await bus.create(`extra${round}`, { dtype: 'u8', shape: [draw.int(1, 300_000)], fill: 3 })
    } else if (kind === 2 && bus.hasPage('was')) {
      await bus.delete('was')
    } else if (kind === 3) {
      await bus.defineFunction('f', { params: ['x'], expr: `x + ${round}` })
      if (!bus.hasPage('used')) await bus.derive('used', { op: 'map', inputs: { x: 'large' }, expr: 'f(x)' })
    } else {
      const writes = Array.from({ length: draw.int(1, 4) }, () => ({
        page: 'large',
        offset: draw.int(0, ELEMENTS - 5000),
        values: Array.from({ length: draw.int(1, 5000) }, () => round),
      }))
      await bus.transact({
        ops: [...writes, { page: 'small', indices: [draw.int(0, 9)], values: [1], merge: 'add' }],
      })
    }
  }
  end()
}

t.test('a checkpoint is of the epoch it began at, whatever is committed meanwhile', async (t) => {
  for (const seed of [1, 2]) {
    const dir = folder(t)
    const bus = await open(dir)
    await fill(bus)
    const digests = new Map<number, string>([[bus.epoch, bus.status().digest]])
    const draw = new Draw(seed)
    const made: number[] = []
    for (let i = 0; i < 3; i++) {
      let goesOn = true
      const churned = churn(bus, draw, digests, () => goesOn)
      const { epoch } = await bus.checkpoint()
      goesOn = false
      await churned
      t.ok(bus.epoch > epoch, `seed ${seed}: commits went on, ${bus.epoch - epoch} epochs`)
      made.push(epoch)
      // A checkpoint is loaded with its digest checked against its bytes.
      const { pages } = await bus.readMany(['large', 'small'], { epoch })
      t.equal(pages.large?.values.length, ELEMENTS)
    }
    const { epoch, digest } = bus.status()
    await bus.close()
    const place = checkpointFolder(join(dir, 'checkpoints'))
    for (const at of made) {
      const file = openCheckpointFile(place, at, undefined)
      if (typeof file === 'string') throw new Error(file)
      if (digests.has(at)) t.equal(hex(file.header.digest), digests.get(at), `seed ${seed}, epoch ${at}`)
      file.close()
    }
    const again = await open(dir)
    t.match(again.status(), { epoch, digest }, `seed ${seed}: recovered from a checkpoint`)
    await again.close()
  }
})

t.test('only chunks that changed are written, and files that nobody needs go', async (t) => {
  const dir = folder(t)
  const bus = await open(dir)
  await bus.create('large', { dtype: 'u8', shape: [64 * 1024 * 60] })
  await bus.create('still', { dtype: 'u8', shape: [64 * 1024 * 30] })
  const draw = new Draw(5)
  const noise = (length: number): Uint8Array => Uint8Array.from({ length }, () => draw.int(0, 255))
  await bus.patch('large', { values: noise(64 * 1024 * 60) })
  await bus.patch('still', { values: noise(64 * 1024 * 30) })
  const first = await bus.checkpoint()
  t.equal(first.newBytes, 90 * 64 * 1024, 'all of it')
  for (let i = 0; i < 3; i++) await bus.patch('large', { offset: i * 64 * 1024 * 7, values: noise(20) })
  const second = await bus.checkpoint()
  t.equal(second.bytes, first.bytes)
  t.equal(second.newBytes, 3 * 64 * 1024, '3 chunks')
  t.match(await bus.checkpoint(), { epoch: second.epoch, newBytes: 0 }, 'the same epoch once more')
  await bus.transact({ ops: [] })
  t.match(await bus.checkpoint(), { epoch: second.epoch + 1, newBytes: 0 }, 'an epoch that changed nothing')
  for (let round = 0; round < 12; round++) {
    const page = round % 5 === 4 ? 'still' : 'large'
    for (let i = 0; i < 12; i++) {
      const offset = draw.int(0, page === 'still' ? 29 : 59) * 64 * 1024
      await bus.patch(page, { offset, values: noise(64 * 1024) })
    }
    await bus.checkpoint()
  }
  const listed = bus.checkpoints()
  t.ok(listed.length <= 32, `${listed.length} checkpoints`)
  t.equal(listed[0]?.epoch, first.epoch, 'the oldest is kept')
  const { epoch, digest } = bus.status()
  t.match(await bus.verify(), { ok: true, problems: [] })
  await bus.close()
  const place = checkpointFolder(join(dir, 'checkpoints'))
  t.same(
    checkpointEpochs(place).reverse(),
    listed.map((info) => info.epoch),
  )
  const again = await open(dir)
  t.match(again.status(), { epoch, digest })
  t.same(again.checkpoints(), listed)
  await again.close()
  rmSync(join(dir, 'catalog.db'))
  const rebuilt = await open(dir)
  const sizes = (infos: readonly CheckpointInfo[]) => infos.map(({ ms: _, file: __, ...sizes }) => sizes)
  t.same(sizes(rebuilt.checkpoints()), sizes(listed), 'from the files alone')
  t.ok(listed.every(({ bytes, newBytes }) => newBytes <= bytes))
  await rebuilt.close()
})

t.test('zeros written over a page that was created with a fill', async (t) => {
  const dataDir = folder(t)
  const bus = await open(dataDir)
  await bus.create('page', { dtype: 'f32', shape: [40_000], fill: 1 })
  await bus.create('same', { dtype: 'f32', shape: [40_000], fill: 1 })
  await bus.derive('sum', { op: 'map', inputs: { a: 'page', b: 'same' }, expr: 'a + b' })
  await bus.patch('page', { values: new Float32Array(40_000) })
  await bus.checkpoint()
  const { digest } = bus.status()
  await bus.close()
  const again = await open(dataDir)
  t.equal(again.status().digest, digest)
  t.same([...again.read('page')].slice(-1), [0])
  t.same([...again.read('sum')].slice(-1), [1])
  t.match(
    await again.create('page', { dtype: 'f32', shape: [40_000], fill: 1 }),
    { created: false },
    'the definition is the same',
  )
  await again.close()
})

t.test('checkpoints are made by themselves, after epochs, after bytes, and at close', async (t) => {
  const dir = folder(t)
  const bus = await open(dir, { checkpoints: { everyEpochs: 20, everyBytes: 0 } })
  await bus.create('a', { dtype: 'u8', shape: [100_000] })
  for (let i = 0; i < 100; i++) {
    await bus.patch('a', { offset: i, values: [1] })
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
  await bus.close()
  const epochs = bus.checkpoints().map(({ epoch }) => epoch)
  t.ok(epochs.length >= 1 && (epochs[0] ?? 0) >= 20, String(epochs))

  const second = await open(dir, { checkpoints: { everyEpochs: 0, everyBytes: 300_000, atClose: true } })
  const before = second.checkpoints().at(-1)?.epoch ?? 0
  for (let i = 0; i < 20; i++) await second.patch('a', { values: new Uint8Array(100_000).fill(i) })
  await new Promise((resolve) => setTimeout(resolve, 300))
  await second.patch('a', { offset: 3, values: [9] })
  await second.close()
  const made = second.checkpoints().filter(({ epoch }) => epoch > before)
  t.ok(made.length >= 2, 'by bytes and at close')
  t.equal(made.at(-1)?.epoch, second.epoch)
  const third = await open(dir, { checkpoints: { atClose: true } })
  await third.close()
  t.same(third.checkpoints(), second.checkpoints(), 'nothing new, no new checkpoint')
})

t.test('retention: what is kept stays exact, what is gone says so', async (t) => {
  const dir = folder(t)
  const options = {
    segmentBytes: 64 * 1024,
    retention: { maxEpochs: 150 },
    checkpoints: { everyEpochs: 0, everyBytes: 0 },
  }
  const bus = await open(dir, options)
  await bus.create('a', { dtype: 'f64', shape: [2000] })
  await bus.derive('b', { op: 'map', inputs: { a: 'a' }, expr: 'a + 1' })
  const digests = new Map<number, number>()
  let needed: number | undefined
  const release = bus.holdHistory(() => needed)
  const write = async (count: number): Promise<void> => {
    for (let i = 0; i < count; i++) {
      const { epoch } = await bus.patch('a', {
        offset: i % 100,
        values: Array.from({ length: 300 }, () => bus.epoch),
      })
      digests.set(
        epoch,
        (bus.read('b') as Float64Array).reduce((sum, x) => sum + x, 0),
      )
    }
  }
  await write(100)
  await bus.checkpoint()
  t.equal(bus.minEpoch, 0, 'one checkpoint only: everything is kept')
  needed = 102
  for (let round = 0; round < 8; round++) {
    await write(60)
    await bus.checkpoint()
  }
  t.ok(bus.minEpoch <= 102, `a reader holds ${bus.minEpoch}`)
  release()
  await write(60)
  await bus.checkpoint()
  const { minEpoch } = bus.status()
  t.ok(minEpoch > 150 && minEpoch <= bus.epoch - 150, `minEpoch ${minEpoch} of ${bus.epoch}`)
  await t.rejects(bus.readAt('b', minEpoch - 1), { code: 'EPOCH_COMPACTED', extra: { minEpoch } })
  await t.rejects(bus.epochInfo(minEpoch - 1), { code: 'EPOCH_COMPACTED', extra: { minEpoch } })
  await t.rejects(bus.epochInfo(minEpoch), { code: 'EPOCH_COMPACTED', extra: { minEpoch: minEpoch + 1 } })
  t.equal((await bus.epochInfo(minEpoch + 1)).epoch, minEpoch + 1)
  for (const from of [minEpoch, minEpoch + 1])
    t.equal((await bus.epochs({ from })).epochs[0]?.epoch, minEpoch + 1, `from ${from}`)
  await t.rejects(bus.epochs({ from: minEpoch - 1 }), { code: 'EPOCH_COMPACTED', extra: { minEpoch } })
  for (let epoch = bus.epoch; epoch >= minEpoch; epoch -= 13) {
    const values = (await bus.readAt('b', epoch)) as Float64Array
    t.equal(
      values.reduce((sum, x) => sum + x, 0),
      digests.get(epoch),
      `epoch ${epoch}`,
    )
  }
  t.match(await bus.verify(), { ok: true, from: minEpoch, problems: [] })
  const files = readdirSync(join(dir, 'log')).length
  t.ok(files < 40, `${files} segments`)
  const { epoch, digest } = bus.status()
  await bus.close()
  const again = await open(dir, options)
  t.match(again.status(), { epoch, digest, minEpoch })
  t.same(await again.readAt('b', minEpoch), await again.readAt('b', minEpoch))
  await again.close()
})

t.test('canary: without copies of what is overwritten, a checkpoint is noticed to be wrong', async (t) => {
  const { absorb } = Snapshot.prototype
  t.teardown(() => {
    Snapshot.prototype.absorb = absorb
  })
  Snapshot.prototype.absorb = () => {}
  const bus = await open(folder(t))
  await fill(bus)
  let noticed: unknown
  for (let attempt = 0; attempt < 20 && noticed === undefined; attempt++) {
    let goesOn = true
    const churned = churn(bus, new Draw(attempt), new Map(), () => goesOn)
    const { epoch } = await bus.checkpoint()
    goesOn = false
    await churned
    // A read of one page replays only what that page needs; verification compares the whole state.
    const found = await bus.verify({ from: epoch, to: epoch }).catch((error: unknown) => error)
    if (found instanceof Error || (found as { ok: boolean }).ok !== true) noticed = found
  }
  t.match(noticed, { ok: false, divergence: { detail: /diverges/ } })
  await bus.close()
})

t.test('how far a checkpoint is', async (t) => {
  const notices: string[] = []
  const bus = await open(folder(t), { onNotice: ({ message }) => notices.push(message) })
  t.teardown(() => bus.close())
  await fill(bus)
  const percents: number[] = []
  await bus.checkpoint({ onProgress: (percent) => percents.push(percent) })
  t.ok(percents.length >= 3, `${percents.length} times`)
  t.ok(percents.some((percent) => percent > 0 && percent < 100))
  t.equal(percents.at(-1), 100)
  t.same(
    percents,
    [...percents].sort((a, b) => a - b),
  )
  await bus.delete('small')
  await bus.checkpoint({
    onProgress: () => {
      throw new Error('boom')
    },
  })
  t.equal(bus.checkpoints().length, 2, 'a listener that throws does no harm')
  t.match(notices[0], /^onProgress of checkpoint has thrown: Error: boom/)
  await t.rejects(bus.checkpoint({ onProgress: 5 } as never), { code: 'INVALID_REQUEST' })
})
