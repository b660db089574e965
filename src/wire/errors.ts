/**
 * The codes of errors that a server sends, and their HTTP status. Titles and hints are the server's:
 * src/errors.ts.
 */
export const ERROR_STATUS = {
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

/** The code of an error; codes never change their meaning. */
export type ErrorCode = keyof typeof ERROR_STATUS
