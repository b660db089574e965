/**
 * A server that the test plays: sockets whose other end is the test, and timers that run when the test says
 * so. Nothing is listened to and nothing waits, so a test of a lost connection takes a millisecond.
 */
import type { Test } from 'tap'
import type { Message } from '../../src/client/codec/message.js'
import {
  Connection,
  type ConnectionOptions,
  type ConnectionUser,
  type SocketLike,
} from '../../src/client/stream/connection.js'
import { messageBody, messageHead } from '../../src/http/stream/binary-messages.js'
import type { StreamMessage } from '../../src/stream/messages.js'
import { turns } from '../lib/wait.js'

export type Json = Readonly<Record<string, unknown>>

/** What became of a promise: what is shown of its answer, the code of its error, or `pending`. */
export async function fate<T>(
  promise: Promise<T>,
  shown: (answer: T) => unknown = () => 'done',
): Promise<unknown> {
  const pending = turns().then(() => 'pending')
  return Promise.race([promise.then(shown, (error: { code?: string }) => error?.code ?? error), pending])
}

/** One socket. The test is the server at its other end. */
export class PlayedSocket implements SocketLike {
  binaryType = ''
  onopen: SocketLike['onopen'] = null
  onmessage: SocketLike['onmessage'] = null
  onerror: SocketLike['onerror'] = null
  onclose: SocketLike['onclose'] = null
  /** What the client sent. */
  readonly sent: (string | Uint8Array<ArrayBuffer>)[] = []
  /** How the client closed it. */
  readonly ended: (number | 'closed' | 'terminated')[] = []
  readonly url: string
  readonly protocol: string
  readonly terminate?: () => void

  constructor(url: string, protocol: string | string[], canTerminate: boolean) {
    this.url = url
    this.protocol = String(protocol)
    if (canTerminate) this.terminate = () => this.ended.push('terminated')
  }

  send(data: string | Uint8Array<ArrayBuffer>): void {
    this.sent.push(data)
  }

  close(code?: number): void {
    this.ended.push(code ?? 'closed')
  }

  /** The messages that the client sent as text. */
  get told(): Json[] {
    return this.sent.filter((data) => typeof data === 'string').map((data) => JSON.parse(data) as Json)
  }

  /** The server accepts the connection. */
  accept(): void {
    this.onopen?.(undefined as never)
  }

  /** The server sends text or bytes. */
  say(data: Json | string | Uint8Array): void {
    const sent =
      data instanceof Uint8Array
        ? Uint8Array.from(data).buffer
        : typeof data === 'string'
          ? data
          : JSON.stringify(data)
    this.onmessage?.({ data: sent } as never)
  }

  /** The connection is lost. */
  lose(): void {
    if (this.onerror === null) throw new Error('an error without a handler is uncaught')
    this.onerror(undefined as never)
    this.onclose?.(undefined as never)
  }
}

/** A message of a subscription, as a server with binary messages sends it. */
export function binary(id: string, message: StreamMessage): Uint8Array {
  const body = messageBody(message)
  return Buffer.concat([messageHead(id, message, body.length), body])
}

export interface Played {
  readonly connection: Connection
  /** All of them, the oldest first. */
  readonly sockets: readonly PlayedSocket[]
  /** The newest socket. */
  readonly socket: PlayedSocket
  /** The calls of the options, in order. */
  readonly calls: string[]
}

/** A connection to a played server. `given` replaces options. */
export function played(
  t: Test,
  given: Partial<ConnectionOptions> & { readonly canTerminate?: boolean } = {},
): Played {
  const { canTerminate = true, ...options } = given
  const sockets: PlayedSocket[] = []
  const calls: string[] = []
  const connection = new Connection({
    url: 'ws://x',
    protocol: 'json',
    open: (url, protocol) => {
      const socket = new PlayedSocket(url, protocol, canTerminate)
      sockets.push(socket)
      return socket
    },
    probe: async () => {
      calls.push('probe')
      return undefined
    },
    formOf: (page, epoch, id) => {
      calls.push(`form of ${page} at ${epoch} for ${id}`)
      return { dtype: 'u8', shape: [2] }
    },
    onHistoryChanged: () => calls.push('history'),
    ...options,
  })
  t.teardown(() => connection.failAll(undefined))
  return {
    connection,
    sockets,
    get socket() {
      return sockets.at(-1)!
    },
    calls,
  }
}

export interface Heard extends ConnectionUser {
  isListening: boolean
  readonly calls: string[]
  readonly messages: Message[]
  readonly failures: unknown[]
}

/** A user that writes down what it hears. */
export function user(name = 'user', shared: string[] = []): Heard {
  const messages: Message[] = []
  const failures: unknown[] = []
  const say = (what: string): void => {
    shared.push(`${name} ${what}`)
  }
  return {
    isListening: true,
    calls: shared,
    messages,
    failures,
    up: () => say('up'),
    down: () => say('down'),
    receive: (message) => {
      say(message.type)
      messages.push(message)
    },
    historyChanged: ({ code, extra }) => say(`${code} ${extra.history}`),
    fail: (error) => {
      say('failed')
      failures.push(error)
    },
  }
}

/** A connection that is open, with one user. */
export function opened(t: Test, given: Parameters<typeof played>[1] = {}) {
  const all = played(t, given)
  const mine = user()
  all.connection.attach(mine)
  all.socket.accept()
  return {
    ...all,
    mine,
    get socket() {
      return all.socket
    },
  }
}

interface Timer {
  readonly run: () => void
  dueMs: number
  /** Of an interval. */
  readonly everyMs: number | undefined
}

export interface Clock {
  /** Lets time pass: timers that become due run, in their order. */
  pass(ms: number): void
  /** How long the timers have to wait that are set, the shortest first. */
  readonly waits: readonly number[]
}

const clocks = new WeakMap<Test, Clock>()

/** Replaces the timers, and the clock, of the platform until the test ends; once for each test. */
export function clockOf(t: Test): Clock {
  const clock = clocks.get(t) ?? replacedClock(t)
  clocks.set(t, clock)
  return clock
}

function replacedClock(t: Test): Clock {
  let nowMs = 1000
  const timers = new Set<Timer>()
  const set = (run: () => void, ms: number, everyMs?: number): Timer => {
    const timer = { run, dueMs: nowMs + Math.max(ms, 1), everyMs }
    timers.add(timer)
    return timer
  }
  const { clearTimeout } = globalThis
  const clear = (timer: unknown): void => {
    if (!timers.delete(timer as Timer)) clearTimeout(timer as NodeJS.Timeout)
  }
  const replace = (name: string, value: unknown): void => {
    t.intercept(globalThis, name as 'setTimeout', { value: value as typeof setTimeout })
  }
  replace('setTimeout', (run: () => void, ms = 1) => set(run, ms))
  replace('setInterval', (run: () => void, ms: number) => set(run, ms, ms))
  replace('clearTimeout', clear)
  replace('clearInterval', clear)
  t.intercept(performance, 'now', { value: () => nowMs })
  return {
    pass: (ms) => {
      const endMs = nowMs + ms
      for (;;) {
        const [next] = [...timers].filter(({ dueMs }) => dueMs <= endMs).sort((a, b) => a.dueMs - b.dueMs)
        if (next === undefined) break
        nowMs = next.dueMs
        if (next.everyMs === undefined) timers.delete(next)
        else next.dueMs += next.everyMs
        next.run()
      }
      nowMs = endMs
    },
    get waits() {
      return [...timers].map(({ dueMs }) => dueMs - nowMs).sort((a, b) => a - b)
    },
  }
}
