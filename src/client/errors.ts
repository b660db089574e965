/**
 * What can go wrong, as one class: the codes of the server (docs/guide/ERRORS.md), and a few of the client's own.
 *
 * Invariants: everything the client throws is an MmsbError, but for the reason of an AbortSignal, which is thrown as it is;
 * SERVER_CODES are the server's table (a test compares).
 */

/** The codes of the server and their HTTP status. */
export const SERVER_CODES = {
  INVALID_REQUEST: 400,
  INVALID_DELTA: 400,
  INVALID_EXPRESSION: 400,
  UNAUTHORIZED: 401,
  FORBIDDEN: 403,
  PAGE_NOT_FOUND: 404,
  EPOCH_NOT_FOUND: 404,
  NOT_FOUND: 404,
  METHOD_NOT_ALLOWED: 405,
  REQUEST_TIMEOUT: 408,
  PAGE_EXISTS: 409,
  PAGE_IN_USE: 409,
  PAGE_READ_ONLY: 409,
  GRAPH_CYCLE: 409,
  EPOCH_COMPACTED: 410,
  PRECONDITION_FAILED: 412,
  PAYLOAD_TOO_LARGE: 413,
  RANGE_NOT_SATISFIABLE: 416,
  UNSUPPORTED_LOCATION: 422,
  SHAPE_MISMATCH: 422,
  HEADERS_TOO_LARGE: 431,
  INTERNAL: 500,
  OVERLOADED: 503,
  BUS_FAILED: 503,
  OUT_OF_MEMORY: 507,
  LOG_FULL: 507,
} as const

/** NETWORK: no answer came. TIMEOUT: none came in time. CLOSED: the client was closed. PROTOCOL: the answer makes no sense. */
export const CLIENT_CODES = ['NETWORK', 'TIMEOUT', 'CLOSED', 'PROTOCOL'] as const

/** The code of an error: the server's codes, and the client's own. */
export type ErrorCode = keyof typeof SERVER_CODES | (typeof CLIENT_CODES)[number]

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
  /** HTTP status; 0 where the error is not an answer of the server. */
  readonly status: number
  readonly detail: string
  /** What can be done about it; may be empty. */
  readonly hint: string
  /** More fields of the answer. */
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

  /** Of EPOCH_COMPACTED: the oldest epoch that is still kept. */
  get minEpoch(): number | undefined {
    const { minEpoch } = this.extra
    return typeof minEpoch === 'number' ? minEpoch : undefined
  }
}

/** An error from the fields of a problem document or of an `error` message. */
export function problemError(fields: Readonly<Record<string, unknown>>, status = 0): MmsbError {
  const { code, detail, hint, status: named, type: _type, title: _title, id: _id, ...extra } = fields
  const isKnown = isCode(code)
  const usual = isKnown ? SERVER_CODES[code] : status
  return new MmsbError({
    code: isKnown ? code : 'PROTOCOL',
    detail: typeof detail === 'string' ? detail : 'the server gave no reason',
    hint: typeof hint === 'string' ? hint : '',
    status: typeof named === 'number' ? named : usual,
    extra,
  })
}

const isCode = (code: unknown): code is keyof typeof SERVER_CODES =>
  typeof code === 'string' && Object.hasOwn(SERVER_CODES, code)

const REFUSED_HERE = 'Refused by the client; nothing was sent.'

export const invalidDelta = (detail: string): MmsbError =>
  new MmsbError({ code: 'INVALID_DELTA', detail, hint: REFUSED_HERE })

export const invalidRequest = (detail: string): MmsbError =>
  new MmsbError({ code: 'INVALID_REQUEST', detail, hint: REFUSED_HERE })

export const closedError = (what: 'client' | 'mirror' | 'subscription' | 'writer' = 'client'): MmsbError =>
  new MmsbError({ code: 'CLOSED', detail: `the ${what} has been closed` })

export const protocolError = (detail: string): MmsbError => new MmsbError({ code: 'PROTOCOL', detail })
