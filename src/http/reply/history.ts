/**
 * The history of requests and answers. A client that names the history it knows (`?history=` or the header
 * MMSB-History) is refused on another one, where its epochs and versions would mean other states. Answers to
 * reads name the present history.
 *
 * Invariant: handlers do not see `history` in the query; it has been judged by then.
 */
import type { FastifyReply, FastifyRequest } from 'fastify'
import { historyChanged } from '../../errors.js'
import { HISTORY_HEADER } from '../../wire/messages.js'

const READS: ReadonlySet<string> = new Set(['GET', 'HEAD'])

/** A hook that runs before the handler of every route. */
export function historyGuard(
  present: () => string,
): (request: FastifyRequest, reply: FastifyReply, next: (error?: Error) => void) => void {
  return (request, reply, next) => {
    const history = present()
    if (READS.has(request.method)) void reply.header(HISTORY_HEADER, history)
    const query = request.query as { history?: string }
    const { history: asked = request.headers[HISTORY_HEADER] } = query
    if (query.history !== undefined) delete query.history
    if (asked === undefined || asked === history) next()
    else next(historyChanged(history))
  }
}
