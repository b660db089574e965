/**
 * Expressions as CUDA source: compiled for the host over cuda_emulator.h, random ones give the bits of the evaluator and mark
 * what they change; and NVRTC, which needs no GPU, makes machine code of them where it is found.
 */
import { execFile } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { promisify } from 'node:util'
import t from 'tap'
import { buildDriver, runDriver } from './driver.js'

const ROOT = new URL('../../', import.meta.url).pathname
const SOURCES = 'build/native/rtc_sources.inc'
const GENERATED = `${ROOT}build/test/rtc-generated.inc`
const PROGRAMS = '150'

await promisify(execFile)('make', ['-s', SOURCES], { cwd: ROOT })
const driver = await buildDriver('rtc', 'x86-64', ['-ldl', `-DMMSB_RTC_SOURCES="${ROOT}${SOURCES}"`])

t.test('the source computes what the evaluator does, and marks what it changes', async (t) => {
  writeFileSync(GENERATED, await runDriver(driver, ['source', '0', PROGRAMS]))
  const flags = ['-ldl', '-O1', `-DMMSB_GENERATED="${GENERATED}"`]
  const program = await buildDriver('rtc', 'x86-64', flags, '-run')
  const output = await runDriver(program, ['run', '0', PROGRAMS])
  const [, kernels, elements] = /^ran (\d+) kernels on (\d+) elements$/m.exec(output) ?? []
  t.equal(kernels, PROGRAMS)
  t.ok(Number(elements) > 50_000, `${elements} elements`)
  t.match(output, /^failures 0$/m)
})

t.test('NVRTC makes machine code of it', async (t) => {
  const outputs = await Promise.all(
    ['75', '90'].map((arch) => runDriver(driver, ['compile', '0', '12', arch])),
  )
  if (outputs.some((output) => output.startsWith('no libnvrtc'))) {
    t.pass('skipped: no libnvrtc')
    return
  }
  for (const output of outputs) {
    t.match(output, /^compiled 12 of 12, \d+ bytes$/m)
    t.match(output, /^failures 0$/m)
  }
})
