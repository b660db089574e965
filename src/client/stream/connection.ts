/**
 * The one WebSocket of a client. Its subscriptions and writers (the users) share it; when it breaks, it is
 * opened again.
 *
 * How it works: a user that attaches gets `up` each time a connection is open, with nothing sent on it yet,
 * and `down` when it is lost. The first user opens the socket, the last one closes it. Ids of subscriptions
 * are never used twice, so late messages for a lost or ended subscription are dropped.
 *
 * Frames have no id: the server counts the frames of a connection from 1, those of all writers together. The
 * same count is kept here, and so is the writer of each frame.
 *
 * The history of the server becomes known with the first answer that names it. From then on every connection
 * is asked for under this history, so the ids of pages in frames mean the pages that they were read from.
 * When the server has another one, the users are told, and the next connection is under that.
 *
 * Invariants: `up` and `down` alternate; users receive messages in the order in which they came; the answer
 * to a frame reaches the writer that sent it and no other; the delay between attempts doubles until a
 * message arrives.
 *
 * Null because a WebSocket without a handler has it.
 */

import { BEARER_PROTOCOL, BINARY_PROTOCOL, JSON_PROTOCOL, LOGIN_ENDED } from '../../wire/messages.js'
import { decodeBinary, decodeText, type FormOf, type Message, type PageForm } from '../codec/message.js'
import { historyChanged, MmsbError, protocolError } from '../errors.js'
import { backoffMs } from '../http/backoff.js'
import type { Credentials } from '../http/credentials.js'
import { CLOSE_TIMEOUT_MS, CONNECT_TIMEOUT_MS, SILENCE_MAX_MS } from '../limits.js'

/** The part of the browser's WebSocket that the client uses. */
export interface SocketLike {
  binaryType: string
  onopen: ((event: never) => void) | null
  onmessage: ((event: never) => void) | null
  onerror: ((event: never) => void) | null
  onclose: ((event: never) => void) | null
  send(data: string | Uint8Array<ArrayBuffer>): void
  close(code?: number, reason?: string): void
  /** Only in `ws`: closes without waiting for an answer, which a dead peer would never send. */
  terminate?(): void
}

/** `protocols`: the subprotocol, and where a token is sent the one that carries it. */
export type OpenSocket = (url: string, protocols: string | string[]) => SocketLike

export interface ConnectionUser {
  /** Whether this user has a subscription, so that the server must send something every few seconds. */
  readonly isListening: boolean
  /** The shape of the window that the user asked for on a page. */
  windowOf?(page: string): readonly number[] | undefined
  up(): void
  down(): void
  receive(message: Message): void
  /**
   * The server has another history now: it was restored, repaired or replaced. Comes while the connection is
   * down.
   */
  historyChanged?(error: MmsbError): void
  /** The connection has failed for good. */
  fail(error: unknown): void
}

export interface ConnectionOptions {
  readonly url: string
  readonly protocol: 'binary' | 'json'
  readonly open: OpenSocket
  readonly credentials?: Credentials
  /**
   * After a failed attempt: the error if every attempt will fail, undefined if the server answers; rejects
   * when it does not.
   */
  readonly probe: () => Promise<MmsbError | undefined>
  readonly formOf: FormOf
  /** The server has another history: what is known of its pages is void. */
  readonly onHistoryChanged?: () => void
  readonly silenceMaxMs?: number | undefined
}

const PROTOCOLS = { binary: BINARY_PROTOCOL, json: JSON_PROTOCOL } as const
const NORMAL = 1000

/** UTF-8 in base64url, because a subprotocol has few characters. */
function bearerOf(token: string): string {
  const text = btoa(token).replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '')
  return `${BEARER_PROTOCOL}${text}`
}

export class Connection {
  readonly protocol: 'binary' | 'json'
  readonly #options: ConnectionOptions
  readonly #silenceMaxMs: number
  readonly #users = new Set<ConnectionUser>()
  readonly #byId = new Map<string, ConnectionUser>()
  /** By subscription: dtype and shape of the pages that text messages have named, until their deletion. */
  readonly #forms = new Map<string, Map<string, PageForm>>()
  #socket: SocketLike | undefined
  /** The history of the server, as far as it is known. */
  #history: string | undefined
  /** The history that the present socket was asked for under; read when it opens. */
  #socketHistory: string | undefined
  #isUp = false
  /** Requests that wait until the server is back, instead of trying by themselves. */
  readonly #waiting: (() => void)[] = []
  /** The function `token` is being asked. */
  #isAsking = false
  #attempts = 0
  #lastId = 0
  /** Number of the last frame sent on this connection. */
  #sequence = 0
  /** The writer of each unanswered frame of this connection. */
  readonly #senders = new Map<number, ConnectionUser>()
  #receivedMs = 0
  #retryTimer: ReturnType<typeof setTimeout> | undefined
  #silenceTimer: ReturnType<typeof setInterval> | undefined
  /** Runs until the socket is open. */
  #connectTimer: ReturnType<typeof setTimeout> | undefined
  /** Ends when all text messages received so far are decoded, in order; undefined if none is pending. */
  #decoding: Promise<void> | undefined

  constructor(options: ConnectionOptions) {
    this.#options = options
    this.protocol = options.protocol
    this.#silenceMaxMs = options.silenceMaxMs ?? SILENCE_MAX_MS
  }

  get isUp(): boolean {
    return this.#isUp
  }

  get history(): string | undefined {
    return this.#history
  }

  /** The server has named its history. */
  learn(history: string): void {
    const known = this.#history
    if (known === history) return
    this.#history = history
    // An open socket leads to the process that has just answered: one that died would have closed it.
    if (known === undefined) return
    this.#options.onHistoryChanged?.()
    this.renew()
    const error = historyChanged(history)
    for (const user of [...this.#users]) user.historyChanged?.(error)
  }

  /**
   * Resolves when the server may answer again, while this connection tries to reach it; undefined while it
   * does not.
   */
  whenBack(): Promise<void> | undefined {
    if (this.#isUp || this.#users.size === 0) return undefined
    return new Promise((resolve) => this.#waiting.push(resolve))
  }

  #tellBack(): void {
    for (const resolve of this.#waiting.splice(0)) resolve()
  }

  attach(user: ConnectionUser): void {
    this.#users.add(user)
    if (this.#isUp) user.up()
    else if (this.#socket === undefined && this.#retryTimer === undefined && !this.#isAsking) this.#open()
  }

  detach(user: ConnectionUser): void {
    this.#users.delete(user)
    for (const [id, other] of this.#byId) if (other === user) this.forget(id)
    if (this.#users.size === 0) this.#end()
  }

  /** A new id; messages with it go to `user`. */
  idFor(user: ConnectionUser, prefix: string): string {
    const id = `${prefix}${++this.#lastId}`
    this.#byId.set(id, user)
    return id
  }

  forget(id: string): void {
    this.#byId.delete(id)
    this.#forms.delete(id)
  }

  send(data: string | Uint8Array<ArrayBuffer>): void {
    if (this.#isUp) this.#socket?.send(data)
  }

  /** Sends a message with `count` frames of `user`; returns the number of the first. Only while `isUp`. */
  sendFrames(user: ConnectionUser, message: Uint8Array<ArrayBuffer>, count: number): number {
    const first = this.#sequence + 1
    this.#sequence += count
    for (let i = 0; i < count; i++) this.#senders.set(first + i, user)
    this.send(message)
    return first
  }

  /** Drops the connection and opens another. */
  renew(): void {
    if (this.#socket !== undefined) this.#lost(this.#socket)
  }

  /** Fails every user, then closes the connection. */
  failAll(error: unknown): void {
    for (const user of [...this.#users]) user.fail(error)
    this.#end()
  }

  #open(): void {
    const { url, open, credentials } = this.#options
    const token = credentials?.get()
    if (token instanceof Promise) {
      this.#openWith(token)
      return
    }
    this.#socketHistory = this.#history
    const query = this.#history === undefined ? '' : `?history=${this.#history}`
    const protocol = PROTOCOLS[this.protocol]
    const socket = open(url + query, token === undefined ? protocol : [protocol, bearerOf(token)])
    this.#socket = socket
    socket.binaryType = 'arraybuffer'
    this.#connectTimer = setTimeout(() => this.#lost(socket), CONNECT_TIMEOUT_MS)
    socket.onopen = () => this.#onOpen()
    socket.onmessage = (event: { data: unknown }) => this.#onData(socket, event.data)
    // A close follows every error, and is handled there.
    socket.onerror = () => {}
    socket.onclose = (event: { code?: number } | undefined) => {
      if (event?.code === LOGIN_ENDED) credentials?.renew(token)
      this.#lost(socket)
    }
  }

  /** Opens once there is a token. */
  #openWith(token: Promise<string>): void {
    this.#isAsking = true
    token.then(
      () => {
        this.#isAsking = false
        if (this.#users.size > 0 && this.#socket === undefined) this.#open()
      },
      (error: unknown) => {
        this.#isAsking = false
        this.failAll(error)
      },
    )
  }

  #onOpen(): void {
    clearTimeout(this.#connectTimer)
    if (this.#socketHistory !== this.#history && this.#socket !== undefined) {
      // The history became known while the socket was being opened, perhaps by a later process.
      this.#drop(this.#socket)
      this.#open()
      return
    }
    this.#isUp = true
    this.#receivedMs = performance.now()
    this.#silenceTimer = setInterval(() => this.#checkSilence(), this.#silenceMaxMs / 4)
    for (const user of [...this.#users]) user.up()
    this.#tellBack()
  }

  /** A half-dead connection sends nothing, not even a close. */
  #checkSilence(): void {
    if (performance.now() - this.#receivedMs < this.#silenceMaxMs) return
    if ([...this.#users].some((user) => user.isListening)) this.renew()
    else this.#receivedMs = performance.now()
  }

  #onData(socket: SocketLike, data: unknown): void {
    this.#receivedMs = performance.now()
    if (typeof data !== 'string') {
      this.#guarded(socket, () => {
        const messages = decodeBinary(data as ArrayBuffer)
        if (this.#decoding === undefined) for (const message of messages) this.#dispatch(message)
        else this.#inOrder(socket, async () => messages)
      })
      return
    }
    this.#inOrder(socket, async () => [
      this.#remembered(await decodeText(data, (...asked) => this.#formOf(...asked))),
    ])
  }

  #formOf(page: string, epoch: number, id: string): PageForm | Promise<PageForm> {
    const known = this.#forms.get(id)?.get(page)
    if (known !== undefined) return known
    const window = this.#byId.get(id)?.windowOf?.(page)
    const asked = Promise.resolve(this.#options.formOf(page, epoch, id))
    return window === undefined ? asked : asked.then(({ dtype }) => ({ dtype, shape: window }))
  }

  #remembered(message: Message): Message {
    if (message.type !== 'change' || !this.#byId.has(message.id)) return message
    const forms = this.#forms.get(message.id) ?? new Map<string, PageForm>()
    this.#forms.set(message.id, forms)
    for (const { page, kind, dtype, shape } of message.change.changes) {
      if (kind === 'deleted') forms.delete(page)
      else forms.set(page, { dtype, shape })
    }
    return message
  }

  #inOrder(socket: SocketLike, decode: () => Promise<readonly Message[]>): void {
    const before = this.#decoding ?? Promise.resolve()
    const mine: Promise<void> = before.then(async () => {
      if (this.#socket !== socket) return
      try {
        const messages = await decode()
        if (this.#socket === socket) for (const message of messages) this.#dispatch(message)
      } catch (error) {
        if (this.#socket === socket) this.#onUndecodable(error)
      }
      if (this.#decoding === mine) this.#decoding = undefined
    })
    this.#decoding = mine
  }

  #guarded(socket: SocketLike, run: () => void): void {
    try {
      run()
    } catch (error) {
      if (this.#socket === socket) this.#onUndecodable(error)
    }
  }

  /**
   * A message that cannot be decoded fails all users, since they would miss it; a network error only renews
   * the connection.
   */
  #onUndecodable(error: unknown): void {
    if (error instanceof MmsbError && (error.code === 'NETWORK' || error.code === 'TIMEOUT')) this.renew()
    else this.failAll(error instanceof MmsbError ? error : protocolError(String(error)))
  }

  #dispatch(message: Message): void {
    // A server that only refuses gets no quicker attempts.
    if (message.type !== 'error' && message.type !== 'refusal') this.#attempts = 0
    if (message.type === 'ack') {
      this.#acked(message)
      return
    }
    if (message.type === 'refusal') {
      this.#takeSender(message.sequence)?.receive(message)
      return
    }
    if ('history' in message) this.#history ??= message.history
    if (message.id !== undefined) this.#byId.get(message.id)?.receive(message)
    else if (message.type === 'error') this.failAll(message.error)
  }

  /** Splits an ack into runs of one sender each; usually there is one. */
  #acked(message: Extract<Message, { type: 'ack' }>): void {
    const end = Math.min(message.sequence + message.count, this.#sequence + 1)
    for (let next = message.sequence; next < end; ) {
      const sequence = next
      const sender = this.#takeSender(next++)
      while (next < end && sender !== undefined && this.#senders.get(next) === sender)
        this.#takeSender(next++)
      sender?.receive({ ...message, sequence, count: next - sequence })
    }
  }

  /** The sender of a frame, once: its answer is here. */
  #takeSender(sequence: number): ConnectionUser | undefined {
    const sender = this.#senders.get(sequence)
    this.#senders.delete(sequence)
    return sender !== undefined && this.#users.has(sender) ? sender : undefined
  }

  /** The present socket is lost. An older one is not heard any more. */
  #lost(socket: SocketLike): void {
    const wasUp = this.#isUp
    this.#drop(socket)
    for (const user of [...this.#users]) if (wasUp) user.down()
    if (this.#users.size === 0) return
    this.#retryTimer = setTimeout(
      () => {
        this.#retryTimer = undefined
        this.#open()
      },
      backoffMs(this.#attempts++),
    )
    if (!wasUp) this.#findCause()
  }

  /** A refused handshake looks like a failed one. An ordinary request tells them apart. */
  #findCause(): void {
    this.#options.probe().then(
      (error) => {
        if (error !== undefined && !this.#isUp) this.failAll(error)
        this.#tellBack()
      },
      () => {},
    )
  }

  #end(): void {
    clearTimeout(this.#retryTimer)
    this.#retryTimer = undefined
    // Nobody looks for the server any more.
    this.#tellBack()
    const socket = this.#socket
    if (socket === undefined) return
    this.#detachFrom(socket)
    // A peer that never answers the close would keep the process alive.
    const closeTimer = setTimeout(() => socket.terminate?.(), CLOSE_TIMEOUT_MS)
    socket.onclose = () => clearTimeout(closeTimer)
    socket.close(NORMAL)
  }

  #drop(socket: SocketLike): void {
    this.#detachFrom(socket)
    if (socket.terminate === undefined) socket.close()
    else socket.terminate()
  }

  #detachFrom(socket: SocketLike): void {
    socket.onopen = null
    socket.onmessage = null
    socket.onclose = null
    this.#socket = undefined
    this.#isUp = false
    this.#decoding = undefined
    this.#sequence = 0
    this.#senders.clear()
    clearTimeout(this.#connectTimer)
    clearInterval(this.#silenceTimer)
  }
}
