/**
 * Functions that users define, and what a change of one means: which functions and pages use it, and what those become.
 *
 * Invariants: a table never changes, a change makes another; its world age counts the changes since the bus began, so that
 * whoever compiled against a table can tell whether it is still the one. What pages run is their own compiled program: a
 * change takes effect by giving every page that uses the function a new one, in the same epoch.
 */
import { MmsbError } from '../../errors.js'
import type { FunctionBody, FunctionLookup } from '../../kernels/expression/names.js'
import { calledFunctions, checkFunction } from '../../kernels/expression/user-functions.js'
import { compileDerivation, encodeDefinition } from '../../kernels/op-catalogue.js'
import { FUNCTIONS_MAX } from '../../limits.js'
import { sameShape } from '../../state/shape.js'
import type { DerivedRecord, PageRecord, Registry } from '../pages/registry.js'

export interface FunctionRecord extends FunctionBody {
  readonly name: string
  /** Of the table that this definition made. */
  readonly worldAge: number
  /** The epoch in which it was defined so. */
  readonly epoch: number
}

/** A function defined or, without a body, deleted. */
export interface FunctionChange {
  readonly name: string
  readonly body: FunctionBody | undefined
  /** Of the table that the change makes. */
  readonly worldAge: number
}

/** A page that goes on with another definition. */
export interface Redefinition {
  readonly id: number
  readonly derived: DerivedRecord
}

/** What was compiled was compiled against functions that have changed since: it must be compiled again. */
export class StaleFunctions extends Error {}

export class FunctionTable {
  readonly worldAge: number
  readonly #functions: ReadonlyMap<string, FunctionRecord>

  constructor(worldAge = 0, functions: ReadonlyMap<string, FunctionRecord> = new Map()) {
    this.worldAge = worldAge
    this.#functions = functions
  }

  get(name: string): FunctionRecord | undefined {
    return this.#functions.get(name)
  }

  /** The function of this name, or NOT_FOUND. */
  require(name: string): FunctionRecord {
    const record = this.#functions.get(name)
    if (record === undefined)
      throw new MmsbError('NOT_FOUND', `There is no function "${name.slice(0, 200)}".`)
    return record
  }

  /** Sorted by name. */
  all(): FunctionRecord[] {
    return [...this.#functions.values()].sort((a, b) => (a.name < b.name ? -1 : 1))
  }

  readonly lookup: FunctionLookup = (name) => this.#functions.get(name)

  /** The table after a change. */
  after({ name, body, worldAge }: FunctionChange, epoch: number): FunctionTable {
    const functions = new Map(this.#functions)
    if (body === undefined) functions.delete(name)
    else functions.set(name, { name, params: body.params, expr: body.expr, worldAge, epoch })
    return new FunctionTable(worldAge, functions)
  }

  /** The functions that call `name`, directly or through others. */
  callersOf(name: string): Set<string> {
    const callers = new Set<string>()
    const queue = [name]
    for (let called = queue.pop(); called !== undefined; called = queue.pop()) {
      for (const { name: caller, expr } of this.#functions.values()) {
        if (callers.has(caller) || !calledFunctions(expr).includes(called)) continue
        callers.add(caller)
        queue.push(caller)
      }
    }
    return callers
  }

  /** Whether what was compiled at a world age from a text that calls these functions is still right. */
  stillHolds(calls: readonly string[], worldAge: number): boolean {
    if (worldAge === this.worldAge) return true
    const seen = new Set<string>()
    const queue = [...calls]
    for (let name = queue.pop(); name !== undefined; name = queue.pop()) {
      if (seen.has(name)) continue
      seen.add(name)
      const record = this.#functions.get(name)
      if (record === undefined || record.worldAge > worldAge) return false
      queue.push(...calledFunctions(record.expr))
    }
    return true
  }
}

/** A definition, checked. @throws MmsbError INVALID_REQUEST, INVALID_EXPRESSION */
export function definition(table: FunctionTable, name: string, body: FunctionBody): FunctionChange {
  checkFunction(name, body, table.lookup)
  if (table.get(name) === undefined && table.all().length >= FUNCTIONS_MAX) {
    throw new MmsbError(
      'INVALID_REQUEST',
      `There are ${FUNCTIONS_MAX} functions already, the most there can be.`,
    )
  }
  const { params, expr } = body
  return { name, body: { params: [...params], expr }, worldAge: table.worldAge + 1 }
}

const CALLS = new WeakMap<DerivedRecord, readonly string[]>()

/** The functions that the expression of a page calls itself. */
export function callsOf({ derived }: PageRecord): readonly string[] {
  if (derived === undefined) return []
  let calls = CALLS.get(derived)
  if (calls === undefined) {
    const { expr } = derived.derive
    calls = typeof expr === 'string' ? calledFunctions(expr) : []
    CALLS.set(derived, calls)
  }
  return calls
}

/** The pages that use a function, directly or through others, by id. */
export function pagesUsing(registry: Registry, table: FunctionTable, name: string): PageRecord[] {
  const names = table.callersOf(name).add(name)
  return [...registry.all()]
    .filter((page) => callsOf(page).some((called) => names.has(called)))
    .sort((a, b) => a.id - b.id)
}

/**
 * What pages that use the function become by the change.
 * @throws MmsbError INVALID_EXPRESSION when one can no longer be compiled, SHAPE_MISMATCH when its dtype would be another
 */
export function redefinitions(registry: Registry, change: FunctionChange): Redefinition[] {
  const table = registry.functions.after(change, 0)
  return pagesUsing(registry, table, change.name).map((page) => redefined(registry, table.lookup, page))
}

function redefined(registry: Registry, functions: FunctionLookup, page: PageRecord): Redefinition {
  const old = page.derived as DerivedRecord
  const pastOf = (name: string): PageRecord & { page: number } => {
    const read = registry.require(name)
    const past = old.inputs.find(({ prev }) => prev === read.id)
    if (past === undefined)
      throw new MmsbError('INTERNAL', `Page "${page.name}" does not read the past of "${name}".`)
    return { ...read, id: past.id, page: read.id }
  }
  const compiled = within(page, () =>
    compileDerivation(old.derive, (name) => registry.require(name), { dtype: old.asks, functions, pastOf }),
  )
  if (compiled.dtype !== page.dtype || !sameShape(compiled.shape, page.shape)) {
    throw new MmsbError(
      'SHAPE_MISMATCH',
      `Page "${page.name}" is ${page.dtype} and would become ${compiled.dtype}; a page keeps its dtype: cast in the function.`,
      { page: page.name },
    )
  }
  const { opCode, opVersion, params, inputs, canonical, costPerElementNs } = compiled
  const costNs = page.elements * costPerElementNs
  const asks = old.asks === undefined ? {} : { asks: old.asks }
  const derived = { opCode, opVersion, inputs, params, derive: canonical, costNs, ...asks }
  return { id: page.id, derived: { ...derived, definition: encodeDefinition(compiled) } }
}

function within<T>(page: PageRecord, compile: () => T): T {
  try {
    return compile()
  } catch (error) {
    if (!(error instanceof MmsbError)) throw error
    throw new MmsbError(
      error.code,
      `page "${page.name}": ${error.message}`,
      { page: page.name },
      { cause: error },
    )
  }
}

/** Throws PAGE_IN_USE while pages or other functions call the function. */
export function refuseWhileUsed(registry: Registry, name: string): void {
  const pages = [...registry.all()].filter((page) => callsOf(page).includes(name)).map((page) => page.name)
  const functions = registry.functions.all().filter(({ expr }) => calledFunctions(expr).includes(name))
  if (pages.length === 0 && functions.length === 0) return
  const users = [
    ...functions.map((caller) => `function "${caller.name}"`),
    ...pages.sort().map((page) => `page "${page}"`),
  ]
  const more = users.length > 5 ? ` and ${users.length - 5} more` : ''
  throw new MmsbError(
    'PAGE_IN_USE',
    `Function "${name}" is used by ${users.slice(0, 5).join(', ')}${more}.`,
    {
      pages,
      functions: functions.map((caller) => caller.name),
    },
  )
}

// ---- the logged form (docs/internals/FORMAT.md, "Define function") ---------------------------------------------------------------

/** The bytes of a define-function command; empty deletes. */
export function encodeFunction({ body, worldAge }: FunctionChange): Uint8Array {
  if (body === undefined) return new Uint8Array(0)
  return Buffer.from(JSON.stringify({ params: body.params, expr: body.expr, worldAge }), 'utf8')
}

/** The reverse. `worldAge`: of the table before. */
export function decodeFunction(name: string, bytes: Uint8Array, worldAge: number): FunctionChange {
  if (bytes.length === 0) return { name, body: undefined, worldAge: worldAge + 1 }
  const { params, expr } = JSON.parse(Buffer.from(bytes).toString('utf8')) as FunctionBody
  return { name, body: { params, expr }, worldAge: worldAge + 1 }
}
