/** What the routes that write share: their headers, what can go wrong, how they answer. */
import type { ErrorCode } from '../../errors.js'
import { MmsbError } from '../../errors.js'
import type { Reply } from '../context.js'

export const WRITE_PROBLEMS: readonly ErrorCode[] = [
  'INVALID_DELTA',
  'PAGE_NOT_FOUND',
  'PAGE_READ_ONLY',
  'PRECONDITION_FAILED',
  'PAYLOAD_TOO_LARGE',
  'LOG_FULL',
]

/** @throws MmsbError INVALID_REQUEST */
export function idempotencyKey(header: string | string[]): string {
  const key = Array.isArray(header) ? header.join(',') : header
  if (key.length > 0) return key
  throw new MmsbError('INVALID_REQUEST', 'Idempotency-Key: is empty')
}

/** Sends what a promise gives, without another promise around it. */
export function answerWith(reply: Reply, result: Promise<object>): void {
  result.then(
    (body) => reply.send(body),
    (error: unknown) => reply.send(error),
  )
}
