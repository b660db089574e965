/** Runs the built command line as a user does. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import type { Test } from 'tap'
import { plainEnvironment } from '../lib/environment.js'
import { ROOT } from '../lib/place.js'
import { sleep } from '../lib/wait.js'

export const ENTRY = `${ROOT}bin/mmsb.js`
const READY = /^mmsb listening on (http:\/\/\S+)$/m
/** Runs a command of root without its power over the permissions of files. */
const UNPRIVILEGED = 'setpriv --bounding-set=-dac_override,-dac_read_search,-fowner'
const WAIT_MS = 60_000

export interface RunOptions {
  readonly env?: Readonly<Record<string, string>>
  /** Shell commands to run first in the same process, such as limits. */
  readonly prelude?: string
  readonly cwd?: string
  /**
   * File permissions bind the process even if the test runs as root: it keeps the user, who can read this
   * checkout wherever it lies, without the privilege to ignore them.
   */
  readonly isBoundByPermissions?: boolean
}

export class Process {
  readonly child: ChildProcess
  readonly exited: Promise<number | string>
  stdout = ''
  stderr = ''

  constructor(
    args: readonly string[],
    { env = {}, prelude, cwd, isBoundByPermissions = false }: RunOptions = {},
  ) {
    const bound = isBoundByPermissions && process.getuid?.() === 0 ? `${UNPRIVILEGED} ` : ''
    // The test runner loads itself into every process of Node through NODE_ARGS: half a second each.
    const command = `unset NODE_ARGS; ${prelude === undefined ? '' : `${prelude}; `}exec ${bound}"$@"`
    // Without its start-up files, which bash reads where it believes to be at the far end of a network.
    this.child = spawn('bash', ['--norc', '-c', command, 'mmsb', process.execPath, ENTRY, ...args], {
      env: { ...plainEnvironment(), ...env },
      ...(cwd === undefined ? {} : { cwd }),
    })
    this.child.stdout!.on('data', (chunk: Buffer) => {
      this.stdout += chunk
    })
    this.child.stderr!.on('data', (chunk: Buffer) => {
      this.stderr += chunk
    })
    this.exited = once(this.child, 'close').then(([code, signal]) => (code ?? signal) as number | string)
  }

  /** The address, once the server is ready. */
  async ready(): Promise<string> {
    const deadline = Date.now() + WAIT_MS
    let hasExited = false
    void this.exited.then(() => {
      hasExited = true
    })
    for (;;) {
      const url = READY.exec(this.stdout)?.[1]
      if (url !== undefined) return url
      if (hasExited || Date.now() > deadline) throw new Error(`the server is not ready: ${this.stderr}`)
      await sleep(10)
    }
  }

  /** Sends a signal and waits until the process ends. */
  async end(signal: NodeJS.Signals = 'SIGTERM'): Promise<number | string> {
    this.child.kill(signal)
    return this.exited
  }
}

/** Runs a command until it ends. */
export async function run(
  args: readonly string[],
  options?: RunOptions,
): Promise<Process & { code: number | string }> {
  const process_ = new Process(args, options)
  const code = await process_.exited
  return Object.assign(process_, { code })
}

/** A server on a free port, which ends with the test. */
export function serve(t: Test, args: readonly string[] = [], options?: RunOptions): Process {
  const server = new Process(['serve', '--port', '0', ...args], options)
  t.teardown(() => server.end('SIGKILL'))
  return server
}

/** Sends a JSON request and returns the JSON answer. */
export async function call(
  url: string,
  method: string,
  path: string,
  body?: unknown,
): Promise<Record<string, unknown>> {
  const json = { headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) }
  const response = await fetch(`${url}${path}`, { method, ...(body === undefined ? {} : json) })
  return (await response.json()) as Record<string, unknown>
}
