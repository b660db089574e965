/** An addon that was built for another Node is named as that, by the library and by the command line. */
import { spawnSync } from 'node:child_process'
import t from 'tap'
import { busFailed } from '../../../src/store/os/errors.js'
import { moduleUrl, NODE_ARGS, ROOT } from '../../lib/place.js'

const url = (path: string): string => JSON.stringify(moduleUrl(`src/${path}`))

/** The addon of better-sqlite3 cannot be loaded in a process that runs this first. */
const BREAK = `
const { dlopen } = process
process.dlopen = (module, file, ...flags) => {
  if (!file.includes('better_sqlite3')) return dlopen.call(process, module, file, ...flags)
  const text = "The module '" + file + "'\\nwas compiled against a different Node.js version using\\nNODE_MODULE_VERSION 108."
  throw Object.assign(new Error(text), { code: 'ERR_DLOPEN_FAILED' })
}
`

function runBroken(program: string): { stdout: string; stderr: string; status: number | null } {
  const args = [...NODE_ARGS, '--input-type=module', '-e', `${BREAK}\n${program}`]
  return spawnSync(process.execPath, args, { encoding: 'utf8', cwd: ROOT })
}

t.test('the library', (t) => {
  const dataDir = JSON.stringify(t.testdir())
  const { stdout, stderr } = runBroken(`
    const { Bus } = await import(${url('index.ts')})
    await Bus.open({ dataDir: ${dataDir} }).catch(({ code, message }) => console.log(code, message))
  `)
  t.match(stdout, /^INTERNAL better-sqlite3 cannot be loaded by Node v\d+/, stderr)
  t.match(stdout, /NODE_MODULE_VERSION 108/)
  t.match(stdout, /npm rebuild better-sqlite3/)
  t.notMatch(stdout, /data folder/)
  t.end()
})

t.test('a command', (t) => {
  const words = JSON.stringify(['serve', '--port', '0', '--data-dir', t.testdir()])
  const { status, stderr } = runBroken(`
    const { run } = await import(${url('cli/main.ts')})
    await run(${words})
  `)
  t.equal(status, 1)
  t.match(stderr, /mmsb: .*: better-sqlite3 cannot be loaded by Node/)
  t.match(stderr, /npm rebuild better-sqlite3/)
  t.end()
})

t.test('other causes are faults of the folder', (t) => {
  const cause = Object.assign(new Error('no'), { code: 'EACCES' })
  t.match(busFailed('the folder cannot be locked', cause), { code: 'BUS_FAILED', cause })
  t.end()
})
