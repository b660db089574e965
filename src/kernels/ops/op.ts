/**
 * The description of an op, and the small readers for its parameters.
 *
 * Invariants: one call of defineOp describes an op. Its parameters have three forms: the fields of `derive`,
 * a typed record, and the native block of ops.h. Shapes and costs are computed from the record, so a
 * definition read from a log follows the same rules as a new one. Ops do not know pages, graphs or files. How
 * to add one: docs/internals/ADD-AN-OP.md.
 */
import { MmsbError } from '../../errors.js'
import { formatShape, type NamedShape, normalizeAxes } from '../../state/shape.js'
import type { UncheckedDerivation } from '../../state/types.js'
import { DTYPE_INFO, type Dtype, isDtype } from '../../wire/dtype.js'
import type { Derivation, OpName, OpParameters, OpTypes } from '../../wire/ops.js'
import { PAGE_MAX_RANK } from '../../wire/page.js'
import type { FunctionLookup } from '../expression/names.js'
import { promoteDtypes } from '../promotion.js'

/** One input as an op sees it. Messages use `name`: the role and the page. */
export interface OpInput extends NamedShape {
  readonly role: string
  readonly dtype: Dtype
}

export interface OpResult {
  /** Before the cast that a definition may ask for. */
  readonly dtype: Dtype
  readonly shape: readonly number[]
}

/**
 * Which elements of the output may change when elements of an input change.
 * - elementwise: the same ones, through broadcasting
 * - rows: those whose row along the reduced axes holds a changed element
 * - matmul: a row for a change in a, a column for one in b
 * - moved: the places that changed elements move to
 * - after: in each lane, all from the first changed element on
 * - near: those that have a changed element within reach
 * - indexed: those that the indices lead to
 * - all: every one
 */
export type DirtyRule = 'elementwise' | 'rows' | 'matmul' | 'moved' | 'after' | 'near' | 'indexed' | 'all'

/** Which parameters must be given. */
type ParameterTable<N extends OpName> = {
  readonly [K in keyof OpParameters<N>]-?: Record<never, unknown> extends Pick<OpParameters<N>, K>
    ? 'optional'
    : 'required'
}

/**
 * `N` is the op in the table of types (src/wire/ops.ts), which its roles, parameters and
 * canonical form match.
 */
interface OpSpec<N extends OpName, P> {
  readonly name: N
  /** MMSB_OP_... in ops.h. */
  readonly code: number
  /**
   * The newest version; raised when the bits of any result change. The native library keeps 1 to this one,
   * all with the same roles, parameters and block.
   */
  readonly version: number
  /** Names of the inputs in the native order; 'named': one or more, named by the user. */
  readonly roles: OpTypes[N]['roles']
  /** The order of named inputs counts. */
  readonly ordersInputs?: true
  readonly parameters: ParameterTable<N>
  readonly dirtyRule: DirtyRule
  /** A definition with every parameter, for docs/guide/OPS.md. Its pages are P, Q and R. */
  readonly example: Derivation<N> & Required<OpParameters<N>>
  /**
   * The op computes the dtype that a definition asks for. Without this the native executor casts the result.
   */
  readonly givesDtype?: true
  /**
   * Reads and checks the fields of `derive`. `dtype` is the cast asked for; `functions` finds
   * users' functions.
   */
  read(
    fields: Fields,
    inputs: readonly OpInput[],
    dtype: Dtype | undefined,
    functions: FunctionLookup | undefined,
  ): P
  /** The shape and dtype rule. @throws MmsbError SHAPE_MISMATCH */
  infer(params: P, inputs: readonly OpInput[]): OpResult
  /** The parameters in canonical form, defaults filled in. */
  show(params: P): OpParameters<N>
  /** The block of ops.h; a multiple of 8 bytes. */
  encode(params: P): Uint8Array
  /**
   * Reads a block back. `shown` has the parameters as logged beside it, for those that the block
   * does not hold.
   * @throws MmsbError INVALID_REQUEST
   */
  decode(block: DataView, shown: Fields): P
  /**
   * Estimated time per output element on one core, of a complete run that changes every element. The bus
   * refuses work by it; `make bench BENCH_ARGS="--only costs"` holds it to within 4 x of measured times.
   */
  costPerElementNs(params: P, inputs: readonly OpInput[], result: OpResult): number
}

/** A compiled definition. */
export interface OpPlan extends OpResult {
  readonly parameters: Readonly<Record<string, unknown>>
  readonly block: Uint8Array
  readonly costPerElementNs: number
}

/** An op of the catalogue. Callers do not see the type of its parameters. */
export interface Op<N extends OpName = OpName> {
  readonly name: N
  readonly code: number
  readonly version: number
  readonly roles: readonly string[] | 'named'
  readonly ordersInputs: boolean
  /** Names of the parameters, in alphabetical order; optional ones end in '?'. */
  readonly parameters: readonly string[]
  readonly dirtyRule: DirtyRule
  readonly example: UncheckedDerivation
  readonly givesDtype: boolean
  compile(
    fields: Fields,
    inputs: readonly OpInput[],
    dtype: Dtype | undefined,
    functions?: FunctionLookup,
  ): OpPlan
  /** The same from the native block of a logged definition. */
  restore(block: Uint8Array, shown: Fields, inputs: readonly OpInput[]): OpPlan
}

/** Estimated time to read, compare, write and hash an element that only moves. */
export const moveNs = (dtype: Dtype): number => 0.2 + 0.14 * DTYPE_INFO[dtype].sizeBytes

export function defineOp<N extends OpName, P>(spec: OpSpec<N, P>): Op<N> {
  const { name, code, version, roles, dirtyRule, example } = spec
  const parameters = Object.entries(spec.parameters)
    .map(([parameter, needed]) => (needed === 'optional' ? `${parameter}?` : parameter))
    .sort()
  const plan = (params: P, inputs: readonly OpInput[], block: Uint8Array): OpPlan => {
    const result = spec.infer(params, inputs)
    return {
      ...result,
      parameters: spec.show(params),
      block,
      costPerElementNs: spec.costPerElementNs(params, inputs, result),
    }
  }
  return {
    name,
    code,
    version,
    roles,
    ordersInputs: spec.ordersInputs ?? false,
    parameters,
    dirtyRule,
    example,
    givesDtype: spec.givesDtype ?? false,
    compile(fields, inputs, dtype, functions) {
      const params = spec.read(fields, inputs, dtype, functions)
      return plan(params, inputs, spec.encode(params))
    },
    restore(block, shown, inputs) {
      const view = new DataView(block.buffer, block.byteOffset, block.byteLength)
      return plan(spec.decode(view, shown), inputs, block)
    },
  }
}

// ---- parameters -------------------------------------------------------------------------------------------

/** The fields of `derive`, without op and inputs. */
export type Fields = Readonly<Record<string, unknown>>

export const invalidRequest = (detail: string): MmsbError => new MmsbError('INVALID_REQUEST', detail)
export const shapeMismatch = (detail: string): MmsbError => new MmsbError('SHAPE_MISMATCH', detail)

function shown(value: unknown): string {
  if (value === undefined) return 'is missing'
  // Numbers beyond the range of f64 become infinities, which JSON cannot show.
  const text = typeof value === 'number' ? String(value) : JSON.stringify(value)
  return `is ${(text ?? typeof value).slice(0, 80)}`
}

/** A field that must be one of some words. Without a fallback it is required. */
export function readChoice<T extends string>(
  fields: Fields,
  name: string,
  choices: readonly T[],
  fallback?: T,
): T {
  const value = fields[name] === undefined ? fallback : fields[name]
  const found = choices.find((choice) => choice === value)
  if (found === undefined) {
    throw invalidRequest(`${name} ${shown(fields[name])}; it must be one of ${choices.join(', ')}`)
  }
  return found
}

export function readBoolean(fields: Fields, name: string, fallback: boolean): boolean {
  const value = fields[name] === undefined ? fallback : fields[name]
  if (typeof value !== 'boolean')
    throw invalidRequest(`${name} ${shown(fields[name])}; it must be true or false`)
  return value
}

export function readNumber(fields: Fields, name: string, least: number, most: number): number {
  const value = fields[name]
  if (typeof value !== 'number' || !(value >= least && value <= most)) {
    throw invalidRequest(`${name} ${shown(value)}; it must be a number from ${least} to ${most}`)
  }
  return value
}

export function readInteger(fields: Fields, name: string, least: number, most: number): number {
  const value = fields[name]
  if (typeof value !== 'number' || !Number.isInteger(value) || value < least || value > most) {
    throw invalidRequest(`${name} ${shown(value)}; it must be an integer from ${least} to ${most}`)
  }
  return value
}

export function readString(fields: Fields, name: string): string {
  const value = fields[name]
  if (typeof value !== 'string') throw invalidRequest(`${name} ${shown(value)}; it must be a string`)
  return value
}

export function readDtype(fields: Fields, name: string): Dtype {
  const value = fields[name]
  if (!isDtype(value)) throw invalidRequest(`${name} ${shown(value)}; it must be a dtype such as f32`)
  return value
}

/** A list of integers, each within bounds. */
export function readIntegers(fields: Fields, name: string, least: number, most: number): number[] {
  const value = fields[name]
  if (!Array.isArray(value)) throw invalidRequest(`${name} ${shown(value)}; it must be an array of integers`)
  return value.map((entry: unknown) => readInteger({ [name]: entry }, name, least, most))
}

/**
 * The axes that a list names, ascending. Without a list, or with an empty one: all. @throws MmsbError
 * INVALID_REQUEST, SHAPE_MISMATCH
 */
export function readAxes(axes: unknown, x: OpInput): number[] {
  const named = axes === undefined ? [] : normalizeAxes(axes, x)
  return named.length === 0 ? x.shape.map((_, axis) => axis) : named
}

/** The common dtype of inputs. @throws MmsbError SHAPE_MISMATCH */
export function commonDtypeOf(inputs: readonly OpInput[]): Dtype {
  let first = inputs[0]!
  let dtype = first.dtype
  for (const input of inputs.slice(1)) {
    const common = promoteDtypes(dtype, input.dtype)
    if (common === undefined) {
      throw shapeMismatch(
        `${first.name} is ${dtype} and ${input.name} is ${input.dtype}: no dtype holds both; cast one of them`,
      )
    }
    if (common !== dtype) first = input
    dtype = common
  }
  return dtype
}

/** @throws MmsbError SHAPE_MISMATCH when a result would have more axes than a page can have */
export function checkRank(shape: readonly number[]): void {
  if (shape.length > PAGE_MAX_RANK) {
    throw shapeMismatch(
      `the result of shape ${formatShape(shape)} has ${shape.length} axes; a page has at most ${PAGE_MAX_RANK}`,
    )
  }
}

// ---- blocks -----------------------------------------------------------------------------------------------

/** A block of u32 words. */
export function wordBlock(...words: readonly number[]): Uint8Array {
  return new Uint8Array(Uint32Array.from(words).buffer)
}

/** The words of a block that must have exactly `count`. @throws MmsbError INVALID_REQUEST */
export function readWords(block: DataView, count: number): number[] {
  if (block.byteLength !== count * 4) {
    throw invalidRequest(`the parameter block has ${block.byteLength} bytes instead of ${count * 4}`)
  }
  return Array.from({ length: count }, (_, i) => block.getUint32(i * 4, true))
}

/** The name with the number `word`, as ops.h numbers them. @throws MmsbError INVALID_REQUEST */
export function nameOfWord<T>(names: readonly T[], word: number, what: string): T {
  const name = names[word]
  if (name === undefined) throw invalidRequest(`the parameter block has ${what} ${word}`)
  return name
}

/** A word that is a flag. @throws MmsbError INVALID_REQUEST */
export function flagOfWord(word: number, what: string): boolean {
  if (word > 1) throw invalidRequest(`the parameter block has ${what} ${word}`)
  return word === 1
}

/** An axis from a block. @throws MmsbError INVALID_REQUEST */
export function checkBlockAxis(axis: number, input: OpInput): void {
  if (axis >= input.shape.length) {
    throw invalidRequest(
      `the parameter block names axis ${axis} of ${input.name} ${formatShape(input.shape)}`,
    )
  }
}

/** A word with bit i set for axis i. */
export const maskOfAxes = (axes: readonly number[]): number =>
  axes.reduce((mask, axis) => mask | (1 << axis), 0)

/** The axes of such a word, ascending. @throws MmsbError INVALID_REQUEST */
export function axesOfMask(mask: number, op: string): number[] {
  if (mask >= 1 << PAGE_MAX_RANK) throw invalidRequest(`the parameter block of ${op} is malformed`)
  return Array.from({ length: PAGE_MAX_RANK }, (_, axis) => axis).filter((axis) => ((mask >> axis) & 1) === 1)
}

/** Axes from a block: at least one, unless the input has none. @throws MmsbError INVALID_REQUEST */
export function checkBlockAxes(axes: readonly number[], input: OpInput): void {
  if (axes.length === 0 && input.shape.length > 0) throw invalidRequest('the parameter block names no axis')
  for (const axis of axes) checkBlockAxis(axis, input)
}
