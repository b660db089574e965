/**
 * The AsyncAPI 3.0 document of the stream, made from the schemas that check what clients send. It is written
 * from the server's side: `receive` is what clients send.
 */

import { BINARY_PROTOCOL, JSON_PROTOCOL, STREAM_PATH } from '../../wire/messages.js'
import type { App } from '../context.js'
import { withNulls } from '../request/optional-nulls.js'
import { CLIENT_MESSAGES, SERVER_MESSAGES } from '../schemas/stream-messages.js'
import type { TSchema } from '../typebox.js'

const JSON_TYPE = 'application/json'
const BINARY_TYPE = 'application/octet-stream'

/** The binary messages. docs/internals/FORMAT.md describes their bytes. */
const FRAMES = {
  name: 'frames',
  summary: 'mmsb.v1.bin: one or more transactions in the frame format of docs/internals/FORMAT.md.',
}
const BINARY = {
  name: 'binary',
  summary:
    'mmsb.v1.bin: acks and refusals of frames by sequence number, and all messages of subscriptions, in the layout of docs/internals/FORMAT.md.',
}

/** Where the stream is, as the request names it. */
export interface StreamServerAddress {
  readonly host: string
  readonly protocol: 'ws' | 'wss'
}

export function asyncApiOf(version: string, here: StreamServerAddress): object {
  const received = Object.keys(CLIENT_MESSAGES)
  const sent = Object.keys(SERVER_MESSAGES)
  return {
    asyncapi: '3.0.0',
    info: {
      title: 'MMSB stream',
      version,
      description: 'One WebSocket for both: changes of pages as they are committed, and transactions.',
      license: { name: 'Apache-2.0' },
    },
    defaultContentType: JSON_TYPE,
    servers: { here },
    channels: {
      stream: {
        address: STREAM_PATH,
        description: `A WebSocket with subprotocol ${JSON_PROTOCOL} (default) or ${BINARY_PROTOCOL}.`,
        messages: Object.fromEntries(
          [...received, FRAMES.name, ...sent, BINARY.name].map((name) => [name, refTo('components', name)]),
        ),
        bindings: { ws: { method: 'GET', headers: PROTOCOL_HEADER, bindingVersion: '0.1.0' } },
      },
    },
    operations: {
      receive: { action: 'receive', channel: CHANNEL, messages: refs([...received, FRAMES.name]) },
      send: { action: 'send', channel: CHANNEL, messages: refs([...sent, BINARY.name]) },
    },
    components: {
      messages: {
        ...Object.fromEntries(
          Object.entries(CLIENT_MESSAGES).map(([name, payload]) => [
            name,
            jsonMessage(name, withNulls(payload)),
          ]),
        ),
        ...Object.fromEntries(
          Object.entries(SERVER_MESSAGES).map(([name, payload]) => [name, jsonMessage(name, payload)]),
        ),
        [FRAMES.name]: binaryMessage(FRAMES),
        [BINARY.name]: binaryMessage(BINARY),
      },
    },
  }
}

const CHANNEL = { $ref: '#/channels/stream' }
const PROTOCOL_HEADER = {
  type: 'object',
  properties: {
    'sec-websocket-protocol': { type: 'string', enum: [JSON_PROTOCOL, BINARY_PROTOCOL] },
  },
}

const refTo = (where: 'components' | 'channels/stream', name: string): object => ({
  $ref: `#/${where}/messages/${name}`,
})
const refs = (names: readonly string[]): object[] => names.map((name) => refTo('channels/stream', name))

const jsonMessage = (name: string, payload: TSchema): object => ({ name, contentType: JSON_TYPE, payload })

const binaryMessage = ({ name, summary }: typeof FRAMES): object => ({
  name,
  summary,
  contentType: BINARY_TYPE,
  payload: { type: 'string', format: 'binary' },
})

export function asyncApiRoute(app: App, version: string): void {
  app.get('/asyncapi.json', { schema: { hide: true } }, (request, reply) => {
    const protocol = request.protocol === 'https' ? 'wss' : 'ws'
    void reply.send(asyncApiOf(version, { host: request.host, protocol }))
  })
}
