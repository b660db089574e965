/**
 * What of the past may go: which checkpoints, and which segments of the log. Pure.
 *
 * Invariants: the log goes only behind an *anchor*, a checkpoint from which every later epoch can be rebuilt; the anchor is
 * never newer than the second newest checkpoint, than what a reader needs, or than what the limits keep; the tail segment
 * never goes. The caller sees to it that the anchor and the two newest checkpoints are verified before anything goes.
 */
import type { RetentionLimits } from './types.js'

/** A segment of the log with the epochs in it. */
export interface SegmentSpan {
  readonly firstEpoch: number
  readonly lastEpoch: number
  readonly bytes: number
  /** Milliseconds since 1970. */
  readonly createdMs: number
}

export interface RetentionView {
  readonly limits: RetentionLimits
  readonly nowMs: number
  readonly newestEpoch: number
  /** Ascending; the last one is the tail. */
  readonly segments: readonly SegmentSpan[]
  /** Epochs of checkpoints, ascending. */
  readonly checkpoints: readonly number[]
  /** The lowest epoch that a reader needs, or undefined. */
  readonly neededEpoch: number | undefined
}

/** The checkpoint behind which the log goes, or undefined when nothing goes. */
export function anchorOf(view: RetentionView): number | undefined {
  const { checkpoints, segments, neededEpoch } = view
  const second = checkpoints.at(-2)
  if (second === undefined) return undefined
  const floor = Math.min(lowestKept(view), second, neededEpoch ?? second)
  const anchor = checkpoints.findLast((epoch) => epoch <= floor)
  const first = segments[0]
  // Only whole segments go; before one does, the older checkpoints cost little and keep the past readable.
  return anchor !== undefined && first !== undefined && segments.length > 1 && first.lastEpoch <= anchor
    ? anchor
    : undefined
}

/** The lowest epoch whose state the limits keep: what any of them lets go may go. */
function lowestKept({ limits, nowMs, newestEpoch, segments }: RetentionView): number {
  const { maxAgeMs, maxBytes, maxEpochs } = limits
  let lowest = maxEpochs === undefined ? 0 : newestEpoch - maxEpochs
  if (maxBytes !== undefined) {
    let bytes = 0
    for (const segment of segments.toReversed()) {
      bytes += segment.bytes
      if (bytes <= maxBytes) continue
      lowest = Math.max(lowest, Math.min(segment.lastEpoch, newestEpoch))
      break
    }
  }
  if (maxAgeMs !== undefined) {
    // The newest record of a segment is no younger than the segment after it.
    const old = segments.findLast((_, i) => (segments[i + 1]?.createdMs ?? nowMs) < nowMs - maxAgeMs)
    if (old !== undefined) lowest = Math.max(lowest, old.lastEpoch)
  }
  return lowest
}

/**
 * At most `count` of the checkpoints, ascending: the oldest and the two newest always, and between them the older, the
 * farther apart.
 */
export function thinned(epochs: readonly number[], count: number): number[] {
  const kept = [...epochs]
  while (kept.length > Math.max(3, count)) {
    const newest = kept.at(-1) as number
    let least = Number.POSITIVE_INFINITY
    let drop = 1
    for (let i = 1; i < kept.length - 2; i++) {
      const gap = (kept[i + 1] as number) - (kept[i - 1] as number)
      const share = gap / (newest - (kept[i] as number))
      if (share < least) {
        least = share
        drop = i
      }
    }
    kept.splice(drop, 1)
  }
  return kept
}
