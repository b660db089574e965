/**
 * All that tests know of one op: a plain implementation, how to draw definitions of it, and cases. A record
 * stands in the file of its family beside this one; every test of ops takes its cases from the records, so a
 * new op is tested as soon as it has one.
 */

import type { UncheckedDerivation } from '../../../src/state/types.js'
import type { Dtype, TypedArray } from '../../../src/wire/dtype.js'
import type { Draw, PageSketch } from '../../lib/draw.js'
import type { ReferenceOp } from '../tensor.js'

/** A page with its contents. */
export interface TestPage {
  readonly dtype: Dtype
  readonly shape: readonly number[]
  readonly values: TypedArray
}

/** A definition and the pages it names. */
export interface Definition {
  readonly derive: UncheckedDerivation
  readonly pages: Readonly<Record<string, TestPage>>
}

export interface NumpyCase extends Definition {
  /** What NumPy evaluates in place of an expression. */
  readonly numpy?: string
}

/**
 * A definition over the pages of test/kernels/pages.ts: the dtype, shape and parameter block (words)
 * it must give.
 */
export type ResultCase = readonly [
  derive: Record<string, unknown>,
  dtype: Dtype,
  shape: readonly number[],
  block: readonly number[] | undefined,
]

/** A definition over the pages of test/kernels/pages.ts that must be refused, with code and text. */
export type RefusalCase = readonly [derive: Record<string, unknown>, message: RegExp]

/**
 * A definition over the pages of test/kernels/partial.test.ts: after one element of `changed` changed,
 * `count` are computed.
 */
export type PartialCase = readonly [
  name: string,
  derive: UncheckedDerivation,
  changed: 'grid' | 'line' | 'places',
  count: number,
]

export interface OpRecord {
  /** The op over whole pages, as plainly as can be. Takes only definitions that compile. */
  readonly compute: ReferenceOp
  /** What earlier versions compute, from version 1 on. Absent where version 1 is the newest. */
  readonly old?: readonly ReferenceOp[]
  /** Elements that `compute` looks at for each element of the result. Absent: one. */
  readonly work?: (inputs: Readonly<Record<string, { readonly shape: readonly number[] }>>) => number
  /** How often random graphs use the op, compared with the others. Absent: 1. */
  readonly weight?: number
  /** A definition over pages of a random graph; undefined where the draw fits none of them. */
  overPages(draw: Draw, pages: readonly PageSketch[]): UncheckedDerivation | undefined
  /**
   * A definition with pages made for it, odd values included. Absent for `map` alone, whose expressions have
   * tests of their own.
   */
  withPages?(draw: Draw): Definition
  /** How many of these are run. Absent: 100. */
  readonly runs?: number
  /** Definitions over one dtype and pages whose values NumPy treats as OPS.md says. */
  numpy(draw: Draw, dtype: Dtype): NumpyCase[]
  readonly results: readonly ResultCase[]
  readonly refusals: readonly RefusalCase[]
  readonly partial?: readonly PartialCase[]
  /**
   * Definitions over the long pages of test/kernels/partial.test.ts, for both sides of what the op
   * switches at.
   */
  readonly long: readonly UncheckedDerivation[]
  /**
   * Derived pages of the conformance suite, over x [length], grid [length, 3], weights [3, 5], taps [4] (all
   * of `dtype`), places i32 [length], and what ops before this one in the catalogue have derived there.
   */
  conformance(dtype: Dtype, length: number): readonly (readonly [string, UncheckedDerivation])[]
}

/** The records of a family, by op. */
export type OpRecords = Readonly<Record<string, OpRecord>>
