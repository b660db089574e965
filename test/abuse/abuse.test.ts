/**
 * The abuse suite at a small size: every abuser has its turn, for half a minute. What depends on the code
 * alone must hold: nothing acknowledged is lost, the polite subscriber misses nothing, nobody is told
 * INTERNAL, and nearly every abuser meets what it should. Latencies and memory depend on the load of the
 * machine too: they are printed here and judged by `make abuse`. MMSB_ABUSE_SEED repeats a run.
 */
import { randomInt } from 'node:crypto'
import t from 'tap'
import { ABUSERS } from './abusers/all.js'
import { report, verdicts } from './report.js'
import { runSuite } from './suite.js'

const SEED = Number(process.env.MMSB_ABUSE_SEED ?? randomInt(2 ** 31))
const SHARES = 4
/** Half a minute on an idle machine; most of the rest is patience with a busy one. */
const TIMEOUT_MS = 600_000

t.setTimeout(TIMEOUT_MS)

t.test('abusers do not stop, drown or fool the polite', { timeout: TIMEOUT_MS }, async (t) => {
  t.comment(`MMSB_ABUSE_SEED=${SEED}`)
  const findings = await runSuite({
    seed: SEED,
    rounds: Array(SHARES).fill('share'),
    shares: SHARES,
    processes: 2,
    quietMs: 500,
    abuseMs: 3_000,
    say: (line) => t.comment(line),
  })
  const found = verdicts(
    findings,
    ABUSERS.map(({ name }) => name),
  )
  for (const line of report(findings, found).split('\n')) t.comment(line)
  for (const { what, ok, isFigure } of found) if (!isFigure) t.ok(ok, what)
})
