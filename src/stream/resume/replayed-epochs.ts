/**
 * Changes of epochs that are no longer in memory, replayed by the bus a piece at a time.
 *
 * Invariants: those who ask for the same share one replay and one encoding; a replay that nobody waits for any more is ended;
 * what is kept to be shared is bounded, and forgotten at the next tick.
 */
import type { PastEpoch } from '../../engine/types.js'
import { PAST_SHARED_PIECES_MAX } from '../../limits.js'
import type { ChangeMessage } from '../messages.js'
import type { Topic } from '../shared-view.js'
import type { StreamBus } from '../types.js'
import { inOrder, keptPart } from './recent-epochs.js'

export interface Piece {
  readonly messages: readonly ChangeMessage[]
  /** Every epoch up to here is in it. */
  readonly through: number
}

interface Shared {
  readonly piece: Promise<Piece>
  readonly controller: AbortController
  waiting: number
  isDone: boolean
}

export class Past {
  readonly #bus: StreamBus
  readonly #shared = new Map<string, Shared>()

  constructor(bus: StreamBus) {
    this.#bus = bus
  }

  /** What the topic was told of the epochs after `after`, as far as one piece goes. `release`: the caller waits no more. */
  read(
    topic: Topic,
    after: number,
    needsValues: boolean,
  ): { readonly piece: Promise<Piece>; readonly release: () => void } {
    const key = `${after} ${needsValues} ${topic.key}`
    const shared = this.#shared.get(key) ?? this.#ask(key, topic, after, needsValues)
    shared.waiting++
    const release = (): void => {
      if (--shared.waiting > 0 || shared.isDone) return
      this.#shared.delete(key)
      shared.controller.abort()
    }
    return { piece: shared.piece, release }
  }

  #ask(key: string, topic: Topic, after: number, needsValues: boolean): Shared {
    const controller = new AbortController()
    const query = { after, to: this.#bus.epoch, pages: topic.patterns.patterns, values: needsValues }
    const piece = this.#bus.pastChanges(query, { signal: controller.signal }).then(({ epochs, through }) => ({
      messages: epochs.flatMap((epoch) => messageOf(topic, epoch, needsValues) ?? []),
      through,
    }))
    const shared = { piece, controller, waiting: 0, isDone: false }
    piece.then(
      () => {
        shared.isDone = true
      },
      () => {
        if (this.#shared.get(key) === shared) this.#shared.delete(key)
      },
    )
    this.#shared.set(key, shared)
    this.#trim()
    return shared
  }

  #trim(): void {
    for (const [key, { isDone }] of this.#shared) {
      if (this.#shared.size <= PAST_SHARED_PIECES_MAX) return
      if (isDone) this.#shared.delete(key)
    }
  }

  /** Lets go of what has been shared. */
  forget(): void {
    for (const [key, { isDone }] of this.#shared) if (isDone) this.#shared.delete(key)
  }
}

function messageOf(topic: Topic, { epoch, changes }: PastEpoch, hasValues: boolean): ChangeMessage | null {
  const parts = inOrder(changes).map(({ values, ...change }) =>
    keptPart(change, hasValues ? values : undefined),
  )
  return topic.messageOf(epoch, parts)
}
