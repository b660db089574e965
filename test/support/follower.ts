/** Readers that lose their connection, pause and come back, and record every message. */
import { createHash } from 'node:crypto'
import { WebSocket } from 'ws'
import { type Message, Mirror } from '../stream/helpers.js'

/** Steady; loses its connection now and then; pauses now and then; never reads. */
export type Habit = 'steady' | 'flaky' | 'slow' | 'stalled'

export interface FollowerOptions {
  readonly port: number
  readonly pages: readonly string[]
  /** Where it starts; later it resumes from the last epoch it was told of. */
  readonly from: 'now' | 'snapshot' | number
  readonly habit: Habit
  readonly random: (below: number) => number
  /** Called with each change after the mirror has applied it. */
  readonly onChange?: (mirror: Mirror, message: Message) => void
}

/** The record of a message. */
export interface Told {
  readonly type: string
  readonly epoch: number
  readonly first: number
  readonly pages: readonly string[]
  /** Page and digest of each change. */
  readonly digests: string
}

/** The record of one subscription. */
export interface Session {
  /** The epoch that it was told it starts from. */
  readonly from: number
  readonly messages: Told[]
}

export const digestOf = (value: unknown): string =>
  createHash('sha1').update(JSON.stringify(value)).digest('hex')

const RECONNECT_MS = 20

export class Follower {
  readonly options: FollowerOptions
  sessions: Session[] = []
  readonly mirror = new Mirror()
  readonly faults: string[] = []
  overflows = 0
  /** The last epoch it was told of; undefined before the first. */
  cursor: number | undefined
  #socket: WebSocket | undefined
  #timer: NodeJS.Timeout | undefined
  #isOver = false
  #habit: Habit

  constructor(options: FollowerOptions) {
    this.options = options
    this.#habit = options.habit
    this.#connect()
  }

  /** From now on reads to the end, without losing its connection or pausing. */
  behave(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.#socket?.resume()
    this.#habit = 'steady'
    if (this.#socket === undefined) this.#connect()
  }

  stop(): void {
    this.#isOver = true
    clearTimeout(this.#timer)
    this.#socket?.terminate()
  }

  /** All changes of all sessions. */
  changes(): Told[] {
    return this.sessions.flatMap(({ messages }) => messages.filter(({ type }) => type === 'change'))
  }

  #connect(): void {
    if (this.#isOver) return
    const socket = new WebSocket(`ws://127.0.0.1:${this.options.port}/v1/stream`)
    this.#socket = socket
    socket.on('error', () => {})
    socket.on('open', () => {
      this.#subscribe(socket)
      this.#misbehave(socket)
    })
    socket.on('message', (data: Buffer) => {
      if (socket === this.#socket) this.#take(socket, JSON.parse(data.toString()) as Message)
    })
    socket.on('close', () => {
      if (socket === this.#socket) setTimeout(() => this.#connect(), RECONNECT_MS)
    })
  }

  #subscribe(socket: WebSocket): void {
    const from = this.cursor ?? this.options.from
    socket.send(JSON.stringify({ type: 'subscribe', id: 'f', pages: this.options.pages, from }))
  }

  #misbehave(socket: WebSocket): void {
    const { random } = this.options
    const habit = this.#habit
    if (habit === 'steady') return
    if (habit === 'stalled') {
      socket.pause()
      return
    }
    this.#timer = setTimeout(
      () => {
        if (habit === 'flaky') {
          // Data in the socket's buffers is lost: it was sent, but not read.
          this.#socket = undefined
          socket.terminate()
          this.#timer = setTimeout(() => this.#connect(), random(3) === 0 ? 500 : RECONNECT_MS)
          return
        }
        if (socket.isPaused) socket.resume()
        else socket.pause()
        this.#misbehave(socket)
      },
      habit === 'flaky' ? 30 + random(600) : 100 + random(400),
    )
  }

  #take(socket: WebSocket, message: Message): void {
    if (message.type === 'subscribed') {
      if (this.cursor === undefined) this.sessions = []
      this.sessions.push({ from: message.epoch!, messages: [] })
      // A reader that starts with a snapshot has no state before it.
      if (this.options.from !== 'snapshot') this.cursor ??= message.epoch!
      if (this.cursor !== undefined && this.cursor !== message.epoch!)
        this.faults.push(`resumed at ${message.epoch}, not ${this.cursor}`)
      return
    }
    const { type, resumeFrom = 0, epoch = resumeFrom, first = 0, changes = [] } = message
    const pages = changes.map(({ page }) => page)
    const digests = changes.map((change) => `${change.page} ${digestOf(change)}`).join()
    this.sessions.at(-1)?.messages.push({ type, epoch, first, pages, digests })
    if (message.type === 'overflow') {
      this.overflows++
      // It may be later than the last message, if no epoch in between changed these pages.
      if (resumeFrom < (this.cursor ?? 0))
        this.faults.push(`overflow says ${resumeFrom}, told up to ${this.cursor}`)
      this.cursor = resumeFrom
      this.#subscribe(socket)
    } else if (message.type === 'change' || message.type === 'snapshot') {
      this.mirror.apply(message)
      this.cursor = message.epoch!
      if (message.type === 'change') this.options.onChange?.(this.mirror, message)
    } else if (message.type === 'progress') {
      this.cursor = Math.max(this.cursor ?? 0, message.epoch!)
    } else {
      this.faults.push(JSON.stringify(message).slice(0, 300))
    }
  }
}
