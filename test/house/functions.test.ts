/**
 * A function fits a screen: at most 70 lines from its first to its last, by the compiler's tree, in src/. A
 * function of src/http/routes/ that does nothing but register routes is a table and may be longer; its
 * handlers may not.
 */
import t from 'tap'
import ts from 'typescript'
import { eachNode, placeOf, type Source, sourcesOf, sourcesUnder } from './source.js'

const LINES_MAX = 70
const REGISTRARS = new Set(['get', 'head', 'put', 'patch', 'post', 'delete', 'options', 'route', 'register'])

function longFunctions(sources: readonly Source[]): string[] {
  const complaints: string[] = []
  for (const source of sources) {
    eachNode(source, (node) => {
      if (!ts.isFunctionLike(node) && !ts.isClassStaticBlockDeclaration(node)) return
      const lines = linesOf(source, node)
      if (lines <= LINES_MAX || isRouteTable(source, node)) return
      const name = node.name?.getText() ?? (ts.isConstructorDeclaration(node) ? 'constructor' : 'a function')
      complaints.push(`${placeOf(source, node)} ${name}: ${lines} lines`)
    })
  }
  return complaints
}

function linesOf({ tree }: Source, node: ts.Node): number {
  const line = (position: number): number => tree.getLineAndCharacterOfPosition(position).line
  return line(node.end) - line(node.getStart()) + 1
}

/**
 * Whether every statement of a function in routes/ calls a method of the app, its first parameter,
 * that registers.
 */
function isRouteTable({ path }: Source, node: ts.Node): boolean {
  if (!path.startsWith('src/http/routes/') || !ts.isFunctionDeclaration(node)) return false
  const app = node.parameters[0]?.name.getText()
  return node.body!.statements.every((statement) => {
    if (!ts.isExpressionStatement(statement) || !ts.isCallExpression(statement.expression)) return false
    const { expression: callee } = statement.expression
    if (!ts.isPropertyAccessExpression(callee)) return false
    return callee.expression.getText() === app && REGISTRARS.has(callee.name.text)
  })
}

const body = (lines: number): string => 'x()\n'.repeat(lines)

t.test('a long function of any kind is found', async (t) => {
  const kinds: Record<string, (inside: string) => string> = {
    function: (inside) => `function f() {\n${inside}}`,
    arrow: (inside) => `const f = () => {\n${inside}}`,
    method: (inside) => `class C { f() {\n${inside}} }`,
    private: (inside) => `class C { #f() {\n${inside}} }`,
    initializer: (inside) => `class C { constructor() {\n${inside}} }`,
    getter: (inside) => `class C { get f() {\n${inside}} }`,
    setter: (inside) => `class C { set f(x) {\n${inside}} }`,
    static: (inside) => `class C { static {\n${inside}} }`,
    shorthand: (inside) => `export const o = { f() {\n${inside}} }`,
  }
  for (const [kind, textOf] of Object.entries(kinds)) {
    t.same(longFunctions(sourcesOf({ 'src/a.ts': textOf(body(68)) })), [], kind)
    t.match(longFunctions(sourcesOf({ 'src/a.ts': textOf(body(69)) })), [/^src\/a.ts:1 .*: 71 lines$/], kind)
  }
})

t.test('a table of routes may be long; what is not only a table, or stands elsewhere, may not', async (t) => {
  const route = "app.get('/a', {}, async () => 1)\n".repeat(80)
  const table = `export function routes(app: App) {\n${route}}`
  t.same(longFunctions(sourcesOf({ 'src/http/routes/a.ts': table })), [])
  t.equal(longFunctions(sourcesOf({ 'src/http/app.ts': table })).length, 1)
  t.equal(
    longFunctions(sourcesOf({ 'src/http/routes/a.ts': table.replace('{\n', '{\nlet a = 1\n') })).length,
    1,
  )
  const handler = `export function routes(app: App) {\napp.get('/a', {}, async () => {\n${body(80)}})\n}`
  t.equal(longFunctions(sourcesOf({ 'src/http/routes/a.ts': handler })).length, 1)
})

t.test('no function of src is longer than a screen', async (t) => {
  t.same(longFunctions(sourcesUnder('src')), [])
})
