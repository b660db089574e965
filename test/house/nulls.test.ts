/**
 * Absent is `undefined`. `null` stands only where something outside has it (JSON, SQLite, Node, a browser, C)
 * or where a public type promises it, and such a file says so in its head comment, in a line that starts with
 * "Null because". Comparing with null is free: it asks what came from outside, and makes nothing.
 */
import t from 'tap'
import ts from 'typescript'
import { eachNode, headOf, placeOf, type Source, sourcesOf, sourcesUnder } from './source.js'

const COMPARISONS = new Set([
  ts.SyntaxKind.EqualsEqualsToken,
  ts.SyntaxKind.EqualsEqualsEqualsToken,
  ts.SyntaxKind.ExclamationEqualsToken,
  ts.SyntaxKind.ExclamationEqualsEqualsToken,
])
/** The language itself asks for null here. */
const BUILT_IN = /^(Object\.(create|setPrototypeOf)|JSON\.stringify)$/

function unexplainedNulls(sources: readonly Source[]): string[] {
  const complaints: string[] = []
  for (const source of sources) {
    if (headOf(source.text).some((line) => /^Null because \w/.test(line))) continue
    eachNode(source, (node) => {
      if (node.kind !== ts.SyntaxKind.NullKeyword) return
      const { parent } = node
      if (ts.isBinaryExpression(parent) && COMPARISONS.has(parent.operatorToken.kind)) return
      if (ts.isCallExpression(parent) && BUILT_IN.test(parent.expression.getText())) return
      complaints.push(`${placeOf(source, node)} ${node.parent.getText().split('\n')[0]}`)
    })
  }
  return complaints
}

/** Reasons that no null needs. */
function idleReasons(sources: readonly Source[]): string[] {
  return sources
    .filter(({ text }) => headOf(text).some((line) => line.startsWith('Null because')))
    .filter(
      (source) =>
        unexplainedNulls([{ ...source, text: source.tree.text.replace('Null because', '') }]).length === 0,
    )
    .map(({ path }) => path)
}

t.test('a null that is made or promised is found; a comparison is not', async (t) => {
  const made = [
    'let a = null',
    'function f() { return null }',
    'let a: string | null',
    'f(null)',
    'a ??= null',
  ]
  for (const text of made)
    t.match(unexplainedNulls(sourcesOf({ 'src/a.ts': `\n${text}` })), [/^src\/a.ts:2 /], text)
  const free = [
    'if (a === null) b()',
    'a != null',
    'Object.create(null)',
    'JSON.stringify(a, null, 2)',
    '// null',
  ]
  for (const text of free) t.same(unexplainedNulls(sourcesOf({ 'src/a.ts': text })), [], text)
  const head = '/**\n * Rows.\n * Null because SQLite has it.\n */\n'
  t.same(unexplainedNulls(sourcesOf({ 'src/a.ts': `${head}let a = null` })), [])
  t.same(idleReasons(sourcesOf({ 'src/a.ts': `${head}let a = null`, 'src/b.ts': `${head}let a = 1` })), [
    'src/b.ts',
  ])
})

t.test('null has a reason in src', async (t) => {
  const sources = sourcesUnder('src')
  t.same(unexplainedNulls(sources), [])
  t.same(idleReasons(sources), [], 'a reason stays no longer than its null')
})
