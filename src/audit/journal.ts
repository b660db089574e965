/**
 * The entries that wait for the audit trail.
 *
 * Invariants: those that wait are written together, so that one sync makes them all durable. What waits is
 * bounded. What could not be written is counted, and the next line that can be written says how much it was.
 */
import { AUDIT_QUEUE_MAX_BYTES, AUDIT_SYNC_MS } from '../limits.js'
import { type AuditEntry, estimatedBytes } from './line.js'
import { AuditTrail, type TimedEntry, type TrailOptions } from './trail.js'

export interface JournalOptions extends TrailOptions {
  /** An entry is durable when its promise resolves. Otherwise it is soon after. */
  readonly isDurable: boolean
  readonly nowMs?: () => number
}

interface Waiting extends TimedEntry {
  readonly resolve: () => void
  readonly reject: (error: unknown) => void
}

export class AuditJournal {
  readonly #options: JournalOptions
  readonly #trail: AuditTrail
  readonly #nowMs: () => number
  #waiting: Waiting[] = []
  #waitingBytes = 0
  #running: Promise<void> | undefined
  #syncTimer: NodeJS.Timeout | undefined
  #isSyncDue = false
  /** Entries that were lost since the last line. */
  #lost = 0
  #hasFailed = false
  #lines = 0
  #failures = 0

  constructor(options: JournalOptions) {
    this.#options = options
    this.#nowMs = options.nowMs ?? Date.now
    this.#trail = new AuditTrail(options)
  }

  /** Throws errors of the system if the folder cannot be used. */
  open(): void {
    const { seq, sha256 } = this.#trail.prepare()
    this.#options.onNotice('info', 'the audit trail goes on', { seq, sha256 })
  }

  /** Lines written since start. */
  get lines(): number {
    return this.#lines
  }

  /** Entries lost since start, because they could not be written. */
  get failures(): number {
    return this.#failures
  }

  /** Resolves when the entry is written. Rejects if it cannot be; it is lost then. */
  append(entry: AuditEntry): Promise<void> {
    const bytes = estimatedBytes(entry)
    if (this.#waiting.length > 0 && this.#waitingBytes + bytes > AUDIT_QUEUE_MAX_BYTES) {
      this.#lose(1)
      return Promise.reject(new Error('too many entries wait for the audit trail'))
    }
    this.#waitingBytes += bytes
    return new Promise((resolve, reject) => {
      this.#waiting.push({ entry, tsMs: this.#nowMs(), resolve, reject })
      this.#running ??= this.#run()
    })
  }

  /** Writes what waits, and makes it durable. */
  async close(): Promise<void> {
    clearTimeout(this.#syncTimer)
    this.#isSyncDue = true
    this.#running ??= this.#run()
    await this.#running
    const { end } = this.#trail
    if (end !== undefined)
      this.#options.onNotice('info', 'the audit trail ends', { seq: end.seq, sha256: end.sha256 })
    this.#trail.close()
  }

  async #run(): Promise<void> {
    // What comes in the same turn of the event loop joins.
    await Promise.resolve()
    while (this.#waiting.length > 0 || this.#isSyncDue) {
      const batch = this.#waiting
      this.#waiting = []
      this.#waitingBytes = 0
      if (batch.length > 0) await this.#write(batch)
      else {
        this.#isSyncDue = false
        await this.#trail.sync().catch((error: unknown) => this.#complain(error))
      }
    }
    this.#running = undefined
  }

  async #write(batch: readonly Waiting[]): Promise<void> {
    const { isDurable, onNotice } = this.#options
    const lost = this.#lost
    const first = lost === 0 ? [] : [{ tsMs: this.#nowMs(), entry: lostEntry(lost) }]
    try {
      await this.#trail.write([...first, ...batch], isDurable)
    } catch (error) {
      this.#lose(batch.length)
      this.#complain(error)
      for (const { reject } of batch) reject(error)
      return
    }
    if (!isDurable) this.#syncSoon()
    this.#lines += first.length + batch.length
    this.#lost -= lost
    if (this.#hasFailed) onNotice('warn', 'the audit trail is written again', { lost })
    this.#hasFailed = false
    for (const { resolve } of batch) resolve()
  }

  #lose(count: number): void {
    this.#lost += count
    this.#failures += count
  }

  /** Once, until the trail is written again. */
  #complain(error: unknown): void {
    if (!this.#hasFailed)
      this.#options.onNotice('error', `the audit trail cannot be written: ${(error as Error).message}`, {})
    this.#hasFailed = true
  }

  #syncSoon(): void {
    this.#syncTimer ??= setTimeout(() => {
      this.#syncTimer = undefined
      this.#isSyncDue = true
      this.#running ??= this.#run()
    }, AUDIT_SYNC_MS)
    this.#syncTimer.unref()
  }
}

const lostEntry = (count: number): AuditEntry => ({ action: 'auditLost', outcome: 'failed', count })
