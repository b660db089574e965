/**
 * Which tests reach which function, and how long each takes: `make mutants-record`. Runs every test file by
 * itself with the coverage of V8 on, in all processes and threads that it starts, and writes reach.txt, from
 * which run.ts chooses the tests for a mutant. Takes somewhat longer than all tests.
 *
 * Arguments: `--only PATTERN` records the tests whose path matches and keeps what is known of the others;
 * `--missing` leaves out what is recorded already.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { filesUnder } from '../../house/source.js'
import type { Tree } from '../tree.js'
import { eachInParallel } from './parallel.js'
import { isUsable, readReach, writeReach } from './reach.js'

/** A test that takes longer is of no use for one mutant among hundreds. */
const LIMIT_MS = 90_000

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
const reach = new Map([...readReach()].filter(([test]) => tests.includes(test)))
const wanted = tests.filter((test) => {
  if (values.only !== undefined && !new RegExp(values.only).test(test)) return false
  return values.missing !== true || !reach.has(test)
})

async function record(tree: Tree, test: string): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'mmsb-reach-'))
  const { passed, late, ms } = await tree.run(test, LIMIT_MS, { NODE_V8_COVERAGE: folder })
  const rounded = Math.round(ms)
  console.log(`${test} ${passed ? '' : 'FAILED '}${rounded} ms`)
  if (passed || late) {
    reach.set(test, { ms: rounded, reached: late ? undefined : reachedIn(folder, tree.folder) })
  } else reach.delete(test)
  rmSync(folder, { recursive: true, force: true })
  writeReach(reach)
}

await eachInParallel(wanted, record)
