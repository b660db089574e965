/** A clock that jumps is reported, and the times of epochs ascend all the same. */
import t, { type Test } from 'tap'
import { EngineBus } from '../../src/engine/bus.js'
import { REAL_HOST } from '../../src/engine/host.js'
import type { BusOptions } from '../../src/engine/types.js'
import { CLOCK_JUMP_MS } from '../../src/limits.js'
import { Draw } from '../lib/draw.js'
import { folder } from '../lib/folder.js'
import { CANCELS_AT_ONCE, createPages, isCancelled } from '../lib/void-epochs.js'

/** A bus whose clock the test sets. */
async function withClock(t: Test, dataDir: string, startMs: number, more: BusOptions = {}) {
  const clock = { wallMs: startMs, ticksMs: 0 }
  const warnings: string[] = []
  const host = { ...REAL_HOST, nowMs: () => clock.wallMs, ticksMs: () => clock.ticksMs }
  const onNotice = ({ level, message }: { level: string; message: string }) => {
    if (level === 'warn' && message.includes('the clock')) warnings.push(message)
  }
  const options: BusOptions = { dataDir, backend: 'cpu', threads: 1, fsync: 'off', onNotice, ...more }
  const bus = await EngineBus.open(options, host)
  t.teardown(() => bus.close())
  const pass = (wallMs: number, ticksMs = wallMs): void => {
    clock.wallMs += wallMs
    clock.ticksMs += ticksMs
  }
  return { bus, warnings, pass }
}

const timesOf = async (bus: EngineBus): Promise<string[]> =>
  (await bus.epochs({ from: 1 })).epochs.map(({ timestamp }) => timestamp)

t.test('a jump is reported once with both times; epochs ascend', async (t) => {
  const startMs = Date.parse('2026-01-01T12:00:00.000Z')
  const dataDir = folder(t)
  const { bus, warnings, pass } = await withClock(t, dataDir, startMs)
  await bus.create('a', { dtype: 'u8', shape: [1] })
  const write = async (wallMs: number, ticksMs = wallMs): Promise<void> => {
    pass(wallMs, ticksMs)
    await bus.patch('a', { values: [bus.epoch] })
  }
  await write(60_000)
  await write(1_000, 3_000)
  t.same(warnings, [], 'a slow adjustment is no jump')
  await write(-3_600_000, 1_000)
  t.match(warnings, [
    /jumped back by 3601\.0 s: it shows 2026-01-01T11:01:01\S*, and should show 2026-01-01T12:01:02/,
  ])
  await write(1_000)
  t.equal(warnings.length, 1, 'once')
  await write(7_200_000, 1_000)
  t.match(warnings[1], /jumped forward by 7199\.0 s/)
  const times = await timesOf(bus)
  t.equal(times.length, 6)
  t.same(times, [...times].sort(), 'ascending')
  await bus.close()

  const again = await withClock(t, dataDir, startMs)
  t.match(again.warnings, [/the clock is \S+ s behind the log/])
  await again.bus.patch('a', { values: [9] })
  const later = await timesOf(again.bus)
  t.same(later, [...later].sort(), 'ascending across a restart')
})

t.test('how far the clock may go from what passed', async (t) => {
  for (const way of [1, -1]) {
    const { bus, warnings, pass } = await withClock(t, folder(t), Date.parse('2026-01-01T12:00:00.000Z'))
    await bus.create('a', { dtype: 'u8', shape: [1] })
    pass(100_000 + way * CLOCK_JUMP_MS, 100_000)
    await bus.patch('a', { values: [1] })
    t.same(warnings, [])
    pass(100_000 + way * (CLOCK_JUMP_MS + 1), 100_000)
    await bus.patch('a', { values: [2] })
    t.equal(warnings.length, 1)
  }
})

const START_MS = Date.parse('2026-01-01T12:00:00.000Z')

t.test('each epoch has the latest time that the clock had shown, whatever it did since', async (t) => {
  const dataDir = folder(t)
  const draw = new Draw(3)
  const expected: number[] = []
  let wallMs = START_MS
  let isCheckpointLast = 0
  for (let run = 0; run < 4; run++) {
    // The clock is set while the bus is away, mostly back.
    wallMs += draw.int(-100_000, 20_000)
    const { bus, pass } = await withClock(t, dataDir, wallMs)
    const live: number[] = []
    bus.onCommit(({ epoch, timestampMs }) => {
      live[epoch] = timestampMs
    })
    const from = bus.epoch + 1
    for (let i = 0; i < 12; i++) {
      const ms = draw.pick([0, 1, 40, 60, 5_000, -1, -40, -5_000, -200_000])
      pass(ms)
      wallMs += ms
      expected.push(Math.max(wallMs, expected.at(-1) ?? 0))
      if (bus.epoch === 0) await bus.create('a', { dtype: 'u8', shape: [1] })
      else await bus.patch('a', { values: [draw.int(0, 1)] })
    }
    t.same(live.slice(from), expected.slice(from - 1), `run ${run}: as listeners are told`)
    // Then only the checkpoint knows the time of the newest epoch.
    if (run % 2 === 1) {
      await bus.checkpoint()
      isCheckpointLast++
    }
    await bus.close()
  }
  const { bus } = await withClock(t, dataDir, START_MS - 1e6)
  const written = expected.map((ms) => new Date(ms).toISOString())
  t.same(await timesOf(bus), written, 'as the log has them')
  for (let epoch = bus.epoch; epoch >= 1; epoch -= 7)
    t.equal((await bus.epochInfo(epoch)).timestamp, written[epoch - 1], `epoch ${epoch}, stepping back`)
  const { versions } = await bus.history('a', { from: 1 })
  t.same(
    versions.map(({ epoch, timestamp }) => [epoch, timestamp]),
    versions.map(({ epoch }) => [epoch, written[epoch - 1]]),
  )
  t.ok(versions.length > 15 && isCheckpointLast === 2)
})

t.test('a void epoch keeps the time from going back, also when it is the newest at a restart', async (t) => {
  const dataDir = folder(t)
  const first = await withClock(t, dataDir, START_MS)
  await createPages(first.bus, () => {})
  await first.bus.close()
  const cancelling = await withClock(t, dataDir, START_MS, CANCELS_AT_ONCE)
  cancelling.pass(60_000)
  const write = (value: number) => cancelling.bus.patch('x', { values: [value] })
  t.ok(await isCancelled(write(5)), 'an epoch that became void')
  cancelling.pass(-60_000)
  const { epoch } = await cancelling.bus.patch('a', { values: [1] })
  cancelling.pass(90_000)
  t.ok(await isCancelled(write(6)))
  const newest = cancelling.bus.epoch
  await cancelling.bus.close()
  const again = await withClock(t, dataDir, START_MS)
  await again.bus.patch('a', { values: [2] })
  const times = (await timesOf(again.bus)).map((time) => Date.parse(time) - START_MS)
  t.same(
    [epoch - 1, epoch, newest, newest + 1].map((epoch) => times[epoch - 1]),
    [60_000, 60_000, 90_000, 90_000],
  )
})
