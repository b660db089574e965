/**
 * Checks of the machine and of this installation: Node, the native library, SQLite, the GPU, and the limits
 * that the system sets a process.
 */
import { accessSync, constants, existsSync, readFileSync } from 'node:fs'
import { availableParallelism, release, tmpdir, totalmem } from 'node:os'
import { LISTEN_BACKLOG, SEGMENT_BYTES } from '../../../limits.js'
import { OPERATOR_LIMITS } from '../../../operator-limits.js'
import { counted, sizeText } from '../../output.js'
import { checked, type Finding, failed, note, ok, warning } from './finding.js'

const NODE_LEAST = [20, 19] as const
/** Files that a server has open beside those of its clients. */
const OWN_FILES = 200

export async function machineFindings(memoryLimitBytes: number): Promise<Finding[]> {
  return [
    nodeFinding(process.versions.node),
    ...(await checked('native library', 'Run `make native`, or install the package again.', nativeFindings)),
    ...(await checked('sqlite', 'Run `npm rebuild better-sqlite3`.', sqliteFindings)),
    memoryFinding(memoryLimitBytes, totalmem(), process.constrainedMemory?.() ?? 0),
    ...limitFindings(readText('/proc/self/limits')),
    ...backlogFindings(readText('/proc/sys/net/core/somaxconn')),
    temporaryFinding(tmpdir()),
  ]
}

function readText(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return ''
  }
}

export function nodeFinding(version: string): Finding {
  const [major = 0, minor = 0] = version.split('.').map(Number)
  const [leastMajor, leastMinor] = NODE_LEAST
  if (major > leastMajor || (major === leastMajor && minor >= leastMinor))
    return ok(
      'node',
      `v${version} on ${process.platform} ${release()}, ${counted(availableParallelism(), 'core')}`,
    )
  return failed('node', `v${version} is too old`, `Install Node ${leastMajor}.${leastMinor} or later.`)
}

async function nativeFindings(): Promise<Finding[]> {
  const { buildInfo, deviceCount } = await import('../../../ffi/library.js')
  const { isa, compiler, cuda, cudaArch } = buildInfo()
  const arch = cuda ? `with CUDA for ${cudaArch.join(', ')}` : 'without CUDA'
  const library = ok('native library', `${isa}, ${arch}, by ${compiler}`)
  const gpu = await checked('gpu', 'Use --backend cpu, or mend the driver.', () =>
    gpuFindings(cuda, deviceCount()),
  )
  return [library, ...gpu]
}

async function gpuFindings(isCudaBuild: boolean, devices: number): Promise<Finding[]> {
  const hasDriver = existsSync('/dev/nvidia0') || existsSync('/proc/driver/nvidia/version')
  if (devices > 0) {
    const { NativeContext } = await import('../../../ffi/context.js')
    const context = new NativeContext({ backend: 'cuda', threads: 1, quotaBytes: SEGMENT_BYTES })
    try {
      const info = Object.entries(context.deviceInfo()).map(([name, value]) => `${name} ${String(value)}`)
      return [ok('gpu', info.join(', '))]
    } finally {
      context.close()
    }
  }
  if (!hasDriver) return [note('gpu', 'none; the CPU computes')]
  const [detail, advice] = isCudaBuild
    ? ['a driver is here, but no device can be used', 'See what `nvidia-smi` says.']
    : ['one is here, but the native library was built without CUDA', 'Build it again where nvcc is.']
  return [warning('gpu', detail, advice)]
}

async function sqliteFindings(): Promise<Finding[]> {
  const { openDatabase } = await import('../../../store/os/sqlite.js')
  const database = openDatabase(':memory:')
  try {
    return [ok('sqlite', String(database.prepare('SELECT sqlite_version()').pluck().get()))]
  } finally {
    database.close()
  }
}

/** `constrained`: the bytes that a control group allows; 0 or more than there are: it sets no limit. */
export function memoryFinding(limitBytes: number, totalBytes: number, constrained: number): Finding {
  const isConstrained = constrained > 0 && constrained < totalBytes
  const bytes = isConstrained ? constrained : totalBytes
  const detail = `${sizeText(bytes)}${isConstrained ? ' allowed by the control group' : ''}, pages may take ${sizeText(limitBytes)}`
  if (limitBytes <= bytes) return ok('memory', detail)
  return warning('memory', detail, 'Set --memory-limit to less than there is, or the system ends the server.')
}

/** `limits`: the text of /proc/self/limits; empty where there is none. */
export function limitFindings(limits: string): Finding[] {
  const softOf = (name: string): number | undefined => {
    const text = new RegExp(`^${name} +(\\S+)`, 'm').exec(limits)?.[1]
    return text === undefined ? undefined : text === 'unlimited' ? Number.POSITIVE_INFINITY : Number(text)
  }
  const findings: Finding[] = []
  const files = softOf('Max open files')
  if (files !== undefined) {
    const wanted = OPERATOR_LIMITS.maxConnections.standard + OWN_FILES
    findings.push(
      files >= wanted
        ? ok('open files', String(files))
        : warning(
            'open files',
            `at most ${files}, and --max-connections allows ${OPERATOR_LIMITS.maxConnections.standard} clients`,
            `Raise it (ulimit -n ${wanted}, LimitNOFILE=${wanted}), or lower --max-connections.`,
          ),
    )
  }
  const fileSize = softOf('Max file size')
  if (fileSize !== undefined && fileSize < SEGMENT_BYTES)
    findings.push(
      failed(
        'file size',
        `at most ${sizeText(fileSize)}, and a segment of the log has ${sizeText(SEGMENT_BYTES)}`,
        'Raise it (ulimit -f unlimited, LimitFSIZE=infinity), or set --segment-bytes.',
      ),
    )
  return findings
}

/** `somaxconn`: the text of the file of this name; empty where there is none. */
export function backlogFindings(somaxconn: string): Finding[] {
  const backlog = Number(somaxconn.trim() || LISTEN_BACKLOG)
  if (backlog >= LISTEN_BACKLOG) return []
  return [
    warning(
      'backlog',
      `the system lets ${backlog} clients wait to be accepted; a server asks for ${LISTEN_BACKLOG}`,
      `Run sysctl -w net.core.somaxconn=${LISTEN_BACKLOG}.`,
    ),
  ]
}

function temporaryFinding(dir: string): Finding {
  try {
    accessSync(dir, constants.W_OK | constants.X_OK)
    return ok('temporary folder', dir)
  } catch {
    return warning(
      'temporary folder',
      `${dir} cannot be written`,
      'Set TMPDIR; without it reading only is slower.',
    )
  }
}
