/**
 * WebSocket frames as bytes (RFC 6455, 5.2), unmasked as a server sends them.
 *
 * The library would frame a message to a thousand readers a thousand times. Here it is framed once, and the
 * same bytes are written to each socket.
 */
import { jsonHead, jsonTail, type StreamMessage } from '../../stream/messages.js'
import { messageBody, messageHead } from './binary-messages.js'
import { encodingOf } from './large-messages.js'
import type { MessageEncoder } from './socket-sink.js'

const FIN_TEXT = 0x81
const FIN_BINARY = 0x82

/** A larger payload is not copied behind its header but written after it. */
const COPY_MAX_BYTES = 16 * 1024

function headerOf(first: number, payloadBytes: number): Buffer {
  if (payloadBytes < 126) return Buffer.from([first, payloadBytes])
  if (payloadBytes < 65_536) return Buffer.from([first, 126, payloadBytes >> 8, payloadBytes & 0xff])
  const header = Buffer.alloc(10)
  header[0] = first
  header[1] = 127
  header.writeUIntBE(payloadBytes, 4, 6)
  return header
}

/** The bytes of one WebSocket frame, in pieces. */
export type WsFrame = readonly Buffer[]

/** A text message. */
export function textFrame(text: string): WsFrame {
  const bytes = Buffer.byteLength(text)
  const header = headerOf(FIN_TEXT, bytes)
  const frame = Buffer.allocUnsafe(header.length + bytes)
  header.copy(frame)
  frame.write(text, header.length)
  return [frame]
}

/** A binary message. */
export const binaryFrame = (payload: Buffer): WsFrame => [headerOf(FIN_BINARY, payload.length), payload]

/** A message of a head and a tail, which are copied together unless the tail is large. */
function framed(first: number, head: Buffer, tail: readonly Buffer[]): WsFrame {
  const header = headerOf(first, head.length + lengthOf(tail))
  return tail.length > 1 || lengthOf(tail) > COPY_MAX_BYTES
    ? [Buffer.concat([header, head]), ...tail]
    : [Buffer.concat([header, head, ...tail])]
}

function lengthOf(pieces: readonly Buffer[]): number {
  let sum = 0
  for (const { length } of pieces) sum += length
  return sum
}

/** Stream messages in JSON. */
export const JSON_ENCODER: MessageEncoder = {
  encode: jsonFrame,
  later: (message) => encodingOf('json', message),
}

/** Stream messages in the layout of mmsb.v1.bin. */
export const BINARY_ENCODER: MessageEncoder = {
  encode: streamFrame,
  later: (message) => encodingOf('bin', message),
}

/** A message to subscription `id`. It is encoded once for all readers with this id. */
function jsonFrame(id: string, message: StreamMessage): WsFrame {
  if (!('encoded' in message)) return textFrame(jsonHead(message.type, id) + jsonTail(message))
  return message.encoded(`ws ${id}`, () => {
    const tail = message.encoded('json', () => [Buffer.from(jsonTail(message))])
    return framed(FIN_TEXT, Buffer.from(jsonHead(message.type, id)), tail)
  })
}

/** The same in binary. */
function streamFrame(id: string, message: StreamMessage): WsFrame {
  if (!('encoded' in message)) {
    const body = messageBody(message)
    return framed(FIN_BINARY, messageHead(id, message, body.length), [body])
  }
  return message.encoded(`bin ${id}`, () => {
    const body = message.encoded('bin', () => [messageBody(message)])
    return framed(FIN_BINARY, messageHead(id, message, lengthOf(body)), body)
  })
}
