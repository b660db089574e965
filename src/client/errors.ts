/**
 * Errors, as one class: the codes of the server (docs/guide/ERRORS.md), and four of the client's own.
 *
 * Invariant: everything the client throws is an MmsbError, except the reason of an AbortSignal, which is
 * thrown unchanged.
 */
import { ERROR_STATUS } from '../wire/errors.js'

/**
 * NETWORK: no answer came. TIMEOUT: no answer came in time. CLOSED: the client was closed. PROTOCOL: the
 * answer makes no sense.
 */
export const CLIENT_CODES = ['NETWORK', 'TIMEOUT', 'CLOSED', 'PROTOCOL'] as const

/** The codes of the server and the client's own. */
export type ErrorCode = keyof typeof ERROR_STATUS | (typeof CLIENT_CODES)[number]

export interface Problem {
  readonly code: ErrorCode
  readonly detail: string
  readonly hint?: string | undefined
  /** HTTP status; 0 for the client's own codes. */
  readonly status?: number
  readonly extra?: Readonly<Record<string, unknown>>
}

/** An error of a call: what the server answered, or why no answer came. */
export class MmsbError extends Error {
  readonly code: ErrorCode
  /** HTTP status; 0 if the error did not come from the server. */
  readonly status: number
  readonly detail: string
  /** What the user can do about it; may be empty. */
  readonly hint: string
  /** Further fields of the server's answer. */
  readonly extra: Readonly<Record<string, unknown>>

  /** Makes an error of a problem document, or of its parts. */
  constructor({ code, detail, hint = '', status = 0, extra = {} }: Problem, options?: ErrorOptions) {
    super(`${code}: ${detail}`, options)
    this.name = 'MmsbError'
    this.code = code
    this.status = status
    this.detail = detail
    this.hint = hint
    this.extra = extra
  }

  /** With EPOCH_COMPACTED: the oldest epoch that the server still keeps. */
  get minEpoch(): number | undefined {
    const { minEpoch } = this.extra
    return typeof minEpoch === 'number' ? minEpoch : undefined
  }
}

/** An error from the fields of a problem document or of an `error` message. */
export function problemError(fields: Readonly<Record<string, unknown>>, status = 0): MmsbError {
  const { code, detail, hint, status: named, type: _type, title: _title, id: _id, ...extra } = fields
  const isKnown = isCode(code)
  const usual = isKnown ? ERROR_STATUS[code] : status
  return new MmsbError({
    code: isKnown ? code : 'PROTOCOL',
    detail: typeof detail === 'string' ? detail : 'the server gave no reason',
    hint: typeof hint === 'string' ? hint : '',
    status: typeof named === 'number' ? named : usual,
    extra,
  })
}

const isCode = (code: unknown): code is keyof typeof ERROR_STATUS =>
  typeof code === 'string' && Object.hasOwn(ERROR_STATUS, code)

const REFUSED_HERE = 'Refused by the client; nothing was sent.'

export const invalidDelta = (detail: string): MmsbError =>
  new MmsbError({ code: 'INVALID_DELTA', detail, hint: REFUSED_HERE })

export const invalidRequest = (detail: string): MmsbError =>
  new MmsbError({ code: 'INVALID_REQUEST', detail, hint: REFUSED_HERE })

export const closedError = (what: 'client' | 'mirror' | 'subscription' | 'writer' = 'client'): MmsbError =>
  new MmsbError({ code: 'CLOSED', detail: `the ${what} has been closed` })

export const protocolError = (detail: string): MmsbError => new MmsbError({ code: 'PROTOCOL', detail })

/** The server has another history than the one that was known: it was restored, repaired or replaced. */
export const historyChanged = (history: string): MmsbError =>
  new MmsbError({
    code: 'HISTORY_CHANGED',
    status: 409,
    detail: `the epochs belong to another history; the present one is ${history}`,
    hint: 'Read again, and start from a snapshot.',
    extra: { history },
  })
