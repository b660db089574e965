/**
 * A container without docker: a process with a file system, mounts and process ids of its own. Needs root.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { plainEnvironment } from '../lib/environment.js'
import { until } from '../lib/wait.js'
import { type ContainerConfig, inRoot, quoted } from './image.js'

/** Runs a script in which mounts are its own. What it starts last is process 1. */
const ISOLATED = ['--mount', '--pid', '--fork', '--kill-child', 'bash', '--norc', '-euc']

export interface ContainerOptions {
  /** A script to run before, in which mounts are those of the container. */
  readonly prelude: string
  /** The folder that is the root of its file system. */
  readonly root: string
  readonly config: ContainerConfig
  /** In place of the command of the image. */
  readonly cmd?: readonly string[]
}

export class Container {
  readonly config: ContainerConfig
  readonly exited: Promise<number | string>
  readonly #child: ChildProcess
  #said = ''

  constructor({ prelude, root, config, cmd }: ContainerOptions) {
    this.config = config
    const command = inRoot(root, config, [...config.entrypoint, ...(cmd ?? config.cmd)])
    this.#child = spawn(
      'unshare',
      [...ISOLATED, [prelude, ...systemMounts(root), `exec ${command}`].join('\n')],
      {
        env: plainEnvironment(),
      },
    )
    for (const stream of [this.#child.stdout, this.#child.stderr])
      stream!.on('data', (chunk: Buffer) => (this.#said += chunk))
    this.exited = once(this.#child, 'close').then(([code, signal]) => (code ?? signal) as number | string)
  }

  /** Why there can be none here. */
  static missing(): string | undefined {
    if (process.getuid?.() !== 0) return 'needs root'
    const { status, stderr } = spawnSync('unshare', [...ISOLATED, 'mount -t tmpfs tmpfs /mnt'], {
      encoding: 'utf8',
    })
    return status === 0 ? undefined : `nothing can be mounted here: ${stderr}`
  }

  /** What it has printed. */
  get said(): string {
    return this.#said
  }

  /** Once the server in it is ready. */
  async ready(): Promise<void> {
    await until(() => {
      if (this.#child.exitCode !== null) throw new Error(this.#said)
      return /^mmsb listening on /m.test(this.#said)
    }, 'readiness')
  }

  /** Runs a command beside the process, as its user; the exit code. */
  exec(command: readonly string[]): number {
    const { env, user } = this.config
    const [uid, gid] = user.split(':')
    const vars = Object.entries(env).map(([name, value]) => `${name}=${value}`)
    const where = [
      '--target',
      this.#pid(),
      '--mount',
      '--pid',
      '--root',
      '--wd',
      `--setuid=${uid}`,
      `--setgid=${gid}`,
    ]
    return spawnSync('nsenter', [...where, 'env', '-i', ...vars, ...command]).status ?? -1
  }

  /** Sends a signal to the process, as docker does. */
  signal(name: string): void {
    spawnSync('kill', [`-${name}`, this.#pid()])
  }

  /** Sends a signal and waits for the end; the exit code. */
  async end(signal: string): Promise<number | string> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) {
      if (signal === 'KILL') this.#child.kill('SIGKILL')
      else this.signal(signal)
    }
    return this.exited
  }

  #pid(): string {
    return spawnSync('ps', ['--ppid', String(this.#child.pid), '-o', 'pid='], {
      encoding: 'utf8',
    }).stdout.trim()
  }
}

function systemMounts(root: string): string[] {
  return [`mount -t proc proc ${quoted(`${root}/proc`)}`, `mount --rbind /dev ${quoted(`${root}/dev`)}`]
}

/** Runs a script as a container's steps are run, and shows what it prints. Throws if it fails. */
export function runIsolated(root: string, script: string): void {
  const { status } = spawnSync('unshare', [...ISOLATED, [...systemMounts(root), script].join('\n')], {
    stdio: 'inherit',
    env: plainEnvironment(),
  })
  if (status !== 0) throw new Error(`a step failed (exit ${status})`)
}
