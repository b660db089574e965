/**
 * Which routes write, and their refusal by a server whose bus is opened for reading only. It comes before the
 * body is read.
 */
import type { FastifyReply, FastifyRequest } from 'fastify'
import { readOnly } from '../../errors.js'

declare module 'fastify' {
  interface FastifyContextConfig {
    /** A POST that asks and changes nothing. */
    readonly onlyAsks?: true
  }
}

const READS: ReadonlySet<unknown> = new Set(['GET', 'HEAD', 'OPTIONS'])

/** Whether a route writes: whatever it is that does not say that it only reads. */
export const writes = (method: unknown, config: { readonly onlyAsks?: true }): boolean =>
  !READS.has(method) && config.onlyAsks !== true

/** A hook for every request to a bus that is only read. */
export function refuseWrite(
  request: FastifyRequest,
  _reply: FastifyReply,
  next: (error?: Error) => void,
): void {
  if (writes(request.method, request.routeOptions.config)) next(readOnly())
  else next()
}
