/**
 * Every error that users can see, in one table: code, HTTP status, title, hint.
 *
 * Invariants: public functions throw only MmsbError; its code is a key of ERRORS; docs/guide/ERRORS.md
 * repeats this table (a test compares them). Statuses are in src/wire, which clients share; this file imports
 * nothing else.
 */
import { ERROR_STATUS } from './wire/errors.js'

interface ErrorEntry {
  /** HTTP status. */
  readonly status: number
  /** What kind of error it is, in one sentence without a full stop. */
  readonly title: string
  /** What the user can do about it. */
  readonly hint: string
}

/** The errors by code. Codes and statuses are a contract with users; titles and hints may be reworded. */
export const ERRORS = {
  INVALID_REQUEST: {
    status: ERROR_STATUS.INVALID_REQUEST,
    title: 'The request is malformed',
    hint: 'Compare it with /openapi.json, or a stream message with /asyncapi.json; unknown fields are refused.',
  },
  INVALID_DELTA: {
    status: ERROR_STATUS.INVALID_DELTA,
    title: 'The delta does not fit its page',
    hint: "Check the offset, the count, the mask length, and that each value is in the range of the page's dtype.",
  },
  INVALID_EXPRESSION: {
    status: ERROR_STATUS.INVALID_EXPRESSION,
    title: 'The expression cannot be compiled',
    hint: 'The detail names the column; docs/guide/OPS.md lists the functions and the type rules.',
  },
  UNAUTHORIZED: {
    status: ERROR_STATUS.UNAUTHORIZED,
    title: 'Credentials are missing or invalid',
    hint: 'Send credentials that this server accepts.',
  },
  FORBIDDEN: {
    status: ERROR_STATUS.FORBIDDEN,
    title: 'The request is not allowed from here',
    hint: 'Host and Origin must name the address the server listens on; --allow-origin admits other web pages.',
  },
  PAGE_NOT_FOUND: {
    status: ERROR_STATUS.PAGE_NOT_FOUND,
    title: 'No such page',
    hint: 'GET /v1/pages lists the pages that exist.',
  },
  EPOCH_NOT_FOUND: {
    status: ERROR_STATUS.EPOCH_NOT_FOUND,
    title: 'No such epoch yet',
    hint: 'GET /v1/status shows the newest epoch.',
  },
  NOT_FOUND: {
    status: ERROR_STATUS.NOT_FOUND,
    title: 'No such route or object',
    hint: 'GET /openapi.json lists the routes.',
  },
  METHOD_NOT_ALLOWED: {
    status: ERROR_STATUS.METHOD_NOT_ALLOWED,
    title: 'This path does not support the method',
    hint: 'The Allow header lists the supported methods.',
  },
  NOT_ACCEPTABLE: {
    status: ERROR_STATUS.NOT_ACCEPTABLE,
    title: 'The route cannot answer in the requested format',
    hint: 'Send an Accept header that the route supports; /openapi.json lists the formats.',
  },
  REQUEST_TIMEOUT: {
    status: ERROR_STATUS.REQUEST_TIMEOUT,
    title: 'The request took too long to arrive',
    hint: 'Send the whole request without pauses.',
  },
  PAGE_EXISTS: {
    status: ERROR_STATUS.PAGE_EXISTS,
    title: 'A page with this name and another definition exists',
    hint: 'Delete that page first, or choose another name.',
  },
  PAGE_IN_USE: {
    status: ERROR_STATUS.PAGE_IN_USE,
    title: 'Other pages or functions depend on it',
    hint: 'Delete them first; ?cascade=true deletes a page and every page that derives from it.',
  },
  PAGE_READ_ONLY: {
    status: ERROR_STATUS.PAGE_READ_ONLY,
    title: 'A derived page cannot be written',
    hint: 'Write to the source pages it derives from.',
  },
  GRAPH_CYCLE: {
    status: ERROR_STATUS.GRAPH_CYCLE,
    title: 'The definition would create a cycle',
    hint: 'The detail names the pages on the cycle.',
  },
  HISTORY_CHANGED: {
    status: ERROR_STATUS.HISTORY_CHANGED,
    title: 'The epochs belong to another history',
    hint: 'The data folder was restored, repaired or replaced: read again, and start from a snapshot.',
  },
  FOLDER_LOCKED: {
    status: ERROR_STATUS.FOLDER_LOCKED,
    title: 'The data folder is open in another process',
    hint: 'Stop that process; holder.txt in the folder names it.',
  },
  READ_ONLY: {
    status: ERROR_STATUS.READ_ONLY,
    title: 'The bus was opened for reading only',
    hint: 'Write to the server that has the folder open for writing; this one takes reads and what-if.',
  },
  EPOCH_COMPACTED: {
    status: ERROR_STATUS.EPOCH_COMPACTED,
    title: 'This epoch is no longer available',
    hint: 'minEpoch is the oldest epoch that can be read.',
  },
  PRECONDITION_FAILED: {
    status: ERROR_STATUS.PRECONDITION_FAILED,
    title: 'The page has changed since the expected version',
    hint: 'Read the page again, and repeat the write with the version it has now.',
  },
  PAYLOAD_TOO_LARGE: {
    status: ERROR_STATUS.PAYLOAD_TOO_LARGE,
    title: 'The payload is larger than the limit',
    hint: 'Split the write into several transactions.',
  },
  UNSUPPORTED_MEDIA_TYPE: {
    status: ERROR_STATUS.UNSUPPORTED_MEDIA_TYPE,
    title: 'The body has a content type or an encoding that the route does not read',
    hint: 'Send the Content-Type that /openapi.json lists for the route, without Content-Encoding.',
  },
  RANGE_NOT_SATISFIABLE: {
    status: ERROR_STATUS.RANGE_NOT_SATISFIABLE,
    title: 'The range lies outside the page',
    hint: 'GET /v1/pages/{name} shows the shape and the size in bytes.',
  },
  UNSUPPORTED_LOCATION: {
    status: ERROR_STATUS.UNSUPPORTED_LOCATION,
    title: 'This machine cannot place pages there',
    hint: 'Use "auto" or "cpu"; GET /v1/status shows the backend.',
  },
  SHAPE_MISMATCH: {
    status: ERROR_STATUS.SHAPE_MISMATCH,
    title: 'Shapes or dtypes are incompatible',
    hint: 'The detail names the axes; docs/guide/OPS.md has the shape rule of each op.',
  },
  COST_EXCEEDED: {
    status: ERROR_STATUS.COST_EXCEEDED,
    title: 'The work takes longer than the limit',
    hint: 'Make the pages smaller or change less at once; limitMs is what the server allows (docs/guide/LIMITS.md).',
  },
  IDEMPOTENCY_MISMATCH: {
    status: ERROR_STATUS.IDEMPOTENCY_MISMATCH,
    title: 'The idempotency key belongs to another request',
    hint: 'Use a new key for a new request; repeat a request unchanged.',
  },
  RATE_LIMITED: {
    status: ERROR_STATUS.RATE_LIMITED,
    title: 'A rate that is allowed is used up',
    hint: 'Repeat it after the number of seconds that Retry-After gives, and send less often.',
  },
  HEADERS_TOO_LARGE: {
    status: ERROR_STATUS.HEADERS_TOO_LARGE,
    title: 'The request line and headers are larger than the limit',
    hint: 'Request fewer pages at a time, or use a request with a body.',
  },
  INTERNAL: {
    status: ERROR_STATUS.INTERNAL,
    title: 'The server failed unexpectedly',
    hint: "The server's log has the details; please report it.",
  },
  AUDIT_FAILED: {
    status: ERROR_STATUS.AUDIT_FAILED,
    title: 'The audit trail cannot be written',
    hint: "Nothing was done. The server's log says why; writing goes on when the disk takes the trail again.",
  },
  OVERLOADED: {
    status: ERROR_STATUS.OVERLOADED,
    title: 'The server is overloaded',
    hint: 'Retry after the number of seconds that Retry-After gives.',
  },
  BUS_FAILED: {
    status: ERROR_STATUS.BUS_FAILED,
    title: 'The bus has stopped',
    hint: 'GET /v1/status says why; restart the server to recover from the log.',
  },
  OUT_OF_MEMORY: {
    status: ERROR_STATUS.OUT_OF_MEMORY,
    title: 'The memory limit for pages is reached',
    hint: 'Delete pages, or raise the limit (--memory-limit, MMSB_MEMORY_LIMIT).',
  },
  QUOTA_EXCEEDED: {
    status: ERROR_STATUS.QUOTA_EXCEEDED,
    title: 'A limit on stored objects is reached',
    hint: 'Delete what is no longer needed; docs/guide/LIMITS.md lists the limits and their flags.',
  },
  LOG_FULL: {
    status: ERROR_STATUS.LOG_FULL,
    title: 'The disk has no room for the log',
    hint: 'Free space on the volume of the data folder; nothing was applied.',
  },
} as const satisfies Record<keyof typeof ERROR_STATUS, ErrorEntry>

/** The code of an error; codes never change their meaning. */
export type ErrorCode = keyof typeof ERRORS

/**
 * An error of the table. Its message is the problem's `detail`; the fields of `extra` go into the problem
 * document.
 */
export class MmsbError extends Error {
  readonly code: ErrorCode
  readonly extra: Readonly<Record<string, unknown>> | undefined

  /** Fields of `extra` go into the problem document. */
  constructor(code: ErrorCode, detail: string, extra?: Record<string, unknown>, options?: ErrorOptions) {
    super(detail, options)
    this.name = 'MmsbError'
    this.code = code
    this.extra = extra
  }

  /** HTTP status. */
  get status(): number {
    return ERRORS[this.code].status
  }

  /** What the user can do about the error. */
  get hint(): string {
    return ERRORS[this.code].hint
  }
}

/** An error as HTTP answers carry it (RFC 9457). */
export interface ProblemDocument {
  readonly type: string
  readonly title: string
  readonly status: number
  readonly code: ErrorCode
  readonly detail: string
  readonly hint: string
  readonly [extra: string]: unknown
}

/** The `application/problem+json` form (RFC 9457) of an error. */
export function problemOf(error: MmsbError): ProblemDocument {
  const { status, title, hint } = ERRORS[error.code]
  return {
    type: `urn:mmsb:error:${error.code.toLowerCase()}`,
    title,
    status,
    code: error.code,
    detail: error.message,
    hint,
    ...error.extra,
  }
}

/** The refusal of a write by a bus that was opened for reading only. */
export const readOnly = (): MmsbError =>
  new MmsbError('READ_ONLY', 'This bus was opened for reading only; nothing was written.')

/** The refusal of a request that belongs to another history than `present`. */
export const historyChanged = (present: string): MmsbError =>
  new MmsbError(
    'HISTORY_CHANGED',
    `The epochs that you know belong to another history; this is ${present}.`,
    {
      history: present,
    },
  )
