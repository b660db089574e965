/**
 * Comments are at most 110 columns wide, like the code that Biome wraps. `scripts/wrap-comments.ts` wraps
 * those of TypeScript. In native code, which clang-format keeps at 120 columns, lines that are nothing but
 * comment are checked.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { COLUMNS, wideCommentLines, wrapComments } from '../../scripts/wrap-comments.js'
import { ROOT } from '../lib/place.js'
import { filesUnder, type Source, sourcesOf, sourcesUnder } from './source.js'

function wideComments(sources: readonly Source[]): string[] {
  return sources.flatMap(({ path, text }) => wideCommentLines(text).map((line) => `${path}:${line}`))
}

const NATIVE = /\.(cu|cuh|h|cpp)$/

function wideNativeComments(path: string, text: string): string[] {
  return text.split('\n').flatMap((line, i) => {
    const isWide = [...line].length > COLUMNS && /^\s*(\/\/|\/?\*\s)/.test(line)
    return isWide ? [`${path}:${i + 1}`] : []
  })
}

const WORDS = 'word '.repeat(30).trim()

t.test('wide comments are found; wide strings and unbreakable words are not', async (t) => {
  const wide = [
    `// ${WORDS}`,
    `/** ${WORDS} */`,
    `/**\n * ${WORDS}\n */`,
    `const a = 1 // ${WORDS}`,
    `f(/* ${WORDS} */ 1)`,
  ]
  for (const text of wide) t.equal(wideComments(sourcesOf({ 'src/a.ts': text })).length, 1, text)
  const fine = [
    `const a = '// ${WORDS}'`,
    `const a = \`// ${WORDS}\``,
    `// https://example.org/${'x'.repeat(120)}`,
    '// short',
  ]
  for (const text of fine) t.same(wideComments(sourcesOf({ 'src/a.ts': text })), [], text)
})

t.test('wide comments of native code are found; code and comments behind it are not', async (t) => {
  t.same(wideNativeComments('a.cuh', `int a;\n  // ${WORDS}`), ['a.cuh:2'])
  t.same(wideNativeComments('a.cuh', `/*\n * ${WORDS}\n */`), ['a.cuh:2'])
  t.same(wideNativeComments('a.cuh', `int ${'a'.repeat(120)};\nint b; // ${WORDS}`), [])
})

t.test('a wide comment is filled, what stands beside it stays', async (t) => {
  const line = (count: number): string => 'word '.repeat(count).trim()
  t.equal(wrapComments(`  // ${line(30)}\n  f()`), `  // ${line(21)}\n  // ${line(9)}\n  f()`)
  t.equal(wrapComments(`// ${line(30)}\n// more`), `// ${line(21)}\n// ${line(9)} more`)
  t.equal(wrapComments(`/** ${line(30)} */\nf()`), `/**\n * ${line(21)}\n * ${line(9)}\n */\nf()`)
  const kept = [
    '/**',
    ' * One.',
    ' * Two.',
    ' *',
    ' * | a | b |',
    ' * - item',
    ' *     code',
    ' * Long because it is.',
    ' */',
  ]
  const text = (...last: string[]): string => [...kept.slice(0, -1), ...last, ' */', 'f()'].join('\n')
  t.equal(
    wrapComments(text(' *', ` * - ${line(31)}`, '   *   more')),
    text(' *', ` * - ${line(21)}`, ` *   ${line(10)} more`),
  )
  t.equal(wrapComments(`// ${line(22)}`), `// ${line(19)}\n// ${line(3)}`, 'no word alone on a line')
  t.equal(wrapComments(`// ---- a ${'-'.repeat(200)}`), `// ---- a ${'-'.repeat(100)}`)
  t.equal(wrapComments(text()), text(), 'nothing is wide')
  t.equal(wrapComments(`const a = '// ${line(30)}'`), `const a = '// ${line(30)}'`)
})

t.test('no comment is wider than 110 columns', async (t) => {
  t.same(wideComments(sourcesUnder('src', 'test', 'bench', 'examples', 'scripts')), [])
  const native = ['kernels.cu', ...filesUnder('src'), ...filesUnder('test')].filter((path) =>
    NATIVE.test(path),
  )
  t.same(
    native.flatMap((path) => wideNativeComments(path, readFileSync(join(ROOT, path), 'utf8'))),
    [],
  )
})
