/**
 * Expressions as CUDA source. Compiled for the host over cuda_emulator.h, random expressions must give
 * the bits of the evaluator and mark what they change. NVRTC, which needs no GPU, must compile them, if
 * it is found.
 */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import t from 'tap'
import { ROOT } from '../lib/place.js'
import { runDriver } from './driver.js'

/** RTC_PROGRAMS of native.mk. */
const PROGRAMS = '150'

await promisify(execFile)('make', ['-s', 'build/native/rtc_run'], { cwd: ROOT, maxBuffer: 1 << 24 })

t.test('the source computes what the evaluator does, and marks what it changes', async (t) => {
  const output = await runDriver(`${ROOT}build/native/rtc_run`, ['run', '0', PROGRAMS])
  const [, kernels, elements] = /^ran (\d+) kernels on (\d+) elements$/m.exec(output) ?? []
  t.equal(kernels, PROGRAMS)
  t.ok(Number(elements) > 50_000, `${elements} elements`)
  t.match(output, /^failures 0$/m)
})

t.test('NVRTC makes machine code of it', async (t) => {
  for (const arch of ['75', '90']) {
    const output = await runDriver(`${ROOT}build/native/rtc`, ['compile', '0', '8', arch])
    if (output.startsWith('no libnvrtc')) {
      t.pass('skipped: no libnvrtc')
      return
    }
    t.match(output, /^compiled 8 of 8, \d+ bytes$/m)
    t.match(output, /^failures 0$/m)
  }
})
