/**
 * When the device is lost: the state of an epoch is rebuilt in host memory from what is on disk, and the bus goes on there
 * with the same digests (docs/internals/DURABILITY.md).
 *
 * Invariants: the epoch's record, and all before it, are written; afterwards the rooms, which others hold, are the same
 * objects with other content; when anything fails they are as before.
 */
import { crc32c } from '../../ffi/library.js'
import { HistoryReader } from '../../store/history.js'
import type { StageRooms } from '../commit/batch.js'
import { checkDigest } from './rebuild.js'
import { Timeline } from './timeline.js'

export interface RefugeOptions {
  readonly dir: string
  readonly epoch: number
  readonly digest: Uint8Array
  readonly quotaBytes: number
  readonly threads: number
}

/** Fills the rooms with the state of the epoch. Throws INTERNAL when it has not the digest it had. */
export function takeRefuge(rooms: StageRooms, options: RefugeOptions): void {
  const { dir, epoch, digest, quotaBytes, threads } = options
  const reader = new HistoryReader({ dir, crc32c })
  const timeline = new Timeline({ reader, quotaBytes, threads, undoEpochs: 0 })
  try {
    timeline.seek(epoch)
    checkDigest(timeline.digest, digest, `epoch ${epoch}, rebuilt without the device`)
    const { registry, graph, context } = timeline.release()
    rooms.registry.adopt(registry)
    rooms.graph.adopt(graph)
    rooms.context.adopt(context)
  } finally {
    timeline.close()
    reader.close()
  }
}
