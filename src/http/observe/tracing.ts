/**
 * Traces: a span for each request and for each transaction of a WebSocket, and below it those of the epoch
 * that answers it:
 *
 *   http or transaction -> queue, append, execute, publish
 *
 * Invariants: without tracing nothing of this is registered, and requests pay nothing. A caller's
 * `traceparent` (W3C Trace Context) is the parent. No names of pages but those in paths, and no data.
 * Execution runs beside the append, so their spans overlap; writers that share an epoch show the same times.
 *
 * Null because callbacks of the framework and regular expressions have it.
 */
import { performance } from 'node:perf_hooks'
import {
  type Context,
  createTraceState,
  ROOT_CONTEXT,
  type Span,
  SpanKind,
  SpanStatusCode,
  type Tracer,
  trace,
} from '@opentelemetry/api'
import type {
  FastifyRequest,
  preHandlerHookHandler,
  preSerializationHookHandler,
  RouteOptions,
} from 'fastify'
import type { EpochTimes, Stretch } from '../../engine/host.js'
import { MmsbError } from '../../errors.js'
import { TRACED_EPOCHS_MAX } from '../../limits.js'
import type { App } from '../context.js'
import { HEALTH_PATHS } from '../health.js'
import { shownPath } from '../reply/problem.js'
import { writes } from '../reply/read-only.js'

declare module 'fastify' {
  interface FastifyRequest {
    /** Undefined where nothing is traced. */
    traced: TracedRequest | undefined
  }
}

interface TracedRequest {
  readonly span: Span
  readonly parent: Context
  /** When the handler was called. */
  handledMs: number
}

/** What traces need: who makes the spans, and the times of recent epochs. */
export interface Tracing {
  readonly tracer: Tracer
  readonly epochs: RecentEpochs
}

/** The times of the newest epochs, until their requests are answered. */
export class RecentEpochs {
  readonly #times = new Map<number, EpochTimes>()

  readonly note = (times: EpochTimes): void => {
    this.#times.set(times.epoch, times)
    this.#times.delete(times.epoch - TRACED_EPOCHS_MAX)
  }

  of(epoch: number): EpochTimes | undefined {
    return this.#times.get(epoch)
  }
}

/** Supervisors ask these all the time. */
const UNTRACED: ReadonlySet<string> = new Set([...HEALTH_PATHS, '/metrics'])

/** Gives every request a span, and those that write also the spans of their epoch. */
export function traceRequests(app: App, tracing: Tracing): void {
  app.decorateRequest('traced', undefined)
  app.addHook('onRequest', (request, _reply, next) => {
    // A WebSocket is no request with an end; its transactions have spans.
    if (request.headers.upgrade === undefined && !UNTRACED.has(request.routeOptions.url ?? ''))
      request.traced = begin(request, tracing)
    next()
  })
  app.addHook('onResponse', (request, reply, done) => {
    const { traced, login } = request
    if (traced !== undefined) {
      const { span } = traced
      span.setAttribute('http.response.status_code', reply.statusCode)
      if (login !== undefined) span.setAttribute('enduser.id', login.principal.id)
      if (reply.problem !== undefined) span.setAttribute('error.type', reply.problem.code)
      if (reply.statusCode >= 500) span.setStatus({ code: SpanStatusCode.ERROR })
      span.end()
    }
    done()
  })
  app.addHook('onRoute', (route) => {
    if (!writesEpochs(route)) return
    route.preHandler = [...[route.preHandler ?? []].flat(), noteHandled]
    route.preSerialization = [...[route.preSerialization ?? []].flat(), showEpoch(tracing)]
  })
}

function begin(request: FastifyRequest, { tracer }: Tracing): TracedRequest {
  const { method, headers, url, routeOptions, id, ip } = request
  const parent = contextOf(headers.traceparent, headers.tracestate)
  const span = tracer.startSpan(
    `${method} ${routeOptions.url ?? ''}`.trim(),
    {
      kind: SpanKind.SERVER,
      attributes: {
        'http.request.method': method,
        'url.path': shownPath(url),
        'client.address': ip,
        'mmsb.request_id': id,
        ...(routeOptions.url === undefined ? {} : { 'http.route': routeOptions.url }),
      },
    },
    parent,
  )
  return { span, parent, handledMs: performance.now() }
}

const writesEpochs = ({ method, config }: RouteOptions): boolean => writes(method, config ?? {})

const noteHandled: preHandlerHookHandler = ({ traced }, _reply, next) => {
  if (traced !== undefined) traced.handledMs = performance.now()
  next()
}

/** An answer names the epoch before it becomes text. */
const showEpoch =
  ({ tracer, epochs }: Tracing): preSerializationHookHandler<unknown> =>
  ({ traced }, reply, payload, done) => {
    const { epoch, createdEpoch } = Object(payload) as { epoch?: unknown; createdEpoch?: unknown }
    const made = epoch ?? (reply.statusCode === 201 ? createdEpoch : undefined)
    if (traced !== undefined && typeof made === 'number')
      addStages(tracer, traced.span, traced.handledMs, epochs.of(made), made)
    done(null, payload)
  }

/** The spans of an epoch below that of the transaction that waited since `queuedMs`. */
function addStages(
  tracer: Tracer,
  span: Span,
  queuedMs: number,
  times: EpochTimes | undefined,
  epoch: number,
): void {
  span.setAttribute('mmsb.epoch', epoch)
  // An answer that is repeated names an old epoch.
  if (times === undefined || times.publish[0] < queuedMs) return
  const parent = trace.setSpan(ROOT_CONTEXT, span)
  // The clock of the spans, which may be adjusted while the server runs, unlike that of the stages.
  const originMs = Date.now() - performance.now()
  const add = (name: string, [startMs, endMs]: Stretch): void => {
    const options = { startTime: originMs + startMs, attributes: { 'mmsb.epoch': epoch } }
    tracer.startSpan(name, options, parent).end(originMs + Math.max(startMs, endMs))
  }
  const { append, execute, publish } = times
  add('queue', [queuedMs, (append ?? execute)[0]])
  if (append !== undefined) add('append', append)
  add('execute', execute)
  add('publish', publish)
}

/** The spans of the transactions of one WebSocket. */
export class SessionTrace {
  readonly #tracing: Tracing
  readonly #handshake: Context
  readonly #requestId: string

  /** `request` is the handshake; its trace is that of transactions without one of their own. */
  constructor(tracing: Tracing, { headers, id }: FastifyRequest) {
    this.#tracing = tracing
    this.#handshake = contextOf(headers.traceparent, headers.tracestate)
    this.#requestId = id
  }

  /** A transaction begins. Call back with its epoch or its error. */
  begin(traceparent: string | undefined): (end: { epoch?: number; error?: unknown }) => void {
    const { tracer, epochs } = this.#tracing
    const parent = traceparent === undefined ? this.#handshake : contextOf(traceparent, undefined)
    const queuedMs = performance.now()
    const attributes = { 'mmsb.request_id': this.#requestId }
    const span = tracer.startSpan('transaction', { kind: SpanKind.SERVER, attributes }, parent)
    return ({ epoch, error }) => {
      if (epoch !== undefined) addStages(tracer, span, queuedMs, epochs.of(epoch), epoch)
      if (error !== undefined) {
        span.setAttribute('error.type', error instanceof MmsbError ? error.code : 'INTERNAL')
        span.setStatus({ code: SpanStatusCode.ERROR })
      }
      span.end()
    }
  }
}

/** `traceparent` of W3C Trace Context: version, trace, parent, flags; later versions may go on behind. */
const TRACEPARENT = /^(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-|$)/

/** The context that a caller gives; one without a parent if it gives none, or one that is not sound. */
function contextOf(traceparent: unknown, tracestate: unknown): Context {
  const match = typeof traceparent === 'string' ? TRACEPARENT.exec(traceparent) : null
  if (match === null || (traceparent as string).startsWith('00') !== ((traceparent as string).length === 55))
    return ROOT_CONTEXT
  const [, traceId, spanId, flags] = match as unknown as [string, string, string, string]
  return trace.setSpanContext(ROOT_CONTEXT, {
    ...{ traceId, spanId, traceFlags: Number.parseInt(flags, 16) & 1, isRemote: true },
    ...(typeof tracestate === 'string' && tracestate.length <= 512
      ? { traceState: createTraceState(tracestate) }
      : {}),
  })
}
