/**
 * Shapes of pages: checks, element counts, strides, axes, broadcasting.
 *
 * Invariants: a shape that passed checkShape has rank 0..8, dimensions that are non-negative integers, fewer
 * than 2^32 elements and at most PAGE_MAX_BYTES bytes, so every product of its dimensions is an exact number.
 * An axis of size 0 is legal. Arrays are row-major. Nothing here knows pages, frames or ops.
 */
import { MmsbError } from '../errors.js'
import { PAGE_MAX_BYTES, PAGE_MAX_ELEMENTS } from '../limits.js'
import { DTYPE_INFO, type Dtype } from '../wire/dtype.js'
import { PAGE_MAX_RANK } from '../wire/page.js'

export type Shape = readonly number[]

/** A shape with its name in error messages. */
export interface NamedShape {
  readonly name: string
  readonly shape: Shape
}

/** Number of elements; 1 for rank 0. */
export function elementCount(shape: Shape): number {
  let count = 1
  for (const size of shape) count *= size
  return count
}

/** Row-major strides, in elements: the last axis has stride 1. */
export function rowMajorStrides(shape: Shape): number[] {
  const strides = new Array<number>(shape.length)
  let stride = 1
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    strides[axis] = stride
    stride *= shape[axis]!
  }
  return strides
}

/** A shape for messages: `[4, 3]`. */
export function formatShape(shape: Shape): string {
  return `[${shape.join(', ')}]`
}

export function sameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((size, axis) => size === b[axis])
}

/**
 * Checks the shape of a new page from untrusted input. `what` begins the message.
 * @throws MmsbError INVALID_REQUEST
 */
export function checkShape(shape: unknown, dtype: Dtype, what = 'shape'): number[] {
  if (!Array.isArray(shape)) throw new MmsbError('INVALID_REQUEST', `${what} must be an array of sizes`)
  if (shape.length > PAGE_MAX_RANK) {
    throw new MmsbError(
      'INVALID_REQUEST',
      `${what} has ${shape.length} axes; a page has at most ${PAGE_MAX_RANK}`,
    )
  }
  for (const [axis, size] of shape.entries()) {
    if (!Number.isInteger(size) || size < 0 || size > PAGE_MAX_ELEMENTS) {
      throw new MmsbError(
        'INVALID_REQUEST',
        `${what}: axis ${axis} has size ${typeof size === 'number' ? size : JSON.stringify(size)}; ` +
          `a size is an integer from 0 to ${PAGE_MAX_ELEMENTS}`,
      )
    }
  }
  checkExtent(shape as number[], dtype, what)
  return [...(shape as number[])]
}

/**
 * Checks that a shape of valid sizes is not too large for a page.
 * @throws MmsbError INVALID_REQUEST
 */
export function checkExtent(shape: Shape, dtype: Dtype, what = 'shape'): void {
  // Eight factors below 2^32 stay far below the largest double, and a rounded product above the limit stays
  // above it.
  const elements = elementCount(shape)
  if (elements > PAGE_MAX_ELEMENTS) {
    throw new MmsbError(
      'INVALID_REQUEST',
      `${what} ${formatShape(shape)} has ${elements} elements; a page has fewer than 2^32`,
    )
  }
  const bytes = elements * DTYPE_INFO[dtype].sizeBytes
  if (bytes > PAGE_MAX_BYTES) {
    throw new MmsbError(
      'INVALID_REQUEST',
      `${what} ${formatShape(shape)} of ${dtype} needs ${bytes} bytes; a page has at most ${PAGE_MAX_BYTES}`,
    )
  }
}

/**
 * An axis counted from 0; negative ones count from the end, as in NumPy. `name` is the parameter's or list's
 * name.
 * @throws MmsbError INVALID_REQUEST when it is not an integer, SHAPE_MISMATCH when there is no such axis
 */
export function normalizeAxis(axis: unknown, input: NamedShape, name = 'axis'): number {
  if (typeof axis !== 'number' || !Number.isInteger(axis)) {
    throw new MmsbError('INVALID_REQUEST', `${name} must be an integer`)
  }
  const rank = input.shape.length
  if (axis < -rank || axis >= rank) {
    throw new MmsbError(
      'SHAPE_MISMATCH',
      rank === 0
        ? `${name} ${axis}: ${input.name} has no axes`
        : `${name} ${axis} is out of range: ${input.name} has shape ${formatShape(input.shape)}, axes ${-rank} to ${rank - 1}`,
    )
  }
  return axis < 0 ? axis + rank : axis
}

/**
 * Axes counted from 0, ascending.
 * @throws MmsbError INVALID_REQUEST when it is not a list of distinct integers, SHAPE_MISMATCH when one does
 *   not exist
 */
export function normalizeAxes(axes: unknown, input: NamedShape, name = 'axes'): number[] {
  if (!Array.isArray(axes)) throw new MmsbError('INVALID_REQUEST', `${name} must be an array of integers`)
  const normal = axes.map((axis) => normalizeAxis(axis, input, `${name}:`))
  normal.sort((a, b) => a - b)
  for (let i = 1; i < normal.length; i++) {
    if (normal[i] === normal[i - 1]) {
      throw new MmsbError('INVALID_REQUEST', `${name} names axis ${normal[i]} twice`)
    }
  }
  return normal
}

/**
 * The common shape by NumPy's rule: shapes are aligned at their last axes; sizes match where they are equal
 * or one is 1.
 * @throws MmsbError SHAPE_MISMATCH naming both inputs, their axes and sizes
 */
export function broadcastShapes(inputs: readonly NamedShape[]): number[] {
  const rank = inputs.reduce((most, { shape }) => Math.max(most, shape.length), 0)
  const out = new Array<number>(rank).fill(1)
  const setBy = new Array<NamedShape | undefined>(rank).fill(undefined)
  for (const input of inputs) {
    const shift = rank - input.shape.length
    for (const [axis, size] of input.shape.entries()) {
      const at = axis + shift
      if (size === 1 || size === out[at]) continue
      const other = setBy[at]
      if (other !== undefined) throw broadcastError(other, input, at - rank)
      out[at] = size
      setBy[at] = input
    }
  }
  return out
}

function broadcastError(a: NamedShape, b: NamedShape, fromEnd: number): MmsbError {
  const side = ({ name, shape }: NamedShape) => {
    const axis = shape.length + fromEnd
    return `${name} ${formatShape(shape)} has size ${shape[axis]} on axis ${axis}`
  }
  return new MmsbError(
    'SHAPE_MISMATCH',
    `shapes do not broadcast: ${side(a)}, ${side(b)}; sizes must be equal or 1`,
  )
}
