/**
 * Which tests may notice a mutant, the best first. reach.txt knows the quickest tests that reach a function.
 * Behind them come tests whose imports lead to the file, the nearest first: tests that are not recorded yet,
 * and all of them where no recorded test reaches the function.
 */
import { dirname, join, normalize } from 'node:path'
import ts from 'typescript'
import type { Source } from '../../house/source.js'
import type { Mutant } from './mutations.js'
import { isUsable, type Reach } from './reach.js'

/** What a test that is not recorded is taken to need, in ms. */
const UNKNOWN_MS = 8_000

/** The files of the house that a file loads: not types, but workers that it starts by name. */
function loadedBy({ path, tree, text }: Source): string[] {
  const found: string[] = []
  const add = (name: string): void => {
    if (name.startsWith('.')) found.push(normalize(join(dirname(path), name)).replace(/\.js$/, '.ts'))
  }
  for (const statement of tree.statements) {
    if (!ts.isImportDeclaration(statement) && !ts.isExportDeclaration(statement)) continue
    const isType = ts.isImportDeclaration(statement)
      ? statement.importClause?.isTypeOnly
      : statement.isTypeOnly
    const from = statement.moduleSpecifier
    if (isType !== true && from !== undefined && ts.isStringLiteral(from)) add(from.text)
  }
  for (const [, name] of text.matchAll(/startWorker\('([a-z-]+)'/g)) add(`./${name}.js`)
  return found
}

/** For each test, how many imports away each file of src/ is. */
export function distancesOf(sources: readonly Source[]): Map<string, Map<string, number>> {
  const loads = new Map(sources.map((source) => [source.path, loadedBy(source)]))
  const all = new Map<string, Map<string, number>>()
  for (const { path } of sources.filter((source) => isUsable(source.path))) {
    const distances = new Map([[path, 0]])
    // A map grows while it is walked.
    for (const [at, distance] of distances) {
      for (const next of loads.get(at) ?? []) if (!distances.has(next)) distances.set(next, distance + 1)
    }
    all.set(path, distances)
  }
  return all
}

/** The room that a test is of: `store` for test/store/log/log.test.ts. */
const roomOf = (path: string): string => path.split('/')[1]!

export function testsFor(
  { path, functions }: Mutant,
  { ms, tests }: Reach,
  distances: ReadonlyMap<string, ReadonlyMap<string, number>>,
): string[] {
  const names = Object.keys(ms)
  const reaching = [...functions.map((name) => `${path}#${name}`), path].map((key) => tests[key])
  const innermost = reaching.find((list) => list !== undefined) ?? []
  const recorded = innermost.map((i) => names[i]!).filter((test) => distances.has(test))
  const others = [...distances.keys()]
    .filter((test) => distances.get(test)!.has(path) && !recorded.includes(test))
    // What was recorded and does not reach the function cannot notice; a change at load time can.
    .filter((test) => ms[test] === undefined || innermost.length === 0 || functions.length === 0)
  const cost = (test: string): number => {
    const isMirror = test === path.replace(/^src/, 'test').replace(/\.ts$/, '.test.ts')
    const isNear = roomOf(test) === roomOf(path)
    return (
      ((distances.get(test)!.get(path)! + 1) * (ms[test] ?? UNKNOWN_MS)) / (isMirror ? 8 : isNear ? 2 : 1)
    )
  }
  return [...recorded, ...others.sort((a, b) => cost(a) - cost(b))]
}
