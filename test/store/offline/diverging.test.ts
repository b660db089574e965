/**
 * `mmsb log check` where every checksum is right: states that diverge from the log, malformed frames, and
 * files that are gone. A check changes nothing.
 */
import fs from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { frameProblem, replayFolder } from '../../../src/engine/history/check-replay.js'
import { verifyFolder } from '../../../src/engine/history/verify-folder.js'
import { Bus } from '../../../src/index.js'
import { checkFolder } from '../../../src/store/offline/check.js'
import { repairLog } from '../../../src/store/offline/repair.js'
import { realDisk } from '../../../src/store/os/disk.js'
import { forgeRecord } from '../../support/forge.js'
import { crc32c, scratch } from '../helpers.js'

interface Sample {
  readonly dir: string
  readonly digests: ReadonlyMap<number, string>
  readonly newest: number
}

const open = (dataDir: string): Promise<Bus> =>
  Bus.open({ dataDir, backend: 'cpu', threads: 1, fsync: 'off', segmentBytes: 64 * 1024 })

/** 60 epochs in about four segments, with checkpoints at the epochs given. */
async function sample(checkpoints: readonly number[]): Promise<Sample> {
  const dir = scratch()
  const bus = await open(dir)
  const digests = new Map<number, string>()
  bus.onCommit(({ epoch }) => queueMicrotask(() => digests.set(epoch, bus.status().digest)))
  await bus.create('a', { dtype: 'f64', shape: [20_000] })
  await bus.derive('b', { op: 'map', inputs: { a: 'a' }, expr: 'a * 3' })
  while (bus.epoch < 60) {
    const { epoch } = bus
    const values = Array.from({ length: 500 }, (_, i) => epoch * 1000 + i)
    await bus.patch('a', { offset: epoch * 7, values })
    digests.set(bus.epoch, bus.status().digest)
    if (checkpoints.includes(bus.epoch)) await bus.checkpoint()
  }
  await bus.close()
  return { dir, digests, newest: 60 }
}

const copyOf = (t: Test, { dir }: Sample): string => {
  const copy = scratch()
  fs.cpSync(dir, copy, { recursive: true })
  t.teardown(() => fs.rmSync(copy, { recursive: true, force: true }))
  return copy
}

const place = (dir: string) => ({ dir, disk: realDisk(), crc32c })

const segments = (dir: string): string[] =>
  fs
    .readdirSync(path.join(dir, 'log'))
    .sort()
    .map((name) => path.join(dir, 'log', name))

const deep = (dir: string) => ({ ...place(dir), frameProblem, replay: replayFolder(dir, () => {}) })

/** The segment that holds an epoch. */
const segmentWith = (dir: string, epoch: number): string =>
  segments(dir).findLast((file) => Number(path.basename(file, '.seg')) <= epoch) as string

t.test('a state that diverges from the log is found, and the log can be cut there', async (t) => {
  const source = await sample([])
  t.teardown(() => fs.rmSync(source.dir, { recursive: true, force: true }))
  const dir = copyOf(t, source)
  forgeRecord(segmentWith(dir, 40), 40, (record) => {
    record[record.length - 40] = (record[record.length - 40] as number) ^ 1
  })
  t.same(checkFolder(place(dir)).problems, [], 'the checksums are right')
  const report = checkFolder(deep(dir))
  t.match(report.problems, [/^log: it diverges at epoch 40: /])
  t.match(report.repair, { to: { epoch: 40 }, loses: 'epochs 40 to 60' })
  await repairLog(place(dir), report)
  t.same(checkFolder(deep(dir)).problems, [])
  t.match(verifyFolder({ dir }), { ok: true, to: 39 })
  const bus = await open(dir)
  t.equal(bus.status().digest, source.digests.get(39))
  await bus.close()
})

t.test('with a checkpoint behind the divergence the newest state is kept', async (t) => {
  const source = await sample([50])
  t.teardown(() => fs.rmSync(source.dir, { recursive: true, force: true }))
  const dir = copyOf(t, source)
  forgeRecord(segmentWith(dir, 40), 40, (record) => {
    record[record.length - 40] = (record[record.length - 40] as number) ^ 1
  })
  const report = checkFolder(deep(dir))
  t.match(report.problems, [/^log: it diverges at epoch 40: /])
  t.match(report.repair, { checkpoint: 50, to: { epoch: 61 } })
  await repairLog(place(dir), report)
  t.same(checkFolder(deep(dir)).problems, [])
  const bus = await open(dir)
  t.equal(bus.status().digest, source.digests.get(60))
  await bus.close()
})

t.test('a malformed frame under right checksums is found', async (t) => {
  const source = await sample([])
  t.teardown(() => fs.rmSync(source.dir, { recursive: true, force: true }))
  const dir = copyOf(t, source)
  forgeRecord(segmentWith(dir, 30), 30, (record) => {
    record[64 + 8] = 99
  })
  t.same(checkFolder(place(dir)).problems, [])
  t.match(checkFolder({ ...place(dir), frameProblem }).problems, [/offset \d+: the record of epoch 30: /])
})

t.test('a log that is gone, or lacks its beginning, is a fault', async (t) => {
  const source = await sample([])
  t.teardown(() => fs.rmSync(source.dir, { recursive: true, force: true }))
  const empty = copyOf(t, source)
  for (const file of segments(empty)) fs.rmSync(file)
  t.match(checkFolder(place(empty)).problems, [/^log: it has no segments/])
  t.throws(() => verifyFolder({ dir: empty }), { code: 'BUS_FAILED', message: /is gone/ })
  const headless = copyOf(t, source)
  fs.rmSync(segments(headless)[0] as string)
  t.match(checkFolder(place(headless)).problems, [/it begins with epoch \d+, and no sound checkpoint/])
})

t.test('checking and verifying leave no trace', async (t) => {
  const source = await sample([30])
  t.teardown(() => fs.rmSync(source.dir, { recursive: true, force: true }))
  const dir = copyOf(t, source)
  for (const name of ['lock.db', 'holder.txt']) fs.rmSync(path.join(dir, name), { force: true })
  const traces = (): string[] =>
    fs.readdirSync(dir, { recursive: true, encoding: 'utf8' }).map((name) => {
      const { size, mtimeNs, ino } = fs.statSync(path.join(dir, name), { bigint: true })
      return `${name} ${ino} ${size} ${mtimeNs}`
    })
  const before = traces()
  t.match(verifyFolder({ dir }), { ok: true, to: 60 })
  t.same(checkFolder(deep(dir)).problems, [])
  t.same(traces(), before)
})
