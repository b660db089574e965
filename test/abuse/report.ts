/** The findings of a run as a table, and the verdict: what must hold, and whether it did. */
import { percentile } from '../../bench/lib/stats.js'
import { ABUSERS } from './abusers/all.js'
import { ALLOWED_BYTES, type Findings } from './suite.js'

const MIB = 1024 ** 2
/**
 * Code, the heaps of six threads with their garbage, and what the allocator keeps: 260 MiB before the
 * first abuser.
 */
const RSS_ABOVE_ALLOWED_MAX_BYTES = 640 * MIB
/** Above the worst of a bare Fastify: of one that nobody attacks, and of one that the same abusers attack. */
const ABOVE_BARE_MAX_MS = { '/livez': 1_000, '/livez of the admin listener': 250 } as const
const ABOVE_ATTACKED_MAX_MS = 250
/**
 * What a polite write may wait for beside abusers: turns of the event loop and commits of others, each at
 * most as dear as --max-commit-cost allows.
 */
const POLITE_P99_MAX_MS = 3_000
/** Answers that no caller may provoke: the fault is the server's. A connection may be cut. */
const FORBIDDEN =
  /^(INTERNAL|BUS_FAILED|50[0-2]|close 1011)$| failed: (?!.*\b(ECONNRESET|ECONNREFUSED|EPIPE)\b)/
/** On a slow machine an abuser whose turn is short may not come to the answer that it aims at. */
const MET_MIN = 0.8

/** A machine that is slow enough makes any request late. */
const REFUSED_FOR_TIME = /^a polite \w+ was refused: MmsbError: (REQUEST_TIMEOUT|OVERLOADED|NETWORK)\b/

export interface Verdict {
  readonly what: string
  readonly ok: boolean
  /** A figure: it depends on the machine and its load, not on the code alone. */
  readonly isFigure: boolean
}

export function verdicts(findings: Findings, names: readonly string[]): Verdict[] {
  const { quiet, share, all, targetMs, peakBytes, lostProbes, faults, tallies } = findings
  const hard = (what: string, ok: boolean): Verdict => ({ what, ok, isFigure: false })
  const figure = (what: string, ok: boolean): Verdict => ({ what, ok, isFigure: true })
  const kinds = (
    [
      ['a share', share],
      ['all', all],
    ] as const
  ).filter(([, { livezMs }]) => livezMs.length > 0)
  const met = ABUSERS.filter(({ name }) => names.includes(name)).map(({ name, expects }) => {
    const ok = expects.some((code) => (tallies.get(name)?.[code] ?? 0) > 0)
    return [`${name} met ${expects.join(' or ')}`, ok] as const
  })
  return [
    ...faults.map((fault) => (REFUSED_FOR_TIME.test(fault) ? figure : hard)(fault, false)),
    hard(`${findings.acknowledged} acknowledged writes are there after kill -9, by value`, true),
    figure(
      `most memory ${mib(peakBytes)}: at most the ${mib(ALLOWED_BYTES)} that are allowed and ${mib(RSS_ABOVE_ALLOWED_MAX_BYTES)}`,
      peakBytes <= ALLOWED_BYTES + RSS_ABOVE_ALLOWED_MAX_BYTES,
    ),
    figure(`${lostProbes} probes of /livez were lost`, lostProbes === 0),
    ...forbidden(tallies).map((what) => hard(what, false)),
    ...met.map(([what, ok]) => figure(what, ok)),
    hard(
      `${met.filter(([, ok]) => ok).length} of ${met.length} abusers met what they aim at`,
      met.filter(([, ok]) => ok).length >= MET_MIN * met.length,
    ),
    ...kinds.flatMap(([of, { livezMs, adminMs, bareMs }]) =>
      (
        [
          ['/livez', livezMs],
          ['/livez of the admin listener', adminMs],
        ] as const
      ).map(([what, values]) =>
        figure(
          `worst ${what} beside ${of} ${ms(p(values, 1))}, of a bare Fastify ${ms(p(bareMs, 1))}: at most ${ABOVE_BARE_MAX_MS[what]} ms apart`,
          p(values, 1) - p(bareMs, 1) <= ABOVE_BARE_MAX_MS[what],
        ),
      ),
    ),
    ...(targetMs.length === 0
      ? []
      : [
          figure(
            `worst /livez beside all ${ms(p(all.livezMs, 1))}, of a bare Fastify that they attack ${ms(p(targetMs, 1))}: at most ${ABOVE_ATTACKED_MAX_MS} ms above`,
            p(all.livezMs, 1) - p(targetMs, 1) <= ABOVE_ATTACKED_MAX_MS,
          ),
        ]),
    ...kinds.flatMap(([of, { polite }]) =>
      (['rest', 'stream', 'delivery'] as const).map((way) => {
        const [before, during] = [p(quiet.polite[way], 0.99), p(polite[way], 0.99)]
        return figure(
          `polite ${way} p99 beside ${of} ${ms(during)}, alone ${ms(before)}: at most ${POLITE_P99_MAX_MS} ms`,
          during <= POLITE_P99_MAX_MS,
        )
      }),
    ),
  ]
}

function forbidden(tallies: Findings['tallies']): string[] {
  return [...tallies].flatMap(([name, tally]) =>
    Object.entries(tally)
      .filter(([code]) => FORBIDDEN.test(code))
      .map(([code, count]) => `${name} got ${code} (${count} times)`),
  )
}

const mib = (bytes: number): string => `${Math.round(bytes / MIB)} MiB`
const ms = (value: number): string => `${value.toFixed(1)} ms`
const p = (values: readonly number[], q: number): number => (values.length === 0 ? 0 : percentile(values, q))

/** The report for people. */
export function report(findings: Findings, found: readonly Verdict[]): string {
  const { quiet, share, all } = findings
  const lines = ['abuser                requests  answers']
  for (const { name, does } of ABUSERS) {
    const tally = findings.tallies.get(name)
    if (tally === undefined) continue
    const answers = Object.entries(tally).sort(([, a], [, b]) => b - a)
    const total = answers.reduce((sum, [, count]) => sum + count, 0)
    lines.push(
      `${name.padEnd(20)} ${String(total).padStart(9)}  ${answers.map(([code, count]) => `${code} ${count}`).join(', ')}`,
      `    ${does}`,
    )
  }
  lines.push('', 'latency in ms           count     p50     p99   worst')
  const row = (name: string, values: readonly number[]): void => {
    const figures = [p(values, 0.5), p(values, 0.99), p(values, 1)].map((value) =>
      value.toFixed(1).padStart(8),
    )
    lines.push(`${name.padEnd(20)} ${String(values.length).padStart(8)}${figures.join('')}`)
  }
  for (const [when, of] of [
    ['alone', quiet],
    ['a share', share],
    ['all', all],
  ] as const) {
    if (of.livezMs.length === 0) continue
    for (const way of ['rest', 'stream', 'delivery'] as const) row(`${way}, ${when}`, of.polite[way])
    row(`/livez, ${when}`, of.livezMs)
    row(`admin, ${when}`, of.adminMs)
    row(`bare Fastify, ${when}`, of.bareMs)
  }
  if (findings.targetMs.length > 0) row('bare, attacked', findings.targetMs)
  lines.push(
    '',
    `memory: most ${mib(findings.peakBytes)}, in the end ${mib(findings.lastBytes)}; opened again in ${ms(findings.reopenMs)}`,
    '',
    ...found.map(({ what, ok }) => `${ok ? 'holds' : 'FAILS'}  ${what}`),
  )
  return lines.join('\n')
}
