/**
 * One run of the suite: a real server with a data folder and fsync, a polite writer and a polite subscriber
 * from beginning to end, and windows that alternate: quiet, then with abusers. In the end the server is
 * killed in the midst of it, opened again, and asked for everything that it had acknowledged.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Server, startServer } from '../../examples/server.js'
import { Draw } from '../lib/draw.js'
import { ABUSERS } from './abusers/all.js'
import { addTallies, Crowd } from './crowd.js'
import type { Tally } from './field.js'
import { type Latencies, noLatencies, Polite } from './polite.js'
import { Bare, memoryOf, Probe } from './probe.js'
import { setStage } from './stage.js'

const MIB = 1024 ** 2

/**
 * What the server may hold of each kind, in MiB: an operator who has to do with strangers sets budgets low.
 */
const BUDGETS_MIB = {
  'answer-budget': 32,
  'request-budget': 64,
  'message-budget': 32,
  'stream-budget': 64,
  'max-idempotency-bytes': 16,
} as const
const MEMORY_LIMIT_MIB = 256
const REPLAY_MIB = 48
/** Reads, catching up and verification, each with what takes its state back: a quarter more. */
const REPLAYS = 3 * 1.25

/** All that the operator lets the server hold. */
export const ALLOWED_BYTES =
  MIB *
  (MEMORY_LIMIT_MIB + REPLAYS * REPLAY_MIB + Object.values(BUDGETS_MIB).reduce((sum, mib) => sum + mib, 0))

/** What one caller may compute at a time is what all others wait for, so that is low too. */
const SERVER_ARGS = [
  ...['--memory-limit', `${MEMORY_LIMIT_MIB}m`, '--max-replay-bytes', `${REPLAY_MIB}m`],
  ...Object.entries(BUDGETS_MIB).flatMap(([flag, mib]) => [`--${flag}`, `${mib}m`]),
  ...['--answer-budget-per-connection', '32m', '--message-budget-per-connection', '16m'],
  ...['--backend', 'cpu', '--log-level', 'error'],
  ...['--max-step-cost', '20ms', '--max-commit-cost', '40ms', '--max-replay-time', '2s'],
  ...['--max-connections', '100', '--max-subscriptions', '3000', '--max-pages', '40000'],
  ...['--max-functions', '2000', '--admin-listen', '127.0.0.1:0'],
  // Shorter than a window, so that the suite sees them at work.
  ...['--headers-timeout', '2s', '--body-timeout', '5s', '--idle-timeout', '5s'],
]
/** After the abusers are gone, until the next quiet window begins. */
const SETTLE_MS = 1_000
/** A window lasts until each of its abusers has met what it expects, at most so much longer. */
const MEET_MS = 45_000
export interface Plan {
  readonly seed: number
  /** Each round is a quiet window and one with abusers: a share of them in turn, or all at once. */
  readonly rounds: readonly ('share' | 'all')[]
  /** Into how many shares the abusers are dealt. */
  readonly shares: number
  /** Processes that the abusers of a window share. */
  readonly processes: number
  readonly quietMs: number
  readonly abuseMs: number
  /** Only these abusers; default: all. */
  readonly only?: readonly string[]
  readonly say: (line: string) => void
}

/** What was measured in windows of one kind. */
export interface Measured {
  readonly polite: Latencies
  readonly livezMs: number[]
  /** /livez of the admin listener, which has a thread of its own. */
  readonly adminMs: number[]
  readonly bareMs: number[]
}

const noMeasures = (): Measured => ({ polite: noLatencies(), livezMs: [], adminMs: [], bareMs: [] })

export interface Findings {
  readonly tallies: ReadonlyMap<string, Tally>
  readonly quiet: Measured
  /** Beside a share of the abusers, and beside all of them. */
  readonly share: Measured
  readonly all: Measured
  /** /livez of a bare Fastify that all abusers attack. */
  readonly targetMs: readonly number[]
  /** The most memory that the server held, and what it held at the end of the last window. */
  readonly peakBytes: number
  readonly lastBytes: number
  readonly lostProbes: number
  readonly acknowledged: number
  readonly reopenMs: number
  /** Everything that must not be. Empty if all is well. */
  readonly faults: readonly string[]
}

export async function runSuite(plan: Plan): Promise<Findings> {
  const dir = mkdtempSync(join(tmpdir(), 'mmsb-abuse-'))
  const dataDir = join(dir, 'data')
  let server: Server | undefined
  const bare = await Bare.start('alone')
  try {
    server = await startServer({ dataDir, args: SERVER_ARGS })
    const run = new Run(plan, server, bare)
    await run.windows()
    await run.kill()
    await run.attackTarget()
    const startedMs = performance.now()
    server = await startServer({ dataDir, args: SERVER_ARGS })
    const reopenMs = performance.now() - startedMs
    const findings = await run.findings(server, reopenMs)
    await server.stop()
    return findings
  } finally {
    await server?.kill()
    bare.stop()
    rmSync(dir, { recursive: true, force: true })
  }
}

class Run {
  readonly #plan: Plan
  readonly #server: Server
  readonly #bare: Bare
  readonly #tallies = new Map<string, Tally>()
  readonly #faults: string[] = []
  readonly #quiet = noMeasures()
  readonly #abused = {
    share: noMeasures(),
    all: noMeasures(),
  } as const
  #polite: Polite | undefined
  #peakBytes = 0
  #lastBytes = 0
  #lostProbes = 0
  readonly #targetMs: number[] = []

  constructor(plan: Plan, server: Server, bare: Bare) {
    this.#plan = plan
    this.#server = server
    this.#bare = bare
  }

  async windows(): Promise<void> {
    const { rounds, quietMs, abuseMs, say } = this.#plan
    await setStage(this.#server.url)
    const seconds = (rounds.length * (quietMs + abuseMs + 3 * SETTLE_MS)) / 1_000 + 60
    const polite = await Polite.start(this.#server.url, seconds)
    this.#polite = polite
    polite.begin()
    const { url, adminUrl = url } = this.#server
    const probes = [new Probe(url), new Probe(adminUrl), new Probe(this.#bare.url)] as const
    for (const probe of probes) probe.start()
    const measure = async (into: Measured | undefined, ms: number): Promise<void> => {
      polite.latencies = into?.polite ?? noLatencies()
      probes[0].latenciesMs = into?.livezMs ?? []
      probes[1].latenciesMs = into?.adminMs ?? []
      probes[2].latenciesMs = into?.bareMs ?? []
      await sleep(ms)
    }
    await measure(undefined, SETTLE_MS)
    let turn = 0
    for (const [round, kind] of rounds.entries()) {
      await measure(this.#quiet, quietMs)
      const crowd = this.#crowd(round, kind === 'share' ? turn++ : undefined)
      await measure(undefined, 0)
      await crowd.begun()
      await measure(this.#abused[kind], abuseMs)
      const unmet = await crowd.unmet(MEET_MS)
      this.#lastBytes = memoryOf(this.#server.pid, 'VmRSS')
      addTallies(this.#tallies, crowd.tallies())
      await crowd.end()
      await measure(undefined, SETTLE_MS)
      const waited = unmet.length === 0 ? '' : `; not met: ${unmet.join()}`
      say(
        `round ${round + 1} of ${rounds.length} (${kind}): ${Math.round(this.#lastBytes / 1024 ** 2)} MiB${waited}`,
      )
    }
    for (const probe of probes) probe.stop()
    await polite.finish(30_000)
    for (const probe of probes) probe.close()
    this.#lostProbes = probes[0].lost + probes[1].lost
  }

  /** Kills the server while everybody is at work. */
  async kill(): Promise<void> {
    const polite = this.#polite!
    const crowd = this.#crowd(this.#plan.rounds.length, undefined)
    await crowd.begun()
    polite.begin()
    await sleep(1_500)
    this.#peakBytes = memoryOf(this.#server.pid, 'VmHWM')
    await this.#server.kill()
    await crowd.end()
    await polite.giveUp()
  }

  /** What all abusers do to a bare Fastify, for as long as one window. */
  async attackTarget(): Promise<void> {
    const { rounds, abuseMs } = this.#plan
    const round = rounds.indexOf('all')
    if (round < 0) return
    const target = await Bare.start('target')
    const probe = new Probe(target.url)
    try {
      const crowd = this.#crowd(round, undefined, target.port)
      await crowd.begun()
      probe.latenciesMs = this.#targetMs
      probe.start()
      await sleep(abuseMs)
      probe.stop()
      await crowd.end()
    } finally {
      probe.close()
      target.stop()
    }
  }

  async findings(reopened: Server, reopenMs: number): Promise<Findings> {
    const polite = this.#polite!
    const missing = await polite.missingOn(reopened.url)
    this.#faults.push(...polite.faults.slice(0, 10), ...missing.slice(0, 10).map((what) => `lost: ${what}`))
    return {
      tallies: this.#tallies,
      quiet: this.#quiet,
      ...this.#abused,
      targetMs: this.#targetMs,
      peakBytes: this.#peakBytes,
      lastBytes: this.#lastBytes,
      lostProbes: this.#lostProbes,
      acknowledged: polite.acknowledgedCount,
      reopenMs,
      faults: this.#faults,
    }
  }

  /** All abusers, or one share of them, dealt to their processes. */
  #crowd(round: number, turn: number | undefined, port = Number(new URL(this.#server.url).port)): Crowd {
    const { seed, shares, processes, only } = this.#plan
    const names = ABUSERS.map(({ name }) => name).filter((name) => only?.includes(name) ?? true)
    // The shares stay the same for one seed, so that each abuser has its turn.
    const dealt = deal(names, turn === undefined ? 1 : shares, new Draw(seed))[(turn ?? 0) % shares]!
    const groups = deal(dealt, processes, new Draw(seed + round))
    const own = seed + round * processes
    return new Crowd(
      port,
      own,
      groups.filter(({ length }) => length > 0),
    )
  }
}

function deal(names: readonly string[], hands: number, draw: Draw): readonly (readonly string[])[] {
  const dealt: string[][] = Array.from({ length: hands }, () => [])
  const left = [...names]
  for (let i = 0; left.length > 0; i++)
    dealt[i % hands]!.push(...left.splice(draw.int(0, left.length - 1), 1))
  return dealt
}
