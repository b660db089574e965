/**
 * The one WebSocket of a client, shared by its subscriptions and writers, made again whenever it breaks.
 *
 * How it works: whoever attaches is told `up` each time a connection stands, with nothing sent on it yet, and `down` when it is lost.
 * The socket is opened with the first user and closed with the last. Ids of subscriptions are never used twice, so what a lost
 * or ended one still gets goes nowhere.
 *
 * Frames have no id: the server counts those of a connection, all writers' together, from 1. So they are numbered here, and here it is
 * known whose each one is.
 *
 * Invariants: `up` and `down` alternate; messages reach users in the order they came; the answer to a frame reaches the one who sent
 * it and nobody else; between tries there is a wait that doubles, until the server has spoken.
 */

import { BINARY_PROTOCOL, JSON_PROTOCOL } from '../../wire/messages.js'
import { decodeBinary, decodeText, type FormOf, type Message, type PageForm } from '../codec/message.js'
import { MmsbError, protocolError } from '../errors.js'
import { backoffMs } from '../http/backoff.js'
import { CLOSE_TIMEOUT_MS, CONNECT_TIMEOUT_MS, SILENCE_MAX_MS } from '../limits.js'

/** The part of the browsers' WebSocket that is used. */
export interface SocketLike {
  binaryType: string
  onopen: ((event: never) => void) | null
  onmessage: ((event: never) => void) | null
  onerror: ((event: never) => void) | null
  onclose: ((event: never) => void) | null
  send(data: string | Uint8Array<ArrayBuffer>): void
  close(code?: number, reason?: string): void
  /** Of `ws`: without the farewell that a dead peer would never answer. */
  terminate?(): void
}

export type OpenSocket = (url: string, protocol: string) => SocketLike

export interface LinkUser {
  /** Whether the server owes this user a sign of life every few seconds. */
  readonly isListening: boolean
  /** The shape of the window it has asked for on a page. */
  windowOf?(page: string): readonly number[] | undefined
  up(): void
  down(): void
  receive(message: Message): void
  /** There will be no connection. */
  fail(error: unknown): void
}

export interface LinkOptions {
  readonly url: string
  readonly protocol: 'binary' | 'json'
  readonly open: OpenSocket
  /** Why a connection that could not be made never will be; undefined if it may. */
  readonly probe: () => Promise<MmsbError | undefined>
  readonly formOf: FormOf
  readonly silenceMaxMs?: number | undefined
}

const PROTOCOLS = { binary: BINARY_PROTOCOL, json: JSON_PROTOCOL } as const
const NORMAL = 1000

export class Link {
  readonly protocol: 'binary' | 'json'
  readonly #options: LinkOptions
  readonly #silenceMaxMs: number
  readonly #users = new Set<LinkUser>()
  readonly #byId = new Map<string, LinkUser>()
  /** What text messages have told each subscription of its pages, until they are deleted. */
  readonly #forms = new Map<string, Map<string, PageForm>>()
  #socket: SocketLike | undefined
  #isUp = false
  #tries = 0
  #lastId = 0
  /** Of the last frame sent on this connection. */
  #sequence = 0
  /** Who sent the frames of this connection that are not answered. */
  readonly #senders = new Map<number, LinkUser>()
  #heardMs = 0
  #retryTimer: ReturnType<typeof setTimeout> | undefined
  #watch: ReturnType<typeof setInterval> | undefined
  /** Until the socket is open. */
  #late: ReturnType<typeof setTimeout> | undefined
  /** Text messages that wait to be decoded, in order; undefined when there are none. */
  #decoding: Promise<void> | undefined

  constructor(options: LinkOptions) {
    this.#options = options
    this.protocol = options.protocol
    this.#silenceMaxMs = options.silenceMaxMs ?? SILENCE_MAX_MS
  }

  get isUp(): boolean {
    return this.#isUp
  }

  attach(user: LinkUser): void {
    this.#users.add(user)
    if (this.#isUp) user.up()
    else if (this.#socket === undefined && this.#retryTimer === undefined) this.#open()
  }

  detach(user: LinkUser): void {
    this.#users.delete(user)
    for (const [id, other] of this.#byId) if (other === user) this.forget(id)
    if (this.#users.size === 0) this.#end()
  }

  /** An id whose messages go to `user`. */
  idFor(user: LinkUser, prefix: string): string {
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

  /** Sends a message of so many frames of `user`; returns the number of the first. Only while it is up. */
  sendFrames(user: LinkUser, message: Uint8Array<ArrayBuffer>, count: number): number {
    const first = this.#sequence + 1
    this.#sequence += count
    for (let i = 0; i < count; i++) this.#senders.set(first + i, user)
    this.send(message)
    return first
  }

  /** Gives the connection up and makes another. */
  renew(): void {
    if (this.#socket !== undefined) this.#lost(this.#socket)
  }

  /** Fails every user, then closes. */
  failAll(error: unknown): void {
    for (const user of [...this.#users]) user.fail(error)
    this.#end()
  }

  #open(): void {
    const { url, open } = this.#options
    const socket = open(url, PROTOCOLS[this.protocol])
    this.#socket = socket
    socket.binaryType = 'arraybuffer'
    this.#late = setTimeout(() => this.#lost(socket), CONNECT_TIMEOUT_MS)
    socket.onopen = () => this.#onOpen()
    socket.onmessage = (event: { data: unknown }) => this.#onData(socket, event.data)
    // An error is followed by a close, which is where it is dealt with.
    socket.onerror = () => {}
    socket.onclose = () => this.#lost(socket)
  }

  #onOpen(): void {
    clearTimeout(this.#late)
    this.#isUp = true
    this.#heardMs = performance.now()
    this.#watch = setInterval(() => this.#listen(), this.#silenceMaxMs / 4)
    for (const user of [...this.#users]) user.up()
  }

  /** A connection that has gone half dead says nothing, not even that it is closed. */
  #listen(): void {
    if (performance.now() - this.#heardMs < this.#silenceMaxMs) return
    if ([...this.#users].some((user) => user.isListening)) this.renew()
    else this.#heardMs = performance.now()
  }

  #onData(socket: SocketLike, data: unknown): void {
    this.#heardMs = performance.now()
    if (typeof data !== 'string') {
      this.#guarded(socket, () => {
        const messages = decodeBinary(data as ArrayBuffer)
        if (this.#decoding === undefined) for (const message of messages) this.#dispatch(message)
        else this.#inOrder(socket, async () => messages)
      })
      return
    }
    this.#inOrder(socket, async () => [
      this.#learned(await decodeText(data, (...asked) => this.#formOf(...asked))),
    ])
  }

  #formOf(page: string, epoch: number, id: string): PageForm | Promise<PageForm> {
    const known = this.#forms.get(id)?.get(page)
    if (known !== undefined) return known
    const window = this.#byId.get(id)?.windowOf?.(page)
    const asked = Promise.resolve(this.#options.formOf(page, epoch, id))
    return window === undefined ? asked : asked.then(({ dtype }) => ({ dtype, shape: window }))
  }

  #learned(message: Message): Message {
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
        if (this.#socket === socket) this.#onNonsense(error)
      }
      if (this.#decoding === mine) this.#decoding = undefined
    })
    this.#decoding = mine
  }

  #guarded(socket: SocketLike, run: () => void): void {
    try {
      run()
    } catch (error) {
      if (this.#socket === socket) this.#onNonsense(error)
    }
  }

  /** What cannot be read is the end of all who rely on having read everything, unless only the network was at fault. */
  #onNonsense(error: unknown): void {
    if (error instanceof MmsbError && (error.code === 'NETWORK' || error.code === 'TIMEOUT')) this.renew()
    else this.failAll(error instanceof MmsbError ? error : protocolError(String(error)))
  }

  #dispatch(message: Message): void {
    // A server that only refuses is not asked more often for it.
    if (message.type !== 'error' && message.type !== 'refusal') this.#tries = 0
    if (message.type === 'ack') {
      this.#acked(message)
      return
    }
    if (message.type === 'refusal') {
      this.#senderOf(message.sequence)?.receive(message)
      return
    }
    if (message.id !== undefined) this.#byId.get(message.id)?.receive(message)
    else if (message.type === 'error') this.failAll(message.error)
  }

  /** Tells each sender of its own: in runs, for most often one has sent them all. */
  #acked(message: Extract<Message, { type: 'ack' }>): void {
    const end = Math.min(message.sequence + message.count, this.#sequence + 1)
    for (let next = message.sequence; next < end; ) {
      const sequence = next
      const sender = this.#senderOf(next++)
      while (next < end && sender !== undefined && this.#senders.get(next) === sender) this.#senderOf(next++)
      sender?.receive({ ...message, sequence, count: next - sequence })
    }
  }

  /** Whose frame this was; asked once, when it is answered. */
  #senderOf(sequence: number): LinkUser | undefined {
    const sender = this.#senders.get(sequence)
    this.#senders.delete(sequence)
    return sender !== undefined && this.#users.has(sender) ? sender : undefined
  }

  #lost(socket: SocketLike): void {
    if (this.#socket !== socket) return
    const wasUp = this.#isUp
    this.#drop(socket)
    for (const user of [...this.#users]) if (wasUp) user.down()
    if (this.#users.size === 0) return
    this.#retryTimer = setTimeout(
      () => {
        this.#retryTimer = undefined
        if (this.#users.size > 0) this.#open()
      },
      backoffMs(this.#tries++),
    )
    if (!wasUp) this.#askWhy()
  }

  /** A handshake that is refused looks like one that failed: an ordinary request tells them apart. */
  #askWhy(): void {
    this.#options.probe().then(
      (error) => {
        if (error !== undefined && !this.#isUp) this.failAll(error)
      },
      () => {},
    )
  }

  #end(): void {
    clearTimeout(this.#retryTimer)
    this.#retryTimer = undefined
    const socket = this.#socket
    if (socket === undefined) return
    this.#detachFrom(socket)
    // One that has no answer to a farewell would hold the process.
    const dead = setTimeout(() => socket.terminate?.(), CLOSE_TIMEOUT_MS)
    socket.onclose = () => clearTimeout(dead)
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
    clearTimeout(this.#late)
    clearInterval(this.#watch)
  }
}
