/**
 * What record.ts found out about the tests: how long each takes, and which functions of src/ it reaches.
 * Kept in reach.txt, which is committed. Must not know how tests are run or chosen.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT } from '../../lib/place.js'

const REACH = join(ROOT, 'test/mutants/typescript/reach.txt')
const OTHERS =
  /^test\/((house|native|mutants|abuse|numpy|docs)\/|conformance\/emulated|engine\/history\/cpu-failover)/

export interface Recorded {
  readonly ms: number
  /**
   * Functions as `src/wire/dtype.ts#name`, files as `src/wire/dtype.ts`. Undefined if the test took too
   * long to tell.
   */
  readonly reached: ReadonlySet<string> | undefined
}

export type Reach = ReadonlyMap<string, Recorded>

/**
 * Not tests of other things than src/ (native code, documents, the rules of the house), nor what compiles.
 */
export function isUsable(path: string): boolean {
  return path.endsWith('.test.ts') && !OTHERS.test(path)
}

/** Which of the tests, one bit for each, the first one lowest. */
function bitsOf(numbers: readonly number[]): string {
  const bytes = new Uint8Array(Math.ceil((Math.max(...numbers) + 1) / 8))
  for (const number of numbers) bytes[number >> 3]! |= 1 << (number & 7)
  return Buffer.from(bytes).toString('base64url')
}

function numbersOf(bits: string): number[] {
  const bytes = Buffer.from(bits, 'base64url')
  return Array.from({ length: 8 * bytes.length }, (_, i) => i).filter((i) => (bytes[i >> 3]! >> (i & 7)) & 1)
}

/**
 * Lines: `ms test` for every test, `ms? test` if it is slow; then a file; then ` function`, and the tests
 * that reach it as bits in base64.
 */
export function writeReach(reach: Reach): void {
  const sorted = [...reach].sort(([a], [b]) => (a < b ? -1 : 1))
  const tests = new Map<string, number[]>()
  for (const [i, [, { reached }]] of sorted.entries()) {
    for (const name of reached ?? []) tests.set(name, [...(tests.get(name) ?? []), i])
  }
  const lines = sorted.map(([test, { ms, reached }]) => `${ms}${reached === undefined ? '?' : ''} ${test}`)
  for (const name of [...tests.keys()].sort()) {
    const at = name.indexOf('#')
    lines.push(`${at < 0 ? name : ` ${name.slice(at + 1)}`}\t${bitsOf(tests.get(name)!)}`)
  }
  writeFileSync(REACH, `${lines.join('\n')}\n`)
}

export function readReach(): Map<string, Recorded> {
  const reach = new Map<string, { ms: number; reached: Set<string> | undefined }>()
  if (!existsSync(REACH)) return reach
  const tests: string[] = []
  let path = ''
  for (const line of readFileSync(REACH, 'utf8').trimEnd().split('\n')) {
    const [name, bits] = line.split('\t') as [string, string | undefined]
    if (bits === undefined) {
      const [time, test] = line.split(' ') as [string, string]
      const reached = time.endsWith('?') ? undefined : new Set<string>()
      reach.set(test, { ms: Number.parseInt(time, 10), reached })
      tests.push(test)
      continue
    }
    if (!name.startsWith(' ')) path = name
    const key = name.startsWith(' ') ? `${path}#${name.slice(1)}` : name
    // Whoever changes a test much writes `?` behind its time; what it reached before says nothing then.
    for (const number of numbersOf(bits)) reach.get(tests[number]!)?.reached?.add(key)
  }
  return reach
}
