/**
 * The stream: delivers each commit to everyone who subscribed to the pages it changed.
 *
 * How it works: subscriptions with the same view share one SharedView. A commit is split by view once
 * (the hub remembers the views of a page), becomes one immutable message per view, and is handed to the
 * sink of each subscriber; the message holds the encoded bytes for all of them. Nothing here waits: a
 * full sink ends a lossless subscription with the epoch to resume from, and makes a `latest` one fold
 * epochs until it drains.
 *
 * The newest epochs stay in memory for a while (resume/recent-epochs.ts), and a view outlives its last
 * subscriber for a while, so that a reader that comes back soon resumes from memory. After a longer absence
 * it is served from the log (resume/replayed-epochs.ts, resume/catch-up.ts).
 *
 * Invariants, per subscription: epochs ascend; none is delivered twice; one epoch is one message; a snapshot
 * and the changes after it meet without gap or overlap, because both are taken between epochs. Knows nothing
 * of sockets or protocols.
 */
import type { CommitEvent, PageChange, PageShape } from '../engine/types.js'
import { MmsbError } from '../errors.js'
import {
  STREAM_GATHER_TURN_BYTES,
  STREAM_LINGER_MS,
  STREAM_LINGERING_MAX,
  STREAM_RECENT_CUT_MAX_BYTES,
  STREAM_RECENT_MAX_BYTES,
  STREAM_SNAPSHOTS_KEPT_BYTES,
} from '../limits.js'
import type { PatternSet } from '../state/pattern.js'
import type { TypedArray } from '../wire/dtype.js'
import { STREAM_PROGRESS_INTERVAL_MS } from '../wire/limits.js'
import { type StreamClock, systemClock } from './clock.js'
import {
  ANY_READER,
  Connection,
  type ConnectionHub,
  type LateSubscription,
  type Reader,
} from './connection.js'
import { type ChangeMessage, PagePart } from './messages.js'
import { StreamQueues } from './queues.js'
import { DurableReaders, type DurableView } from './resume/durable-readers.js'
import { inOrder, RecentEpochs, type RecentPart } from './resume/recent-epochs.js'
import { ReplayedEpochs } from './resume/replayed-epochs.js'
import { Snapshots } from './snapshots.js'
import { TurnBudget } from './turn-budget.js'
import type { Sink, StreamBus } from './types.js'
import { SharedView, type Subscriber, type View } from './views/shared-view.js'

export interface HubStats {
  readonly connections: number
  readonly subscriptions: number
  /** Different views that have subscribers. */
  readonly topics: number
  /** Bytes of the epochs kept in memory for readers that come back. */
  readonly recentBytes: number
  readonly delivered: number
  readonly conflated: number
  readonly overflows: number
  /** Durable readers. */
  readonly durable: readonly Pick<DurableView, 'name' | 'epoch' | 'lag' | 'connected' | 'held'>[]
}

const NO_VIEWS: readonly SharedView[] = []
/** A message is encoded ahead for this many subscribers of a view: usually all share one encoding. */
const AHEAD_SUBSCRIBERS = 4

/** The changes of an epoch, by view. */
interface Split {
  readonly event: CommitEvent
  readonly parts: ReadonlyMap<SharedView, readonly PagePart[]>
  readonly kept: readonly RecentPart[]
  /** Messages made ahead; undefined if the viewports show nothing of the epoch. */
  readonly messages: Map<SharedView, ChangeMessage | undefined>
}

/** All subscriptions of one bus. */
export class StreamHub implements ConnectionHub {
  readonly bus: StreamBus
  readonly clock: StreamClock
  readonly recent = new RecentEpochs()
  readonly replayed: ReplayedEpochs
  readonly durables: DurableReaders
  readonly queues: StreamQueues
  readonly gathering: TurnBudget
  readonly snapshots: Snapshots
  readonly counters = { delivered: 0, conflated: 0, overflows: 0 }
  readonly held = { connections: 0, subscriptions: 0, patterns: 0 }
  readonly #views = new Map<string, SharedView>()
  /** Views without subscribers, longest idle first. */
  readonly #idle = new Set<SharedView>()
  /** Page id -> the views that match it. Filled as pages change; updated as views come and go. */
  readonly #viewsOfPage = new Map<number, { readonly name: string; views: readonly SharedView[] }>()
  readonly #connections = new Set<Connection>()
  /** Views that keep a snapshot, the newest last. */
  #snapshots: SharedView[] = []
  /** The epoch that is being written to disk, prepared ahead; dropped when a view comes or goes meanwhile. */
  #ahead: Split | undefined
  /**
   * Stops listening to bus and clock. The hub listens only while there are views, so an unwatched bus does
   * no work here.
   */
  #stop: (() => void)[] = []

  constructor(bus: StreamBus, clock: StreamClock = systemClock) {
    this.bus = bus
    this.clock = clock
    this.gathering = new TurnBudget(STREAM_GATHER_TURN_BYTES, clock)
    this.snapshots = new Snapshots(this)
    this.replayed = new ReplayedEpochs(bus)
    this.durables = new DurableReaders(bus)
    this.queues = new StreamQueues(bus.limits, clock)
    // The limits must not hold the hub, which holds the bus: a bus that is dropped is freed.
    const { held } = this
    bus.limits.measure('maxConnections', () => held.connections)
    bus.limits.measure('maxSubscriptions', () => held.subscriptions)
    bus.limits.measure('maxPatterns', () => held.patterns)
  }

  /** Why no more connections are taken from a reader now; undefined when they are. */
  refusal(reader: Reader = ANY_READER): MmsbError | undefined {
    const { limits } = this.bus
    const { connections } = this.held
    if (connections < limits.values.maxConnections) return reader.readerLimits?.connectionRefusal()
    return limits.refusal('maxConnections', 'too many connections of the stream are open already')
  }

  /** Without a reader, it may see and name everything. @throws MmsbError OVERLOADED, QUOTA_EXCEEDED */
  connect(sink: Sink, reader: Reader = ANY_READER): Connection {
    const refused = this.refusal(reader)
    if (refused !== undefined) throw refused
    const connection = new Connection(this, sink, reader, () => {
      this.held.connections--
      this.#connections.delete(connection)
    })
    this.held.connections++
    this.#connections.add(connection)
    return connection
  }

  /** Ends everything without a last message, because each protocol closes in its own way. */
  close(): void {
    for (const connection of this.#connections) connection.close()
    for (const view of [...this.#views.values()]) this.#drop(view)
  }

  stats(): HubStats {
    let topics = 0
    for (const { subscribers } of this.#views.values()) if (subscribers.size > 0) topics++
    const { bytes: recentBytes } = this.recent
    const durable = this.durables
      .list()
      .map(({ name, epoch, lag, connected, held }) => ({ name, epoch, lag, connected, held }))
    return {
      connections: this.held.connections,
      subscriptions: this.held.subscriptions,
      topics,
      recentBytes,
      ...this.counters,
      durable,
    }
  }

  /**
   * The subscriptions that are farthest behind, at most so many. Looks at all of them, so it is for those who
   * ask, not for each scrape.
   */
  farthestBehind(most: number): LateSubscription[] {
    return [...this.#connections]
      .flatMap((connection) => connection.late())
      .sort((a, b) => b.lag - a.lag || b.queuedBytes - a.queuedBytes)
      .slice(0, most)
  }

  enter(view: View, subscriber: Subscriber): SharedView {
    const { patterns, viewports, mode } = view
    const key = `${mode} ${patterns.key} ${viewports.key}`
    let shared = this.#views.get(key)
    if (shared === undefined) {
      shared = new SharedView(key, view)
      this.#views.set(key, shared)
      this.#ahead = undefined
      if (this.#views.size === 1) this.#listen()
      for (const entry of this.#viewsOfPage.values()) {
        if (patterns.matches(entry.name)) entry.views = [...entry.views, shared]
      }
    }
    shared.subscribers.add(subscriber)
    this.#idle.delete(shared)
    return shared
  }

  peek(name: string): PageShape | undefined {
    try {
      return this.bus.peek(name)
    } catch {
      return undefined
    }
  }

  reaches(patterns: PatternSet, needsValues: boolean, after: number): boolean {
    if (after >= this.bus.minEpoch) return true
    const isListening = this.#views.size > 0
    return isListening && this.recent.reaches((name) => patterns.matches(name), after, needsValues)
  }

  /** Bytes of the snapshots that views keep. */
  get keptSnapshotBytes(): number {
    return this.#snapshots.reduce((sum, { snapshotBytes }) => sum + snapshotBytes, 0)
  }

  /** Of the snapshots that views keep, the oldest are forgotten when they are too many bytes together. */
  keepSnapshot(view: SharedView): void {
    this.#snapshots = this.#snapshots.filter((other) => other !== view && other.snapshotBytes > 0)
    this.#snapshots.push(view)
    let bytes = this.keptSnapshotBytes
    for (const oldest of this.#snapshots) {
      if (bytes <= STREAM_SNAPSHOTS_KEPT_BYTES || oldest === view) break
      bytes -= oldest.snapshotBytes
      oldest.forgetSnapshot()
    }
  }

  leave(view: SharedView, subscriber: Subscriber): void {
    view.subscribers.delete(subscriber)
    if (view.subscribers.size > 0) return
    view.idleSinceMs = this.clock.nowMs()
    this.#idle.add(view)
    const [oldest] = this.#idle
    if (oldest !== undefined && this.#idle.size > STREAM_LINGERING_MAX) this.#drop(oldest)
  }

  #drop(view: SharedView): void {
    this.#ahead = undefined
    this.#views.delete(view.key)
    this.#idle.delete(view)
    for (const entry of this.#viewsOfPage.values()) {
      if (entry.views.includes(view)) entry.views = entry.views.filter((other) => other !== view)
    }
    if (this.#views.size > 0) return
    for (const stop of this.#stop) stop()
    this.#stop = []
    this.#viewsOfPage.clear()
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

  /**
   * While the epoch is being written to disk: makes and encodes its messages, so that only sending is left.
   */
  #onAhead(event: CommitEvent): void {
    this.#ahead = undefined
    if (event.changes.some(({ kind }) => kind === 'created' || kind === 'deleted')) return
    const split = this.#split(event)
    this.#ahead = split
    for (const [view, parts] of split.parts) {
      try {
        const message = view.messageOf(event.epoch, parts)
        split.messages.set(view, message)
        if (message === undefined) continue
        let left = AHEAD_SUBSCRIBERS
        for (const subscriber of view.subscribers) {
          if (left-- === 0) break
          subscriber.prepare(message)
        }
      } catch {
        // The commit meets the same error, and the subscribers get it then.
      }
    }
  }

  #onCommit(event: CommitEvent): void {
    const split = this.#ahead?.event === event ? this.#ahead : this.#split(event)
    this.#ahead = undefined
    this.recent.add(event.epoch, split.kept)
    const nowMs = this.clock.nowMs()
    for (const [view, parts] of split.parts) {
      view.forgetSnapshot()
      let message = split.messages.get(view)
      if (message === undefined && !split.messages.has(view)) {
        message = this.#messageOf(view, event.epoch, parts)
      }
      if (message === undefined) continue
      for (const subscriber of view.subscribers) subscriber.offer(message, nowMs)
    }
  }

  #messageOf(view: SharedView, epoch: number, parts: readonly PagePart[]): ChangeMessage | undefined {
    try {
      return view.messageOf(epoch, parts)
    } catch (error) {
      for (const subscriber of [...view.subscribers]) subscriber.fail(error)
      return undefined
    }
  }

  /** Sorts the changes by view, and gathers the values to keep in memory. */
  #split(event: CommitEvent): Split {
    const parts = new Map<SharedView, PagePart[]>()
    const kept: RecentPart[] = []
    for (const change of inOrder(event.changes)) {
      const views = this.#viewsFor(change)
      const part = new PagePart(change, (pageId, ranges) => this.bus.gather(pageId, ranges))
      for (const view of views) {
        const mine = parts.get(view)
        if (mine === undefined) parts.set(view, [part])
        else mine.push(part)
      }
      kept.push({ change, values: valuesToKeep(part, views) })
    }
    return { event, parts, kept, messages: new Map() }
  }

  #viewsFor({ pageId, page, kind }: PageChange): readonly SharedView[] {
    let entry = this.#viewsOfPage.get(pageId)
    if (entry === undefined) {
      const views = [...this.#views.values()].filter((view) => view.patterns.matches(page))
      entry = { name: page, views: views.length === 0 ? NO_VIEWS : views }
      if (kind !== 'deleted') this.#viewsOfPage.set(pageId, entry)
    } else if (kind === 'deleted') {
      this.#viewsOfPage.delete(pageId)
    }
    return entry.views
  }

  #onFailure(reason: string): void {
    const error = new MmsbError('BUS_FAILED', `The bus has stopped: ${reason}`)
    for (const connection of this.#connections) connection.endAll({ type: 'error', error })
  }

  #onTick(): void {
    const nowMs = this.clock.nowMs()
    this.replayed.forget()
    for (const view of this.#views.values()) view.forgetSnapshot()
    for (const view of this.#idle) {
      if (nowMs - (view.idleSinceMs ?? nowMs) >= STREAM_LINGER_MS) this.#drop(view)
    }
    for (const connection of this.#connections) connection.progress(nowMs, this.bus.epoch)
    this.durables.onTick()
  }
}

/** The values of a change, if a view wants values and they are small enough to keep. */
function valuesToKeep(part: PagePart, views: readonly SharedView[]): TypedArray | undefined {
  const wanting = views.filter(({ mode }) => mode === 'values')
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

/** The hub of a bus. HTTP, WebSocket and library of one process share it, and so its work. */
export function hubOf(bus: StreamBus): StreamHub {
  let hub = hubs.get(bus)
  if (hub === undefined) {
    hub = new StreamHub(bus)
    hubs.set(bus, hub)
  }
  return hub
}
