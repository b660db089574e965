/**
 * Named durable readers on the stream: who reads under which name at the moment, and how far behind each is.
 *
 * Invariant: one subscription at a time reads under a name; who comes later takes it over, since a connection that is dead may
 * not know it yet.
 */
import { MmsbError } from '../../errors.js'
import type { Connection } from '../connection.js'
import type { Subscription } from '../subscription.js'
import type { StreamBus } from '../types.js'

export interface DurableView {
  readonly name: string
  readonly pages: readonly string[]
  /** The last epoch it has done with; null until it has done with its snapshot. */
  readonly epoch: number | null
  /** Epochs since then. */
  readonly lag: number | null
  readonly connected: boolean
  /** Whether what it has not seen is kept for it. */
  readonly held: boolean
  readonly createdAt: string
  /** When it was last heard of. */
  readonly seenAt: string
}

interface Attached {
  readonly connection: Connection
  readonly subscription: Subscription
}

export class Durables {
  readonly #bus: StreamBus
  readonly #attached = new Map<string, Attached>()

  constructor(bus: StreamBus) {
    this.#bus = bus
  }

  /** From now on this subscription reads under the name. */
  attach(name: string, connection: Connection, subscription: Subscription): void {
    this.#end(name, new MmsbError('INVALID_REQUEST', `durable: another connection took "${name}" over`))
    this.#attached.set(name, { connection, subscription })
  }

  detach(subscription: Subscription): void {
    const { durable } = subscription
    if (durable === undefined || this.#attached.get(durable)?.subscription !== subscription) return
    this.#attached.delete(durable)
    this.#bus.cursors?.touch(durable)
  }

  /**
   * Who is connected is heard of. One that has done with all it was told of has nothing to come back for in the epochs since,
   * which were not for it: those need not be kept.
   */
  onTick(): void {
    for (const [name, { subscription }] of this.#attached) {
      const { told, toldOfChange, position } = subscription
      const hasBegun = told >= 0
      this.#bus.cursors?.touch(name, hasBegun ? { after: toldOfChange, upTo: position } : undefined)
    }
  }

  #end(name: string, error: MmsbError): void {
    const attached = this.#attached.get(name)
    if (attached === undefined) return
    this.#attached.delete(name)
    attached.connection.end(attached.subscription, { type: 'error', error })
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

  /** Forgets a reader; one that is connected is told. @throws MmsbError NOT_FOUND */
  async remove(name: string): Promise<void> {
    this.view(name)
    this.#end(name, new MmsbError('NOT_FOUND', `durable: "${name}" was deleted`))
    await this.#bus.cursors?.remove(name)
  }
}
