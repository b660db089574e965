/** Work done only for an answer: it is cancelled when the client disconnects, and connections take turns. */
import type { FastifyReply } from 'fastify'
import type { PastOptions } from '../../engine/types.js'

/** A signal that aborts if the client disconnects before it has the whole answer. */
export function abortSignalOf({ raw }: FastifyReply): AbortSignal {
  const controller = new AbortController()
  raw.once('close', () => {
    if (!raw.writableFinished) controller.abort()
  })
  return controller.signal
}

/** The options of a request about the past. */
export const pastOptionsOf = (reply: FastifyReply): PastOptions => ({
  signal: abortSignalOf(reply),
  caller: reply.request.raw.socket,
})
