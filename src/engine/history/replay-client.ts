/**
 * A replay thread as the bus uses it: requests about the past, whose callers are served in turn.
 *
 * Invariants: the thread starts with the first request. One request is served at a time. A request is
 * cancelled when its signal aborts, whether it waits or is being served. When the thread dies, the current
 * request fails and the next one starts a new thread.
 */
import { type ErrorCode, MmsbError } from '../../errors.js'
import { RETRY_AFTER_SECONDS } from '../../limits.js'
import type { LimitGuard } from '../../operator-limits.js'
import { textOf } from '../../store/os/errors.js'
import type { FileIdentity } from '../../store/os/lock.js'
import { startWorker, WorkerClient } from '../../store/os/worker.js'
import { type Caller, CallerQueue } from '../caller-queue.js'
import type { PastEpochsQuery, PastOptions } from '../types.js'
import type { EpochQuery, PastRead } from './replay-queries.js'

interface Form {
  /** The answer is JsonParts instead of an object. */
  readonly asJson?: boolean
  /** It shows only pages that match a pattern of each of these lists. */
  readonly visible?: readonly (readonly string[])[]
}

export type ReplayRequest =
  | { readonly kind: 'peek'; readonly epoch: number; readonly name: string }
  | { readonly kind: 'read'; readonly epoch: number; readonly pages: readonly PastRead[] }
  | ({ readonly kind: 'epoch'; readonly epoch: number } & Form)
  | ({ readonly kind: 'epochs'; readonly query: EpochQuery } & Form)
  | ({
      readonly kind: 'history'
      readonly name: string
      readonly query: Pick<EpochQuery, 'from' | 'to' | 'limit'>
      /** A page without any version is PAGE_NOT_FOUND. */
      readonly mustExist?: boolean
    } & Form)
  | ({
      readonly kind: 'diff'
      readonly from: number
      readonly to: number
      readonly names: readonly string[] | undefined
    } & Form)
  | { readonly kind: 'changes'; readonly query: PastEpochsQuery; readonly sliceMs?: number }
  | {
      readonly kind: 'verify'
      readonly from: number
      readonly to: number
      /** The expected digest of the state at `to`, when the caller knows it. */
      readonly digest?: Uint8Array
    }

export interface ReplayMessage {
  readonly id: number
  readonly number: number
  /** Equal for requests of one caller. */
  readonly caller: number
  /** The replay is given up after this long. */
  readonly limitMs?: number
  readonly request: ReplayRequest
}

export interface ReplayWorkerData {
  readonly dir: string
  readonly identity: FileIdentity | undefined
  /** Nobody writes the folder, and nothing may appear in it. */
  readonly isReadOnly: boolean
  readonly quotaBytes: number
  /** Requests up to this number are cancelled. */
  readonly cancelled: Int32Array
  /** Not 0: the step that is being executed ends too. */
  readonly ended: Int32Array
  /** The epoch that the current request has reached. */
  readonly progress: BigInt64Array
}

/** The data folder that is replayed. */
export type ReplayPlace = Pick<ReplayWorkerData, 'dir' | 'identity' | 'isReadOnly' | 'quotaBytes'>

export type ReplayAnswer =
  | { readonly value: unknown }
  | {
      readonly failure: {
        readonly code: ErrorCode
        readonly detail: string
        readonly extra?: Readonly<Record<string, unknown>> | undefined
      }
    }

interface Job {
  readonly request: ReplayRequest
  readonly caller: Caller
  readonly signal: AbortSignal | undefined
  readonly onServed: ((ms: number) => void) | undefined
  readonly resolve: (value: unknown) => void
  readonly reject: (error: unknown) => void
}

export interface ReplayOptions extends ReplayPlace {
  /** The thread and the states it holds end when no request came for so long. */
  readonly idleMs?: number
  /** Bounds how many requests wait and how long one replays. */
  readonly limits?: LimitGuard
  /** Counts what is refused for the memory it takes. */
  readonly guard?: LimitGuard
}

/**
 * A replay that takes too long ends between two epochs, where a later request can go on. One that is within
 * an epoch then ends after this many times the limit, and loses its state.
 */
const STEP_TIMES = 2

/** The caller of requests that name none: the program that the bus runs in. */
const PROGRAM: Caller = {}

export class ReplayClient {
  readonly #data: ReplayWorkerData
  readonly #options: ReplayOptions
  readonly #waiting = new CallerQueue<Job>()
  readonly #callers = new CallerNumbers()
  #client: WorkerClient | undefined
  #running = false
  /** The request that is being served, and the number of the newest one that was. */
  #served: Job | undefined
  #number = 0
  #closed = false
  #idleTimer: NodeJS.Timeout | undefined

  constructor(options: ReplayOptions) {
    const { dir, identity, isReadOnly, quotaBytes } = options
    this.#options = options
    this.#data = {
      dir,
      identity,
      isReadOnly,
      quotaBytes,
      cancelled: new Int32Array(new SharedArrayBuffer(4)),
      ended: new Int32Array(new SharedArrayBuffer(4)),
      progress: new BigInt64Array(new SharedArrayBuffer(8)),
    }
  }

  /** The epoch that the current request has reached. */
  get progressEpoch(): number {
    return Number(Atomics.load(this.#data.progress, 0))
  }

  /**
   * Resolves with the answer. Rejects with OVERLOADED when too many requests wait, COST_EXCEEDED when the
   * replay takes too long, and with what serving the request throws.
   */
  async ask<T>(request: ReplayRequest, { signal, caller = PROGRAM, onServed }: PastOptions = {}): Promise<T> {
    if (this.#closed) throw new MmsbError('BUS_FAILED', 'The bus is closed.')
    if (signal?.aborted === true) throw cancelled()
    this.#refuseWhenFull(caller)
    let abort: (() => void) | undefined
    try {
      return await new Promise<T>((resolve, reject) => {
        const job = {
          request,
          caller,
          signal,
          onServed,
          resolve: resolve as (value: unknown) => void,
          reject,
        }
        abort = () => this.#cancel(job)
        signal?.addEventListener('abort', abort)
        this.#waiting.push(caller, job)
        if (!this.#running) void this.#work()
      })
    } finally {
      // A program may share one signal among all its requests.
      if (abort !== undefined) signal?.removeEventListener('abort', abort)
    }
  }

  #refuseWhenFull(caller: Caller): void {
    const { limits } = this.#options
    if (limits === undefined) return
    const { size } = this.#waiting
    const { maxPastRequests, maxPastRequestsPerConnection } = limits.values
    if (size >= maxPastRequests) {
      const detail = 'Too many requests about the past are waiting.'
      throw limits.refusal('maxPastRequests', detail, { retryAfterS: RETRY_AFTER_SECONDS })
    }
    const own = this.#waiting.sizeOf(caller)
    if (caller === PROGRAM || own < maxPastRequestsPerConnection) return
    const detail = `${own} requests of this connection about the past are waiting.`
    throw limits.refusal('maxPastRequestsPerConnection', detail, { retryAfterS: RETRY_AFTER_SECONDS })
  }

  /** The caller has left, whether its request waits or is being served. */
  #cancel(job: Job): void {
    if (this.#waiting.remove(job.caller, job)) job.reject(cancelled())
    else if (this.#served === job) {
      Atomics.store(this.#data.cancelled, 0, this.#number)
      this.#endStep()
    }
  }

  async #work(): Promise<void> {
    this.#running = true
    clearTimeout(this.#idleTimer)
    for (let job = this.#waiting.shift(); job !== undefined; job = this.#waiting.shift()) await this.#run(job)
    this.#running = false
    const { idleMs } = this.#options
    if (idleMs === undefined || this.#closed) return
    this.#idleTimer = setTimeout(() => void this.#endThread(), idleMs)
    this.#idleTimer.unref()
  }

  async #run(job: Job): Promise<void> {
    const { request, caller, signal, resolve, reject } = job
    const number = ++this.#number
    const limitMs = this.#options.limits?.values.maxReplayTimeMs
    const startedMs = performance.now()
    this.#served = job
    Atomics.store(this.#data.ended, 0, this.#closed ? 1 : 0)
    const timer = limitMs === undefined ? undefined : setTimeout(() => this.#endStep(), STEP_TIMES * limitMs)
    try {
      if (isAborted(signal)) throw cancelled()
      this.#client ??= new WorkerClient(startWorker('replay-worker', this.#data, import.meta.url))
      const message = { number, caller: this.#callers.of(caller), request }
      const answer = (await this.#client.request(
        limitMs === undefined ? message : { ...message, limitMs },
      )) as ReplayAnswer
      if ('value' in answer) resolve(answer.value)
      else if (isAborted(signal)) reject(cancelled())
      else if (answer.failure.code === 'COST_EXCEEDED') reject(this.#tooLong(answer.failure.detail))
      else if (answer.failure.code === 'OUT_OF_MEMORY') reject(this.#tooLarge())
      else reject(new MmsbError(answer.failure.code, answer.failure.detail, { ...answer.failure.extra }))
    } catch (error) {
      // The thread has died, or the request was cancelled before it was sent.
      if (!(error instanceof MmsbError)) await this.#endThread()
      reject(error instanceof MmsbError ? error : this.#lost(error))
    } finally {
      clearTimeout(timer)
      job.onServed?.(performance.now() - startedMs)
      this.#served = undefined
    }
  }

  #endStep(): void {
    Atomics.store(this.#data.ended, 0, 1)
  }

  #tooLong(detail: string): MmsbError {
    const { limits } = this.#options
    if (limits === undefined) return new MmsbError('COST_EXCEEDED', detail)
    return limits.refusal('maxReplayTimeMs', detail, { limitMs: limits.values.maxReplayTimeMs })
  }

  #tooLarge(): MmsbError {
    const { quotaBytes, guard } = this.#options
    const detail = `The pages of that epoch that are needed take more than the ${quotaBytes} bytes that a replay may hold.`
    // Replays never get more than the memory limit either.
    if (guard === undefined || guard.values.maxReplayBytes > quotaBytes)
      return new MmsbError('OUT_OF_MEMORY', detail)
    return guard.refusal('maxReplayBytes', detail)
  }

  #lost(error: unknown): MmsbError {
    if (this.#closed) return new MmsbError('BUS_FAILED', 'The bus is closed.')
    return new MmsbError('INTERNAL', `The replay thread has ended: ${textOf(error)}`, undefined, {
      cause: error,
    })
  }

  async #endThread(): Promise<void> {
    const client = this.#client
    this.#client = undefined
    await client?.terminate()
  }

  /** Ends the thread; waiting requests fail with BUS_FAILED. */
  async close(): Promise<void> {
    this.#closed = true
    clearTimeout(this.#idleTimer)
    for (const { reject } of this.#waiting.clear()) reject(new MmsbError('BUS_FAILED', 'The bus is closed.'))
    Atomics.store(this.#data.cancelled, 0, 0x7fff_ffff)
    this.#endStep()
    await this.#endThread()
  }
}

/** A number for each caller: threads do not share objects. */
class CallerNumbers {
  readonly #objects = new WeakMap<object, number>()
  readonly #names = new Map<string, number>()
  #last = 0

  of(caller: Caller): number {
    const known = typeof caller === 'string' ? this.#names.get(caller) : this.#objects.get(caller)
    if (known !== undefined) return known
    const number = ++this.#last
    if (typeof caller !== 'string') this.#objects.set(caller, number)
    else {
      if (this.#names.size >= CALLER_NAMES_MAX) this.#names.clear()
      this.#names.set(caller, number)
    }
    return number
  }
}

const CALLER_NAMES_MAX = 10_000

const isAborted = (signal: AbortSignal | undefined): boolean => signal?.aborted === true

const cancelled = (): MmsbError => new MmsbError('INVALID_REQUEST', 'The request was cancelled.')
