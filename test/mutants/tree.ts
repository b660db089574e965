/**
 * A copy of the working tree in which one file at a time is changed and tests run. Tests import src/ through
 * tsx; worker threads and bin/mmsb.js run dist/. So a change is made in both: in src/ as it is, in dist/ as
 * the compiler translates it, without a check of its types.
 *
 * Invariants: the working tree itself is never written. After `restore` the copy equals what it
 * was made from.
 */
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import ts from 'typescript'
import { type Outcome, runProgram } from './program.js'

export const ROOT = new URL('../../', import.meta.url).pathname

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

/** What a source of src/ becomes in dist/. */
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
  symlinkSync(join(ROOT, 'node_modules'), join(folder, 'node_modules'))
}

export class Tree {
  readonly folder: string
  readonly #changed = new Map<string, string>()

  constructor() {
    this.folder = mkdtempSync(join(tmpdir(), 'mmsb-mutants-'))
    copyTree(this.folder)
  }

  /** Writes `text` as the source `path`, such as src/wire/dtype.ts. */
  change(path: string, text: string): void {
    const built = path.replace(/^src/, 'dist').replace(/\.ts$/, '.js')
    for (const [at, content] of [
      [path, text],
      [built, compiled(text)],
    ] as const) {
      const file = join(this.folder, at)
      if (!this.#changed.has(file)) this.#changed.set(file, readFileSync(file, 'utf8'))
      writeFileSync(file, content)
    }
  }

  restore(): void {
    for (const [file, content] of this.#changed) writeFileSync(file, content)
    this.#changed.clear()
  }

  /** Runs one test file in the copy, for at most `limitMs`. */
  run(test: string, limitMs: number, env: Readonly<Record<string, string>> = {}): Promise<Outcome> {
    return runProgram([process.execPath, '--import', 'tsx', test], this.folder, env, limitMs)
  }

  remove(): void {
    rmSync(this.folder, { recursive: true, force: true })
  }
}
