/**
 * How long the stages of a commit take. Each stage has a fine histogram for its quantiles, and counts in
 * fixed buckets, which can be added up over processes where quantiles cannot. Recording costs about 100 ns,
 * far less than one percent of a durable commit.
 */
import { createHistogram, type RecordableHistogram } from 'node:perf_hooks'

export const STAGES = ['commit', 'append', 'execute', 'publish'] as const
export type Stage = (typeof STAGES)[number]

/** Microseconds, except the count. */
export interface StageSummary {
  readonly count: number
  readonly p50: number
  readonly p99: number
  readonly max: number
}

/** Durations counted in buckets. */
export interface StageHistogram {
  /** For each of STAGE_BOUNDS_SECONDS, how many durations were not longer. */
  readonly counts: readonly number[]
  readonly count: number
  readonly sumSeconds: number
}

/** Ascending; the same in every process and release, so that counts can be added up. */
export const STAGE_BOUNDS_SECONDS: readonly number[] = [
  1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5,
  10,
]
const BOUNDS_MS = STAGE_BOUNDS_SECONDS.map((seconds) => seconds * 1e3)

/** Durations of a stage. */
interface Durations {
  readonly histogram: RecordableHistogram
  /** By bucket, not cumulative; the last bucket has no bound. */
  readonly counts: Float64Array
  sumMs: number
}

/** Nanoseconds, up to an hour; two digits. Each further digit takes eight times the memory. */
const RANGE = { lowest: 1, highest: 3_600_000_000_000, figures: 1 }

export class StageTimings {
  readonly #stages = byStage<Durations>(() => ({
    histogram: createHistogram(RANGE),
    counts: new Float64Array(BOUNDS_MS.length + 1),
    sumMs: 0,
  }))

  record(stage: Stage, elapsedMs: number): void {
    const durations = this.#stages[stage]
    let at = 0
    while (at < BOUNDS_MS.length && elapsedMs > (BOUNDS_MS[at] as number)) at++
    durations.counts[at]!++
    if (elapsedMs > 0) durations.sumMs += elapsedMs
    durations.histogram.record(Math.min(RANGE.highest, Math.max(1, Math.round(elapsedMs * 1e6))))
  }

  summary(): Record<Stage, StageSummary> {
    return byStage((stage) => {
      const { histogram } = this.#stages[stage]
      const us = (ns: number): number => (histogram.count === 0 ? 0 : Math.round(ns / 100) / 10)
      return {
        count: histogram.count,
        p50: us(histogram.percentile(50)),
        p99: us(histogram.percentile(99)),
        max: us(histogram.max),
      }
    })
  }

  histograms(): Record<Stage, StageHistogram> {
    return byStage((stage) => {
      const { counts, sumMs } = this.#stages[stage]
      let count = 0
      const cumulative = Array.from(counts, (inBucket) => {
        count += inBucket
        return count
      })
      return { counts: cumulative.slice(0, -1), count, sumSeconds: sumMs / 1e3 }
    })
  }
}

function byStage<T>(make: (stage: Stage) => T): Record<Stage, T> {
  return Object.fromEntries(STAGES.map((stage) => [stage, make(stage)])) as Record<Stage, T>
}
