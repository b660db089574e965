/**
 * The commit queue and the one epoch in flight: from a pending transaction to a published epoch.
 *
 *   queue -> batch (staged one by one) -> append + execute, at the same time -> publish
 *
 * Invariants:
 * - one epoch is in flight at a time, while the next batch gathers;
 * - an epoch is published when its record is durable and its execution done, never before;
 * - acknowledgements, events and waiting reads come after versions moved;
 * - no room in the log refuses the batch and changes nothing; any other failure stops the bus for good, since memory and
 *   log may differ.
 * Knows nothing of names beyond the registry, of sockets or of files.
 */
import { performance } from 'node:perf_hooks'
import { MmsbError } from '../../errors.js'
import type { ExecuteResult } from '../../ffi/context.js'
import { DeviceLost } from '../../ffi/library.js'
import type { Plan } from '../../graph/graph.js'
import {
  IDEMPOTENCY_KEYS_MAX,
  PLAN_ASYNC_THRESHOLD_NS,
  QUEUE_MAX_BYTES,
  QUEUE_MAX_TRANSACTIONS,
  RUN_MAX_FRAMES,
  START_AT_BYTES,
} from '../../limits.js'
import type { Slab } from '../../state/slab.js'
import type { Store } from '../../store/store.js'
import type { Snapshot } from '../checkpoints/snapshot.js'
import type { Pending, Submission } from '../commands/pending.js'
import type { Recovered } from '../history/recovery.js'
import { REAL_WORLD, type World } from '../host.js'
import type { PageRecord } from '../pages/registry.js'
import { Timings } from '../stage-timings.js'
import type { CommitEvent, CommitResult, PageChange, Sender } from '../types.js'
import { Batch, type StageRooms } from './batch.js'
import { type RunningTrial, runTrial, startTrial, type Trial, TrialLost } from './dry-run.js'
import { Run } from './frame-run.js'
import { Pace } from './group-commit.js'

/** An epoch between staging and publishing. */
interface InFlight {
  batch: Batch
  readonly submissions: readonly Submission[]
  readonly timestampMs: number
  /** Set while a native execution runs on another thread. */
  executing: boolean
  /** Set once the log was asked to append. */
  appending: boolean
  appended: Promise<void> | undefined
  result: ExecuteResult | undefined
  /** What listeners will be told, once somebody was told it ahead. */
  event: CommitEvent | undefined
  /** The device failed; the state is being rebuilt without it. */
  moving: boolean
}

const DONE = Promise.resolve()
const EMPTY_STEPS = new Uint32Array(0)

export class Committer {
  readonly timings = new Timings()
  /** Deltas committed since start, by kind. */
  readonly deltaCounts = { dense: 0, sparse: 0, masked: 0 }
  readonly #rooms: StageRooms
  readonly #world: World
  readonly #pace = new Pace()
  readonly #refuge: ((reason: string) => void) | undefined
  readonly #listeners = new Set<(event: CommitEvent) => void>()
  /** Are told of an epoch that was executed while the disk still writes it. */
  readonly #ahead = new Set<(event: CommitEvent) => void>()
  readonly #failureListeners = new Set<(reason: string) => void>()
  readonly #answers = new Map<string, CommitResult>()
  readonly #answersPending = new Map<string, Promise<CommitResult>>()
  #store: Store | undefined
  #queue: Submission[] = []
  #queueBytes = 0
  /** Transactions in the queue. */
  #queueCount = 0
  #inFlight: InFlight | undefined
  #scheduled = false
  #held = 0
  /** Settles when the newest hold has ended: holds come one after another. */
  #lastHold: Promise<void> = DONE
  /** An execution on trial that runs on another thread; the context is its own until it ends. */
  #trial: Pick<RunningTrial<unknown>, 'settle'> | undefined
  #waiters: (() => void)[] = []
  #epoch = 0
  #digest: Uint8Array
  #timestampMs = 0
  #failure: string | undefined
  #closing = false
  /** The append of an epoch that a synchronous read published early; the next append comes after it. */
  #trailingAppend: Promise<unknown> | undefined
  #lastResult: ExecuteResult | undefined
  readonly #room = frameRoom()
  #snapshot: Snapshot | undefined
  #onPublished: (() => void) | undefined

  /**
   * `refuge` is called when the device failed: it fills the rooms with the state of the newest published epoch, elsewhere,
   * or throws.
   */
  constructor(rooms: StageRooms, world: World = REAL_WORLD, refuge?: (reason: string) => void) {
    this.#rooms = rooms
    this.#world = world
    this.#refuge = refuge
    this.#digest = rooms.context.stateDigest()
  }

  /** From now on epochs go to this store, after what was recovered from it. */
  attach(store: Store, recovered: Recovered): void {
    this.#epoch = recovered.epoch
    this.#digest = recovered.digest
    this.#timestampMs = recovered.timestampMs
    for (const [key, answer] of recovered.answers) this.#remember(key, answer)
    this.#store = store
    store.onFailed((error) => this.#stop(error))
  }

  get epoch(): number {
    return this.#epoch
  }

  /** The state's digest at `epoch`. */
  get digest(): Uint8Array {
    return this.#digest
  }

  /** When `epoch` was committed. */
  get timestampMs(): number {
    return this.#timestampMs
  }

  get failure(): string | undefined {
    return this.#failure
  }

  get queued(): { transactions: number; bytes: number } {
    return { transactions: this.#queueCount, bytes: this.#queueBytes }
  }

  /** Idempotency keys and their answers, oldest first. */
  get answers(): ReadonlyMap<string, CommitResult> {
    return this.#answers
  }

  /** The native result of the newest epoch since start. */
  get lastResult(): ExecuteResult | undefined {
    return this.#lastResult
  }

  /**
   * Calls back for every epoch from now on, synchronously while the state is exactly that of the epoch. A listener must
   * not throw and must not write. Returns what ends it.
   *
   * `ahead` may be called before, with the event that the listener will get if the epoch becomes durable, when the state is
   * executed but the disk still writes: time to get ready in. Nothing of it may be shown.
   */
  onCommit(listener: (event: CommitEvent) => void, ahead?: (event: CommitEvent) => void): () => void {
    this.#listeners.add(listener)
    if (ahead !== undefined) this.#ahead.add(ahead)
    return () => {
      this.#listeners.delete(listener)
      if (ahead !== undefined) this.#ahead.delete(ahead)
    }
  }

  /** Calls back once when the bus fails. */
  onFailure(listener: (reason: string) => void): () => void {
    this.#failureListeners.add(listener)
    return () => this.#failureListeners.delete(listener)
  }

  /**
   * Calls `run` while the state is exactly that of an epoch and no other can start: at once when none is in flight, else when
   * that one has been published, abandoned or has failed. `run` must not throw and must not write.
   */
  between(run: () => void): void {
    if (this.#isIdle) run()
    else this.#waiters.push(run)
  }

  get #isIdle(): boolean {
    return this.#inFlight === undefined && this.#trial === undefined
  }

  /** Every execution from now on tells the snapshot what it overwrote. Only while the context is quiet. */
  watch(snapshot: Snapshot | undefined): void {
    this.#snapshot = snapshot
  }

  /** Called after every epoch that is published; must be quick and not throw. */
  set onPublished(callback: () => void) {
    this.#onPublished = callback
  }

  /** Nothing executes on another thread: the context may be read, though perhaps an epoch is in flight. */
  get isQuiet(): boolean {
    return this.#trial === undefined && this.#inFlight?.executing !== true
  }

  /** Resolves when the context is quiet; the caller then has it to itself until it awaits again. */
  async quiet(): Promise<void> {
    while (!this.isQuiet) await this.#next()
  }

  /** Runs `work` with no epoch in flight, none starting and no other hold; transactions queue meanwhile. */
  async hold<T>(work: () => Promise<T>): Promise<T> {
    const before = this.#lastHold
    let release: () => void = () => {}
    this.#lastHold = new Promise((resolve) => {
      release = resolve
    })
    this.#held++
    try {
      await before
      while (!this.#isIdle) await this.#next()
      this.refuseWhenFailed()
      return await work()
    } finally {
      this.#held--
      release()
      this.#schedule()
    }
  }

  /**
   * Executes on trial and takes it back (src/engine/commit/dry-run.ts). `prepare` is called with the state at rest, perhaps twice.
   * A long trial runs on another thread while commits wait; reads then finish it first or wait for it.
   */
  async trial<T>(prepare: () => Omit<Trial<T>, 'context'>): Promise<T> {
    await this.idle()
    this.refuseWhenStopped()
    const { context } = this.#rooms
    const trial = { context, ...prepare() }
    try {
      if (!this.#leaves(trial.plan, trial.frames)) return runTrial(trial)
      return await this.hold(async () => {
        // Those who waited for the same epoch read before the context is taken away.
        await new Promise((resolve) => setImmediate(resolve))
        this.refuseWhenStopped()
        const running = startTrial({ context, ...prepare() }, () => {
          this.#trial = undefined
          this.#notifyWaiters()
        })
        this.#trial = running
        return running.done
      })
    } catch (error) {
      if (error instanceof TrialLost) this.#stop(error)
      throw error instanceof TrialLost ? this.#stopped() : error
    }
  }

  /** Takes nothing more, finishes what is queued, runs `beforeEnd` and closes the log. */
  async close(beforeEnd?: () => Promise<void>): Promise<void> {
    this.#closing = true
    while (this.#failure === undefined && (this.#queue.length > 0 || !this.#isIdle)) {
      await this.#next()
    }
    await this.#trailingAppend
    await beforeEnd?.()
    await this.#store?.close()
    this.#failure ??= 'the bus is closed'
  }

  /** Queues a transaction; resolves when it is durable and visible. Throws OVERLOADED when the queue is full. */
  commit(pending: Pending): Promise<CommitResult> {
    const answered = this.answered(pending.key)
    if (answered !== undefined) return answered
    if (!this.hasRoom(pending.frame.byteLength)) {
      throw new MmsbError('OVERLOADED', `${this.#queueCount} transactions are waiting.`, { retryAfterS: 1 })
    }
    const promise = new Promise<CommitResult>((resolve, reject) => {
      this.#queue.push({ pending, queuedAtMs: performance.now(), resolve, reject })
    })
    this.#queueBytes += pending.frame.byteLength
    this.#queueCount++
    if (pending.key !== undefined) this.#awaitAnswer(pending.key, promise)
    if (this.#isMuch && this.#inFlight === undefined && this.#held === 0) this.#startEpoch()
    else this.#schedule()
    return promise
  }

  /** The answer to the transaction that came with this key before, or that it will get. */
  answered(key: string | undefined): Promise<CommitResult> | undefined {
    if (key === undefined) return undefined
    const known = this.#answers.get(key)
    return known === undefined ? this.#answersPending.get(key) : Promise.resolve(known)
  }

  /** Whether a transaction of so many bytes can be queued. */
  hasRoom(bytes: number): boolean {
    if (this.#queueCount >= QUEUE_MAX_TRANSACTIONS) return false
    return this.#queueCount === 0 || this.#queueBytes + bytes <= QUEUE_MAX_BYTES
  }

  /** Queues a plain frame, for which there is room; it joins the run that came before it where it can. */
  commitPlain(sender: Sender, number: number, slab: Slab, at: number, length: number): void {
    const newest = this.#queue.at(-1)?.pending
    const joins =
      newest instanceof Run && newest.count < RUN_MAX_FRAMES && newest.isNext(sender, number, slab, at)
    const run = joins ? newest : new Run(sender, number, slab, at)
    run.add(length)
    this.#queueBytes += length
    this.#queueCount++
    if (joins) return
    this.#queue.push(submissionOf(run, performance.now()))
    this.#schedule()
  }

  #awaitAnswer(key: string, promise: Promise<CommitResult>): void {
    this.#answersPending.set(key, promise)
    const forget = (): void => {
      this.#answersPending.delete(key)
    }
    promise.then(forget, forget)
  }

  /** So much is queued that the disk had better write it while more is gathered. */
  get #isMuch(): boolean {
    return this.#queueBytes >= START_AT_BYTES && this.#store !== undefined && this.#world.hasThreads
  }

  /** Lets what the event loop has ready join the batch before it starts. */
  #schedule(): void {
    if (this.#scheduled || this.#inFlight !== undefined || this.#queue.length === 0 || this.#held > 0) return
    this.#scheduled = true
    this.#world.soon(this.#startScheduled)
  }

  readonly #startScheduled = (): void => {
    const isFree = this.#inFlight === undefined && this.#held === 0
    if (isFree && this.#pace.shouldWait(this.#queueCount, this.#world.ticksMs())) {
      this.#world.soon(this.#startScheduled)
      return
    }
    this.#scheduled = false
    if (isFree) this.#startEpoch()
  }

  #startEpoch(): void {
    if (this.#failure !== undefined) return
    const batch = new Batch(this.#epoch + 1, this.#rooms)
    let submissions: Submission[]
    try {
      submissions = this.#fill(batch)
    } catch (error) {
      void this.#moveAtRest(error)
      return
    }
    if (submissions.length === 0) {
      this.#notifyWaiters()
      this.#schedule()
      return
    }
    const timestampMs = Math.max(this.#world.nowMs(), this.#timestampMs)
    this.#inFlight = {
      batch,
      submissions,
      timestampMs,
      executing: false,
      appending: false,
      appended: undefined,
      result: undefined,
      event: undefined,
      moving: false,
    }
    const flight = this.#inFlight
    const store = this.#store
    if (store === undefined) {
      this.#runInMemory(flight)
      return
    }
    this.#runDurably(flight, store).catch((error: unknown) => {
      if (error instanceof DeviceLost) return this.#move(flight, error)
      this.#fail(flight, error)
    })
  }

  /** Moves transactions from the queue into the batch, refusing singly. Throws, and takes none, when the device is lost. */
  #fill(batch: Batch): Submission[] {
    const taken: Submission[] = []
    const refused = new Set<Submission>()
    let at = 0
    for (; at < this.#queue.length; at++) {
      const submission = this.#queue[at] as Submission
      const { pending } = submission
      const bytes = pending.frame.byteLength
      const { count = 1 } = pending
      if (taken.length > 0 && !batch.hasRoom(count, bytes)) break
      try {
        if (batch.stage(pending) === 'later') break
        taken.push(submission)
      } catch (error) {
        if (error instanceof DeviceLost) {
          this.#queue = this.#queue.filter((other) => !refused.has(other))
          this.#queueBytes = this.#queue.reduce((sum, { pending }) => sum + pending.frame.byteLength, 0)
          this.#queueCount = this.#queue.reduce((sum, { pending }) => sum + (pending.count ?? 1), 0)
          throw error
        }
        if (pending instanceof Run && count > 1) {
          // Not every one of its frames need be refused.
          const { queuedAtMs } = submission
          this.#queue.splice(at--, 1, ...pending.split().map((run) => submissionOf(run, queuedAtMs)))
          continue
        }
        refused.add(submission)
        submission.reject(error)
      }
      this.#queueBytes -= bytes
      this.#queueCount -= count
    }
    this.#queue = at === this.#queue.length ? [] : this.#queue.slice(at)
    return taken
  }

  #runInMemory(flight: InFlight): void {
    const plan = flight.batch.plan()
    const frames = flight.batch.frames(this.#room)
    if (!this.#leaves(plan, frames)) {
      try {
        flight.result = this.#execute(plan, frames)
      } catch (error) {
        this.#fail(flight, error)
        return
      }
      this.#publish(flight)
      this.#schedule()
      return
    }
    flight.executing = true
    this.#executeAsync(flight, plan, frames).then(
      () => {
        this.#publish(flight)
        this.#schedule()
      },
      (error: unknown) => this.#fail(flight, error),
    )
  }

  async #runDurably(flight: InFlight, store: Store): Promise<void> {
    const { batch } = flight
    const frames = batch.frames(this.#room)
    if (this.#trailingAppend !== undefined) {
      await this.#trailingAppend
      this.#trailingAppend = undefined
    }
    try {
      const reserved = store.reserve(frames.byteLength)
      if (reserved !== undefined) await reserved
    } catch (error) {
      this.#abandon(flight, error)
      return
    }
    const plan = batch.plan()
    flight.appending = true
    const startedMs = this.#world.ticksMs()
    const appended = store.append({
      epoch: batch.epoch,
      timestampMs: flight.timestampMs,
      digestBefore: this.#digest,
      frameCount: batch.frameCount,
      frames,
      touchedPages: batch.touchedPages(),
    })
    flight.appended = appended
    if (this.#leaves(plan, frames)) {
      flight.executing = true
      await Promise.all([appended, this.#executeAsync(flight, plan, frames)])
    } else {
      // The append is under way on another thread; its promise must have a handler before anything can throw.
      const settled = appended.then(
        () => undefined,
        (error: unknown) => ({ error }),
      )
      flight.result = this.#execute(plan, frames)
      this.#tellAhead(flight)
      const failed = await settled
      if (failed !== undefined) throw failed.error
    }
    const nowMs = this.#world.ticksMs()
    this.timings.record('append', nowMs - startedMs)
    this.#pace.published(nowMs - startedMs, batch.frameCount, this.#queueCount, nowMs)
    // While the writers of this epoch are answered, the disk works for those who wait.
    this.#publish(flight, () => {
      if (this.#waiters.length > 0 || this.#queue.length === 0 || this.#held > 0) return
      if (!this.#pace.shouldWait(this.#queueCount, nowMs)) this.#startEpoch()
    })
    this.#schedule()
  }

  #leaves(plan: Plan, frames: Uint8Array): boolean {
    return this.#world.hasThreads && leavesEventLoop(plan, frames)
  }

  #execute(plan: Plan, frames: Uint8Array): ExecuteResult {
    const result = this.#rooms.context.execute(plan.steps.length === 0 ? EMPTY_STEPS : plan.steps, frames)
    this.#observe(plan, result)
    return result
  }

  async #executeAsync(flight: InFlight, plan: Plan, frames: Uint8Array): Promise<void> {
    const result = await this.#rooms.context.executeAsync(plan.steps, frames)
    if (flight.result !== undefined) return
    flight.executing = false
    flight.result = result
    this.#observe(plan, result)
  }

  #observe(plan: Plan, result: ExecuteResult): void {
    this.#snapshot?.absorb()
    const ns = result.execNs
    plan.observedNs = plan.observedNs === 0 ? ns : plan.observedNs * 0.75 + ns * 0.25
    this.timings.record('execute', ns / 1e6)
  }

  /** Finishes the epoch in flight on this thread, so that a synchronous read sees a whole epoch. */
  settle(): void {
    this.refuseWhenFailed()
    this.#trial?.settle()
    const flight = this.#inFlight
    if (flight?.moving === true) throw moving()
    if (flight === undefined || (!flight.appending && this.#store !== undefined)) return
    try {
      if (flight.result === undefined && flight.executing) {
        flight.result = this.#rooms.context.waitSync()
        flight.executing = false
        this.#snapshot?.absorb()
      }
      this.#store?.completeSync()
    } catch (error) {
      if (error instanceof DeviceLost && this.#refuge !== undefined) {
        void this.#move(flight, error)
        throw moving()
      }
      this.#fail(flight, error)
      throw this.#stopped()
    }
    this.#trailingAppend = flight.appended
    this.#publish(flight)
    this.#schedule()
  }

  // ---- publish, abandon, fail -------------------------------------------------------------------------------------

  /** `goOn` is called when all is told but the writers' answers, which do not change any more: another epoch may start. */
  #publish(flight: InFlight, goOn = (): void => {}): void {
    if (this.#inFlight !== flight || flight.result === undefined) return
    const startedMs = performance.now()
    const { batch, result } = flight
    const epoch = batch.epoch
    const event = this.#listeners.size > 0 ? (flight.event ?? this.#eventOf(flight, result)) : undefined
    result.eachChangedId((id) => {
      const page = this.#rooms.registry.byId(id)
      if (page !== undefined) page.version = epoch
    })
    if (this.#snapshot !== undefined) for (const id of batch.destroyedIds) this.#snapshot.saveWhole(id)
    batch.publish()
    this.#digest = batch.deleted.length > 0 ? this.#rooms.context.stateDigest() : result.stateDigest()
    this.#epoch = epoch
    this.#timestampMs = flight.timestampMs
    this.#inFlight = undefined
    this.#lastResult = result
    if (event !== undefined) for (const listener of this.#listeners) listener(event)
    const answers = flight.submissions.map((submission) => this.#answerTo(submission, epoch, startedMs))
    this.#onPublished?.()
    goOn()
    for (const [i, { resolve }] of flight.submissions.entries()) resolve(answers[i] as CommitResult)
    this.#notifyWaiters()
    this.timings.record('publish', performance.now() - startedMs)
  }

  #tellAhead(flight: InFlight): void {
    if (this.#ahead.size === 0 || flight.result === undefined) return
    flight.event = this.#eventOf(flight, flight.result)
    for (const ahead of this.#ahead) ahead(flight.event)
  }

  #eventOf({ batch, timestampMs }: InFlight, result: ExecuteResult): CommitEvent {
    const changes: PageChange[] = []
    for (const page of batch.created) {
      if (!batch.isDeleted(page.id)) {
        changes.push(changeOf(page, 'created', Uint32Array.of(0, page.elements)))
      }
    }
    result.eachChange((id, ranges) => {
      const page = this.#rooms.registry.byId(id)
      if (page === undefined || batch.isDeleted(id)) return
      changes.push(changeOf(page, page.kind, ranges.slice()))
    })
    for (const page of batch.deleted) {
      if (batch.createdPage(page.id) === undefined) changes.push(changeOf(page, 'deleted', EMPTY_STEPS))
    }
    return { epoch: batch.epoch, timestampMs, changes }
  }

  #answerTo({ pending, queuedAtMs }: Submission, epoch: number, nowMs: number): CommitResult {
    this.deltaCounts.dense += pending.deltas.dense
    this.deltaCounts.sparse += pending.deltas.sparse
    this.deltaCounts.masked += pending.deltas.masked
    const result = { epoch, pages: this.#versionsOf(pending) }
    if (pending.key !== undefined) this.#remember(pending.key, result)
    this.timings.record('commit', nowMs - queuedAtMs)
    return result
  }

  #versionsOf(pending: Pending): Record<string, number> {
    const versions: Record<string, number> = {}
    for (const id of pending.writes) {
      const page = this.#rooms.registry.byId(id)
      if (page !== undefined) setOwn(versions, page.name, page.version)
    }
    for (const page of pending.creates) setOwn(versions, page.name, page.version)
    return versions
  }

  #remember(key: string, answer: CommitResult): void {
    this.#answers.set(key, answer)
    if (this.#answers.size <= IDEMPOTENCY_KEYS_MAX) return
    const [oldest] = this.#answers.keys()
    if (oldest !== undefined) this.#answers.delete(oldest)
  }

  /** The log has no room: nothing was written or applied, and the bus goes on. */
  #abandon(flight: InFlight, error: unknown): void {
    flight.batch.abandon()
    this.#inFlight = undefined
    for (const { reject } of flight.submissions) reject(error)
    this.#notifyWaiters()
    const goesOn = error instanceof MmsbError && error.code === 'LOG_FULL'
    if (goesOn) this.#schedule()
    else this.#stop(error)
  }

  /**
   * The device failed while the epoch was executed. The log has the epoch, or soon will: the state before it is rebuilt
   * elsewhere, the epoch is staged and executed there, and published as if nothing had been.
   */
  async #move(flight: InFlight, error: DeviceLost): Promise<void> {
    const { appended } = flight
    if (this.#inFlight !== flight || flight.moving) return
    if (this.#refuge === undefined || appended === undefined) return this.#fail(flight, error)
    flight.moving = true
    try {
      await appended
      this.#refuge(error.message)
      const { pendings } = flight.batch
      const batch = new Batch(flight.batch.epoch, this.#rooms)
      for (const pending of pendings) {
        if (batch.stage(pending) !== 'staged')
          throw new MmsbError('INTERNAL', `Epoch ${batch.epoch} cannot be staged again.`)
      }
      flight.batch = batch
      flight.event = undefined
      flight.executing = false
      flight.result = this.#execute(batch.plan(), batch.frames(this.#room))
    } catch (cause) {
      return this.#fail(flight, cause)
    }
    flight.moving = false
    this.#publish(flight)
    this.#schedule()
  }

  /** The device failed while nothing was in flight: the newest epoch is rebuilt elsewhere, and the queue goes on. */
  async #moveAtRest(error: unknown): Promise<void> {
    this.#held++
    try {
      await this.#trailingAppend
      if (!(error instanceof DeviceLost) || this.#refuge === undefined) throw error
      this.#refuge(error.message)
    } catch (cause) {
      this.#stop(cause)
    }
    this.#held--
    this.#notifyWaiters()
    this.#schedule()
  }

  /** Memory and log may differ now: nothing more is taken. */
  #fail(flight: InFlight, error: unknown): void {
    if (this.#inFlight !== flight) {
      this.#stop(error)
      return
    }
    this.#inFlight = undefined
    this.#stop(error)
    for (const { reject } of flight.submissions) reject(this.#stopped())
    this.#notifyWaiters()
  }

  #stop(error: unknown): void {
    if (this.#failure !== undefined) return
    this.#failure = error instanceof Error ? error.message : String(error)
    const queued = this.#queue
    this.#queue = []
    this.#queueBytes = 0
    this.#queueCount = 0
    for (const { reject } of queued) reject(this.#stopped())
    this.#notifyWaiters()
    for (const listener of this.#failureListeners) listener(this.#failure)
  }

  #stopped(): MmsbError {
    return new MmsbError('BUS_FAILED', `The bus has stopped: ${this.#failure ?? 'unknown'}`)
  }

  refuseWhenFailed(): void {
    if (this.#failure !== undefined) throw this.#stopped()
  }

  /** Takes nothing more. */
  get isStopped(): boolean {
    return this.#failure !== undefined || this.#closing
  }

  refuseWhenStopped(): void {
    this.refuseWhenFailed()
    if (this.#closing) throw new MmsbError('BUS_FAILED', 'The bus is closing.')
  }

  /** Resolves when no epoch is in flight; the caller then has the state to itself until it awaits again. */
  idle(): Promise<void> {
    return this.#isIdle ? DONE : this.#next()
  }

  /** Resolves at the next publish, abandonment or failure. */
  #next(): Promise<void> {
    return new Promise((resolve) => {
      this.#waiters.push(resolve)
    })
  }

  #notifyWaiters(): void {
    if (this.#waiters.length === 0) return
    const waiters = this.#waiters
    this.#waiters = []
    for (const resolve of waiters) resolve()
  }
}

function submissionOf(run: Run, queuedAtMs: number): Submission {
  return {
    pending: run,
    queuedAtMs,
    resolve: ({ epoch }) => run.committed(epoch),
    reject: (error) => run.failed(error),
  }
}

function moving(): MmsbError {
  return new MmsbError('OVERLOADED', 'The device failed; the state is being rebuilt without it.', {
    retryAfterS: 1,
  })
}

function changeOf(page: PageRecord, kind: PageChange['kind'], ranges: Uint32Array): PageChange {
  return { pageId: page.id, page: page.name, kind, dtype: page.dtype, shape: page.shape, ranges }
}

/**
 * Room for the frames of an epoch, kept from one to the next: fresh memory costs a page fault every 4 KiB. Two take turns,
 * since the append of an epoch that a synchronous read published early may still be under way while the next is made.
 */
function frameRoom(): (sizeBytes: number) => Uint8Array {
  let [current, other] = [new Uint8Array(0), new Uint8Array(0)]
  return (sizeBytes) => {
    ;[current, other] = [other, current]
    if (current.byteLength < sizeBytes) current = new Uint8Array(2 ** Math.ceil(Math.log2(sizeBytes)))
    return current.subarray(0, sizeBytes)
  }
}

/** Whether an execution may hold the event loop too long and belongs on another thread. */
function leavesEventLoop(plan: Plan, frames: Uint8Array): boolean {
  const payloadNs = frames.byteLength / 2
  return (plan.observedNs || plan.costNs) + payloadNs > PLAN_ASYNC_THRESHOLD_NS
}

/** A page may be called `__proto__`, to which plain assignment gives a prototype instead of a property. */
function setOwn(record: Record<string, number>, name: string, value: number): void {
  if (name !== '__proto__') record[name] = value
  else Object.defineProperty(record, name, { value, enumerable: true, configurable: true, writable: true })
}
