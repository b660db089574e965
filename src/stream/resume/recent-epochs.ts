/**
 * The newest epochs, kept in memory so that a reader that was away for a moment need not replay the log.
 *
 * Invariants: holds every epoch after `after` up to `last`, within a bound in bytes. Each has its
 * changes, and the values of those that a subscriber of that time asked for. Nothing is held while nobody
 * listens to the bus.
 */
import type { PageChange } from '../../engine/types.js'
import { STREAM_RECENT_EPOCHS, STREAM_RECENT_MAX_BYTES } from '../../limits.js'
import { DTYPE_INFO, type TypedArray } from '../../wire/dtype.js'
import { type ChangeMessage, PagePart } from '../messages.js'
import type { SharedView } from '../views/shared-view.js'

/** Estimated memory of an epoch and of a change, without values and ranges. */
const EPOCH_BYTES = 256
const CHANGE_BYTES = 512

export interface RecentPart {
  readonly change: PageChange
  /** Undefined if nobody asked for them. */
  readonly values: TypedArray | undefined
}

interface RecentEpoch {
  readonly parts: readonly RecentPart[]
  readonly bytes: number
}

/** The answer for an epoch whose changes are held, but not all values. */
export const VALUES_MISSING = Symbol('values missing')

export class RecentEpochs {
  readonly #epochs = new Map<number, RecentEpoch>()
  #after = 0
  #last = 0
  #bytes = 0

  /** Every epoch after this one is held, up to `last`. */
  get after(): number {
    return this.#after
  }

  get last(): number {
    return this.#last
  }

  get bytes(): number {
    return this.#bytes
  }

  /** Drops everything; the next epoch to be added is the one after `epoch`. */
  begin(epoch: number): void {
    this.#epochs.clear()
    this.#bytes = 0
    this.#after = epoch
    this.#last = epoch
  }

  /** Adds the next epoch, its changes in the order of messages (inOrder). */
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

  /** The message of a view for an epoch that is held; undefined if the epoch changed nothing in the view. */
  messageOf(
    view: SharedView,
    epoch: number,
    needsValues: boolean,
  ): ChangeMessage | undefined | typeof VALUES_MISSING {
    const mine = (this.#epochs.get(epoch)?.parts ?? []).filter(({ change }) =>
      view.patterns.matches(change.page),
    )
    if (mine.length === 0) return undefined
    if (needsValues && !mine.every(isWhole)) return VALUES_MISSING
    return view.messageOf(
      epoch,
      mine.map((part) => keptPart(part.change, part.values)),
    )
  }

  /** Whether a reader of the matching pages can resume after epoch `after` from memory. */
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

/**
 * Changes in the order of messages: deletions first, since the same epoch may create another page
 * of that name.
 */
export function inOrder<T extends Pick<PageChange, 'kind'>>(changes: readonly T[]): readonly T[] {
  if (!changes.some(({ kind }) => kind === 'deleted')) return changes
  return [
    ...changes.filter(({ kind }) => kind === 'deleted'),
    ...changes.filter(({ kind }) => kind !== 'deleted'),
  ]
}

const isWhole = ({ change, values }: RecentPart): boolean => values !== undefined || change.kind === 'deleted'

/** A part whose values were kept, so that they can be gathered at any time. */
export function keptPart(change: PageChange, values: TypedArray | undefined): PagePart {
  return new PagePart(change, (_pageId, ranges) => {
    if (values === undefined) throw new Error('the values of this change were not kept')
    return ranges === change.ranges ? values : pick(change, values, ranges)
  })
}

/**
 * The values of `wanted` out of the packed values of a change. Each wanted range lies within a range
 * of the change.
 */
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
