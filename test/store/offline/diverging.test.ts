/**
 * `mmsb log check` where every checksum is right: states that diverge from the log, malformed frames, and
 * files that are gone. A check changes nothing.
 */
import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { frameProblem, replayFolder } from '../../../src/engine/history/check-replay.js'
import { verifyFolder } from '../../../src/engine/history/verify-folder.js'
import { checkFolder } from '../../../src/store/offline/check.js'
import { repairLog } from '../../../src/store/offline/repair.js'
import { openFilesIn } from '../../lib/folder.js'
import { forgeRecord } from '../../support/forge.js'
import { copyOf, open, place, type Sample, sampleOf, segments } from './sample.js'

/** 60 epochs in about four segments, with checkpoints at the epochs given. */
const sample = (checkpoints: readonly number[]): Promise<Sample> => sampleOf(60, 500, checkpoints)

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
  t.same(openFilesIn(dir), [], 'nothing stays open')
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
