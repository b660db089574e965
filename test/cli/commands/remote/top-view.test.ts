/**
 * What `mmsb top` makes of two samples: rates, a restart between them, a small screen, a narrow principal.
 */
import t from 'tap'
import {
  jsonOf,
  lineOf,
  type Sample,
  type Shown,
  screenOf,
} from '../../../../src/cli/commands/remote/top-view.js'
import type { Page, Stats, Status } from '../../../../src/client/types.js'

const STATUS: Status = {
  version: '1.0.0',
  history: 'h',
  epoch: 100,
  backend: 'cpu',
  pages: 2,
  fsync: 'always',
  readOnly: false,
  uptimeMs: 10_000,
  minEpoch: 0,
  state: 'ready',
}
const us = { count: 100, p50: 1000, p99: 2000, max: 3000 }
const STATS: Stats = {
  epoch: 100,
  pages: { count: 2, source: 1, derived: 1, bytes: 4096, quotaBytes: 8192 },
  graph: { nodes: 2, edges: 1 },
  deltas: { dense: 90, sparse: 10, masked: 0 },
  timings: { commit: us },
  queue: { transactions: 3, bytes: 2048 },
  log: {
    appendUs: us,
    bytes: 1024 ** 2,
    segments: 1,
    minEpoch: 1,
    newestEpoch: 100,
    durableEpoch: 100,
    failure: null,
  },
  subscriptions: { connections: 1, subscriptions: 2, delivered: 50, conflated: 0, overflows: 0, durable: [] },
}

const sample = (atMs: number, changes: Partial<Stats> = {}, status: Partial<Status> = {}): Sample => ({
  atMs,
  status: { ...STATUS, ...status },
  stats: { ...STATS, ...changes },
})
const shownOf = (before: Sample | undefined, now: Sample, pages: readonly Page[] = []): Shown => ({
  url: 'http://bus',
  before,
  now,
  pages,
})
const textOf = (shown: Shown, rows = 50): string =>
  screenOf(shown, rows)
    .map(({ text }) => text)
    .join('\n')

const later = sample(
  3_000,
  {
    epoch: 120,
    deltas: { dense: 100, sparse: 20, masked: 10 },
    log: { ...STATS.log!, bytes: 3 * 1024 ** 2 },
    timings: { commit: { ...us, count: 110 } },
    subscriptions: { ...STATS.subscriptions!, delivered: 51 },
  },
  { uptimeMs: 12_000 },
)

t.test('rates are of the time between two samples', async (t) => {
  const shown = shownOf(sample(1_000), later)
  t.match(jsonOf(shown), {
    perSecond: { epochs: 10, deltas: 15, logBytes: 1024 ** 2, messages: 0.5, stages: { commit: 5 } },
  })
  t.equal(
    lineOf(shown),
    'ready  epoch 120  epochs/s 10.0  deltas/s 15.0  log 1.0 MiB/s  memory 4.0 KiB  commit p99 2.00 ms  queue 3  subscriptions 2  messages/s 0.5',
  )
  t.match(textOf(shown), /^commit {2}5\.0 {2}1\.00 ms {2}2\.00 ms {2}3\.00 ms$/m)
  t.match(textOf(shown), /^memory \[\|{10} {10}\] 4\.0 KiB of 8\.0 KiB/m)
})

t.test('no rates at first, after a restart, and of another history', async (t) => {
  for (const before of [
    undefined,
    sample(1_000, { epoch: 500 }, { uptimeMs: 99_000 }),
    sample(1_000, {}, { history: 'other' }),
  ]) {
    const shown = shownOf(before, later)
    t.match(textOf(shown), /^epoch 120 {2}epochs\/s - {2}deltas\/s - {2}log -$/m)
    t.same((jsonOf(shown) as { perSecond: object }).perSecond, {
      epochs: null,
      deltas: null,
      logBytes: null,
      messages: null,
      stages: { commit: null },
    })
  }
})

t.test('a small screen keeps the beginning; readers leave room for pages', async (t) => {
  const late = [{ id: 's1', pages: ['risk.*', 'x'], lag: 40, queuedBytes: 2048 }]
  const durable = Array.from({ length: 30 }, (_, i) => ({
    name: `reader${i}`,
    epoch: 70 + i,
    lag: 30 - i,
    connected: i % 2 === 0,
    held: true,
  }))
  const pages = Array.from({ length: 30 }, (_, i) => {
    const form = { dtype: 'u8', shape: [i], bytes: i, kind: 'source', location: 'cpu' } as const
    const rest = { id: i, version: 1, createdEpoch: 1, inputs: [], dependents: [], digest: '' }
    return { name: `page${i}`, ...form, ...rest }
  })
  const shown = shownOf(
    sample(1_000),
    sample(2_000, { subscriptions: { ...STATS.subscriptions!, durable, late } }, { uptimeMs: 11_000 }),
    pages,
  )
  for (const rows of [1, 3, 8, 24, 60]) t.ok(screenOf(shown, rows).length <= rows, String(rows))
  const text = textOf(shown, 36)
  t.match(text, /^reader0 +70 +30 +connected$/m)
  t.match(text, /^\.\.\. \d+ more$/m)
  t.match(text, /^page0 +source/m)
  t.match(text, /^risk\.\*,x +s1 +40 +2\.0 KiB$/m)
  t.match(lineOf(shown), /lag 40$/)
})

t.test(
  'a principal that sees little, a server that is not ready, and one that does not answer',
  async (t) => {
    const { epoch, graph } = STATS
    const pages = { count: 1, source: 1, derived: 0, bytes: 8 }
    const narrow = { atMs: 2_000, status: STATUS, stats: { epoch, graph, pages } }
    t.equal(textOf(shownOf(undefined, narrow)).split('\n')[2], 'memory 8 B  1 page: 1 source, 0 derived')
    t.equal(lineOf(shownOf(undefined, narrow)), 'ready  epoch 100  epochs/s -  deltas/s -  log -  memory 8 B')
    const failed = sample(1_000, {}, { state: 'failed', reason: 'the disk is gone' })
    t.match(textOf(shownOf(undefined, failed)), /^mmsb 1\.0\.0 .* failed: the disk is gone$/m)
    t.match(textOf({ ...shownOf(undefined, failed), trouble: 'gone' }), /^no answer: gone$/m)
  },
)
