/**
 * Pending transactions: what a caller wrote becomes a frame, once.
 *
 * Invariants: everything that can be refused without knowing the rest of the queue is refused here, before
 * the queue. A frame written here needs no second look. Frames from outside (`pendingOfFrame`) are untrusted
 * and checked completely.
 *
 * Each question about a write is asked in one place:
 *
 *   Do the arguments have the right shape?   src/engine/arguments.ts; from the network, the schemas of http
 *   Does the bus still take writes?          EngineBus, before it looks up pages (commit/lifecycle.ts)
 *   Was this idempotency key used before?    EngineBus, before it looks up pages (idempotency/repeats.ts)
 *   Does the page exist, can it be written?  here: `writablePage`, `writablePageById`
 *   Do the values fit the page?              the frame writer (src/state/frame/writer.ts)
 *   Is there room in the queue?              commit/committer.ts
 *   Do the pages still exist, with the       commit/batch.ts, because the answer depends on the transactions
 *   expected versions and functions?         that are staged before this one
 */
import { MmsbError } from '../../errors.js'
import type { Sliced } from '../../slices.js'
import { validateDelta } from '../../state/delta.js'
import {
  CommandCursor,
  type CreatePageCommand,
  commandAt,
  type DefineFunctionCommand,
  eachCommand,
  type Frame,
  patchPageId,
  type RedefinePageCommand,
} from '../../state/frame/frame.js'
import { FrameWriter } from '../../state/frame/writer.js'
import type { DeltaInput } from '../../state/types.js'
import {
  COMMAND_CREATE_PAGE,
  COMMAND_DEFINE_FUNCTION,
  COMMAND_DELETE_PAGE,
  COMMAND_DELTA,
  COMMAND_REDEFINE_PAGE,
  DELTA_DENSE,
  DELTA_SPARSE,
  PAGE_ID_UNASSIGNED,
} from '../../wire/frame.js'
import type { FunctionChange } from '../pages/function-table.js'
import { createCommand, derivedOfLogged, recordOfLoggedCreate, sourceRecord } from '../pages/page-records.js'
import type { PageRecord, Registry } from '../pages/registry.js'
import type { TransactionInput, WriteOptions } from '../types.js'
import { callsOf, decodeFunction, encodeFunction } from './functions.js'
import type { DeltaCounts, Pending, Precondition, Redefinition } from './pending.js'

const NO_DELTAS: DeltaCounts = { dense: 0, sparse: 0, masked: 0 }
const NO_PRECONDITIONS: readonly Precondition[] = []
const EMPTY = { preconditions: NO_PRECONDITIONS, writes: [], creates: [], deletes: [], deltas: NO_DELTAS }

/** Commands between two places where writing or reading a frame may be interrupted. */
const COMMANDS_PER_CHECK = 128

/** The header fields of a transaction. */
export type TransactionMeta = Omit<WriteOptions, 'expectVersion'>

/** Pages to create together, compiled at a world age; in slices. */
export function* writingCreates(pages: readonly PageRecord[], functionsAge: number): Sliced<Pending> {
  const writer = new FrameWriter({})
  for (const [i, page] of pages.entries()) {
    writer.createPage(createCommand(page))
    // Staging asks for them.
    callsOf(page)
    if (i % COMMANDS_PER_CHECK === COMMANDS_PER_CHECK - 1) yield
  }
  return { ...EMPTY, frame: writer.finish(), key: undefined, creates: pages, functionsAge }
}

/** A function to define or delete, with the pages it redefines; in slices. */
export function* writingFunction(
  change: FunctionChange,
  redefines: readonly Redefinition[],
): Sliced<Pending> {
  const writer = new FrameWriter({})
  writer.defineFunction(change.name, encodeFunction(change))
  for (const [i, { id, derived }] of redefines.entries()) {
    writer.redefinePage(id, derived.definition)
    if (i % COMMANDS_PER_CHECK === COMMANDS_PER_CHECK - 1) yield
  }
  const functionsAge = change.worldAge - 1
  return { ...EMPTY, frame: writer.finish(), key: undefined, change, redefines, functionsAge }
}

/** Pages that get another definition of the same inputs, dtype and shape. */
export function pendingOfRedefinitions(redefines: readonly Redefinition[], functionsAge: number): Pending {
  const writer = new FrameWriter(frameMeta({ source: 'migrate' }))
  for (const { id, derived } of redefines) writer.redefinePage(id, derived.definition)
  return { ...EMPTY, frame: writer.finish(), key: undefined, redefines, functionsAge }
}

/** Pages to delete together, each before what it derives from. */
export function pendingOfDeletes(ids: readonly number[]): Pending {
  const writer = new FrameWriter({})
  for (const id of ids) writer.deletePage(id)
  return { ...EMPTY, frame: writer.finish(), key: undefined, deletes: ids }
}

/** WriteOptions, whose fields may also be undefined. */
type DeltaOptions = { readonly [option in keyof WriteOptions]: WriteOptions[option] | undefined }

/** One delta to one page, which can be written: the hot path of PATCH. */
export function pendingOfDelta(
  page: PageRecord,
  delta: DeltaInput,
  { key, source, intent, expectVersion }: DeltaOptions,
): Pending {
  const preconditions =
    expectVersion === undefined ? NO_PRECONDITIONS : [{ pageId: page.id, version: expectVersion }]
  const writer = new FrameWriter({ key, source, intent, expect: preconditions })
  writer.delta(page.id, page.dtype, page.elements, delta)
  // Written out, because spreading an object would take longer than everything above.
  return {
    frame: writer.finish(),
    key,
    preconditions,
    writes: [page.id],
    creates: EMPTY.creates,
    deletes: EMPTY.deletes,
    deltas: countKinds([delta]),
  }
}

/** Deltas to several pages. Throws PAGE_NOT_FOUND, PAGE_READ_ONLY, and what the frame writer refuses. */
export function pendingOfTransaction(registry: Registry, tx: TransactionInput): Pending {
  const preconditions = (tx.expect ?? []).map(({ page, version }) => {
    if (!Number.isSafeInteger(version) || version < 0) {
      throw new MmsbError('INVALID_REQUEST', `expect: ${String(version)} is not a version.`)
    }
    return { pageId: registry.require(page).id, version }
  })
  const { key, source, intent } = tx
  const writer = new FrameWriter({ key, source, intent, expect: preconditions })
  const writes = new Set<number>()
  for (const [index, op] of tx.ops.entries()) {
    const page = writablePage(registry, op.page)
    try {
      writer.delta(page.id, page.dtype, page.elements, op)
    } catch (error) {
      if (error instanceof MmsbError && tx.ops.length > 1) {
        throw new MmsbError(error.code, `ops[${index}] (page "${op.page}"): ${error.message}`, { op: index })
      }
      throw error
    }
    writes.add(page.id)
  }
  return {
    frame: writer.finish(),
    key,
    preconditions,
    writes: [...writes],
    creates: EMPTY.creates,
    deletes: EMPTY.deletes,
    deltas: countKinds(tx.ops),
  }
}

/**
 * A frame from outside, which the frame now owns and which is checked completely. Source pages that it
 * creates get their ids from `nextId`. It cannot create derived pages, because it would have to carry
 * compiled code; those are created by definition (Bus.derive). Throws INVALID_REQUEST, INVALID_DELTA
 * and the like.
 */
export function pendingOfFrame(registry: Registry, frame: Frame, nextId: () => number): Pending {
  const touched = new Touched()
  const creates: PageRecord[] = []
  let page: PageRecord | undefined
  eachCommand(frame, (cursor) => {
    switch (cursor.type) {
      case COMMAND_DELTA:
        // Consecutive deltas often write the same page: look it up once.
        if (page === undefined || page.id !== cursor.pageId) page = writablePageById(registry, cursor.pageId)
        validateDelta(cursor, page)
        touched.delta(cursor)
        break
      case COMMAND_CREATE_PAGE: {
        const command = commandAt(frame, cursor) as CreatePageCommand
        const record = recordOfForeignCreate(command, nextId)
        patchPageId(frame, command, record.id)
        creates.push(record)
        break
      }
      case COMMAND_DELETE_PAGE:
        touched.deletes.push(cursor.pageId)
        break
      default:
        throw new MmsbError('INVALID_REQUEST', 'A frame cannot define functions.')
    }
  })
  return {
    frame: frame.bytes,
    key: frame.key,
    preconditions: frame.preconditions,
    writes: touched.writes,
    creates,
    deletes: touched.deletes,
    deltas: touched.counts,
  }
}

/** The state before a logged frame, as far as reading the frame needs it. */
export interface LoggedFrameDeps {
  readonly nameOf: (id: number) => string
  readonly elementsOf: (id: number) => number
  readonly worldAge: number
}

/**
 * A frame from our own log, read in slices. Its pages exist and its values fit: that was checked before
 * it was logged.
 */
export function* readingLoggedFrame(frame: Frame, deps: LoggedFrameDeps): Sliced<Pending> {
  const touched = new Touched()
  const creates: PageRecord[] = []
  const createdNames = new Map<number, string>()
  const redefines: Redefinition[] = []
  let change: FunctionChange | undefined
  // A page may read the past of a page that comes after it, so the names are gathered first.
  for (const cursor = new CommandCursor(frame); cursor.next(); ) {
    if (cursor.type !== COMMAND_CREATE_PAGE) continue
    const { id, name } = commandAt(frame, cursor) as CreatePageCommand
    createdNames.set(id, name)
    if (createdNames.size % COMMANDS_PER_CHECK === 0) yield
  }
  const nameOf = (id: number): string => createdNames.get(id) ?? deps.nameOf(id)
  for (const cursor = new CommandCursor(frame); cursor.next(); ) {
    if (cursor.index % COMMANDS_PER_CHECK === COMMANDS_PER_CHECK - 1) yield
    if (cursor.type === COMMAND_DELTA) {
      touched.delta(cursor)
    } else if (cursor.type === COMMAND_CREATE_PAGE) {
      const command = commandAt(frame, cursor) as CreatePageCommand
      creates.push(recordOfLoggedCreate(command, nameOf))
    } else if (cursor.type === COMMAND_DEFINE_FUNCTION) {
      const { name, definition } = commandAt(frame, cursor) as DefineFunctionCommand
      change = decodeFunction(name, definition, deps.worldAge)
    } else if (cursor.type === COMMAND_REDEFINE_PAGE) {
      const { pageId, definition } = commandAt(frame, cursor) as RedefinePageCommand
      redefines.push({ id: pageId, derived: derivedOfLogged(definition, deps.elementsOf(pageId), nameOf) })
    } else if (cursor.type === COMMAND_DELETE_PAGE) {
      touched.deletes.push(cursor.pageId)
    }
  }
  return {
    frame: frame.bytes,
    key: frame.key,
    preconditions: NO_PRECONDITIONS,
    writes: touched.writes,
    creates,
    deletes: touched.deletes,
    deltas: touched.counts,
    ...(change === undefined ? {} : { change }),
    ...(redefines.length === 0 ? {} : { redefines }),
  }
}

/** The pages that a frame's deltas and deletions touch, gathered command by command. */
class Touched {
  readonly deletes: number[] = []
  #writes: Set<number> | undefined
  #last = -1
  #dense = 0
  #sparse = 0
  #masked = 0

  delta({ pageId, kind }: CommandCursor): void {
    if (pageId !== this.#last) this.#writePage(pageId)
    if (kind === DELTA_DENSE) this.#dense++
    else if (kind === DELTA_SPARSE) this.#sparse++
    else this.#masked++
  }

  #writePage(pageId: number): void {
    if (this.#writes !== undefined) this.#writes.add(pageId)
    else if (this.#last >= 0) this.#writes = new Set([this.#last, pageId])
    this.#last = pageId
  }

  /** Ids of the pages written, unique. */
  get writes(): readonly number[] {
    if (this.#writes !== undefined) return [...this.#writes]
    return this.#last < 0 ? [] : [this.#last]
  }

  get counts(): DeltaCounts {
    return { dense: this.#dense, sparse: this.#sparse, masked: this.#masked }
  }
}

function recordOfForeignCreate(command: CreatePageCommand, nextId: () => number): PageRecord {
  const { name, dtype, shape, location, fill } = command
  if (command.kind === 'derived') {
    throw new MmsbError('INVALID_REQUEST', 'A frame cannot create derived pages; use PUT /v1/pages/{name}.')
  }
  if (command.id !== PAGE_ID_UNASSIGNED) {
    throw new MmsbError(
      'INVALID_REQUEST',
      `A page to create must have the id ${PAGE_ID_UNASSIGNED}; the bus assigns the real one.`,
    )
  }
  return { ...sourceRecord(nextId(), name, { dtype, shape, location }), fill }
}

/** The frame header's fields; FrameWriter encodes and bounds them. */
function frameMeta({ key, source, intent }: TransactionMeta): TransactionMeta {
  return {
    ...(key === undefined ? {} : { key }),
    ...(source === undefined ? {} : { source }),
    ...(intent === undefined ? {} : { intent }),
  }
}

function countKinds(deltas: readonly DeltaInput[]): DeltaCounts {
  const counts = { dense: 0, sparse: 0, masked: 0 }
  for (const delta of deltas) {
    if (delta.indices !== undefined) counts.sparse++
    else if (delta.mask !== undefined) counts.masked++
    else counts.dense++
  }
  return counts
}

/** The source page of this name. @throws MmsbError PAGE_NOT_FOUND, PAGE_READ_ONLY */
export function writablePage(registry: Registry, name: string): PageRecord {
  const page = registry.require(name)
  refuseDerived(page)
  return page
}

function writablePageById(registry: Registry, id: number): PageRecord {
  const page = registry.byId(id)
  if (page === undefined) throw new MmsbError('PAGE_NOT_FOUND', `There is no page with id ${id}.`)
  refuseDerived(page)
  return page
}

function refuseDerived(page: PageRecord): void {
  if (page.kind === 'derived') {
    throw new MmsbError('PAGE_READ_ONLY', `Page "${page.name}" is derived; it cannot be written.`)
  }
}
