/**
 * The op catalogue: which ops there are, how a definition becomes a native step, and how it is logged.
 *
 * Invariants: codes and versions are those of build/libmmsb.so (a test compares), names those of docs/OPS.md (another
 * one). A definition from a log or a client (decodeDefinition, checkDefinition) passes the same rules as a new one
 * before it can reach native code. Pages are known by name or id only; reading them is the caller's.
 */
import { MmsbError } from '../errors.js'
import { DEFINITION_MAX_BYTES, IR_MAX_INPUTS, PAGE_ID_MAX } from '../limits.js'
import { align8, isZero } from '../state/bytes.js'
import type { Dtype } from '../state/dtype.js'
import { checkExtent, formatShape, sameShape } from '../state/shape.js'
import type { Derivation } from '../state/types.js'
import { checkInputName } from './expression.js'
import { convOp, distanceOp } from './ops/conv.js'
import { castOp, copyOp } from './ops/copy.js'
import { bincountOp, gatherOp, histogramOp, scatterOp } from './ops/indexed.js'
import { scanOp, sortOp, windowOp } from './ops/lanes.js'
import { mapOp } from './ops/map.js'
import { matmulOp } from './ops/matmul.js'
import { concatOp, reshapeOp, sliceOp, transposeOp } from './ops/move.js'
import { type Fields, invalidRequest, type Op, type OpInput } from './ops/op.js'
import { reduceOp } from './ops/reduce.js'
import { quantileOp, topkOp } from './ops/select.js'

/** Every op, by name. */
export const OPS: ReadonlyMap<string, Op> = new Map(
  [
    ...[copyOp, castOp, mapOp, reduceOp, matmulOp, quantileOp, topkOp, scanOp, convOp, windowOp, sortOp],
    ...[gatherOp, scatterOp, bincountOp, histogramOp, transposeOp, reshapeOp, sliceOp, concatOp, distanceOp],
  ].map((op) => [op.name, op]),
)

/** What the compiler asks about an input page. */
export interface InputPage {
  readonly id: number
  readonly dtype: Dtype
  readonly shape: readonly number[]
}

export interface CompiledInput {
  readonly role: string
  /** Name of the page. */
  readonly page: string
  readonly id: number
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
  /** `derive` in canonical form: roles in order, parameters by name, axes counted from 0, defaults filled in. */
  readonly canonical: Derivation
  /** Rough time per output element on one core. */
  readonly costPerElementNs: number
}

/**
 * Compiles the `derive` object of a definition. `inputOf` finds a page by name and throws when there is none.
 * `options.dtype` asks for a cast of the result.
 * @throws MmsbError INVALID_REQUEST, INVALID_EXPRESSION, SHAPE_MISMATCH, and what inputOf throws
 */
export function compileDerivation(
  derive: Derivation,
  inputOf: (pageName: string) => InputPage,
  options: { readonly dtype?: Dtype | undefined } = {},
): CompiledDerivation {
  const op = opOf(derive)
  const fields = parametersOf(derive, op)
  const inputs: (CompiledInput & OpInput)[] = readRoles(derive, op).map(([role, page]) => {
    const { id, dtype, shape } = inputOf(page)
    return { role, page, id, dtype, shape, name: `${role} (${page})` }
  })
  const plan = op.compile(fields, inputs, options.dtype)
  const dtype = options.dtype ?? plan.dtype
  checkExtent(plan.shape, dtype, 'the result of shape')
  return {
    op: op.name,
    opCode: op.code,
    opVersion: op.version,
    inputs: inputs.map(({ role, page, id }) => ({ role, page, id })),
    dtype,
    shape: plan.shape,
    params: plan.block,
    canonical: {
      op: op.name,
      inputs: Object.fromEntries(inputs.map(({ role, page }) => [role, page])),
      ...plan.parameters,
    },
    costPerElementNs: plan.costPerElementNs,
  }
}

function opOf(derive: Derivation): Op {
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

/** Names of an op's parameters, without the marks. */
function parameterNames(op: Op): string[] {
  return op.parameters.map((name) => name.replace('?', ''))
}

function parametersOf(derive: Derivation, op: Op): Fields {
  const { op: _, inputs: __, ...fields } = derive
  const known = parameterNames(op)
  for (const name of Object.keys(fields)) {
    if (!known.includes(name)) {
      const list = known.length === 0 ? 'none' : known.join(', ')
      throw invalidRequest(`${op.name} has no parameter '${name.slice(0, 80)}'; its parameters: ${list}`)
    }
  }
  for (const name of op.parameters) {
    if (!name.endsWith('?') && fields[name] === undefined) throw invalidRequest(`${op.name} needs ${name}`)
  }
  return fields
}

/** Role and page name of each input, in the native order. */
function readRoles(derive: Derivation, op: Op): [string, string][] {
  const { inputs } = derive
  if (typeof inputs !== 'object' || inputs === null || Array.isArray(inputs)) {
    throw invalidRequest('inputs must be an object of page names by role')
  }
  checkRoles(op, Object.keys(inputs))
  const order = op.roles === 'named' ? Object.keys(inputs) : op.roles
  return order.map((role) => {
    const page: unknown = inputs[role]
    if (typeof page !== 'string' || page === '')
      throw invalidRequest(`input ${role} must be the name of a page`)
    return [role, page]
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

// ---- the logged form (docs/FORMAT.md, "Derived definition") -----------------------------------------------------------

/** A definition as a log holds it: pages by id. */
export interface LoggedDefinition {
  readonly op: string
  readonly opCode: number
  readonly opVersion: number
  /** In the order of the native step. */
  readonly inputs: readonly { readonly role: string; readonly id: number }[]
  /** The parameters as `derive` shows them. */
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
    inputs: Object.fromEntries(compiled.inputs.map(({ role, id }) => [role, id])),
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
 * Reads a definition from a log, a checkpoint or a client. Whether it fits its pages: checkDefinition.
 * @throws MmsbError INVALID_REQUEST
 */
export function decodeDefinition(bytes: Uint8Array): LoggedDefinition {
  const end = bytes.indexOf(0)
  const start = align8(end + 1)
  if (end < 0 || start > bytes.length || !isZero(bytes, end, start))
    throw malformed('no text before its block')
  const { op: name, version, inputs, ...parameters } = parseObject(bytes.subarray(0, end))
  const op = typeof name === 'string' ? OPS.get(name) : undefined
  if (op === undefined) throw malformed(`there is no op ${JSON.stringify(name)?.slice(0, 80)}`)
  if (version !== op.version) {
    throw malformed(`${op.name} of version ${JSON.stringify(version)}; this build has version ${op.version}`)
  }
  return {
    op: op.name,
    opCode: op.code,
    opVersion: op.version,
    inputs: readLoggedInputs(op, inputs),
    parameters,
    params: bytes.subarray(start),
  }
}

function parseObject(utf8: Uint8Array): Record<string, unknown> {
  let value: unknown
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(utf8))
  } catch (cause) {
    throw malformed('its text is not JSON', cause)
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw malformed('its text is no object')
  return value as Record<string, unknown>
}

function readLoggedInputs(op: Op, inputs: unknown): { role: string; id: number }[] {
  if (typeof inputs !== 'object' || inputs === null || Array.isArray(inputs)) throw malformed('no inputs')
  const roles = Object.keys(inputs)
  checkRoles(op, roles)
  const order = op.roles === 'named' ? roles : op.roles
  return order.map((role) => {
    const id: unknown = (inputs as Record<string, unknown>)[role]
    if (typeof id !== 'number' || !Number.isInteger(id) || id < 0 || id > PAGE_ID_MAX) {
      throw malformed(`input ${role} is no page id`)
    }
    return { role, id }
  })
}

/**
 * Checks a logged definition against its input pages and the page it belongs to: block, shape rule, and that the text
 * says what the block does. Returns the cost per output element.
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

/** The `derive` object that users see, with names for the ids. */
export function derivationOf(definition: LoggedDefinition, nameOf: (id: number) => string): Derivation {
  return {
    op: definition.op,
    inputs: Object.fromEntries(definition.inputs.map(({ role, id }) => [role, nameOf(id)])),
    ...definition.parameters,
  }
}
