/**
 * What can go wrong, as one class: the codes of the server (docs/ERRORS.md), and a few of the client's own.
 *
 * Invariants: everything the client throws is an MmsbError, but for the reason of an AbortSignal, which is thrown as it is;
 * SERVER_CODES are the server's table (a test compares).
 */

export const SERVER_CODES = [
  'INVALID_REQUEST',
  'INVALID_DELTA',
  'INVALID_EXPRESSION',
  'UNAUTHORIZED',
  'FORBIDDEN',
  'PAGE_NOT_FOUND',
  'EPOCH_NOT_FOUND',
  'NOT_FOUND',
  'PAGE_EXISTS',
  'PAGE_IN_USE',
  'PAGE_READ_ONLY',
  'GRAPH_CYCLE',
  'EPOCH_COMPACTED',
  'PRECONDITION_FAILED',
  'PAYLOAD_TOO_LARGE',
  'RANGE_NOT_SATISFIABLE',
  'UNSUPPORTED_LOCATION',
  'SHAPE_MISMATCH',
  'INTERNAL',
  'OVERLOADED',
  'BUS_FAILED',
  'OUT_OF_MEMORY',
  'LOG_FULL',
] as const

/** NETWORK: no answer came. TIMEOUT: none came in time. CLOSED: the client was closed. PROTOCOL: the answer makes no sense. */
export const CLIENT_CODES = ['NETWORK', 'TIMEOUT', 'CLOSED', 'PROTOCOL'] as const

export type ErrorCode = (typeof SERVER_CODES)[number] | (typeof CLIENT_CODES)[number]

export interface Problem {
  readonly code: ErrorCode
  readonly detail: string
  readonly hint?: string | undefined
  /** HTTP status; 0 for the client's own codes. */
  readonly status?: number
  readonly extra?: Readonly<Record<string, unknown>>
}

export class MmsbError extends Error {
  readonly code: ErrorCode
  /** HTTP status; 0 where the error is not an answer of the server. */
  readonly status: number
  readonly detail: string
  /** What can be done about it; may be empty. */
  readonly hint: string
  /** More fields of the answer. */
  readonly extra: Readonly<Record<string, unknown>>

  constructor({ code, detail, hint = '', status = 0, extra = {} }: Problem, options?: ErrorOptions) {
    super(`${code}: ${detail}`, options)
    this.name = 'MmsbError'
    this.code = code
    this.status = status
    this.detail = detail
    this.hint = hint
    this.extra = extra
  }

  /** Of EPOCH_COMPACTED: the oldest epoch that is still kept. */
  get minEpoch(): number | undefined {
    const { minEpoch } = this.extra
    return typeof minEpoch === 'number' ? minEpoch : undefined
  }
}

/** An error from the fields of a problem document or of an `error` message. */
export function problemError(fields: Readonly<Record<string, unknown>>, status = 0): MmsbError {
  const { code, detail, hint, status: named, type: _type, title: _title, id: _id, ...extra } = fields
  return new MmsbError({
    code: isCode(code) ? code : 'PROTOCOL',
    detail: typeof detail === 'string' ? detail : 'the server gave no reason',
    hint: typeof hint === 'string' ? hint : '',
    status: typeof named === 'number' ? named : status,
    extra,
  })
}

const CODES: ReadonlySet<unknown> = new Set(SERVER_CODES)
const isCode = (code: unknown): code is ErrorCode => CODES.has(code)

export const invalidDelta = (detail: string): MmsbError =>
  new MmsbError({ code: 'INVALID_DELTA', detail, hint: 'Refused by the client; nothing was sent.' })

export const closedError = (): MmsbError =>
  new MmsbError({ code: 'CLOSED', detail: 'the client has been closed' })

export const protocolError = (detail: string): MmsbError => new MmsbError({ code: 'PROTOCOL', detail })
