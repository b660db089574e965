/**
 * Ops that fold neighbours or vectors: scan, conv, window, distance. For tests only; see ops.ts. The order of accumulation is
 * the documented one (docs/guide/OPS.md), so results are exact.
 */
import { DTYPE_INFO, type Dtype } from '../../src/wire/dtype.js'
import { fit, fusedMultiplyAdd, operate, type Scalar } from './element.js'
import { commonDtype } from './expression.js'
import {
  broadcastIndexExact,
  castTensor,
  coordinatesOf,
  type ReferenceOp,
  type Tensor,
  wholeAxis,
} from './tensor.js'

const isFloat = (dtype: Dtype): boolean => DTYPE_INFO[dtype].kind === 'float'

function foldDtype(fn: string, dtype: Dtype): Dtype {
  if (fn === 'min' || fn === 'max' || isFloat(dtype)) return dtype
  return fn === 'mean' ? 'f64' : DTYPE_INFO[dtype].kind === 'signed' ? 'i64' : 'u64'
}

/** What a fold works in, and its operation. */
function folding(fn: string, dtype: Dtype): { wide: Dtype; join: (a: Scalar, b: Scalar) => Scalar } {
  const wide = fn === 'mean' || isFloat(dtype) ? 'f64' : foldDtype(fn, dtype)
  const name = fn === 'sum' || fn === 'mean' ? '+' : fn === 'prod' ? '*' : fn
  return { wide, join: (a, b) => operate(name, wide, a, b) }
}

/** Each lane along an axis becomes another of the same length. */
function overLanes(
  x: Tensor,
  axis: number,
  dtype: Dtype,
  turn: (lane: readonly Scalar[]) => readonly Scalar[],
): Tensor {
  const values = [...x.values]
  for (const place of x.values.keys()) {
    const start = coordinatesOf(place, x.shape)
    if (start[axis] !== 0) continue
    const places = Array.from({ length: x.shape[axis]! }, (_, i) =>
      broadcastIndexExact(
        start.map((own, d) => (d === axis ? i : own)),
        x.shape,
      ),
    )
    const turned = turn(places.map((at) => x.values[at]!))
    for (const [i, at] of places.entries()) values[at] = turned[i]!
  }
  return { dtype, shape: x.shape, values }
}

const scan: ReferenceOp = ({ x }, derive) => {
  const fn = String(derive.fn)
  const axis = wholeAxis(derive.axis ?? -1, x!.shape.length)
  const { wide, join } = folding(fn, x!.dtype)
  const dtype = foldDtype(fn, x!.dtype)
  const widened: Tensor = { ...x!, values: wide === 'f64' ? x!.values.map(Number) : x!.values }
  return overLanes(widened, axis, dtype, (lane) => {
    const sums: Scalar[] = []
    for (const value of lane) sums.push(sums.length === 0 ? value : join(sums.at(-1)!, value))
    return sums.map((sum) => fit(dtype, sum))
  })
}

/** A block of a power of two: as a balanced tree. */
function treeFold(block: readonly Scalar[], join: (a: Scalar, b: Scalar) => Scalar): Scalar {
  if (block.length === 1) return block[0]!
  const half = block.length / 2
  return join(treeFold(block.slice(0, half), join), treeFold(block.slice(half), join))
}

/** Blocks of powers of two, the largest and oldest first, joined from the newest. */
function windowFold(values: readonly Scalar[], join: (a: Scalar, b: Scalar) => Scalar): Scalar {
  const size = 2 ** Math.floor(Math.log2(values.length))
  const block = treeFold(values.slice(0, size), join)
  return values.length === size ? block : join(block, windowFold(values.slice(size), join))
}

const window: ReferenceOp = ({ x }, derive) => {
  const fn = String(derive.fn)
  const size = derive.size as number
  const axis = wholeAxis(derive.axis ?? -1, x!.shape.length)
  const { wide, join } = folding(fn, x!.dtype)
  const dtype = foldDtype(fn, x!.dtype)
  const widened: Tensor = { ...x!, values: wide === 'f64' ? x!.values.map(Number) : x!.values }
  return overLanes(widened, axis, dtype, (lane) =>
    lane.map((_, i) => {
      const seen = lane.slice(Math.max(0, i + 1 - size), i + 1)
      const fold = windowFold(seen, join)
      return fit(dtype, fn === 'mean' ? (fold as number) / seen.length : fold)
    }),
  )
}

/** Where an index outside an axis is read; undefined: nowhere. */
function inside(boundary: string, i: number, size: number): number | undefined {
  if (i >= 0 && i < size) return i
  if (boundary === 'zero') return undefined
  if (boundary === 'edge') return i < 0 ? 0 : size - 1
  return ((i % size) + size) % size
}

const conv: ReferenceOp = ({ x, kernel }, derive) => {
  const boundary = String(derive.boundary ?? 'zero')
  const dtype = commonDtype([x!.dtype, kernel!.dtype])
  const values = castTensor(x!, dtype).values
  const factors = castTensor(kernel!, dtype).values
  const zero: Scalar = isFloat(dtype) ? 0 : 0n
  const lead = x!.shape.length - kernel!.shape.length
  const out = values.map((_, place) => {
    const here = coordinatesOf(place, x!.shape)
    return factors.reduce((sum, factor, k) => {
      const shift = coordinatesOf(k, kernel!.shape)
      const there = here.map((i, axis) => {
        if (axis < lead) return i
        const own = axis - lead
        const at = i + shift[own]! - Math.floor(kernel!.shape[own]! / 2)
        return inside(boundary, at, x!.shape[axis]!)
      })
      const value = there.includes(undefined)
        ? zero
        : values[broadcastIndexExact(there as number[], x!.shape)]!
      if (dtype === 'bool') return (sum as bigint) | ((factor as bigint) & (value as bigint))
      return fusedMultiplyAdd(dtype, factor, value, sum)
    }, zero)
  })
  return { dtype, shape: x!.shape, values: out }
}

const LANES = 32

/** 32 lanes from 0, joined by halving. */
function laneSum(dtype: Dtype, terms: readonly (readonly [Scalar, Scalar])[]): number {
  const sums = new Array<Scalar>(LANES).fill(0)
  for (const [i, [a, b]] of terms.entries()) sums[i % LANES] = fusedMultiplyAdd(dtype, a, b, sums[i % LANES]!)
  for (let half = LANES / 2; half >= 1; half /= 2) {
    for (let i = 0; i < half; i++) sums[i] = operate('+', dtype, sums[i]!, sums[i + half]!)
  }
  return sums[0] as number
}

const distance: ReferenceOp = ({ queries, vectors }, { metric }) => {
  const kinds = [queries!.dtype, vectors!.dtype]
  const floats = kinds.filter(isFloat)
  const dtype: Dtype = floats.length > 0 && !floats.includes('f64') ? 'f32' : 'f64'
  const [a, b] = [castTensor(queries!, dtype).values, castTensor(vectors!, dtype).values]
  const depth = vectors!.shape[1]!
  const round = (value: number): number => fit(dtype, value) as number
  const rows = (values: readonly Scalar[], count: number): Scalar[][] =>
    Array.from({ length: count }, (_, row) => values.slice(row * depth, (row + 1) * depth))
  const sum = (p: readonly Scalar[], q: readonly Scalar[]): number =>
    laneSum(
      dtype,
      p.map((value, i) => [value, q[i]!] as const),
    )
  const norm = (p: readonly Scalar[]): number => round(Math.sqrt(sum(p, p)))
  const count = queries!.shape.length === 2 ? queries!.shape[0]! : 1
  const values = rows(a, count).flatMap((q) =>
    rows(b, vectors!.shape[0]!).map((v) => {
      if (metric === 'dot') return sum(q, v)
      if (metric === 'l2') return norm(q.map((value, i) => operate('-', dtype, value, v[i]!)))
      return round(1 - round(sum(q, v) / round(norm(q) * norm(v))))
    }),
  )
  return { dtype, shape: [...queries!.shape.slice(0, -1), vectors!.shape[0]!], values }
}

export const foldOps = { scan, conv, window, distance } satisfies Record<string, ReferenceOp>
