/**
 * The CUDA backend: the core's tests on a device, if there is one; and always its code compiled for the host
 * over cuda_emulator.h. Both must give the digests, ranges and log of the CPU.
 */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import t, { type Test } from 'tap'
import { deviceCount } from '../../src/ffi/library.js'
import { ROOT } from '../lib/place.js'

const run = promisify(execFile)
const NO_DEVICE = deviceCount() === 0 ? 'skipped: no CUDA device' : false

async function make(target: string): Promise<string> {
  await run('make', ['-s', target], { cwd: ROOT, maxBuffer: 1 << 24 })
  return `${ROOT}${target}`
}

async function driver(
  program: string,
  args: readonly string[],
  env: Record<string, string>,
): Promise<string> {
  const result = await run(program, args, { env: { ...process.env, ...env } }).catch(
    (error: Error & { stdout?: string; stderr?: string }) => ({
      stdout: error.stdout ?? '',
      stderr: `${error.message}\n${error.stderr}`,
    }),
  )
  if (result.stderr !== '') t.comment(result.stderr)
  return result.stdout
}

/** Passes when every test of the driver did and it came to its end. */
function check(t: Test, output: string): void {
  for (const line of output.split('\n').filter((line) => /^(not )?ok /.test(line))) {
    t.ok(line.startsWith('ok '), line)
  }
  t.match(output, /^1\.\.\d+$/m, 'the driver came to its end')
}

t.test('emulated device', async (t) => {
  const program = await make('build/native/core_emulated')
  const env = { MMSB_TEST_BACKEND: 'cuda', MMSB_TEST_SCALE: '10' }
  check(t, await driver(program, [], env))
  const expected = await driver(program, ['digests', '1'], { MMSB_TEST_BACKEND: 'cpu' })
  t.match(expected, /^([0-9a-f]{32} [0-9a-f]{16}\n){12}$/)
  t.equal(
    await driver(program, ['digests', '1'], env),
    expected,
    'digests, ranges and log are those of the CPU',
  )
})

t.test('device', { skip: NO_DEVICE }, async (t) => {
  const program = await make('build/native/core_test')
  const env = { MMSB_TEST_BACKEND: 'cuda' }
  check(t, await driver(program, [], env))
  const expected = await driver(program, ['digests', '1'], { MMSB_TEST_BACKEND: 'cpu' })
  t.equal(
    await driver(program, ['digests', '1'], env),
    expected,
    'digests, ranges and log are those of the CPU',
  )
})
