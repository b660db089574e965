/** What a check proposes for each place of damage, and that the repair leaves just that. */
import fs from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { type CheckedFolder, type CheckReport, checkFolder } from '../../../src/store/offline/check.js'
import { repairLog } from '../../../src/store/offline/repair.js'
import { realDisk } from '../../../src/store/os/disk.js'
import type { LogRecord } from '../../../src/store/types.js'
import { openFilesIn } from '../../lib/folder.js'
import { appendAll, crc32c, epochsIn, epochsTo } from '../helpers.js'
import {
  breakRecords,
  EPOCHS,
  flip,
  openSmall,
  recordAt,
  segmentsOf,
  smallFolder,
  tellingDisk,
} from './small-folder.js'

const at = (dir: string, changes: Partial<CheckedFolder> = {}): CheckedFolder => ({
  ...{ dir, disk: realDisk(), crc32c },
  ...changes,
})

/** First epochs of the segments, which are the same in each small folder. */
let firsts: readonly number[]

t.before(async () => {
  const { dir } = await smallFolder(t)
  firsts = segmentsOf(dir).map(({ first }) => first)
})

interface Case {
  readonly checkpoints?: readonly number[]
  readonly broken?: readonly number[]
  readonly before?: (dir: string) => void
  /** First and last epoch, and checkpoint, of what a repair keeps; undefined: there is none. */
  readonly kept: readonly [from: number, to: number, checkpoint?: number] | undefined
  readonly loses?: string
}

const HISTORY = (epoch: number): string =>
  `and the history before epoch ${epoch}, which checkpoint ${epoch} replaces`

/** The folder opens, has the epochs, and goes on. */
async function isKept(t: Test, dir: string, from: number, to: number, what: string): Promise<void> {
  t.same(checkFolder(at(dir)).problems, [], what)
  const store = await openSmall(dir)
  t.same(epochsIn(store, from - 1), epochsTo(to, from), what)
  await appendAll(store, to + 1, to + 2, 600)
  await store.close()
  t.match(checkFolder(at(dir)), { problems: [], soundEpoch: to + 2 }, what)
}

async function judge(t: Test, what: string, given: Case): Promise<CheckReport> {
  const { dir } = await smallFolder(t, given.checkpoints)
  breakRecords(dir, ...(given.broken ?? []))
  given.before?.(dir)
  const report = checkFolder(at(dir))
  t.same(openFilesIn(dir), [], `${what}: nothing stays open`)
  const { repair } = report
  if (given.kept === undefined) {
    t.equal(repair, undefined, what)
    t.equal(await repairLog(at(dir), report), undefined)
    return report
  }
  const [from, to, checkpoint] = given.kept
  const loses = given.loses ?? `epochs ${to + 1} to ${EPOCHS}`
  t.match(repair, { from: { epoch: from }, to: { epoch: to + 1 }, loses }, what)
  t.equal(repair?.checkpoint, checkpoint, what)
  await repairLog(at(dir), report)
  await isKept(t, dir, from, to, what)
  return report
}

t.test('damage without a checkpoint: the log is cut there', async (t) => {
  const last = firsts.at(-1)!
  for (const epoch of [2, firsts[1]! - 1, firsts[1]!, firsts[1]! + 1, last - 1, last, EPOCHS - 2]) {
    const report = await judge(t, `epoch ${epoch}`, { broken: [epoch], kept: [1, epoch - 1] })
    t.equal(report.soundEpoch, epoch - 1)
    t.match(report.problems, [new RegExp(`^log/.+, offset \\d+: the record of epoch ${epoch} is not sound`)])
  }
  await judge(t, 'the first one', { broken: [1], kept: [1, 0] })
  await judge(t, 'the one before the last', {
    broken: [EPOCHS - 1],
    kept: [1, EPOCHS - 2],
    loses: `epochs ${EPOCHS - 1} to ${EPOCHS}`,
  })
})

t.test('damage with a checkpoint behind it: the state is kept, and the history before is lost', async (t) => {
  const [, second, third] = firsts as [number, number, number]
  for (const checkpoint of [second + 1, third - 1, third, EPOCHS - 1]) {
    await judge(t, `checkpoint ${checkpoint}`, {
      checkpoints: [checkpoint],
      broken: [second],
      kept: [checkpoint + 1, EPOCHS, checkpoint],
      loses: `no epoch, ${HISTORY(checkpoint)}`,
    })
  }
  await judge(t, 'the newest checkpoint that helps', {
    checkpoints: [4, third + 1, third + 3],
    broken: [second],
    kept: [third + 4, EPOCHS, third + 3],
    loses: `no epoch, ${HISTORY(third + 3)}`,
  })
  await judge(t, 'a checkpoint of the damaged epoch', {
    checkpoints: [second],
    broken: [second],
    kept: [second + 1, EPOCHS, second],
    loses: `no epoch, ${HISTORY(second)}`,
  })
})

t.test('a checkpoint before the damage is no better than the cut', async (t) => {
  const [, second, third] = firsts as [number, number, number]
  for (const checkpoint of [second - 1, second - 2]) {
    await judge(t, `checkpoint ${checkpoint}`, {
      checkpoints: [checkpoint],
      broken: [second],
      kept: [1, second - 1, checkpoint],
    })
  }
  await judge(t, 'damage behind the checkpoint too', {
    checkpoints: [second + 1],
    broken: [second, third + 1],
    kept: [second + 2, third, second + 1],
    loses: `epochs ${third + 1} to ${EPOCHS}, ${HISTORY(second + 1)}`,
  })
})

t.test('a log without its beginning', async (t) => {
  const [, second, third, fourth] = firsts as [number, number, number, number]
  const headless = (dir: string): void => fs.rmSync(segmentsOf(dir)[0]!.file)
  const no = await judge(t, 'no checkpoint', { before: headless, kept: undefined })
  t.match(no.problems, [`log: it begins with epoch ${second}, and no sound checkpoint leads there`])
  const early = { checkpoints: [second - 2], before: headless, kept: undefined }
  t.equal((await judge(t, 'a checkpoint that is too early', early)).problems.length, 1)
  const reached = { checkpoints: [second - 1], before: headless, kept: undefined }
  t.same((await judge(t, 'a checkpoint that reaches it', reached)).problems, [])
  await judge(t, 'and damage behind it', {
    checkpoints: [second - 1],
    broken: [third],
    before: headless,
    kept: [second, third - 1, second - 1],
  })
  await judge(t, 'damage before the only checkpoint', {
    checkpoints: [fourth],
    broken: [third],
    before: headless,
    kept: [fourth + 1, EPOCHS, fourth],
    loses: `no epoch, ${HISTORY(fourth)}`,
  })
  await judge(t, 'damage, and no checkpoint', { broken: [third], before: headless, kept: undefined })
})

t.test('segments that are gone, or whose header is broken', async (t) => {
  const [, second, third] = firsts as [number, number, number]
  const gone = await judge(t, 'gone', {
    before: (dir) => fs.rmSync(segmentsOf(dir)[1]!.file),
    kept: [1, second - 1],
  })
  t.match(gone.problems, [`the record of epoch ${second} is not sound`])
  const header = await judge(t, 'header', {
    before: (dir) => flip(segmentsOf(dir)[1]!.file, 20),
    kept: [1, second - 1],
  })
  t.match(header.problems, [/^log\/.+, offset 0: /])
  const other = await judge(t, 'of another name', {
    before: (dir) => {
      const [, { file }] = segmentsOf(dir) as [unknown, { file: string }]
      fs.copyFileSync(segmentsOf(dir)[2]!.file, file)
    },
    kept: [1, second - 1],
  })
  t.match(other.problems, [`offset 4096: it begins with epoch ${third}, not with ${second}`])
})

t.test('every fault is told, also behind the first', async (t) => {
  const [, second, , fourth, fifth] = firsts as [number, number, number, number, number]
  const { dir } = await smallFolder(t)
  breakRecords(dir, second, fourth + 1, fifth)
  const { problems } = checkFolder(at(dir))
  t.same(
    problems.map((problem) => Number(/the record of epoch (\d+) is not sound/.exec(problem)?.[1])),
    [second, fourth + 1, fifth],
  )
  t.match(problems[0], `log/${path.basename(segmentsOf(dir)[1]!.file)}, offset 4096: `)
})

t.test('without a catalog, as many epochs are lost as the segments show', async (t) => {
  const { dir } = await smallFolder(t)
  breakRecords(dir, 2)
  fs.rmSync(path.join(dir, 'catalog.db'))
  t.equal(checkFolder(at(dir)).repair?.loses, `epochs 2 to ${firsts.at(-1)! - 1}`)
})

t.test('faults of the catalog, the cursors and checkpoint files are told too', async (t) => {
  const { dir } = await smallFolder(t, [12])
  fs.writeFileSync(path.join(dir, 'cursors.db'), 'text '.repeat(999))
  fs.writeFileSync(path.join(dir, 'catalog.db'), 'text '.repeat(999))
  fs.writeFileSync(path.join(dir, 'checkpoints', `${'7'.padStart(20, '0')}.old`), 'text '.repeat(999))
  fs.writeFileSync(path.join(dir, 'checkpoints', 'next.tmp'), 'text')
  const { problems, repair } = checkFolder(at(dir))
  t.match(problems, [/^checkpoints\/0+7\.old: /, /^catalog\.db: /, /^cursors\.db: /])
  t.equal(problems.length, 3)
  t.equal(repair, undefined)
})

t.test('a log shorter than what is known to be durable', async (t) => {
  const shorter = async (
    checkpoints: readonly number[],
    change: (dir: string) => void,
  ): Promise<CheckReport> => {
    const { dir } = await smallFolder(t, checkpoints)
    const last = recordAt(dir, EPOCHS - 2)
    fs.truncateSync(last.file, last.offset)
    change(dir)
    return checkFolder(at(dir))
  }
  const none = (dir: string): void => fs.rmSync(path.join(dir, 'catalog.db'))
  t.match(await shorter([], none), { problems: [], repair: undefined, soundEpoch: EPOCHS - 3 })
  const indexed = await shorter([], () => {})
  t.same(indexed.problems, [`log: it ends at epoch ${EPOCHS - 3}, but epoch ${EPOCHS} was durable`])
  t.match(indexed.repair, { to: { epoch: EPOCHS - 2 }, loses: `epochs ${EPOCHS - 2} to ${EPOCHS}` })
  const known = await shorter([EPOCHS - 1], none)
  t.same(known.problems, [`log: it ends at epoch ${EPOCHS - 3}, but epoch ${EPOCHS - 1} was durable`])
  const one = await shorter([EPOCHS - 2], none)
  t.match(one.repair, { loses: `epoch ${EPOCHS - 2} and any after it` })
  t.same((await shorter([EPOCHS - 3], none)).problems, [])
})

t.test('torn bytes at the end are no fault', async (t) => {
  const { dir } = await smallFolder(t)
  const { file } = segmentsOf(dir).at(-1)!
  const { offset } = recordAt(dir, EPOCHS)
  const size = fs.statSync(file).size
  t.same(checkFolder(at(dir)).notes, [])
  fs.rmSync(path.join(dir, 'catalog.db'))
  fs.truncateSync(file, offset + 70)
  const report = checkFolder(at(dir))
  t.match(report, { problems: [], repair: undefined, soundEpoch: EPOCHS - 1 })
  t.same(report.notes, [`70 bytes behind epoch ${EPOCHS - 1} were never durable; the next start cuts them`])
  t.ok(size > offset + 70)
})

t.test('frames are looked into, and states compared, where the caller can', async (t) => {
  const seen: number[] = []
  const { dir } = await smallFolder(t, [12])
  const frameProblem = ({ epoch }: LogRecord): string | undefined => {
    seen.push(epoch)
    return epoch === 20 ? 'odd' : undefined
  }
  const odd = checkFolder(at(dir, { frameProblem }))
  t.same(seen.slice(0, 20), epochsTo(20))
  t.match(odd.problems[0], /^log\/.+, offset \d+: the record of epoch 20: odd$/)
  t.match(odd, { soundEpoch: 19, repair: { to: { epoch: 20, offset: recordAt(dir, 20).offset } } })
  const asked: string[] = []
  const replayed = (epoch: number) => (from: number, to: number) => {
    asked.push(`${from} ${to}`)
    return from < epoch && epoch <= to ? { epoch, detail: 'another state' } : undefined
  }
  const early = checkFolder(at(dir, { replay: replayed(9) }))
  t.same(early.problems, ['log: it diverges at epoch 9: another state'])
  t.match(early, {
    soundEpoch: 8,
    repair: { from: { epoch: 13 }, to: { epoch: EPOCHS + 1 }, checkpoint: 12 },
  })
  t.same(asked, [`0 ${EPOCHS}`, `12 ${EPOCHS}`])
  const late = checkFolder(at(dir, { replay: replayed(22) }))
  t.match(late, { soundEpoch: 21, repair: { from: { epoch: 1 }, to: { epoch: 22 }, checkpoint: 12 } })
  t.equal(late.repair?.loses, `epochs 22 to ${EPOCHS}`)
  t.same(checkFolder(at(dir, { replay: () => undefined })).problems, [])
})

t.test('what a repair removes is set aside first, and each step is durable before the next', async (t) => {
  const [, second] = firsts as [number, number]
  const { dir } = await smallFolder(t, [second + 1])
  breakRecords(dir, second)
  const report = checkFolder(at(dir))
  // The last segment is set aside too: it is cut behind its last record.
  const before = segmentsOf(dir).slice(0, 2)
  const bytes = before.map(({ file }) => fs.readFileSync(file))
  const said: string[] = []
  const look = (place: string): string =>
    place.endsWith('cut-1')
      ? ` with ${fs.readdirSync(place).filter((name) => name.endsWith('seg')).length}`
      : ''
  const aside = await repairLog(at(dir, { disk: tellingDisk(said, look) }), report)
  t.equal(aside, path.join(dir, 'cut-1'))
  const own = `${String(second + 2).padStart(20, '0')}.seg`
  t.same(said.slice(said.indexOf('sync cut-1 with 3')), [
    ...['sync cut-1 with 3', 'sync checkpoints', 'sync data', `next.tmp to log/${own}`, 'sync log'],
    ...before.flatMap(({ file }) => [`remove ${path.basename(file)}`, 'sync log']),
  ])
  for (const [i, { file }] of before.entries())
    t.equal(fs.readFileSync(path.join(aside!, path.basename(file))).compare(bytes[i]!), 0)
  t.ok(fs.existsSync(path.join(aside!, 'catalog.db')))
  t.notOk(fs.existsSync(path.join(dir, 'catalog.db')))
})

t.test('a cut sets later checkpoints aside and removes later segments, the newest first', async (t) => {
  const [, second, third] = firsts as [number, number, number]
  const { dir } = await smallFolder(t, [second - 1, second, EPOCHS])
  for (const epoch of [second, EPOCHS]) {
    const name = `${String(epoch).padStart(20, '0')}.db`
    flip(path.join(dir, 'checkpoints', name), 65_536 * 2 + 20)
  }
  breakRecords(dir, third)
  fs.mkdirSync(path.join(dir, 'cut-1'))
  const report = checkFolder(at(dir))
  const later = segmentsOf(dir).slice(2)
  const said: string[] = []
  const aside = await repairLog(at(dir, { disk: tellingDisk(said) }), report)
  t.equal(aside, path.join(dir, 'cut-2'), 'a name that is free')
  t.same(
    said.filter((what) => /^remove .*seg/.test(what)),
    later.map(({ file }) => `remove ${path.basename(file)}`).reverse(),
  )
  const left = fs.readdirSync(path.join(dir, 'checkpoints')).map((name) => Number.parseInt(name, 10))
  t.same(left, [second - 1, second])
  t.ok(fs.existsSync(path.join(aside!, `${String(EPOCHS).padStart(20, '0')}.db`)))
})
