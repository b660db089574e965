/**
 * The stream: every commit to everyone who subscribed to what it changed.
 *
 * How it works: subscriptions that ask for the same pages and the same data share a topic. A commit is split by topic once (the
 * topics of a page are remembered), made into one immutable message per topic, and handed to each subscriber's sink, which
 * shares the encoded bytes through the message. Nothing here waits: a sink that is full ends a lossless subscription with
 * the epoch to resume from, and lets a `latest` one fold epochs together until it drains.
 *
 * The newest epochs are kept for a while (recent-epochs.ts), and a topic lives on a little longer than its last subscriber, so that who
 * comes back soon goes on from memory; who was away longer is served out of the log (replayed-epochs.ts, catch-up.ts).
 *
 * Invariants, per subscription: epochs ascend; none is delivered twice; one epoch is one message; what a snapshot shows and what
 * follows it meet without gap or overlap, because both are taken between epochs. Knows nothing of sockets or protocols.
 */
import type { CommitEvent, PageChange, PageShape } from '../engine/types.js'
import { MmsbError } from '../errors.js'
import {
  STREAM_LINGER_MS,
  STREAM_LINGERING_MAX,
  STREAM_RECENT_CUT_MAX_BYTES,
  STREAM_RECENT_MAX_BYTES,
} from '../limits.js'
import type { PatternSet } from '../state/pattern.js'
import type { TypedArray } from '../wire/dtype.js'
import { STREAM_PROGRESS_INTERVAL_MS } from '../wire/limits.js'
import { type StreamClock, systemClock } from './clock.js'
import { Connection } from './connection.js'
import { type ChangeMessage, PagePart } from './messages.js'
import { Durables, type DurableView } from './resume/durable-readers.js'
import { inOrder, Recent, type RecentPart } from './resume/recent-epochs.js'
import { Past } from './resume/replayed-epochs.js'
import { type Shape, Topic } from './shared-view.js'
import type { Subscription } from './subscription.js'
import type { Sink, StreamBus } from './types.js'

export interface HubStats {
  readonly connections: number
  readonly subscriptions: number
  /** Different shapes of subscription. */
  readonly topics: number
  /** Bytes of the epochs kept in memory for those who come back. */
  readonly recentBytes: number
  readonly delivered: number
  readonly conflated: number
  readonly overflows: number
  /** Named durable readers. */
  readonly durable: readonly Pick<DurableView, 'name' | 'epoch' | 'lag' | 'connected' | 'held'>[]
}

const NO_TOPICS: readonly Topic[] = []
/** Of a topic so many subscribers' encodings are made ahead: mostly all have the same. */
const AHEAD_SUBSCRIBERS = 4

/** An epoch, laid into the topics. */
interface Split {
  readonly event: CommitEvent
  readonly parts: ReadonlyMap<Topic, readonly PagePart[]>
  readonly kept: readonly RecentPart[]
  /** What was made ahead; null: nothing to tell. */
  readonly messages: Map<Topic, ChangeMessage | null>
}

/** All subscriptions of one bus. */
export class StreamHub {
  readonly bus: StreamBus
  readonly clock: StreamClock
  readonly recent = new Recent()
  readonly past: Past
  readonly durables: Durables
  readonly counters = { delivered: 0, conflated: 0, overflows: 0 }
  readonly #topics = new Map<string, Topic>()
  /** Topics without subscribers, those that lost them first leading. */
  readonly #idle = new Set<Topic>()
  /** Page id -> the topics it belongs to; grows as pages change, follows the topics that come and go. */
  readonly #topicsOfPage = new Map<number, { readonly name: string; topics: readonly Topic[] }>()
  readonly #connections = new Set<Connection>()
  /** The epoch that the disk still writes; void when topics come or go meanwhile. */
  #ahead: Split | undefined
  /** What ends listening to bus and clock, which only happens while there are topics: a bus nobody watches does no work for us. */
  #stop: (() => void)[] = []

  constructor(bus: StreamBus, clock: StreamClock = systemClock) {
    this.bus = bus
    this.clock = clock
    this.past = new Past(bus)
    this.durables = new Durables(bus)
  }

  connect(sink: Sink): Connection {
    const connection = new Connection(this, sink, () => this.#connections.delete(connection))
    this.#connections.add(connection)
    return connection
  }

  /** Ends everything, without a word to the subscribers: the protocols say goodbye in their own way. */
  close(): void {
    for (const connection of this.#connections) connection.close()
    for (const topic of [...this.#topics.values()]) this.#drop(topic)
  }

  stats(): HubStats {
    let subscriptions = 0
    for (const connection of this.#connections) subscriptions += connection.size
    let topics = 0
    for (const { subscribers } of this.#topics.values()) if (subscribers.size > 0) topics++
    const { bytes: recentBytes } = this.recent
    const durable = this.durables
      .list()
      .map(({ name, epoch, lag, connected, held }) => ({ name, epoch, lag, connected, held }))
    return {
      connections: this.#connections.size,
      subscriptions,
      topics,
      recentBytes,
      ...this.counters,
      durable,
    }
  }

  /** The topic of these pages and this data, made if need be. */
  enter(shape: Shape, subscription: Subscription): Topic {
    const { patterns, viewports, mode } = shape
    const key = `${mode} ${patterns.key} ${viewports.key}`
    let topic = this.#topics.get(key)
    if (topic === undefined) {
      topic = new Topic(key, shape)
      this.#topics.set(key, topic)
      this.#ahead = undefined
      if (this.#topics.size === 1) this.#listen()
      for (const entry of this.#topicsOfPage.values()) {
        if (patterns.matches(entry.name)) entry.topics = [...entry.topics, topic]
      }
    }
    topic.subscribers.add(subscription)
    topic.idleSinceMs = undefined
    this.#idle.delete(topic)
    return topic
  }

  /** A page as it is, if it is there. */
  peek(name: string): PageShape | undefined {
    try {
      return this.bus.peek(name)
    } catch {
      return undefined
    }
  }

  /** A reader of these pages can go on after this epoch. */
  reaches(patterns: PatternSet, needsValues: boolean, after: number): boolean {
    if (after >= this.bus.minEpoch) return true
    const isListening = this.#topics.size > 0
    return isListening && this.recent.reaches((name) => patterns.matches(name), after, needsValues)
  }

  leave(topic: Topic, subscription: Subscription): void {
    topic.subscribers.delete(subscription)
    if (topic.subscribers.size > 0) return
    topic.idleSinceMs = this.clock.nowMs()
    this.#idle.add(topic)
    const [oldest] = this.#idle
    if (oldest !== undefined && this.#idle.size > STREAM_LINGERING_MAX) this.#drop(oldest)
  }

  #drop(topic: Topic): void {
    this.#ahead = undefined
    this.#topics.delete(topic.key)
    this.#idle.delete(topic)
    for (const entry of this.#topicsOfPage.values()) {
      if (entry.topics.includes(topic)) entry.topics = entry.topics.filter((other) => other !== topic)
    }
    if (this.#topics.size > 0) return
    for (const stop of this.#stop) stop()
    this.#stop = []
    this.#topicsOfPage.clear()
    this.recent.begin(0)
  }

  #listen(): void {
    this.recent.begin(this.bus.epoch)
    this.#stop = [
      this.bus.onCommit(
        (event) => this.#onCommit(event),
        (event) => this.#onAhead(event),
      ),
      this.bus.onFailure((reason) => this.#onFailure(reason)),
      this.clock.every(STREAM_PROGRESS_INTERVAL_MS / 4, () => this.#onTick()),
    ]
  }

  /** While the disk writes the epoch: the messages and what they are encoded to, so that only sending is left. */
  #onAhead(event: CommitEvent): void {
    this.#ahead = undefined
    if (event.changes.some(({ kind }) => kind === 'created' || kind === 'deleted')) return
    const split = this.#split(event)
    this.#ahead = split
    for (const [topic, parts] of split.parts) {
      try {
        const message = topic.messageOf(event.epoch, parts)
        split.messages.set(topic, message)
        if (message === null) continue
        let left = AHEAD_SUBSCRIBERS
        for (const subscription of topic.subscribers) {
          if (left-- === 0) break
          subscription.prepare(message)
        }
      } catch {
        // Told to the subscribers when the epoch is theirs to know.
      }
    }
  }

  #onCommit(event: CommitEvent): void {
    const split = this.#ahead?.event === event ? this.#ahead : this.#split(event)
    this.#ahead = undefined
    this.recent.add(event.epoch, split.kept)
    const nowMs = this.clock.nowMs()
    for (const [topic, parts] of split.parts) {
      topic.forgetSnapshot()
      const ahead = split.messages.get(topic)
      const message = ahead === undefined ? this.#messageOf(topic, event.epoch, parts) : ahead
      if (message === null) continue
      for (const subscription of topic.subscribers) subscription.offer(message, nowMs)
    }
  }

  #messageOf(topic: Topic, epoch: number, parts: readonly PagePart[]): ChangeMessage | null {
    try {
      return topic.messageOf(epoch, parts)
    } catch (error) {
      for (const subscription of [...topic.subscribers]) subscription.fail(error)
      return null
    }
  }

  /** Lays each change into its topics, and gathers what is kept in memory. */
  #split(event: CommitEvent): Split {
    const parts = new Map<Topic, PagePart[]>()
    const kept: RecentPart[] = []
    for (const change of inOrder(event.changes)) {
      const topics = this.#topicsFor(change)
      const part = new PagePart(change, (pageId, ranges) => this.bus.gather(pageId, ranges))
      for (const topic of topics) {
        const mine = parts.get(topic)
        if (mine === undefined) parts.set(topic, [part])
        else mine.push(part)
      }
      kept.push({ change, values: valuesToKeep(part, topics) })
    }
    return { event, parts, kept, messages: new Map() }
  }

  #topicsFor({ pageId, page, kind }: PageChange): readonly Topic[] {
    let entry = this.#topicsOfPage.get(pageId)
    if (entry === undefined) {
      const topics = [...this.#topics.values()].filter((topic) => topic.patterns.matches(page))
      entry = { name: page, topics: topics.length === 0 ? NO_TOPICS : topics }
      if (kind !== 'deleted') this.#topicsOfPage.set(pageId, entry)
    } else if (kind === 'deleted') {
      this.#topicsOfPage.delete(pageId)
    }
    return entry.topics
  }

  #onFailure(reason: string): void {
    const error = new MmsbError('BUS_FAILED', `The bus has stopped: ${reason}`)
    for (const connection of this.#connections) connection.endAll({ type: 'error', error })
  }

  #onTick(): void {
    const nowMs = this.clock.nowMs()
    this.past.forget()
    for (const topic of this.#topics.values()) topic.forgetSnapshot()
    for (const topic of this.#idle) {
      if (nowMs - (topic.idleSinceMs ?? nowMs) >= STREAM_LINGER_MS) this.#drop(topic)
    }
    for (const connection of this.#connections) connection.progress(nowMs, this.bus.epoch)
    this.durables.onTick()
  }
}

/** The values of a change, where somebody wants values and they are not too many to keep. */
function valuesToKeep(part: PagePart, topics: readonly Topic[]): TypedArray | undefined {
  const wanting = topics.filter(({ mode }) => mode === 'values')
  if (wanting.length === 0) return undefined
  const isSeenWhole = wanting.some(({ viewports }) => !viewports.has(part.change.page))
  if (part.valueBytes > (isSeenWhole ? STREAM_RECENT_MAX_BYTES : STREAM_RECENT_CUT_MAX_BYTES))
    return undefined
  try {
    return part.values()
  } catch {
    return undefined
  }
}

const hubs = new WeakMap<StreamBus, StreamHub>()

/** The hub of a bus: every face of one process shares it, and so the work. */
export function hubOf(bus: StreamBus): StreamHub {
  let hub = hubs.get(bus)
  if (hub === undefined) {
    hub = new StreamHub(bus)
    hubs.set(bus, hub)
  }
  return hub
}
