/**
 * What an abuser works with: requests over HTTP, raw connections, WebSockets, and a tally of what it got. An
 * abuser runs until its process is killed, so nothing here cleans up.
 */
import { once } from 'node:events'
import http from 'node:http'
import net from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { WebSocket } from 'ws'
import type { Draw } from '../lib/draw.js'

export interface Abuser {
  readonly name: string
  /** What it does, in a few words for the report. */
  readonly does: string
  /** It must get one of these answers, or the suite fails: proof that it reached what it aims at. */
  readonly expects: readonly string[]
  /** How many loops of it run side by side. */
  readonly lanes: number
  readonly act: (field: Field) => Promise<void>
}

/** Answers by code: a status, the code of a problem, `close N` of a WebSocket, or CUT. */
export type Tally = Record<string, number>

/** The connection ended without an answer. */
export const CUT = 'cut'
const PROBLEM_CODE = /"code":"([A-Z_]+)"/
/** Of an answer, as much as a problem document needs. */
const KEPT_CHARS = 4_000
const PAUSE_AFTER_CUT_MS = 20

/** A piece of a body, and how often it is sent. */
export type Piece = readonly [bytes: Uint8Array | string, times: number]

export interface Body {
  readonly type?: string
  readonly pieces: readonly Piece[]
}

export class Field {
  readonly port: number
  readonly draw: Draw
  readonly #tally: Tally
  /** Keeps its connections, as one caller does. */
  readonly #agent = new http.Agent({ keepAlive: true })

  constructor(port: number, draw: Draw, tally: Tally) {
    this.port = port
    this.draw = draw
    this.#tally = tally
  }

  count(code: string): void {
    this.#tally[code] = (this.#tally[code] ?? 0) + 1
  }

  get(path: string, headers: http.OutgoingHttpHeaders = {}): Promise<string> {
    return this.send('GET', path, undefined, headers)
  }

  json(
    method: string,
    path: string,
    value: unknown,
    headers: http.OutgoingHttpHeaders = {},
  ): Promise<string> {
    return this.send(method, path, { pieces: [[JSON.stringify(value), 1]] }, headers)
  }

  /** Sends a request, reads its answer to the end, and counts it. Returns what was counted. */
  async send(
    method: string,
    path: string,
    body?: Body,
    headers: http.OutgoingHttpHeaders = {},
  ): Promise<string> {
    const request = this.request(method, path, body, headers)
    const code = await answerOf(request).catch(() => CUT)
    this.count(code)
    if (code === CUT) await sleep(PAUSE_AFTER_CUT_MS)
    return code
  }

  /** A request that is on its way. Errors of it are for the caller. */
  request(method: string, path: string, body: Body | undefined, headers: http.OutgoingHttpHeaders) {
    const length = body?.pieces.reduce((sum, [bytes, times]) => sum + Buffer.byteLength(bytes) * times, 0)
    const request = http.request({
      host: '127.0.0.1',
      port: this.port,
      agent: this.#agent,
      method,
      path,
      headers: {
        ...(body === undefined
          ? {}
          : { 'content-type': body.type ?? 'application/json', 'content-length': length }),
        ...headers,
      },
    })
    if (body === undefined) request.end()
    else void sendBody(request, body)
    return request
  }

  /** A connection of its own for bytes of any kind; undefined if it is refused. */
  async connect(): Promise<net.Socket | undefined> {
    const socket = net.connect(this.port, '127.0.0.1')
    socket.on('error', () => {})
    try {
      await once(socket, 'connect')
      return socket
    } catch {
      this.count(CUT)
      await sleep(PAUSE_AFTER_CUT_MS)
      return undefined
    }
  }

  /** Sends bytes over a connection of their own, and counts the status line that comes back within a time. */
  async raw(bytes: Uint8Array | string, withinMs: number): Promise<void> {
    const socket = await this.connect()
    if (socket === undefined) return
    let text = ''
    socket.on('data', (chunk: Buffer) => {
      if (text.length < KEPT_CHARS) text += chunk.toString('latin1')
    })
    socket.write(bytes)
    await Promise.race([once(socket, 'close'), sleep(withinMs)])
    socket.destroy()
    this.count(PROBLEM_CODE.exec(text)?.[1] ?? /^HTTP\/1\.1 (\d+)/.exec(text)?.[1] ?? CUT)
  }

  /** An open WebSocket; undefined if the server refuses it. */
  async stream(protocol = 'mmsb.v1.json'): Promise<WebSocket | undefined> {
    const socket = new WebSocket(`ws://127.0.0.1:${this.port}/v1/stream`, protocol, {
      perMessageDeflate: false,
    })
    socket.on('error', () => {})
    const refused = once(socket, 'unexpected-response').then(async ([, response]) => {
      this.count(await codeOf(response as http.IncomingMessage))
      socket.terminate()
      return undefined
    })
    refused.catch(() => {})
    try {
      return await Promise.race([once(socket, 'open').then(() => socket), refused])
    } catch {
      this.count(CUT)
      await sleep(PAUSE_AFTER_CUT_MS)
      return undefined
    }
  }

  /** Waits until a WebSocket is closed or a time has passed, and counts how it ended. */
  async ended(socket: WebSocket, withinMs: number): Promise<void> {
    const closed = once(socket, 'close').then(([code]) => `close ${code}`)
    const code = await Promise.race([closed, sleep(withinMs, 'stays open')])
    this.count(code)
    socket.terminate()
  }
}

/** The code of an answer, which is read to its end. */
async function codeOf(response: http.IncomingMessage): Promise<string> {
  let text = ''
  const isProblem = String(response.headers['content-type']).startsWith('application/problem')
  response.on('data', (chunk: Buffer) => {
    if (isProblem && text.length < KEPT_CHARS) text += chunk.toString('latin1')
  })
  const [isCut] = await Promise.race([
    once(response, 'end').then(() => [false]),
    once(response, 'close').then(() => [!response.complete]),
  ])
  if (isCut === true) return CUT
  return PROBLEM_CODE.exec(text)?.[1] ?? String(response.statusCode)
}

async function answerOf(request: http.ClientRequest): Promise<string> {
  const [response] = (await once(request, 'response')) as [http.IncomingMessage]
  return codeOf(response)
}

/** Stops when the server has answered, or ended the connection, before it read everything. */
async function sendBody(request: http.ClientRequest, { pieces }: Body): Promise<void> {
  let isOver = false
  let goOn = (): void => {}
  const stop = (): void => {
    isOver = true
    goOn()
  }
  request.once('close', stop).once('error', stop).once('response', stop)
  request.on('drain', () => goOn())
  for (const [bytes, times] of pieces) {
    for (let sent = 0; sent < times; sent++) {
      if (isOver) {
        request.destroy()
        return
      }
      if (!request.write(bytes) && !isOver) {
        await new Promise<void>((resolve) => {
          goOn = resolve
        })
      }
    }
  }
  request.end()
}
