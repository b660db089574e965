/**
 * The abusers of one window: a few processes at the lowest priority, which are killed where they stand when
 * the window ends, connections, half-sent requests and all.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { programArgs } from '../lib/place.js'
import type { Told } from './abuser.js'
import { ABUSERS } from './abusers/all.js'
import type { Tally } from './field.js'

const ABUSER = programArgs('test/abuse/abuser.ts')
const LOWEST_PRIORITY = '19'
const POLL_MS = 200

export class Crowd {
  readonly #processes: ChildProcess[]
  readonly #told = new Map<ChildProcess, Told>()

  /** Each group of names becomes one process. */
  constructor(port: number, seed: number, groups: readonly (readonly string[])[]) {
    // The test runner loads itself into every process of Node through this.
    const { NODE_OPTIONS: _, ...env } = process.env
    this.#processes = groups.map((names, index) => {
      const args = [process.execPath, ...ABUSER, String(port), String(seed + index), ...names]
      const child = spawn('nice', ['-n', LOWEST_PRIORITY, ...args], {
        env,
        stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
      })
      child.on('message', (told) => this.#told.set(child, told as Told))
      return child
    })
  }

  /** Resolves when every process has begun. */
  async begun(): Promise<void> {
    await Promise.all(this.#processes.map((child) => once(child, 'message')))
  }

  /** Resolves to the names of abusers that have not got an answer they expect: none, or after a time. */
  async unmet(withinMs: number): Promise<string[]> {
    const latestMs = performance.now() + withinMs
    const isMet = ([name, tally]: readonly [string, Tally]): boolean =>
      ABUSERS.some((abuser) => abuser.name === name && abuser.expects.some((code) => (tally[code] ?? 0) > 0))
    for (;;) {
      const unmet = [...this.tallies()].filter((entry) => !isMet(entry)).map(([name]) => name)
      if (unmet.length === 0 || performance.now() > latestMs) return unmet
      await sleep(POLL_MS)
    }
  }

  async end(): Promise<void> {
    await Promise.all(
      this.#processes.map(async (child) => {
        if (child.exitCode !== null || child.signalCode !== null) return
        child.kill('SIGKILL')
        await once(child, 'exit')
      }),
    )
  }

  /** What each abuser got, as of its last word. */
  tallies(): Map<string, Tally> {
    return new Map([...this.#told.values()].flatMap((told) => Object.entries(told)))
  }
}

/** Adds a tally to those of an abuser before. */
export function addTallies(sum: Map<string, Tally>, tallies: ReadonlyMap<string, Tally>): void {
  for (const [name, tally] of tallies) {
    const before = sum.get(name) ?? {}
    for (const [code, count] of Object.entries(tally)) before[code] = (before[code] ?? 0) + count
    sum.set(name, before)
  }
}
