/**
 * Mutation tests of the native sources: `make mutants-native`. Copies the tree, builds every fault of
 * faults.ts into one library, and runs the tests with one fault after the other, the nearest and quickest
 * first, until one of them fails. Prints what was caught, what survived and what is equivalent, and writes it
 * into results.json. Exits with 1 if fewer are caught than asked.
 *
 * Arguments: numbers of faults, or `--sample N [--seed S]`; absent: all. `--folder DIR` keeps the built
 * library there, for the next run. `--seconds S` bounds one fault. `--fresh` leaves out the faults that
 * results.json knows as caught or equivalent. Needs a built tree. Must not change it, but for results.json.
 */
import { execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { Draw } from '../../lib/draw.js'
import { ROOT } from '../../lib/place.js'
import { RACE_STARTER } from '../../native/driver.js'
import { runProgram } from '../program.js'
import { copyTree } from '../tree.js'
import { FAULTS } from './faults.js'
import { nameOf, plant } from './plant.js'

const RESULTS = join(ROOT, 'test/mutants/native/results.json')
const CAUGHT_MIN = 0.9
/** A test that takes so much longer than without a fault hangs; that counts as noticed, and is named. */
const HANGS_FACTOR = 12
const HANGS_MIN_MS = 30_000
/** A quicker test is believed when it fails; a slower one only if it then passes without the fault. */
const SURE_MS = 10_000

/**
 * Tests that run against the library. Beside them, every test of core_test.cpp by itself, and those of RACES.
 */
const TESTS: readonly string[] = [
  'kernels/partial',
  'kernels/ops-values',
  'kernels/ops-values-plain',
  'kernels/odd-numbers',
  'kernels/odd-numbers-plain',
  'engine/commands/odd-merges',
  'ffi/context',
  'engine/commands/prev',
  'engine/commit/what-if',
  'engine/commit/cancel',
  'property/property',
  'property/fused',
  'examples/prev',
].map((name) => `test/${name}.test.ts`)

/** What runs under the thread sanitizer. */
const RACES = ['race threads-meet', 'pool 1 25']

/** Tests of core_test.cpp that also run on the plain x86-64 build, whose loops are others. */
const PLAIN = ['plain graphs']

/** Programs of native.mk by the first word of a test. */
const PROGRAMS: Readonly<Record<string, string>> = {
  core: 'core_test',
  plain: 'core_test',
  race: 'core_race',
  pool: 'pool_race',
}

/** Tests that are likely to notice a fault in files whose path begins like this. */
const NEAR: readonly (readonly [start: string, tests: RegExp])[] = [
  ['exec/undo', /graphs|what-if|cancel/],
  ['exec/past', /past|what-if|prev/],
  ['exec/fuse', /fused|graphs/],
  ['exec/', /graphs|property|partial/],
  ['ops/', /graphs|every-run|partial|ops-values/],
  ['abi/', /context|cancel/],
]
/** So much later runs a test that is not near. */
const FAR_FACTOR = 10

const CHOICE = `#pragma once
#include <stdlib.h>
static const int mmsbFault = getenv("MMSB_FAULT") ? atoi(getenv("MMSB_FAULT")) : 0;
`

/**
 * Builds the library and the driver of the core's tests, with all faults in them, into the folder.
 */
function build(folder: string): void {
  copyTree(folder)
  for (const [i, fault] of FAULTS.entries()) {
    const path = join(folder, 'src/kernels/native', fault.file)
    writeFileSync(path, plant(readFileSync(path, 'utf8'), fault, i + 1))
  }
  const header = join(folder, 'fault.h')
  writeFileSync(header, CHOICE)
  const programs = Object.values(PROGRAMS).map((program) => `build/native/${program}`)
  const make = ['-s', 'NVCC=', `CXX=g++ -include ${header}`, 'native-parts', ...programs]
  execFileSync('make', make, { cwd: folder, stdio: ['ignore', 'inherit', 'inherit'] })
}

/** The tests of the core, as core_test.cpp lists them, then those of `TESTS`. */
function testNames(): string[] {
  const source = readFileSync(join(ROOT, 'test/native/core/core_test.cpp'), 'utf8')
  const names = [...source.matchAll(/^ +\{"([a-z0-9-]+)", test\w+\},$/gm)].map(([, name]) => `core ${name}`)
  if (names.length === 0) throw new Error('no test is found in core_test.cpp')
  return [...names, ...PLAIN, ...RACES, ...TESTS]
}

function runTest(folder: string, test: string, number: number, limitMs: number) {
  const [kind, ...args] = test.split(' ')
  const program = PROGRAMS[kind!]
  const starter = program?.endsWith('_race') ? RACE_STARTER : []
  const command =
    program === undefined
      ? [process.execPath, '--import', 'tsx', test]
      : [...starter, join(folder, 'build/native', program), ...args]
  const env = { MMSB_FAULT: String(number), ...(kind === 'plain' ? { MMSB_ISA: 'x86-64' } : {}) }
  return runProgram(command as [string, ...string[]], folder, env, limitMs)
}

/** How long each test takes without a fault, in ms. */
async function usualTimes(folder: string): Promise<[string, number][]> {
  const path = join(folder, 'times.json')
  if (existsSync(path)) return JSON.parse(readFileSync(path, 'utf8')) as [string, number][]
  const times: [string, number][] = []
  for (const test of testNames()) {
    const { passed, ms } = await runTest(folder, test, 0, 600_000)
    if (!passed) throw new Error(`${test} fails without a fault`)
    times.push([test, Math.round(ms)])
  }
  writeFileSync(path, JSON.stringify(times))
  return times
}

/** The tests in the order in which they run for a fault of this file: the nearest and quickest first. */
function nearestFirst(file: string, usual: readonly [string, number][]): [string, number][] {
  const near = NEAR.find(([start]) => file.startsWith(start))?.[1]
  const cost = ([test, ms]: readonly [string, number]): number => (near?.test(test) ? ms : ms * FAR_FACTOR)
  return [...usual].sort((a, b) => cost(a) - cost(b))
}

interface Options {
  readonly numbers: readonly string[]
  readonly sample: string | undefined
  readonly seed: string | undefined
  readonly isFresh: boolean
}

type Results = Record<string, string>

function readResults(): Results {
  return existsSync(RESULTS) ? (JSON.parse(readFileSync(RESULTS, 'utf8')) as Results) : {}
}

/** Results of faults that are still in the list, in its order. */
function writeResults(results: Results): void {
  const known = FAULTS.map(nameOf).filter((name) => results[name] !== undefined)
  const kept = Object.fromEntries(known.map((name) => [name, results[name]]))
  writeFileSync(RESULTS, `${JSON.stringify(kept, undefined, 2)}\n`)
}

function chosen({ numbers, sample, seed, isFresh }: Options): number[] {
  if (numbers.length > 0) return numbers.map(Number)
  const results = readResults()
  const all = FAULTS.map((_, i) => i + 1).filter((number) => {
    return !isFresh || !/^(caught|equivalent)/.test(results[nameOf(FAULTS[number - 1]!)] ?? '')
  })
  if (sample === undefined) return all
  const draw = new Draw(Number(seed ?? Date.now() % 1_000_000))
  return Array.from({ length: Math.min(Number(sample), all.length) }, () => {
    return all.splice(draw.int(0, all.length - 1), 1)[0]!
  })
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    sample: { type: 'string' },
    seed: { type: 'string' },
    folder: { type: 'string' },
    fresh: { type: 'boolean' },
    seconds: { type: 'string', default: '100000' },
  },
})
const seed = values.seed ?? String(Date.now() % 1_000_000)
if (values.sample !== undefined) console.log(`seed ${seed}`)
const numbers = chosen({ numbers: positionals, sample: values.sample, seed, isFresh: values.fresh === true })
const folder = values.folder ?? mkdtempSync(join(tmpdir(), 'mmsb-faults-'))
if (values.folder === undefined) process.on('exit', () => rmSync(folder, { recursive: true, force: true }))
if (!existsSync(join(folder, 'build/native/core_test'))) {
  console.log(`building ${FAULTS.length} faults`)
  build(folder)
}
const usual = await usualTimes(folder)
const results = readResults()
let [caught, counted] = [0, 0]
for (const number of numbers) {
  const fault = FAULTS[number - 1]!
  let result = fault.equivalent === undefined ? 'survived' : `equivalent: ${fault.equivalent}`
  const untilMs = performance.now() + Number(values.seconds) * 1000
  for (const [i, [test, ms]] of nearestFirst(fault.file, usual).entries()) {
    if (performance.now() > untilMs) {
      result = fault.equivalent === undefined ? `undecided after ${i} of ${usual.length} tests` : result
      break
    }
    const limitMs = Math.max(HANGS_MIN_MS, HANGS_FACTOR * ms)
    const outcome = await runTest(folder, test, number, limitMs)
    if (outcome.passed) continue
    // A slow test may fail on a busy machine.
    const isSure = ms < SURE_MS && !outcome.late
    if (!isSure && !(await runTest(folder, test, 0, limitMs)).passed) continue
    result = `caught by ${test}${outcome.late ? ' (hangs)' : ''}`
    break
  }
  if (!result.startsWith('equivalent')) counted++
  if (result.startsWith('caught')) caught++
  results[nameOf(fault)] = result
  writeResults(results)
  console.log(`${number} ${result}: ${nameOf(fault)}`)
}
console.log(`${caught} of ${counted} faults were caught`)
process.exitCode = caught >= CAUGHT_MIN * counted ? 0 : 1
