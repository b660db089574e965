/**
 * The checkpoint's thread as the store uses it: it writes, checks and removes checkpoint files. An idle
 * thread does not keep the process alive.
 */
import { startWorker, WorkerClient } from '../os/worker.js'
import type { CheckpointRequest } from './tasks.js'

export interface CheckpointThread {
  ask(request: CheckpointRequest, transfer?: ArrayBuffer[]): Promise<unknown>
  end(): Promise<void>
}

/** Starts a thread for the checkpoints of a folder. */
export function startCheckpointThread(dir: string): CheckpointThread {
  const client = new WorkerClient(startWorker('checkpoint-worker', dir, import.meta.url))
  return {
    ask: (request, transfer) => client.request(request, transfer),
    end: () => client.terminate(),
  }
}
