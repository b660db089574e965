/**
 * Tickets: what a browser sends instead of a token where it can send no header, in the URL of a WebSocket or
 * an EventSource. URLs end up in logs, so a ticket counts once, and for a short time.
 */
import { randomBytes } from 'node:crypto'
import { MmsbError } from '../errors.js'
import { TICKET_MS, TICKETS_MAX } from '../limits.js'
import type { Login } from './authenticator.js'

const TICKET_BYTES = 24

interface Ticket {
  readonly login: Login
  readonly expiresMs: number
}

export class Tickets {
  /** The oldest first. */
  readonly #tickets = new Map<string, Ticket>()
  readonly #now: () => number

  constructor(now: () => number = Date.now) {
    this.#now = now
  }

  /** @throws MmsbError OVERLOADED while too many are waiting to be used */
  issue(login: Login): { ticket: string; expiresAt: string } {
    this.#dropOld()
    if (this.#tickets.size >= TICKETS_MAX)
      throw new MmsbError('OVERLOADED', `${TICKETS_MAX} tickets wait to be used.`)
    const ticket = randomBytes(TICKET_BYTES).toString('base64url')
    const expiresMs = this.#now() + TICKET_MS
    this.#tickets.set(ticket, { login, expiresMs })
    return { ticket, expiresAt: new Date(expiresMs).toISOString() }
  }

  /** Uses a ticket up; undefined if there is none of this name, or its time or its login is over. */
  redeem(ticket: string): Login | undefined {
    this.#dropOld()
    const found = this.#tickets.get(ticket)
    this.#tickets.delete(ticket)
    return found?.login.isValid() === true ? found.login : undefined
  }

  #dropOld(): void {
    for (const [ticket, { expiresMs }] of this.#tickets) {
      if (expiresMs > this.#now()) return
      this.#tickets.delete(ticket)
    }
  }
}
