/**
 * Runs compiled tests, a process for each, as many at a time as the runner is told: `make test`. The slowest
 * begin, so that no core is idle at the end. The tests of the house share a process, because they parse the
 * same sources.
 *
 * The runner would load its hooks into every process and every thread of a test, which takes longer than most
 * tests. So it runs only this file, and this one starts the tests without them.
 */
import t from 'tap'
import { filesUnder } from './house/source.js'
import { moduleUrl, programArgs, ROOT } from './lib/place.js'
import { readReach } from './mutants/typescript/reach.js'

/** Files and folders below test/; everything if there are none. */
const WANTED = (process.env.MMSB_TESTS ?? '').split(' ').filter(Boolean)
/** As package.json and the command line tell the runner. */
const JOBS = Number(process.env.TAP_JOBS)
const TIMEOUT_MS = 1000 * Number(process.env.TAP_TIMEOUT)
/** These download packages and compile them. */
const LONG = 'test/package'
const LONG_TIMEOUT_MS = 3 * TIMEOUT_MS

const all = filesUnder('test').filter((path) => path.endsWith('.test.ts'))
const isBelow = (path: string, place: string): boolean =>
  `${path}/`.startsWith(`${place.replace(/\/$/, '')}/`)
for (const place of WANTED) {
  if (!all.some((path) => isBelow(path, place))) t.fail(`${place} has no tests`)
}

const reach = readReach()
/** By the recorded time. What is not recorded compiles or runs programs. */
const ms = (path: string): number => reach.get(path)?.ms ?? Number.POSITIVE_INFINITY
const tests = all
  .filter((path) => WANTED.length === 0 || WANTED.some((place) => isBelow(path, place)))
  .sort((a, b) => (ms(a) === ms(b) ? (a < b ? -1 : 1) : ms(b) - ms(a)))

const SHARED = 'test/house'
const together = tests.filter((path) => isBelow(path, SHARED))

/** Runs one test, after those that it shares the process with. */
function start(name: string, path: string, ...before: readonly string[]): void {
  const imports = before.map((other) => `--import=${moduleUrl(other)}`)
  const node = [process.execPath, '--enable-source-maps', ...imports, ...programArgs(path)]
  void t.spawn('env', ['-u', 'NODE_OPTIONS', ...node], {
    name,
    cwd: ROOT,
    buffered: true,
    timeout: isBelow(path, LONG) ? LONG_TIMEOUT_MS : TIMEOUT_MS,
  })
}

t.setTimeout(0)
t.jobs = JOBS
for (const path of tests) {
  if (!together.includes(path)) start(path, path)
  else if (path === together[0]) start(together.length === 1 ? path : SHARED, path, ...together.slice(1))
}
