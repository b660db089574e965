/** Pages of many dtypes and shapes for the tests of the op catalogue, and definitions compiled over them. */
import { MmsbError } from '../../src/errors.js'
import type { InputPage } from '../../src/kernels/inputs.js'
import { compileDerivation } from '../../src/kernels/op-catalogue.js'
import type { UncheckedDerivation } from '../../src/state/types.js'
import type { Dtype } from '../../src/wire/dtype.js'

export const PAGES: Readonly<Record<string, InputPage>> = {
  prices: { id: 1, dtype: 'f32', shape: [4, 3] },
  qty: { id: 2, dtype: 'i32', shape: [3] },
  vector: { id: 3, dtype: 'f64', shape: [3] },
  empty: { id: 4, dtype: 'u8', shape: [0, 3] },
  scalar: { id: 5, dtype: 'f32', shape: [] },
  flags: { id: 6, dtype: 'bool', shape: [3, 3] },
  wide: { id: 7, dtype: 'u64', shape: [3, 2] },
  cube: { id: 8, dtype: 'i16', shape: [2, 4, 3] },
  tall: { id: 9, dtype: 'u8', shape: [70_000, 1] },
  flat: { id: 10, dtype: 'u8', shape: [1, 70_000] },
  ints: { id: 11, dtype: 'i64', shape: [3, 3] },
}

export const compile = (derive: Record<string, unknown>, dtype?: Dtype) =>
  compileDerivation(derive as UncheckedDerivation, pageOf, { dtype })

export const pageOf = (name: string): InputPage => {
  const page = PAGES[name]
  if (page === undefined) throw new MmsbError('PAGE_NOT_FOUND', `there is no page ${name}`)
  return page
}
export const nameOf = (id: number): string => Object.keys(PAGES).find((name) => PAGES[name]!.id === id)!
