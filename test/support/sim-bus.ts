/** A bus on a simulated disk, on the real event loop. */
import type { Test } from 'tap'
import { EngineBus } from '../../src/engine/bus.js'
import { type Host, REAL_HOST } from '../../src/engine/host.js'
import type { BusOptions } from '../../src/engine/types.js'
import { CheckpointTasks } from '../../src/store/checkpoint/tasks.js'
import type { CheckpointThread } from '../../src/store/checkpoint/thread.js'
import { SIM_DIR, SimCatalog, simFolder } from './sim-world.js'
import { NO_LOCK, type SimDisk } from './simdisk.js'

const SEGMENT_BYTES = 16 * 1024

export type Ask = CheckpointThread['ask']

export interface Opening {
  readonly disk: SimDisk
  readonly catalog?: SimCatalog
  readonly options?: BusOptions
  readonly host?: Partial<Host>
  /** Stands between the store and what writes checkpoints. */
  readonly ask?: (request: Parameters<Ask>[0], handle: Ask) => Promise<unknown>
}

/** It is closed with the test. */
export async function openOnSim(t: Test, opening: Opening): Promise<EngineBus> {
  const { disk, catalog = new SimCatalog(), options = {}, host = {}, ask } = opening
  const place = simFolder(disk)
  const checkpointThread = (): CheckpointThread => {
    const tasks = new CheckpointTasks(place)
    const handle: Ask = (request) => tasks.handle(request)
    return { ask: (request) => ask?.(request, handle) ?? handle(request), end: async () => {} }
  }
  const store = { disk, catalog, checkpointFolder: place, checkpointThread, lock: () => NO_LOCK }
  const bus = await EngineBus.open(
    { dataDir: SIM_DIR, backend: 'cpu', threads: 1, segmentBytes: SEGMENT_BYTES, ...options },
    { ...REAL_HOST, ...host, store },
  )
  t.teardown(() => bus.close())
  return bus
}
