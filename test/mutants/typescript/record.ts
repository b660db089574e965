/**
 * Which tests reach which function, and how long each takes: `make mutants-record`. Runs every test file by
 * itself with the coverage of V8 on, in all processes and threads that it starts, and writes reach.txt, from
 * which run.ts chooses the tests for a mutant. Takes as long as all tests one after the other.
 *
 * Arguments: `--only PATTERN` records the tests whose path matches and keeps what is known of the others;
 * `--missing` leaves out what is recorded already.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { filesUnder } from '../../house/source.js'
import { Tree } from '../tree.js'
import { isUsable, type Recorded, readRecords, writeReach, writeRecords } from './reach.js'

/** A test that takes longer is of no use for one mutant among hundreds. */
const LIMIT_MS = 60_000

interface CoverageFile {
  readonly result: readonly {
    readonly url: string
    readonly functions: readonly {
      readonly functionName: string
      readonly ranges: readonly { readonly count: number }[]
    }[]
  }[]
}

/** The functions that ran, as `src/wire/dtype.ts#name`; the file itself, for what runs when it is loaded. */
function reachedIn(folder: string, root: string): Set<string> {
  const reached = new Set<string>()
  for (const name of readdirSync(folder)) {
    let coverage: CoverageFile
    try {
      coverage = JSON.parse(readFileSync(join(folder, name), 'utf8')) as CoverageFile
    } catch {
      continue // A process that was killed while it wrote.
    }
    for (const { url, functions } of coverage.result) {
      const path = new RegExp(`^file://${root}/(?:src|dist)/([^?]*)\\.(?:ts|js)`).exec(url)?.[1]
      if (path === undefined) continue
      reached.add(`src/${path}.ts`)
      for (const { functionName, ranges } of functions) {
        if (functionName !== '' && functionName !== '__name' && ranges[0]!.count > 0)
          reached.add(`src/${path}.ts#${functionName}`)
      }
    }
  }
  return reached
}

const { values } = parseArgs({ options: { only: { type: 'string' }, missing: { type: 'boolean' } } })
const tests = filesUnder('test').filter(isUsable)
const records = new Map<string, Recorded>([...readRecords()].filter(([test]) => tests.includes(test)))
const tree = new Tree()
process.on('exit', () => tree.remove())
for (const [i, test] of tests.entries()) {
  if (values.only !== undefined && !new RegExp(values.only).test(test)) continue
  if (values.missing === true && records.has(test)) continue
  const folder = mkdtempSync(join(tmpdir(), 'mmsb-reach-'))
  const { passed, late, ms } = await tree.run(test, LIMIT_MS, { NODE_V8_COVERAGE: folder })
  console.log(`${i + 1} of ${tests.length}: ${test} ${passed ? '' : 'FAILED '}${Math.round(ms)} ms`)
  if (passed || late) {
    records.set(test, { ms: Math.round(ms), reached: late ? undefined : reachedIn(folder, tree.folder) })
  } else records.delete(test)
  rmSync(folder, { recursive: true, force: true })
  writeRecords(records)
}
writeReach(records)
