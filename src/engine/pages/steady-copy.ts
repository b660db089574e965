/**
 * Copying many bytes of pages as of one epoch, while commits go on and the event loop is free.
 *
 * Method: the copy is made a slice at a time, each between two epochs. An epoch that changes what has been
 * copied makes those ranges be copied again. When nothing is left to copy, all of it is of the epoch that is
 * then published. If epochs change more than can be copied between them, commits wait for the rest.
 *
 * Invariant: the result is of one whole epoch. A page that is deleted meanwhile is PAGE_NOT_FOUND.
 */
import { MmsbError } from '../../errors.js'
import type { NativeContext } from '../../ffi/context.js'
import { READ_SLICE_BYTES } from '../../limits.js'
import { nextSlice } from '../../slices.js'
import { clipRanges, normalizeRanges, rangeOf } from '../../state/ranges.js'
import { DTYPE_INFO, type TypedArray } from '../../wire/dtype.js'
import type { CommitEvent } from '../types.js'
import type { PageRecord } from './registry.js'

/** What the copy needs of the committer. */
export interface SteadyCommits {
  readonly lifecycle: { refuseWhenFailed(): void }
  idle(): Promise<void>
  hold<T>(work: () => Promise<T>): Promise<T>
  onCommit(listener: (event: CommitEvent) => void): () => void
}

export interface CopyTarget {
  readonly page: PageRecord
  readonly offset: number
  readonly count: number
}

export interface SteadyCopy {
  readonly context: NativeContext
  readonly commits: SteadyCommits
  readonly targets: readonly CopyTarget[]
  readonly signal: AbortSignal | undefined
}

interface Copy extends CopyTarget {
  readonly values: TypedArray
  /** Ranges of elements that are still to be copied. */
  missing: Uint32Array
}

/** With more ranges than this to copy again, everything is. */
const MISSING_RANGES_MAX = 4096
/** After this many times the whole, commits wait. */
const COPIED_MAX = 3

/**
 * Copies the values of the targets and hands them to `finish`, in order, while the epoch that they are of is
 * the published one. Call it between epochs.
 */
export async function steadyCopy<T>(
  { context, commits, targets, signal }: SteadyCopy,
  finish: (values: readonly TypedArray[]) => T,
): Promise<T> {
  const copies = targets.map(startOf)
  const total = copies.reduce((sum, { values }) => sum + values.byteLength, 0)
  const byPage = new Map<number, Copy[]>()
  for (const copy of copies) byPage.set(copy.page.id, [...(byPage.get(copy.page.id) ?? []), copy])
  let gone: PageRecord | undefined
  const stop = commits.onCommit(({ changes }) => {
    for (const { pageId, kind, ranges } of changes) {
      for (const copy of byPage.get(pageId) ?? []) {
        if (kind === 'deleted') gone = copy.page
        else addMissing(copy, ranges)
      }
    }
  })
  const slice = (): number => {
    commits.lifecycle.refuseWhenFailed()
    if (signal?.aborted === true) throw new MmsbError('INVALID_REQUEST', 'The request was cancelled.')
    if (gone !== undefined) {
      throw new MmsbError('PAGE_NOT_FOUND', `Page "${gone.name}" was deleted while it was read.`)
    }
    let left = READ_SLICE_BYTES
    for (const copy of copies) if (left > 0) left -= copySome(context, copy, left)
    return READ_SLICE_BYTES - left
  }
  try {
    let copied = slice()
    while (copies.some(isMissing) && copied < COPIED_MAX * total) {
      await nextSlice()
      await commits.idle()
      copied += slice()
    }
    if (!copies.some(isMissing)) return finish(copies.map(({ values }) => values))
    return await commits.hold(async () => {
      for (slice(); copies.some(isMissing); slice()) await nextSlice()
      return finish(copies.map(({ values }) => values))
    })
  } finally {
    stop()
  }
}

function startOf(target: CopyTarget): Copy {
  const { page, offset, count } = target
  const { sizeBytes, view } = DTYPE_INFO[page.dtype]
  const values = view(new ArrayBuffer(count * sizeBytes), 0, count)
  return { ...target, values, missing: rangeOf(offset, count) }
}

const isMissing = ({ missing }: Copy): boolean => missing.length > 0

function addMissing(copy: Copy, ranges: Uint32Array): void {
  const { offset, count, missing } = copy
  const again = clipRanges(ranges, offset, count)
  if (again.length === 0) return
  const joined = new Uint32Array(missing.length + again.length)
  joined.set(missing)
  joined.set(again, missing.length)
  const normal = normalizeRanges(joined)
  copy.missing = normal.length / 2 > MISSING_RANGES_MAX ? rangeOf(offset, count) : normal
}

/** Copies up to `bytes` bytes of what is missing; returns how many. */
function copySome(context: NativeContext, copy: Copy, bytes: number): number {
  const { page, offset, values } = copy
  const { sizeBytes } = DTYPE_INFO[page.dtype]
  let done = 0
  let at = 0
  for (; at < copy.missing.length && done < bytes; at += 2) {
    const start = copy.missing[at] as number
    const count = copy.missing[at + 1] as number
    const now = Math.min(count, Math.max(1, Math.floor((bytes - done) / sizeBytes)))
    context.readPage(page.id, start * sizeBytes, values.subarray(start - offset, start - offset + now))
    done += now * sizeBytes
    if (now === count) continue
    copy.missing = copy.missing.slice(at)
    copy.missing[0] = start + now
    copy.missing[1] = count - now
    return done
  }
  copy.missing = copy.missing.slice(at)
  return done
}
