/**
 * test/ mirrors src/: tests of src/store/log lie in test/store/log, so that who changes a room finds its
 * tests. Rooms of test/ that no room of src/ answers to test the whole, and are listed here.
 */
import { dirname } from 'node:path'
import t from 'tap'
import { filesUnder } from './source.js'

const OF_THE_WHOLE = [
  'abuse',
  'conformance',
  'crash',
  'deploy',
  'disk',
  'docs',
  'examples',
  'fixtures',
  'fuzz',
  'house',
  'lib',
  'mutants',
  'native',
  'numpy',
  'package',
  'property',
  'proxy',
  'reference',
  'sim',
  'support',
]

/** Folders of test/ that no folder of src/ answers to. */
function unmirrored(
  tests: readonly string[],
  sources: readonly string[],
  ofTheWhole: readonly string[],
): string[] {
  const rooms = new Set<string>()
  for (const path of sources)
    for (let room = dirname(path); room !== '.'; room = dirname(room)) rooms.add(room)
  const folders = new Set(tests.map((path) => dirname(path)))
  return [...folders].filter((folder) => {
    const room = folder.split('/')[1]
    return room !== undefined && !ofTheWhole.includes(room) && !rooms.has(folder.replace(/^test/, 'src'))
  })
}

t.test('a room of test without one of src is found', async (t) => {
  const tests = [
    'test/store/log/a.test.ts',
    'test/store/b.test.ts',
    'test/store/odd/c.test.ts',
    'test/sim/deep/d.ts',
  ]
  t.same(unmirrored(tests, ['src/store/log/files/a.ts'], ['sim']), ['test/store/odd'])
  t.same(unmirrored(['test/shop/a.test.ts'], ['src/store/a.ts'], ['sim']), ['test/shop'])
})

t.test('test mirrors src', async (t) => {
  t.same(unmirrored(filesUnder('test'), filesUnder('src'), OF_THE_WHOLE), [])
})
