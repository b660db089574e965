/**
 * The inputs of a definition: pages, and what pages held in the epoch before (their past).
 *
 * Invariants: an input that an expression names plainly and in prev(...) is two inputs of the native step, `x` and
 * `prev(x)`; one that it names in prev(...) only is not read as it is now, so it closes no cycle. What a page that reads its
 * own past is like follows from its other inputs or is given. Knows nothing of epochs or of how pasts are kept.
 */
import { MmsbError } from '../errors.js'
import { broadcastShapes } from '../state/shape.js'
import type { Derivation, DerivationInput } from '../state/types.js'
import type { Dtype } from '../wire/dtype.js'
import { type FunctionLookup, inputOfPast, pastName } from './expression/names.js'
import { pastOfPast, usesOfInputs } from './expression/user-functions.js'
import { type Fields, invalidRequest, type Op, type OpInput, type OpPlan } from './ops/op.js'

/** What the compiler asks about an input page. */
export interface InputPage {
  readonly id: number
  readonly dtype: Dtype
  readonly shape: readonly number[]
}

/** A page's past, as an input. */
export interface PastPage extends InputPage {
  /** The page; `id` is the hidden page that keeps its past. */
  readonly page: number
}

export interface CompileOptions {
  /** Asks for a cast of the result. */
  readonly dtype?: Dtype | undefined
  /** What the result's shape must be. */
  readonly shape?: readonly number[] | undefined
  /** Finds functions that users defined. */
  readonly functions?: FunctionLookup
  /** Finds the past of a page by name and throws when there is none. Absent: pasts cannot be inputs. */
  readonly pastOf?: (pageName: string) => PastPage
  /** The name and ids of the page that is being defined, which may read its own past. */
  readonly self?: { readonly name: string; readonly page: number; readonly past: number }
}

/** An input as a definition names it. */
export interface RoleInput {
  readonly role: string
  /** Name of the page. */
  readonly page: string
  /** The page's past is meant. */
  readonly isPast: boolean
}

/** The input with the page found: `id` is what the native step reads. */
export interface FoundInput extends OpInput {
  readonly page: string
  readonly id: number
  /** The page, where the input is its past. */
  readonly prev: number | undefined
}

/** The inputs of an expression's native step: those it names plainly, then `prev(...)` of those it names so. */
export function splitUses(roles: readonly RoleInput[], fields: Fields): RoleInput[] {
  if (typeof fields.expr !== 'string') return [...roles]
  const names = roles.map(({ role }) => role)
  const { plain, prev } = usesOfInputs(fields.expr, names)
  for (const { role, isPast } of roles) {
    if (isPast && prev.has(role)) throw pastOfPast(fields.expr, role)
  }
  const now = roles.filter(({ role }) => plain.has(role) || !prev.has(role))
  const before = roles.filter(({ role }) => prev.has(role))
  return [...now, ...before.map(({ role, page }) => ({ role: pastName(role), page, isPast: true }))]
}

/** The inputs as users see them, the reverse of splitUses. */
export function shownInputs(
  inputs: readonly { role: string; page: string; prev?: number | undefined }[],
): Derivation['inputs'] {
  const shown: Record<string, DerivationInput> = {}
  for (const { role, page, prev } of inputs) {
    const named = inputOfPast(role)
    if (named !== undefined) shown[named] = page
    else shown[role] = prev === undefined ? page : { prev: page }
  }
  return shown
}

/** Finds the input pages and compiles the op over them. */
export function compileInputs(
  op: Op,
  fields: Fields,
  roles: readonly RoleInput[],
  inputOf: (pageName: string) => InputPage,
  options: CompileOptions,
): { inputs: FoundInput[]; plan: OpPlan } {
  const { self, dtype, shape, functions } = options
  const isOwnPast = ({ page, isPast }: RoleInput): boolean => isPast && page === self?.name
  const others = roles
    .filter((role) => !isOwnPast(role))
    .map((role) => ({ role, found: findInput(role, inputOf, options) }))
  const compile = (own: OwnPast | undefined): { inputs: FoundInput[]; plan: OpPlan } => {
    const inputs = roles.map(
      (role) => others.find((other) => other.role === role)?.found ?? ownInput(role, own!),
    )
    return { inputs, plan: op.compile(fields, inputs, dtype, functions) }
  }
  if (self === undefined || others.length === roles.length) return compile(undefined)
  const rest = others.map(({ found }) => found)
  const ownShape = shape ?? (op.name === 'map' && rest.length > 0 ? broadcastShapes(rest) : undefined)
  if (ownShape === undefined || (dtype === undefined && (op.name !== 'map' || rest.length === 0))) {
    const missing = [dtype === undefined ? 'dtype' : '', ownShape === undefined ? 'shape' : '']
    throw invalidRequest(
      `"${self.name}" reads its own past and nothing else says what it is: give ${missing.filter((word) => word !== '').join(' and ')} beside derive`,
    )
  }
  const own = { id: self.past, page: self.page, name: self.name, shape: ownShape }
  if (dtype !== undefined) return compile({ ...own, dtype })
  return settleDtype(rest[0]!.dtype, (guess) => compile({ ...own, dtype: guess }))
}

interface OwnPast {
  readonly id: number
  readonly page: number
  readonly name: string
  readonly shape: readonly number[]
  readonly dtype: Dtype
}

function ownInput({ role, page }: RoleInput, own: OwnPast): FoundInput {
  const { id, dtype, shape } = own
  return { role, page, id, dtype, shape, prev: own.page, name: `${role} (${page})` }
}

function findInput(
  { role, page, isPast }: RoleInput,
  inputOf: (pageName: string) => InputPage,
  { self, pastOf }: CompileOptions,
): FoundInput {
  const name = `${role} (${page})`
  if (!isPast) {
    if (page === self?.name) {
      throw new MmsbError('GRAPH_CYCLE', `The page would derive from itself: ${page} -> ${page}.`)
    }
    const { id, dtype, shape } = inputOf(page)
    return { role, page, id, dtype, shape, name, prev: undefined }
  }
  if (pastOf === undefined) throw invalidRequest(`input ${role}: pasts cannot be inputs here`)
  const past = pastOf(page)
  return { role, page, id: past.id, dtype: past.dtype, shape: past.shape, name, prev: past.page }
}

/** Rounds after which a dtype that follows from itself must have settled. */
const DTYPE_ROUNDS = 4

/** The first dtype that an expression gives when its own past has it, beginning with that of the first other input. */
function settleDtype<T extends { plan: OpPlan }>(first: Dtype, compile: (guess: Dtype) => T): T {
  let guess = first
  for (let round = 0; round < DTYPE_ROUNDS; round++) {
    const compiled = compile(guess)
    if (compiled.plan.dtype === guess) return compiled
    guess = compiled.plan.dtype
  }
  throw invalidRequest(
    'the dtype of a page that reads its own past does not settle: give dtype beside derive',
  )
}
