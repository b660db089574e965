/**
 * What each op takes, as types that the server, the client and the users of both share, and the words of its
 * parameters.
 *
 * Invariant: the catalogue of ops (src/kernels) is declared with these types, so that the two cannot differ.
 *
 * Null because a slice has it for a default, as JSON does.
 */
import type { Dtype } from './dtype.js'
import type { Merge } from './page.js'

/** In the order of mmsb_reduce_fn. */
export const REDUCE_FUNCTIONS = [
  'sum',
  'prod',
  'min',
  'max',
  'mean',
  'var',
  'any',
  'all',
  'count',
  'argmin',
  'argmax',
] as const
export const SCAN_FUNCTIONS = ['sum', 'prod', 'min', 'max'] as const
export const WINDOW_FUNCTIONS = ['sum', 'min', 'max', 'mean'] as const
export const SEMIRINGS = ['plus_times', 'min_plus', 'max_plus', 'or_and'] as const
export const BOUNDARIES = ['zero', 'wrap', 'edge'] as const
export const METRICS = ['dot', 'l2', 'cosine'] as const
export const TOPK_OUTPUTS = ['indices', 'values'] as const

type Word<T extends readonly string[]> = T[number]
type Integers = readonly number[]
/** One entry for each axis. */
type Bounds = readonly (number | null)[]

/** Inputs in the native order ('named': one or more, named by the user) and parameters of every op. */
export interface OpTypes {
  readonly copy: { readonly roles: readonly ['x']; readonly parameters: Record<never, unknown> }
  readonly cast: { readonly roles: readonly ['x']; readonly parameters: { readonly dtype: Dtype } }
  readonly map: { readonly roles: 'named'; readonly parameters: { readonly expr: string } }
  readonly reduce: {
    readonly roles: readonly ['x']
    readonly parameters: {
      readonly fn: Word<typeof REDUCE_FUNCTIONS>
      readonly axes?: Integers
      readonly keepdims?: boolean
    }
  }
  readonly matmul: {
    readonly roles: readonly ['a', 'b']
    readonly parameters: { readonly semiring?: Word<typeof SEMIRINGS> }
  }
  readonly quantile: {
    readonly roles: readonly ['x']
    readonly parameters: { readonly q: number; readonly axis?: number }
  }
  readonly topk: {
    readonly roles: readonly ['x']
    readonly parameters: {
      readonly k: number
      readonly output: Word<typeof TOPK_OUTPUTS>
      readonly axis?: number
      readonly largest?: boolean
    }
  }
  readonly scan: {
    readonly roles: readonly ['x']
    readonly parameters: { readonly fn: Word<typeof SCAN_FUNCTIONS>; readonly axis?: number }
  }
  readonly conv: {
    readonly roles: readonly ['x', 'kernel']
    readonly parameters: { readonly boundary?: Word<typeof BOUNDARIES> }
  }
  readonly window: {
    readonly roles: readonly ['x']
    readonly parameters: {
      readonly fn: Word<typeof WINDOW_FUNCTIONS>
      readonly size: number
      readonly axis?: number
    }
  }
  readonly sort: {
    readonly roles: readonly ['x']
    readonly parameters: { readonly axis?: number; readonly descending?: boolean }
  }
  readonly gather: {
    readonly roles: readonly ['x', 'indices']
    readonly parameters: { readonly axis?: number }
  }
  readonly scatter: {
    readonly roles: readonly ['x', 'indices', 'values']
    readonly parameters: { readonly axis?: number; readonly merge?: Merge }
  }
  readonly bincount: { readonly roles: readonly ['x']; readonly parameters: { readonly length: number } }
  readonly histogram: {
    readonly roles: readonly ['x']
    readonly parameters: { readonly bins: number; readonly range: readonly [low: number, high: number] }
  }
  readonly transpose: { readonly roles: readonly ['x']; readonly parameters: { readonly axes?: Integers } }
  readonly reshape: { readonly roles: readonly ['x']; readonly parameters: { readonly shape: Integers } }
  readonly slice: {
    readonly roles: readonly ['x']
    readonly parameters: { readonly start?: Bounds; readonly stop?: Bounds; readonly step?: Bounds }
  }
  readonly concat: { readonly roles: 'named'; readonly parameters: { readonly axis?: number } }
  readonly distance: {
    readonly roles: readonly ['queries', 'vectors']
    readonly parameters: { readonly metric: Word<typeof METRICS> }
  }
  readonly flip: { readonly roles: readonly ['x']; readonly parameters: { readonly axes?: Integers } }
}

export type OpName = keyof OpTypes
export type OpParameters<N extends OpName> = OpTypes[N]['parameters']

/** An input: a page by name, or its value in the epoch before. */
export type DerivationInput = string | { readonly prev: string }

type RoleNames<R> = R extends readonly (infer Name extends string)[] ? Name : string

type DerivationOf<N extends OpName> = {
  readonly op: N
  readonly inputs: Readonly<Record<RoleNames<OpTypes[N]['roles']>, DerivationInput>>
} & OpParameters<N>

/** The `derive` object of a page: an op, its inputs by role and the op's parameters: docs/guide/OPS.md. */
export type Derivation<N extends OpName = OpName> = { [K in N]: DerivationOf<K> }[N]
