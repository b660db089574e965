/** What a cut would discard, and the decision that a start completes. */
import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { cutFolder, finishCut, freeAsideName, planCut } from '../../../src/store/offline/cut.js'
import { realDisk } from '../../../src/store/os/disk.js'
import { crc32c, epochsIn, epochsTo } from '../helpers.js'
import { breakRecords, EPOCHS, openSmall, segmentsOf, smallFolder, tellingDisk } from './small-folder.js'

const at = (dir: string, disk = realDisk()) => ({ dir, disk, crc32c })
const nameOf = (epoch: number, ending = 'db'): string => `${String(epoch).padStart(20, '0')}.${ending}`

t.test('any epoch of a whole log, with the later checkpoints', async (t) => {
  const { dir } = await smallFolder(t, [12, 20])
  for (const [epoch, checkpoints] of [
    [0, [12, 20]],
    [11, [12, 20]],
    [12, [20]],
    [19, [20]],
    [20, []],
    [EPOCHS, []],
  ] as const)
    t.same(planCut(at(dir), epoch), { epoch, newestEpoch: EPOCHS, checkpoints })
  const why = { code: 'EPOCH_NOT_FOUND', message: `Epoch 31 is not in the log; the newest is ${EPOCHS}.` }
  t.throws(() => planCut(at(dir), EPOCHS + 1), why)
})

t.test('of a log without its beginning, an epoch that a sound checkpoint reaches', async (t) => {
  const { dir: whole } = await smallFolder(t)
  const first = segmentsOf(whole)[2]!.first
  const { dir } = await smallFolder(t, [first - 2, first + 1, first + 4])
  for (const { file } of segmentsOf(dir).slice(0, 2)) fs.rmSync(file)
  const compacted = (epoch: number, minEpoch: number): void => {
    t.throws(() => planCut(at(dir), epoch), {
      code: 'EPOCH_COMPACTED',
      message: `Epoch ${epoch} is no longer kept; the oldest is ${minEpoch}.`,
      extra: { minEpoch },
    })
  }
  compacted(first, first + 1)
  compacted(0, first + 1)
  t.same(planCut(at(dir), first + 1).checkpoints, [first + 4])
  t.same(planCut(at(dir), EPOCHS).checkpoints, [])
  fs.rmSync(path.join(dir, 'checkpoints', nameOf(first + 1)))
  compacted(first + 1, first + 4)
  fs.rmSync(path.join(dir, 'checkpoints', nameOf(first + 4)))
  compacted(first + 4, EPOCHS)
})

t.test('a log that is damaged or missing is not cut', async (t) => {
  const { dir, place } = await smallFolder(t)
  breakRecords(dir, segmentsOf(dir).at(-1)!.first)
  t.throws(() => planCut(at(dir), 3), { code: 'BUS_FAILED', message: /is damaged/ })
  t.throws(() => planCut(at(place), 3), {
    code: 'BUS_FAILED',
    message: /is not a data folder: it has no log/,
  })
})

t.test('a decision that this release did not write is refused, and nothing is cut', async (t) => {
  const { dir } = await smallFolder(t)
  const sound = { format: 1, epoch: 3, aside: 'cut-1' }
  const unknown = [
    ...[{ format: 2 }, { epoch: -1 }, { epoch: 1.5 }, { epoch: '3' }].map((part) => ({ ...sound, ...part })),
    ...['../x', 'cut-', 'cut-1/..', 'acut-1'].map((aside) => ({ ...sound, aside })),
    {},
  ].map((content) => JSON.stringify(content))
  const before = fs.readdirSync(dir, { recursive: true }).length
  for (const text of [...unknown, 'null', '{', '']) {
    fs.writeFileSync(path.join(dir, 'cut.json'), text)
    const message = unknown.includes(text)
      ? /is not one that this release wrote/
      : /cut\.json cannot be read: /
    await t.rejects(finishCut(at(dir)), { code: 'BUS_FAILED', message }, text)
    t.equal(fs.readdirSync(dir, { recursive: true }).length, before + 1)
  }
})

t.test('later files are set aside, newest first, each durable before the next', async (t) => {
  const { dir } = await smallFolder(t, [12, 20])
  fs.renameSync(path.join(dir, 'checkpoints', nameOf(20)), path.join(dir, 'checkpoints', nameOf(20, 'old')))
  fs.writeFileSync(path.join(dir, 'checkpoints', 'x'), '')
  fs.mkdirSync(path.join(dir, 'cut-1'))
  t.equal(freeAsideName(realDisk(), dir), 'cut-2')
  const segments = segmentsOf(dir)
  const own = segments.findLast(({ first }) => first <= 11)!
  const later = segments.filter(({ first }) => first > 11).map(({ file }) => path.basename(file))
  const ownBytes = fs.readFileSync(own.file)
  const said: string[] = []
  const aside = await cutFolder(at(dir, tellingDisk(said)), planCut(at(dir), 11))
  t.equal(aside, path.join(dir, 'cut-2'))
  const moved = (name: string, from: string): string[] => [
    `${name} to cut-2/${name}`,
    'sync cut-2',
    `sync ${from}`,
  ]
  t.same(said, [
    ...['cut.tmp to data/cut.json', 'sync data', 'remove history.json', 'sync data', 'sync data'],
    ...moved('catalog.db', 'data'),
    ...moved(nameOf(20, 'old'), 'checkpoints'),
    ...moved(nameOf(12), 'checkpoints'),
    ...later.reverse().flatMap((name) => moved(name, 'log')),
    ...['sync cut-2', 'remove cut.json', 'sync data'],
  ])
  t.equal(fs.readFileSync(path.join(aside, path.basename(own.file))).compare(ownBytes), 0)
  t.same(fs.readdirSync(path.join(dir, 'checkpoints')), ['x'])
  await finishCut(at(dir))
  const store = await openSmall(dir)
  t.same(epochsIn(store), epochsTo(11))
  await store.close()
})
