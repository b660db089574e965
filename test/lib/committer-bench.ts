/**
 * A committer whose log, event loop and clocks are the test's own: the test says when an append ends, and
 * when the event loop turns.
 */
import type { Test } from 'tap'
import type { Pending } from '../../src/engine/commands/pending.js'
import { pendingOfDelta } from '../../src/engine/commands/transactions.js'
import { Committer } from '../../src/engine/commit/committer.js'
import type { FailOver } from '../../src/engine/commit/device-failover.js'
import type { EngineState } from '../../src/engine/pages/engine-state.js'
import type { CommitEvent, CommitResult, WriteOptions } from '../../src/engine/types.js'
import { MmsbError } from '../../src/errors.js'
import { LimitGuard, type Limits } from '../../src/operator-limits.js'
import type { Store } from '../../src/store/store.js'
import type { LogRecord } from '../../src/store/types.js'
import { stateWith } from './engine-state.js'
import { Gate } from './gate.js'

/** A log that does what the test says. */
class FakeStore {
  readonly appends: (LogRecord & Gate)[] = []
  readonly calls: string[] = []
  reserving: Gate | undefined
  reserveError: Error | undefined
  syncError: Error | undefined
  fail!: (error: Error) => void

  onFailed(listener: (error: Error) => void): void {
    this.fail = listener
  }
  reserve(bytes: number): Promise<void> | undefined {
    this.calls.push(`reserve ${bytes > 0}`)
    if (this.reserveError !== undefined) throw this.reserveError
    return this.reserving?.promise
  }
  append(record: LogRecord): Promise<void> {
    const gate = new Gate()
    this.appends.push(Object.assign(gate, record, { frames: Uint8Array.from(record.frames) }))
    this.calls.push(`append ${record.epoch}`)
    return gate.promise
  }
  appendVoid(epoch: number): void {
    this.calls.push(`void ${epoch}`)
  }
  completeSync(): void {
    this.calls.push('complete')
    if (this.syncError !== undefined) throw this.syncError
  }
  async close(): Promise<void> {
    this.calls.push('close')
  }
}

const noDevice = (): never => {
  throw new Error('there is no device')
}

export class Bench {
  readonly store = new FakeStore()
  readonly committer: Committer
  readonly events: CommitEvent[] = []
  readonly ended: string[] = []
  nowMs = 1_000
  ticksMs = 0
  onThread = false
  /** Executions on another thread that have ended, in whatever way. */
  executionsEnded = 0
  /** What the event loop was asked to do soon. */
  #soon: (() => void)[] = []

  constructor(
    readonly state: EngineState,
    {
      limits = {},
      isDurable = true,
      failOver = noDevice,
    }: { limits?: Partial<Limits>; isDurable?: boolean; failOver?: FailOver } = {},
  ) {
    this.committer = new Committer(state, new LimitGuard(limits), failOver, {
      nowMs: () => this.nowMs,
      ticksMs: () => this.ticksMs,
      soon: (callback) => this.#soon.push(callback),
      hasThreads: true,
      executions: {
        goesToThread: () => this.onThread,
        ended: (execution) =>
          execution.finally(() => {
            this.executionsEnded++
          }),
      },
      store: {},
    })
    this.committer.startFrom({ epoch: 1, digest: state.context.stateDigest(), timestampMs: 500, answers: [] })
    if (isDurable) this.committer.attach(this.store as unknown as Store)
    this.committer.onCommit((event) => this.events.push(event))
  }

  get soonCount(): number {
    return this.#soon.length
  }

  /** The event loop turns once. */
  soon(): void {
    for (const callback of this.#soon.splice(0)) callback()
  }

  pending(name: string, value: number, options: WriteOptions = {}): Pending {
    const page = this.state.registry.require(name)
    return pendingOfDelta(page, { offset: 0, values: [value] }, options)
  }

  /** Queues a write; how it ended appears in `ended` under its value. */
  write(value: number, options: WriteOptions = {}, name = 'x'): Promise<CommitResult> {
    const answer = this.committer.commit(this.pending(name, value, options))
    answer.then(
      ({ epoch }) => this.ended.push(`${value}: ${epoch}`),
      (error: Error) =>
        this.ended.push(`${value}: ${error instanceof MmsbError ? error.code : error.message}`),
    )
    return answer
  }

  value(name = 'x'): number {
    const out = new Int32Array(1)
    this.state.context.readPage(this.state.registry.require(name).id, 0, out)
    return out[0]!
  }
}

export const PAGES = {
  x: { dtype: 'i32', shape: [2] },
  y: { dtype: 'i32', shape: [2] },
  twice: { derive: { op: 'map', inputs: { x: 'x' }, expr: 'x * 2' } },
} as const

export const bench = async (t: Test, options?: ConstructorParameters<typeof Bench>[1]): Promise<Bench> =>
  new Bench(await stateWith(t, PAGES), options)
