/**
 * The rules of the house: who may import whom, and what no committed file may hold.
 *
 * Rooms have floors; a file imports from its own floor or below, never up. The rules are on the imports as the
 * TypeScript compiler reads them, so a comment cannot break or fake them.
 */
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import ts from 'typescript'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const SRC = join(ROOT, 'src')

/** Ground first. A room is a folder of src, or a file directly in it. */
const FLOORS: readonly (readonly string[])[] = [
  ['errors', 'limits', 'wire'],
  ['state'],
  ['kernels', 'ffi'],
  ['graph', 'store'],
  ['engine'],
  ['stream'],
  ['http', 'mcp', 'index'],
  ['cli'],
]
/** The one room that may import a package. */
const ONLY: Readonly<Record<string, string>> = { koffi: 'ffi', 'better-sqlite3': 'store' }
/** Rooms that must not know each other although they share a floor. */
const STRANGERS: readonly (readonly [string, string])[] = [
  ['store', 'graph'],
  ['graph', 'store'],
]
/** Rooms to which files, sockets, processes, clocks and randomness are handed in, if at all. */
const PURE = ['errors', 'limits', 'wire', 'state', 'kernels', 'graph']
const IMPURE_IMPORT = /^(node:)?(fs|net|http|https|child_process|worker_threads|os|crypto|timers)(\/.*)?$/
const IMPURE_CALL = /\b(Date\.now|new Date\b|Math\.random|performance\.now|process\.(env|hrtime))/

interface Source {
  readonly path: string
  readonly room: string
  readonly text: string
  readonly tree: ts.SourceFile
  readonly imports: readonly string[]
}

function roomOf(file: string): string {
  return relative(SRC, file).split('/')[0]!.replace(/\.ts$/, '')
}

function floorOf(room: string): number {
  return FLOORS.findIndex((rooms) => rooms.includes(room))
}

function sources(): Source[] {
  const names = readdirSync(SRC, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.ts'))
  return names.map((name) => {
    const file = join(SRC, name)
    const text = readFileSync(file, 'utf8')
    return {
      path: relative(ROOT, file),
      room: roomOf(file),
      text,
      tree: ts.createSourceFile(file, text, ts.ScriptTarget.ES2023, true),
      imports: ts.preProcessFile(text, true, true).importedFiles.map(({ fileName }) => fileName),
    }
  })
}

/** Text without comments and strings, so that prose about a clock is no use of one. */
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

const all = sources()

t.test('every file of src belongs to a room of the house', async (t) => {
  t.ok(all.length > 5, 'there is something to check')
  for (const { path, room } of all) t.ok(room === 'client' || floorOf(room) >= 0, path)
})

t.test('imports never go up, and strangers stay strangers', async (t) => {
  for (const { path, room, imports } of all) {
    for (const name of imports.filter((name) => name.startsWith('.'))) {
      const target = roomOf(resolve(ROOT, dirname(path), name).replace(/\.js$/, '.ts'))
      if (room === 'client' || target === 'client') {
        const isFine = target === room || target === 'wire'
        t.ok(isFine, `${path} -> ${name}: the client shares nothing but wire with the rest`)
        continue
      }
      if (room === 'wire') t.equal(target, 'wire', `${path} -> ${name}: wire imports nothing but wire`)
      t.ok(floorOf(target) <= floorOf(room), `${path} (${room}) -> ${name} (${target})`)
      t.notOk(
        STRANGERS.some(([a, b]) => a === room && b === target),
        `${room} and ${target} are strangers: ${path} -> ${name}`,
      )
    }
  }
})

t.test('the client loads no package but ws, and that in Node alone; browsers have all it uses', async (t) => {
  const client = all.filter(({ room }) => room === 'client')
  t.ok(client.length > 5)
  for (const { path, imports } of client) {
    const packages = imports.filter((name) => !name.startsWith('.'))
    t.same(packages, path === 'src/client/node.ts' ? ['ws'] : [], path)
  }
  const program = ts.createProgram([join(SRC, 'client/index.ts')], {
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

t.test('koffi is known to ffi alone, SQLite to store alone', async (t) => {
  for (const { path, room, imports } of all) {
    for (const name of imports) if (ONLY[name] !== undefined) t.equal(room, ONLY[name], `${path} -> ${name}`)
  }
})

t.test('files, clocks and randomness are handed to the lower rooms', async (t) => {
  for (const source of all.filter(({ room }) => PURE.includes(room))) {
    for (const name of source.imports) t.notMatch(name, IMPURE_IMPORT, `${source.path} -> ${name}`)
    t.notMatch(codeOf(source), IMPURE_CALL, source.path)
  }
})

t.test('no default export, no barrel but index.ts, a comment at the head', async (t) => {
  for (const { path, tree, text } of all) {
    const defaults = tree.statements.filter(
      (statement) =>
        ts.isExportAssignment(statement) ||
        (ts.canHaveModifiers(statement) &&
          ts.getModifiers(statement)?.some(({ kind }) => kind === ts.SyntaxKind.DefaultKeyword)),
    )
    t.equal(defaults.length, 0, `${path} has a default export`)
    const reexports = tree.statements.filter(
      (s) => ts.isExportDeclaration(s) && s.moduleSpecifier !== undefined,
    )
    const isBarrel = tree.statements.length > 0 && reexports.length === tree.statements.length
    if (path !== 'src/index.ts') t.notOk(isBarrel, `${path} is a barrel`)
    t.match(text, /^(#!.*\n)?(\/\*\*|\/\/)/, `${path} starts with a comment`)
  }
})

t.test('no committed file names a registry, a proxy or a place on one machine', async (t) => {
  // Written in pieces, so that this file passes its own test.
  const places = ['work', 'root', 'home/[a-z]', 'Users/[A-Za-z]'].join('|')
  const local = new RegExp(`(^|[\\s"'\`=(:])/(${places})[/\\w]`, 'm')
  const registry = new RegExp(['registry', '(npmjs|yarnpkg|npmmirror)'].join('\\.'), 'i')
  const files = execFileSync('git', ['ls-files', '-z'], { cwd: ROOT, encoding: 'utf8' })
    .split('\0')
    .filter(Boolean)
  for (const file of files.filter((name) => existsSync(join(ROOT, name)))) {
    const text = readFileSync(join(ROOT, file), 'utf8')
    t.notMatch(text, local, `${file} names an absolute local path`)
    t.notMatch(text, registry, `${file} names a registry`)
  }
  const lock = readFileSync(join(ROOT, 'package-lock.json'), 'utf8')
  t.notMatch(lock, /"resolved": "https?:/, 'the lock file names no address')
})
