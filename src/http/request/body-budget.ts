/**
 * Large request bodies: whether one is read at all, and how many bytes of them are in memory at once.
 *
 * Before anything of a large body is read, its route may refuse it (`refuseBody`), and so does the budget
 * when the announced length has no room. A body counts as its bytes arrive and until the request is answered,
 * because they are kept until then. One that no longer fits is refused with OVERLOADED.
 *
 * Invariant: small bodies are not counted, and cost no more here than a look at their length; connections and
 * timeouts bound them.
 *
 * Null because callbacks of the framework have it.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { Transform, type TransformCallback } from 'node:stream'
import { ByteBudget, type Lease } from '../../byte-budget.js'
import type { MmsbError } from '../../errors.js'
import type { LimitGuard } from '../../operator-limits.js'
import type { App } from '../context.js'
import { mayBeLarge } from '../reply/early-answer.js'
import { tooLargeJson } from './json.js'

declare module 'fastify' {
  interface FastifyContextConfig {
    /**
     * Throws when a request would be refused whatever its body holds. Called before a large body is read;
     * `bytes` is its announced length, or 0.
     */
    readonly refuseBody?: (request: FastifyRequest, bytes: number) => void
  }
}

/** The error for a body that is announced to be too long for its type. */
export function tooLongBody(request: IncomingMessage, limits: LimitGuard): MmsbError | undefined {
  const length = request.headers['content-length']
  return length === undefined ? undefined : tooLong(request, Number(length), limits)
}

function tooLong({ headers }: IncomingMessage, bytes: number, limits: LimitGuard): MmsbError | undefined {
  const { maxBodyBytes, maxJsonBytes } = limits.values
  if (bytes > maxBodyBytes)
    return limits.refusal('maxBodyBytes', `the body is larger than ${maxBodyBytes} bytes`)
  const isJson = bytes > maxJsonBytes && headers['content-type']?.startsWith('application/json') === true
  return isJson ? tooLargeJson('body', limits) : undefined
}

/** Counts what passes through. */
class Counted extends Transform {
  readonly #lease: Lease
  readonly #tooLong: (bytes: number) => MmsbError | undefined
  #bytes = 0

  /** `tooLong` gives the error for a body of so many bytes, if that is too many. */
  constructor(lease: Lease, tooLong: (bytes: number) => MmsbError | undefined) {
    super()
    this.#lease = lease
    this.#tooLong = tooLong
  }

  override _transform(chunk: Buffer, _encoding: string, done: TransformCallback): void {
    this.#bytes += chunk.length
    const refused = this.#tooLong(this.#bytes)
    if (refused !== undefined) {
      done(refused)
      return
    }
    try {
      this.#lease.grow(chunk.length)
    } catch (error) {
      done(error as Error)
      return
    }
    done(undefined, chunk)
  }
}

/** The client waits for this before it sends its body (RFC 9110, 10.1.1); see answerOddRequests(). */
function askForBody(expect: string, response: ServerResponse): void {
  if (expect.toLowerCase() === '100-continue') response.writeContinue()
}

export function limitBodies(app: App, limits: LimitGuard): void {
  const budget = new ByteBudget(limits, {
    all: 'requestBudgetBytes',
    each: 'requestBudgetPerConnectionBytes',
    what: 'request bodies',
  })
  app.addHook('preParsing', (request, reply, payload, next) => {
    const { raw } = request
    const { expect } = raw.headers
    if (mayBeLarge(raw)) {
      const owner = raw.socket ?? raw
      const announced = Number(raw.headers['content-length'] ?? 0)
      try {
        request.routeOptions.config.refuseBody?.(request, announced)
        budget.refuseWithoutRoom(owner, announced)
      } catch (error) {
        next(error as MmsbError)
        return
      }
      const lease = budget.take(owner, 0)
      reply.raw.once('finish', lease.release)
      reply.raw.once('close', lease.release)
      const counted = new Counted(lease, (bytes) => tooLong(raw, bytes, limits))
      counted.once('error', () => {
        payload.unpipe(counted)
        payload.resume()
      })
      if (expect !== undefined) askForBody(expect, reply.raw)
      next(null, payload.pipe(counted))
      return
    }
    if (expect !== undefined) askForBody(expect, reply.raw)
    next(null, payload)
  })
}
