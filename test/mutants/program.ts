/**
 * Runs a test as a program of its own, within a time. A mutant may hang or leave servers behind: whatever the
 * program started is stopped with it.
 */
import { spawn } from 'node:child_process'

export interface Outcome {
  readonly passed: boolean
  /** It took longer than allowed. */
  readonly late: boolean
  readonly ms: number
}

/** The programs that run now. They are stopped when this process is. */
const running = new Set<number>()
process.on('exit', () => running.forEach(killGroup))
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => process.exit(130))

export async function runProgram(
  [program, ...args]: readonly [string, ...string[]],
  cwd: string,
  env: Readonly<Record<string, string>>,
  limitMs: number,
): Promise<Outcome> {
  const startMs = performance.now()
  const child = spawn(program, args, {
    cwd,
    // A process group of its own.
    detached: true,
    stdio: 'ignore',
    env: { ...process.env, CI: 'true', TAP_BAIL: '1', TAP_TIMEOUT: '600', ...env },
  })
  const { pid } = child
  if (pid !== undefined) running.add(pid)
  let late = false
  const timer = setTimeout(() => {
    late = true
    if (pid !== undefined) killGroup(pid)
  }, limitMs)
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject)
    child.once('exit', resolve)
  })
  clearTimeout(timer)
  if (pid !== undefined) {
    killGroup(pid)
    running.delete(pid)
  }
  return { passed: code === 0, late, ms: performance.now() - startMs }
}

function killGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL')
  } catch {
    // Everything in the group has ended.
  }
}
