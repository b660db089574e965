/**
 * When the device fails: the state is rebuilt on the CPU, and the epoch that was in flight is executed again
 * there.
 *
 * Invariants: only an epoch that the log has, or will have, is executed again; it is published as if nothing
 * had happened. Failing over fills the same EngineState with the newest published epoch, so that everyone who
 * holds it can continue. How that is done is handed in, because it needs the timeline
 * (src/engine/history/cpu-failover.ts).
 */
import { MmsbError } from '../../errors.js'
import { DeviceLost } from '../../ffi/library.js'
import type { EngineState } from '../pages/engine-state.js'
import { Batch } from './batch.js'
import type { Executor } from './executor.js'
import type { EpochInFlight } from './publish.js'

/** Fills the state with the newest published epoch, on the CPU. Throws when it cannot. */
export type FailOver = (reason: string) => void

export class DeviceFailover {
  readonly #state: EngineState
  readonly #executor: Executor
  readonly #failOver: FailOver

  constructor(state: EngineState, executor: Executor, failOver: FailOver) {
    this.#state = state
    this.#executor = executor
    this.#failOver = failOver
  }

  /**
   * Whether this error of an epoch is a lost device and the log has the epoch, so that it can be executed
   * again.
   */
  covers({ appended }: EpochInFlight, error: unknown): error is DeviceLost {
    return error instanceof DeviceLost && appended !== undefined
  }

  /** Rebuilds the state before the epoch, then stages and executes the epoch there. */
  async executeAgain(
    flight: EpochInFlight,
    lost: DeviceLost,
    bufferOf: (sizeBytes: number) => Uint8Array,
  ): Promise<void> {
    flight.isFailingOver = true
    await flight.appended
    this.#failOver(lost.message)
    const batch = new Batch(flight.batch.epoch, this.#state)
    for (const pending of flight.batch.pendings) {
      if (batch.stage(pending) !== 'staged')
        throw new MmsbError('INTERNAL', `Epoch ${batch.epoch} cannot be staged again.`)
    }
    flight.batch = batch
    flight.event = undefined
    flight.isExecuting = false
    flight.result = this.#executor.run(batch.plan(), batch.frames(bufferOf))
    flight.isFailingOver = false
  }

  /** Rebuilds the newest epoch. Throws the error itself when it is not a lost device. */
  atRest(error: unknown): void {
    if (!(error instanceof DeviceLost)) throw error
    this.#failOver(error.message)
  }
}

export function failingOverError(): MmsbError {
  return new MmsbError('OVERLOADED', 'The device failed; the state is being rebuilt on the CPU.', {
    retryAfterS: 1,
  })
}
