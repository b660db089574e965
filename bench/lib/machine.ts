/** The facts about the machine that make a figure comparable. Reads, never changes anything. */
import { execFileSync } from 'node:child_process'
import { cpus, loadavg, release, totalmem } from 'node:os'

export interface Machine {
  readonly cpu: string
  readonly cores: number
  readonly memoryGiB: number
  readonly gpu: string | null
  readonly kernel: string
  readonly node: string
  readonly fileSystem: string
  readonly commit: string
  /** Load of the last minute before the first row; above QUIET_LOAD_PER_CORE the figures are noise. */
  readonly loadBefore: number
}

function output(command: string, ...args: readonly string[]): string | null {
  try {
    return execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim()
  } catch {
    return null
  }
}

/** `dir`: the folder whose file system the disk rows use. */
export function machineFacts(dir: string): Machine {
  const gpus = output('nvidia-smi', '--query-gpu=name', '--format=csv,noheader')
  const commit = output('git', 'rev-parse', '--short', 'HEAD') ?? 'unknown'
  const isChanged = (output('git', 'status', '--porcelain', '--untracked-files=no') ?? '') !== ''
  return {
    cpu: cpus()[0]?.model.trim() ?? 'unknown',
    cores: cpus().length,
    memoryGiB: Math.round(totalmem() / 1024 ** 3),
    gpu: gpus?.split('\n')[0] || null,
    kernel: release(),
    node: process.version,
    fileSystem: output('stat', '-f', '-c', '%T', dir) ?? 'unknown',
    commit: isChanged ? `${commit}+` : commit,
    loadBefore: loadavg()[0] ?? 0,
  }
}

const QUIET_LOAD_PER_CORE = 0.6

export function isBusy({ loadBefore, cores }: Machine): boolean {
  return loadBefore > QUIET_LOAD_PER_CORE * cores
}

/** A name for a results file: the GPU's if there is one, else the CPU's. */
export function shortName({ cpu, gpu }: Machine): string {
  const name = gpu ?? cpu.replace(/\((R|TM)\)|CPU|Processor|@.*$/g, '')
  return name
    .trim()
    .replace(/[^A-Za-z0-9]+/g, '-')
    .replace(/^-|-$/g, '')
    .toLowerCase()
}
