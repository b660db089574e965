/**
 * The thread pool with workers that come late, under the sanitizers: each task of a job runs exactly once,
 * none runs when the job has ended, and what tasks wrote is there.
 */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import t from 'tap'
import { ROOT } from '../lib/place.js'
import { runDriver } from './driver.js'

const run = promisify(execFile)
const ROUNDS = '25'

for (const [program, what] of [
  ['pool_race', 'threads'],
  ['pool_debug', 'addresses'],
] as const) {
  t.test(`late workers, checked: ${what}`, async (t) => {
    const path = `build/native/${program}`
    await run('make', ['-s', path], { cwd: ROOT, maxBuffer: 1 << 24 })
    const seed = String(Date.now() % 1_000_000)
    t.comment(`seed ${seed}`)
    t.match(await runDriver(ROOT + path, [seed, ROUNDS]), /^jobs 1500\nfailures 0\n$/)
  })
}
