/**
 * Every error a user can meet, in one table: code, HTTP status, title, hint.
 *
 * Invariants: an error that leaves a public function is an MmsbError; its code is a key of ERRORS; docs/guide/ERRORS.md
 * lists exactly these codes (a test compares). This file knows nothing of the rest of the code.
 */

interface ErrorEntry {
  readonly status: number
  readonly title: string
  readonly hint: string
}

export const ERRORS = {
  INVALID_REQUEST: {
    status: 400,
    title: 'The request is malformed',
    hint: 'Compare it with /openapi.json, a message of the stream with /asyncapi.json; unknown fields are refused.',
  },
  INVALID_DELTA: {
    status: 400,
    title: 'The delta does not fit its page',
    hint: 'Check offset, count, mask length and that each value is in the range of the page dtype.',
  },
  INVALID_EXPRESSION: {
    status: 400,
    title: 'The expression cannot be compiled',
    hint: 'The detail gives the column; docs/guide/OPS.md lists the functions and type rules.',
  },
  UNAUTHORIZED: {
    status: 401,
    title: 'Credentials are missing or not valid',
    hint: 'Send credentials this server accepts.',
  },
  FORBIDDEN: {
    status: 403,
    title: 'The request is not allowed from here',
    hint: 'Host and Origin must name the address the server is bound to; --allow-origin lets other web pages in.',
  },
  PAGE_NOT_FOUND: {
    status: 404,
    title: 'No such page',
    hint: 'GET /v1/pages lists the pages that exist.',
  },
  EPOCH_NOT_FOUND: {
    status: 404,
    title: 'No such epoch yet',
    hint: 'GET /v1/status shows the newest epoch.',
  },
  NOT_FOUND: {
    status: 404,
    title: 'No such route or object',
    hint: 'GET /openapi.json lists the routes.',
  },
  METHOD_NOT_ALLOWED: {
    status: 405,
    title: 'The path does not take this method',
    hint: 'The header Allow lists those it takes.',
  },
  REQUEST_TIMEOUT: {
    status: 408,
    title: 'The request took too long to arrive',
    hint: 'Send it again, without pauses.',
  },
  PAGE_EXISTS: {
    status: 409,
    title: 'A page of this name with another definition exists',
    hint: 'Delete it first, or choose another name.',
  },
  PAGE_IN_USE: {
    status: 409,
    title: 'Others derive from it or call it',
    hint: 'Delete those first; a page with all that derives from it goes with ?cascade=true.',
  },
  PAGE_READ_ONLY: {
    status: 409,
    title: 'A derived page cannot be written',
    hint: 'Write to the source pages it derives from.',
  },
  GRAPH_CYCLE: {
    status: 409,
    title: 'The definition would close a cycle',
    hint: 'The detail names the path.',
  },
  EPOCH_COMPACTED: {
    status: 410,
    title: 'This epoch is no longer kept',
    hint: 'minEpoch is the oldest epoch that can be read.',
  },
  PRECONDITION_FAILED: {
    status: 412,
    title: 'The page has another version than expected',
    hint: 'Read the page again and repeat the write with its version.',
  },
  PAYLOAD_TOO_LARGE: {
    status: 413,
    title: 'The payload is larger than the limit',
    hint: 'Split the write into several transactions.',
  },
  RANGE_NOT_SATISFIABLE: {
    status: 416,
    title: 'The range lies outside the page',
    hint: 'GET /v1/pages/{name} shows its shape and bytes.',
  },
  UNSUPPORTED_LOCATION: {
    status: 422,
    title: 'Pages cannot be placed there on this machine',
    hint: 'Use "auto" or "cpu"; /v1/status shows the backend.',
  },
  SHAPE_MISMATCH: {
    status: 422,
    title: 'Shapes or dtypes do not go together',
    hint: 'The detail names the axes; docs/guide/OPS.md gives each op its shape rule.',
  },
  HEADERS_TOO_LARGE: {
    status: 431,
    title: 'The request line and headers are larger than the limit',
    hint: 'Ask for fewer pages at a time; what is long belongs in a body.',
  },
  INTERNAL: {
    status: 500,
    title: 'Something went wrong inside the server',
    hint: 'The log of the server has the details; please report it.',
  },
  OVERLOADED: {
    status: 503,
    title: 'The server has more work than it can take',
    hint: 'Retry after the number of seconds in Retry-After.',
  },
  BUS_FAILED: {
    status: 503,
    title: 'The bus has stopped',
    hint: 'GET /readyz says why; restart the server to recover from its log.',
  },
  OUT_OF_MEMORY: {
    status: 507,
    title: 'The memory quota for pages is used up',
    hint: 'Delete pages or raise the quota (MMSB_MEMORY_LIMIT).',
  },
  LOG_FULL: {
    status: 507,
    title: 'There is no room left for the log',
    hint: 'Free space on the volume of the data directory; nothing was applied.',
  },
} as const satisfies Record<string, ErrorEntry>

export type ErrorCode = keyof typeof ERRORS

/** An error from the table. `detail` says what was wrong in this case; `extra` goes into the problem document. */
export class MmsbError extends Error {
  readonly code: ErrorCode
  readonly extra: Readonly<Record<string, unknown>> | undefined

  constructor(code: ErrorCode, detail: string, extra?: Record<string, unknown>, options?: ErrorOptions) {
    super(detail, options)
    this.name = 'MmsbError'
    this.code = code
    this.extra = extra
  }

  /** HTTP status of this error. */
  get status(): number {
    return ERRORS[this.code].status
  }

  /** What the user can do about it. */
  get hint(): string {
    return ERRORS[this.code].hint
  }
}

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
