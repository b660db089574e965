/**
 * Messages of many frames: each frame is a transaction of its own, answered under its number, as if it
 * had come alone.
 */

import t, { type Test } from 'tap'
import { EngineBus } from '../../../src/engine/bus.js'
import type { Sender } from '../../../src/engine/types.js'
import type { MmsbError } from '../../../src/errors.js'
import { Bus } from '../../../src/index.js'
import { QUEUE_MAX_TRANSACTIONS, RUN_FRAME_MAX_BYTES } from '../../../src/limits.js'
import { FrameWriter, type FrameWriterOptions } from '../../../src/state/frame/writer.js'
import type { DeltaInput } from '../../../src/state/types.js'
import { bytesOf } from '../../lib/bytes.js'
import { Draw } from '../../lib/draw.js'
import { folder } from '../../lib/folder.js'
import { turn } from '../../lib/wait.js'
import { Scheduler, SIM_DIR, SimCatalog, simWorld } from '../../support/sim-world.js'
import { SimDisk } from '../../support/simdisk.js'

const ELEMENTS = 64

async function open(t: Test, dataDir?: string): Promise<Bus> {
  const bus = await Bus.open({ backend: 'cpu', threads: 1, ...(dataDir === undefined ? {} : { dataDir }) })
  t.teardown(() => bus.close())
  return bus
}

function frame(pageId: number, input: DeltaInput, options: FrameWriterOptions = {}): Uint8Array {
  const writer = new FrameWriter(options)
  writer.delta(pageId, 'f32', 2 ** 20, input)
  return Uint8Array.from(writer.finish())
}

/** Hears of every number once; `all` resolves when it heard of so many. */
class Listener implements Sender {
  readonly answers = new Map<number, number | string>()
  bytes = 0
  twice = 0
  #wake = (): void => {}

  committed(first: number, count: number, bytes: number, epoch: number): void {
    this.bytes += bytes
    for (let i = 0; i < count; i++) this.#answer(first + i, epoch)
  }
  failed(first: number, count: number, bytes: number, error: unknown): void {
    this.bytes += bytes
    for (let i = 0; i < count; i++) this.#answer(first + i, (error as MmsbError).code)
  }
  refused(number: number, error: unknown): void {
    this.#answer(number, (error as MmsbError).code)
  }
  #answer(number: number, answer: number | string): void {
    if (this.answers.has(number)) this.twice++
    this.answers.set(number, answer)
    this.#wake()
  }
  async all(count: number): Promise<void> {
    while (this.answers.size < count) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
  }
}

const isEpoch = (answer: number | string | undefined): boolean => typeof answer === 'number'

t.test('a message does what its frames do one by one', async (t) => {
  const [together, alone] = [await open(t), await open(t)]
  const draw = new Draw(11)
  for (const bus of [together, alone]) {
    for (const name of ['a', 'b']) await bus.create(name, { dtype: 'f32', shape: [ELEMENTS] })
    await bus.create('flags', { dtype: 'bool', shape: [ELEMENTS] })
    await bus.derive('sum', { op: 'map', inputs: { a: 'a', b: 'b' }, expr: 'a + b' })
  }
  const [a, b, flags, sum] = ['a', 'b', 'flags', 'sum'].map((name) => together.page(name).id) as [
    number,
    number,
    number,
    number,
  ]
  const kinds: (() => Uint8Array)[] = [
    () => frame(draw.int(0, 1) === 0 ? a : b, { offset: draw.int(0, 62), values: [draw.int(0, 9), 1] }),
    () => frame(a, { offset: draw.int(0, 60), values: [1, 2, 3], merge: 'add' }),
    () => frame(b, { indices: [draw.int(0, 63)], values: [draw.int(0, 9)] }),
    () => frame(a, { offset: draw.int(60, 70), values: [5, 6] }),
    () => frame(a, { values: [7] }, { source: 'feed', intent: { n: 1 } }),
    () => frame(a, { values: [1], merge: 'add' }, { key: `k${draw.int(0, 5)}` }),
    () => frame(sum, { values: [1] }),
    () => frame(flags, { values: [1] }),
    () => frame(999, { values: [1] }),
    () => new FrameWriter().finish(),
    () => {
      const writer = new FrameWriter()
      writer.delta(a, 'f32', ELEMENTS, { values: [draw.int(0, 9)] })
      writer.delta(b, 'f32', ELEMENTS, { offset: 3, values: [draw.int(0, 9)] })
      writer.delta(a, 'f32', ELEMENTS, { offset: 9, values: [1] })
      return writer.finish()
    },
  ]
  const listener = new Listener()
  const expected: boolean[] = []
  let [next, bytes, told] = [1, 0, 0]
  for (let round = 0; round < 60; round++) {
    const frames = Array.from({ length: draw.int(1, 40) }, () =>
      kinds[draw.int(0, 3) > 0 ? 0 : draw.int(0, 10)]!(),
    )
    const tail = round % 7 === 0 ? [Buffer.from('this is no frame, and so the rest is not either')] : []
    const taken = together.submitAll(listener, next, Buffer.concat([...frames, ...tail]))
    t.equal(taken.numbers, frames.length + tail.length)
    next += taken.numbers
    bytes += taken.bytes
    for (const one of frames) {
      const isDone = alone.submit.bind(alone)
      expected.push(
        await Promise.resolve()
          .then(() => isDone(one))
          .then(
            () => true,
            () => false,
          ),
      )
    }
    if (tail.length > 0) expected.push(false)
    if (round % 3 === 0) await listener.all(expected.length)
    told += taken.frames
  }
  await listener.all(expected.length)
  const answers = [...listener.answers].sort(([x], [y]) => x - y)
  t.same(
    answers.map(([, answer]) => isEpoch(answer)),
    expected,
  )
  t.same(
    answers.map(([number]) => number),
    expected.map((_, i) => i + 1),
  )
  t.equal(listener.twice, 0, 'none twice')
  t.equal(listener.bytes, bytes, 'what was taken is what was told of')
  t.ok(told <= expected.length && told > expected.filter(Boolean).length - 1)
  for (const name of ['a', 'b', 'flags', 'sum']) t.same(together.read(name), alone.read(name), name)
})

t.test('plain frames of a message are queued together, also to one page in a row', async (t) => {
  const bus = await open(t)
  for (const name of ['a', 'b']) await bus.create(name, { dtype: 'f32', shape: [ELEMENTS] })
  const [a, b] = [bus.page('a').id, bus.page('b').id]
  const answers: [first: number, count: number][] = []
  let heard = 0
  const sender: Sender = {
    committed: (first, count) => {
      answers.push([first, count])
      heard += count
    },
    failed: (_first, _count, _bytes, error) => t.error(error as Error),
    refused: (_number, error) => t.error(error as Error),
  }
  const input = { offset: 0, values: [1, 2] }
  const sent = [a, a, a, b, b, a].map((id) => frame(id, input))
  t.same(bus.submitAll(sender, 1, Buffer.concat(sent)), { numbers: 6, frames: 6, bytes: 6 * sent[0]!.length })
  while (heard < sent.length) await turn()
  t.same(answers, [[1, 6]], 'one answer for all')
})

t.test('frames to a page that is deleted before them are refused, the others are not', async (t) => {
  const bus = await open(t)
  await bus.create('doomed', { dtype: 'f32', shape: [4] })
  await bus.create('stays', { dtype: 'f32', shape: [4] })
  const [doomed, stays] = [bus.page('doomed').id, bus.page('stays').id]
  const listener = new Listener()
  const deleted = bus.delete('doomed')
  const message = [stays, doomed, stays, doomed].map((id, i) => frame(id, { offset: i, values: [i + 1] }))
  t.match(bus.submitAll(listener, 5, Buffer.concat(message)), { numbers: 4, frames: 4 })
  await deleted
  await listener.all(4)
  t.match(
    [...listener.answers.entries()].sort(([x], [y]) => x - y),
    [
      [5, Number],
      [6, 'PAGE_NOT_FOUND'],
      [7, Number],
      [8, 'PAGE_NOT_FOUND'],
    ],
  )
  t.same(bus.read('stays'), Float32Array.of(1, 0, 3, 0))
  t.match(bus.stats(), { queue: { transactions: 0, bytes: 0 } })
})

t.test('messages of any length: pieces, frames longer than a piece, frames that are cut', async (t) => {
  const bus = await open(t)
  await bus.create('p', { dtype: 'f32', shape: [2 ** 20] })
  const { id } = bus.page('p')
  const small = frame(id, { offset: 1, values: [1], merge: 'add' })
  const values = (count: number) => new Float32Array(count).fill(1)
  const exact = frame(id, { offset: 1, values: values((RUN_FRAME_MAX_BYTES - 64) / 4), merge: 'add' })
  t.equal(exact.length, RUN_FRAME_MAX_BYTES)
  const longer = frame(id, { offset: 1, values: values(RUN_FRAME_MAX_BYTES), merge: 'add' })
  const fill = (count: number): Uint8Array[] => Array(count).fill(small)
  const messages = [
    fill(3000),
    [small, exact, small],
    [exact, exact],
    [longer, small],
    [small, longer, longer, exact, small],
    [...fill(Math.floor(RUN_FRAME_MAX_BYTES / small.length) - 1), exact, longer, small],
  ]
  let [next, added] = [1, 0]
  for (const frames of messages) {
    const listener = new Listener()
    t.match(bus.submitAll(listener, next, Buffer.concat(frames)), {
      numbers: frames.length,
      frames: frames.length,
    })
    await listener.all(frames.length)
    added += frames.length
    t.ok([...listener.answers.values()].every(isEpoch))
    t.equal(bus.read('p', { offset: 1, count: 1 })[0], added)
    next += frames.length
  }
  for (const cut of [1, 31, 33, longer.length - 8]) {
    const listener = new Listener()
    const message = Buffer.concat([small, longer.subarray(0, cut)])
    t.match(bus.submitAll(listener, 1, message), { numbers: 2, frames: 1 }, `cut at ${cut}`)
    await listener.all(2)
    t.equal(listener.answers.get(2), 'INVALID_REQUEST')
  }
  t.equal(bus.read('p', { offset: 1, count: 1 })[0], added + 4)
})

t.test('what does not fit the queue is refused, what did is committed', async (t) => {
  const bus = await open(t)
  await bus.create('p', { dtype: 'f32', shape: [4] })
  const one = frame(bus.page('p').id, { offset: 1, values: [1], merge: 'add' })
  const count = QUEUE_MAX_TRANSACTIONS + 100
  const listener = new Listener()
  t.match(bus.submitAll(listener, 1, Buffer.concat(Array(count).fill(one))), {
    numbers: count,
    frames: QUEUE_MAX_TRANSACTIONS,
  })
  t.equal(listener.answers.size, 100)
  t.equal(listener.answers.get(count), 'OVERLOADED')
  await listener.all(count)
  t.equal(bus.read('p')[1], QUEUE_MAX_TRANSACTIONS)
  t.ok(bus.epoch > 2, 'in several epochs')
  await bus.close()
  t.match(bus.submitAll(listener, count + 1, one), { numbers: 1, frames: 0 })
  t.equal(listener.answers.get(count + 1), 'BUS_FAILED')
})

t.test('what was logged is what was sent: memory that is used again has been written before', async (t) => {
  const dir = folder(t)
  const bus = await Bus.open({ dataDir: dir, backend: 'cpu', threads: 1 })
  await bus.create('p', { dtype: 'f32', shape: [2 ** 20] })
  const { id } = bus.page('p')
  const draw = new Draw(3)
  const senders = Array.from({ length: 4 }, () => new Listener())
  const next = senders.map(() => 1)
  for (let round = 0; round < 120; round++) {
    const [at, which] = [draw.int(0, 2 ** 20 - 9000), draw.int(0, 3)]
    const frames = Array.from({ length: draw.int(1, 30) }, (_, i) =>
      frame(id, { offset: at + i * 300, values: new Float32Array(draw.int(1, 300)).fill(round) }),
    )
    next[which]! += bus.submitAll(senders[which]!, next[which]!, Buffer.concat(frames)).numbers
    // A read publishes the epoch in flight before its write has come back.
    if (round % 3 === 0) bus.read('p', { count: 1 })
    if (round % 5 === 0) await turn()
  }
  for (const [i, sender] of senders.entries()) await sender.all(next[i]! - 1)
  const { epoch, digest } = bus.status()
  const values = bus.read('p')
  await bus.close()
  const again = await open(t, dir)
  t.match(again.status(), { epoch, digest })
  t.ok(bytesOf(again.read('p')).equals(bytesOf(values)))
  t.match(await again.verify(), { ok: true })
})

t.test(
  "what a late write still reads is nobody else's: large records, published before they come back",
  async (t) => {
    const draw = new Draw(5)
    const scheduler = new Scheduler(draw)
    const disk = new SimDisk({ schedule: scheduler.add })
    const catalog = new SimCatalog()
    const checkpoints = { everyEpochs: 0, everyBytes: 0, atClose: false }
    const options = { dataDir: SIM_DIR, backend: 'cpu', threads: 1, checkpoints } as const
    const openAgain = (): Promise<EngineBus> =>
      scheduler.until(EngineBus.open(options, simWorld(disk, catalog, scheduler, draw)))
    const bus = await openAgain()
    await scheduler.until(bus.create('p', { dtype: 'f32', shape: [2 ** 17] }))
    const { id } = bus.page('p')
    const listener = new Listener()
    const count = 12
    // Together nearly a slab, so that the next message takes the same memory.
    const message = (round: number): Uint8Array =>
      Buffer.concat(
        Array.from({ length: count }, (_, i) =>
          frame(id, { offset: i * 10_000, values: new Float32Array(10_000).fill(round * count + i + 1) }),
        ),
      )
    const rounds = 4
    let early = 0
    for (let round = 0; round < rounds; round++) {
      bus.submitAll(listener, round * count + 1, message(round))
      while (listener.answers.size < (round + 1) * count) {
        await scheduler.step()
        // As soon as the write is under way, the read makes it durable and publishes it; the write itself
        // comes later.
        const { epoch } = bus
        bus.read('p', { count: 1 })
        if (bus.epoch > epoch) early++
      }
    }
    t.equal(early, rounds, 'each was published before its write had come back')
    const { epoch, digest } = bus.status()
    await scheduler.until(bus.close())
    const again = await openAgain()
    t.match(again.status(), { epoch, digest })
    t.equal(again.read('p', { offset: 110_000, count: 1 })[0], rounds * count)
    await scheduler.until(again.close())
  },
)
