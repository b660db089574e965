/**
 * The functions that users defined, by name.
 *
 * Invariants: a table never changes; a change makes a new one. Its world age counts the changes since the bus
 * began, so code compiled against a table can tell whether that table is still the current one. Knows nothing
 * of pages.
 */
import { MmsbError } from '../../errors.js'
import type { FunctionBody, FunctionLookup } from '../../kernels/expression/names.js'
import { calledFunctions } from '../../kernels/expression/user-functions.js'
import { FUNCTION_OWN_BYTES } from '../../limits.js'

export interface FunctionRecord extends FunctionBody {
  readonly name: string
  /** World age of the table that this definition made. */
  readonly worldAge: number
  /** The epoch that gave the function this definition. */
  readonly epoch: number
}

/** A function to define or, without a body, to delete. */
export interface FunctionChange {
  readonly name: string
  readonly body: FunctionBody | undefined
  /** World age of the table that the change makes. */
  readonly worldAge: number
}

/** What a function holds in memory, roughly. */
export const functionBytes = ({ params, expr }: FunctionBody): number =>
  FUNCTION_OWN_BYTES + expr.length + params.reduce((sum, param) => sum + param.length, 0)

const CALLS = new WeakMap<FunctionRecord, readonly string[]>()

/** The functions that a function calls directly. */
export function callsOfFunction(record: FunctionRecord): readonly string[] {
  let calls = CALLS.get(record)
  if (calls === undefined) {
    calls = calledFunctions(record.expr)
    CALLS.set(record, calls)
  }
  return calls
}

export class FunctionTable {
  readonly worldAge: number
  readonly #functions: ReadonlyMap<string, FunctionRecord>
  #bytes: number | undefined
  #callers: ReadonlyMap<string, readonly string[]> | undefined

  constructor(worldAge = 0, functions: ReadonlyMap<string, FunctionRecord> = new Map()) {
    this.worldAge = worldAge
    this.#functions = functions
  }

  get size(): number {
    return this.#functions.size
  }

  /** What the functions hold in memory, roughly. */
  get bytes(): number {
    if (this.#bytes === undefined) {
      this.#bytes = 0
      for (const record of this.#functions.values()) this.#bytes += functionBytes(record)
    }
    return this.#bytes
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
    const table = new FunctionTable(worldAge, functions)
    const old = this.#functions.get(name)
    const before = old === undefined ? 0 : functionBytes(old)
    table.#bytes = this.bytes - before + (body === undefined ? 0 : functionBytes(body))
    return table
  }

  /** The functions that call `name` directly, by name. */
  directCallersOf(name: string): readonly string[] {
    this.#callers ??= this.#listCallers()
    return this.#callers.get(name) ?? []
  }

  /** The functions that call `name`, directly or through others. */
  callersOf(name: string): Set<string> {
    const callers = new Set<string>()
    const queue = [name]
    for (let called = queue.pop(); called !== undefined; called = queue.pop()) {
      for (const caller of this.directCallersOf(called)) {
        if (callers.has(caller)) continue
        callers.add(caller)
        queue.push(caller)
      }
    }
    return callers
  }

  #listCallers(): Map<string, string[]> {
    const callers = new Map<string, string[]>()
    for (const record of this.all()) {
      for (const called of callsOfFunction(record)) {
        const list = callers.get(called)
        if (list === undefined) callers.set(called, [record.name])
        else list.push(record.name)
      }
    }
    return callers
  }

  /**
   * Whether a text that calls these functions, compiled at a world age, would compile to the same code now.
   */
  stillHolds(calls: readonly string[], worldAge: number): boolean {
    if (worldAge === this.worldAge) return true
    const seen = new Set<string>()
    const queue = [...calls]
    for (let name = queue.pop(); name !== undefined; name = queue.pop()) {
      if (seen.has(name)) continue
      seen.add(name)
      const record = this.#functions.get(name)
      if (record === undefined || record.worldAge > worldAge) return false
      queue.push(...callsOfFunction(record))
    }
    return true
  }
}
