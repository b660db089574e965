/**
 * What is no request at all: bytes that HTTP cannot read, headers past the limit, a request that never ends. It is answered with
 * a problem document like any other error, and ends its connection.
 *
 * Invariants: a connection is answered once; an error behind a request that is being answered waits for that answer, so that
 * nobody takes it for it; who is still sending has a moment to read why, before the connection is reset.
 */
import type { Server, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import { MmsbError } from '../../errors.js'
import { HTTP_ERROR_LINGER_MS, HTTP_HEADERS_MAX_BYTES } from '../../limits.js'
import { rawProblem } from '../reply/problem.js'

type ClientError = NodeJS.ErrnoException & { readonly reason?: string }

const answered = new WeakSet<Duplex>()

/** Answers what made the parser of a connection give up; `response` is what is owed on it. */
export function answerClientError(error: ClientError, socket: Duplex, response: ServerResponse | null): void {
  if (error.code === 'ECONNRESET' || socket.destroyed || answered.has(socket)) return
  answered.add(socket)
  const isBehind = response?.req.complete === true
  if (isBehind) response.once('close', () => endWith(socket, clientError(error)))
  else if (response?.headersSent === true) socket.destroy()
  else endWith(socket, clientError(error))
}

/** Sends a problem document, the last on its connection. */
export function endWith(socket: Duplex, error: MmsbError): void {
  if (!socket.writable) {
    socket.destroy()
    return
  }
  const cut = setTimeout(() => socket.destroy(), HTTP_ERROR_LINGER_MS)
  socket.once('close', () => clearTimeout(cut))
  socket.end(rawProblem(error))
}

function clientError({ code, reason, message }: ClientError): MmsbError {
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT') {
    return new MmsbError('REQUEST_TIMEOUT', 'the request did not come to its end in time')
  }
  if (code === 'HPE_HEADER_OVERFLOW') {
    const detail = `the request line and the headers are larger than ${HTTP_HEADERS_MAX_BYTES} bytes`
    return new MmsbError('HEADERS_TOO_LARGE', detail)
  }
  return new MmsbError('INVALID_REQUEST', `this is not HTTP/1.1: ${reason ?? message}`)
}

/** What a server of Node would otherwise answer itself, or not at all. */
export function answerOddities(server: Server): void {
  server.on('connect', (_request, socket) => {
    socket.on('error', () => {})
    endWith(socket, new MmsbError('INVALID_REQUEST', 'CONNECT: this server is no proxy'))
  })
  // An expectation nobody knows may be ignored (RFC 9110, 10.1.1).
  server.on('checkExpectation', (request, response) => server.emit('request', request, response))
}
