/**
 * The events of past epochs, made again from a timeline: the same changes, ranges and values in the same
 * order in which src/engine/commit/publish.ts made them for subscribers.
 *
 * Invariant: one answer is bounded in bytes, in epochs searched and, if that is asked for, in time. It says
 * how far it got.
 */
import { PAST_ANSWER_BYTES, PAST_ANSWER_EPOCHS, PAST_LOOK_AHEAD_EPOCHS } from '../../limits.js'
import { patternSetOf } from '../../state/pattern.js'
import { NO_RANGES, totalElements } from '../../state/ranges.js'
import { DTYPE_INFO } from '../../wire/dtype.js'
import type { PageRecord } from '../pages/registry.js'
import type { PageChange, PastChange, PastEpoch, PastEpochs, PastEpochsQuery } from '../types.js'
import type { ReplayedEpoch } from './rebuild.js'
import type { Asker } from './replay-queries.js'
import type { Timeline } from './timeline.js'

/** Estimated size of a change without its values. */
const CHANGE_BYTES = 256

interface Wants {
  readonly matches: (name: string) => boolean
  readonly values: boolean
}

const EVERYTHING: Wants = { matches: () => true, values: true }

/** An epoch that is being replayed, as subscribers saw it. Only to be called from the replay's callback. */
export function pastEpochOf(
  timeline: Timeline,
  { record, result, created, deleted }: ReplayedEpoch,
  wants: Wants = EVERYTHING,
): PastEpoch {
  const deletedIds = new Set(deleted.map((page) => page.id))
  const createdIds = new Set(created.map((page) => page.id))
  const changes: PastChange[] = []
  const add = (page: PageRecord, kind: PageChange['kind'], ranges: Uint32Array): void => {
    if (wants.matches(page.name)) changes.push(changeOf(timeline, page, kind, ranges, wants.values))
  }
  // Deletions first: the same epoch may create another page of that name.
  for (const page of deleted) if (!createdIds.has(page.id)) add(page, 'deleted', NO_RANGES)
  for (const page of created)
    if (!deletedIds.has(page.id)) add(page, 'created', Uint32Array.of(0, page.elements))
  result.eachChange((id, ranges) => {
    const page = timeline.registry.byId(id)
    if (page !== undefined && !deletedIds.has(id)) add(page, page.kind, ranges.slice())
  })
  return { epoch: record.epoch, timestampMs: record.timestampMs, changes }
}

function changeOf(
  timeline: Timeline,
  { id, name, dtype, shape }: PageRecord,
  kind: PageChange['kind'],
  ranges: Uint32Array,
  wantsValues: boolean,
): PastChange {
  const count = wantsValues ? totalElements(ranges) : 0
  const { sizeBytes, view } = DTYPE_INFO[dtype]
  const values = view(new ArrayBuffer(count * sizeBytes), 0, count)
  if (count > 0) timeline.context.gather(id, ranges, values)
  return { pageId: id, page: name, kind, dtype, shape, ranges, values }
}

/**
 * The changes of the epochs after `after`, as far as one answer reaches. With `sliceMs` it ends after that
 * time; then it may have come no further than `after`, and a longer slice comes further.
 */
export function pastEpochs(
  { timelines, caller }: Asker,
  query: PastEpochsQuery,
  sliceMs?: number,
): PastEpochs {
  const { after, pages, visible = [], values } = query
  const untilMs = performance.now() + (sliceMs ?? Number.POSITIVE_INFINITY)
  const { matches, key } = patternSetOf([pages, ...visible])
  const to = Math.min(query.to, after + PAST_ANSWER_EPOCHS)
  const epochs: PastEpoch[] = []
  let bytes = 0
  if (after >= to) return { epochs, through: after }
  const ahead = Math.min(query.to, after + PAST_LOOK_AHEAD_EPOCHS)
  const wanted = pages.includes('*') && visible.length === 0 ? 'all' : { key, matches }
  const timeline = timelines.get({ caller, wanted, from: after, to, ahead })
  const through = timeline.walk(
    after,
    to,
    (replayed) => {
      const epoch = pastEpochOf(timeline, replayed, { matches, values })
      if (epoch.changes.length > 0) epochs.push(epoch)
      for (const change of epoch.changes)
        bytes += CHANGE_BYTES + change.ranges.byteLength + change.values.byteLength
    },
    () => bytes >= PAST_ANSWER_BYTES || performance.now() >= untilMs,
  )
  return { epochs, through: Math.max(after, through) }
}
