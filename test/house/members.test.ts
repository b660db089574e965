/**
 * One style of private members: `#x`, which the language enforces. The words `private` and `protected`, which
 * only the compiler enforces, appear nowhere but before a constructor, which cannot be named otherwise.
 */
import t from 'tap'
import ts from 'typescript'
import { eachNode, placeOf, type Source, sourcesOf, sourcesUnder } from './source.js'

function privateWords(sources: readonly Source[]): string[] {
  const complaints: string[] = []
  for (const source of sources) {
    eachNode(source, (node) => {
      const { kind } = node
      if (kind !== ts.SyntaxKind.PrivateKeyword && kind !== ts.SyntaxKind.ProtectedKeyword) return
      if (ts.isConstructorDeclaration(node.parent)) return
      complaints.push(`${placeOf(source, node)} ${node.parent.getText().split('\n')[0]}`)
    })
  }
  return complaints
}

t.test('private fields, methods, accessors, constructors and parameters are found', async (t) => {
  const members = [
    'private x = 1',
    'protected x = 1',
    'private f() {}',
    'private get x() { return 1 }',
    'constructor(private readonly x: number) {}',
    'static private x = 1',
  ]
  for (const member of members) {
    t.match(privateWords(sourcesOf({ 'src/a.ts': `\nclass C { ${member} }` })), [/^src\/a.ts:2 /], member)
  }
  const fine =
    'class C { #x = 1; static readonly #y = 2; #f() {}; private constructor() {} }\n// private x\nconst s = "private x"'
  t.same(privateWords(sourcesOf({ 'src/a.ts': fine })), [])
})

t.test('private members are #x', async (t) => {
  t.same(privateWords(sourcesUnder('src', 'test', 'bench', 'examples')), [])
})
