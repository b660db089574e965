/**
 * Durable readers on the stream: which subscription reads under which name, and how far behind
 * each reader is.
 *
 * Invariant: one subscription at a time reads under a name. A newer one takes the name over, because the
 * server may not have noticed yet that the older connection is dead.
 *
 * Null because the JSON of durable subscriptions has it.
 */
import { MmsbError } from '../../errors.js'
import type { StreamBus } from '../types.js'

export interface DurableView {
  readonly name: string
  readonly pages: readonly string[]
  /** The last epoch committed; null until the reader has committed its snapshot. */
  readonly epoch: number | null
  /** Epochs since then. */
  readonly lag: number | null
  readonly connected: boolean
  /** Whether the bus keeps the epochs that the reader has not seen. */
  readonly held: boolean
  readonly createdAt: string
  /** When the reader was last connected or committed. */
  readonly seenAt: string
}

/** A subscription that reads under a name. */
export interface NamedSubscription {
  readonly durable: string | undefined
  /** The last epoch that a message to it named; -1 before the first. */
  readonly told: number
  /** The last epoch that changed something for it; -1 before the first. */
  readonly toldOfChange: number
  /** The epoch to resume from, once everything sent so far has arrived. */
  readonly position: number
  /** Ends the subscription with an error. */
  fail(error: MmsbError): void
}

export class DurableReaders {
  readonly #bus: StreamBus
  readonly #attached = new Map<string, NamedSubscription>()

  constructor(bus: StreamBus) {
    this.#bus = bus
  }

  /** From now on this subscription reads under the name. */
  attach(name: string, subscription: NamedSubscription): void {
    this.#end(name, new MmsbError('INVALID_REQUEST', `durable: another connection took over "${name}"`))
    this.#attached.set(name, subscription)
  }

  detach(subscription: NamedSubscription): void {
    const { durable } = subscription
    if (durable === undefined || this.#attached.get(durable) !== subscription) return
    this.#attached.delete(durable)
    this.#bus.cursors?.touch(durable)
  }

  /**
   * A connected reader counts as seen. Its cursor advances over epochs that hold nothing for it, once it has
   * committed all that it received, so that those epochs need not be kept.
   */
  onTick(): void {
    for (const [name, { told, toldOfChange, position }] of this.#attached) {
      const hasBegun = told >= 0
      this.#bus.cursors?.touch(name, hasBegun ? { after: toldOfChange, upTo: position } : undefined)
    }
  }

  #end(name: string, error: MmsbError): void {
    const attached = this.#attached.get(name)
    if (attached === undefined) return
    this.#attached.delete(name)
    attached.fail(error)
  }

  /** @throws MmsbError NOT_FOUND */
  view(name: string): DurableView {
    const found = this.list().find((reader) => reader.name === name)
    if (found !== undefined) return found
    throw new MmsbError('NOT_FOUND', `There is no durable subscription ${JSON.stringify(name)}.`)
  }

  list(): DurableView[] {
    const { cursors, epoch: newest } = this.#bus
    if (cursors === undefined) return []
    return cursors.list().map((reader) => ({
      name: reader.name,
      pages: reader.pages,
      epoch: reader.epoch,
      lag: reader.epoch === null ? null : newest - reader.epoch,
      connected: this.#attached.has(reader.name),
      held: cursors.holds(reader),
      createdAt: new Date(reader.createdMs).toISOString(),
      seenAt: new Date(reader.seenMs).toISOString(),
    }))
  }

  /**
   * Deletes a reader. If it is connected, its subscription ends with NOT_FOUND. @throws MmsbError NOT_FOUND
   */
  async remove(name: string): Promise<void> {
    this.view(name)
    this.#end(name, new MmsbError('NOT_FOUND', `durable: "${name}" was deleted`))
    await this.#bus.cursors?.remove(name)
  }
}
