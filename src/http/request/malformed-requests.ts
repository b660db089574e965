/**
 * Input that never becomes a request: bytes that are not HTTP, headers over the limit, a request that does
 * not end in time. It is answered with a problem document like any other error, and its connection is closed.
 *
 * Invariants: a connection gets one such answer. An error behind a request that is being answered waits for
 * that answer, so that the client does not mistake one for the other. A client that is still sending has a
 * moment to read the error before its connection is reset.
 */
import type { Server, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import { MmsbError } from '../../errors.js'
import { HTTP_ERROR_LINGER_MS, HTTP_HEADERS_MAX_BYTES } from '../../limits.js'
import { rawProblem } from '../reply/problem.js'

type ParserError = NodeJS.ErrnoException & { readonly reason?: string }

const answered = new WeakSet<Duplex>()

/** Answers an error of the HTTP parser. `response` is the one the connection still waits for. */
export function answerMalformed(
  error: ParserError,
  socket: Duplex,
  response: ServerResponse | undefined,
): void {
  if (error.code === 'ECONNRESET' || socket.destroyed || answered.has(socket)) return
  answered.add(socket)
  const isBehind = response?.req.complete === true
  if (isBehind) response.once('close', () => endWith(socket, problemFor(error)))
  else if (response?.headersSent === true) socket.destroy()
  else endWith(socket, problemFor(error))
}

/** Sends a problem document as a raw response and closes the connection. */
export function endWith(
  socket: Duplex,
  error: MmsbError,
  headers: Readonly<Record<string, string>> = {},
): void {
  if (!socket.writable) {
    socket.destroy()
    return
  }
  const cut = setTimeout(() => socket.destroy(), HTTP_ERROR_LINGER_MS)
  socket.once('close', () => clearTimeout(cut))
  socket.end(rawProblem(error, headers))
}

function problemFor({ code, reason, message }: ParserError): MmsbError {
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT') {
    return new MmsbError('REQUEST_TIMEOUT', 'the request was not complete in time')
  }
  if (code === 'HPE_HEADER_OVERFLOW') {
    const detail = `request line and headers are larger than ${HTTP_HEADERS_MAX_BYTES} bytes`
    return new MmsbError('HEADERS_TOO_LARGE', detail)
  }
  return new MmsbError('INVALID_REQUEST', `this is not HTTP/1.1: ${reason ?? message}`)
}

/** Takes over requests that Node would answer itself, or not at all. */
export function answerOddRequests(server: Server): void {
  server.on('connect', (_request, socket) => {
    socket.on('error', () => {})
    endWith(socket, new MmsbError('INVALID_REQUEST', 'CONNECT: this server is not a proxy'))
  })
  // Node would ask for every body at once: limitBodies() asks for those that are wanted.
  server.on('checkContinue', (request, response) => server.emit('request', request, response))
  // An unknown expectation may be ignored (RFC 9110, 10.1.1).
  server.on('checkExpectation', (request, response) => server.emit('request', request, response))
}
