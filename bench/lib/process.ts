/**
 * Baseline servers as child processes: a script of bench/baselines that prints `listening on PORT`, or
 * redis-server. Every child ends when this process does, at the latest.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

const START_TIMEOUT_MS = 20_000

export interface Baseline {
  readonly port: number
  readonly pid: number
  stop(): Promise<void>
}

const running = new Set<ChildProcess>()
process.once('exit', () => {
  for (const child of running) child.kill('SIGKILL')
})

/** Runs bench/baselines/<name>.ts. */
export async function startBaseline(name: string, ...args: readonly string[]): Promise<Baseline> {
  const script = fileURLToPath(new URL(`../baselines/${name}.ts`, import.meta.url))
  const child = spawn(process.execPath, ['--import', 'tsx', script, ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const port = await lineOf(child, /listening on (\d+)/)
  return { port: Number(port), pid: child.pid!, stop: () => stop(child) }
}

/** Redis with its append-only file synced before every answer; null when Redis is not installed. */
export async function startRedis(dir: string): Promise<Baseline | null> {
  const port = await freePort()
  const args = ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--dir', dir]
  const child = spawn('redis-server', [...args, '--appendonly', 'yes', '--appendfsync', 'always'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  try {
    await lineOf(child, /(Ready to accept connections)/)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw error
  }
  return { port, pid: child.pid!, stop: () => stop(child) }
}

async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const gone = once(child, 'exit')
  child.kill('SIGKILL')
  await gone
}

function lineOf(child: ChildProcess, pattern: RegExp): Promise<string> {
  running.add(child)
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error('a baseline server did not start')), START_TIMEOUT_MS)
    child.on('error', reject)
    child.on('exit', (code) => {
      running.delete(child)
      reject(new Error(`a baseline server ended with code ${code}`))
    })
    createInterface({ input: child.stdout! }).on('line', (line) => {
      const found = pattern.exec(line)?.[1]
      if (found === undefined) return
      clearTimeout(timer)
      resolve(found)
    })
  })
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  await once(server, 'close')
  return port
}
