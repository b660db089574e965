/**
 * A data folder that no server has open, read as of an epoch, without recovering or changing it.
 *
 * Invariant: no process writes the folder until close. Nothing is written.
 */
import path from 'node:path'
import { MmsbError } from '../../errors.js'
import { crc32c, lockDescriptor } from '../../ffi/library.js'
import type { EpochEvent } from '../../state/event-file.js'
import { HistoryReader } from '../../store/history.js'
import { inspectLog } from '../../store/log/log.js'
import { realDisk } from '../../store/os/disk.js'
import { lockForReading, type ReadingLock } from '../../store/os/lock.js'
import { DTYPE_INFO, type TypedArray } from '../../wire/dtype.js'
import type { PageRecord } from '../pages/registry.js'
import type { PageShape } from '../types.js'
import { pastEpochOf } from './past-changes.js'
import { Timeline } from './timeline.js'

export class OfflineFolder {
  /** The epoch it was opened at. */
  readonly epoch: number
  readonly newestEpoch: number
  readonly #timeline: Timeline
  readonly #reader: HistoryReader
  readonly #lock: ReadingLock

  /**
   * Throws BUS_FAILED when `dir` is in use, damaged or not a data folder; EPOCH_NOT_FOUND, EPOCH_COMPACTED.
   */
  constructor(dir: string, epoch?: number) {
    const disk = realDisk()
    const logDir = path.join(dir, 'log')
    if (!disk.exists(logDir)) throw new MmsbError('BUS_FAILED', `${dir} is not a data folder: it has no log.`)
    this.#lock = lockForReading(dir, lockDescriptor)
    this.#reader = new HistoryReader({ dir, crc32c, disk, isOffline: true })
    this.#timeline = new Timeline({ reader: this.#reader, undoEpochs: 0 })
    try {
      const { newestEpoch, damage } = inspectLog({ disk, logDir, crc32c }, () => {})
      if (damage !== undefined && (epoch === undefined || epoch > newestEpoch))
        throw new MmsbError('BUS_FAILED', damage)
      this.newestEpoch = newestEpoch
      this.epoch = epoch ?? newestEpoch
      if (this.epoch > newestEpoch) {
        throw new MmsbError(
          'EPOCH_NOT_FOUND',
          `Epoch ${this.epoch} is not in the log; the newest is ${newestEpoch}.`,
        )
      }
      this.#timeline.seek(this.epoch)
    } catch (error) {
      this.close()
      throw error
    }
  }

  /**
   * Moves to a later epoch and calls back for each epoch on the way, with the event that subscribers
   * received.
   */
  replayTo(epoch: number, visit: (event: EpochEvent) => void): void {
    this.#timeline.seek(epoch, (replayed) => visit(pastEpochOf(this.#timeline, replayed)))
  }

  /** Every page, by name. */
  pages(): PageShape[] {
    return [...this.#timeline.registry.all()].sort((a, b) => (a.name < b.name ? -1 : 1))
  }

  /** Throws PAGE_NOT_FOUND. */
  page(name: string): PageShape {
    return this.#require(name)
  }

  /** Elements of a page, a copy. The range must lie within the page. */
  read(name: string, offset: number, count: number): TypedArray {
    const page = this.#require(name)
    const { sizeBytes, view } = DTYPE_INFO[page.dtype]
    const values = view(new ArrayBuffer(count * sizeBytes), 0, count)
    if (count > 0) this.#timeline.context.readPage(page.id, offset * sizeBytes, values)
    return values
  }

  #require(name: string): PageRecord {
    const page = this.#timeline.registry.byName(name)
    if (page !== undefined) return page
    throw new MmsbError('PAGE_NOT_FOUND', `There is no page "${name}" at epoch ${this.epoch}.`)
  }

  close(): void {
    this.#timeline.close()
    this.#reader.close()
    this.#lock.release()
  }
}
