/**
 * Decides how much of the past may be removed: which checkpoints, and which segments of the log. Pure.
 *
 * Invariants: the log is removed only up to an *anchor*, a checkpoint from which every later epoch can be
 * rebuilt. The anchor is never newer than the second newest checkpoint, the lowest epoch that a reader needs,
 * or what the limits keep. The last segment always stays. The caller makes sure that the anchor and the two
 * newest checkpoints are verified before anything is removed.
 */
import type { RetentionLimits } from './types.js'

/** A segment of the log and the epochs it holds. */
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
  /** Ascending. The last one is being written. */
  readonly segments: readonly SegmentSpan[]
  /** Epochs of checkpoints, ascending. */
  readonly checkpoints: readonly number[]
  /** The lowest epoch that a reader needs, if any. */
  readonly neededEpoch: number | undefined
}

/** The checkpoint up to which the log may be removed; undefined when nothing may. */
export function anchorOf(view: RetentionView): number | undefined {
  const { checkpoints, segments, neededEpoch } = view
  const second = checkpoints.at(-2)
  if (second === undefined) return undefined
  const floor = Math.min(lowestKept(view), second, neededEpoch ?? second)
  const anchor = checkpoints.findLast((epoch) => epoch <= floor)
  const first = segments[0]
  // Only whole segments are removed. Until one can be, older checkpoints cost little and keep the past
  // readable.
  return anchor !== undefined && first !== undefined && segments.length > 1 && first.lastEpoch <= anchor
    ? anchor
    : undefined
}

/** The lowest epoch whose state the limits keep. The strictest limit decides. */
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
 * Thins checkpoints out to at most `count`, ascending. The oldest and the two newest always stay; of the
 * others, older ones are kept farther apart.
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
