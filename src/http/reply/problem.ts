/**
 * Error answers over HTTP: one kind of document, from one table.
 *
 * Invariants: the body is built from an MmsbError alone. Any other exception becomes INTERNAL: the log gets
 * all of it, the client learns nothing about it.
 */
import { STATUS_CODES } from 'node:http'
import type { FastifyError, FastifyReply, FastifyRequest } from 'fastify'
import { MmsbError, problemOf } from '../../errors.js'
import { RETRY_AFTER_SECONDS } from '../../limits.js'
import { HTTP_BODY_MAX_BYTES } from '../../wire/limits.js'
import { NAME_MAX_LENGTH } from '../../wire/page.js'
import { answerWhileReading, mayBeLarge } from './early-answer.js'
import { SAFETY_HEADERS } from './safety-headers.js'

declare module 'fastify' {
  interface FastifyInstance {
    /** Set on a server with authentication: adds to a refusal what its client can do about it. */
    addChallenge?: (request: FastifyRequest, reply: FastifyReply, error: MmsbError) => void
  }
}

export const PROBLEM_TYPE = 'application/problem+json; charset=utf-8'

/** The framework's messages may quote the request: only so much of them is shown. */
const DETAIL_MAX_CHARS = 300
const PATH_MAX_CHARS = 200

declare module 'fastify' {
  interface FastifyReply {
    /** The error that the request is answered with. */
    problem: MmsbError | undefined
  }
}

/** Answers a request with an error. */
export function sendProblem(reply: FastifyReply, error: MmsbError): FastifyReply {
  reply.problem = error
  const waitS = retryAfterOf(error)
  if (waitS !== undefined) void reply.header('retry-after', waitS)
  if (error.code === 'RANGE_NOT_SATISFIABLE' && typeof error.extra?.bytes === 'number') {
    void reply.header('content-range', `bytes */${error.extra.bytes}`)
  }
  const problem = problemOf(error)
  const text = JSON.stringify(problem)
  void reply.code(problem.status).header('content-type', PROBLEM_TYPE).headers(SAFETY_HEADERS)
  const { method, raw } = reply.request
  // Not all requests that tests inject know whether they are complete.
  const isArriving = raw.complete === false && method !== 'HEAD'
  if (!isArriving || !(reply.hasHeader('connection') || mayBeLarge(raw))) return reply.send(text)
  return reply
    .headers({ connection: 'close', 'content-length': Buffer.byteLength(text) })
    .send(answerWhileReading(raw, text))
}

/** After how many seconds a refused request may be sent again; undefined where that would not help. */
function retryAfterOf({ status, extra }: MmsbError): number | undefined {
  if (status === 429) return typeof extra?.retryAfterS === 'number' ? extra.retryAfterS : RETRY_AFTER_SECONDS
  return status === 503 ? RETRY_AFTER_SECONDS : undefined
}

/** An error as a complete HTTP response, the last on its connection. */
export function rawProblem(error: MmsbError, headers: Readonly<Record<string, string>>): string {
  const problem = problemOf(error)
  const body = JSON.stringify(problem)
  const waitS = retryAfterOf(error)
  const lines = [
    `HTTP/1.1 ${problem.status} ${STATUS_CODES[problem.status]}`,
    `content-type: ${PROBLEM_TYPE}`,
    `content-length: ${Buffer.byteLength(body)}`,
    'connection: close',
    ...(waitS === undefined ? [] : [`retry-after: ${waitS}`]),
    ...Object.entries(SAFETY_HEADERS).map(([name, value]) => `${name}: ${value}`),
    ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`),
  ]
  return `${lines.join('\r\n')}\r\n\r\n${body}`
}

/** Fastify's error handler. It also gets what Fastify itself throws while it reads a request. */
export function handleError(error: unknown, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  // The framework closes the connection after a body it could not parse. That is needless once the whole body
  // has been read. After a refused upgrade it is needed: see request/upgrades.ts.
  const { complete, headers } = request.raw
  if (complete && headers.upgrade === undefined) void reply.removeHeader('connection')
  const shown = toMmsbError(error, (cause) =>
    request.log.error({ err: cause, requestId: request.id }, 'internal error'),
  )
  request.server.addChallenge?.(request, reply, shown)
  return sendProblem(reply, shown)
}

/** The path of a URL, without its query. */
export const pathOf = (url: string): string => url.split('?', 1)[0]!

/** The path of a URL, short enough to be shown in an error. */
export const shownPath = (url: string): string => pathOf(url).slice(0, PATH_MAX_CHARS)

/**
 * Turns anything thrown into an MmsbError for the client. `onInternal` gets the errors that are faults of the
 * server.
 */
export function toMmsbError(error: unknown, onInternal: (cause: unknown) => void): MmsbError {
  if (error instanceof MmsbError) {
    if (error.code === 'INTERNAL') onInternal(error)
    return error
  }
  const known = frameworkError(error)
  if (known !== undefined) return known
  onInternal(error)
  return new MmsbError('INTERNAL', 'an unexpected error; the log of the server has it')
}

function frameworkError(error: unknown): MmsbError | undefined {
  const { code, statusCode, message } = error as Partial<FastifyError>
  switch (code) {
    case 'FST_ERR_CTP_BODY_TOO_LARGE':
      return new MmsbError('PAYLOAD_TOO_LARGE', `the body is larger than ${HTTP_BODY_MAX_BYTES} bytes`)
    case 'FST_ERR_CTP_INVALID_MEDIA_TYPE':
      return new MmsbError(
        'UNSUPPORTED_MEDIA_TYPE',
        'unsupported content-type; send application/json or, for page data, application/octet-stream',
      )
    case 'FST_ERR_MAX_PARAM_LENGTH':
      return new MmsbError('INVALID_REQUEST', `path.name: has more than ${NAME_MAX_LENGTH} characters`)
    case 'FST_ERR_CTP_INVALID_CONTENT_LENGTH':
      return new MmsbError('INVALID_REQUEST', 'the length of the body differs from content-length')
  }
  if (statusCode !== undefined && statusCode >= 400 && statusCode < 500)
    return new MmsbError(
      'INVALID_REQUEST',
      message?.slice(0, DETAIL_MAX_CHARS) ?? 'the request cannot be read',
    )
  return undefined
}
