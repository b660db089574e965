/** The checkpoint's thread: answers requests one by one, in order. */
import { parentPort, workerData } from 'node:worker_threads'
import { systemCode, textOf } from '../os/errors.js'
import { checkpointFolder } from './folder.js'
import { type CheckpointRequest, CheckpointTasks } from './tasks.js'

const tasks = new CheckpointTasks(checkpointFolder(workerData as string))
let last: Promise<unknown> = Promise.resolve()

parentPort?.on('message', ({ id, ...request }: CheckpointRequest & { id: number }) => {
  last = last
    .then(() => tasks.handle(request))
    .then(
      (value) => parentPort?.postMessage({ id, value }),
      (error: unknown) => parentPort?.postMessage({ id, error: textOf(error), code: systemCode(error) }),
    )
})
