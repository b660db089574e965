/**
 * The library's public face: the bus with its subscriptions, the errors and the words of its arguments and answers.
 */
import { Bus as EngineBus } from './engine/bus.js'
import type { BusOptions } from './engine/types.js'
import { hubOf } from './stream/hub.js'
import { type Changes, subscribe } from './stream/subscribe.js'
import type { SubscribeOptions } from './stream/types.js'

/** A bus that can be subscribed to. */
export class Bus extends EngineBus {
  static override async open(options: BusOptions = {}): Promise<Bus> {
    return (await super.open(options)) as Bus
  }

  /**
   * Every change to the pages that match, in order: from now on, from an epoch gone by, or where a durable reader was. Leaving the
   * loop ends the subscription.
   */
  subscribe(options: SubscribeOptions): Changes {
    return subscribe(this, options)
  }

  /** Finishes what is queued, ends the subscriptions, closes the log and frees the memory. Idempotent. */
  override async close(): Promise<void> {
    await super.close()
    hubOf(this).close()
  }
}

export type { CreateResult, PastOptions, PatchResult, ReadRange, WriteOptions } from './engine/bus.js'
export type { WhatIfInput, WhatIfResult } from './engine/commit/what-if.js'
export type * from './engine/types.js'
export { ERRORS, type ErrorCode, MmsbError, type ProblemDocument } from './errors.js'
export type { Change, ChangedPage, Changes } from './stream/subscribe.js'
export type { SubscribeOptions } from './stream/types.js'
export type { Dtype, TypedArray } from './wire/dtype.js'
