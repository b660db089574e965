/** A clock, a bus and readers that a test of the hub controls step by step. */
import { Cursors } from '../../src/engine/durable-cursors.js'
import type {
  CommitEvent,
  PageChange,
  PastEpoch,
  PastEpochs,
  PastEpochsQuery,
} from '../../src/engine/types.js'
import { MmsbError } from '../../src/errors.js'
import { LimitGuard, type Limits } from '../../src/operator-limits.js'
import { patternSet } from '../../src/state/pattern.js'
import { totalElements } from '../../src/state/ranges.js'
import type { CursorRow } from '../../src/store/cursors/cursors.js'
import type { StreamClock } from '../../src/stream/clock.js'
import { StreamHub } from '../../src/stream/hub.js'
import { jsonHead, jsonTail, type StreamMessage } from '../../src/stream/messages.js'
import type { Sink, StreamBus } from '../../src/stream/types.js'
import { turn } from '../lib/wait.js'
import type { Message } from './helpers.js'

export class FakeClock implements StreamClock {
  #nowMs = 1000
  #timers: { atMs: number; readonly periodMs: number; readonly run: () => void }[] = []

  nowMs(): number {
    return this.#nowMs
  }

  every(periodMs: number, run: () => void): () => void {
    return this.#add({ atMs: this.#nowMs + periodMs, periodMs, run })
  }

  after(delayMs: number, run: () => void): () => void {
    return this.#add({ atMs: this.#nowMs + delayMs, periodMs: 0, run })
  }

  soon(run: () => void): () => void {
    return this.after(0, run)
  }

  #add(timer: { atMs: number; readonly periodMs: number; readonly run: () => void }): () => void {
    this.#timers.push(timer)
    return () => {
      this.#timers = this.#timers.filter((other) => other !== timer)
    }
  }

  get timerCount(): number {
    return this.#timers.length
  }

  /** Runs one callback that is due now. Returns false if none is. */
  step(): boolean {
    const due = this.#timers.find(({ atMs, periodMs }) => periodMs === 0 && atMs <= this.#nowMs)
    if (due === undefined) return false
    this.#timers = this.#timers.filter((other) => other !== due)
    due.run()
    return true
  }

  advance(ms: number): void {
    const endMs = this.#nowMs + ms
    for (;;) {
      const [next] = this.#timers.filter(({ atMs }) => atMs <= endMs).sort((a, b) => a.atMs - b.atMs)
      if (next === undefined) break
      this.#nowMs = next.atMs
      if (next.periodMs === 0) this.#timers = this.#timers.filter((other) => other !== next)
      else next.atMs += next.periodMs
      next.run()
    }
    this.#nowMs = endMs
  }
}

/** Lets answers about the past arrive. */
export async function answered(clock: FakeClock): Promise<void> {
  for (let i = 0; i < 40; i++) {
    await turn()
    clock.advance(1)
  }
}

export const FAKE_HISTORY = `${'ab'.repeat(16)}.${'cd'.repeat(8)}`

/** A bus of u32 pages that commits on request, and can be stopped with an epoch in flight. */
export class FakeBus implements StreamBus {
  epoch = 0
  historyId = FAKE_HISTORY
  isReadOnly = false
  minEpoch = 0
  failure: string | null = null
  limits: LimitGuard
  /** Every published epoch, with values. */
  readonly history: PastEpoch[] = []
  cursors: Cursors | undefined
  /** Epochs in one answer about the past. */
  pieceEpochs = 3
  /** Turns of the event loop that such an answer takes. */
  pieceTurns = 0
  asked = 0
  gathers = 0
  listeners = new Set<(event: CommitEvent) => void>()
  #failureListeners = new Set<(reason: string) => void>()
  #pages = new Map<string, { id: number; version: number; values: Uint32Array }>()
  #nextId = 1
  #tellAhead: ((event: CommitEvent) => void) | undefined
  #executed: CommitEvent | undefined
  #isInFlight = false
  #waiting: (() => void)[] = []

  constructor(limits: Partial<Limits> = {}) {
    this.limits = new LimitGuard(limits)
  }

  onCommit(listener: (event: CommitEvent) => void, ahead?: (event: CommitEvent) => void): () => void {
    this.listeners.add(listener)
    this.#tellAhead = ahead
    return () => this.listeners.delete(listener)
  }

  onFailure(listener: (reason: string) => void): () => void {
    this.#failureListeners.add(listener)
    return () => this.#failureListeners.delete(listener)
  }

  between(run: () => void): void {
    if (this.#isInFlight) this.#waiting.push(run)
    else run()
  }

  pageNames(): string[] {
    return [...this.#pages.keys()].sort()
  }

  peek(name: string) {
    const { id, version, values } = this.#pages.get(name)!
    const size = { elements: values.length, bytes: values.byteLength }
    return {
      id,
      name,
      kind: 'source' as const,
      dtype: 'u32' as const,
      shape: [values.length],
      version,
      ...size,
    }
  }

  gather(pageId: number, ranges: Uint32Array): Uint32Array {
    this.gathers++
    if (this.#isInFlight) throw new Error('gathered while an epoch was in flight')
    const page = [...this.#pages.values()].find(({ id }) => id === pageId)!
    const out = new Uint32Array(totalElements(ranges))
    let at = 0
    for (let i = 0; i < ranges.length; at += ranges[i + 1]!, i += 2) {
      out.set(page.values.subarray(ranges[i]!, ranges[i]! + ranges[i + 1]!), at)
    }
    return out
  }

  values(name: string): number[] {
    return [...this.#pages.get(name)!.values]
  }

  begin(): void {
    this.#isInFlight = true
  }

  fail(reason: string): void {
    this.failure = reason
    for (const listener of this.#failureListeners) listener(reason)
  }

  /** Executes an epoch and announces it ahead; `commit()` makes it durable. */
  execute(...steps: ((bus: FakeBus) => PageChange)[]): void {
    this.#executed = { epoch: this.epoch + 1, timestampMs: 0, changes: steps.map((step) => step(this)) }
    this.#tellAhead?.(this.#executed)
  }

  commit(...steps: ((bus: FakeBus) => PageChange)[]): void {
    const event = this.#executed ?? {
      epoch: this.epoch + 1,
      timestampMs: 0,
      changes: steps.map((step) => step(this)),
    }
    this.#executed = undefined
    const { changes } = event
    this.epoch++
    for (const { page, kind } of changes) if (kind !== 'deleted') this.#pages.get(page)!.version = this.epoch
    this.#isInFlight = false
    this.history.push({
      epoch: this.epoch,
      timestampMs: 0,
      changes: changes.map((change) => ({ ...change, values: this.#valuesOf(change) })),
    })
    for (const listener of [...this.listeners]) listener(event)
    const waiting = this.#waiting
    this.#waiting = []
    for (const run of waiting) run()
  }

  #valuesOf({ kind, pageId, ranges }: PageChange): Uint32Array {
    if (kind === 'deleted') return new Uint32Array(0)
    this.gathers--
    return this.gather(pageId, ranges)
  }

  async pastChanges({ after, to, pages, values }: PastEpochsQuery): Promise<PastEpochs> {
    this.asked++
    await Promise.resolve()
    for (let i = 0; i < this.pieceTurns; i++) await turn()
    if (after < this.minEpoch) throw new MmsbError('EPOCH_COMPACTED', 'gone', { minEpoch: this.minEpoch })
    const { matches } = patternSet(pages)
    const through = Math.min(to, after + this.pieceEpochs)
    const epochs = this.history.slice(after, through).map(({ changes, ...rest }) => ({
      ...rest,
      changes: changes
        .filter(({ page }) => matches(page))
        .map((change) => (values ? change : { ...change, values: new Uint32Array(0) })),
    }))
    return { epochs: epochs.filter(({ changes }) => changes.length > 0), through }
  }

  create(name: string, elements: number): PageChange {
    this.#pages.set(name, { id: this.#nextId++, version: 0, values: new Uint32Array(elements) })
    return this.#change(name, 'created', Uint32Array.of(0, elements))
  }

  set(name: string, ...writes: [number, number][]): PageChange {
    const { values } = this.#pages.get(name)!
    for (const [index, value] of writes) values[index] = value
    return this.#change(name, 'source', Uint32Array.from(writes.flatMap(([index]) => [index, 1])))
  }

  /** Changes every element. */
  fill(name: string, valueAt: (index: number) => number): PageChange {
    const { values } = this.#pages.get(name)!
    for (let i = 0; i < values.length; i++) values[i] = valueAt(i)
    return this.#change(name, 'source', Uint32Array.of(0, values.length))
  }

  delete(name: string): PageChange {
    const change = this.#change(name, 'deleted', new Uint32Array(0))
    this.#pages.delete(name)
    return change
  }

  #change(name: string, kind: PageChange['kind'], ranges: Uint32Array): PageChange {
    const { id, values } = this.#pages.get(name)!
    return { pageId: id, page: name, kind, dtype: 'u32', shape: [values.length], ranges }
  }
}

export const create = (name: string, elements: number) => (bus: FakeBus) => bus.create(name, elements)
export const set =
  (name: string, ...writes: [number, number][]) =>
  (bus: FakeBus) =>
    bus.set(name, ...writes)
export const remove = (name: string) => (bus: FakeBus) => bus.delete(name)

/** A reader whose queue drains on request. */
export class FakeSink implements Sink {
  readonly got: Message[] = []
  readonly prepared: StreamMessage[] = []
  readonly raw: StreamMessage[] = []
  queuedBytes = 0
  isCongested = false
  isClosed = false

  send(id: string, message: StreamMessage): void {
    this.raw.push(message)
    this.got.push(JSON.parse(jsonHead(message.type, id) + jsonTail(message)) as Message)
  }

  prepare(_id: string, message: StreamMessage): void {
    this.prepared.push(message)
  }

  closed(): void {
    this.isClosed = true
  }

  get types(): string[] {
    return this.got.map(({ type }) => type)
  }
}

export function setup(limits: Partial<Limits> = {}) {
  const bus = new FakeBus(limits)
  const clock = new FakeClock()
  const hub = new StreamHub(bus, clock)
  bus.commit(create('a', 8), create('b', 8))
  const connect = () => {
    const sink = new FakeSink()
    return { sink, connection: hub.connect(sink) }
  }
  return { bus, clock, hub, connect }
}

/** A disk for the cursors of durable readers that writes when the test says so, and a clock for them. */
export class FakeCursorStore {
  readonly puts: CursorRow[] = []
  nowMs = 0
  /** What the next writes wait for. */
  written: Promise<void> = Promise.resolve()
  readonly #rows: readonly CursorRow[]

  constructor(rows: readonly CursorRow[] = []) {
    this.#rows = rows
  }

  load = async () => ({ rows: [...this.#rows], problems: [] })
  put = (row: CursorRow): Promise<void> => {
    this.puts.push(row)
    return this.written
  }
  remove = (): Promise<void> => this.written
  close = async (): Promise<void> => {}

  /** Gives the bus the cursors that are on this disk. */
  async attachTo(bus: FakeBus): Promise<Cursors> {
    bus.cursors = await Cursors.open({
      store: this,
      nowMs: () => this.nowMs,
      newestEpoch: () => bus.epoch,
      history: bus.historyId,
      bytesSince: () => 0,
      holdMs: 1e9,
      holdBytes: 1e9,
      onNotice: () => {},
    })
    return bus.cursors
  }
}
