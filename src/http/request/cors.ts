/**
 * The headers that let web pages of another origin use an answer (Fetch standard, CORS protocol).
 *
 * Invariant: only origins that were allowed when the server was started get these headers, and only after the
 * guard has accepted the request.
 */
import type { FastifyReply, FastifyRequest } from 'fastify'
import { CORS_MAX_AGE_SECONDS } from '../../limits.js'

const METHODS = 'GET, HEAD, PUT, PATCH, POST, DELETE'
const REQUEST_HEADERS = [
  'accept',
  'authorization',
  'content-type',
  'idempotency-key',
  'if-match',
  'if-none-match',
  'if-range',
  'last-event-id',
  'mmsb-dtype',
  'mmsb-history',
  'range',
  'traceparent',
  'x-request-id',
].join(', ')
const ANSWER_HEADERS = [
  'accept-ranges',
  'content-range',
  'etag',
  'mmsb-dtype',
  'mmsb-epoch',
  'mmsb-history',
  'mmsb-shape',
  'retry-after',
  'x-request-id',
].join(', ')

/**
 * Lets the pages of `origin` read the answer. Set on the raw response, so that streamed answers have it too.
 */
export function allowOrigin({ raw }: FastifyReply, origin: string): void {
  raw.setHeader('access-control-allow-origin', origin)
  raw.setHeader('access-control-expose-headers', ANSWER_HEADERS)
  raw.setHeader('vary', 'origin')
}

/** Answers a preflight request. Returns false, and does nothing, if the request is not one. */
export function answerPreflight({ method, headers }: FastifyRequest, reply: FastifyReply): boolean {
  if (method !== 'OPTIONS' || headers['access-control-request-method'] === undefined) return false
  void reply
    .code(204)
    .header('access-control-allow-methods', METHODS)
    .header('access-control-allow-headers', REQUEST_HEADERS)
    .header('access-control-max-age', CORS_MAX_AGE_SECONDS)
  if (headers['access-control-request-private-network'] === 'true') {
    void reply.header('access-control-allow-private-network', 'true')
  }
  void reply.send()
  return true
}
