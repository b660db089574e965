/** A clock that jumps is reported, and the times of epochs ascend all the same. */
import t, { type Test } from 'tap'
import { EngineBus } from '../../src/engine/bus.js'
import { REAL_HOST } from '../../src/engine/host.js'
import { CLOCK_JUMP_MS } from '../../src/limits.js'
import { folder } from '../lib/folder.js'

/** A bus whose clock the test sets. */
async function withClock(t: Test, dataDir: string, startMs: number) {
  const clock = { wallMs: startMs, ticksMs: 0 }
  const warnings: string[] = []
  const host = { ...REAL_HOST, nowMs: () => clock.wallMs, ticksMs: () => clock.ticksMs }
  const onNotice = ({ level, message }: { level: string; message: string }) => {
    if (level === 'warn' && message.includes('the clock')) warnings.push(message)
  }
  const bus = await EngineBus.open({ dataDir, backend: 'cpu', threads: 1, fsync: 'off', onNotice }, host)
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
