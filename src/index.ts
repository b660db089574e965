/**
 * The library's public face: the engine's bus together with its subscriptions, the errors, and the types of
 * arguments and answers.
 */
/// <reference lib="esnext.disposable" preserve="true" />
import { EngineBus } from './engine/bus.js'
import { checkCalls } from './engine/call-checks.js'
import type { Host } from './engine/host.js'
import { type BusParts, openParts } from './engine/open-bus.js'
import type { BusOptions } from './engine/types.js'
import { hubOf } from './stream/hub.js'
import { type Changes, type LocalSubscribeOptions, subscribe } from './stream/subscribe.js'

/** A bus that can be subscribed to. `await using` closes it. */
export class Bus extends EngineBus implements AsyncDisposable {
  private constructor(parts: BusParts) {
    super(parts)
  }

  /**
   * Opens a bus. With `dataDir` it recovers what the folder holds and logs every commit there; without, it
   * lives in memory only. Throws INVALID_REQUEST for an unknown option or value, UNSUPPORTED_LOCATION for
   * `cuda` without a device, and an error of the store when the folder is locked, damaged or not writable.
   */
  static override open(options?: BusOptions): Promise<Bus>
  /** @internal Tests give a host. */
  static override open(options: BusOptions, host: Host): Promise<Bus>
  static override async open(options: BusOptions = {}, host?: Host): Promise<Bus> {
    return new Bus(await openParts(options, host))
  }

  /**
   * Every change to the pages that match, in order: from now on, from a past epoch, or from where a durable
   * reader stopped. Leaving the loop ends the subscription.
   */
  subscribe(options: LocalSubscribeOptions): Changes {
    return subscribe(this, options)
  }

  /**
   * Finishes what is queued, ends the subscriptions, closes the log and frees the memory. Idempotent.
   * `graceMs`: see EngineBus.close.
   */
  override async close(options: { readonly graceMs?: number } = {}): Promise<void> {
    await super.close(options)
    hubOf(this).close()
  }

  /** The same as `close`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

checkCalls(Bus.prototype)

export type * from './engine/types.js'
export { ERRORS, type ErrorCode, MmsbError, type ProblemDocument } from './errors.js'
export type { Change, ChangedPage, Changes, LocalSubscribeOptions } from './stream/subscribe.js'
export type { SubscribeOptions } from './stream/types.js'
export type { Dtype, TypedArray } from './wire/dtype.js'
