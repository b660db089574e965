/**
 * Which tests may notice a mutant, the best first: quick ones, of the same room, whose names are alike.
 * reach.txt knows the quickest tests that reach a function. A test that is not recorded may notice if its
 * imports lead to the file; so may every test where no recorded one reaches the function.
 */
import { dirname, join, normalize } from 'node:path'
import ts from 'typescript'
import type { Source } from '../../house/source.js'
import type { Mutant } from './mutations.js'
import { isUsable, type Reach } from './reach.js'

/** What a test that is not recorded is taken to need, in ms. */
export const UNKNOWN_MS = 8_000
/** Imports between a test and a file that only a server or a thread of the test loads. */
const FAR = 6
/** How much likelier a test notices a mutant of a file for each one that it has noticed already. */
const KILLED = 3
/** How much likelier a test that reaches the function notices than one that may not. */
const DOUBT = 2

/** The files of the house that a file loads: not types, but workers and modules that it starts by name. */
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
  for (const [, file] of text.matchAll(/moduleUrl\('([\w./-]+\.ts)'/g)) found.push(file as string)
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

/** How much likelier a test is to be about a file than one of another room. */
function nearness(test: string, path: string): number {
  const [mine, others] = [test, path].map((name) =>
    name
      .replace(/(\.test)?\.ts$/, '')
      .split('/')
      .slice(1),
  )
  const folders = mine!
    .slice(0, -1)
    .filter((folder, i) => others![i] === folder && i < others!.length - 1).length
  // Of `writer` and `writers` alike.
  const [about, named] = [mine, others].map((parts) =>
    parts!
      .at(-1)!
      .split('-')
      .map((word) => word.replace(/s$/, '')),
  )
  const words = about!.filter((word) => named!.includes(word)).length
  return (1 + folders) * (1 + 3 * words)
}

/** How often each test has noticed a mutant of a file: what noticed one probably notices the next. */
export class Kills {
  readonly #counts = new Map<string, number>()

  add(path: string, test: string): void {
    this.#counts.set(`${path} ${test}`, this.count(path, test) + 1)
  }

  count(path: string, test: string): number {
    return this.#counts.get(`${path} ${test}`) ?? 0
  }
}

export function testsFor(
  { path, functions }: Pick<Mutant, 'path' | 'functions'>,
  reach: Reach,
  distances: ReadonlyMap<string, ReadonlyMap<string, number>>,
  kills = new Kills(),
): string[] {
  const keys = [...functions.map((name) => `${path}#${name}`), path]
  const innermost = keys.find((key) => [...reach.values()].some(({ reached }) => reached?.has(key) === true))
  const isReached = (test: string): boolean =>
    innermost !== undefined && reach.get(test)?.reached?.has(innermost) === true
  // What was recorded and does not reach the function cannot notice; a change at load time can be noticed.
  const isOpen = (test: string): boolean =>
    reach.get(test)?.reached === undefined || innermost === undefined || functions.length === 0
  const cost = (test: string): number => {
    const away = distances.get(test)!.get(path) ?? FAR
    const doubt = isReached(test) ? 1 : DOUBT
    const likely = nearness(test, path) * (1 + KILLED * kills.count(path, test))
    return (doubt * (away + 1) * (reach.get(test)?.ms ?? UNKNOWN_MS)) / likely
  }
  return [...distances.keys()]
    .filter((test) => isReached(test) || (distances.get(test)!.has(path) && isOpen(test)))
    .sort((a, b) => cost(a) - cost(b))
}
