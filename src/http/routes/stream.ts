/**
 * The WebSocket route /v1/stream.
 *
 * The plugin wraps every route of the scope it is registered in and adds hooks to it. It has a scope of its
 * own here, so that no other request pays for it; the hooks of the app run for the handshake as for any
 * request.
 */
import type { EventEmitter } from 'node:events'
import type { IncomingMessage, Server } from 'node:http'
import fastifyWebsocket, { type WebsocketPluginOptions } from '@fastify/websocket'
import type { FastifyRequest } from 'fastify'
import type { WebSocket } from 'ws'
import { readerOf } from '../../auth/guarded-bus.js'
import { MmsbError } from '../../errors.js'
import { HISTORY_HEADER, STREAM_PATH } from '../../wire/messages.js'
import type { App, AppContext } from '../context.js'
import { REQUEST_ID_HEADER } from '../observe/request-id.js'
import { sendProblem } from '../reply/problem.js'
import { endWith } from '../request/malformed-requests.js'
import { OfHistoryQuery } from '../schemas/data.js'
import { type StreamOptions, StreamServer, WEBSOCKET_OPTIONS } from '../stream/websocket.js'

/** The route. `upgrades` emits the upgrade requests that it may get. */
export async function streamRoutes(
  app: App,
  context: AppContext,
  upgrades: EventEmitter,
  options: StreamOptions,
): Promise<StreamServer> {
  const stream = new StreamServer(context, app.log, options)
  await app.register(async (scope: App) => {
    await scope.register(fastifyWebsocket, {
      // The same module, which its type declarations describe twice: for import and, as here, for require.
      // Of the server the plugin only takes the event `upgrade`.
      options: { ...WEBSOCKET_OPTIONS, server: upgrades as Server } as NonNullable<
        WebsocketPluginOptions['options']
      >,
      errorHandler: onWebSocketError,
      // StreamServer.close() does this, in its order.
      preClose: (done) => done(),
    })
    // Without a listener the library would answer in plain text.
    scope.websocketServer.on('wsClientError', ({ message }, socket) => {
      endWith(socket, new MmsbError('INVALID_REQUEST', message), { 'sec-websocket-version': '13, 8' })
    })
    const ids = new WeakMap<IncomingMessage, string>()
    scope.websocketServer.on('headers', (headers, request) => {
      headers.push(`${HISTORY_HEADER}: ${context.bus.historyId}`)
      headers.push(`${REQUEST_ID_HEADER}: ${ids.get(request)}`)
    })
    scope.route({
      method: 'GET',
      url: STREAM_PATH,
      schema: {
        operationId: 'openStream',
        summary: 'The stream',
        description: 'A WebSocket with subprotocol mmsb.v1.json or mmsb.v1.bin.',
        tags: ['stream'],
        querystring: OfHistoryQuery,
      },
      config: {
        needs: 'login',
        statuses: { 101: 'Switching protocols' },
        problems: ['HISTORY_CHANGED', 'QUOTA_EXCEEDED'],
      },
      onRequest: (request, reply, next) => {
        ids.set(request.raw, request.id)
        const refused = request.ws ? stream.refusalOf(request.raw, readerOf(request.bus)) : undefined
        if (refused === undefined) next()
        else void sendProblem(reply, refused)
      },
      wsHandler: (webSocket, request) => stream.serve(webSocket, request),
      handler: (_request, reply) => {
        void reply.header('upgrade', 'websocket')
        throw new MmsbError('INVALID_REQUEST', 'this is a WebSocket: send an Upgrade request')
      },
    })
  })
  return stream
}

/** Gets what the library reports of an open WebSocket, and what the handler throws. */
function onWebSocketError(error: Error, webSocket: WebSocket, request: FastifyRequest): void {
  // A broken frame, bad UTF-8 or an oversize message: the library closes with the right code.
  const { code } = error as NodeJS.ErrnoException
  if (code?.startsWith('WS_ERR_') === true) return
  request.log.error({ err: error, requestId: request.id }, 'internal error')
  webSocket.terminate()
}
