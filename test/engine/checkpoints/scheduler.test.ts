/**
 * When checkpoints are made by themselves: after one that failed, at close, and by age while the clock jumps.
 * The disk is simulated.
 */
import { mock } from 'node:test'
import t from 'tap'
import type { EngineBus } from '../../../src/engine/bus.js'
import {
  CheckpointScheduler,
  type CheckpointSchedulerDeps,
} from '../../../src/engine/checkpoints/scheduler.js'
import type { BusOptions } from '../../../src/engine/types.js'
import {
  CHECKPOINT_EVERY_BYTES,
  CHECKPOINT_EVERY_EPOCHS,
  RETENTION_INTERVAL_MS,
} from '../../../src/limits.js'
import { turn, turns } from '../../lib/wait.js'
import { openOnSim } from '../../support/sim-bus.js'
import { SimDisk } from '../../support/simdisk.js'

/** Commits epochs one by one; after each, what is under way is awaited. */
async function commits(bus: EngineBus, count: number): Promise<void> {
  for (let i = 0; i < count; i++) {
    await bus.patch('x', { offset: 0, values: [bus.epoch + 1] })
    for (let turns = 0; turns < 12; turns++) await turn()
  }
}

const noRoom = (): Error => Object.assign(new Error('ENOSPC: no space left'), { code: 'ENOSPC' })

for (const by of ['epochs', 'bytes'] as const) {
  t.test(
    `an automatic checkpoint by ${by} that fails is tried again after a quarter, and no sooner`,
    async (t) => {
      const attempts: number[] = []
      const warnings: string[] = []
      let failures = 2
      const every = 40
      let bytesPerEpoch = 0
      const openWith = (checkpoints: BusOptions['checkpoints'], disk = new SimDisk()): Promise<EngineBus> =>
        openOnSim(t, {
          disk,
          options: {
            ...(checkpoints === undefined ? {} : { checkpoints }),
            segmentBytes: 1024 ** 2,
            onNotice: ({ message }) => warnings.push(message),
          },
          ask: async (request, handle) => {
            if (request.type === 'begin') attempts.push(bus.epoch)
            if (request.type === 'end' && failures-- > 0) throw noRoom()
            return handle(request)
          },
        })
      let bus = await openWith({ everyEpochs: 0, everyBytes: 0 })
      await bus.create('x', { dtype: 'u32', shape: [2] })
      const sizeOf = (): number => bus.stats().log?.bytes as number
      const before = sizeOf()
      await commits(bus, 1)
      bytesPerEpoch = sizeOf() - before
      await bus.close()
      bus = await openWith(
        by === 'epochs'
          ? { everyEpochs: every, everyBytes: 0 }
          : { everyEpochs: 0, everyBytes: every * bytesPerEpoch },
      )
      await bus.create('x', { dtype: 'u32', shape: [2] })
      await commits(bus, 3 * every)
      // The first record, of a page that is created, has another size than the others.
      const [first = 0, second = 0, third = 0, fourth = 0, ...rest] = attempts
      t.ok(Math.abs(first - every) <= 1, `the first at epoch ${first}`)
      t.same([second - first, third - second], [every / 4, every / 4], 'two tries after a failure')
      t.equal(fourth - third, every, 'then one that succeeds, and the usual distance')
      t.same(rest, [])
      const made = bus.checkpoints().map(({ epoch }) => epoch)
      t.same(made, [third, fourth])
      const failed = warnings.filter((text) => /a checkpoint could not be made: .*no space left/.test(text))
      t.equal(failed.length, 2)
    },
  )
}

t.test('a checkpoint on request after one that failed, and closing while one fails', async (t) => {
  let failing: 'begin' | 'piece' | 'end' | undefined
  const disk = new SimDisk()
  const bus = await openOnSim(t, {
    disk,
    options: { checkpoints: { everyEpochs: 0, everyBytes: 0, atClose: true } },
    ask: async (request, handle) => {
      if (request.type === failing) throw noRoom()
      return handle(request)
    },
  })
  await bus.create('x', { dtype: 'u32', shape: [2] })
  for (failing of ['begin', 'piece', 'end'] as const) {
    await t.rejects(bus.checkpoint(), { code: 'LOG_FULL' }, failing)
    await bus.patch('x', { offset: 0, values: [bus.epoch] })
    t.same(
      disk.files.filter((file) => file.includes('checkpoints/')),
      [],
      'no file is left',
    )
  }
  failing = undefined
  t.match(await bus.checkpoint(), { epoch: bus.epoch })
  const { epoch, digest } = bus.status()
  failing = 'end'
  await bus.patch('x', { offset: 0, values: [5] })
  await bus.close()
  failing = undefined
  const again = await openOnSim(t, { disk })
  t.match(
    again.checkpoints().map((made) => made.epoch),
    [epoch],
  )
  t.equal(again.epoch, epoch + 1)
  t.not(again.status().digest, digest)
})

t.test('by age: elapsed time counts, not what the clock shows', async (t) => {
  mock.timers.enable({ apis: ['setInterval'] })
  t.teardown(() => mock.timers.reset())
  let [ticksMs, clockMs] = [1_000, 1_700_000_000_000]
  let [attempts, isFull] = [0, false]
  const bus = await openOnSim(t, {
    disk: new SimDisk(),
    options: { retention: { maxAgeMs: 400_000 }, checkpoints: { everyEpochs: 0, everyBytes: 0 } },
    host: { nowMs: () => clockMs, ticksMs: () => ticksMs },
    ask: async (request, handle) => {
      if (request.type === 'begin') attempts++
      if (isFull) throw noRoom()
      return handle(request)
    },
  })
  const made = async (): Promise<number> => {
    mock.timers.tick(RETENTION_INTERVAL_MS)
    for (let turns = 0; turns < 20; turns++) await turn()
    return bus.checkpoints().length
  }
  await bus.create('x', { dtype: 'u32', shape: [2] })
  clockMs += 86_400_000
  t.equal(await made(), 0, 'the clock went forward')
  ticksMs += 100_000
  clockMs -= 2 * 86_400_000
  t.equal(await made(), 1, 'a quarter of the age went by')
  ticksMs += 100_000
  t.equal(await made(), 1, 'no epoch since then')
  await commits(bus, 1)
  t.equal(await made(), 2)
  await commits(bus, 1)
  isFull = true
  ticksMs += 100_000
  t.same([await made(), attempts], [2, 3], 'this one fails')
  isFull = false
  ticksMs += 24_999
  t.same([await made(), attempts], [2, 3], 'the next is due after a quarter of the time, and no sooner')
  ticksMs += 1
  t.same([await made(), attempts], [3, 4], 'also when nothing was committed since')
})

/** A scheduler whose log has so much behind its newest checkpoint, and which checkpoints it begins. */
function played(options: BusOptions, { epoch = 1, newest = 0, behindBytes = 0 } = {}) {
  const begun: number[] = []
  const committer = {
    epoch,
    onPublished: () => {},
    idle: () => {
      begun.push(committer.epoch)
      return new Promise<void>(() => {})
    },
  }
  const store = { appendedBytes: 7e9, checkpoints: () => (newest === 0 ? [] : [{ epoch: newest }]) }
  const deps = { options, committer, store, replayedBytes: behindBytes, ticksMs: () => 0 }
  const scheduler = new CheckpointScheduler(deps as unknown as CheckpointSchedulerDeps)
  return { scheduler, committer, store, begun }
}

t.test('how far a checkpoint is from the last one, if nothing is said', async (t) => {
  const begunAt = async (behind: Parameters<typeof played>[1], options = {}): Promise<number> => {
    const { begun } = played(options, behind)
    await turns()
    return begun.length
  }
  t.equal(await begunAt({ epoch: CHECKPOINT_EVERY_EPOCHS - 1 }), 0)
  t.equal(await begunAt({ epoch: CHECKPOINT_EVERY_EPOCHS }), 1)
  t.equal(await begunAt({ epoch: CHECKPOINT_EVERY_EPOCHS + 4, newest: 5 }), 0)
  t.equal(await begunAt({ epoch: CHECKPOINT_EVERY_EPOCHS + 5, newest: 5 }), 1)
  t.equal(await begunAt({ behindBytes: CHECKPOINT_EVERY_BYTES - 1 }), 0)
  t.equal(await begunAt({ behindBytes: CHECKPOINT_EVERY_BYTES }), 1)
  const never = { checkpoints: { everyEpochs: 0, everyBytes: 0 } }
  t.equal(await begunAt({ epoch: 1e9, behindBytes: 1e15 }, never), 0)
  const part = { ...never, retention: { maxEpochs: 40 } }
  t.equal(await begunAt({ epoch: 9 }, part), 0)
  t.equal(await begunAt({ epoch: 10 }, part), 1, 'a quarter of what is kept')
})

t.test('it looks after every epoch, and begins no second one meanwhile', async (t) => {
  const { committer, store, begun } = played({ checkpoints: { everyEpochs: 10, everyBytes: 100 } })
  committer.epoch = 9
  committer.onPublished()
  store.appendedBytes += 99
  committer.onPublished()
  await turns()
  t.same(begun, [])
  store.appendedBytes++
  committer.onPublished()
  await turns()
  committer.epoch = 50
  committer.onPublished()
  await turns()
  t.same(begun, [9])
  const closing = played({ checkpoints: { everyEpochs: 10 } })
  void closing.scheduler.idle()
  closing.committer.epoch = 60
  closing.committer.onPublished()
  await turns()
  t.same(closing.begun, [], 'none when the bus closes')
})

t.test('a checkpoint at close: if it is asked for, and something is new', async (t) => {
  const atClose = async (checkpoints: BusOptions['checkpoints'], behind: object): Promise<number> => {
    const { scheduler, begun } = played(checkpoints === undefined ? {} : { checkpoints }, behind)
    void scheduler.close()
    await turns()
    return begun.length
  }
  t.equal(await atClose(undefined, { epoch: 5 }), 0)
  t.equal(await atClose({ atClose: false }, { epoch: 5 }), 0)
  t.equal(await atClose({ atClose: true }, { epoch: 5 }), 1)
  t.equal(await atClose({ atClose: true }, { epoch: 5, newest: 4 }), 1)
  t.equal(await atClose({ atClose: true }, { epoch: 5, newest: 5 }), 0)
  t.equal(await atClose({ atClose: true }, { epoch: 0 }), 0)
})
