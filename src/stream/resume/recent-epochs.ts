/**
 * The epochs of late, so that who was away for a moment goes on from memory.
 *
 * Invariants: it holds every epoch after `after` up to `last`, in a bounded number of bytes; of each what changed, and the
 * values where somebody who was there asked for values. Nothing is held while nobody listens to the bus.
 */
import type { PageChange } from '../../engine/types.js'
import { STREAM_RECENT_EPOCHS, STREAM_RECENT_MAX_BYTES } from '../../limits.js'
import { DTYPE_INFO, type TypedArray } from '../../wire/dtype.js'
import { type ChangeMessage, PagePart } from '../messages.js'
import type { Topic } from '../shared-view.js'

/** What an epoch and a change cost besides values and ranges. */
const EPOCH_BYTES = 256
const CHANGE_BYTES = 512

export interface RecentPart {
  readonly change: PageChange
  /** Undefined where nobody asked for them. */
  readonly values: TypedArray | undefined
}

interface RecentEpoch {
  readonly parts: readonly RecentPart[]
  readonly bytes: number
}

export class Recent {
  readonly #epochs = new Map<number, RecentEpoch>()
  #after = 0
  #last = 0
  #bytes = 0

  /** Every epoch after this one is here, up to `last`. */
  get after(): number {
    return this.#after
  }

  get last(): number {
    return this.#last
  }

  get bytes(): number {
    return this.#bytes
  }

  /** Holds nothing; the next epoch is the one after `epoch`. */
  begin(epoch: number): void {
    this.#epochs.clear()
    this.#bytes = 0
    this.#after = epoch
    this.#last = epoch
  }

  /** Takes the next epoch, its changes in the order in which they are told. */
  add(epoch: number, parts: readonly RecentPart[]): void {
    let bytes = EPOCH_BYTES
    for (const { change, values } of parts)
      bytes += CHANGE_BYTES + change.ranges.byteLength + (values?.byteLength ?? 0)
    this.#epochs.set(epoch, { parts, bytes })
    this.#bytes += bytes
    this.#last = epoch
    while (this.#bytes > STREAM_RECENT_MAX_BYTES || this.#epochs.size > STREAM_RECENT_EPOCHS) this.#forget()
  }

  #forget(): void {
    this.#after++
    this.#bytes -= this.#epochs.get(this.#after)?.bytes ?? 0
    this.#epochs.delete(this.#after)
  }

  /** What a topic was told of an epoch that is here: null if nothing, undefined when values are needed that are not held. */
  messageOf(topic: Topic, epoch: number, needsValues: boolean): ChangeMessage | null | undefined {
    const mine = (this.#epochs.get(epoch)?.parts ?? []).filter(({ change }) =>
      topic.patterns.matches(change.page),
    )
    if (mine.length === 0) return null
    if (needsValues && !mine.every(isWhole)) return undefined
    return topic.messageOf(
      epoch,
      mine.map((part) => keptPart(part.change, part.values)),
    )
  }

  /** Whether a reader of these pages can go on after `after` with what is here. */
  reaches(matches: (name: string) => boolean, after: number, needsValues: boolean): boolean {
    if (after < this.#after) return false
    if (!needsValues) return true
    for (let epoch = after + 1; epoch <= this.#last; epoch++) {
      const parts = this.#epochs.get(epoch)?.parts ?? []
      if (!parts.every((part) => isWhole(part) || !matches(part.change.page))) return false
    }
    return true
  }
}

/** The order in which changes are told: deletions first, for the name may have come to live again in the same epoch. */
export function inOrder<T extends Pick<PageChange, 'kind'>>(changes: readonly T[]): readonly T[] {
  if (!changes.some(({ kind }) => kind === 'deleted')) return changes
  return [
    ...changes.filter(({ kind }) => kind === 'deleted'),
    ...changes.filter(({ kind }) => kind !== 'deleted'),
  ]
}

const isWhole = ({ change, values }: RecentPart): boolean => values !== undefined || change.kind === 'deleted'

/** The part of a change whose values were kept, so that they can be had at any time. */
export function keptPart(change: PageChange, values: TypedArray | undefined): PagePart {
  return new PagePart(change, (_pageId, ranges) => {
    if (values === undefined) throw new Error('the values of this change were not kept')
    return ranges === change.ranges ? values : pick(change, values, ranges)
  })
}

/** The values of `wanted`, each of which lies within a range of the change, out of the packed values of the change's. */
function pick({ dtype, ranges }: PageChange, values: TypedArray, wanted: Uint32Array): TypedArray {
  const pieces: TypedArray[] = []
  let elements = 0
  let packedAt = 0
  let at = 0
  for (let i = 0; i < wanted.length; i += 2) {
    const start = wanted[i]!
    const count = wanted[i + 1]!
    for (; ranges[at]! + ranges[at + 1]! <= start; at += 2) packedAt += ranges[at + 1]!
    const from = packedAt + start - ranges[at]!
    pieces.push(values.subarray(from, from + count))
    elements += count
  }
  const { sizeBytes, view } = DTYPE_INFO[dtype]
  const picked = view(new ArrayBuffer(elements * sizeBytes), 0, elements)
  let to = 0
  for (const piece of pieces) {
    picked.set(piece as never, to)
    to += piece.length
  }
  return picked
}
