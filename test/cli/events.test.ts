/** Exported change events equal those of the live bus, and a mirror that applies them equals the pages. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { events, eventsIn } from '../../src/cli/commands/events.js'
import { Bus } from '../../src/index.js'
import { decodeEpochEvent, type EpochEvent } from '../../src/state/event-file.js'
import { folder } from '../lib/folder.js'

t.test('written, read back, the same as live', async (t) => {
  const dir = folder(t)
  const dataDir = join(dir, 'data')
  const bus = await Bus.open({ dataDir, backend: 'cpu', threads: 1, fsync: 'off' })
  const live: EpochEvent[] = []
  bus.onCommit(({ epoch, timestampMs, changes }) => {
    const copies = changes.map(({ page, pageId, kind, dtype, shape, ranges }) => ({
      page,
      kind,
      dtype,
      shape: [...shape],
      ranges: ranges.slice(),
      values:
        kind === 'deleted' ? bus.gather(bus.page('a').id, new Uint32Array(0)) : bus.gather(pageId, ranges),
    }))
    live.push({ epoch, timestampMs, changes: copies })
  })
  await bus.create('a', { dtype: 'i32', shape: [3, 4] })
  await bus.create('flag', { dtype: 'bool', shape: [] })
  await bus.derive('sum', { op: 'reduce', inputs: { x: 'a' }, fn: 'sum', axes: [1] })
  for (let i = 0; i < 20; i++) {
    await bus.transact({
      ops: [{ page: 'a', indices: [i % 12, (i * 5) % 12], values: [i, -i], merge: 'add' }],
    })
    if (i === 10) await bus.patch('flag', { values: [true] })
  }
  await bus.delete('flag')
  const newest = bus.epoch
  const pages = new Map(['a', 'sum'].map((name) => [name, bus.read(name)]))
  await bus.close()

  const file = join(dir, 'all.events')
  await events(['export', file, '--data-dir', dataDir])
  const found = [...eventsIn(file)]
  t.equal(found.length, newest)
  t.same(
    found.map((event) =>
      event.changes.map(({ values, ...rest }) => (rest.kind === 'deleted' ? rest : { ...rest, values })),
    ),
    live.map((event) =>
      event.changes.map(({ values, ...rest }) => (rest.kind === 'deleted' ? rest : { ...rest, values })),
    ),
  )
  t.same(
    found.map(({ epoch, timestampMs }) => [epoch, timestampMs]),
    live.map(({ epoch, timestampMs }) => [epoch, timestampMs]),
  )
  const mirror = new Map<string, EpochEvent['changes'][number]['values']>()
  for (const { changes } of found) {
    for (const { page, kind, ranges, values } of changes) {
      if (kind === 'deleted') mirror.delete(page)
      else if (kind === 'created') mirror.set(page, values)
      else {
        let at = 0
        for (let i = 0; i < ranges.length; i += 2) {
          const count = ranges[i + 1] as number
          mirror.get(page)?.set(values.subarray(at, at + count) as never, ranges[i] as number)
          at += count
        }
      }
    }
  }
  t.same(mirror, pages)

  const part = join(dir, 'part.events')
  await events(['export', part, '--data-dir', dataDir, '--from', '5', '--to', '7'])
  t.same([...eventsIn(part)], found.slice(4, 7))
  await events(['replay', part])

  await t.rejects(events(['export', part, '--data-dir', dataDir]), { code: 'EEXIST' })
  await t.rejects(events(['export', join(dir, 'x'), '--data-dir', dataDir, '--to', '99']), /no epochs/)
  await t.rejects(events(['replay']), /usage/)
  const bytes = readFileSync(part)
  for (let cut = 0; cut < bytes.length; cut += 8) {
    writeFileSync(join(dir, 'cut'), bytes.subarray(0, cut))
    t.throws(() => [...eventsIn(join(dir, 'cut'))], `cut at ${cut}`)
  }
  const entry = bytes.subarray(32, 32 + bytes.readUInt32LE(32))
  for (let at = 0; at < entry.length; at++) {
    const broken = Uint8Array.from(entry)
    broken[at] = (broken[at] as number) ^ 0x81
    t.throws(() => decodeEpochEvent(broken, true), { code: 'INVALID_REQUEST' }, `byte ${at}`)
  }
})

t.test('a name that one epoch deletes and creates again is there after a replay', async (t) => {
  const dir = folder(t)
  const dataDir = join(dir, 'data')
  const bus = await Bus.open({ dataDir, backend: 'cpu', threads: 1, fsync: 'off' })
  await bus.create('a', { dtype: 'u8', shape: [2] })
  const [, created] = await Promise.all([
    bus.delete('a'),
    bus.create('a', { dtype: 'f32', shape: [3] }).catch(() => undefined),
  ])
  if (created === undefined) await bus.create('a', { dtype: 'f32', shape: [3] })
  await bus.close()
  const file = join(dir, 'some.events')
  await events(['export', file, '--data-dir', dataDir])
  const pages = new Set<string>()
  for (const { changes } of eventsIn(file)) {
    for (const { page, kind } of changes) {
      if (kind === 'deleted') pages.delete(page)
      else pages.add(page)
    }
  }
  t.ok(pages.has('a'))
})
