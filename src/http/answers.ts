/**
 * Answers in flight: how many bytes they hold, and whether their readers still read.
 *
 * Invariants: what an answer took is given back when its response has ended, however it ends. A reader that
 * takes nothing of a large answer for as long as a connection may be idle is cut off.
 */
import type { ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { ByteBudget } from '../byte-budget.js'
import { ANSWER_FREE_BYTES } from '../limits.js'
import type { LimitGuard } from '../operator-limits.js'

interface Watched {
  readonly socket: Socket
  /** Bytes that the network had taken at the last look. */
  takenBytes: number
  /** When it had not taken them yet. */
  sinceMs: number
}

/** How often readers are looked at while one may be idle for so long. */
const LOOKS = 4

export class Answers {
  readonly #limits: LimitGuard
  readonly #budget: ByteBudget
  readonly #watched = new Map<ServerResponse, Watched>()
  #timer: NodeJS.Timeout | undefined

  constructor(limits: LimitGuard) {
    this.#limits = limits
    this.#budget = new ByteBudget(limits, {
      all: 'answerBudgetBytes',
      each: 'answerBudgetPerConnectionBytes',
      what: 'answers',
    })
  }

  /** Bytes of answers in flight, without small ones. */
  get bytes(): number {
    return this.#budget.used
  }

  /** Makes room for an answer that holds so many bytes until it is sent. Throws OVERLOADED, RATE_LIMITED. */
  reserve({ raw, request }: FastifyReply, bytes: number): void {
    if (bytes <= ANSWER_FREE_BYTES) return
    const release = this.#take(request, raw, bytes)
    raw.once('finish', release)
    raw.once('close', release)
    this.#watch(raw)
  }

  /** Returns what gives the bytes back. */
  #take({ guardedBus }: FastifyRequest, raw: ServerResponse, bytes: number): () => void {
    const own = guardedBus?.usage?.takeAnswer(bytes)
    try {
      const { release } = this.#budget.take(raw.socket ?? raw, bytes)
      return () => {
        release()
        own?.()
      }
    } catch (error) {
      own?.()
      throw error
    }
  }

  /** For an answer that is made while it is sent: cuts its reader off when it stops reading. */
  watch({ raw }: FastifyReply): void {
    this.#watch(raw)
  }

  #watch(response: ServerResponse): void {
    const { socket } = response
    if (socket === null || this.#watched.has(response)) return
    this.#watched.set(response, { socket, takenBytes: 0, sinceMs: performance.now() })
    response.once('close', () => {
      this.#watched.delete(response)
      if (this.#watched.size > 0) return
      clearInterval(this.#timer)
      this.#timer = undefined
    })
    if (this.#timer !== undefined) return
    this.#timer = setInterval(() => this.#look(), this.#limits.values.idleTimeoutMs / LOOKS)
    this.#timer.unref()
  }

  #look(): void {
    const nowMs = performance.now()
    for (const watched of this.#watched.values()) {
      const { socket } = watched
      const taken = socket.bytesWritten - socket.writableLength
      if (taken !== watched.takenBytes || socket.writableLength === 0) {
        watched.takenBytes = taken
        watched.sinceMs = nowMs
      } else if (nowMs - watched.sinceMs >= this.#limits.values.idleTimeoutMs) {
        this.#limits.count('idleTimeoutMs')
        socket.destroy()
      }
    }
  }
}
