/**
 * Answers to requests whose bodies are still arriving.
 *
 * A server that answers and closes resets the connection under a client that is still sending, and the client
 * may never see the answer. So the answer is sent at once, and the rest of the body is read and dropped
 * before the connection closes: a bounded number of bytes, for a bounded time.
 *
 * Invariant: nothing of the body is kept.
 *
 * Null because a stream of Node ends with it.
 */
import type { IncomingMessage } from 'node:http'
import { Readable } from 'node:stream'
import { REFUSED_BODY_MAX_BYTES, REFUSED_BODY_MAX_MS, REQUEST_FREE_BYTES } from '../../limits.js'

/** Whether a body may be large: that takes time to arrive, and memory to hold. */
export function mayBeLarge({ headers }: IncomingMessage): boolean {
  const length = headers['content-length']
  return length === undefined
    ? headers['transfer-encoding'] !== undefined
    : length.length > FREE_DIGITS && Number(length) > REQUEST_FREE_BYTES
}

/** A text with fewer digits is a smaller number. */
const FREE_DIGITS = String(REQUEST_FREE_BYTES).length - 1

/** A body for the answer: it ends when the request has ended, or has gone on for too long. */
export function answerWhileReading(request: IncomingMessage, text: string): Readable {
  const answer = new Readable({ read() {} })
  answer.push(text)
  let bytes = 0
  const end = (): void => {
    clearTimeout(latest)
    request.off('data', count).off('end', end).off('close', end).resume()
    answer.push(null)
  }
  const count = ({ length }: Buffer): void => {
    bytes += length
    if (bytes > REFUSED_BODY_MAX_BYTES) end()
  }
  const latest = setTimeout(end, REFUSED_BODY_MAX_MS)
  latest.unref()
  request.on('data', count).once('end', end).once('close', end)
  return answer
}
