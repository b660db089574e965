/** Mutants are made where a mistake would matter, keep the program a program, and have lasting names. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import ts from 'typescript'
import { filesUnder } from '../../house/source.js'
import { ROOT } from '../../lib/place.js'
import { mutantsOf } from './mutations.js'

const changes = (text: string): string[] =>
  mutantsOf('src/a.ts', text).map(({ id }) => id.slice('src/a.ts#'.length))

/** Is this no program? To parse is enough, and far quicker than to compile. */
function isBroken(text: string): boolean {
  const tree = ts.createSourceFile('changed.ts', text, ts.ScriptTarget.ES2023)
  const { parseDiagnostics } = tree as unknown as { parseDiagnostics: readonly unknown[] }
  return parseDiagnostics.length > 0
}

t.test('a comparison, a condition, a call and an await are changed', async (t) => {
  t.same(changes('function f(a: number) {\n  if (a < 1) g(a)\n}'), [
    'f: a < 1 -> true',
    'f: a < 1 -> false',
    'f: a < 1 -> a <= 1',
    'f: a < 1 -> a >= 1',
    'f: g(a) -> ;',
  ])
  t.same(changes('const b = await c(true)'), [': await c(true) -> (c(true))', ': true -> false'])
  t.same(changes('a.toString()'), [': a.toString() -> ;'], 'not what every object has')
  t.same(changes('class A { #b() { return Math.min(...this.#c) } }'), ['#b: Math.min -> Math.max'])
})

t.test('types, strings, texts of errors and logs are left alone', async (t) => {
  t.same(changes("type A = true\nconst b = 'a' + 'b'\nlog.warn({ a: true })\nthrow new E(1 + 2)"), [])
})

t.test('two changes with one text have two names', async (t) => {
  t.same(changes('f(a)\nf(a)'), [': f(a) -> ;', ': f(a) -> ; (2)'])
})

t.test('what is changed is still a program', async (t) => {
  t.ok(isBroken('f('), 'what is none is found')
  for (const path of filesUnder('src/stream').filter((name) => name.endsWith('.ts'))) {
    const text = readFileSync(join(ROOT, path), 'utf8')
    const faults = mutantsOf(path, text).filter(({ start, end, replacement }) =>
      isBroken(text.slice(0, start) + replacement + text.slice(end)),
    )
    t.same(faults, [], path)
  }
})
