/**
 * What the server does with its audit trail: who is told, and who waits.
 *
 * Invariants: `open`: nobody waits for the trail, and what cannot be written is counted. `closed`: an action
 * begins once a line says so and is durable, or it is refused; its answer waits for the line that says how it
 * ended. If that line cannot be written, the first one stands, and the next action is refused.
 */
import { MmsbError } from '../errors.js'
import type { AuditJournal } from './journal.js'
import type { AuditEntry } from './line.js'
import { type FailedLogin, LoginFailures } from './login-failures.js'

export const AUDIT_FAILS = ['open', 'closed'] as const
export type AuditFail = (typeof AUDIT_FAILS)[number]

/** An action before its outcome is known. */
export type Action = Omit<AuditEntry, 'outcome' | 'epoch' | 'code' | 'count'>

export interface AuditorOptions {
  readonly journal: AuditJournal
  readonly fail: AuditFail
  /** Writes of pages are audited too. */
  readonly withWrites: boolean
}

export class Auditor {
  readonly withWrites: boolean
  /** Whether actions wait for their lines. */
  readonly isClosed: boolean
  readonly #journal: AuditJournal
  readonly #logins: LoginFailures

  constructor({ journal, fail, withWrites }: AuditorOptions) {
    this.#journal = journal
    this.isClosed = fail === 'closed'
    this.withWrites = withWrites
    this.#logins = new LoginFailures((entry) => this.note(entry))
  }

  /** Lines written, entries lost, and logins refused since start. */
  get counts(): { readonly lines: number; readonly lost: number; readonly refusedLogins: number } {
    const { lines, failures } = this.#journal
    return { lines, lost: failures, refusedLogins: this.#logins.total }
  }

  /** Before an action, if `isClosed`. @throws MmsbError AUDIT_FAILED */
  async begin(action: Action): Promise<void> {
    try {
      await this.#journal.append({ ...action, outcome: 'begun' })
    } catch (error) {
      throw new MmsbError(
        'AUDIT_FAILED',
        'The action cannot be written to the audit trail, so it was not done.',
        undefined,
        { cause: error },
      )
    }
  }

  /** How an action ended. What is returned never rejects; only `isClosed` servers wait for it. */
  note(entry: AuditEntry): Promise<void> {
    // The journal counts and reports what it loses.
    return this.#journal.append(entry).catch(() => {})
  }

  loginFailed(login: FailedLogin): void {
    this.#logins.add(login)
  }

  /** Writes what is left. */
  async close(): Promise<void> {
    this.#logins.flush()
    await this.#journal.close()
  }
}
