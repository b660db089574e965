/** The form of a file: a comment at its head, no default export, and no barrel but the two entry points. */
import t from 'tap'
import ts from 'typescript'
import { headOf, type Source, sourcesOf, sourcesUnder } from './source.js'

const ENTRIES = ['src/index.ts', 'src/client/index.ts']

function malformed(sources: readonly Source[]): string[] {
  return sources.flatMap(({ path, tree, text }) => {
    const { statements } = tree
    const hasDefault = statements.some(
      (statement) =>
        ts.isExportAssignment(statement) ||
        (ts.canHaveModifiers(statement) &&
          ts.getModifiers(statement)?.some(({ kind }) => kind === ts.SyntaxKind.DefaultKeyword)),
    )
    const forwards = statements.filter((s) => ts.isExportDeclaration(s) && s.moduleSpecifier !== undefined)
    const isBarrel = statements.length > 0 && forwards.length === statements.length
    return [
      ...(hasDefault ? [`${path} has a default export`] : []),
      ...(isBarrel && !ENTRIES.includes(path) ? [`${path} is a barrel`] : []),
      ...(headOf(text).some((line) => /\w/.test(line)) ? [] : [`${path} does not start with a comment`]),
    ]
  })
}

t.test('a default export, a barrel and a bare head are found', async (t) => {
  const sources = sourcesOf({
    'src/a.ts': '/** A. */\nexport default 1',
    'src/b.ts': '// B.\nexport default function b() {}',
    'src/c.ts': "/** C. */\nexport * from './a.js'\nexport { b } from './b.js'",
    'src/d.ts': 'export const d = 1 // D.',
    'src/e.ts': '\n/** E. */\nexport const e = 1',
    'src/index.ts': "/** All. */\nexport * from './a.js'",
    'src/f.ts': "#!/usr/bin/env node\n/** F. */\nexport const f = 1\nexport * from './a.js'",
  })
  t.same(malformed(sources), [
    'src/a.ts has a default export',
    'src/b.ts has a default export',
    'src/c.ts is a barrel',
    'src/d.ts does not start with a comment',
    'src/e.ts does not start with a comment',
  ])
})

t.test('no default export, no barrel, a comment at the head', async (t) => {
  t.same(malformed(sourcesUnder('src', 'test', 'bench', 'examples', 'scripts')), [])
})
