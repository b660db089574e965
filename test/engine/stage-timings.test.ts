/** Durations of stages are counted in buckets that are the same in every process. */
import t from 'tap'
import { STAGE_BOUNDS_SECONDS, STAGES, StageTimings } from '../../src/engine/stage-timings.js'

t.test('a duration counts in its bucket and every larger one', (t) => {
  const timings = new StageTimings()
  for (const ms of [0, 0.01, 0.010001, 3, 11_000]) timings.record('append', ms)
  const { append, commit } = timings.histograms()
  const at = (seconds: number): number => append.counts[STAGE_BOUNDS_SECONDS.indexOf(seconds)]!
  t.equal(at(1e-5), 2, 'a bound belongs to its bucket')
  t.equal(at(2.5e-5), 3)
  t.equal(at(2.5e-3), 3)
  t.equal(at(5e-3), 4)
  t.equal(at(10), 4, 'the longest is in no bucket but +Inf')
  t.equal(append.count, 5)
  t.ok(Math.abs(append.sumSeconds - 11.003020001) < 1e-9)
  t.match(commit, { count: 0, sumSeconds: 0 })
  const summary = timings.summary()
  t.same(summary.commit, { count: 0, p50: 0, p99: 0, max: 0 })
  t.equal(summary.append.count, 5)
  t.ok(Math.abs(summary.append.p50 - 10) < 1, `${summary.append.p50} us`)
  t.same(
    [...commit.counts],
    STAGE_BOUNDS_SECONDS.map(() => 0),
  )
  t.end()
})

t.test(
  'the histograms of two processes can be added: their bounds ascend and never depend on the data',
  (t) => {
    const timings = new StageTimings()
    for (const stage of STAGES) for (let i = 0; i < 100; i++) timings.record(stage, 1.5 ** (i % 40) / 1e3)
    for (const histogram of Object.values(timings.histograms())) {
      t.equal(histogram.counts.length, STAGE_BOUNDS_SECONDS.length)
      t.same(
        [...histogram.counts],
        [...histogram.counts].sort((a, b) => a - b),
      )
      t.ok(histogram.counts.at(-1)! <= histogram.count)
    }
    t.same(
      [...STAGE_BOUNDS_SECONDS],
      [...STAGE_BOUNDS_SECONDS].sort((a, b) => a - b),
    )
    t.equal(timings.summary().commit.count, 100, 'the summary counts the same')
    t.end()
  },
)

t.test('a clock that goes back counts as no time', (t) => {
  const timings = new StageTimings()
  timings.record('commit', -5)
  const { commit } = timings.histograms()
  t.match(commit, { count: 1, sumSeconds: 0 })
  t.equal(commit.counts[0], 1)
  t.end()
})
