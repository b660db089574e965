/** Arrays of any rank over plain lists, and where their elements lie. For tests only. */

import type { UncheckedDerivation } from '../../src/state/types.js'
import type { Dtype } from '../../src/wire/dtype.js'
import { castScalar, type Scalar } from './element.js'

/** An array while it is computed with. */
export interface Tensor {
  readonly dtype: Dtype
  readonly shape: readonly number[]
  readonly values: readonly Scalar[]
}

export type ReferenceOp = (inputs: Readonly<Record<string, Tensor>>, derive: UncheckedDerivation) => Tensor

export const sizeOf = (shape: readonly number[]): number => shape.reduce((product, size) => product * size, 1)

/** The coordinates of element `at` of a row-major array. */
export function coordinatesOf(at: number, shape: readonly number[]): number[] {
  const out = new Array<number>(shape.length)
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    out[axis] = at % shape[axis]!
    at = Math.floor(at / shape[axis]!)
  }
  return out
}

/** The element at coordinates that may have more axes, or sizes where this has 1. */
export function broadcastIndex(coordinates: readonly number[], shape: readonly number[]): number {
  const skip = coordinates.length - shape.length
  return shape.reduce((at, size, axis) => at * size + (size === 1 ? 0 : coordinates[skip + axis]!), 0)
}

export function broadcast(shapes: readonly (readonly number[])[]): number[] {
  const rank = Math.max(0, ...shapes.map((shape) => shape.length))
  return Array.from({ length: rank }, (_, axis) => {
    const sizes = shapes.map((shape) => shape[axis - rank + shape.length] ?? 1)
    return sizes.find((size) => size !== 1) ?? 1
  })
}

export const wholeAxis = (axis: unknown, rank: number): number =>
  (axis as number) < 0 ? (axis as number) + rank : (axis as number)

/**
 * For each output element, its coordinates along the kept axes and the values along the others, in
 * row-major order.
 */
export function lanes(x: Tensor, axes: readonly number[]): { kept: number[]; lanes: Scalar[][] } {
  const kept = x.shape.filter((_, axis) => !axes.includes(axis))
  const lanes: Scalar[][] = Array.from({ length: sizeOf(kept) }, () => [])
  for (const [at, value] of x.values.entries()) {
    const coordinates = coordinatesOf(at, x.shape).filter((_, axis) => !axes.includes(axis))
    lanes[broadcastIndexExact(coordinates, kept)]!.push(value)
  }
  return { kept, lanes }
}

export const broadcastIndexExact = (coordinates: readonly number[], shape: readonly number[]): number =>
  shape.reduce((at, size, axis) => at * size + coordinates[axis]!, 0)

export function castTensor(x: Tensor, to: Dtype): Tensor {
  return { dtype: to, shape: x.shape, values: x.values.map((value) => castScalar(value, x.dtype, to)) }
}

/** A tensor of this shape whose element at coordinates is `element(coordinates)`. */
export function build(dtype: Dtype, shape: readonly number[], element: (at: number[]) => Scalar): Tensor {
  const values = Array.from({ length: sizeOf(shape) }, (_, at) => element(coordinatesOf(at, shape)))
  return { dtype, shape, values }
}

export const elementAt = (x: Tensor, coordinates: readonly number[]): Scalar =>
  x.values[broadcastIndexExact(coordinates, x.shape)]!
