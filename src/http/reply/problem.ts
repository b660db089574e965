/**
 * Every error that leaves over HTTP: one problem document, one table.
 *
 * Invariants: the body is built from an MmsbError alone; an exception that is none becomes INTERNAL, goes to the log
 * whole and tells the client nothing of itself.
 */
import { STATUS_CODES } from 'node:http'
import type { FastifyError, FastifyReply, FastifyRequest } from 'fastify'
import { MmsbError, problemOf } from '../../errors.js'
import { RETRY_AFTER_SECONDS } from '../../limits.js'
import { HTTP_BODY_MAX_BYTES } from '../../wire/limits.js'
import { NAME_MAX_LENGTH } from '../../wire/page.js'

export const PROBLEM_TYPE = 'application/problem+json; charset=utf-8'

/** The framework's messages may hold what the client sent: so much of them is shown. */
const DETAIL_MAX_CHARS = 300

/** Answers a request with an error. */
export function sendProblem(reply: FastifyReply, error: MmsbError): FastifyReply {
  if (error.status === 503) void reply.header('retry-after', RETRY_AFTER_SECONDS)
  if (error.code === 'RANGE_NOT_SATISFIABLE' && typeof error.extra?.bytes === 'number') {
    void reply.header('content-range', `bytes */${error.extra.bytes}`)
  }
  const problem = problemOf(error)
  return reply.code(problem.status).header('content-type', PROBLEM_TYPE).send(JSON.stringify(problem))
}

/** An error as the whole answer on a connection that ends with it. */
export function rawProblem(error: MmsbError): string {
  const problem = problemOf(error)
  const body = JSON.stringify(problem)
  const lines = [
    `HTTP/1.1 ${problem.status} ${STATUS_CODES[problem.status]}`,
    `content-type: ${PROBLEM_TYPE}`,
    `content-length: ${Buffer.byteLength(body)}`,
    'connection: close',
    ...(problem.status === 503 ? [`retry-after: ${RETRY_AFTER_SECONDS}`] : []),
  ]
  return `${lines.join('\r\n')}\r\n\r\n${body}`
}

/** Fastify's error handler: also gets what Fastify itself throws while it reads a request. */
export function handleError(error: unknown, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  // The framework closes the connection after a body it could not parse; one that was read to its end harms nobody.
  if (request.raw.complete) void reply.removeHeader('connection')
  return sendProblem(
    reply,
    toMmsbError(error, (cause) => request.log.error({ err: cause }, 'internal error')),
  )
}

/** The path of a URL, without its query. */
export const pathOf = (url: string): string => url.split('?', 1)[0]!

/** The MmsbError that says what `error` means to a client; `onInternal` gets what we did not foresee. */
export function toMmsbError(error: unknown, onInternal: (cause: unknown) => void): MmsbError {
  if (error instanceof MmsbError) {
    if (error.code === 'INTERNAL') onInternal(error)
    return error
  }
  const known = ofFramework(error)
  if (known !== undefined) return known
  onInternal(error)
  return new MmsbError('INTERNAL', 'an unexpected error; the log of the server has it')
}

function ofFramework(error: unknown): MmsbError | undefined {
  const { code, statusCode, message } = error as Partial<FastifyError>
  switch (code) {
    case 'FST_ERR_CTP_BODY_TOO_LARGE':
      return new MmsbError('PAYLOAD_TOO_LARGE', `the body is larger than ${HTTP_BODY_MAX_BYTES} bytes`)
    case 'FST_ERR_CTP_INVALID_MEDIA_TYPE':
      return new MmsbError(
        'INVALID_REQUEST',
        'this content-type is not taken here; send application/json or, for page data, application/octet-stream',
      )
    case 'FST_ERR_MAX_PARAM_LENGTH':
      return new MmsbError('INVALID_REQUEST', `path.name: has more than ${NAME_MAX_LENGTH} characters`)
    case 'FST_ERR_CTP_INVALID_CONTENT_LENGTH':
      return new MmsbError('INVALID_REQUEST', 'the body is not as long as content-length says')
  }
  if (statusCode !== undefined && statusCode >= 400 && statusCode < 500)
    return new MmsbError(
      'INVALID_REQUEST',
      message?.slice(0, DETAIL_MAX_CHARS) ?? 'the request cannot be read',
    )
  return undefined
}
