/**
 * A machine to install things on: systemd with the programs of this machine, a file system of its own that is
 * empty but for them, and the network of this machine. Needs root and systemd-nspawn.
 */
import { type ChildProcess, execFile, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import { plainEnvironment } from '../lib/environment.js'
import { ROOT } from '../lib/place.js'
import { until } from '../lib/wait.js'

/** Why there can be no such machine here. */
export function noMachine(): string | undefined {
  if (process.getuid?.() !== 0) return 'needs root'
  const { status, stderr, error } = spawnSync(
    'systemd-nspawn',
    nspawnArgs('mmsb-probe', ['--quiet', '/bin/true']),
    {
      encoding: 'utf8',
      timeout: 20_000,
    },
  )
  if (error !== undefined) return `systemd-nspawn: ${error.message}`
  return status === 0 ? undefined : `systemd-nspawn cannot run here: ${stderr.trim()}`
}

function nspawnArgs(name: string, args: readonly string[]): string[] {
  // Where systemd does not run, nobody can give the machine a place of its own among the control groups.
  const place = existsSync('/run/systemd/system') ? [] : ['--keep-unit']
  const fixed = ['--directory=/', '--volatile=yes', '--register=no', '--private-users=no', '--console=pipe']
  return [...fixed, ...place, `--machine=${name}`, ...args]
}

export interface Output {
  readonly code: number
  readonly text: string
}

export class Machine {
  readonly #nspawn: ChildProcess
  readonly #said: string[] = []
  #leader = 0

  private constructor(args: readonly string[]) {
    this.#nspawn = spawn('systemd-nspawn', args, {
      env: plainEnvironment(),
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    for (const stream of [this.#nspawn.stdout, this.#nspawn.stderr])
      stream!.on('data', (chunk: Buffer) => this.#said.push(chunk.toString()))
  }

  /**
   * Starts a machine in which this checkout is /opt/mmsb and the command `mmsb` is installed. `binds` are
   * files and folders by the place where it sees them.
   */
  static async boot(t: Test, dir: string, binds: Readonly<Record<string, string>>): Promise<Machine> {
    const bin = join(dir, 'bin')
    mkdirSync(bin)
    symlinkSync('/opt/mmsb/bin/mmsb.js', join(bin, 'mmsb'))
    writeFileSync(join(bin, 'node'), '')
    const all = {
      [ROOT]: '/opt/mmsb',
      [bin]: '/usr/local/bin',
      [process.execPath]: '/usr/local/bin/node',
      ...binds,
    }
    const bound = Object.entries(all).map(([from, to]) => `--bind-ro=${from}:${to}`)
    const boot = ['--boot', 'systemd.firstboot=off', 'systemd.unit=multi-user.target']
    const machine = new Machine(nspawnArgs(`mmsb-${process.pid}`, [...bound, ...boot]))
    t.teardown(() => machine.#end())
    await machine.#booted()
    return machine
  }

  async #booted(): Promise<void> {
    await until(async () => {
      if (this.#nspawn.exitCode !== null) throw new Error(`the machine did not start: ${this.#said.join('')}`)
      this.#leader = systemdBelow(this.#nspawn.pid!)
      if (this.#leader === 0) return false
      return /^(running|degraded)/.test((await this.run('systemctl', 'is-system-running')).text)
    }, 'the end of the boot')
  }

  /** Runs a command in the machine, as root. */
  run(...command: readonly string[]): Promise<Output> {
    const args = ['--target', String(this.#leader), '--mount', '--uts', '--ipc', '--pid', '--', ...command]
    return new Promise((resolve) => {
      execFile('nsenter', args, { env: plainEnvironment(), encoding: 'utf8' }, (error, stdout, stderr) => {
        const { code } = (error ?? { code: 0 }) as { code?: number | string | null }
        resolve({ code: typeof code === 'number' ? code : -1, text: `${stdout}${stderr}` })
      })
    })
  }

  /** A property of a unit. */
  async property(unit: string, name: string): Promise<string> {
    return (await this.run('systemctl', 'show', '--value', `--property=${name}`, unit)).text.trim()
  }

  /** What the kernel says of the main process of a unit: lines of /proc/PID/status. */
  async statusOf(unit: string): Promise<Map<string, string>> {
    const pid = await this.property(unit, 'MainPID')
    const { text } = await this.run('cat', `/proc/${pid}/status`)
    return new Map(
      text.split('\n').flatMap((line) => {
        const [name, value] = line.split(/:\s*/)
        return name !== undefined && value !== undefined ? [[name, value] as const] : []
      }),
    )
  }

  async #end(): Promise<void> {
    if (this.#nspawn.exitCode !== null) return
    const ended = once(this.#nspawn, 'close')
    // What SIGRTMIN+4 means to systemd: power off.
    await this.run('systemctl', 'poweroff', '--force', '--force')
    this.#nspawn.kill('SIGTERM')
    await ended
  }
}

/** The first process of a machine: systemd, once nspawn has become it; else 0. */
function systemdBelow(pid: number): number {
  const { stdout } = spawnSync('ps', ['--ppid', String(pid), '-o', 'pid=,comm='], { encoding: 'utf8' })
  return Number(/^ *(\d+) systemd$/m.exec(stdout)?.[1] ?? 0)
}
