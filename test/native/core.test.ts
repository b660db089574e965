/**
 * The native core through its C ABI. core/core_test.cpp compares it with simple models; this test
 * builds and runs it, on both instruction sets. Fixed work must give the same digests on every build
 * and number of threads.
 */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import t from 'tap'
import { ROOT } from '../lib/place.js'
import { ISAS } from './driver.js'

const run = promisify(execFile)
const DRIVER = `${ROOT}build/native/core_test`

await run('make', ['-s', 'build/native/core_test'], { cwd: ROOT, maxBuffer: 1 << 24 })

async function driver(args: readonly string[], isa: string): Promise<string> {
  const result = await run(DRIVER, args, { env: { ...process.env, MMSB_ISA: isa } }).catch(
    (error: Error & { stdout?: string; stderr?: string }) => ({
      stdout: error.stdout ?? '',
      stderr: `${error.message}\n${error.stderr}`,
    }),
  )
  if (result.stderr !== '') t.comment(result.stderr)
  return result.stdout
}

t.test('the core agrees with its models', async (t) => {
  const output = await driver([], ISAS.at(-1) as string)
  const lines = output.split('\n').filter((line) => /^(not )?ok /.test(line))
  t.ok(lines.length >= 20, 'all tests ran')
  for (const line of lines) t.ok(line.startsWith('ok '), line)
  t.match(output, /^1\.\.\d+$/m, 'the driver came to its end')
})

t.test('random graphs on the other build', { skip: ISAS.length === 1 && 'there is one' }, async (t) => {
  t.match(await driver(['graphs'], ISAS[0] as string), /^ok 1 - graphs/)
})

t.test('digests and ranges do not depend on the instruction set or the number of threads', async (t) => {
  const expected = await driver(['digests', '1'], ISAS[0] as string)
  t.match(expected, /^([0-9a-f]{32} [0-9a-f]{16}\n){12}$/)
  for (const isa of ISAS) {
    for (const threads of ['1', '2', '5'])
      t.equal(await driver(['digests', threads], isa), expected, `${isa}, ${threads} threads`)
  }
})
