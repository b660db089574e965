/**
 * Ops that move, pick, count or order elements, as plainly as can be. For tests only; see ops.ts.
 */
import { DTYPE_INFO, type Dtype } from '../../src/wire/dtype.js'
import { castScalar, operate, type Scalar } from './element.js'
import { commonDtype } from './expression.js'
import {
  broadcastIndexExact,
  castTensor,
  coordinatesOf,
  type ReferenceOp,
  sizeOf,
  type Tensor,
  wholeAxis,
} from './tensor.js'

/** A tensor of this shape whose element at coordinates is `element(coordinates)`. */
function build(dtype: Dtype, shape: readonly number[], element: (at: number[]) => Scalar): Tensor {
  const values = Array.from({ length: sizeOf(shape) }, (_, at) => element(coordinatesOf(at, shape)))
  return { dtype, shape, values }
}

const at = (x: Tensor, coordinates: readonly number[]): Scalar =>
  x.values[broadcastIndexExact(coordinates, x.shape)]!

const transpose: ReferenceOp = ({ x }, derive) => {
  const rank = x!.shape.length
  const axes =
    (derive.axes as number[] | undefined)?.map((axis) => wholeAxis(axis, rank)) ??
    x!.shape.map((_, axis) => rank - 1 - axis)
  return build(
    x!.dtype,
    axes.map((axis) => x!.shape[axis]!),
    (out) =>
      at(
        x!,
        x!.shape.map((_, axis) => out[axes.indexOf(axis)]!),
      ),
  )
}

const reshape: ReferenceOp = ({ x }, { shape }) => {
  const asked = shape as number[]
  const rest = sizeOf(asked.filter((size) => size !== -1))
  return { ...x!, shape: asked.map((size) => (size === -1 ? x!.values.length / rest : size)) }
}

/** The indices of Python's range(size)[start:stop:step], walked one by one. */
function pickIndices(size: number, start: number | null, stop: number | null, step: number): number[] {
  const place = (bound: number): number => (bound < 0 ? bound + size : bound)
  const out: number[] = []
  if (step > 0) {
    const end = stop === null ? size : Math.min(size, place(stop))
    for (let i = start === null ? 0 : Math.max(0, place(start)); i < end; i += step) out.push(i)
  } else {
    const end = stop === null ? -1 : Math.max(-1, place(stop))
    for (let i = start === null ? size - 1 : Math.min(size - 1, place(start)); i > end; i += step) out.push(i)
  }
  return out
}

const slice: ReferenceOp = ({ x }, derive) => {
  const [start, stop, step] = ['start', 'stop', 'step'].map(
    (name) => (derive[name] as (number | null)[] | undefined) ?? [],
  )
  const picked = x!.shape.map((size, axis) =>
    pickIndices(size, start![axis] ?? null, stop![axis] ?? null, step![axis] ?? 1),
  )
  return build(
    x!.dtype,
    picked.map((list) => list.length),
    (out) =>
      at(
        x!,
        out.map((i, axis) => picked[axis]![i]!),
      ),
  )
}

const concat: ReferenceOp = (inputs, derive) => {
  const list = Object.values(inputs)
  const axis = wholeAxis(derive.axis ?? 0, list[0]!.shape.length)
  const dtype = commonDtype(list.map((input) => input.dtype))
  const cast = list.map((input) => castTensor(input, dtype))
  const total = list.reduce((sum, { shape }) => sum + shape[axis]!, 0)
  return build(
    dtype,
    list[0]!.shape.map((size, i) => (i === axis ? total : size)),
    (out) => {
      let rest = out[axis]!
      const part = cast.find(({ shape }) => {
        if (rest < shape[axis]!) return true
        rest -= shape[axis]!
        return false
      })
      return at(
        part!,
        out.map((i, d) => (d === axis ? rest : i)),
      )
    },
  )
}

const sort: ReferenceOp = ({ x }, derive) => {
  const axis = wholeAxis(derive.axis ?? -1, x!.shape.length)
  const sign = derive.descending === true ? -1 : 1
  const order = (a: Scalar, b: Scalar): number => {
    const nans = Number(Number.isNaN(a as number)) - Number(Number.isNaN(b as number))
    if (nans !== 0 || Number.isNaN(a as number)) return nans
    return a === b ? 0 : (a < b ? -1 : 1) * sign
  }
  const size = x!.shape[axis]!
  const sorted = new Map<string, Scalar[]>()
  return build(x!.dtype, x!.shape, (out) => {
    const place = (i: number): number[] => out.map((own, d) => (d === axis ? i : own))
    const key = place(0).join()
    const lane = sorted.get(key) ?? Array.from({ length: size }, (_, i) => at(x!, place(i))).sort(order)
    sorted.set(key, lane)
    return lane[out[axis]!]!
  })
}

/** The element an index names, or undefined. */
function wholeIndex(index: Scalar, size: number): number | undefined {
  const i = (index as bigint) < 0n ? (index as bigint) + BigInt(size) : (index as bigint)
  return i >= 0n && i < BigInt(size) ? Number(i) : undefined
}

const gather: ReferenceOp = ({ x, indices }, derive) => {
  const axis = wholeAxis(derive.axis ?? 0, x!.shape.length)
  const rank = indices!.shape.length
  const nothing = DTYPE_INFO[x!.dtype].kind === 'float' ? Number.NaN : 0n
  const shape = [...x!.shape.slice(0, axis), ...indices!.shape, ...x!.shape.slice(axis + 1)]
  return build(x!.dtype, shape, (out) => {
    const index = wholeIndex(at(indices!, out.slice(axis, axis + rank)), x!.shape[axis]!)
    if (index === undefined) return nothing
    return at(x!, [...out.slice(0, axis), index, ...out.slice(axis + rank)])
  })
}

const scatter: ReferenceOp = ({ x, indices, values }, derive) => {
  const axis = wholeAxis(derive.axis ?? 0, x!.shape.length)
  const rank = indices!.shape.length
  const merge = String(derive.merge ?? 'set')
  const shape = [...x!.shape.slice(0, axis), ...indices!.shape, ...x!.shape.slice(axis + 1)]
  const out = [...x!.values]
  for (let place = 0; place < sizeOf(shape); place++) {
    const coordinates = coordinatesOf(place, shape)
    const index = wholeIndex(at(indices!, coordinates.slice(axis, axis + rank)), x!.shape[axis]!)
    if (index === undefined) continue
    const target = [...coordinates.slice(0, axis), index, ...coordinates.slice(axis + rank)]
    const to = broadcastIndexExact(target, x!.shape)
    const value = values!.values[values!.values.length === 1 ? 0 : place]!
    out[to] = merged(merge, x!.dtype, out[to]!, castScalar(value, values!.dtype, x!.dtype))
  }
  return { ...x!, values: out }
}

function merged(merge: string, dtype: Dtype, now: Scalar, value: Scalar): Scalar {
  if (merge === 'set') return value
  if (merge === 'add') return operate('+', dtype, now, value)
  if (merge === 'min' || merge === 'max') return operate(merge, dtype, now, value)
  return operate(`bit${merge}`, dtype, now, value)
}

const bincount: ReferenceOp = ({ x }, { length }) => {
  const counts = new Array<bigint>(length as number).fill(0n)
  for (const value of x!.values) {
    if ((value as bigint) >= 0n && (value as bigint) < BigInt(length as number)) counts[Number(value)]! += 1n
  }
  return { dtype: 'u32', shape: [length as number], values: counts }
}

const histogram: ReferenceOp = ({ x }, derive) => {
  const bins = derive.bins as number
  const [low, high] = derive.range as [number, number]
  const width = (high - low) / bins
  const edges = Array.from({ length: bins + 1 }, (_, i) => (i === bins ? high : low + i * width))
  const counts = new Array<bigint>(bins).fill(0n)
  for (const value of x!.values) {
    const v = Number(value)
    const bin = edges.findIndex((edge, i) => v >= edge && (i + 1 === bins ? v <= high : v < edges[i + 1]!))
    if (bin >= 0) counts[bin]! += 1n
  }
  return { dtype: 'u32', shape: [bins], values: counts }
}

export const arrangeOps = {
  transpose,
  reshape,
  slice,
  concat,
  sort,
  gather,
  scatter,
  bincount,
  histogram,
} satisfies Record<string, ReferenceOp>
