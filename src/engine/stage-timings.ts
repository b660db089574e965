/**
 * How long the stages of a commit take: one histogram per stage. Recording costs about 100 ns, far less than
 * one percent of a durable commit.
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

/** Nanoseconds, up to an hour; two digits. Each further digit takes eight times the memory. */
const RANGE = { lowest: 1, highest: 3_600_000_000_000, figures: 1 }

export class StageTimings {
  readonly #histograms: Readonly<Record<Stage, RecordableHistogram>>

  constructor() {
    const entries = STAGES.map((stage) => [stage, createHistogram(RANGE)])
    this.#histograms = Object.fromEntries(entries) as Record<Stage, RecordableHistogram>
  }

  record(stage: Stage, elapsedMs: number): void {
    this.#histograms[stage].record(Math.min(RANGE.highest, Math.max(1, Math.round(elapsedMs * 1e6))))
  }

  summary(): Record<Stage, StageSummary> {
    const entries = STAGES.map((stage) => {
      const histogram = this.#histograms[stage]
      const us = (ns: number): number => (histogram.count === 0 ? 0 : Math.round(ns / 100) / 10)
      return [
        stage,
        {
          count: histogram.count,
          p50: us(histogram.percentile(50)),
          p99: us(histogram.percentile(99)),
          max: us(histogram.max),
        },
      ]
    })
    return Object.fromEntries(entries) as Record<Stage, StageSummary>
  }
}
