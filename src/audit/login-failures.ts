/**
 * Failed logins, so few lines that nobody can fill the disk with them.
 *
 * Invariants: in each minute an address gets few lines of its own, and all addresses together get a bounded
 * number. The rest is counted by address, and by none for the addresses beyond a bound; the counts are
 * written at the end of the minute. So every failure is in some line.
 */
import {
  AUDIT_LOGIN_ADDRESSES_MAX,
  AUDIT_LOGINS_MAX,
  AUDIT_LOGINS_MS,
  AUDIT_LOGINS_OF_ADDRESS,
} from '../limits.js'
import type { AuditEntry } from './line.js'

/** A login that was refused. */
export interface FailedLogin {
  readonly ip: string
  readonly requestId?: string | undefined
}

export class LoginFailures {
  readonly #record: (entry: AuditEntry) => void
  /** Failures of this minute, by address: all, and those without a line of their own. */
  #counts = new Map<string, { all: number; silent: number }>()
  /** Those of addresses that are not counted apart. */
  #others = 0
  #lines = 0
  #timer: NodeJS.Timeout | undefined
  #total = 0

  constructor(record: (entry: AuditEntry) => void) {
    this.#record = record
  }

  /** Failures since start. */
  get total(): number {
    return this.#total
  }

  add({ ip, requestId }: FailedLogin): void {
    this.#total++
    this.#timer ??= setTimeout(() => this.flush(), AUDIT_LOGINS_MS).unref()
    const counts = this.#counts.get(ip) ?? { all: 0, silent: 0 }
    if (counts.all === 0) {
      if (this.#counts.size >= AUDIT_LOGIN_ADDRESSES_MAX) {
        this.#others++
        return
      }
      this.#counts.set(ip, counts)
    }
    counts.all++
    if (counts.all <= AUDIT_LOGINS_OF_ADDRESS && this.#lines < AUDIT_LOGINS_MAX) {
      this.#lines++
      this.#record({ ...REFUSED, ip, requestId })
    } else counts.silent++
  }

  /** Writes the counts, and begins another minute. */
  flush(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    for (const [ip, { silent }] of this.#counts)
      if (silent > 0) this.#record({ ...REFUSED, ip, count: silent })
    if (this.#others > 0) this.#record({ ...REFUSED, count: this.#others })
    this.#counts = new Map()
    this.#others = 0
    this.#lines = 0
  }
}

const REFUSED = { action: 'login', outcome: 'refused', code: 'UNAUTHORIZED' } as const
