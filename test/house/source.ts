/**
 * What the rules of the house read: TypeScript sources as the compiler's parser sees them, and the files of a
 * folder. A rule is a function from sources to complaints, so that a test can hand it a small bad example as
 * well as the house.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import ts from 'typescript'
import { ROOT } from '../lib/place.js'

// Reading the whole house takes long on a machine that is busy, which says nothing about the house. The
// programs in test/mutants read sources too; they are no tests, and tap would end them after its time.
if (/\.test\.[jt]s$/.test(process.argv[1] ?? '')) (await import('tap')).default.setTimeout(600_000)

export interface Import {
  /** As it is written. */
  readonly name: string
  /** The file of the house it names; undefined for a package. */
  readonly target: string | undefined
}

export interface Source {
  /** From the root of the house, with forward slashes. */
  readonly path: string
  readonly text: string
  readonly tree: ts.SourceFile
  /** Of values and of types alike. */
  readonly imports: readonly Import[]
}

export function sourceOf(path: string, text: string): Source {
  const names = ts.preProcessFile(text, true, true).importedFiles.map(({ fileName }) => fileName)
  return {
    path,
    text,
    tree: ts.createSourceFile(path, text, ts.ScriptTarget.ES2023, true),
    imports: names.map((name) => ({
      name,
      target: name.startsWith('.') ? normalize(join(dirname(path), name)).replace(/\.js$/, '.ts') : undefined,
    })),
  }
}

/** A house of one's own: path to text. */
export function sourcesOf(texts: Readonly<Record<string, string>>): Source[] {
  return Object.entries(texts).map(([path, text]) => sourceOf(path, text))
}

/** Every file below a folder of the house. */
export function filesUnder(folder: string): string[] {
  return readdirSync(join(ROOT, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(ROOT.length))
    .sort()
}

/** Parsed once, though all rules read them: test/all.ts runs the tests of the house in one process. */
const parsed = new Map<string, Source>()

function parsedSource(path: string): Source {
  const source = parsed.get(path) ?? sourceOf(path, readFileSync(join(ROOT, path), 'utf8'))
  parsed.set(path, source)
  return source
}

/** Every TypeScript file below some folders of the house. */
export function sourcesUnder(...folders: string[]): Source[] {
  return folders
    .flatMap(filesUnder)
    .filter((path) => path.endsWith('.ts'))
    .map(parsedSource)
}

/**
 * The comment at the head of a file, its lines without the marks; none if the file does not start with one.
 */
export function headOf(text: string): string[] {
  const body = text.replace(/^#!.*\n/, '')
  const first = ts.getLeadingCommentRanges(body, 0)?.[0]
  if (first === undefined || first.pos !== 0) return []
  const block = first.kind === ts.SyntaxKind.MultiLineCommentTrivia
  const comment = block ? body.slice(0, first.end) : (/^(\/\/.*\n?)+/.exec(body)?.[0] ?? '')
  return comment.split('\n').map((line) => line.replace(/^\s*(\/\*+|\*\/|\*|\/\/)?\s?|\s*\*\/$/g, ''))
}

/** Where a node starts, for a complaint. */
export function placeOf({ path, tree }: Source, node: ts.Node): string {
  return `${path}:${tree.getLineAndCharacterOfPosition(node.getStart()).line + 1}`
}

/** Calls `visit` for every node of a source. */
export function eachNode({ tree }: Source, visit: (node: ts.Node) => void): void {
  const walk = (node: ts.Node): void => {
    visit(node)
    ts.forEachChild(node, walk)
  }
  walk(tree)
}
