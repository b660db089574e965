/**
 * Builds and runs the C++ drivers of this folder. Like the library, a driver is built for x86-64-v3 and for
 * plain x86-64. A program that is newer than its sources is kept. Must not know what a driver checks.
 */
import { execFile } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { ROOT } from '../lib/place.js'

const run = promisify(execFile)
const NATIVE = join(ROOT, 'src/kernels/native')
const OUT = join(ROOT, 'build/test')

export type Isa = 'x86-64' | 'x86-64-v3'

/** The instruction sets that this machine can run. */
export const ISAS: readonly Isa[] = readFileSync('/proc/cpuinfo', 'utf8').includes(' avx2 ')
  ? ['x86-64', 'x86-64-v3']
  : ['x86-64']

/**
 * What a program of the thread sanitizer is started with: that of g++ 12 does not start where the system
 * places memory as much at random as newer kernels do.
 */
export const RACE_STARTER: readonly string[] = placesFarApart() ? ['setarch', '-R'] : []

function placesFarApart(): boolean {
  try {
    return Number(readFileSync('/proc/sys/vm/mmap_rnd_bits', 'utf8')) > 28
  } catch {
    return true // Only root may read it.
  }
}

// The flags of native.mk that affect bits and loops.
const FLAGS = [
  `-I${NATIVE}`,
  '-x',
  'c++',
  '-std=gnu++17',
  '-O3',
  '-ffp-contract=off',
  '-fno-math-errno',
  '-fno-trapping-math',
  '-w',
]

function newestSourceMs(source: string): number {
  const headers = readdirSync(NATIVE, { recursive: true, encoding: 'utf8' }).map((name) => join(NATIVE, name))
  headers.push(join(ROOT, 'test/native/vm_cases.h'))
  return Math.max(...[source, ...headers].map((path) => statSync(path).mtimeMs))
}

/** Compiles test/native/NAME.cpp if needed and returns the path of the program. */
export async function buildDriver(
  name: string,
  isa: Isa,
  libraries: readonly string[] = [],
): Promise<string> {
  const source = join(ROOT, 'test/native', `${name}.cpp`)
  const program = join(OUT, `${name}-${isa}`)
  if (existsSync(program) && statSync(program).mtimeMs > newestSourceMs(source)) return program
  mkdirSync(OUT, { recursive: true })
  const building = `${program}.${process.pid}`
  await run('g++', [...FLAGS, `-march=${isa}`, source, '-o', building, ...libraries])
  renameSync(building, program)
  return program
}

/** Runs a driver and returns its standard output. Throws, with the output, unless its exit status is 0. */
export async function runDriver(program: string, args: readonly string[]): Promise<string> {
  const [first = program, ...rest] = program.endsWith('_race') ? [...RACE_STARTER, program] : [program]
  try {
    return (await run(first, [...rest, ...args], { maxBuffer: 1 << 24 })).stdout
  } catch (error) {
    const { stdout, stderr, message } = error as Error & { stdout?: string; stderr?: string }
    throw new Error(`${message}\n${stdout ?? ''}${stderr ?? ''}`)
  }
}
