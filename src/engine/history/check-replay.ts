/**
 * What a check of a data folder (src/store/offline/check.ts) cannot know of itself: whether frames are sound,
 * and whether the log, replayed, gives the states whose digests it recorded.
 *
 * Invariant: nothing is written.
 */
import { MmsbError } from '../../errors.js'
import { crc32c } from '../../ffi/library.js'
import { decodeFrame, splitFrames } from '../../state/frame/reader.js'
import { HistoryReader } from '../../store/history.js'
import type { Divergence } from '../../store/offline/check.js'
import type { LogRecord } from '../../store/types.js'
import { verifyPast } from './verify.js'

/** What is wrong with the first frame of a record that is not sound; undefined when all are. */
export function frameProblem(record: LogRecord): string | undefined {
  try {
    const frames = splitFrames(record.frames)
    for (const frame of frames) decodeFrame(frame)
    if (frames.length === record.frameCount) return undefined
    return `it holds ${frames.length} frames, not ${record.frameCount} as it says`
  } catch (error) {
    if (!(error instanceof MmsbError)) throw error
    return error.message
  }
}

/** Replays a folder that no process has open. `onProgress` gets the epoch reached and the last one. */
export function replayFolder(
  dir: string,
  onProgress: (epoch: number, newestEpoch: number) => void,
): (from: number, to: number) => Divergence | undefined {
  return (from, to) => {
    const reader = new HistoryReader({ dir, crc32c, isOffline: true })
    try {
      const { divergence } = verifyPast({ reader, from, to, onPause: (epoch) => onProgress(epoch, to) })
      return divergence ?? undefined
    } finally {
      reader.close()
    }
  }
}
