/**
 * One line of the audit trail: JSON, which carries the SHA-256 of the line before it.
 *
 * Invariants: lines are numbered from 1 on, over all files of the folder; the fields stand in one order, and
 * `prev` is the last of them.
 */
import { createHash } from 'node:crypto'
import { AUDIT_TEXT_MAX_LENGTH } from '../limits.js'

/**
 * `begun` comes before an action, and only where every action must be in the trail before it happens. `done`
 * and `refused` say how it ended; `failed` says that the server could not do it.
 */
export type Outcome = 'begun' | 'done' | 'refused' | 'failed'

export interface AuditEntry {
  /** The operation of the API, or another word of docs/guide/SECURITY.md. */
  readonly action: string
  readonly outcome: Outcome
  readonly requestId?: string | undefined
  /** Undefined where nobody has to say who they are, and for what the server does itself. */
  readonly principal?: string | undefined
  readonly ip?: string | undefined
  readonly pages?: readonly string[] | undefined
  /** What else it was done to: a function, a durable subscription, a principal, a file. */
  readonly target?: string | undefined
  readonly epoch?: number | undefined
  /** The code of the error. */
  readonly code?: string | undefined
  /** How often, if not once. */
  readonly count?: number | undefined
}

/** Where the chain of lines ends: the number of the last line, and its hash. */
export interface ChainEnd {
  readonly seq: number
  readonly sha256: string
}

/** The end of a chain without lines. */
export const NO_LINES: ChainEnd = { seq: 0, sha256: '0'.repeat(64) }

/** SHA-256 of a line, without its newline. */
export const hashOf = (line: string | Uint8Array): string => createHash('sha256').update(line).digest('hex')

/** The next line of a chain, without its newline, and where the chain ends with it. */
export function lineAfter(end: ChainEnd, tsMs: number, entry: AuditEntry): { line: string; end: ChainEnd } {
  const seq = end.seq + 1
  const line = JSON.stringify({
    ts: new Date(tsMs).toISOString(),
    seq,
    requestId: entry.requestId,
    principal: entry.principal,
    ip: entry.ip,
    action: entry.action,
    pages: entry.pages?.map(shortened),
    target: entry.target === undefined ? undefined : shortened(entry.target),
    epoch: entry.epoch,
    outcome: entry.outcome,
    code: entry.code,
    count: entry.count,
    prev: end.sha256,
  })
  return { line, end: { seq, sha256: hashOf(line) } }
}

/** Names of refused requests may be anything. */
const shortened = (text: string): string =>
  text.length <= AUDIT_TEXT_MAX_LENGTH ? text : `${text.slice(0, AUDIT_TEXT_MAX_LENGTH)}...`

/** About how many bytes the line of an entry has. */
export function estimatedBytes({ pages = [] }: AuditEntry): number {
  return pages.reduce((sum, { length }) => sum + length + 3, LINE_BYTES)
}

const LINE_BYTES = 400
