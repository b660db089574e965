/**
 * Viewports: of some pages a subscriber wants an n-dimensional window, and takes the window for the page.
 *
 * Invariants: shape, ranges and values of what is told are the window's, row-major within it, so that a mirror of the window
 * needs to know nothing of the page; a change that touches nothing inside is not told; only elements inside are read. A page
 * that a window does not fit is SHAPE_MISMATCH, at once or when such a page is created. Pure.
 */
import type { PageChange, PageShape } from '../engine/types.js'
import { MmsbError } from '../errors.js'
import { STREAM_VIEWPORT_RUNS_MAX, STREAM_VIEWPORTS_MAX } from '../limits.js'
import type { PatternSet } from '../state/pattern.js'
import { NAME_MAX_LENGTH, PAGE_MAX_RANK } from '../wire/page.js'
import { PagePart } from './messages.js'

/** Page name -> for each axis where the window starts and where it stops. */
export type Slices = Readonly<Record<string, readonly (readonly [start: number, stop: number])[]>>

/** What of which pages is seen. Two with the same key see the same. */
export interface Viewports {
  readonly key: string
  /** The window on a page of this shape; undefined: the whole page. Throws SHAPE_MISMATCH. */
  windowOf(page: string, shape: readonly number[]): Window | undefined
  has(page: string): boolean
}

/** A window on pages of one shape: runs of elements that lie together in the page, one after another in the window. */
export interface Window {
  readonly shape: readonly number[]
  readonly elements: number
  /** Where in the page each run starts, ascending. */
  readonly starts: Uint32Array
  readonly runLength: number
}

const EVERYTHING: Viewports = { key: '', windowOf: () => undefined, has: () => false }

/** @throws MmsbError INVALID_REQUEST */
export function viewportsOf(slices: Slices | undefined, patterns: PatternSet): Viewports {
  if (slices === undefined) return EVERYTHING
  const names = Object.keys(slices).sort()
  if (names.length > STREAM_VIEWPORTS_MAX) throw invalid(`names more than ${STREAM_VIEWPORTS_MAX} pages`)
  for (const name of names) {
    if (!patterns.matches(name)) throw invalid(`${shown(name)} is not among the pages subscribed to`)
    checkBounds(name, slices[name]!)
  }
  const windows = new Map<string, { readonly shape: string; readonly window: Window }>()
  const has = (page: string): boolean => Object.hasOwn(slices, page)
  return {
    key: names.map((name) => `${name}=${slices[name]!.map((axis) => axis.join('-')).join('/')}`).join(','),
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

const invalid = (detail: string): MmsbError => new MmsbError('INVALID_REQUEST', `slice: ${detail}`)
const shown = (name: string): string => JSON.stringify(name.slice(0, NAME_MAX_LENGTH))

function checkBounds(page: string, bounds: Slices[string]): void {
  const isPair = (axis: readonly number[]): boolean =>
    Array.isArray(axis) && axis.length === 2 && axis.every((bound) => Number.isInteger(bound) && bound >= 0)
  if (!Array.isArray(bounds) || bounds.length > PAGE_MAX_RANK || !bounds.every(isPair)) {
    throw invalid(`${shown(page)}: is a list of [start, stop], one for each axis`)
  }
  for (const [start, stop] of bounds) {
    if (start >= stop) throw invalid(`${shown(page)}: ${start} to ${stop} holds nothing; stop is exclusive`)
  }
}

/** @throws MmsbError SHAPE_MISMATCH, INVALID_REQUEST */
function windowOn(page: string, bounds: Slices[string], shape: readonly number[]): Window {
  const fits = bounds.length === shape.length && bounds.every(([, stop], axis) => stop <= shape[axis]!)
  if (!fits) {
    throw new MmsbError(
      'SHAPE_MISMATCH',
      `slice: ${JSON.stringify(bounds)} does not lie in page "${page}" of shape ${JSON.stringify(shape)}`,
    )
  }
  const extents = bounds.map(([start, stop]) => stop - start)
  // Axes that are seen whole, from the last one up, belong to one run, and so does the axis before them.
  let inner = shape.length - 1
  while (inner > 0 && extents[inner] === shape[inner]) inner--
  const product = (sizes: readonly number[]): number => sizes.reduce((product, size) => product * size, 1)
  const runLength = product(extents.slice(Math.max(inner, 0)))
  const count = product(extents.slice(0, Math.max(inner, 0)))
  if (count > STREAM_VIEWPORT_RUNS_MAX) {
    throw invalid(`${shown(page)}: is ${count} rows, more than ${STREAM_VIEWPORT_RUNS_MAX}`)
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

/** The elements of a page that a window shows: offset, count, ... */
export function rangesOf({ starts, runLength }: Window): Uint32Array {
  const ranges = new Uint32Array(starts.length * 2)
  for (let run = 0; run < starts.length; run++) {
    ranges[run * 2] = starts[run]!
    ranges[run * 2 + 1] = runLength
  }
  return ranges
}

/** Ranges of a page as a window shows them: `inside` counts in the window, `read` in the page; the elements are the same. */
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

/** The first run that ends behind an element. */
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

/** A part as it is seen; null when nothing of it is. Throws SHAPE_MISMATCH. */
export function cutPart(part: PagePart, viewports: Viewports): PagePart | null {
  const { change } = part
  if (change.kind === 'deleted' || !viewports.has(change.page)) return part
  const window = viewports.windowOf(change.page, change.shape)
  if (window === undefined) return part
  const { inside, read } = cutRanges(window, change.ranges)
  if (inside.length === 0) return null
  const cut: PageChange = { ...change, shape: window.shape, ranges: inside }
  return new PagePart(cut, () => part.gather(read), change)
}

/** Refuses windows on pages that are there and that they do not fit. Throws SHAPE_MISMATCH, INVALID_REQUEST. */
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
