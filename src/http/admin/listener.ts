/**
 * The admin listener as the main thread has it: it starts the thread, beats the pulse, and sends health and
 * metrics.
 *
 * Invariants: the thread gets a new state within ADMIN_BEAT_MS while the event loop runs, and metrics when it
 * asks and when the state changes. A thread that ends does not end the server.
 */
import type { Worker } from 'node:worker_threads'
import { ADMIN_BEAT_MS } from '../../limits.js'
import { startWorker } from '../../store/os/worker.js'
import type { Health, Report } from '../health.js'
import type { AdminData, FromAdmin, MetricsSnapshot, ToAdmin } from './messages.js'
import { beat, newPulse } from './pulse.js'

export interface AdminOptions extends Omit<AdminData, 'pulse' | 'health' | 'snapshot'> {
  /** The report of the app that serves at the moment. */
  readonly report: () => Report
  /** Gets faults of the listener: its thread has ended, or metrics cannot be read. */
  readonly onFault: (error: Error) => void
}

export interface AdminListener {
  readonly port: number
  /** Answers the requests under way, then stops listening and ends the thread. */
  close(): Promise<void>
}

/** Listens. Rejects with the system's error, `code` included, when that fails. */
export async function startAdmin(options: AdminOptions): Promise<AdminListener> {
  const { report, onFault, ...data } = options
  const pulse = newPulse()
  let sent = report().health()
  const first: AdminData = { ...data, pulse, health: sent, snapshot: await snapshotOf(report()) }
  const worker = startWorker('admin-worker', first, import.meta.url)
  worker.unref()
  const tell = (message: ToAdmin): void => worker.postMessage(message)
  const tellMetrics = async (): Promise<void> => {
    try {
      tell({ type: 'metrics', snapshot: await snapshotOf(report()) })
    } catch (error) {
      onFault(error as Error)
      tell({ type: 'metrics' })
    }
  }
  const timer = setInterval(() => {
    beat(pulse)
    const health = report().health()
    if (isSame(health, sent)) return
    if (health.state !== sent.state) void tellMetrics()
    sent = health
    tell({ type: 'health', health })
  }, ADMIN_BEAT_MS).unref()
  const closed = new Promise<void>((resolve) => {
    worker.on('message', (message: FromAdmin) => {
      if (message.type === 'closed') resolve()
      if (message.type === 'collect') void tellMetrics()
    })
    worker.once('exit', () => resolve())
  })
  const end = async (): Promise<void> => {
    clearInterval(timer)
    await worker.terminate()
  }
  let isEnding = false
  worker.on('error', (error) => {
    if (!isEnding) onFault(error)
  })
  try {
    const port = await listening(worker)
    return {
      port,
      close: async () => {
        isEnding = true
        tell({ type: 'close' })
        await closed
        await end()
      },
    }
  } catch (error) {
    isEnding = true
    await end()
    throw error
  }
}

async function snapshotOf(report: Report): Promise<MetricsSnapshot> {
  const takenNs = process.hrtime.bigint()
  return { text: await report.metrics(), takenNs }
}

/** The port that the thread listens on. */
const listening = (worker: Worker): Promise<number> =>
  new Promise((resolve, reject) => {
    worker.on('message', (message: FromAdmin) => {
      if (message.type === 'listening') resolve(message.port)
      if (message.type === 'refused')
        reject(Object.assign(new Error(message.message), { code: message.code }))
    })
    worker.once('error', reject)
    worker.once('exit', (code) => reject(new Error(`the thread ended with code ${code}`)))
  })

const isSame = (a: Health, b: Health): boolean =>
  a.state === b.state && a.percent === b.percent && a.reason === b.reason
