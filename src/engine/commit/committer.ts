/**
 * From a pending transaction to a published epoch. One epoch is in flight at a time, while the next batch
 * gathers:
 *
 *   queue -> batch (staged one by one) -> append + execute, at the same time -> publish
 *
 * Invariants:
 * - an epoch is published when its record is durable and its execution done, never before;
 * - answers, events and waiting reads come after the versions moved;
 * - a full log refuses the batch and changes nothing; any other failure stops the bus for good, since memory
 *   and log may differ. A failed device is the exception (device-failover.ts).
 * Knows nothing of names beyond the registry, of sockets or of files.
 *
 * Long because every stage of an epoch, its end by cancelling included, works on the same state.
 */
import { performance } from 'node:perf_hooks'
import { MmsbError } from '../../errors.js'
import type { ExecuteResult } from '../../ffi/context.js'
import { DeviceLost, ExecutionCancelled } from '../../ffi/library.js'
import type { Plan } from '../../graph/graph.js'
import { START_AT_BYTES } from '../../limits.js'
import type { LimitGuard } from '../../operator-limits.js'
import type { Slab } from '../../state/slab.js'
import type { Store } from '../../store/store.js'
import type { Admission } from '../call-types.js'
import type { Pending, Submission } from '../commands/pending.js'
import { type EpochTimes, type Host, REAL_HOST } from '../host.js'
import { fingerprintOf } from '../idempotency/fingerprint.js'
import { type AnsweredKey, type FirstUse, IdempotencyKeys } from '../idempotency/keys.js'
import { CostLimits } from '../pages/cost-limits.js'
import type { EngineState } from '../pages/engine-state.js'
import { Quotas } from '../pages/quotas.js'
import { StageTimings } from '../stage-timings.js'
import type { CommitEvent, CommitResult, Sender } from '../types.js'
import { Batch, frameBuffers } from './batch.js'
import { CommitQueue, queueFull } from './commit-queue.js'
import { DeviceFailover, type FailOver, failingOverError } from './device-failover.js'
import { type DryRun, DryRuns } from './dry-run.js'
import { Executor, type OverwriteObserver } from './executor.js'
import { GroupCommit } from './group-commit.js'
import { IdleGate } from './idle-gate.js'
import { Lifecycle } from './lifecycle.js'
import { type EpochInFlight, Publisher } from './publish.js'
import { stageInSlices } from './stage-in-slices.js'

/** The published state of an opened store. */
export interface StartingPoint {
  readonly epoch: number
  readonly digest: Uint8Array
  readonly timestampMs: number
  /** Idempotency keys and their answers, oldest first. */
  readonly answers: readonly AnsweredKey[]
}

export class Committer {
  readonly timings = new StageTimings()
  readonly lifecycle = new Lifecycle()
  readonly #state: EngineState
  readonly #host: Host
  readonly #queue = new CommitQueue()
  readonly #keys: IdempotencyKeys
  readonly #groupCommit = new GroupCommit()
  readonly #executor: Executor
  readonly #publisher: Publisher
  readonly #failover: DeviceFailover
  readonly #gate = new IdleGate({ isIdle: () => this.#isIdle, onRelease: () => this.#schedule() })
  readonly #bufferOf = frameBuffers()
  readonly #costs: CostLimits
  readonly #quotas: Quotas
  #store: Store | undefined
  #inFlight: EpochInFlight | undefined
  #isScheduled = false
  readonly #dryRuns: DryRuns
  readonly #limits: LimitGuard
  /** Nothing long is begun any more, and what runs was cancelled. */
  #isHurried = false
  /** The append of an epoch that a synchronous read published early; the next append comes after it. */
  #trailingAppend: Promise<unknown> | undefined
  #onPublished: (() => void) | undefined

  /** `failOver` is called when the device failed. */
  constructor(state: EngineState, limits: LimitGuard, failOver: FailOver, host: Host = REAL_HOST) {
    this.#state = state
    this.#costs = new CostLimits(limits, (id) => state.registry.byId(id)?.name ?? `#${id}`)
    this.#quotas = new Quotas(limits, state)
    this.#host = host
    this.#executor = new Executor(state.context, this.timings, host)
    this.#keys = new IdempotencyKeys(limits)
    this.#publisher = new Publisher(state, this.#keys, this.timings)
    this.#failover = new DeviceFailover(state, this.#executor, failOver)
    this.#limits = limits
    this.#dryRuns = new DryRuns({
      context: state.context,
      executor: this.#executor,
      gate: this.#gate,
      lifecycle: this.lifecycle,
      costs: this.#costs,
      ticksMs: () => host.ticksMs(),
      stop: (error) => this.#stop(error),
    })
  }

  /** Begins at the point that was recovered. */
  startFrom({ epoch, digest, timestampMs, answers }: StartingPoint): void {
    this.#publisher.startFrom(epoch, digest, timestampMs)
    for (const entry of answers) this.#keys.remember(entry[0], entry[1], entry[2])
  }

  /** From now on epochs go to this store. */
  attach(store: Store): void {
    this.#store = store
    store.onFailed((error) => this.#stop(error))
  }

  get epoch(): number {
    return this.#publisher.epoch
  }

  /** The state's digest at `epoch`. */
  get digest(): Uint8Array {
    return this.#publisher.digest
  }

  /** When `epoch` was committed. */
  get timestampMs(): number {
    return this.#publisher.timestampMs
  }

  get queued(): { transactions: number; bytes: number } {
    return { transactions: this.#queue.count, bytes: this.#queue.bytes }
  }

  /** Deltas committed since start, by kind. */
  get deltaCounts(): { readonly dense: number; readonly sparse: number; readonly masked: number } {
    return this.#publisher.deltaCounts
  }

  /** Idempotency keys and their answers, oldest first. */
  get answers(): readonly AnsweredKey[] {
    return this.#keys.entries()
  }

  /** The native result of the newest epoch since start. */
  get lastResult(): ExecuteResult | undefined {
    return this.#publisher.lastResult
  }

  /** See EngineBus.onCommit. */
  onCommit(listener: (event: CommitEvent) => void, ahead?: (event: CommitEvent) => void): () => void {
    return this.#publisher.onCommit(listener, ahead)
  }

  /** Called after every published epoch; must be quick and must not throw. */
  set onPublished(callback: () => void) {
    this.#onPublished = callback
  }

  // ---- waiting --------------------------------------------------------------------------------------------

  get #isIdle(): boolean {
    return this.#inFlight === undefined && !this.#dryRuns.isRunning
  }

  /** See EngineBus.between. */
  between(run: () => void): void {
    this.#gate.between(run)
  }

  /** Resolves when no epoch is in flight; the caller then has the state to itself until it awaits again. */
  idle(): Promise<void> {
    return this.#gate.idle()
  }

  /** The batch of the epoch in flight: what it has staged is not published yet. */
  get staged(): Batch | undefined {
    return this.#inFlight?.batch
  }

  /** The newest execution belongs to something that is not published: an epoch in flight, or a dry run. */
  get isExecutionOpen(): boolean {
    if (this.#dryRuns.isRunning) return true
    const flight = this.#inFlight
    return flight !== undefined && (flight.isExecuting || flight.result !== undefined)
  }

  /** Nothing executes on another thread: the context may be read, although an epoch may be in flight. */
  get isQuiet(): boolean {
    return !this.#dryRuns.isRunning && this.#inFlight?.isExecuting !== true
  }

  /** Resolves when the context is quiet; the caller then has it to itself until it awaits again. */
  async quiet(): Promise<void> {
    while (!this.isQuiet) await this.#gate.next()
  }

  /** Runs `work` with no epoch in flight, none starting and no other hold; transactions queue meanwhile. */
  hold<T>(work: () => Promise<T>): Promise<T> {
    return this.#gate.hold(async () => {
      this.lifecycle.refuseWhenFailed()
      return work()
    })
  }

  /** Tells `observer` what executions overwrite, from now on. Only while the context is quiet. */
  observe(observer: OverwriteObserver | undefined): void {
    this.#executor.observer = observer
  }

  // ---- the queue ------------------------------------------------------------------------------------------

  /** The first transaction that came with this key. Ask before `commit`, in the same turn. */
  firstUse(key: string | undefined): FirstUse | undefined {
    return this.#keys.firstUse(key)
  }

  /** Whether a transaction of so many bytes can be queued. */
  hasRoom(bytes: number): boolean {
    return this.#queue.hasRoom(bytes)
  }

  /**
   * Queues a transaction whose key is new; resolves when it is durable and visible. Throws OVERLOADED when
   * the queue is full.
   */
  commit(pending: Pending): Promise<CommitResult> {
    if (!this.#queue.hasRoom(pending.frame.byteLength)) throw queueFull()
    const answer = this.#queue.add(pending)
    if (pending.key !== undefined) this.#keys.expect(pending.key, fingerprintOf(pending.frame), answer)
    if (this.#isMuch && this.#inFlight === undefined && !this.#gate.isHeld) this.#startEpoch()
    else this.#schedule()
    return answer
  }

  /** Queues a plain frame, for which there is room; it joins the run before it when it continues that. */
  commitPlain(sender: Sender, number: number, slab: Slab, at: number, length: number): void {
    if (this.#queue.addPlain(sender, number, slab, at, length)) this.#schedule()
  }

  /** So many bytes are queued that the disk should write them while more are gathered. */
  get #isMuch(): boolean {
    return this.#queue.bytes >= START_AT_BYTES && this.#store !== undefined && this.#host.hasThreads
  }

  // ---- an epoch -------------------------------------------------------------------------------------------

  /** Starts an epoch soon: everything that is ready on the event loop can still join its batch. */
  #schedule(): void {
    if (this.#isScheduled || this.#inFlight !== undefined || this.#queue.isEmpty || this.#gate.isHeld) return
    this.#isScheduled = true
    this.#host.soon(this.#startScheduled)
  }

  readonly #startScheduled = (): void => {
    const isFree = this.#inFlight === undefined && !this.#gate.isHeld
    if (isFree && this.#groupCommit.shouldWait(this.#queue.count, this.#host.ticksMs())) {
      this.#host.soon(this.#startScheduled)
      return
    }
    this.#isScheduled = false
    if (isFree) this.#startEpoch()
  }

  #startEpoch(): void {
    if (this.lifecycle.failure !== undefined) return
    const batch = new Batch(this.epoch + 1, this.#state, this.#costs, this.#quotas)
    const large = this.#queue.takeLarge()
    if (large !== undefined) {
      void this.#startLarge(this.#takeOff(batch, [large]), large)
      return
    }
    let submissions: Submission[]
    try {
      submissions = this.#queue.fill(batch)
    } catch (error) {
      void this.#failOverAtRest(error)
      return
    }
    if (submissions.length === 0) {
      this.#gate.wake()
      this.#schedule()
      return
    }
    this.#run(this.#takeOff(batch, submissions))
  }

  #takeOff(batch: Batch, submissions: readonly Submission[]): EpochInFlight {
    const flight: EpochInFlight = {
      batch,
      submissions,
      timestampMs: Math.max(this.#host.nowMs(), this.timestampMs),
      isStaging: false,
      isExecuting: false,
      isAppending: false,
      appended: undefined,
      appendStartedMs: undefined,
      appendEndedMs: undefined,
      result: undefined,
      event: undefined,
      isFailingOver: false,
      plan: undefined,
      isKept: false,
      cancelled: undefined,
    }
    this.#inFlight = flight
    return flight
  }

  /** Stages a transaction of many pages in slices; its epoch is its own. */
  async #startLarge(flight: EpochInFlight, submission: Submission): Promise<void> {
    const { batch } = flight
    flight.isStaging = true
    try {
      await stageInSlices(batch, submission.pending, this.#host, () => this.#reasonToStop)
    } catch (error) {
      this.#inFlight = undefined
      if (error instanceof DeviceLost) {
        this.#queue.putBack(submission)
        void this.#failOverAtRest(error)
        return
      }
      submission.reject(error)
      this.#gate.wake()
      this.#schedule()
      return
    }
    flight.isStaging = false
    this.#run(flight)
  }

  get #reasonToStop(): MmsbError | undefined {
    if (this.lifecycle.failure !== undefined) return this.lifecycle.stoppedError()
    return this.#isHurried ? stopping() : undefined
  }

  #run(flight: EpochInFlight): void {
    if (this.#store === undefined) this.#runInMemory(flight)
    else this.#runDurably(flight, this.#store).catch((error: unknown) => this.#onError(flight, error))
  }

  #runInMemory(flight: EpochInFlight): void {
    const plan = flight.batch.plan()
    const frames = flight.batch.frames(this.#bufferOf)
    if (!this.#executor.needsThread(plan, frames, flight.batch.createdBytes)) {
      try {
        flight.result = this.#executor.run(plan, frames)
      } catch (error) {
        this.#fail(flight, error)
        return
      }
      this.#publish(flight)
      this.#schedule()
      return
    }
    this.#executeOnThread(flight, plan, frames).then(
      () => {
        this.#publish(flight)
        this.#schedule()
      },
      (error: unknown) => this.#onError(flight, error),
    )
  }

  async #runDurably(flight: EpochInFlight, store: Store): Promise<void> {
    const { batch } = flight
    const frames = batch.frames(this.#bufferOf)
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
    flight.isAppending = true
    const startedMs = this.#host.ticksMs()
    flight.appendStartedMs = startedMs
    const appended = store.append({
      epoch: batch.epoch,
      timestampMs: flight.timestampMs,
      digestBefore: this.digest,
      frameCount: batch.frameCount,
      frames,
      touchedPages: batch.touchedPages(),
    })
    flight.appended = appended
    if (this.#executor.needsThread(plan, frames, batch.createdBytes)) {
      await Promise.all([appended, this.#executeOnThread(flight, plan, frames)])
    } else {
      // The append runs on another thread; its promise must have a handler before anything here can throw.
      const settled = appended.then(
        () => undefined,
        (error: unknown) => ({ error }),
      )
      flight.result = this.#executor.run(plan, frames)
      this.#publisher.tellAhead(flight, flight.result)
      const failed = await settled
      if (failed !== undefined) throw failed.error
    }
    const nowMs = this.#host.ticksMs()
    flight.appendEndedMs = nowMs
    this.timings.record('append', nowMs - startedMs)
    this.#groupCommit.published(nowMs - startedMs, batch.frameCount, this.#queue.count, nowMs)
    // The next epoch starts before the writers of this one are answered: the disk works meanwhile.
    this.#publish(flight, () => {
      if (this.#gate.hasWaiters || this.#queue.isEmpty || this.#gate.isHeld) return
      if (!this.#groupCommit.shouldWait(this.#queue.count, nowMs)) this.#startEpoch()
    })
    this.#schedule()
  }

  async #executeOnThread(flight: EpochInFlight, plan: Plan, frames: Uint8Array): Promise<void> {
    const { maxCommitTimeMs } = this.#limits.values
    flight.plan = plan
    flight.isExecuting = true
    flight.isKept = this.#executor.mustKeep(plan, maxCommitTimeMs, () => bytesOf(this.#state, plan))
    const execution = this.#executor.start(plan, frames, flight.isKept)
    if (this.#isHurried) this.#cancel(flight, stopping())
    const timer = flight.isKept
      ? setTimeout(() => this.#cancel(flight, this.#tookTooLong()), maxCommitTimeMs)
      : undefined
    try {
      const result = await execution
      // A synchronous read has taken the result already.
      if (flight.result !== undefined) return
      this.#endExecution(flight, result)
      this.#executor.noteEnd(plan, result, flight.isKept)
    } finally {
      clearTimeout(timer)
    }
  }

  #endExecution(flight: EpochInFlight, result: ExecuteResult): void {
    flight.isExecuting = false
    flight.result = result
    if (flight.cancelled !== undefined) this.#executor.forgetCancel()
  }

  /** Publishes the epoch in flight now, on this thread, so that a synchronous read sees a whole epoch. */
  settle(): void {
    this.lifecycle.refuseWhenFailed()
    this.#dryRuns.settle()
    const flight = this.#inFlight
    if (flight?.isFailingOver === true) throw failingOverError()
    if (flight === undefined || flight.isStaging || (!flight.isAppending && this.#store !== undefined)) return
    try {
      if (flight.result === undefined && flight.isExecuting) {
        this.#endExecution(flight, this.#executor.waitSync(flight.isKept))
      }
      this.#store?.completeSync()
    } catch (error) {
      if (error instanceof ExecutionCancelled) {
        this.#voidSync(flight)
        return
      }
      this.#onError(flight, error)
      throw flight.isFailingOver ? failingOverError() : this.lifecycle.stoppedError()
    }
    this.#trailingAppend = flight.appended
    this.#publish(flight)
    this.#schedule()
  }

  /**
   * `startNext` is called when listeners know the epoch and its answers are fixed: the next epoch may start.
   */
  #publish(flight: EpochInFlight, startNext?: () => void): void {
    if (this.#inFlight !== flight || flight.result === undefined) return
    const startedMs = performance.now()
    this.#publisher.apply(flight, flight.result, this.#executor.observer)
    this.#inFlight = undefined
    const answers = this.#publisher.tell(flight, startedMs)
    this.#onPublished?.()
    startNext?.()
    const { submissions } = flight
    for (let i = 0; i < submissions.length; i++) submissions[i]?.resolve(answers[i] as CommitResult)
    this.#gate.wake()
    this.timings.record('publish', performance.now() - startedMs)
    this.#host.onEpoch?.(timesOf(flight, startedMs))
  }

  // ---- dry runs -------------------------------------------------------------------------------------------

  /**
   * Executes something and undoes it (dry-run.ts). `prepare` is called while no epoch is in flight, perhaps
   * twice. A long dry run executes on another thread while commits wait; a synchronous read finishes it
   * first, others wait for it. It is cancelled when the signal aborts.
   */
  dryRun<T>(
    prepare: () => Omit<DryRun<T>, 'context'>,
    signal?: AbortSignal,
    admission?: Admission,
  ): Promise<T> {
    return this.#dryRuns.run(prepare, signal, admission)
  }

  // ---- cancelling -----------------------------------------------------------------------------------------

  /**
   * Cancels the commit that executes on another thread, if it can be taken back: its writers get
   * COST_EXCEEDED, its epoch is void, and the next one follows. Returns whether there was one.
   */
  cancelCommit(): boolean {
    const flight = this.#inFlight
    if (flight === undefined || !flight.isKept) return false
    return this.#cancel(
      flight,
      new MmsbError('COST_EXCEEDED', 'The commit was cancelled; nothing has changed.'),
    )
  }

  /** Refuses what is queued and cancels what runs, whether it can be taken back or not: the bus stops. */
  hurry(): void {
    this.#isHurried = true
    this.#queue.refuseAll(stopping)
    this.#dryRuns.cancel()
    if (this.#inFlight !== undefined) this.#cancel(this.#inFlight, stopping())
    this.#gate.wake()
  }

  #tookTooLong(): MmsbError {
    const { maxCommitTimeMs } = this.#limits.values
    const detail = `The commit was cancelled after ${maxCommitTimeMs} ms; nothing has changed.`
    return this.#limits.refusal('maxCommitTimeMs', detail, { limitMs: maxCommitTimeMs })
  }

  #cancel(flight: EpochInFlight, reason: MmsbError): boolean {
    if (this.#inFlight !== flight || !flight.isExecuting || flight.cancelled !== undefined) return false
    flight.cancelled = reason
    this.#executor.cancel()
    return true
  }

  /** An execution was cancelled: once the record of its epoch is written, the epoch becomes void. */
  async #void(flight: EpochInFlight): Promise<void> {
    try {
      await flight.appended
    } catch (error) {
      this.#fail(flight, error)
      return
    }
    // A synchronous read may have done it already.
    if (this.#inFlight === flight) this.#endVoid(flight)
  }

  #voidSync(flight: EpochInFlight): void {
    try {
      this.#store?.completeSync()
    } catch (error) {
      this.#fail(flight, error)
      throw this.lifecycle.stoppedError()
    }
    this.#trailingAppend = flight.appended
    this.#endVoid(flight)
    this.lifecycle.refuseWhenFailed()
  }

  /** Takes the epoch back. In a log it stays, marked as void; in memory its number is used again. */
  #endVoid(flight: EpochInFlight): void {
    const { batch, submissions, cancelled = stopping() } = flight
    try {
      this.#store?.appendVoid(batch.epoch, flight.timestampMs)
      if (!flight.isKept) throw new Error(`epoch ${batch.epoch} was cancelled by the stop`)
      this.#executor.takeBack(flight.plan as Plan)
      batch.abandon()
      if (Buffer.compare(this.#state.context.stateDigest(), this.digest) !== 0)
        throw new Error(`epoch ${batch.epoch} could not be taken back: the digest differs`)
    } catch (error) {
      this.#fail(flight, error)
      return
    }
    this.#inFlight = undefined
    if (this.#store !== undefined) {
      this.#publisher.applyVoid(flight)
      this.#onPublished?.()
    }
    for (const { reject } of submissions) reject(cancelled)
    this.#gate.wake()
    this.#schedule()
  }

  // ---- failures -------------------------------------------------------------------------------------------

  /** The log has no room: nothing was written or applied, and the bus continues. */
  #abandon(flight: EpochInFlight, error: unknown): void {
    flight.batch.abandon()
    this.#inFlight = undefined
    for (const { reject } of flight.submissions) reject(error)
    this.#gate.wake()
    const continues = error instanceof MmsbError && error.code === 'LOG_FULL'
    if (continues) this.#schedule()
    else this.#stop(error)
  }

  /** An epoch could not be executed or appended. */
  #onError(flight: EpochInFlight, error: unknown): void {
    if (error instanceof ExecutionCancelled) {
      void this.#void(flight)
      return
    }
    const isCurrent = this.#inFlight === flight && !flight.isFailingOver
    if (!this.#failover.covers(flight, error)) this.#fail(flight, error)
    else if (isCurrent) {
      this.#failover.executeAgain(flight, error, this.#bufferOf).then(
        () => {
          this.#publish(flight)
          this.#schedule()
        },
        (cause: unknown) => this.#fail(flight, cause),
      )
    }
  }

  /** Staging found the device lost, with no epoch in flight. */
  async #failOverAtRest(error: unknown): Promise<void> {
    this.#gate.pause()
    try {
      await this.#trailingAppend
      this.#failover.atRest(error)
    } catch (cause) {
      this.#stop(cause)
    }
    this.#gate.resume()
    this.#gate.wake()
    this.#schedule()
  }

  /** Memory and log may differ now: the bus stops. */
  #fail(flight: EpochInFlight, error: unknown): void {
    if (this.#inFlight !== flight) {
      this.#stop(error)
      return
    }
    this.#inFlight = undefined
    this.#stop(error)
    for (const { reject } of flight.submissions) reject(this.lifecycle.stoppedError())
    this.#gate.wake()
  }

  #stop(error: unknown): void {
    if (!this.lifecycle.fail(error)) return
    this.#queue.refuseAll(() => this.lifecycle.stoppedError())
    this.#gate.wake()
    this.lifecycle.tellFailure()
  }

  /** Takes nothing more, finishes what is queued, runs `beforeEnd` and closes the log. */
  async close(beforeEnd?: () => Promise<void>): Promise<void> {
    this.lifecycle.beginClose()
    const isAtWork = (): boolean => !(this.#queue.isEmpty && this.#isIdle)
    // Staging in slices uses the context until it ends, even when the bus has failed.
    while (this.#inFlight?.isStaging === true || (this.lifecycle.failure === undefined && isAtWork())) {
      await this.#gate.next()
    }
    await this.#trailingAppend
    await beforeEnd?.()
    await this.#store?.close()
    this.lifecycle.endClose()
  }
}

const stopping = (): MmsbError =>
  new MmsbError('BUS_FAILED', 'The bus is stopping; the commit was cancelled.')

/** When the stages of an epoch ran that is being published since `publishedMs`. */
function timesOf(
  { batch, result, appendStartedMs, appendEndedMs }: EpochInFlight,
  publishedMs: number,
): EpochTimes {
  const executeMs = (result?.execNs ?? 0) / 1e6
  // Execution begins when the append does.
  const startedMs = appendStartedMs ?? publishedMs - executeMs
  return {
    epoch: batch.epoch,
    append: appendStartedMs === undefined ? undefined : [appendStartedMs, appendEndedMs ?? publishedMs],
    execute: [startedMs, startedMs + executeMs],
    publish: [publishedMs, performance.now()],
  }
}

/** Bytes of the pages that a plan may overwrite. */
function bytesOf({ registry }: EngineState, plan: Plan): number {
  let bytes = 0
  for (const id of plan.pages) bytes += registry.byId(id)?.bytes ?? 0
  return bytes
}
