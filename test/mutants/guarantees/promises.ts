/**
 * The promises of docs/guide/GUARANTEES.md: the tests beside each, and the faults that those tests notice. A
 * fault is a mutant of src/ by its name, or a native fault by its name. Must not know how faults are planted.
 */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { tableRowsOf } from '../../docs/markdown.js'
import { ROOT } from '../../lib/place.js'

export const RESULTS = join(ROOT, 'test/mutants/guarantees/results.json')

export interface NamedTest {
  readonly path: string
  /** Part of the title of one test of the file; undefined: all of them. */
  readonly title: string | undefined
}

export interface Promised {
  readonly promise: string
  readonly tests: readonly NamedTest[]
  readonly faults: readonly string[]
}

/** For each fault the tests that noticed it, as `labelOf` names them. */
export type Noticed = Readonly<Record<string, readonly string[]>>

export const labelOf = ({ path, title }: NamedTest): string =>
  title === undefined ? path : `${path} "${title}"`

function testsOf(cell: string): NamedTest[] {
  const tests: NamedTest[] = []
  for (const [, path, titles] of cell.matchAll(/`(test\/[\w./-]+)`((?:,? "[^"]+")*)/g)) {
    const named = [...titles!.matchAll(/"([^"]+)"/g)].map(([, title]) => title)
    for (const title of named.length === 0 ? [undefined] : named) tests.push({ path: path!, title })
  }
  return tests
}

export function promisesOf(markdown: string): Promised[] {
  return tableRowsOf(markdown).map(([promise, tests, faults]) => ({
    promise: promise!,
    tests: testsOf(tests ?? ''),
    faults: [...(faults ?? '').matchAll(/`([^`]+)`/g)].map(([, fault]) => fault!),
  }))
}

export function readPromises(): Promised[] {
  return promisesOf(readFileSync(join(ROOT, 'docs/guide/GUARANTEES.md'), 'utf8'))
}

export function readNoticed(): Noticed {
  return existsSync(RESULTS) ? (JSON.parse(readFileSync(RESULTS, 'utf8')) as Noticed) : {}
}

/**
 * What is wrong with promises: a fault is missing, is not in the sources, or has not been seen to be noticed.
 */
export function complaintsAbout(
  promises: readonly Promised[],
  isFault: (name: string) => boolean,
  noticed: Noticed,
): string[] {
  return promises.flatMap(({ promise, tests, faults }) => {
    if (tests.length === 0) return [`"${promise}" names no test`]
    if (faults.length === 0) return [`"${promise}" names no fault that its test notices`]
    const labels = tests.map(labelOf)
    return faults.flatMap((fault) => {
      if (!isFault(fault)) return [`"${promise}": the sources have no place for the fault ${fault}`]
      if (labels.some((label) => noticed[fault]?.includes(label))) return []
      return [`"${promise}": its tests have not been seen to notice ${fault}`]
    })
  })
}
