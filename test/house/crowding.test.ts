/**
 * Nobody reads a list of forty files, or a file of a thousand lines. A folder of src/ or test/ holds at most
 * 14 files side by side (its README aside), and a file at most 500 lines, unless its head comment has a line
 * that starts with "Long because".
 */
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import t from 'tap'
import { ROOT } from '../lib/place.js'
import { filesUnder, headOf } from './source.js'

const FILES_MAX = 14
const LINES_MAX = 500
const CODE = /\.(ts|js|mjs|py|cpp|cu|cuh|h|c)$/

function crowdedFolders(paths: readonly string[]): string[] {
  const folders = new Map<string, number>()
  for (const path of paths.filter((path) => !path.endsWith('/README.md'))) {
    folders.set(dirname(path), (folders.get(dirname(path)) ?? 0) + 1)
  }
  return [...folders].filter(([, count]) => count > FILES_MAX).map(([folder, count]) => `${folder}: ${count}`)
}

function longFiles(texts: Iterable<readonly [path: string, text: string]>): string[] {
  const complaints: string[] = []
  for (const [path, text] of texts) {
    const lines = text.split('\n').length - 1
    if (lines <= LINES_MAX || headOf(text).some((line) => /^Long because \w/.test(line))) continue
    complaints.push(`${path}: ${lines} lines`)
  }
  return complaints
}

t.test('a crowded folder and a long file are found', async (t) => {
  const files = (count: number): string[] => Array.from({ length: count }, (_, i) => `src/a/${i}.ts`)
  t.same(crowdedFolders([...files(14), 'src/a/README.md', 'src/a/b/15.ts']), [])
  t.same(crowdedFolders(files(15)), ['src/a: 15'])
  const line = 'x()\n'
  const cases: [string, boolean][] = [
    [`/** Head. */\n${line.repeat(499)}`, false],
    [`/** Head. */\n${line.repeat(500)}`, true],
    [`/**\n * Head.\n * Long because it is a table.\n */\n${line.repeat(500)}`, false],
    [`// Head.\n// Long because it is a table.\n${line.repeat(500)}`, false],
    [`/** Head. */\n// Long because this is not the head.\n${line.repeat(500)}`, true],
    [`/** Long because */\n${line.repeat(500)}`, true],
  ]
  for (const [text, isLong] of cases)
    t.equal(longFiles([['a.ts', text]]).length, isLong ? 1 : 0, text.slice(0, 60))
})

t.test('no folder of src or test is crowded, no file is long without a reason', async (t) => {
  const paths = [...filesUnder('src'), ...filesUnder('test')].filter((path) => !path.includes('__pycache__'))
  t.ok(paths.length > 300)
  t.same(crowdedFolders(paths), [])
  const code = paths.filter((path) => CODE.test(path))
  t.same(longFiles(code.map((path) => [path, readFileSync(join(ROOT, path), 'utf8')] as const)), [])
})
