/**
 * Every state around void epochs can be read back, forwards, backwards and of single pages, from the log and
 * from checkpoints; the exported events are those that were live; keys of void epochs are free.
 */
import { join } from 'node:path'
import t from 'tap'
import { events, eventsIn } from '../../../src/cli/commands/events.js'
import { Timeline } from '../../../src/engine/history/timeline.js'
import { hex } from '../../../src/engine/pages/describe.js'
import { crc32c } from '../../../src/ffi/library.js'
import { HistoryReader } from '../../../src/store/history.js'
import { folder } from '../../lib/folder.js'
import {
  CANCELS_AT_ONCE,
  createPages,
  type EpochState,
  fillWithVoids,
  isCancelled,
  openVoids,
  stateOf,
  voidRound,
} from '../../lib/void-epochs.js'

t.setTimeout(120_000)

t.test('a timeline at every epoch, in every order', async (t) => {
  const dir = folder(t)
  const { states, newest } = await fillWithVoids(dir, 2)
  const reader = new HistoryReader({ dir, crc32c, isOffline: true })
  t.teardown(() => reader.close())
  const timeline = new Timeline({ reader })
  t.teardown(() => timeline.close())
  const forwards = states.map((_, epoch) => epoch)
  const jumps = forwards.map((epoch) => (epoch * 7) % (newest + 1))
  for (const epoch of [...forwards, ...forwards.toReversed(), ...jumps]) {
    timeline.seek(epoch)
    t.equal(hex(timeline.digest), states[epoch]!.digest, `epoch ${epoch}`)
  }
})

t.test('pages of past epochs, with a checkpoint at a void epoch', async (t) => {
  const dataDir = folder(t)
  const first = await openVoids(dataDir)
  const states: EpochState[] = [stateOf(first, false)]
  await createPages(first, (isVoid) => states.push(stateOf(first, isVoid)))
  await first.close()
  const bus = await openVoids(dataDir, CANCELS_AT_ONCE)
  t.teardown(() => bus.close())
  const waiting: Promise<unknown>[] = []
  for (let round = 1; round <= 2; round++) {
    await voidRound(bus, round, (isVoid) => {
      states.push(stateOf(bus, isVoid))
      if (isVoid && states.length % 3 === 0) waiting.push(bus.checkpoint())
    })
  }
  t.ok(waiting.length > 0)
  await Promise.all(waiting)
  const epochs = states.map((_, epoch) => epoch).slice(2)
  for (const epoch of [...epochs, ...epochs.toReversed()]) {
    for (const name of ['step', 'a', 'total']) {
      const values = states[epoch]!.pages[name]
      if (values !== undefined) t.same(await bus.readAt(name, epoch), values, `${name} at ${epoch}`)
    }
  }
  t.match(await bus.verify(), { ok: true, problems: [] })
})

t.test('exported events are the live ones', async (t) => {
  const dataDir = folder(t)
  const first = await openVoids(dataDir)
  await createPages(first, () => {})
  await first.close()
  const bus = await openVoids(dataDir, CANCELS_AT_ONCE)
  const from = bus.epoch + 1
  const live: unknown[] = []
  bus.onCommit(({ epoch, timestampMs, changes }) => {
    live.push({ epoch, timestampMs, changes: changes.map(({ page, kind }) => `${kind} ${page}`) })
  })
  let voids = 0
  await voidRound(bus, 2, (isVoid) => {
    if (isVoid) voids++
  })
  await bus.close()
  t.ok(voids > 0)
  const file = join(folder(t), 'all.events')
  await events(['export', file, '--data-dir', dataDir, '--from', String(from)])
  const exported = [...eventsIn(file)].map(({ epoch, timestampMs, changes }) => {
    return { epoch, timestampMs, changes: changes.map(({ page, kind }) => `${kind} ${page}`) }
  })
  t.same(exported, live)
})

t.test('the key of a cancelled write is free, at once and after a start', async (t) => {
  const dataDir = folder(t)
  const first = await openVoids(dataDir)
  await createPages(first, () => {})
  await first.close()
  let bus = await openVoids(dataDir, CANCELS_AT_ONCE)
  t.ok(await isCancelled(bus.patch('x', { offset: 0, values: [5] }, { key: 'a' })))
  t.ok(await isCancelled(bus.patch('x', { offset: 0, values: [6] }, { key: 'b' })))
  const { epoch } = bus
  // Another content under the same key would be refused if the key were known.
  t.equal((await bus.patch('a', { offset: 0, values: [1] }, { key: 'a' })).epoch, epoch + 1)
  await bus.close()
  bus = await openVoids(dataDir)
  t.equal((await bus.patch('a', { offset: 0, values: [1] }, { key: 'a' })).epoch, epoch + 1, 'answered again')
  t.equal((await bus.patch('a', { offset: 0, values: [2] }, { key: 'b' })).epoch, epoch + 2)
  await bus.checkpoint()
  await bus.close()
  bus = await openVoids(dataDir)
  t.equal((await bus.patch('a', { offset: 0, values: [2] }, { key: 'b' })).epoch, epoch + 2)
  await bus.close()
})
