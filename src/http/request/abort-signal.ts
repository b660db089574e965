/** Cancels work done only for an answer when the client disconnects. */
import type { FastifyReply } from 'fastify'

/** A signal that aborts if the client disconnects before it has the whole answer. */
export function abortSignalOf({ raw }: FastifyReply): AbortSignal {
  const controller = new AbortController()
  raw.once('close', () => {
    if (!raw.writableFinished) controller.abort()
  })
  return controller.signal
}
