/**
 * Where the native library is, and how it is built where there is none that fits.
 *
 * Invariants: a library that was built here wins over the one in the package; nothing here needs another
 * package, so that the install step can use it before there are any.
 */
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

/** The folder of the package, or of the checkout. */
const PACKAGE = fileURLToPath(new URL('../../', import.meta.url))
/** What `make native` builds, for the CPU or for CUDA too. */
const BUILT = `${PACKAGE}build/libmmsb.so`
/** Comes with the package: for the CPU, Linux on x86-64 with glibc. */
const PREBUILT = `${PACKAGE}prebuilt/linux-x64/libmmsb.so`

/** The machine that a library must fit. */
export interface Machine {
  readonly platform: string
  readonly arch: string
  readonly hasGlibc: boolean
}

/** This machine. Takes some milliseconds. */
export function thisMachine(): Machine {
  const { platform, arch } = process
  const report = platform === 'linux' ? process.report.getReport() : undefined
  const { header } = (report ?? {}) as { header?: { glibcVersionRuntime?: string } }
  return { platform, arch, hasGlibc: header?.glibcVersionRuntime !== undefined }
}

const isSupported = ({ platform, arch }: Omit<Machine, 'hasGlibc'>): boolean =>
  platform === 'linux' && arch === 'x64'

const BUILD = '`npx mmsb build-native`, or `make native` in a checkout, builds it here'

/** Why a machine cannot have a library. */
const unsupported = ({ platform, arch }: Omit<Machine, 'hasGlibc'>): string =>
  `MMSB runs on Linux on x86-64, and this is ${platform} on ${arch}. mmsb/client works here, with a server elsewhere.`

/** The file to load, or what is missing. */
export function findLibrary(): { readonly path: string } | { readonly missing: string } {
  const named = process.env.MMSB_LIBRARY
  if (named !== undefined) {
    return existsSync(named) ? { path: named } : { missing: `MMSB_LIBRARY names ${named}, which is missing.` }
  }
  if (existsSync(BUILT)) return { path: BUILT }
  if (!isSupported(process)) return { missing: unsupported(process) }
  if (existsSync(PREBUILT)) return { path: PREBUILT }
  return { missing: `The native library is missing: neither ${BUILT} nor ${PREBUILT} is there. ${BUILD}.` }
}

/** Why a library that is there cannot be used. */
export function unusableLibrary(path: string, reason: string): string {
  return `The native library ${path} does not fit: ${reason}. ${BUILD}.`
}

/** Whether the library of the package works on a machine. */
export const hasPrebuilt = (machine: Machine): boolean =>
  isSupported(machine) && machine.hasGlibc && existsSync(PREBUILT)

const isThere = (program: string): boolean => spawnSync(program, ['--version']).error === undefined

export interface BuildOptions {
  /** Without CUDA, even where nvcc is found. */
  readonly cpuOnly: boolean
  /** What make prints: shown, or kept for the error. */
  readonly output: 'shown' | 'kept'
}

/** Builds the library for this machine. Returns what went wrong, or undefined. */
export function buildLibrary(machine: Machine, { cpuOnly, output }: BuildOptions): string | undefined {
  if (!isSupported(machine)) return unsupported(machine)
  const missing = ['make', process.env.CXX ?? 'g++'].filter((program) => !isThere(program))
  if (missing.length > 0)
    return `Building the native library needs ${missing.join(' and ')}; install it first.`
  const args = ['-f', 'native.mk', 'native', ...(cpuOnly ? ['NVCC='] : [])]
  const { status, stderr } = spawnSync('make', args, {
    cwd: PACKAGE,
    // Standard output is for the result of the command.
    stdio: output === 'shown' ? ['ignore', 2, 2] : 'pipe',
    encoding: 'utf8',
  })
  if (status === 0) return undefined
  return `Building the native library failed. ${output === 'shown' ? 'The cause is above.' : stderr.trim()}`
}

/** The file that `buildLibrary` writes. */
export const builtLibrary = (): string => BUILT
