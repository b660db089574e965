/**
 * Changing a function: which functions and pages use it, and how those pages are defined afterwards. And
 * moving pages to the newest versions of their ops, which redefines them in the same way.
 *
 * Invariant: a page runs its own compiled program. A change takes effect by giving every page that uses the
 * function a new program in the same epoch.
 */
import { MmsbError } from '../../errors.js'
import type { FunctionBody, FunctionLookup } from '../../kernels/expression/names.js'
import { calledFunctions, checkFunction } from '../../kernels/expression/user-functions.js'
import { compileDerivation, encodeDefinition, OPS } from '../../kernels/op-catalogue.js'
import type { LimitGuard } from '../../operator-limits.js'
import type { Sliced } from '../../slices.js'
import { sameShape } from '../../state/shape.js'
import type { Dtype } from '../../wire/dtype.js'
import type { Migrated } from '../call-types.js'
import type { FunctionChange, FunctionRecord, FunctionTable } from '../pages/function-table.js'
import type { DerivedRecord, PageRecord, Registry } from '../pages/registry.js'
import type { FunctionInfo } from '../types.js'
import type { CompileBudget } from './compile-budget.js'
import type { Redefinition } from './pending.js'

/** A transaction was compiled against functions that have changed since; it must be compiled again. */
export class StaleFunctions extends Error {}

/** A definition, checked. @throws MmsbError INVALID_REQUEST, INVALID_EXPRESSION, QUOTA_EXCEEDED */
export function definitionChange(
  table: FunctionTable,
  name: string,
  body: FunctionBody,
  limits: LimitGuard,
): FunctionChange {
  checkFunction(name, body, table.lookup)
  if (table.get(name) === undefined && table.size >= limits.values.maxFunctions)
    throw limits.refusal('maxFunctions', `There are ${table.size} functions already.`)
  const { params, expr } = body
  return { name, body: { params: [...params], expr }, worldAge: table.worldAge + 1 }
}

const CALLS = new WeakMap<DerivedRecord, readonly string[]>()

/** The functions that a page's expression calls directly. */
export function callsOf({ derived }: PageRecord): readonly string[] {
  if (derived === undefined) return []
  let calls = CALLS.get(derived)
  if (calls === undefined) {
    const { derive } = derived
    calls = derive.op === 'map' ? calledFunctions(derive.expr) : []
    CALLS.set(derived, calls)
  }
  return calls
}

/** Parses every expression that was not parsed yet, in slices: afterwards `callsOf` costs nothing. */
export function* readingCalls(registry: Registry): Sliced<void> {
  let count = 0
  for (const page of registry.all()) {
    callsOf(page)
    if (++count % PAGES_PER_CHECK === 0) yield
  }
}

/** Pages between two places where reading their calls may be interrupted. */
const PAGES_PER_CHECK = 128

/** The pages that use a function, directly or through others, by id. */
export function pagesUsing(registry: Registry, table: FunctionTable, name: string): PageRecord[] {
  const names = table.callersOf(name).add(name)
  return [...registry.all()]
    .filter((page) => callsOf(page).some((called) => names.has(called)))
    .sort((a, b) => a.id - b.id)
}

/** Every function with its users, by name: as of this call, but each made when it is asked for. */
export function functionInfos(registry: Registry): Iterable<FunctionInfo> {
  const users = new Map<string, PageRecord[]>()
  for (const page of registry.all()) {
    for (const called of callsOf(page)) {
      const pages = users.get(called)
      if (pages === undefined) users.set(called, [page])
      else pages.push(page)
    }
  }
  return infosOf(registry.functions, users)
}

function* infosOf(
  table: FunctionTable,
  users: ReadonlyMap<string, readonly PageRecord[]>,
): Generator<FunctionInfo> {
  for (const record of table.all()) {
    const names = table.callersOf(record.name).add(record.name)
    yield functionInfo(record, [...new Set([...names].flatMap((name) => users.get(name) ?? []))])
  }
}

/** A function and the pages that use it. */
export function functionInfo(record: FunctionRecord, users: readonly PageRecord[]): FunctionInfo {
  const { name, params, expr, worldAge, epoch } = record
  return { name, params, expr, worldAge, epoch, pages: users.map((page) => page.name).sort() }
}

/**
 * The new definitions of the pages that use the function, compiled in slices.
 * @throws MmsbError INVALID_EXPRESSION when a page no longer compiles, SHAPE_MISMATCH when its dtype would
 * change, COST_EXCEEDED when they take too long together
 */
export async function redefinitions(
  registry: Registry,
  change: FunctionChange,
  budget: CompileBudget,
): Promise<Redefinition[]> {
  const table = registry.functions.after(change, 0)
  const list: Redefinition[] = []
  for (const page of pagesUsing(registry, table, change.name)) {
    // It may have been deleted during a pause.
    if (registry.byId(page.id) !== page) throw new StaleFunctions()
    list.push(budget.spend(() => redefined(registry, table.lookup, page)))
    if (budget.isSliceOver) await budget.pause()
  }
  return list
}

/**
 * New definitions for all pages of an earlier version of their op, and for expressions whose program a newer
 * build compiles differently; by id, in slices. Throws StaleFunctions when it was overtaken.
 */
export function* findingMigrations(
  registry: Registry,
): Sliced<{ redefines: Redefinition[]; migrated: Migrated[] }> {
  const redefines: Redefinition[] = []
  const migrated: Migrated[] = []
  for (const page of [...registry.all()].sort((a, b) => a.id - b.id)) {
    yield
    // It may have been deleted during a pause.
    if (registry.byId(page.id) !== page) throw new StaleFunctions()
    const old = page.derived
    const op = old === undefined ? undefined : OPS.get(old.derive.op)
    if (old === undefined || op === undefined) continue
    if (old.opVersion === op.version && op.name !== 'map') continue
    const dtype = callsOf(page).length > 0 ? old.asks : page.dtype
    const redefinition = redefined(registry, registry.functions.lookup, page, dtype)
    const { opVersion, params } = redefinition.derived
    if (old.opVersion === opVersion && Buffer.from(old.params).equals(params)) continue
    redefines.push(redefinition)
    migrated.push({ page: page.name, op: op.name, from: old.opVersion, to: opVersion })
  }
  return { redefines, migrated }
}

/** `dtype`: what the definition asks for. */
function redefined(
  registry: Registry,
  functions: FunctionLookup,
  page: PageRecord,
  dtype: Dtype | undefined = page.derived?.asks,
): Redefinition {
  const old = page.derived as DerivedRecord
  const pastOf = (name: string): PageRecord & { page: number } => {
    const read = registry.require(name)
    const past = old.inputs.find(({ prev }) => prev === read.id)
    if (past === undefined)
      throw new MmsbError('INTERNAL', `Page "${page.name}" does not read the past of "${name}".`)
    return { ...read, id: past.id, page: read.id }
  }
  const compiled = namingPage(page, () =>
    compileDerivation(old.derive, (name) => registry.require(name), { dtype, functions, pastOf }),
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

/** Puts the page's name in front of the error that compiling it throws. */
function namingPage<T>(page: PageRecord, compile: () => T): T {
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
  const functions = registry.functions.directCallersOf(name)
  if (pages.length === 0 && functions.length === 0) return
  const users = [
    ...functions.map((caller) => `function "${caller}"`),
    ...pages.sort().map((page) => `page "${page}"`),
  ]
  const more = users.length > 5 ? ` and ${users.length - 5} more` : ''
  throw new MmsbError(
    'PAGE_IN_USE',
    `Function "${name}" is used by ${users.slice(0, 5).join(', ')}${more}.`,
    {
      pages,
      functions,
    },
  )
}

// ---- the logged form (docs/internals/FORMAT.md, "Define function") ----------------------------------------

/** The bytes of a define-function command; empty deletes. */
export function encodeFunction({ body, worldAge }: FunctionChange): Uint8Array {
  if (body === undefined) return new Uint8Array(0)
  return Buffer.from(JSON.stringify({ params: body.params, expr: body.expr, worldAge }), 'utf8')
}

/** The reverse. `worldAge` is that of the table before the change. */
export function decodeFunction(name: string, bytes: Uint8Array, worldAge: number): FunctionChange {
  if (bytes.length === 0) return { name, body: undefined, worldAge: worldAge + 1 }
  const { params, expr } = JSON.parse(Buffer.from(bytes).toString('utf8')) as FunctionBody
  return { name, body: { params, expr }, worldAge: worldAge + 1 }
}
