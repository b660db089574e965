/**
 * Runs seeds of the simulation in this process, or spread over one process per core. A seed gives the same
 * run in any of them.
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'
import { moduleUrl, NODE_ARGS } from '../lib/place.js'
import { simulate } from './run.js'

export interface SeedsReport {
  crashes: number
  epochs: number
  checkpoints: number
  full: number
  faults: number
  kills: number
  /** For each seed that failed: how to run it again, and what was wrong. */
  failures: string[]
}

const COUNTED = ['crashes', 'epochs', 'checkpoints', 'full', 'faults', 'kills'] as const
const nothing = (): SeedsReport => ({
  ...{ crashes: 0, epochs: 0, checkpoints: 0, full: 0, faults: 0, kills: 0 },
  failures: [],
})

/** Fewer seeds are not worth a process. */
const SEEDS_PER_PROCESS_MIN = 100
const SELF = fileURLToPath(moduleUrl('test/sim/seeds.ts'))

async function runSeeds(first: number, count: number): Promise<SeedsReport> {
  const sum = nothing()
  for (let seed = first; seed < first + count; seed++) {
    try {
      const report = await simulate(seed)
      for (const what of COUNTED) sum[what] += report[what]
    } catch (error) {
      sum.failures.push(`MMSB_SIM_SEED=${seed} MMSB_SIM_SEEDS=1: ${(error as Error).stack}`)
    }
  }
  return sum
}

async function runElsewhere(first: number, count: number): Promise<SeedsReport> {
  const child = fork(SELF, [String(first), String(count)], {
    execArgv: [...NODE_ARGS],
    env: { PATH: process.env.PATH },
  })
  let report: SeedsReport | undefined
  child.once('message', (message) => {
    report = message as SeedsReport
  })
  const [code, signal] = await once(child, 'exit')
  const failure = `seeds ${first} to ${first + count - 1}: the process ended with ${code ?? signal}`
  return report ?? { ...nothing(), failures: [failure] }
}

/** Seeds from `first` on. */
export async function simulateAll(first: number, count: number): Promise<SeedsReport> {
  const processes = Math.min(availableParallelism(), Math.floor(count / SEEDS_PER_PROCESS_MIN))
  if (processes < 2) return runSeeds(first, count)
  const bounds = Array.from({ length: processes + 1 }, (_, i) => first + Math.floor((count * i) / processes))
  const reports = await Promise.all(
    bounds.slice(0, -1).map((from, i) => runElsewhere(from, (bounds[i + 1] as number) - from)),
  )
  const sum = nothing()
  for (const report of reports) {
    for (const what of COUNTED) sum[what] += report[what]
    sum.failures.push(...report.failures)
  }
  return sum
}

if (process.argv[1] === SELF && process.send !== undefined) {
  const [first, count] = process.argv.slice(2).map(Number)
  process.send(await runSeeds(first as number, count as number), () => process.exit(0))
}
