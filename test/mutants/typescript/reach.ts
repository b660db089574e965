/**
 * What record.ts found out about the tests. build/mutants/ keeps all of it; reach.txt, which is committed,
 * keeps for each function the tests that reach it and cost the least.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT } from '../../house/source.js'

const RECORDS = join(ROOT, 'build/mutants/records.json')
const REACH = join(ROOT, 'test/mutants/typescript/reach.txt')
const OTHERS =
  /^test\/((house|native|mutants|abuse|numpy|docs)\/|conformance\/emulated|engine\/history\/cpu-failover)/
/** Tests that reach.txt keeps for a function. */
const KEPT = 8

export interface Recorded {
  readonly ms: number
  /** See record.ts. Undefined if the test took too long to tell. */
  readonly reached: ReadonlySet<string> | undefined
}

export interface Reach {
  /** The time of every test, in ms. */
  readonly ms: Readonly<Record<string, number>>
  /** Tests that took too long to tell what they reach. */
  readonly slow: ReadonlySet<string>
  /** For each function, the indices of tests in `ms`, quickest first. */
  readonly tests: Readonly<Record<string, readonly number[]>>
}

/**
 * Not tests of other things than src/ (native code, documents, the rules of the house), nor what compiles.
 */
export function isUsable(path: string): boolean {
  return path.endsWith('.test.ts') && !OTHERS.test(path)
}

export function readRecords(): Map<string, Recorded> {
  if (!existsSync(RECORDS)) return new Map()
  const list = JSON.parse(readFileSync(RECORDS, 'utf8')) as [string, number, string[]?][]
  return new Map(
    list.map(([test, ms, reached]) => [
      test,
      { ms, reached: reached === undefined ? reached : new Set(reached) },
    ]),
  )
}

export function writeRecords(records: ReadonlyMap<string, Recorded>): void {
  mkdirSync(join(ROOT, 'build/mutants'), { recursive: true })
  const list = [...records].map(([test, { ms, reached }]) => [
    test,
    ms,
    ...(reached === undefined ? [] : [[...reached]]),
  ])
  writeFileSync(RECORDS, JSON.stringify(list))
}

/**
 * Lines: `ms test` for every test, the quickest first, `ms? test` if it is slow; then a file; then `
 * function`, and which tests.
 */
export function writeReach(records: ReadonlyMap<string, Recorded>): void {
  const quickest = [...records].sort(([, a], [, b]) => a.ms - b.ms)
  const tests = new Map<string, number[]>()
  for (const [i, [, { reached }]] of quickest.entries()) {
    for (const name of reached ?? []) tests.set(name, [...(tests.get(name) ?? []), i].slice(0, KEPT))
  }
  const lines = quickest.map(([test, { ms, reached }]) => `${ms}${reached === undefined ? '?' : ''} ${test}`)
  for (const name of [...tests.keys()].sort()) {
    const [path, functionName] = name.includes('#') ? cut(name) : [name, undefined]
    lines.push(`${functionName === undefined ? path : ` ${functionName}`}\t${tests.get(name)!.join(' ')}`)
  }
  writeFileSync(REACH, `${lines.join('\n')}\n`)
}

/** Before and behind the first #; names of private functions have another. */
function cut(name: string): [string, string] {
  const at = name.indexOf('#')
  return [name.slice(0, at), name.slice(at + 1)]
}

export function readReach(): Reach {
  const ms: Record<string, number> = {}
  const tests: Record<string, number[]> = {}
  const slow = new Set<string>()
  if (!existsSync(REACH)) return { ms, slow, tests }
  let path = ''
  for (const line of readFileSync(REACH, 'utf8').trimEnd().split('\n')) {
    const [name, numbers] = line.split('\t') as [string, string | undefined]
    if (numbers === undefined) {
      const [time, test] = line.split(' ') as [string, string]
      ms[test] = Number.parseInt(time, 10)
      if (time.endsWith('?')) slow.add(test)
      continue
    }
    if (!name.startsWith(' ')) path = name
    tests[name.startsWith(' ') ? `${path}#${name.slice(1)}` : name] = numbers.split(' ').map(Number)
  }
  return { ms, slow, tests }
}
