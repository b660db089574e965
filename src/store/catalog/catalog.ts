/**
 * The catalog as the store uses it: catalog.db behind a worker thread, so that its queries and syncs never
 * hold up the event loop. Requests are answered in the order in which they are made.
 */
import { startWorker, WorkerClient } from '../os/worker.js'
import type { Catalog, CatalogFindings, IndexBlock } from '../types.js'
import type { CatalogRequest } from './catalog-worker.js'

/** The catalog of a data folder, in its own thread. */
export function catalogIn(dir: string): Catalog {
  const client = new WorkerClient(startWorker('catalog-worker', dir, import.meta.url))
  const call = (method: CatalogRequest['method'], ...args: unknown[]): Promise<unknown> =>
    client.request({ method, args } satisfies CatalogRequest)
  const done = async (method: CatalogRequest['method'], ...args: unknown[]): Promise<void> => {
    await call(method, ...args)
  }
  return {
    open: () => call('open') as Promise<CatalogFindings>,
    begin: (busId, anew) => done('begin', busId, anew),
    addBlocks: (blocks) => done('addBlocks', blocks),
    clearBlocks: () => done('clearBlocks'),
    dropBlocksBefore: (epoch) => done('dropBlocksBefore', epoch),
    blockOf: (epoch) => call('blockOf', epoch) as Promise<IndexBlock | undefined>,
    addCheckpoint: (info) => done('addCheckpoint', info),
    removeCheckpoint: (epoch) => done('removeCheckpoint', epoch),
    close: async () => {
      await done('close').catch(() => {})
      await client.terminate()
    },
  }
}
