/**
 * Asks several servers at the same moments how long /livez takes: the one under test and a bare Fastify.
 * Also reads how much memory the process under test holds.
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import http from 'node:http'
import { moduleUrl, NODE_ARGS } from '../lib/place.js'

const BARE = new URL(moduleUrl('test/abuse/bare.ts'))
const EVERY_MS = 50
const TIMEOUT_MS = 30_000

/** A bare Fastify in a process of its own, left alone or a target for abusers. */
export class Bare {
  readonly port: number
  readonly #stop: () => void

  private constructor(port: number, stop: () => void) {
    this.port = port
    this.#stop = stop
  }

  static async start(role: 'alone' | 'target'): Promise<Bare> {
    const { NODE_OPTIONS: _, ...env } = process.env
    const child = fork(BARE, [role], { execArgv: [...NODE_ARGS], env })
    const [port] = (await once(child, 'message')) as [number]
    return new Bare(port, () => child.kill('SIGKILL'))
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`
  }

  stop(): void {
    this.#stop()
  }
}

/** Probes one address from start to stop, at fixed times, whether or not the last probe was answered. */
export class Probe {
  /** How long each answer took from the time it was due, in ms; a lost one counts as it ended. */
  latenciesMs: number[] = []
  lost = 0
  readonly #url: string
  readonly #agent = new http.Agent({ keepAlive: true })
  #timer: NodeJS.Timeout | undefined

  constructor(url: string) {
    this.#url = url
  }

  start(): void {
    let dueMs = performance.now()
    const tick = (): void => {
      void this.#ask(dueMs)
      dueMs += EVERY_MS
      this.#timer = setTimeout(tick, Math.max(0, dueMs - performance.now()))
    }
    tick()
  }

  /** Stops; waits for the answers that are out. */
  stop(): void {
    clearTimeout(this.#timer)
  }

  close(): void {
    this.#agent.destroy()
  }

  async #ask(dueMs: number): Promise<void> {
    const into = this.latenciesMs
    if (!(await this.#isAnswered())) this.lost++
    into.push(performance.now() - dueMs)
  }

  async #isAnswered(): Promise<boolean> {
    const request = http.get(`${this.#url}/livez`, { agent: this.#agent, timeout: TIMEOUT_MS })
    request.on('timeout', () => request.destroy())
    try {
      const [response] = (await once(request, 'response')) as [http.IncomingMessage]
      response.resume()
      await once(response, 'end')
      return response.statusCode === 200
    } catch {
      // The server may close an idle connection while a request is on its way to it.
      return request.reusedSocket ? this.#isAnswered() : false
    }
  }
}

/** A field of /proc/PID/status in bytes: `VmRSS`, or `VmHWM`, the most it ever was. */
export function memoryOf(pid: number, field: 'VmRSS' | 'VmHWM'): number {
  const found = new RegExp(`^${field}:\\s+(\\d+) kB$`, 'm').exec(readFileSync(`/proc/${pid}/status`, 'utf8'))
  if (found === null) throw new Error(`/proc/${pid}/status has no ${field}`)
  return Number(found[1]) * 1024
}
