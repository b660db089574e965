/**
 * The inputs of a definition: pages, and pages as they were in the epoch before (their past).
 *
 * Invariants: an input that an expression uses both plainly and in prev(...) becomes two inputs of the native
 * step, `x` and `prev(x)`. An input used only in prev(...) is read only as it was, so it closes no cycle. A
 * page that reads its own past takes its shape and dtype from its other inputs or from its definition. This
 * file does not know epochs or how pasts are stored.
 */
import { MmsbError } from '../errors.js'
import { broadcastShapes } from '../state/shape.js'
import type { Derivation, DerivationInput } from '../state/types.js'
import type { Dtype } from '../wire/dtype.js'
import { type FunctionLookup, inputOfPast, pastName } from './expression/names.js'
import { pastOfPast, usesOfInputs } from './expression/user-functions.js'
import { type Fields, invalidRequest, type Op, type OpInput, type OpPlan } from './ops/op.js'

/** What the compiler needs to know of an input page. */
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
  /** The result is cast to this dtype. */
  readonly dtype?: Dtype | undefined
  /** The shape that the result must have. */
  readonly shape?: readonly number[] | undefined
  /** Finds users' functions. */
  readonly functions?: FunctionLookup
  /** Finds the past of a page by name; throws if there is none. Without it pasts cannot be inputs. */
  readonly pastOf?: (pageName: string) => PastPage
  /** Name and ids of the page being defined, which may read its own past. */
  readonly self?: { readonly name: string; readonly page: number; readonly past: number }
}

/** An input as a definition names it. */
export interface RoleInput {
  readonly role: string
  /** Name of the page. */
  readonly page: string
  /** The input is the page's past. */
  readonly isPast: boolean
}

/** An input whose page was found; the native step reads page `id`. */
export interface FoundInput extends OpInput {
  readonly page: string
  readonly id: number
  /** The page, if the input is its past. */
  readonly prev: number | undefined
}

/**
 * The inputs of an expression's native step: first those it uses plainly, then the pasts that it uses
 * in prev(...).
 */
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

/** The inputs as users wrote them: the reverse of splitUses. */
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
      `"${self.name}" reads its own past, and no other input gives its dtype and shape: give ${missing.filter((word) => word !== '').join(' and ')} beside derive`,
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

/** A page that reads its own past must find its dtype within this many rounds. */
const DTYPE_ROUNDS = 4

/**
 * Compiles with guessed dtypes of the page's own past, from `first` on, until the result has the
 * guessed dtype.
 */
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
