/** What `verifyTrail` finds, and how it names it. */
import { appendFileSync, readFileSync, renameSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { filesIn } from '../../src/audit/files.js'
import { hashOf } from '../../src/audit/line.js'
import { verifyTrail } from '../../src/audit/verify.js'
import { folder } from '../lib/folder.js'
import { isSound, journalIn, linesOf, NOON, tamper, trailOf } from './helpers.js'

const FILE = '2026-11-30.jsonl'
const SIX = ['one', 'two', 'three', 'four', 'five', 'six']

t.test('a trail that nobody has touched is sound', async (t) => {
  const dir = await trailOf(t, SIX)
  const { problems, notes, lines, files, seq, sha256 } = verifyTrail(dir)
  t.same({ problems, notes, lines, files, seq }, { problems: [], notes: [], lines: 6, files: 1, seq: 6 })
  t.equal(sha256, hashOf(linesOf(dir)[5] as string))
  const line = JSON.parse(linesOf(dir)[1] as string) as Record<string, unknown>
  t.same(line, {
    ts: '2026-11-30T12:00:00.000Z',
    seq: 2,
    action: 'two',
    outcome: 'done',
    prev: hashOf(linesOf(dir)[0] as string),
  })
})

type Change = (lines: string[]) => readonly string[]

/** Where each change is found. */
const CHANGES: Readonly<Record<string, readonly [change: Change, found: RegExp]>> = {
  'an edited line': [
    (lines) => lines.map((line, i) => (i === 2 ? line.replace('three', 'thref') : line)),
    /^2026-11-30\.jsonl:3: line 3 was edited: line 4/,
  ],
  'an edited first line': [
    (lines) => lines.map((line, i) => (i === 0 ? line.replace('one', 'own') : line)),
    /^2026-11-30\.jsonl:1: line 1 was edited/,
  ],
  'an edited last line': [
    (lines) => lines.map((line, i) => (i === 5 ? line.replace('six', 'sex') : line)),
    /^2026-11-30\.jsonl:6: line 6 was edited: head/,
  ],
  'a line that is no line': [
    (lines) => lines.map((line, i) => (i === 2 ? 'x' : line)),
    /^2026-11-30\.jsonl:3: line 3 was edited: it is not a line/,
  ],
  'a line without its hash': [
    (lines) => lines.map((line, i) => (i === 2 ? line.replace(/,"prev.*/, '}') : line)),
    /^2026-11-30\.jsonl:2: line 2 was edited: line 3/,
  ],
  'a cut line': [(lines) => lines.toSpliced(2, 1), /^2026-11-30\.jsonl:3: line 3 is missing before line 4/],
  'cut first lines': [
    (lines) => lines.slice(2),
    /^2026-11-30\.jsonl:1: lines 1 to 2 are missing before line 3/,
  ],
  'cut last lines': [
    (lines) => lines.slice(0, 4),
    /^2026-11-30\.jsonl:4: lines 5 to 6 are missing at the end/,
  ],
  'all lines cut': [() => [], /lines 1 to 6 are missing at the end/],
  'an inserted line': [
    (lines) => lines.toSpliced(3, 0, lines[2] as string),
    /^2026-11-30\.jsonl:4: line 3 was inserted or moved/,
  ],
  'an inserted line with a number of its own': [
    (lines) => lines.toSpliced(3, 0, (lines[3] as string).replace('four', 'for')),
    /^2026-11-30\.jsonl:4: line 4 was edited|^2026-11-30\.jsonl:5: line 4 was inserted or moved/,
  ],
  'an appended line': [
    (lines) => [...lines, (lines[5] as string).replace('"seq":6', '"seq":7')],
    /^2026-11-30\.jsonl:6: line 6 was edited: line 7/,
  ],
  'lines that changed places': [
    (lines) => [0, 1, 3, 2, 4, 5].map((i) => lines[i] as string),
    /^2026-11-30\.jsonl:4: line 3 was inserted or moved: it stands behind line 4/,
  ],
}

for (const [what, [change, found]] of Object.entries(CHANGES)) {
  t.test(`${what} is found and named`, async (t) => {
    const dir = await trailOf(t, SIX)
    tamper(dir, change)
    const { problems } = verifyTrail(dir)
    t.ok(
      problems.some((problem) => found.test(problem)),
      problems.join('\n'),
    )
  })
}

t.test('head says whether lines at the end are missing', async (t) => {
  const dir = await trailOf(t, SIX)
  const head = readFileSync(join(dir, 'head'), 'utf8')
  rmSync(join(dir, 'head'))
  t.match(verifyTrail(dir).problems, [/^head is missing/])
  writeFileSync(join(dir, 'head'), head.replace('"seq":6', '"seq":x'))
  t.match(verifyTrail(dir).problems, [/^head was edited/])
  writeFileSync(join(dir, 'head'), head.replace('"seq":6', '"seq":4'))
  t.match(verifyTrail(dir).problems, [/^2026-11-30\.jsonl:4: line 4 was edited: head says otherwise/])
})

t.test('a torn line at the end is no problem; one before the end is', async (t) => {
  const dir = await trailOf(t, SIX)
  const file = join(dir, FILE)
  appendFileSync(file, '{"ts":"2026-11')
  t.same(verifyTrail(dir).problems, [])
  t.match(verifyTrail(dir).notes, [/^2026-11-30\.jsonl:7: 14 bytes of a line that a crash/])
  writeFileSync(join(dir, '2026-12-01.jsonl'), '')
  t.match(verifyTrail(dir), { problems: [/^2026-11-30\.jsonl:7: 14 bytes that are no line/] })
  rmSync(join(dir, '2026-12-01.jsonl'))
  truncateSync(file, readFileSync(file).length - 20)
  t.match(
    verifyTrail(dir).problems,
    [/^2026-11-30\.jsonl:5: line 6 is missing at the end/],
    'a line that was durable is cut',
  )
})

/** A trail of three days, two lines each. */
async function ofThreeDays(t: Test): Promise<string> {
  const dir = await trailOf(t, ['a', 'b'])
  const { journal, clock } = journalIn(t, dir)
  for (const day of [1, 2]) {
    clock.nowMs = NOON + day * 86_400_000
    for (const action of ['c', 'd']) await journal.append({ action, outcome: 'done' })
  }
  await journal.close()
  return dir
}

t.test('the chain goes on over files', async (t) => {
  const dir = await ofThreeDays(t)
  t.same(filesIn(dir), ['2026-11-30.jsonl', '2026-12-01.jsonl', '2026-12-02.jsonl'])
  isSound(t, dir, 6)
  t.match(verifyTrail(dir), { files: 3, seq: 6 })
  const middle = join(dir, '2026-12-01.jsonl')
  const text = readFileSync(middle, 'utf8')
  rmSync(middle)
  t.match(verifyTrail(dir).problems, [/^2026-12-02\.jsonl:1: lines 3 to 4 are missing before line 5/])
  writeFileSync(middle, text)
  renameSync(middle, join(dir, '2026-12-03.jsonl'))
  t.match(verifyTrail(dir).problems, [
    /lines 3 to 4 are missing/,
    /2026-12-03\.jsonl:1: line 3 was inserted or moved/,
  ])
})

t.test('files that were archived are named by their last line', async (t) => {
  const dir = await ofThreeDays(t)
  const last = hashOf(linesOf(dir)[1] as string)
  const archive = folder(t)
  writeFileSync(join(archive, FILE), readFileSync(join(dir, FILE)))
  rmSync(join(dir, FILE))
  t.match(verifyTrail(dir).problems, [/^2026-12-01\.jsonl:1: lines 1 to 2 are missing before line 3/])
  isSound(t, dir, 4, { after: { seq: 2, sha256: last } })
  const wrong = { seq: 2, sha256: hashOf('x') }
  t.match(verifyTrail(dir, { after: wrong }).problems, [/the beginning: line 2 was edited: line 3/])
})

t.test('a hash kept elsewhere finds a trail that was written anew', async (t) => {
  const dir = await trailOf(t, SIX)
  const known = { seq: 4, sha256: hashOf(linesOf(dir)[3] as string) }
  t.same(verifyTrail(dir, { known }).problems, [])
  const forged = await trailOf(t, ['one', 'two', 'THREE', 'four', 'five', 'six'])
  t.same(verifyTrail(forged).problems, [], 'it is sound in itself')
  t.match(verifyTrail(forged, { known }).problems, [/line 4 was edited: the given hash says otherwise/])
  const short = await trailOf(t, ['one'])
  t.match(verifyTrail(short, { known }).problems, [/line 4, whose hash was given, is not there/])
})

t.test('so many problems are listed, and the rest is counted', async (t) => {
  const dir = await trailOf(
    t,
    Array.from({ length: 250 }, (_, i) => `a${i}`),
  )
  tamper(dir, (lines) => lines.map(() => 'x'))
  const { problems } = verifyTrail(dir)
  t.equal(problems.length, 101)
  t.match(problems.at(-1), /^and 15\d more problems/)
})
