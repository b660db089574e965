/**
 * A copy of the working tree in which one file at a time is changed and tests run. In the copy the tests and
 * src/ are compiled once, each beside its source, so that a test and every thread that it starts begin at
 * once, without tsx. A change is made in src/ as it is and as compiled, and in dist/, which bin/mmsb.js runs.
 * Types are not checked.
 *
 * Invariants: the working tree itself is never written. After `restore` the copy equals what it
 * was made from.
 */
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import ts from 'typescript'
import { filesUnder } from '../house/source.js'
import { ROOT } from '../lib/place.js'
import { type Outcome, runProgram } from './program.js'

/** What tests read: their own sources, the built code, the documents and examples that they check. */
const PARTS = [
  'bin',
  'build/libmmsb.so',
  'dist',
  'docs',
  'examples',
  'kernels.cu',
  'Makefile',
  'native.mk',
  'package.json',
  'README.md',
  'CHANGELOG.md',
  'src',
  'test',
  'tsconfig.json',
]

const isSource = (path: string): boolean => path.endsWith('.ts') && !path.endsWith('.d.ts')
const builtOf = (path: string): string => path.replace(/^src/, 'dist').replace(/\.ts$/, '.js')
const besideOf = (path: string): string => path.replace(/\.ts$/, '.js')

/** What a TypeScript source becomes. */
function compiled(source: string): string {
  const compilerOptions = {
    target: ts.ScriptTarget.ES2023,
    module: ts.ModuleKind.ES2022,
    verbatimModuleSyntax: true,
  }
  return ts.transpileModule(source, { compilerOptions }).outputText
}

/** Copies the working tree, which must be built, into a folder. Nothing that is later changed is shared. */
export function copyTree(folder: string): void {
  for (const part of PARTS) cpSync(join(ROOT, part), join(folder, part), { recursive: true })
  linkModules(folder)
}

function linkModules(folder: string): void {
  const link = join(folder, 'node_modules')
  if (!existsSync(link)) symlinkSync(join(ROOT, 'node_modules'), link)
}

/** The files of the working tree that a copy has. */
function filesToCopy(): string[] {
  return PARTS.flatMap((part) => {
    return statSync(join(ROOT, part)).isDirectory() ? filesUnder(part) : [part]
  })
}

export class Tree {
  readonly folder: string
  readonly #changed = new Map<string, string>()

  /** The copy with this number. It stays, and the next one with the number takes over only what differs. */
  constructor(number: number) {
    this.folder = join(ROOT, `build/mutants/tree-${number}`)
    const copied = filesToCopy()
    const wanted = new Set(copied.flatMap((path) => (isSource(path) ? [path, besideOf(path)] : [path])))
    mkdirSync(this.folder, { recursive: true })
    for (const entry of readdirSync(this.folder, { recursive: true, withFileTypes: true })) {
      const path = join(entry.parentPath, entry.name).slice(this.folder.length + 1)
      if (entry.isFile() && !path.startsWith('build/') && !wanted.has(path)) rmSync(join(this.folder, path))
    }
    for (const path of copied) this.#takeOver(path)
    linkModules(this.folder)
  }

  #takeOver(path: string): void {
    const bytes = readFileSync(join(ROOT, path))
    const file = join(this.folder, path)
    const isSame = existsSync(file) && bytes.equals(readFileSync(file))
    if (!isSame) {
      mkdirSync(dirname(file), { recursive: true })
      cpSync(join(ROOT, path), file)
    }
    if (!isSource(path)) return
    // A mutant may have been left in what the compiler made of the same source.
    if (path.startsWith('src/')) cpSync(join(ROOT, builtOf(path)), join(this.folder, besideOf(path)))
    else if (!isSame || !existsSync(join(this.folder, besideOf(path))))
      this.#write(besideOf(path), compiled(bytes.toString('utf8')))
  }

  #write(path: string, text: string): void {
    writeFileSync(join(this.folder, path), text)
  }

  /** Writes `text` as the source `path`, such as src/wire/dtype.ts; of another kind of file, only that. */
  change(path: string, text: string): void {
    const places: [string, string][] = [[path, text]]
    if (isSource(path)) {
      const built = compiled(text)
      places.push([besideOf(path), built], [builtOf(path), built])
    }
    for (const [at, content] of places) {
      if (!this.#changed.has(at)) this.#changed.set(at, readFileSync(join(this.folder, at), 'utf8'))
      this.#write(at, content)
    }
  }

  restore(): void {
    for (const [path, content] of this.#changed) this.#write(path, content)
    this.#changed.clear()
  }

  /**
   * Runs one test file in the copy, for at most `limitMs`; only the test with this title, if there is one.
   */
  run(
    test: string,
    limitMs: number,
    env: Readonly<Record<string, string>> = {},
    title?: string,
  ): Promise<Outcome> {
    const only: Record<string, string> =
      title === undefined ? {} : { TAP_GREP: title.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&') }
    return runProgram([process.execPath, besideOf(test)], this.folder, { ...only, ...env }, limitMs)
  }
}
