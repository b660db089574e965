/**
 * Void epochs in a folder that is checked, cut and repaired: each cut gives the state of its epoch, and a
 * void record that is damaged is noticed, because without it its epoch would happen after all.
 */
import fs from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { frameProblem, replayFolder } from '../../../src/engine/history/check-replay.js'
import { checkFolder } from '../../../src/store/offline/check.js'
import { cutFolder, planCut } from '../../../src/store/offline/cut.js'
import { repairLog } from '../../../src/store/offline/repair.js'
import { fillWithVoids, openVoids, type VoidFolder } from '../../lib/void-epochs.js'
import { scratch } from '../helpers.js'
import { place, segments } from './sample.js'

const RECORD_BYTES = 64
const VOID_MAGIC = Buffer.from('MSVD')

t.setTimeout(240_000)

const whole = scratch()
let filled: VoidFolder

t.before(async () => {
  filled = await fillWithVoids(whole, 2)
})

function copied(t: Test): string {
  const dir = scratch()
  fs.cpSync(whole, dir, { recursive: true })
  t.teardown(() => fs.rmSync(dir, { recursive: true, force: true }))
  return dir
}

const deeply = (dir: string) => ({ ...place(dir), frameProblem, replay: replayFolder(dir, () => {}) })

/** The folder opens with the state of the epoch, and goes on. */
async function isAt(t: Test, dir: string, epoch: number, what: string): Promise<void> {
  const bus = await openVoids(dir)
  const { digest, isVoid } = filled.states[epoch]!
  t.match(bus.status(), { epoch, digest }, what)
  if (epoch > 0) t.equal((await bus.epochInfo(epoch)).void, isVoid ? true : undefined, what)
  await bus.create('later', { dtype: 'u8', shape: [1] })
  t.equal(bus.epoch, epoch + 1, what)
  await bus.close()
}

/** Every void record: its file, its place, and its epoch. */
function voidRecords(dir: string): { file: string; at: number; epoch: number }[] {
  return segments(dir).flatMap((file) => {
    const bytes = fs.readFileSync(file)
    const found = []
    for (let at = 4096; at + RECORD_BYTES <= bytes.length; at += 8) {
      if (bytes.subarray(at, at + 4).equals(VOID_MAGIC))
        found.push({ file, at, epoch: Number(bytes.readBigUInt64LE(at + 16)) })
    }
    return found
  })
}

t.test('a folder with void epochs is sound', async (t) => {
  const dir = copied(t)
  t.ok(segments(dir).length > 2, 'several segments')
  const { newest, states } = filled
  for (const folder of [place(dir), deeply(dir)])
    t.match(checkFolder(folder), { problems: [], notes: [], soundEpoch: newest, repair: undefined })
  t.same(
    voidRecords(dir).map(({ epoch }) => epoch),
    states.flatMap(({ isVoid }, epoch) => (isVoid ? [epoch] : [])),
  )
  await isAt(t, dir, newest, 'as it is')
})

t.test('cut at and around each void epoch', async (t) => {
  t.setTimeout(120_000)
  const { newest, states } = filled
  for (let epoch = 6; epoch < newest; epoch++) {
    if (!states.slice(epoch - 1, epoch + 2).some(({ isVoid }) => isVoid)) continue
    const dir = copied(t)
    await cutFolder(place(dir), planCut(place(dir), epoch))
    t.match(checkFolder(deeply(dir)), { problems: [], soundEpoch: epoch })
    await isAt(t, dir, epoch, `cut at ${epoch}`)
  }
})

t.test('a damaged void record', async (t) => {
  t.setTimeout(120_000)
  const all = voidRecords(whole)
  for (const [i, { at, epoch, file }] of all.entries()) {
    const dir = copied(t)
    const own = path.join(dir, 'log', path.basename(file))
    const bytes = fs.readFileSync(own)
    // Its magic, its epoch, its checksum.
    const place_ = at + ([0, 16, 44, 63][i % 4] as number)
    bytes.writeUInt8(bytes.readUInt8(place_) ^ 64, place_)
    fs.writeFileSync(own, bytes)
    await t.rejects(openVoids(dir), { code: /BUS_FAILED|INTERNAL/ }, `epoch ${epoch} does not happen`)
    const quick = checkFolder(place(dir))
    t.match(quick.problems.join(), new RegExp(`epoch ${epoch} is not sound \\(the void record behind it`))
    t.equal(quick.soundEpoch, epoch - 1)
    t.match(quick.repair?.loses, /^epochs? /)
    await repairLog(place(dir), quick)
    t.same(checkFolder(deeply(dir)).problems, [])
    await isAt(t, dir, epoch - 1, `repaired before ${epoch}`)
  }
})
