/**
 * Mutation tests of src/: `make mutants`. Draws mutants from the rooms by their size, makes each one in
 * a copy of the tree, one copy for each core, and runs the tests that may notice it, the best first,
 * until one fails.
 *
 * Arguments: `--sample N` (100) and `--seed S`; `--rooms a,b`; `--only TEXT`: all mutants whose name contains
 * it; `--open`: the survivors without a reason; `--guarantees`: those that docs/guide/GUARANTEES.md names,
 * against the tests named beside them. `--seconds S` (90) bounds one mutant, `--minutes M` the whole run;
 * `--min SHARE` (0.85): exit with 1 if fewer are caught; `--decided` leaves out mutants whose time ran out.
 * `--keep` writes survivors.json, and what has happened to a sample into build/mutants/, so that the same
 * seed goes on where it was interrupted; runs.json, when the sample is done. Needs a built tree; does not
 * change it otherwise.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { ROOT } from '../../lib/place.js'
import { checkGuarantees } from '../guarantees/run.js'
import { Judge, type Verdict } from './judge.js'
import type { Mutant } from './mutations.js'
import { eachInParallel } from './parallel.js'
import { mutantsIn, ROOMS, roomOf, sampleOf } from './sample.js'

const SURVIVORS = join(ROOT, 'test/mutants/typescript/survivors.json')
const RUNS = join(ROOT, 'test/mutants/typescript/runs.json')

/** What a reason starts with, if no test can notice the mutant. */
const EQUIVALENT = 'equivalent'

type Counts = Record<Verdict['verdict'], number>

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

const { values } = parseArgs({
  options: {
    sample: { type: 'string', default: '100' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    rooms: { type: 'string', default: ROOMS.join(',') },
    only: { type: 'string' },
    open: { type: 'boolean', default: false },
    guarantees: { type: 'boolean', default: false },
    seconds: { type: 'string', default: '90' },
    minutes: { type: 'string', default: '100000' },
    min: { type: 'string', default: '0.85' },
    decided: { type: 'boolean', default: false },
    keep: { type: 'boolean', default: false },
  },
})
const seed = Number(values.seed)
const isSample = values.only === undefined && !values.open
const all = mutantsIn(values.rooms.split(','))
const survivors = readJson<Record<string, string>>(SURVIVORS, {})
const reasonOf = ({ id }: Mutant): string | undefined => survivors[id]
const isEquivalent = (mutant: Mutant): boolean => reasonOf(mutant)?.startsWith(EQUIVALENT) === true

function chosen(): Mutant[] {
  const { only } = values
  if (only !== undefined) return all.filter(({ id }) => id.includes(only))
  if (values.open) return all.filter((mutant) => reasonOf(mutant) !== undefined && !isEquivalent(mutant))
  console.log(`seed ${seed}: ${values.sample} of ${all.length} mutants`)
  return sampleOf(all, Number(values.sample), seed)
}

/** What happened to the mutants of this sample. */
const progress = join(ROOT, `build/mutants/seed-${seed}.json`)
const known = isSample && values.keep ? readJson<Record<string, Verdict>>(progress, {}) : {}

function keep(): void {
  mkdirSync(join(ROOT, 'build/mutants'), { recursive: true })
  if (isSample) writeJson(progress, known)
  writeJson(SURVIVORS, Object.fromEntries(Object.entries(survivors).sort(([a], [b]) => (a < b ? -1 : 1))))
}

function note(mutant: Mutant, verdict: Verdict): void {
  known[mutant.id] = verdict
  if (verdict.verdict === 'caught') delete survivors[mutant.id]
  if (verdict.verdict === 'survived' || verdict.verdict === 'undecided')
    survivors[mutant.id] = `${verdict.verdict}: ${verdict.by}`
  if (values.keep) keep()
}

function countRooms(mutants: readonly Mutant[]): Record<string, Counts> {
  const rooms: Record<string, Counts> = {}
  for (const mutant of mutants) {
    const verdict = known[mutant.id]?.verdict
    if (verdict === undefined) continue
    rooms[roomOf(mutant)] ??= { caught: 0, survived: 0, undecided: 0, equivalent: 0 }
    rooms[roomOf(mutant)]![verdict]++
  }
  return rooms
}

async function runMutants(): Promise<boolean> {
  const mutants = chosen()
  for (const mutant of mutants)
    if (isEquivalent(mutant)) known[mutant.id] = { verdict: 'equivalent', by: reasonOf(mutant)! }
  const judge = new Judge(Number(values.seconds) * 1000)
  const endMs = performance.now() + Number(values.minutes) * 60_000
  const open = mutants.filter(({ id }) => known[id] === undefined)
  let done = mutants.length - open.length
  await eachInParallel(open, async (tree, mutant) => {
    if (performance.now() > endMs) return
    const startMs = performance.now()
    const verdict = await judge.judge(tree, mutant)
    note(mutant, verdict)
    const seconds = Math.round((performance.now() - startMs) / 1000)
    const what = `${verdict.verdict} by ${verdict.by} (${seconds} s)`
    console.log(`${++done}/${mutants.length} ${what}, line ${mutant.line}: ${mutant.id}`)
  })
  const rooms = countRooms(mutants)
  if (values.keep && isSample && done === mutants.length) {
    const others = readJson<Run[]>(RUNS, []).filter((run) => run.seed !== seed)
    writeJson(RUNS, [...others, { seed, rooms }])
  }
  console.table(rooms)
  const total = (verdict: keyof Counts): number =>
    Object.values(rooms).reduce((sum, counts) => sum + counts[verdict], 0)
  const counted = total('caught') + total('survived') + (values.decided ? 0 : total('undecided'))
  console.log(`${total('caught')} of ${counted} mutants were caught; equivalent: ${total('equivalent')}`)
  return total('caught') >= Number(values.min) * counted
}

const isGood = values.guarantees
  ? await checkGuarantees({ only: values.only, isOpen: values.open })
  : await runMutants()
process.exitCode = isGood ? 0 : 1
