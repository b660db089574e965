/**
 * Derived pages, computed as plainly as can be: whole pages, element by element, over plain arrays. For tests
 * only; takes nothing from src/kernels but the names of the ops, so that it can disagree. Takes only
 * definitions that compile.
 *
 * Exact, bit for bit, but for the portable functions (exp, sin, pow...), which JavaScript rounds in its own
 * way: isExact tells which definitions to compare how. The order of accumulation is the documented one
 * (docs/internals/DETERMINISM.md).
 */

import type { UncheckedDerivation } from '../../src/state/types.js'
import type { Dtype } from '../../src/wire/dtype.js'
import { castScalar, toElement, toScalar } from './element.js'
import { namesCalled, readTree } from './expression.js'
import { recordOf } from './records.js'
import type { Tensor } from './tensor.js'

/** A page's contents: elements as a typed array of the dtype holds them. */
export interface ReferencePage {
  readonly dtype: Dtype
  readonly shape: readonly number[]
  readonly values: ArrayLike<number | bigint>
}

export interface ReferenceResult {
  readonly dtype: Dtype
  readonly shape: readonly number[]
  readonly values: (number | bigint)[]
}

/**
 * The page that `derive` gives for these inputs, by role. `dtype`: the cast that the definition asks for;
 * `version`: of the op, absent: the newest.
 */
export function referenceEval(
  derive: UncheckedDerivation,
  inputs: Readonly<Record<string, ReferencePage>>,
  dtype?: Dtype,
  version?: number,
): ReferenceResult {
  const tensors: Record<string, Tensor> = {}
  for (const [role, page] of Object.entries(inputs)) {
    const values = Array.from(page.values, (element) => toScalar(page.dtype, element))
    tensors[role] = { dtype: page.dtype, shape: page.shape, values }
  }
  const { compute, old } = recordOf(derive.op)
  const result = ((version === undefined ? undefined : old?.[version - 1]) ?? compute)(tensors, derive)
  const to = dtype ?? result.dtype
  const values = result.values.map((value) => toElement(to, castScalar(value, result.dtype, to)))
  return { dtype: to, shape: result.shape, values }
}

const INEXACT = new Set(['exp', 'log', 'log2', 'sin', 'cos', 'tan', 'tanh', 'pow', '**'])

/** Whether the result must be equal bit for bit; else within a few units in the last place. */
export function isExact(derive: UncheckedDerivation): boolean {
  return derive.op !== 'map' || !namesCalled(readTree(String(derive.expr))).some((name) => INEXACT.has(name))
}

/** Whether two elements are the same value: -0 is not 0, NaN is NaN. */
export function sameElement(a: number | bigint, b: number | bigint): boolean {
  return Object.is(a, b)
}

/** Whether `got` is within `relative` of `wanted`, or within `absolute`; NaN and infinities must be equal. */
export function isNear(
  got: number | bigint,
  wanted: number | bigint,
  relative: number,
  absolute: number,
): boolean {
  if (Object.is(got, wanted)) return true
  const a = Number(got)
  const b = Number(wanted)
  return Math.abs(a - b) <= Math.max(absolute, relative * Math.abs(b))
}
