/**
 * When the device fails: the state of an epoch is rebuilt in host memory from the data folder, and the bus
 * continues on the CPU with the same digests (docs/internals/DURABILITY.md).
 *
 * Invariants: the epoch's record and all before it are written. Afterwards the parts of the state, which
 * others hold, are the same objects with new content; when anything fails, they are unchanged.
 */
import { crc32c } from '../../ffi/library.js'
import { HistoryReader } from '../../store/history.js'
import type { FileIdentity } from '../../store/os/lock.js'
import type { EngineState } from '../pages/engine-state.js'
import { checkDigest } from './rebuild.js'
import { Timeline } from './timeline.js'

export interface FailoverOptions {
  readonly dir: string
  readonly identity: FileIdentity | undefined
  readonly isReadOnly: boolean
  readonly epoch: number
  readonly digest: Uint8Array
  readonly quotaBytes: number
  readonly threads: number
}

/** Fills `state` with the epoch. Throws INTERNAL when its digest is not the expected one. */
export function failOverToCpu(state: EngineState, options: FailoverOptions): void {
  const { dir, identity, isReadOnly, epoch, digest, quotaBytes, threads } = options
  const reader = new HistoryReader({ dir, identity, crc32c, isOffline: isReadOnly })
  const timeline = new Timeline({ reader, quotaBytes, threads, undoEpochs: 0 })
  try {
    timeline.seek(epoch)
    checkDigest(timeline.digest, digest, `epoch ${epoch}, rebuilt without the device`)
    const { registry, graph, context } = timeline.release()
    state.registry.adopt(registry)
    state.graph.adopt(graph)
    state.context.adopt(context)
  } finally {
    timeline.close()
    reader.close()
  }
}
