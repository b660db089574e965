/**
 * Changes of epochs that are no longer in memory. The bus replays them, one piece at a time.
 *
 * Invariants: readers that ask for the same piece share one replay and one encoding. A replay is cancelled
 * when its last waiting reader leaves. The pieces kept for sharing are bounded, and dropped at the next tick.
 */
import type { PastEpoch } from '../../engine/types.js'
import { PAST_SHARED_PIECES_MAX } from '../../limits.js'
import type { ChangeMessage } from '../messages.js'
import type { StreamBus } from '../types.js'
import type { SharedView } from '../views/shared-view.js'
import { inOrder, keptPart } from './recent-epochs.js'

export interface Piece {
  readonly messages: readonly ChangeMessage[]
  /** The last epoch that the piece covers. */
  readonly through: number
}

interface Shared {
  readonly piece: Promise<Piece>
  readonly controller: AbortController
  waiting: number
  isDone: boolean
}

export class ReplayedEpochs {
  readonly #bus: StreamBus
  readonly #shared = new Map<string, Shared>()

  constructor(bus: StreamBus) {
    this.#bus = bus
  }

  /**
   * The view's messages after epoch `after`, as many as one piece holds. Readers take turns. Call
   * `release` when done or no longer waiting. `onServed` hears how long a replay took, from the reader
   * that asked first.
   */
  read(
    reader: object,
    view: SharedView,
    after: number,
    needsValues: boolean,
    onServed?: (ms: number) => void,
  ): { readonly piece: Promise<Piece>; readonly release: () => void } {
    const key = `${after} ${needsValues} ${view.key}`
    const shared =
      this.#shared.get(key) ?? this.#ask(key, { caller: reader, onServed }, view, after, needsValues)
    shared.waiting++
    const release = (): void => {
      if (--shared.waiting > 0 || shared.isDone) return
      this.#shared.delete(key)
      shared.controller.abort()
    }
    return { piece: shared.piece, release }
  }

  #ask(
    key: string,
    reader: { readonly caller: object; readonly onServed: ((ms: number) => void) | undefined },
    view: SharedView,
    after: number,
    needsValues: boolean,
  ): Shared {
    const controller = new AbortController()
    const [pages = [], ...visible] = view.patterns.lists
    const query = { after, to: this.#bus.epoch, pages, visible, values: needsValues }
    const piece = this.#bus
      .pastChanges(query, { signal: controller.signal, ...reader })
      .then(({ epochs, through }) => ({
        messages: epochs.flatMap((epoch) => messageOf(view, epoch, needsValues) ?? []),
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

  /** Drops finished pieces. */
  forget(): void {
    for (const [key, { isDone }] of this.#shared) if (isDone) this.#shared.delete(key)
  }
}

function messageOf(
  view: SharedView,
  { epoch, changes }: PastEpoch,
  hasValues: boolean,
): ChangeMessage | undefined {
  const parts = inOrder(changes).map(({ values, ...change }) =>
    keptPart(change, hasValues ? values : undefined),
  )
  return view.messageOf(epoch, parts)
}
