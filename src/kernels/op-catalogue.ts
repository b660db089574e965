/**
 * The op catalogue: the list of all ops, how a definition is compiled to a native step, and how it is logged.
 *
 * Invariants: codes and versions equal those of build/libmmsb.so, and the table in docs/guide/OPS.md lists
 * the same ops (tests compare both). A new definition takes the newest version of its op; a logged one keeps
 * its own. A definition from a log or a client (decodeDefinition, checkDefinition) is held to the same rules
 * as a new one before it reaches native code. The catalogue knows pages by name and id only; the caller reads
 * them.
 */
import { isDeepStrictEqual } from 'node:util'
import { MmsbError } from '../errors.js'
import { DEFINITION_MAX_BYTES, IR_MAX_INPUTS, PAGE_ID_MAX } from '../limits.js'
import { isZero } from '../state/bytes.js'
import { checkExtent, formatShape, sameShape } from '../state/shape.js'
import type { Derivation, UncheckedDerivation } from '../state/types.js'
import { align8 } from '../wire/align.js'
import { type Dtype, isDtype } from '../wire/dtype.js'
import type { OpName } from '../wire/ops.js'
import { checkInputName, inputOfPast } from './expression/names.js'
import { calledFunctions } from './expression/user-functions.js'
import {
  type CompileOptions,
  compileInputs,
  type InputPage,
  type RoleInput,
  shownInputs,
  splitUses,
} from './inputs.js'
import { CONV_OPS } from './ops/conv.js'
import { COPY_OPS } from './ops/copy.js'
import { INDEXED_OPS } from './ops/indexed.js'
import { LANE_OPS } from './ops/lanes.js'
import { MAP_OPS } from './ops/map.js'
import { MATMUL_OPS } from './ops/matmul.js'
import { MOVE_OPS } from './ops/move.js'
import { type Fields, invalidRequest, type Op, type OpInput } from './ops/op.js'
import { REDUCE_OPS } from './ops/reduce.js'
import { SELECT_OPS } from './ops/select.js'

const BY_NAME: { readonly [N in OpName]: Op<N> } = {
  ...COPY_OPS,
  ...MAP_OPS,
  ...REDUCE_OPS,
  ...MATMUL_OPS,
  ...SELECT_OPS,
  ...LANE_OPS,
  ...CONV_OPS,
  ...INDEXED_OPS,
  ...MOVE_OPS,
}

/** Every op, by name, in the order of the codes. */
export const OPS: ReadonlyMap<string, Op> = new Map(
  Object.values<Op>(BY_NAME)
    .sort((a, b) => a.code - b.code)
    .map((op) => [op.name, op]),
)

export interface CompiledInput {
  readonly role: string
  /** Name of the page. */
  readonly page: string
  /** The page that the native step reads: the named page, or the hidden page that keeps its past. */
  readonly id: number
  /** The named page, if the input is its past. */
  readonly prev?: number
}

export interface CompiledDerivation {
  readonly op: string
  readonly opCode: number
  readonly opVersion: number
  /** In the order of the native step. */
  readonly inputs: readonly CompiledInput[]
  /** Of the derived page. */
  readonly dtype: Dtype
  readonly shape: readonly number[]
  /** The parameter block of ops.h. */
  readonly params: Uint8Array
  /**
   * `derive` in canonical form: roles in order, parameters by name, axes counted from 0, defaults filled in.
   */
  readonly canonical: Derivation
  /** Rough time per output element on one core. */
  readonly costPerElementNs: number
  /**
   * The dtype asked for. Kept only for expressions that call users' functions: they are compiled again when
   * one changes.
   */
  readonly asks?: Dtype
}

/**
 * Compiles the `derive` object of a definition. `inputOf` finds a page by name and throws when there is none.
 * @throws MmsbError INVALID_REQUEST, INVALID_EXPRESSION, SHAPE_MISMATCH, GRAPH_CYCLE, and what inputOf and
 *   pastOf throw
 */
export function compileDerivation(
  derive: UncheckedDerivation,
  inputOf: (pageName: string) => InputPage,
  options: CompileOptions = {},
): CompiledDerivation {
  const op = opOf(derive)
  const fields = parametersOf(derive, op)
  const roles = op.roles === 'named' ? splitUses(readRoles(derive, op), fields) : readRoles(derive, op)
  const { inputs, plan } = compileInputs(op, fields, roles, inputOf, options)
  const dtype = options.dtype ?? plan.dtype
  checkExtent(plan.shape, dtype, 'the result of shape')
  if (options.shape !== undefined && !sameShape(plan.shape, options.shape)) {
    throw new MmsbError(
      'SHAPE_MISMATCH',
      `the result has shape ${formatShape(plan.shape)}, the definition asks for ${formatShape(options.shape)}`,
    )
  }
  const callsFunctions = typeof fields.expr === 'string' && calledFunctions(fields.expr).length > 0
  return {
    op: op.name,
    opCode: op.code,
    opVersion: op.version,
    inputs: inputs.map(({ role, page, id, prev }) =>
      prev === undefined ? { role, page, id } : { role, page, id, prev },
    ),
    dtype,
    shape: plan.shape,
    params: plan.block,
    canonical: { op: op.name, inputs: shownInputs(inputs), ...plan.parameters } as Derivation,
    costPerElementNs: plan.costPerElementNs,
    ...(callsFunctions && options.dtype !== undefined ? { asks: options.dtype } : {}),
  }
}

/**
 * Whether two derivations in canonical form are the same. The order of inputs counts only for ops
 * such as concat.
 */
export function sameDerivation(a: Derivation, b: Derivation): boolean {
  if (!isDeepStrictEqual(a, b)) return false
  const ordersInputs = OPS.get(a.op)?.ordersInputs === true
  return !ordersInputs || Object.keys(a.inputs).join() === Object.keys(b.inputs).join()
}

function opOf(derive: UncheckedDerivation): Op {
  if (typeof derive !== 'object' || derive === null || Array.isArray(derive)) {
    throw invalidRequest('derive must be an object')
  }
  const op = typeof derive.op === 'string' ? OPS.get(derive.op) : undefined
  if (op === undefined) {
    const named =
      typeof derive.op === 'string' ? `there is no op '${derive.op.slice(0, 80)}'` : 'op must be a name'
    throw invalidRequest(`${named}; the ops are ${[...OPS.keys()].join(', ')}`)
  }
  return op
}

/** Names of an op's parameters, without the '?' of optional ones. */
function parameterNames(op: Op): string[] {
  return op.parameters.map((name) => name.replace('?', ''))
}

function parametersOf(derive: UncheckedDerivation, op: Op): Fields {
  const { op: _, inputs: __, ...given } = derive
  const known = parameterNames(op)
  for (const name of Object.keys(given)) {
    if (!known.includes(name)) {
      const list = known.length === 0 ? 'none' : known.join(', ')
      throw invalidRequest(`${op.name} has no parameter '${name.slice(0, 80)}'; its parameters: ${list}`)
    }
  }
  // A parameter that is null counts as left out.
  const fields = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== null))
  for (const name of op.parameters) {
    if (!name.endsWith('?') && fields[name] === undefined) throw invalidRequest(`${op.name} needs ${name}`)
  }
  return fields
}

/** The inputs in the order of the native step: role, name of the page, and whether its past is meant. */
function readRoles(derive: UncheckedDerivation, op: Op): RoleInput[] {
  const { inputs } = derive
  if (typeof inputs !== 'object' || inputs === null || Array.isArray(inputs)) {
    throw invalidRequest('inputs must be an object of page names by role')
  }
  checkRoles(op, Object.keys(inputs))
  const order = op.roles === 'named' ? Object.keys(inputs) : op.roles
  return order.map((role) => {
    const input: unknown = inputs[role]
    const isPast = typeof input === 'object' && input !== null && Object.keys(input).join() === 'prev'
    const page: unknown = isPast ? (input as { prev: unknown }).prev : input
    if (typeof page !== 'string' || page === '')
      throw invalidRequest(`input ${role} must be the name of a page, or {"prev": the name of a page}`)
    return { role, page, isPast }
  })
}

function checkRoles(op: Op, given: readonly string[]): void {
  if (op.roles === 'named') {
    if (given.length < 1 || given.length > IR_MAX_INPUTS) {
      throw invalidRequest(`${op.name} takes 1 to ${IR_MAX_INPUTS} inputs, not ${given.length}`)
    }
    for (const role of given) checkInputName(role)
    return
  }
  const list = op.roles.join(' and ')
  for (const role of given) {
    if (!op.roles.includes(role)) {
      throw invalidRequest(`${op.name} has no input '${role.slice(0, 80)}'; it takes ${list}`)
    }
  }
  for (const role of op.roles) {
    if (!given.includes(role)) throw invalidRequest(`${op.name} needs input ${role}; it takes ${list}`)
  }
}

// ---- the logged form (docs/internals/FORMAT.md, "Derived definition") -------------------------------------

/** A definition as a log holds it: pages by id. */
export interface LoggedDefinition {
  readonly op: string
  readonly opCode: number
  readonly opVersion: number
  /** In the order of the native step. */
  readonly inputs: readonly { readonly role: string; readonly id: number; readonly prev?: number }[]
  /** The dtype asked for, if the log keeps it (see CompiledDerivation). */
  readonly asks: Dtype | undefined
  /** The parameters in canonical form. */
  readonly parameters: Readonly<Record<string, unknown>>
  /** The parameter block; a view. */
  readonly params: Uint8Array
}

/** The bytes that a create-page command carries. @throws MmsbError PAYLOAD_TOO_LARGE */
export function encodeDefinition(compiled: CompiledDerivation): Uint8Array {
  const { op: _, inputs: __, ...parameters } = compiled.canonical
  const text = JSON.stringify({
    op: compiled.op,
    version: compiled.opVersion,
    inputs: Object.fromEntries(
      compiled.inputs.map(({ role, id, prev }) => [role, prev === undefined ? id : { prev, past: id }]),
    ),
    ...(compiled.asks === undefined ? {} : { asks: compiled.asks }),
    ...parameters,
  })
  const json = Buffer.from(text, 'utf8')
  const start = align8(json.length + 1)
  const bytes = new Uint8Array(start + compiled.params.length)
  if (bytes.length > DEFINITION_MAX_BYTES) {
    throw new MmsbError(
      'PAYLOAD_TOO_LARGE',
      `the definition needs ${bytes.length} bytes; at most ${DEFINITION_MAX_BYTES}`,
    )
  }
  bytes.set(json)
  bytes.set(compiled.params, start)
  return bytes
}

const malformed = (detail: string, cause?: unknown): MmsbError =>
  new MmsbError('INVALID_REQUEST', `definition: ${detail}`, undefined, { cause })

/**
 * Reads a definition from a log, a checkpoint or a client. checkDefinition then compares it with its pages.
 * @throws MmsbError INVALID_REQUEST
 */
export function decodeDefinition(bytes: Uint8Array): LoggedDefinition {
  const end = bytes.indexOf(0)
  const start = align8(end + 1)
  if (end < 0 || start > bytes.length || !isZero(bytes, end, start))
    throw malformed('no text before its block')
  const { op: name, version, inputs, asks, ...parameters } = parseObject(bytes.subarray(0, end))
  const op = typeof name === 'string' ? OPS.get(name) : undefined
  if (op === undefined) throw malformed(`there is no op ${JSON.stringify(name)?.slice(0, 80)}`)
  if (!isVersionOf(op, version)) {
    throw malformed(
      `${op.name} of version ${JSON.stringify(version)}; this build has versions up to ${op.version}`,
    )
  }
  if (asks !== undefined && !isDtype(asks)) throw malformed('the dtype it asks for is unknown')
  return {
    op: op.name,
    opCode: op.code,
    opVersion: version,
    inputs: readLoggedInputs(op, inputs),
    asks,
    parameters,
    params: bytes.subarray(start),
  }
}

/** Every released version is kept, so a page keeps the version it was defined with. */
function isVersionOf(op: Op, version: unknown): version is number {
  return typeof version === 'number' && Number.isInteger(version) && version >= 1 && version <= op.version
}

function parseObject(utf8: Uint8Array): Record<string, unknown> {
  let value: unknown
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(utf8))
  } catch (cause) {
    throw malformed('its text is not JSON', cause)
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw malformed('its text is not a JSON object')
  return value as Record<string, unknown>
}

function readLoggedInputs(op: Op, inputs: unknown): { role: string; id: number; prev?: number }[] {
  if (typeof inputs !== 'object' || inputs === null || Array.isArray(inputs)) throw malformed('no inputs')
  const roles = Object.keys(inputs)
  if (op.roles !== 'named') checkRoles(op, roles)
  else checkRoles(op, [...new Set(roles.map((role) => inputOfPast(role) ?? role))])
  const order = op.roles === 'named' ? roles : op.roles
  return order.map((role) => {
    const input: unknown = (inputs as Record<string, unknown>)[role]
    if (typeof input !== 'object' || input === null) {
      if (inputOfPast(role) !== undefined) throw malformed(`input ${role} does not read the past`)
      return { role, id: pageIdOf(input, role) }
    }
    const { prev, past } = input as Record<string, unknown>
    return { role, id: pageIdOf(past, role), prev: pageIdOf(prev, role) }
  })
}

function pageIdOf(id: unknown, role: string): number {
  if (typeof id === 'number' && Number.isInteger(id) && id >= 0 && id <= PAGE_ID_MAX) return id
  throw malformed(`input ${role} is no page id`)
}

/**
 * Checks a logged definition against its input pages and the page it defines: the block must be valid, give
 * the page's shape and dtype, and agree with the logged text. Returns the cost per output element.
 * @throws MmsbError INVALID_REQUEST, SHAPE_MISMATCH
 */
export function checkDefinition(
  definition: LoggedDefinition,
  inputs: readonly { readonly dtype: Dtype; readonly shape: readonly number[] }[],
  out: { readonly dtype: Dtype; readonly shape: readonly number[] },
): { costPerElementNs: number } {
  const op = OPS.get(definition.op)!
  const named = inputs.map(({ dtype, shape }, i): OpInput => {
    const { role } = definition.inputs[i]!
    return { role, dtype, shape, name: role }
  })
  const plan = op.restore(definition.params, definition.parameters, named)
  if (op.givesDtype && plan.dtype !== out.dtype) {
    throw malformed(`${op.name} gives ${plan.dtype}, the page is ${out.dtype}`)
  }
  if (!sameShape(plan.shape, out.shape)) {
    throw malformed(
      `${op.name} gives shape ${formatShape(plan.shape)}, the page has ${formatShape(out.shape)}`,
    )
  }
  if (JSON.stringify(plan.parameters) !== JSON.stringify(definition.parameters)) {
    throw malformed(`its text says ${JSON.stringify(definition.parameters)}, its block otherwise`)
  }
  return { costPerElementNs: plan.costPerElementNs }
}

/**
 * The estimate per output element of a logged definition, from its input pages.
 * @throws MmsbError INVALID_REQUEST, SHAPE_MISMATCH
 */
export function costPerElementOf(
  definition: LoggedDefinition,
  inputs: readonly { readonly dtype: Dtype; readonly shape: readonly number[] }[],
): number {
  const named = inputs.map(({ dtype, shape }, i): OpInput => {
    const { role } = definition.inputs[i]!
    return { role, dtype, shape, name: role }
  })
  return OPS.get(definition.op)!.restore(definition.params, definition.parameters, named).costPerElementNs
}

/** The `derive` object that users see, with page names in place of ids. */
export function derivationOf(definition: LoggedDefinition, nameOf: (id: number) => string): Derivation {
  return {
    op: definition.op,
    inputs: shownInputs(
      definition.inputs.map(({ role, id, prev }) => ({ role, page: nameOf(prev ?? id), prev })),
    ),
    ...definition.parameters,
  } as Derivation
}
