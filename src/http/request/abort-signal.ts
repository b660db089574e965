/** Whether the client still waits: work done for an answer alone can end when it does not. */
import type { FastifyReply } from 'fastify'

/** Aborts when the client goes away before it has its answer. */
export function untilGone(reply: FastifyReply): AbortSignal {
  const controller = new AbortController()
  reply.raw.once('close', () => {
    if (!reply.raw.writableFinished) controller.abort()
  })
  return controller.signal
}
