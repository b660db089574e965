/**
 * The replay thread as the bus uses it: requests about the past, served in order.
 *
 * Invariants: the thread starts with the first request. One request is served at a time; the others wait in
 * order. A request is cancelled when its signal aborts, whether it waits or is being served. When the thread
 * dies, the current request fails and the next one starts a new thread.
 */
import { type ErrorCode, MmsbError } from '../../errors.js'
import { REPLAY_QUEUE_MAX } from '../../limits.js'
import type { FileIdentity } from '../../store/os/lock.js'
import { startWorker, WorkerClient } from '../../store/os/worker.js'
import type { PastEpochsQuery } from '../types.js'
import type { EpochQuery, PastRead } from './replay-queries.js'

export type ReplayRequest =
  | { readonly kind: 'peek'; readonly epoch: number; readonly name: string }
  | { readonly kind: 'read'; readonly epoch: number; readonly pages: readonly PastRead[] }
  | { readonly kind: 'epoch'; readonly epoch: number }
  | { readonly kind: 'epochs'; readonly query: EpochQuery }
  | {
      readonly kind: 'history'
      readonly name: string
      readonly query: Pick<EpochQuery, 'from' | 'to' | 'limit'>
    }
  | {
      readonly kind: 'diff'
      readonly from: number
      readonly to: number
      readonly names: readonly string[] | undefined
    }
  | { readonly kind: 'changes'; readonly query: PastEpochsQuery }
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
  readonly request: ReplayRequest
}

export interface ReplayWorkerData {
  readonly dir: string
  readonly identity: FileIdentity | undefined
  readonly quotaBytes: number
  /** Requests up to this number are cancelled. */
  readonly cancelled: Int32Array
  /** The epoch that the current request has reached. */
  readonly progress: BigInt64Array
}

/** The data folder that is replayed. */
export type ReplayPlace = Pick<ReplayWorkerData, 'dir' | 'identity' | 'quotaBytes'>

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
  readonly signal: AbortSignal | undefined
  readonly resolve: (value: unknown) => void
  readonly reject: (error: unknown) => void
}

export class ReplayClient {
  readonly #data: ReplayWorkerData
  #client: WorkerClient | undefined
  #waiting: Job[] = []
  #running = false
  #number = 0
  #closed = false
  readonly #idleMs: number | undefined
  #idleTimer: NodeJS.Timeout | undefined

  /** With `idleMs`, the thread and the state it holds end when no request came for so long. */
  constructor(options: ReplayPlace & { idleMs?: number }) {
    const { dir, identity, quotaBytes, idleMs } = options
    this.#idleMs = idleMs
    this.#data = {
      dir,
      identity,
      quotaBytes,
      cancelled: new Int32Array(new SharedArrayBuffer(4)),
      progress: new BigInt64Array(new SharedArrayBuffer(8)),
    }
  }

  /** The epoch that the current request has reached. */
  get progressEpoch(): number {
    return Number(Atomics.load(this.#data.progress, 0))
  }

  /**
   * Resolves with the answer. Throws OVERLOADED when too many requests wait, and what serving the request
   * throws.
   */
  ask<T>(request: ReplayRequest, signal?: AbortSignal): Promise<T> {
    if (this.#closed) return Promise.reject(new MmsbError('BUS_FAILED', 'The bus is closed.'))
    if (this.#waiting.length >= REPLAY_QUEUE_MAX) {
      throw new MmsbError('OVERLOADED', `${this.#waiting.length} requests about the past are waiting.`, {
        retryAfterS: 1,
      })
    }
    return new Promise<T>((resolve, reject) => {
      this.#waiting.push({ request, signal, resolve: resolve as (value: unknown) => void, reject })
      if (!this.#running) void this.#work()
    })
  }

  async #work(): Promise<void> {
    this.#running = true
    clearTimeout(this.#idleTimer)
    for (let job = this.#waiting.shift(); job !== undefined; job = this.#waiting.shift()) await this.#run(job)
    this.#running = false
    if (this.#idleMs === undefined || this.#closed) return
    this.#idleTimer = setTimeout(() => void this.#endThread(), this.#idleMs)
    this.#idleTimer.unref()
  }

  async #run({ request, signal, resolve, reject }: Job): Promise<void> {
    const number = ++this.#number
    const cancel = (): void => {
      Atomics.store(this.#data.cancelled, 0, number)
    }
    try {
      if (isAborted(signal)) throw cancelled()
      signal?.addEventListener('abort', cancel, { once: true })
      this.#client ??= new WorkerClient(startWorker('replay-worker', this.#data, import.meta.url))
      const answer = (await this.#client.request({ number, request })) as ReplayAnswer
      if ('value' in answer) resolve(answer.value)
      else if (isAborted(signal)) reject(cancelled())
      else reject(new MmsbError(answer.failure.code, answer.failure.detail, { ...answer.failure.extra }))
    } catch (error) {
      // The thread has died, or the request was cancelled before it was sent.
      if (!(error instanceof MmsbError)) await this.#endThread()
      reject(error instanceof MmsbError ? error : this.#lost(error))
    } finally {
      signal?.removeEventListener('abort', cancel)
    }
  }

  #lost(error: unknown): MmsbError {
    if (this.#closed) return new MmsbError('BUS_FAILED', 'The bus is closed.')
    const why = error instanceof Error ? error.message : String(error)
    return new MmsbError('INTERNAL', `The replay thread has ended: ${why}`, undefined, { cause: error })
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
    const waiting = this.#waiting
    this.#waiting = []
    for (const { reject } of waiting) reject(new MmsbError('BUS_FAILED', 'The bus is closed.'))
    Atomics.store(this.#data.cancelled, 0, 0x7fff_ffff)
    await this.#endThread()
  }
}

const isAborted = (signal: AbortSignal | undefined): boolean => signal?.aborted === true

const cancelled = (): MmsbError => new MmsbError('INVALID_REQUEST', 'The request was cancelled.')
