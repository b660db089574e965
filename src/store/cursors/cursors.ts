/**
 * Stores the cursors of durable readers: cursors.db behind a worker thread, which starts with the first
 * reader.
 *
 * Invariants: changes are written in the order in which they are made; those that wait at the same time are
 * written together. Each is durable when its promise resolves.
 */
import fs from 'node:fs'
import path from 'node:path'
import { type MmsbError, readOnly } from '../../errors.js'
import { busFailed, isNoRoom, logFull, textOf } from '../os/errors.js'
import { startWorker, WorkerClient } from '../os/worker.js'
import { CURSORS_NAME, type CursorFindings, type CursorRow, readCursors } from './cursor-db.js'
import type { CursorRequest } from './cursor-worker.js'

export type { CursorFindings, CursorRow } from './cursor-db.js'

/** Keeps cursors durably. */
export interface CursorStore {
  /** Throws BUS_FAILED when the file exists and cannot be opened. */
  load(): Promise<CursorFindings>
  /** Resolves when the row is durable. Rejects with LOG_FULL or BUS_FAILED, with nothing changed. */
  put(row: CursorRow): Promise<void>
  remove(name: string): Promise<void>
  close(): Promise<void>
}

/** Changes that wait to be written together. */
interface ChangeBatch {
  readonly rows: Map<string, CursorRow>
  readonly gone: Set<string>
  readonly done: Promise<void>
}

/**
 * The cursors of a data folder. `refuseWhenLost` throws when the folder is no longer the one that was opened.
 */
export function cursorsIn(dir: string, refuseWhenLost?: () => void): CursorStore {
  let client: WorkerClient | undefined
  let opened: Promise<CursorFindings> | undefined
  let waiting: ChangeBatch | undefined
  let last: Promise<void> = Promise.resolve()
  let isClosed = false

  const ask = (request: CursorRequest): Promise<unknown> => {
    client ??= new WorkerClient(startWorker('cursor-worker', dir, import.meta.url))
    return client.request(request)
  }
  const open = async (): Promise<CursorFindings> => {
    if (opened === undefined) refuseWhenLost?.()
    opened ??= (ask({ type: 'open' }) as Promise<CursorFindings>).catch((error: unknown) => {
      // The next write tries again. There may be room by then.
      opened = undefined
      throw cursorsFailed('opened', error)
    })
    return opened
  }
  const write = async (before: Promise<void>, batch: Pick<ChangeBatch, 'rows' | 'gone'>): Promise<void> => {
    await before
    waiting = undefined
    await open()
    await ask({ type: 'write', rows: [...batch.rows.values()], gone: [...batch.gone] }).catch(
      (error: unknown) => {
        throw cursorsFailed('written', error)
      },
    )
  }
  const next = (): ChangeBatch => {
    if (isClosed) throw busFailed('the bus is closed')
    if (waiting !== undefined) return waiting
    const batch = { rows: new Map<string, CursorRow>(), gone: new Set<string>() }
    const done = write(last, batch)
    last = done.catch(() => {})
    waiting = { ...batch, done }
    return waiting
  }
  return {
    load: () => (fs.existsSync(path.join(dir, CURSORS_NAME)) ? open() : Promise.resolve(NOTHING)),
    put: async (row) => {
      const batch = next()
      batch.gone.delete(row.name)
      batch.rows.set(row.name, row)
      return batch.done
    },
    remove: async (name) => {
      const batch = next()
      batch.rows.delete(name)
      batch.gone.add(name)
      return batch.done
    },
    close: async () => {
      isClosed = true
      await last
      if (client === undefined) return
      await ask({ type: 'close' }).catch(() => {})
      await client.terminate()
    },
  }
}

function cursorsFailed(what: 'opened' | 'written', error: unknown): MmsbError {
  const text = `the cursors of durable subscriptions (${CURSORS_NAME}) cannot be ${what}: ${textOf(error)}`
  return isNoRoom(error) ? logFull(text, error) : busFailed(text, error)
}

const NOTHING: CursorFindings = { rows: [], problems: [] }

/** The cursors of a folder that is only read: they can be listed, and nothing moves. */
export function cursorsOfReader(dir: string): CursorStore {
  const refuse = (): Promise<never> => Promise.reject(readOnly())
  return {
    load: async () => {
      try {
        return readCursors(dir)
      } catch (error) {
        return { rows: [], problems: [`${CURSORS_NAME} cannot be read: ${textOf(error)}`] }
      }
    },
    put: refuse,
    remove: refuse,
    close: () => Promise.resolve(),
  }
}
