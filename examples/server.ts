/**
 * Starts the real server as a child process and stops it, with SIGTERM or SIGKILL. For examples, benchmarks
 * and tests that use the server from outside only.
 *
 * Invariants: a child ends at the latest when this process exits; the promise of `startServer` settles only
 * when the server listens or has ended. Imports nothing from src.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

const ENTRY = fileURLToPath(new URL('../bin/mmsb.js', import.meta.url))
const START_TIMEOUT_MS = 60_000
const STDERR_KEPT_CHARS = 8_000

export interface ServerOptions {
  readonly dataDir: string
  /** The command line's entry; by default this checkout's. */
  readonly entry?: string
  /** Further arguments for `mmsb serve`, for example `['--fsync', 'off']`. */
  readonly args?: readonly string[]
  readonly env?: Readonly<Record<string, string>>
}

export interface Server {
  readonly url: string
  /** Where the admin listener is, if `--admin-listen` asks for one. */
  readonly adminUrl: string | undefined
  readonly pid: number
  /** Time from start to listening. */
  readonly startMs: number
  /** Sends SIGTERM and waits; resolves to the exit code. */
  stop(): Promise<number | null>
  /** Sends SIGKILL and waits until the process has ended. */
  kill(): Promise<void>
  /** The last part of its standard error. */
  stderr(): string
}

const running = new Set<ChildProcess>()
let isQuitting = false

/** Kills every running child; for signal handlers. */
export function killServers(): void {
  isQuitting = true
  for (const child of running) child.kill('SIGKILL')
}
process.once('exit', killServers)

/**
 * Runs a demonstration and exits: 0 if `main` finds everything equal, else 1. Its servers end with it, also
 * on SIGINT and SIGTERM. `failed` is printed before the error of a `main` that throws.
 */
export async function runDemo(main: () => Promise<boolean>, failed = 'failed'): Promise<void> {
  for (const [signal, code] of [
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const) {
    process.once(signal, () => {
      killServers()
      process.exit(code)
    })
  }
  try {
    process.exitCode = (await main()) ? 0 : 1
  } catch (error) {
    process.stderr.write(`${failed}: ${(error as Error).stack}\n`)
    process.exitCode = 1
  } finally {
    killServers()
  }
}

/** Runs `mmsb serve` on a free port of the loopback interface and waits until it listens. */
export async function startServer(options: ServerOptions): Promise<Server> {
  const started = performance.now()
  const args = [
    options.entry ?? ENTRY,
    'serve',
    '--port',
    '0',
    '--data-dir',
    options.dataDir,
    ...(options.args ?? []),
  ]
  const child = spawn(process.execPath, args, {
    env: { ...process.env, ...options.env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  running.add(child)
  const gone = once(child, 'exit').then(([code]) => {
    running.delete(child)
    return code as number | null
  })
  let stderr = ''
  child.stderr.on('data', (chunk: Buffer) => {
    stderr = (stderr + chunk.toString()).slice(-STDERR_KEPT_CHARS)
  })
  const { url, adminUrl } = await listening(child, gone, () => stderr)
  let isEnding = false
  child.on('exit', (code, signal) => {
    if (!isEnding && !isQuitting)
      process.stderr.write(`the server ended unexpectedly: ${signal ?? code}\n${stderr}\n`)
  })
  return {
    url,
    adminUrl,
    pid: child.pid!,
    startMs: performance.now() - started,
    stop: () => {
      isEnding = true
      child.kill('SIGTERM')
      return gone
    },
    kill: async () => {
      isEnding = true
      child.kill('SIGKILL')
      await gone
    },
    stderr: () => stderr,
  }
}

/** Resolves to the addresses in the lines the server prints until it is ready. */
async function listening(
  child: ChildProcess,
  gone: Promise<number | null>,
  stderr: () => string,
): Promise<Pick<Server, 'url' | 'adminUrl'>> {
  const lines = createInterface({ input: child.stdout! })
  const ready = new Promise<Pick<Server, 'url' | 'adminUrl'>>((resolve) => {
    let adminUrl: string | undefined
    lines.on('line', (line) => {
      const [, admin, url] = /^mmsb (admin )?listening on (https?:\/\/\S+)$/.exec(line) ?? []
      if (admin !== undefined) adminUrl = url
      else if (url !== undefined) resolve({ url, adminUrl })
    })
  })
  let timer: NodeJS.Timeout | undefined
  const failed = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      child.kill('SIGKILL')
      reject(new Error(`the server was not ready after ${START_TIMEOUT_MS} ms\n${stderr()}`))
    }, START_TIMEOUT_MS)
    gone.then((code) =>
      reject(new Error(`the server ended with code ${code} before it was ready\n${stderr()}`)),
    )
  })
  try {
    return await Promise.race([ready, failed])
  } finally {
    clearTimeout(timer)
    failed.catch(() => {})
  }
}
