/**
 * The native tests and a fuzz of damaged files under sanitizers: `make sanitize`, which builds the
 * programs. Names that end with _debug check addresses and undefined behaviour, those with _race check
 * threads. MMSB_SANITIZE=small takes a minute or two; `full`, the default, takes the sizes of the usual
 * tests and 2,000 damaged files. Prints a line for each run, the output of those that fail, and exits with
 * 1 if one did.
 */
import { execFile, execFileSync } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { join, resolve } from 'node:path'
import { programArgs, ROOT } from '../lib/place.js'
import { ISAS, RACE_STARTER } from './driver.js'

const NATIVE = join(ROOT, 'build/native')
const isSmall = process.env.MMSB_SANITIZE === 'small'
const of = (small: number, full: number): string => String(isSmall ? small : full)

interface Run {
  readonly command: readonly string[]
  readonly env?: Record<string, string>
}

/** What g++ loads into programs that it links itself must be loaded before Node. */
const runtimes = ['libasan.so', 'libubsan.so'].map((name) =>
  execFileSync('g++', [`-print-file-name=${name}`], { encoding: 'utf8' }).trim(),
)

const core = { MMSB_TEST_SCALE: of(30, 1) }
/** The longest first. */
const RUNS: readonly Run[] = [
  {
    command: [process.execPath, ...programArgs('test/fuzz/fuzz.test.ts')],
    env: {
      MMSB_LIBRARY: join(NATIVE, 'libmmsb_debug.so'),
      MMSB_FUZZ_MUTANTS: of(10, 2_000),
      TAP_TIMEOUT: '7200',
      // Node frees little at its end.
      ASAN_OPTIONS: 'detect_leaks=0',
      LD_PRELOAD: runtimes.join(' '),
    },
  },
  { command: ['core_race'], env: core },
  ...ISAS.map((isa) => ({ command: ['core_debug'], env: { ...core, MMSB_ISA: isa } })),
  { command: ['vm_debug', 'random', '0', of(200, 3_000)] },
  { command: ['vm_debug', 'fuzz', '0', of(2_000, 20_000)] },
  { command: ['vm_debug', 'divisions'] },
  { command: ['vm_debug', 'casts'] },
  { command: ['vm_debug', 'integers'] },
  { command: ['math_debug', 'edges'] },
  { command: ['math_debug', 'hash', of(3_000, 300_000)] },
  { command: ['pool_race', '1', of(10, 1_000)] },
  { command: ['pool_debug', '2', of(10, 1_000)] },
]

/** Runs one; resolves with whether it passed. */
function passes({ command, env }: Run): Promise<boolean> {
  const [program = '', ...args] = command
  const name = [...command.map((word) => word.split('/').at(-1)), env?.MMSB_ISA].join(' ').trim()
  const starter = program.endsWith('_race') ? RACE_STARTER : []
  const [first = '', ...rest] = [...starter, resolve(NATIVE, program), ...args]
  const startedMs = performance.now()
  return new Promise((done) => {
    const options = { cwd: ROOT, env: { ...process.env, ...env }, maxBuffer: 2 ** 26 }
    execFile(first, rest, options, (error, stdout, stderr) => {
      const seconds = ((performance.now() - startedMs) / 1_000).toFixed(1)
      console.log(`${error === null ? 'ok' : 'FAILED'} ${name} (${seconds} s)`)
      if (error !== null)
        console.log(`${error.message}\n${stdout.slice(-20_000)}\n${stderr.slice(0, 20_000)}`)
      done(error === null)
    })
  })
}

let failures = 0
const waiting = [...RUNS]
async function work(): Promise<void> {
  for (let run = waiting.shift(); run !== undefined; run = waiting.shift())
    if (!(await passes(run))) failures++
}
await Promise.all(Array.from({ length: availableParallelism() }, work))
console.log(`${RUNS.length - failures} of ${RUNS.length} passed under the sanitizers`)
process.exitCode = failures === 0 ? 0 : 1
