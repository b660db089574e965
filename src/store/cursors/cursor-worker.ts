/** The cursors' thread: answers requests one by one, in order. */
import { parentPort, workerData } from 'node:worker_threads'
import { systemCode, textOf } from '../os/errors.js'
import { CursorDb, type CursorRow } from './cursor-db.js'

export type CursorRequest =
  | { readonly type: 'open' }
  | { readonly type: 'close' }
  | { readonly type: 'write'; readonly rows: readonly CursorRow[]; readonly gone: readonly string[] }

const cursors = new CursorDb(workerData as string)

function answer(request: CursorRequest): unknown {
  if (request.type === 'open') return cursors.open()
  if (request.type === 'close') return cursors.close()
  return cursors.write(request.rows, request.gone)
}

parentPort?.on('message', (message: CursorRequest & { id: number }) => {
  try {
    parentPort?.postMessage({ id: message.id, value: answer(message) })
  } catch (error) {
    parentPort?.postMessage({ id: message.id, error: textOf(error), code: systemCode(error) })
  }
})
