/**
 * The npm package without the native packages beside it, as where they cannot be installed. Nor are there
 * types of Node: the declarations must not need them.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { folder } from '../lib/folder.js'
import { ROOT } from '../lib/place.js'
import { emptyFolder, installArgs, output, pack, run, thisNode, unreachableRegistry } from './installed.js'

const CLIENT = "import { connect } from 'mmsb/client'; console.log(typeof connect('http://127.0.0.1:1').read)"
const BUS =
  "import { Bus } from 'mmsb'; await Bus.open().catch((error) => console.log(error.code, error.message))"
const RESOLUTIONS = [
  ['esnext', 'bundler'],
  ['node16', 'node16'],
  ['nodenext', 'nodenext'],
] as const

t.setTimeout(600_000)
const dir = folder(t)
const skip = await unreachableRegistry(dir)

t.test('the client works, the server says what is missing, programs compile', { skip }, async (t) => {
  const home = emptyFolder(dir, 'an empty folder')
  const env = thisNode()
  await output('npm', installArgs(await pack(dir), '--omit=optional'), home, env)
  const evaluate = (program: string) => output('node', ['--input-type=module', '-e', program], home, env)
  t.equal(await evaluate(CLIENT), 'function\n')
  t.match(await evaluate(BUS), /^INTERNAL The package koffi is missing/)
  const { status, stderr } = await run('npx', ['mmsb', 'serve', '--port', '0'], home, env)
  t.equal(status, 1)
  t.match(stderr, /The package koffi is missing\. `npm install koffi` installs it/)

  writeFileSync(join(home, 'program.mts'), readFileSync(join(ROOT, 'test/package/program.mts')))
  for (const [module, moduleResolution] of RESOLUTIONS) {
    const options = { module, moduleResolution, target: 'es2022', strict: true, noEmit: true, types: [] }
    const config = join(home, 'tsconfig.json')
    writeFileSync(config, JSON.stringify({ compilerOptions: options, files: ['program.mts'] }))
    const tsc = join(ROOT, 'node_modules/typescript/bin/tsc')
    const compiled = await run(process.execPath, [tsc, '-p', config], home)
    t.equal(compiled.status, 0, `${moduleResolution}: ${compiled.stdout}`)
  }
})
