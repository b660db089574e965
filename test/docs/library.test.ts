/** docs/guide/LIBRARY.md: its programs run and print what is shown; its table has every method of Bus. */

import { execFileSync } from 'node:child_process'
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { EngineBus } from '../../src/engine/bus.js'
import { Bus } from '../../src/index.js'
import { plainEnvironment } from '../lib/environment.js'
import { ROOT } from '../lib/place.js'
import { blocksOf, readDocument, tableRowsOf } from './markdown.js'
import { runProgram } from './program.js'

const DOCUMENT = readDocument('docs/guide/LIBRARY.md')

/** A folder in which `mmsb` is an installed package. */
function installed(dir: string): string {
  mkdirSync(join(dir, 'node_modules'))
  symlinkSync(ROOT, join(dir, 'node_modules', 'mmsb'))
  return dir
}

t.test('the program prints what is shown', async (t) => {
  const [program, shown] = blocksOf(DOCUMENT)
  const file = join(installed(t.testdir()), 'program.mts')
  writeFileSync(file, program!.text)
  const { code, output } = await runProgram(file)
  t.equal(code, 0)
  t.equal(output.trim(), shown!.text.trim())
})

t.test('the table of methods is the bus', async (t) => {
  const named = tableRowsOf(DOCUMENT).flatMap(([, methods]) =>
    [...methods!.matchAll(/`(\w+)`/g)].map((match) => match[1]!),
  )
  const methods = [EngineBus.prototype, Bus.prototype]
    .flatMap((face) => Object.entries(Object.getOwnPropertyDescriptors(face)))
    .filter(([name, { value }]) => name !== 'constructor' && typeof value === 'function')
    .map(([name]) => name)
  t.same(named.toSorted(), [...new Set(methods)].sort())
})

t.test('a program bundled with --external:mmsb runs', async (t) => {
  const dir = installed(t.testdir())
  const source = `import { Bus } from 'mmsb'
    const bus = await Bus.open({ dataDir: './data' })
    await bus.create('a', { dtype: 'u8', shape: [2] })
    await bus.patch('a', { values: [7] })
    console.log(bus.read('a').join(), (await bus.readAt('a', 1)).join())
    await bus.close()`
  writeFileSync(join(dir, 'program.ts'), source)
  const esbuild = join(ROOT, 'node_modules/.bin/esbuild')
  const flags = ['--bundle', '--platform=node', '--format=esm', '--external:mmsb', '--outfile=out.mjs']
  execFileSync(esbuild, ['program.ts', ...flags], { cwd: dir, stdio: 'pipe' })
  const options = { cwd: dir, encoding: 'utf8', env: plainEnvironment() } as const
  t.equal(execFileSync(process.execPath, ['out.mjs'], options).trim(), '7,0 0,0')
})
