/**
 * Who may load what: one room for each native package, packages in the client in Node alone, and
 * files, sockets, clocks and randomness handed in to the lower rooms. Tests find files through one place.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import ts from 'typescript'
import { moduleUrl, NODE_ARGS, ROOT } from '../lib/place.js'
import { type Source, sourcesOf, sourcesUnder } from './source.js'

/** Package to the one room or file that may import it. */
const ONLY: Readonly<Record<string, string>> = {
  koffi: 'src/ffi/',
  'better-sqlite3': 'src/store/',
  typebox: 'src/http/typebox.ts',
}
/** Rooms to which the outside is handed in, if they see it at all. */
const PURE = /^src\/(errors\.ts|limits\.ts|wire\/|state\/|kernels\/|graph\/)/
const IMPURE_IMPORT = /^(node:)?(fs|net|http|https|child_process|worker_threads|os|crypto|timers)(\/.*)?$/
const IMPURE_CALL = /\b(Date\.now|new Date\b|Math\.random|performance\.now|process\.(env|hrtime))/
/** What a browser loads; it has no Node and no package. */
const PORTABLE = /^src\/(wire|client)\//
/** What only Node loads, and the packages that it may import. */
const NODE_CLIENT: Readonly<Record<string, readonly string[]>> = {
  'src/client/node.ts': ['ws'],
  'src/client/node-tls.ts': ['node:crypto', 'node:tls', 'undici'],
}

function trespassing(sources: readonly Source[]): string[] {
  return sources.flatMap(({ path, imports }) =>
    imports.flatMap(({ name }) => {
      const only = ONLY[name.split('/')[0] as string]
      return only === undefined || path.startsWith(only) ? [] : [`${path} -> ${name}: only ${only} may`]
    }),
  )
}

function impure(sources: readonly Source[]): string[] {
  return sources
    .filter(({ path }) => PURE.test(path))
    .flatMap((source) => {
      const call = IMPURE_CALL.exec(codeOf(source))?.[0]
      return [
        ...source.imports
          .filter(({ name }) => IMPURE_IMPORT.test(name))
          .map(({ name }) => `${source.path} -> ${name}`),
        ...(call === undefined ? [] : [`${source.path} calls ${call}`]),
      ]
    })
}

/** Text without comments and strings, so that prose about a clock does not count as using one. */
function codeOf({ text }: Source): string {
  const scanner = ts.createScanner(ts.ScriptTarget.ES2023, false, ts.LanguageVariant.Standard, text)
  const silent = [
    ts.SyntaxKind.SingleLineCommentTrivia,
    ts.SyntaxKind.MultiLineCommentTrivia,
    ts.SyntaxKind.StringLiteral,
    ts.SyntaxKind.NoSubstitutionTemplateLiteral,
  ]
  let code = ''
  for (let token = scanner.scan(); token !== ts.SyntaxKind.EndOfFileToken; token = scanner.scan()) {
    code += silent.includes(token) ? ' ' : scanner.getTokenText()
  }
  return code
}

/** The client imports itself, and what client and server agree on; packages only in Node. */
function unportable(sources: readonly Source[]): string[] {
  return sources
    .filter(({ path }) => PORTABLE.test(path))
    .flatMap(({ path, imports }) =>
      imports
        .filter(({ name, target }) =>
          target === undefined
            ? NODE_CLIENT[path]?.includes(name) !== true
            : !PORTABLE.test(target) || (path.startsWith('src/wire/') && !target.startsWith('src/wire/')),
        )
        .map(({ name }) => `${path} -> ${name}`),
    )
}

t.test('imports and calls that a room may not make are found', async (t) => {
  t.same(
    trespassing(
      sourcesOf({
        'src/http/a.ts': "import koffi from 'koffi'",
        'src/ffi/a.ts': "import koffi from 'koffi'",
        'src/http/typebox.ts': "import { Check } from 'typebox/value'",
        'src/http/b.ts': "import type { TSchema } from 'typebox'\nimport { Check } from 'typebox/value'",
      }),
    ),
    [
      'src/http/a.ts -> koffi: only src/ffi/ may',
      'src/http/b.ts -> typebox: only src/http/typebox.ts may',
      'src/http/b.ts -> typebox/value: only src/http/typebox.ts may',
    ],
  )
  const pure = { 'src/state/a.ts': "import 'node:fs/promises'\n// Date.now()\nconst text = 'Math.random'" }
  t.same(impure(sourcesOf(pure)), ['src/state/a.ts -> node:fs/promises'])
  t.same(impure(sourcesOf({ 'src/graph/a.ts': 'const now = Date.now()', 'src/http/b.ts': 'Date.now()' })), [
    'src/graph/a.ts calls Date.now',
  ])
  const client = {
    'src/client/a.ts': "import 'ws'\nimport '../wire/b.js'\nimport './b.js'\nimport '../state/value.js'",
    'src/client/node.ts': "import { WebSocket } from 'ws'\nimport 'undici'\nimport 'node:fs'",
    'src/wire/b.ts': "import 'node:buffer'\nimport '../client/a.js'",
  }
  t.same(unportable(sourcesOf(client)), [
    'src/client/a.ts -> ws',
    'src/client/a.ts -> ../state/value.js',
    'src/client/node.ts -> undici',
    'src/client/node.ts -> node:fs',
    'src/wire/b.ts -> node:buffer',
    'src/wire/b.ts -> ../client/a.js',
  ])
})

const all = sourcesUnder('src')

t.test('koffi is known to ffi alone, SQLite to store alone, the schema library to one file', async (t) => {
  t.same(trespassing(all), [])
})

t.test('the build makes one module of the schema library', { skip: NODE_ARGS.length > 0 }, async (t) => {
  const built = readFileSync(new URL(moduleUrl('src/http/typebox.ts')), 'utf8')
  t.match(built, /The MIT License[\s\S]*Copyright/)
  t.notMatch(built, /^import /m)
})

t.test('files, clocks and randomness are handed to the lower rooms', async (t) => {
  t.same(impure(all), [])
})

t.test('tests find files through lib/place.ts, wherever they were compiled to', async (t) => {
  const placed = sourcesUnder('test').filter((source) => codeOf(source).includes('import.meta'))
  t.same(
    placed.map(({ path }) => path),
    ['test/lib/place.ts'],
  )
})

t.test('the client loads packages in Node alone; browsers have all it uses', async (t) => {
  t.ok(all.filter(({ path }) => path.startsWith('src/client/')).length > 5)
  t.same(unportable(all), [])
  const program = ts.createProgram([join(ROOT, 'src/client/index.ts')], {
    target: ts.ScriptTarget.ES2023,
    lib: ['lib.es2023.d.ts', 'lib.dom.d.ts', 'lib.dom.iterable.d.ts'],
    types: [],
    module: ts.ModuleKind.NodeNext,
    moduleResolution: ts.ModuleResolutionKind.NodeNext,
    strict: true,
    skipLibCheck: true,
    noEmit: true,
  })
  const errors = ts.getPreEmitDiagnostics(program)
  t.same(
    errors.map(
      ({ messageText, file }) => `${file?.fileName}: ${ts.flattenDiagnosticMessageText(messageText, ' ')}`,
    ),
    [],
  )
})
