/**
 * Mutation tests of src/: `make mutants`. Draws mutants from the rooms by their size, makes one after the
 * other in a copy of the tree, and runs the tests that may notice it, the best first, until one fails.
 *
 * Arguments: `--sample N` (100) and `--seed S`; `--rooms a,b`; `--only TEXT`: all mutants whose name contains
 * it; `--open`: the survivors without a reason. `--seconds S` (120) bounds one mutant, `--minutes M` the
 * whole run; `--min SHARE` (0.85): exit with 1 if fewer are
 * caught; `--decided` leaves out mutants whose time ran out. `--keep` writes survivors.json and runs.json.
 * Needs a built tree; does not change it otherwise.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { filesUnder, sourcesUnder } from '../../house/source.js'
import { Draw } from '../../lib/draw.js'
import { ROOT, Tree } from '../tree.js'
import { distancesOf, testsFor } from './choose.js'
import { type Mutant, mutantsOf } from './mutations.js'
import { readReach } from './reach.js'

const ROOMS = ['engine', 'store', 'stream', 'state', 'wire', 'client', 'http']
const SURVIVORS = join(ROOT, 'test/mutants/typescript/survivors.json')
const RUNS = join(ROOT, 'test/mutants/typescript/runs.json')
const HANGS_MIN_MS = 30_000
const HANGS_FACTOR = 8
/** A recorded test that is quicker is believed when it fails. */
const SURE_MS = 10_000

/** What a reason starts with, if no test can notice the mutant. */
const EQUIVALENT = 'equivalent'

type Verdict = 'caught' | 'survived' | 'undecided' | 'equivalent'
type Counts = Record<Verdict, number>

interface Run {
  readonly seed: number
  readonly rooms: Record<string, Counts>
}

function readJson<T>(path: string, otherwise: T): T {
  return existsSync(path) ? (JSON.parse(readFileSync(path, 'utf8')) as T) : otherwise
}

function writeJson(path: string, value: unknown): void {
  writeFileSync(path, `${JSON.stringify(value, undefined, 2)}\n`)
}

const sourceOf = (path: string): string => readFileSync(join(ROOT, path), 'utf8')
const roomOf = ({ path }: Mutant): string => path.split('/')[1]!

function mutantsIn(room: string): Mutant[] {
  const files = filesUnder(`src/${room}`).filter((path) => path.endsWith('.ts'))
  return files.flatMap((path) => mutantsOf(path, sourceOf(path)))
}

/** `count` of all mutants, from every room as many as its share. In an order that mixes the rooms. */
function sampleOf(all: readonly Mutant[], count: number, draw: Draw): Mutant[] {
  const drawn: { mutant: Mutant; place: number }[] = []
  let before = 0
  for (const room of ROOMS) {
    const left = all.filter((mutant) => roomOf(mutant) === room)
    const share = (before + left.length) / all.length
    const wanted = Math.round(share * count) - Math.round((before / all.length) * count)
    before += left.length
    for (let i = 0; i < wanted; i++) {
      const [mutant] = left.splice(draw.int(0, left.length - 1), 1)
      drawn.push({ mutant: mutant!, place: (i + 0.5) / wanted })
    }
  }
  return drawn.sort((a, b) => a.place - b.place).map(({ mutant }) => mutant)
}

const { values } = parseArgs({
  options: {
    sample: { type: 'string', default: '100' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    rooms: { type: 'string', default: ROOMS.join(',') },
    only: { type: 'string' },
    open: { type: 'boolean', default: false },
    seconds: { type: 'string', default: '120' },
    minutes: { type: 'string', default: '100000' },
    min: { type: 'string', default: '0.85' },
    decided: { type: 'boolean', default: false },
    keep: { type: 'boolean', default: false },
  },
})
const seed = Number(values.seed)
const survivors = readJson<Record<string, string>>(SURVIVORS, {})

function chosen(): Mutant[] {
  const all = values.rooms.split(',').flatMap(mutantsIn)
  const { only } = values
  if (only !== undefined) return all.filter(({ id }) => id.includes(only))
  if (values.open) return all.filter(({ id }) => survivors[id]?.startsWith(EQUIVALENT) === false)
  console.log(`seed ${seed}: ${values.sample} of ${all.length} mutants`)
  return sampleOf(all, Number(values.sample), new Draw(seed))
}

const reach = readReach()
const distances = distancesOf(sourcesUnder('src', 'test'))
const tree = new Tree()
process.on('exit', () => tree.remove())

/** Tests that pass without a mutant, and those that do not: slow ones may fail on a busy machine. */
const sound = new Map(Object.entries(reach.ms).map(([test, ms]) => [test, ms < SURE_MS]))

/** Whether it is the mutant that made a test fail. */
async function isSound(test: string, limitMs: number, late: boolean): Promise<boolean> {
  if (sound.get(test) !== true || late) {
    tree.restore()
    sound.set(test, (await tree.run(test, limitMs)).passed)
  }
  return sound.get(test)!
}

async function judge(mutant: Mutant): Promise<{ verdict: Verdict; by: string }> {
  if (survivors[mutant.id]?.startsWith(EQUIVALENT))
    return { verdict: 'equivalent', by: survivors[mutant.id]! }
  const untilMs = performance.now() + Number(values.seconds) * 1000
  const text = sourceOf(mutant.path)
  const tests = testsFor(mutant, reach, distances)
  const changed = text.slice(0, mutant.start) + mutant.replacement + text.slice(mutant.end)
  const undecided = (ran: number) =>
    ({ verdict: 'undecided', by: `${ran} of ${tests.length} tests` }) as const
  try {
    for (const [i, test] of tests.entries()) {
      const limitMs = Math.max(HANGS_MIN_MS, HANGS_FACTOR * (reach.ms[test] ?? 0))
      const leftMs = untilMs - performance.now()
      if (leftMs <= 0) return undecided(i)
      tree.change(mutant.path, changed)
      const { passed, late } = await tree.run(test, Math.min(limitMs, leftMs))
      if (passed) continue
      if (late && leftMs < limitMs) return undecided(i)
      if (await isSound(test, limitMs, late)) {
        return { verdict: 'caught', by: late ? `${test} (hangs)` : test }
      }
    }
    return { verdict: 'survived', by: `${tests.length} tests` }
  } finally {
    tree.restore()
  }
}

const run: Run = { seed, rooms: {} }
const total: Counts = { caught: 0, survived: 0, undecided: 0, equivalent: 0 }
const mutants = chosen()
const endMs = performance.now() + Number(values.minutes) * 60_000
for (const [i, mutant] of mutants.entries()) {
  if (performance.now() > endMs) break
  const startMs = performance.now()
  const { verdict, by } = await judge(mutant)
  run.rooms[roomOf(mutant)] ??= { caught: 0, survived: 0, undecided: 0, equivalent: 0 }
  run.rooms[roomOf(mutant)]![verdict]++
  total[verdict]++
  const seconds = Math.round((performance.now() - startMs) / 1000)
  console.log(
    `${i + 1}/${mutants.length} ${verdict} by ${by} (${seconds} s), line ${mutant.line}: ${mutant.id}`,
  )
  if (verdict === 'caught') delete survivors[mutant.id]
  if (verdict === 'survived' || verdict === 'undecided') survivors[mutant.id] = `${verdict}: ${by}`
  if (values.keep) writeJson(SURVIVORS, survivors)
}
if (values.keep && values.only === undefined && !values.open) {
  writeJson(RUNS, [...readJson<Run[]>(RUNS, []), run])
}
console.table(run.rooms)
const counted = total.caught + total.survived + (values.decided ? 0 : total.undecided)
console.log(`${total.caught} of ${counted} mutants were caught; equivalent: ${total.equivalent}`)
process.exitCode = total.caught >= Number(values.min) * counted ? 0 : 1
