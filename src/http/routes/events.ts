/**
 * The stream as server-sent events, for clients that cannot use WebSockets; the messages are the same. `id:`
 * is the epoch, so that a browser resumes by itself (Last-Event-ID).
 */
import type { ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { loginEnded } from '../../auth/authenticator.js'
import { readerOf } from '../../auth/guarded-bus.js'
import { MmsbError } from '../../errors.js'
import type { LimitGuard } from '../../operator-limits.js'
import { jsonHead, jsonTail, type StreamMessage } from '../../stream/messages.js'
import type { StreamQueues } from '../../stream/queues.js'
import type { SubscribeOptions } from '../../stream/types.js'
import { HISTORY_HEADER } from '../../wire/messages.js'
import { whileLoggedIn } from '../authentication.js'
import type { App, AppContext, Reply } from '../context.js'
import { REQUEST_ID_HEADER } from '../observe/request-id.js'
import { NOT_KEPT_HEADERS } from '../reply/safety-headers.js'
import { parseSmallJson } from '../request/json.js'
import { compileCheck } from '../request/validation.js'
import { EventsQuery, Slice } from '../schemas/stream.js'
import { encodingOf } from '../stream/large-messages.js'
import { type MessageEncoder, SocketSink } from '../stream/socket-sink.js'
import { Type } from '../typebox.js'

/** The id of the only subscription of a response. */
const ID = 'events'
const HEADERS = { 'content-type': 'text/event-stream; charset=utf-8', ...NOT_KEPT_HEADERS }

type Slices = NonNullable<SubscribeOptions['slice']>
const checkSlice = compileCheck<Slices>(Slice, 'query.slice')

/** Returns a function that ends every open response. */
export function eventRoutes(app: App, context: AppContext): () => void {
  const open = new Set<() => void>()

  app.get(
    '/v1/events',
    {
      schema: {
        operationId: 'streamEvents',
        summary: 'The stream as server-sent events',
        tags: ['stream'],
        querystring: EventsQuery,
      },
      config: {
        needs: ['read'],
        produces: { 'text/event-stream': Type.String() },
        statuses: { 200: 'Events. The data of each is a message of the stream' },
        headers: { 'last-event-id': 'The last epoch the client has seen. Overrides `from`.' },
        problems: ['EPOCH_NOT_FOUND', 'HISTORY_CHANGED', 'QUOTA_EXCEEDED'],
      },
    },
    (request, reply) => {
      if (context.isStopping) throw new MmsbError('OVERLOADED', 'the server is stopping')
      const options = optionsOf(request.query, request.headers['last-event-id'], context.bus.limits)
      if (request.method === 'HEAD') {
        void reply.headers(HEADERS).send()
        return
      }
      const { raw } = reply
      const end = (): void => {
        open.delete(end)
        connection.close()
        raw.end()
      }
      // The response begins with the first message. Until then subscribe() may throw and be answered with a
      // problem document.
      const sink = new EventSink(raw, context.hub.queues, () => begin(reply, request.id, context), end)
      const connection = context.hub.connect(sink, readerOf(request.bus))
      open.add(end)
      raw.on(
        'close',
        whileLoggedIn(request, context, () => sink.send(ID, loginEndedMessage())),
      )
      raw.on('close', end)
      raw.on('close', () => sink.gone())
      raw.on('drain', () => connection.drained())
      sink.onWritten = () => {
        connection.grew()
        connection.drained()
      }
      try {
        connection.subscribe(ID, options)
      } catch (error) {
        open.delete(end)
        raw.off('close', end)
        connection.close()
        throw error
      }
    },
  )

  return () => {
    for (const end of [...open]) end()
  }
}

function begin(reply: Reply, requestId: string, { bus, openRequests }: AppContext): void {
  reply.hijack()
  openRequests.exclude(reply.raw)
  const own = { [HISTORY_HEADER]: bus.historyId, [REQUEST_ID_HEADER]: requestId }
  reply.raw.writeHead(200, { ...HEADERS, ...own })
}

const loginEndedMessage = (): StreamMessage => ({ type: 'error', error: loginEnded() })

class EventSink extends SocketSink {
  readonly #begin: () => void
  readonly #end: () => void
  #hasBegun = false

  constructor(raw: ServerResponse, queues: StreamQueues, begin: () => void, end: () => void) {
    super(raw, { queues, link: raw.socket as Socket, encoder: EVENT_ENCODER })
    this.#begin = begin
    this.#end = end
  }

  override send(id: string, message: StreamMessage): void {
    if (!this.#hasBegun) {
      this.#hasBegun = true
      this.#begin()
    }
    super.send(id, message)
    const isLast = message.type === 'overflow' || message.type === 'compacted' || message.type === 'error'
    if (isLast) this.whenWritten(this.#end)
  }
}

const EVENT_ENCODER: MessageEncoder = {
  encode: encodeEvent,
  later: (message) => encodingOf('json', message),
}

function encodeEvent(id: string, message: StreamMessage): readonly Buffer[] {
  if (!('encoded' in message)) return [Buffer.from(`${headOf(id, message)}${jsonTail(message)}\n\n`)]
  return message.encoded(`sse ${id}`, () => {
    if (!message.isLarge) return [Buffer.from(`${headOf(id, message)}${jsonTail(message)}\n\n`)]
    const tail = message.encoded('json', () => [Buffer.from(jsonTail(message))])
    return [Buffer.from(headOf(id, message)), ...tail, Buffer.from('\n\n')]
  })
}

function headOf(id: string, message: StreamMessage): string {
  const epoch = cursorOf(message)
  const line = epoch === undefined ? '' : `id: ${epoch}\n`
  return `${line}data: ${jsonHead(message.type, id)}`
}

/** The epoch from which a reader that has seen this message resumes. */
function cursorOf(message: StreamMessage): number | undefined {
  if (message.type === 'error') return undefined
  if (message.type === 'compacted') return message.minEpoch
  return message.type === 'overflow' ? message.resumeFrom : message.epoch
}

/** @throws MmsbError INVALID_REQUEST */
function optionsOf(
  query: EventsQuery,
  lastEventId: string | string[] | undefined,
  limits: LimitGuard,
): SubscribeOptions {
  const { pages, from, slice, ...rest } = query
  const start = lastEventId === undefined ? from : lastSeen(lastEventId)
  const windows = slice === undefined ? {} : { slice: sliceOf(slice, limits) }
  const options = { ...rest, ...windows, pages: pages.split(',') }
  if (start === undefined) return options as SubscribeOptions
  return { ...options, from: /^\d/.test(start) ? Number(start) : start } as SubscribeOptions
}

/** @throws MmsbError INVALID_REQUEST */
const sliceOf = (text: string, limits: LimitGuard): Slices =>
  checkSlice(parseSmallJson(Buffer.from(text), 'query.slice', limits))

function lastSeen(header: string | string[]): string {
  if (typeof header === 'string' && /^(0|[1-9]\d{0,15})$/.test(header)) return header
  throw new MmsbError('INVALID_REQUEST', 'Last-Event-ID: is not an epoch')
}
