/**
 * Runs the tests that are likeliest to notice what was changed, in about a minute: `make test-quick`.
 * What was changed is what differs from the last commit, or from BASE; after a commit, what the last
 * commit changed.
 *
 * It is for the time between two edits. It leaves out what is slow, so `make test` has the last word.
 */
import { spawnSync } from 'node:child_process'
import { parseArgs } from 'node:util'
import { filesUnder, sourcesUnder } from '../test/house/source.js'
import { ROOT } from '../test/lib/place.js'
import { distancesOf, testsFor, UNKNOWN_MS } from '../test/mutants/typescript/choose.js'
import { readReach } from '../test/mutants/typescript/reach.js'

/**
 * What the chosen tests may need by their recorded times, one after the other: tap runs several at a time.
 */
const BUDGET_MS = 60_000
/** What each adds on top of its recorded time. */
const START_MS = 500

/** The emulated device and the sanitizers are left out: to build them takes longer than all the rest. */
const OF_NATIVE = /^test\/(native\/(core|math|vm)\.|conformance\/conformance\.|kernels\/|graph\/)/
/** Tests of what is no TypeScript of src/, by what was changed. */
const OTHERS: readonly (readonly [RegExp, RegExp])[] = [
  [/^(kernels\.cu|native\.mk|src\/kernels\/native\/)/, OF_NATIVE],
  [/(\.md|^docs\/)/, /^test\/(docs|house\/committed|cli\/output)/],
  [/^(examples|bench)\//, /^test\/examples\//],
  [/^(package\.json|Makefile|\.ci\/|scripts\/)/, /^test\/(docs|house)\//],
]

const reach = readReach()
const ms = (test: string): number => (reach.get(test)?.ms ?? UNKNOWN_MS) + START_MS

function git(...args: readonly string[]): string[] {
  const { status, stdout, stderr } = spawnSync('git', args, { cwd: ROOT, encoding: 'utf8' })
  if (status !== 0) throw new Error(`git ${args.join(' ')}: ${stderr.trim()}`)
  return stdout.split('\n').filter(Boolean)
}

/** Files that differ from `base`, new ones too; those of the last commit if there are none. */
function changedSince(base: string | undefined): string[] {
  const since = (commit: string): string[] => git('diff', '--name-only', '--diff-filter=d', commit)
  const changed = [...since(base ?? 'HEAD'), ...git('ls-files', '--others', '--exclude-standard')]
  return changed.length > 0 || base !== undefined ? changed : since('HEAD~1')
}

/** For each changed file its tests, the likeliest to notice first. */
function testsOf(changed: readonly string[]): string[][] {
  const tests = filesUnder('test').filter((path) => path.endsWith('.test.ts'))
  const distances = distancesOf(sourcesUnder('src', 'test'))
  return changed.map((path) => {
    if (path.endsWith('.test.ts')) return [path]
    const other = OTHERS.find(([file]) => file.test(path))
    if (other !== undefined) return tests.filter((test) => other[1].test(test)).sort((a, b) => ms(a) - ms(b))
    if (!path.endsWith('.ts')) return []
    return testsFor({ path, functions: [] }, reach, distances)
  })
}

/** The first of each list, then the second of each, while there is time. */
function chosenFrom(lists: readonly (readonly string[])[]): string[] {
  const chosen = new Set<string>()
  let leftMs = BUDGET_MS
  for (let i = 0; lists.some((list) => i < list.length); i++) {
    for (const list of lists) {
      const test = list[i]
      if (test === undefined || chosen.has(test) || ms(test) > leftMs) continue
      chosen.add(test)
      leftMs -= ms(test)
    }
  }
  return [...chosen]
}

const { values } = parseArgs({ options: { base: { type: 'string' } } })
const changed = changedSince(values.base)
const lists = testsOf(changed)
const chosen = chosenFrom(lists)
const all = new Set(lists.flat())
console.log(`${changed.length} changed files; ${chosen.length} of the ${all.size} tests that may notice`)
if (chosen.length === 0) console.log('nothing to run')
else {
  const { status } = spawnSync('npx', ['tap', 'run', 'build/tests/test/all.js'], {
    cwd: ROOT,
    env: { ...process.env, MMSB_TESTS: chosen.join(' ') },
    stdio: 'inherit',
  })
  const left = [...all].filter((test) => !chosen.includes(test))
  if (left.length > 0) console.log(`left out: ${left.length} tests; make test runs them all`)
  process.exitCode = status ?? 1
}
