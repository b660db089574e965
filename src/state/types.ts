/**
 * The inputs of transactions and page definitions, as callers give them. Used by every room above. Knows
 * dtypes and nothing else.
 */
import type { Dtype, TypedArray } from '../wire/dtype.js'
import type { Derivation, DerivationInput } from '../wire/ops.js'
import type { Location, Merge } from '../wire/page.js'

export type { Derivation, DerivationInput } from '../wire/ops.js'

/**
 * Values of a delta: a typed array of the page's dtype, or numbers, bigints, decimal strings, "NaN",
 * "Infinity", booleans.
 */
export type DeltaValues = TypedArray | readonly (number | bigint | string | boolean)[]

/**
 * A change to one source page. Dense: `offset` (default 0) and `values`. Sparse: `indices` and `values`.
 * Masked: `mask` (one bit per element of the page, LSB first; base64 or bytes) and one value per set bit.
 */
export interface DeltaInput {
  readonly offset?: number
  readonly indices?: ArrayLike<number>
  readonly mask?: string | Uint8Array
  readonly values: DeltaValues
  readonly merge?: Merge
}

/** A version that a page must have for a transaction to be executed. */
export interface Expectation {
  readonly page: string
  readonly version: number
}

/** Definition of a page that clients write. */
export interface SourceDefinition {
  readonly dtype: Dtype
  readonly shape: readonly number[]
  readonly location?: Location
  readonly fill?: number | bigint | string | boolean
}

/** The `derive` object as it comes from outside: nothing of it is checked. */
export interface UncheckedDerivation {
  readonly op: string
  readonly inputs: Readonly<Record<string, DerivationInput>>
  readonly [parameter: string]: unknown
}

/** Definition of a page that is computed by an op. */
export interface DerivedDefinition {
  readonly derive: Derivation
  /** Asks for a cast of the result. */
  readonly dtype?: Dtype
  /**
   * The shape that the result must have. Required where it depends on the page's own previous value alone.
   */
  readonly shape?: readonly number[]
  readonly location?: Location
}

/** Definition of a source page or a derived page. */
export type PageDefinition = SourceDefinition | DerivedDefinition
