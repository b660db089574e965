/**
 * Verification of a data folder that no server has open (src/engine/history/verify.ts): log, index and
 * checkpoints.
 *
 * Invariant: no process writes the folder meanwhile. Nothing is written.
 *
 * Null because VerifyResult, a public type, promises it.
 */
import path from 'node:path'
import { MmsbError } from '../../errors.js'
import { crc32c, lockDescriptor } from '../../ffi/library.js'
import { HistoryReader } from '../../store/history.js'
import { inspectLog } from '../../store/log/log.js'
import { realDisk } from '../../store/os/disk.js'
import { lockForReading } from '../../store/os/lock.js'
import type { VerifyResult } from '../types.js'
import { verifyPast } from './verify.js'

export interface VerifyFolderOptions {
  readonly dir: string
  /** Default: the oldest epoch that checkpoints and log still reach. */
  readonly from?: number
  /** Default: the newest epoch. */
  readonly to?: number
  readonly onProgress?: (epoch: number, newestEpoch: number) => void
}

/** Throws BUS_FAILED when `dir` is in use or not a data folder; EPOCH_NOT_FOUND, EPOCH_COMPACTED. */
export function verifyFolder(options: VerifyFolderOptions): VerifyResult {
  const disk = realDisk()
  const logDir = path.join(options.dir, 'log')
  if (!disk.exists(logDir))
    throw new MmsbError('BUS_FAILED', `${options.dir} is not a data folder: it has no log.`)
  const lock = lockForReading(options.dir, lockDescriptor)
  const reader = new HistoryReader({ dir: options.dir, crc32c, disk, isOffline: true })
  try {
    const { segments, newestEpoch, damage } = inspectLog({ disk, logDir, crc32c }, () => {})
    if (segments.length === 0 && damage === undefined)
      throw new MmsbError('BUS_FAILED', `The log of ${options.dir} is gone: it has no segments.`)
    const { from = minEpochOf(reader), to = newestEpoch } = options
    if (damage === undefined && (to > newestEpoch || from > to)) {
      throw new MmsbError(
        'EPOCH_NOT_FOUND',
        `There are no epochs ${from} to ${to}; the newest is ${newestEpoch}.`,
      )
    }
    const end = Math.min(to, newestEpoch)
    const { onProgress } = options
    const past =
      end < from
        ? { ok: true, from, to, epochs: 0, divergence: null, problems: [] }
        : verifyPast({
            reader,
            from,
            to: end,
            ...(onProgress === undefined ? {} : { onPause: (epoch: number) => onProgress(epoch, end) }),
          })
    const problems = [...past.problems, ...reader.catalogProblems()]
    const divergence =
      past.divergence ??
      (damage === undefined ? null : { epoch: newestEpoch + 1, page: null, detail: damage })
    return { ...past, to, ok: divergence === null && problems.length === 0, divergence, problems }
  } finally {
    reader.close()
    lock.release()
  }
}

function minEpochOf(reader: HistoryReader): number {
  const first = reader.firstEpoch ?? 1
  if (first <= 1) return 0
  const oldest = reader.checkpointEpochs().findLast((epoch) => epoch >= first - 1)
  if (oldest !== undefined) return oldest
  throw new MmsbError('BUS_FAILED', `The log begins at epoch ${first}, and no checkpoint leads there.`)
}
