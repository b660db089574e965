/**
 * A polite writer and a polite subscriber, and everything they were promised. The writer sends small deltas
 * at fixed times, over REST and over the binary WebSocket in turn, and writes each element once, with a value
 * of its own: so every acknowledged write can be looked for in the end. Latencies count from the time that a
 * write was due, so a server that stalls is not asked less often.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Client } from '../../src/client/client.js'
import { connect } from '../../src/client/node.js'
import type { Subscription } from '../../src/client/stream/subscription.js'
import type { Writer } from '../../src/client/stream/writer.js'

/** One write in this time, by each way. */
const EVERY_MS = 25
const PAGES = ['polite.rest', 'polite.stream'] as const
type PageName = (typeof PAGES)[number]

/** The value of an element: never 0, and another one for each element. */
const valueAt = (index: number): number => (index + 1) * 1.5

export interface Latencies {
  readonly rest: number[]
  readonly stream: number[]
  /** From when a write was due until the subscriber had it. */
  readonly delivery: number[]
}
export const noLatencies = (): Latencies => ({ rest: [], stream: [], delivery: [] })

interface Ways {
  readonly page: PageName
  readonly into: 'rest' | 'stream'
  readonly write: (index: number) => Promise<{ readonly epoch: number }>
}

export class Polite {
  readonly faults: string[] = []
  /** Where latencies are counted now. A write belongs to the window in which it was due. */
  latencies = noLatencies()
  readonly #client: Client
  readonly #writer: Writer
  readonly #subscription: Subscription
  readonly #elements: number
  /** Index to epoch of each acknowledged write, and when each write was due. */
  readonly #acknowledged: Record<PageName, Map<number, number>>
  readonly #due = new Map<string, { readonly atMs: number; readonly into: Latencies }>()
  readonly #seen: Record<PageName, Float64Array>
  #lastSeen = 0
  readonly #epochsSeen = new Set<number>()
  readonly #reading: Promise<void>
  readonly #hasSnapshot: Promise<void>
  #onSnapshot = (): void => {}
  readonly #next: Record<PageName, number> = { 'polite.rest': 0, 'polite.stream': 0 }
  #inFlight = 0
  #timer: NodeJS.Timeout | undefined
  #isGivenUp = false

  private constructor(client: Client, elements: number) {
    this.#client = client
    this.#elements = elements
    this.#writer = client.writer()
    this.#subscription = client.subscribe({ pages: ['polite.*'], from: 'snapshot' })
    this.#acknowledged = { 'polite.rest': new Map(), 'polite.stream': new Map() }
    this.#seen = {
      'polite.rest': new Float64Array(elements),
      'polite.stream': new Float64Array(elements),
    }
    this.#hasSnapshot = new Promise((resolve) => {
      this.#onSnapshot = resolve
    })
    this.#reading = this.#read().catch((error: unknown) => {
      this.faults.push(`the subscription ended: ${String(error)}`)
    })
  }

  /** Creates the pages, one element for each write that the time allows. */
  static async start(url: string, seconds: number): Promise<Polite> {
    const elements = Math.ceil((seconds * 1_000 * 2) / EVERY_MS)
    const client = connect(url, { timeoutMs: 60_000 })
    for (const page of PAGES) await client.create(page, { dtype: 'f64', shape: [elements] })
    await client.derive('polite.sum', {
      op: 'map',
      inputs: { a: 'polite.rest', b: 'polite.stream' },
      expr: 'a + b',
    })
    const polite = new Polite(client, elements)
    // What was written before would be in the snapshot.
    await Promise.race([polite.#hasSnapshot, polite.#reading])
    return polite
  }

  /** Writes from now on. */
  begin(): void {
    const ways: readonly Ways[] = [
      {
        page: 'polite.rest',
        into: 'rest',
        write: (offset) =>
          this.#client.patch('polite.rest', { offset, values: Float64Array.of(valueAt(offset)) }),
      },
      {
        page: 'polite.stream',
        into: 'stream',
        write: (offset) =>
          this.#writer.patch('polite.stream', { offset, values: Float64Array.of(valueAt(offset)) }),
      },
    ]
    let dueMs = performance.now()
    const tick = (): void => {
      for (const way of ways) void this.#write(way, dueMs)
      dueMs += EVERY_MS
      this.#timer = setTimeout(tick, Math.max(0, dueMs - performance.now()))
    }
    tick()
  }

  async #write({ page, into, write }: Ways, atMs: number): Promise<void> {
    const index = this.#next[page]++
    if (index >= this.#elements) return
    const { latencies } = this
    this.#due.set(`${page} ${index}`, { atMs, into: latencies })
    this.#inFlight++
    try {
      const { epoch } = await write(index)
      latencies[into].push(performance.now() - atMs)
      this.#acknowledged[page].set(index, epoch)
    } catch (error) {
      if (!this.#isGivenUp) this.faults.push(`a polite write was refused: ${String(error)}`)
    }
    this.#inFlight--
  }

  async #read(): Promise<void> {
    for await (const { type, epoch, changes } of this.#subscription) {
      if (type === 'snapshot') {
        this.#onSnapshot()
      } else {
        if (epoch <= this.#lastSeen) this.faults.push(`epoch ${epoch} came after ${this.#lastSeen}`)
        this.#lastSeen = epoch
        this.#epochsSeen.add(epoch)
      }
      for (const { page, ranges = [], values } of changes) {
        if (page !== 'polite.rest' && page !== 'polite.stream') continue
        let from = 0
        for (const [offset, count] of ranges) {
          for (let i = 0; i < count; i++) this.#take(page, offset + i, Number(values?.[from + i]))
          from += count
        }
      }
    }
  }

  #take(page: PageName, index: number, value: number): void {
    this.#seen[page][index] = value
    const key = `${page} ${index}`
    const due = this.#due.get(key)
    if (due === undefined) return
    this.#due.delete(key)
    due.into.delivery.push(performance.now() - due.atMs)
  }

  /** Writes no more, and waits until everything is answered and delivered. */
  async finish(withinMs: number): Promise<void> {
    clearTimeout(this.#timer)
    const latestMs = performance.now() + withinMs
    while ((this.#inFlight > 0 || this.#undelivered().length > 0) && performance.now() < latestMs)
      await sleep(20)
    if (this.#inFlight > 0) this.faults.push(`${this.#inFlight} polite writes were never answered`)
    for (const missed of this.#undelivered().slice(0, 5)) this.faults.push(`the subscriber missed ${missed}`)
  }

  #undelivered(): string[] {
    return PAGES.flatMap((page) =>
      [...this.#acknowledged[page]]
        .filter(
          ([index, epoch]) => !this.#epochsSeen.has(epoch) || this.#seen[page][index] !== valueAt(index),
        )
        .map(([index, epoch]) => `element ${index} of ${page}, epoch ${epoch}`),
    )
  }

  /** Writes no more, whatever is on its way: the server has been killed. */
  async giveUp(): Promise<void> {
    this.#isGivenUp = true
    clearTimeout(this.#timer)
    await this.#subscription.close()
    await this.#client.close()
    await this.#reading
  }

  get acknowledgedCount(): number {
    return PAGES.reduce((sum, page) => sum + this.#acknowledged[page].size, 0)
  }

  /** Acknowledged writes that a server does not have. */
  async missingOn(url: string): Promise<string[]> {
    const client = connect(url)
    try {
      const missing: string[] = []
      for (const page of PAGES) {
        const { values } = await client.read(page)
        for (const [index, epoch] of this.#acknowledged[page])
          if (Number(values[index]) !== valueAt(index))
            missing.push(`element ${index} of ${page}, acknowledged as epoch ${epoch}`)
      }
      return missing
    } finally {
      await client.close()
    }
  }
}
