/**
 * The budget of request bodies: how many bytes of them are in memory at once.
 *
 * A body counts as its bytes arrive and until the request is answered, because they are kept until then. One
 * that no longer fits is refused with OVERLOADED, and the rest of it is read and dropped.
 *
 * Invariant: small bodies are not counted and cost nothing here; connections and timeouts bound them.
 *
 * Null because callbacks of the framework have it.
 */
import type { IncomingMessage } from 'node:http'
import { Transform, type TransformCallback } from 'node:stream'
import { ByteBudget, type Lease } from '../../byte-budget.js'
import { REQUEST_FREE_BYTES } from '../../limits.js'
import type { LimitGuard } from '../../operator-limits.js'
import { HTTP_BODY_MAX_BYTES } from '../../wire/limits.js'
import type { App } from '../context.js'

/** Counts what passes through. */
class Counted extends Transform {
  readonly #lease: Lease

  constructor(lease: Lease) {
    super()
    this.#lease = lease
  }

  override _transform(chunk: Buffer, _encoding: string, done: TransformCallback): void {
    try {
      this.#lease.grow(chunk.length)
    } catch (error) {
      done(error as Error)
      return
    }
    done(undefined, chunk)
  }
}

export function limitBodies(app: App, limits: LimitGuard): void {
  const budget = new ByteBudget(limits, {
    all: 'requestBudgetBytes',
    each: 'requestBudgetPerConnectionBytes',
    what: 'request bodies',
  })
  app.addHook('preParsing', (request, reply, payload, next) => {
    if (!mayBeLarge(request.raw)) {
      next(null, payload)
      return
    }
    const lease = budget.take(request.raw.socket ?? request.raw, 0)
    reply.raw.once('finish', lease.release)
    reply.raw.once('close', lease.release)
    const counted = new Counted(lease)
    counted.once('error', () => {
      payload.unpipe(counted)
      payload.resume()
    })
    next(null, payload.pipe(counted))
  })
}

/** A body that is announced to be too large is refused by its parser before it is read. */
function mayBeLarge({ headers }: IncomingMessage): boolean {
  if (headers['transfer-encoding'] !== undefined) return true
  const length = Number(headers['content-length'] ?? 0)
  return length > REQUEST_FREE_BYTES && length <= HTTP_BODY_MAX_BYTES
}
