/**
 * `make abuse`: ten minutes of abuse, then the report. Exit code 1 if something does not hold.
 * `make abuse ABUSE_ARGS="--seconds 60 --seed 7 --only conv,verify"` runs it otherwise.
 */
import { randomInt } from 'node:crypto'
import { parseArgs } from 'node:util'
import { killServers } from '../../examples/server.js'
import { ABUSERS } from './abusers/all.js'
import { report, verdicts } from './report.js'
import { runSuite } from './suite.js'

const QUIET_MS = 9_000
const ABUSE_MS = 38_000
const ROUND_MS = QUIET_MS + ABUSE_MS + 3_000
/** As many rounds with a share of the abusers, then as many with all. */
const SHARES = 6

const { values } = parseArgs({
  options: { seconds: { type: 'string' }, seed: { type: 'string' }, only: { type: 'string' } },
})
const seconds = Number(values.seconds ?? 600)
const seed = Number(values.seed ?? randomInt(2 ** 31))
const only = values.only?.split(',')
const names = ABUSERS.map(({ name }) => name).filter((name) => only?.includes(name) ?? true)
const say = (line: string): void => void process.stdout.write(`${line}\n`)

// A server must not outlive a run that is broken off.
for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.once(signal, () => {
    killServers()
    process.exit(1)
  })

say(`seed ${seed}, ${seconds} s, ${names.length} abusers`)
const share = (seconds * 1_000) / (2 * SHARES * ROUND_MS)
const findings = await runSuite({
  seed,
  rounds: [...Array(SHARES).fill('share'), ...Array(SHARES).fill('all')],
  shares: SHARES,
  processes: 4,
  quietMs: QUIET_MS * share,
  abuseMs: ABUSE_MS * share,
  ...(only === undefined ? {} : { only }),
  say,
})
const found = verdicts(findings, names)
say(report(findings, found))
process.exit(found.every(({ ok }) => ok) ? 0 : 1)
