/**
 * Viewports: a subscriber may ask for an n-dimensional window on a page instead of the whole page.
 *
 * Invariants: shape, ranges and values in messages are those of the window, row-major within it, so a mirror
 * of the window needs no knowledge of the page. Changes outside the window are not sent, and only elements
 * inside are read. A window that does not fit its page is SHAPE_MISMATCH, at once or when such a page is
 * created. Pure.
 */
import type { PageChange, PageShape } from '../../engine/types.js'
import { MmsbError } from '../../errors.js'
import { STREAM_RUNS_OF_PATTERN, STREAM_VIEWPORT_RUNS_MAX, STREAM_VIEWPORTS_MAX } from '../../limits.js'
import type { PatternSet } from '../../state/pattern.js'
import { NAME_MAX_LENGTH, PAGE_MAX_RANK } from '../../wire/page.js'
import { PagePart } from '../messages.js'

/** Page name -> for each axis where the window starts and where it stops. */
export type Slices = Readonly<Record<string, readonly (readonly [start: number, stop: number])[]>>

/** The windows of a subscription. Two with the same key show the same. */
export interface Viewports {
  readonly key: string
  /** What the windows take in memory, in patterns. */
  readonly weight: number
  /** The window on a page of this shape; undefined: the whole page. @throws MmsbError SHAPE_MISMATCH */
  windowOf(page: string, shape: readonly number[]): Window | undefined
  has(page: string): boolean
}

/**
 * A window on pages of one shape, as runs of elements that are contiguous both in the page and in the window.
 */
export interface Window {
  readonly shape: readonly number[]
  readonly elements: number
  /** Offset of each run in the page, ascending. */
  readonly starts: Uint32Array
  readonly runLength: number
}

const EVERYTHING: Viewports = { key: '', weight: 0, windowOf: () => undefined, has: () => false }

/** @throws MmsbError INVALID_REQUEST */
export function viewportsOf(slices: Slices | undefined, patterns: PatternSet): Viewports {
  if (slices === undefined) return EVERYTHING
  const names = Object.keys(slices).sort()
  if (names.length > STREAM_VIEWPORTS_MAX) throw invalid(`names more than ${STREAM_VIEWPORTS_MAX} pages`)
  for (const name of names) {
    if (!patterns.matches(name)) throw invalid(`${quoted(name)} is not one of the pages subscribed to`)
    checkBounds(name, slices[name]!)
  }
  const windows = new Map<string, { readonly shape: string; readonly window: Window }>()
  const has = (page: string): boolean => Object.hasOwn(slices, page)
  return {
    key: names.map((name) => `${name}=${slices[name]!.map((axis) => axis.join('-')).join('/')}`).join(','),
    weight: names.reduce((sum, name) => sum + weightOf(slices[name]!), 0),
    has,
    windowOf: (page, shape) => {
      if (!has(page)) return undefined
      const known = windows.get(page)
      const key = shape.join(',')
      if (known?.shape === key) return known.window
      const window = windowOn(page, slices[page]!, shape)
      windows.set(page, { shape: key, window })
      return window
    },
  }
}

/** A window that fits has no more rows than this estimate, and needs memory for each. */
function weightOf(bounds: Slices[string]): number {
  const rows = bounds.slice(0, -1).reduce((product, [start, stop]) => product * (stop - start), 1)
  return Math.ceil(Math.min(rows, STREAM_VIEWPORT_RUNS_MAX) / STREAM_RUNS_OF_PATTERN)
}

const invalid = (detail: string): MmsbError => new MmsbError('INVALID_REQUEST', `slice: ${detail}`)
const quoted = (name: string): string => JSON.stringify(name.slice(0, NAME_MAX_LENGTH))

function checkBounds(page: string, bounds: Slices[string]): void {
  const isPair = (axis: readonly number[]): boolean =>
    Array.isArray(axis) && axis.length === 2 && axis.every((bound) => Number.isInteger(bound) && bound >= 0)
  if (!Array.isArray(bounds) || bounds.length > PAGE_MAX_RANK || !bounds.every(isPair)) {
    throw invalid(`${quoted(page)}: must be a list of [start, stop], one for each axis`)
  }
  for (const [start, stop] of bounds) {
    if (start >= stop) throw invalid(`${quoted(page)}: ${start} to ${stop} is empty; stop is exclusive`)
  }
}

/** @throws MmsbError SHAPE_MISMATCH, INVALID_REQUEST */
function windowOn(page: string, bounds: Slices[string], shape: readonly number[]): Window {
  const fits = bounds.length === shape.length && bounds.every(([, stop], axis) => stop <= shape[axis]!)
  if (!fits) {
    throw new MmsbError(
      'SHAPE_MISMATCH',
      `slice: ${JSON.stringify(bounds)} does not fit page "${page}" of shape ${JSON.stringify(shape)}`,
    )
  }
  const extents = bounds.map(([start, stop]) => stop - start)
  // The trailing axes that are whole, and the axis before them, form one run.
  let inner = shape.length - 1
  while (inner > 0 && extents[inner] === shape[inner]) inner--
  const product = (sizes: readonly number[]): number => sizes.reduce((product, size) => product * size, 1)
  const runLength = product(extents.slice(Math.max(inner, 0)))
  const count = product(extents.slice(0, Math.max(inner, 0)))
  if (count > STREAM_VIEWPORT_RUNS_MAX) {
    throw invalid(`${quoted(page)}: has ${count} separate rows, more than ${STREAM_VIEWPORT_RUNS_MAX}`)
  }
  const strides = shape.map((_, axis) => product(shape.slice(axis + 1)))
  const starts = Uint32Array.from({ length: count }, (_, run) => {
    let rest = run
    let start = bounds.reduce((sum, [from], axis) => sum + from * strides[axis]!, 0)
    for (let axis = inner - 1; axis >= 0; axis--) {
      start += (rest % extents[axis]!) * strides[axis]!
      rest = Math.floor(rest / extents[axis]!)
    }
    return start
  })
  return { shape: extents, elements: runLength * count, starts, runLength }
}

/** The elements of the page that a window shows: offset, count, ... */
export function rangesOf({ starts, runLength }: Window): Uint32Array {
  const ranges = new Uint32Array(starts.length * 2)
  for (let run = 0; run < starts.length; run++) {
    ranges[run * 2] = starts[run]!
    ranges[run * 2 + 1] = runLength
  }
  return ranges
}

/**
 * The part of `ranges` that a window shows: `inside` in window coordinates, `read` the same elements
 * in the page.
 */
export function cutRanges(
  window: Window,
  ranges: Uint32Array,
): { readonly inside: Uint32Array; readonly read: Uint32Array } {
  const { starts, runLength } = window
  const inside: number[] = []
  const read: number[] = []
  for (let i = 0; i < ranges.length; i += 2) {
    const from = ranges[i]!
    const to = from + ranges[i + 1]!
    for (let run = firstRunPast(starts, runLength, from); run < starts.length && starts[run]! < to; run++) {
      const start = Math.max(from, starts[run]!)
      const count = Math.min(to, starts[run]! + runLength) - start
      const offset = run * runLength + start - starts[run]!
      const last = inside.length - 2
      if (last >= 0 && inside[last]! + inside[last + 1]! === offset) inside[last + 1]! += count
      else inside.push(offset, count)
      read.push(start, count)
    }
  }
  return { inside: Uint32Array.from(inside), read: Uint32Array.from(read) }
}

/** The first run that ends after `element`. */
function firstRunPast(starts: Uint32Array, runLength: number, element: number): number {
  let low = 0
  let high = starts.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if (starts[middle]! + runLength <= element) low = middle + 1
    else high = middle
  }
  return low
}

/**
 * The part that the viewports show; undefined if they show nothing of it. @throws MmsbError SHAPE_MISMATCH
 */
export function cutPart(part: PagePart, viewports: Viewports): PagePart | undefined {
  const { change } = part
  if (change.kind === 'deleted' || !viewports.has(change.page)) return part
  const window = viewports.windowOf(change.page, change.shape)
  if (window === undefined) return part
  const { inside, read } = cutRanges(window, change.ranges)
  if (inside.length === 0) return undefined
  const cut: PageChange = { ...change, shape: window.shape, ranges: inside }
  return new PagePart(cut, () => part.gather(read), change)
}

/** Refuses windows that do not fit an existing page. @throws MmsbError SHAPE_MISMATCH, INVALID_REQUEST */
export function checkViewports(
  slices: Slices | undefined,
  viewports: Viewports,
  shapeOf: (page: string) => PageShape | undefined,
): void {
  for (const name of Object.keys(slices ?? {})) {
    const page = shapeOf(name)
    if (page !== undefined) viewports.windowOf(name, page.shape)
  }
}
