/** The catalog's thread: answers requests one by one, in order. */
import { parentPort, workerData } from 'node:worker_threads'
import { systemCode, textOf } from '../os/errors.js'
import { CatalogDb } from './catalog-db.js'

type Method =
  | 'open'
  | 'begin'
  | 'addBlocks'
  | 'clearBlocks'
  | 'dropBlocksBefore'
  | 'blockOf'
  | 'addCheckpoint'
  | 'removeCheckpoint'
  | 'close'

export interface CatalogRequest {
  readonly method: Method
  readonly args: readonly unknown[]
}

const catalog = new CatalogDb(workerData as string)

parentPort?.on('message', ({ id, method, args }: CatalogRequest & { id: number }) => {
  try {
    const call = catalog[method] as (...args: readonly unknown[]) => unknown
    parentPort?.postMessage({ id, value: call.apply(catalog, args as unknown[]) })
  } catch (error) {
    parentPort?.postMessage({ id, error: textOf(error), code: systemCode(error) })
  }
})
