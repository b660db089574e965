/**
 * The conformance suite on the code of the CUDA backend, compiled for the host with the emulator of
 * test/native.
 */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import t from 'tap'
import { DTYPES } from '../../src/wire/dtype.js'
import { programArgs, ROOT } from '../lib/place.js'

const EMULATED = 'build/native/libmmsb_emulated.so'
/** Around a warp, a thread block and a reduction block; longer ones take the emulator too long. */
const EMULATED_LENGTHS = [0, 1, 31, 32, 33, 1025]
const EMULATED_GRAPHS = 6

t.setTimeout(240_000)

t.test('device code, emulated, computes the bits of the CPU', async (t) => {
  const run = promisify(execFile)
  await run('make', ['-s', EMULATED], { cwd: ROOT, maxBuffer: 1 << 24 })
  const args = [...programArgs('test/conformance/main.ts'), 'cuda']
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
