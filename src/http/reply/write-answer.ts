/** What the routes that write share: their idempotency key, the errors they can answer, how they answer. */
import type { FastifyReply } from 'fastify'
import { type ErrorCode, MmsbError } from '../../errors.js'

export const WRITE_PROBLEMS: readonly ErrorCode[] = [
  'INVALID_DELTA',
  'PAGE_NOT_FOUND',
  'PAGE_READ_ONLY',
  'PRECONDITION_FAILED',
  'PAYLOAD_TOO_LARGE',
  'IDEMPOTENCY_MISMATCH',
  'COST_EXCEEDED',
  'LOG_FULL',
]

/** @throws MmsbError INVALID_REQUEST */
export function idempotencyKey(header: string | string[]): string {
  const key = Array.isArray(header) ? header.join(',') : header
  if (key.length > 0) return key
  throw new MmsbError('INVALID_REQUEST', 'Idempotency-Key: is empty')
}

/** Sends the result of a promise without making another promise. */
export function answerWith(reply: FastifyReply, result: Promise<object>): void {
  result.then(
    (body) => reply.send(body),
    (error: unknown) => reply.send(error),
  )
}
