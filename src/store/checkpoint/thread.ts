/**
 * The checkpoint's thread as the store uses it. While it has nothing to do it does not keep the process alive.
 */
import type { CheckpointRequest } from './checkpoint-tasks.js'
import { startWorker, WorkerClient } from './worker.js'

export interface CheckpointHost {
  ask(request: CheckpointRequest, transfer?: ArrayBuffer[]): Promise<unknown>
  end(): Promise<void>
}

/** Starts a thread for the checkpoints of a folder. */
export function checkpointThread(dir: string): CheckpointHost {
  const client = new WorkerClient(startWorker('checkpoint-worker', dir))
  return {
    ask: (request, transfer) => client.request(request, transfer),
    end: () => client.terminate(),
  }
}
