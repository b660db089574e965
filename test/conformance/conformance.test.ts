/**
 * The conformance suite on what this machine has: threads beside one thread always, CUDA beside CPU where a device is, and
 * always the CUDA backend's code over the emulator of test/native.
 */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import t from 'tap'
import { deviceCount } from '../../src/ffi/library.js'
import { DTYPES } from '../../src/state/dtype.js'
import { graphCase, LENGTHS, opCases } from './suite.js'

const CPU = { backend: 'cpu', threads: 1 } as const
const ROOT = new URL('../../', import.meta.url).pathname
const EMULATED = 'build/native/libmmsb_emulated.so'
/** Around a warp, a block of threads and a block of a reduction; longer ones take the emulator too long. */
const EMULATED_LENGTHS = [0, 1, 31, 32, 33, 257, 1025]
const EMULATED_GRAPHS = 12
const NO_DEVICE = deviceCount() === 0 ? 'skipped: no CUDA device' : false

t.test('several threads compute the bits of one', async (t) => {
  for await (const { name, problems } of opCases(CPU, { backend: 'cpu', threads: 3 }, LENGTHS))
    t.same(problems, [], name)
  for (let seed = 1; seed <= 20; seed++) {
    const { name, problems } = await graphCase(CPU, { backend: 'cpu', threads: 3 }, seed)
    t.same(problems, [], name)
  }
})

t.test('CUDA computes the bits of the CPU', { skip: NO_DEVICE }, async (t) => {
  for await (const { name, problems } of opCases(CPU, { backend: 'cuda' }, LENGTHS))
    t.same(problems, [], name)
  for (let seed = 1; seed <= 50; seed++) {
    const { name, problems } = await graphCase(CPU, { backend: 'cuda' }, seed)
    t.same(problems, [], name)
  }
})

t.test('the code for CUDA, emulated, computes the bits of the CPU', async (t) => {
  const run = promisify(execFile)
  await run('make', ['-s', EMULATED], { cwd: ROOT, maxBuffer: 1 << 24 })
  const args = ['--import', 'tsx', 'test/conformance/main.ts', 'cuda']
  const env = { ...process.env, MMSB_LIBRARY: `${ROOT}${EMULATED}` }
  const { stdout } = await run(
    process.execPath,
    [...args, String(EMULATED_GRAPHS), EMULATED_LENGTHS.join(',')],
    { cwd: ROOT, env, maxBuffer: 1 << 24 },
  ).catch((error: Error & { stdout?: string; stderr?: string }) => {
    t.comment(error.message)
    return { stdout: error.stdout ?? '' }
  })
  t.match(stdout, /"cudaArch":\["emulated"\]/, 'the emulated library')
  const lines = stdout.split('\n')
  for (const line of lines.filter((line) => /^(not )?ok /.test(line))) t.ok(line.startsWith('ok '), line)
  for (const line of lines.filter((line) => line.startsWith('# '))) t.comment(line.slice(2))
  const cases = EMULATED_LENGTHS.length * DTYPES.length + 1 + EMULATED_GRAPHS
  t.match(stdout, `1..${cases}\n`, 'came to its end')
})
