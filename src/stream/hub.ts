/**
 * The stream: every commit to everyone who subscribed to what it changed.
 *
 * How it works: subscriptions that ask for the same pages and the same data share a topic. A commit is split by topic once (the
 * topics of a page are remembered), made into one immutable message per topic, and handed to each subscriber's sink, which
 * shares the encoded bytes through the message. Nothing here waits: a sink that is full ends a lossless subscription with
 * the epoch to resume from, and lets a `latest` one fold epochs together until it drains.
 *
 * Invariants, per subscription: epochs ascend; none is delivered twice; one epoch is one message; what a snapshot shows and what
 * follows it meet without gap or overlap, because both are taken between epochs. Knows nothing of sockets or protocols.
 */
import type { CommitEvent, PageChange } from '../engine/types.js'
import { MmsbError } from '../errors.js'
import { STREAM_PROGRESS_INTERVAL_MS } from '../limits.js'
import { type StreamClock, systemClock } from './clock.js'
import { Connection } from './connection.js'
import { type DataMode, PagePart } from './messages.js'
import type { PatternSet } from './pattern.js'
import type { Subscription } from './subscription.js'
import { Topic } from './topic.js'
import type { Sink, StreamBus } from './types.js'

export interface HubStats {
  readonly connections: number
  readonly subscriptions: number
  readonly topics: number
  readonly delivered: number
  readonly conflated: number
  readonly overflows: number
}

const NO_TOPICS: readonly Topic[] = []

/** All subscriptions of one bus. */
export class StreamHub {
  readonly bus: StreamBus
  readonly clock: StreamClock
  readonly counters = { delivered: 0, conflated: 0, overflows: 0 }
  readonly #topics = new Map<string, Topic>()
  /** Page id -> the topics it belongs to; grows as pages change, follows the topics that come and go. */
  readonly #topicsOfPage = new Map<number, { readonly name: string; topics: readonly Topic[] }>()
  readonly #connections = new Set<Connection>()
  /** What ends listening to bus and clock, which only happens while there are topics: a bus nobody watches does no work for us. */
  #stop: (() => void)[] = []

  constructor(bus: StreamBus, clock: StreamClock = systemClock) {
    this.bus = bus
    this.clock = clock
  }

  connect(sink: Sink): Connection {
    const connection = new Connection(this, sink, () => this.#connections.delete(connection))
    this.#connections.add(connection)
    return connection
  }

  /** Ends everything, without a word to the subscribers: the protocols say goodbye in their own way. */
  close(): void {
    for (const connection of this.#connections) connection.close()
  }

  stats(): HubStats {
    let subscriptions = 0
    for (const connection of this.#connections) subscriptions += connection.size
    return { connections: this.#connections.size, subscriptions, topics: this.#topics.size, ...this.counters }
  }

  /** The topic of these pages and this data, made if need be. */
  enter(patterns: PatternSet, mode: DataMode, subscription: Subscription): Topic {
    const key = `${mode} ${patterns.key}`
    let topic = this.#topics.get(key)
    if (topic === undefined) {
      topic = new Topic(key, patterns, mode)
      this.#topics.set(key, topic)
      if (this.#topics.size === 1) this.#listen()
      for (const entry of this.#topicsOfPage.values()) {
        if (patterns.matches(entry.name)) entry.topics = [...entry.topics, topic]
      }
    }
    topic.subscribers.add(subscription)
    return topic
  }

  leave(topic: Topic, subscription: Subscription): void {
    topic.subscribers.delete(subscription)
    if (topic.subscribers.size > 0) return
    this.#topics.delete(topic.key)
    for (const entry of this.#topicsOfPage.values()) {
      if (entry.topics.includes(topic)) entry.topics = entry.topics.filter((other) => other !== topic)
    }
    if (this.#topics.size > 0) return
    for (const stop of this.#stop) stop()
    this.#stop = []
    this.#topicsOfPage.clear()
  }

  #listen(): void {
    this.#stop = [
      this.bus.onCommit((event) => this.#onCommit(event)),
      this.bus.onFailure((reason) => this.#onFailure(reason)),
      this.clock.every(STREAM_PROGRESS_INTERVAL_MS / 4, () => this.#onTick()),
    ]
  }

  #onCommit(event: CommitEvent): void {
    const touched = this.#split(event)
    const nowMs = this.clock.nowMs()
    for (const topic of touched) {
      const message = topic.takeMessage(event.epoch)
      for (const subscription of topic.subscribers) subscription.offer(message, nowMs)
    }
  }

  /** Lays each change into its topics; deletions first, for the name may have come to live again in the same epoch. */
  #split(event: CommitEvent): Set<Topic> {
    const touched = new Set<Topic>()
    const lay = (change: PageChange): void => {
      const topics = this.#topicsFor(change)
      if (topics.length === 0) return
      const part = new PagePart(change, (pageId, ranges) => this.bus.gather(pageId, ranges))
      for (const topic of topics) {
        topic.parts.push(part)
        touched.add(topic)
      }
    }
    for (const change of event.changes) if (change.kind === 'deleted') lay(change)
    for (const change of event.changes) if (change.kind !== 'deleted') lay(change)
    return touched
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
    for (const topic of this.#topics.values()) topic.forgetSnapshot()
    for (const connection of this.#connections) connection.progress(nowMs, this.bus.epoch)
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
