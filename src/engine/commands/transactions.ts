/**
 * The doors into the bus: what a caller wrote becomes a frame, once, and a pending transaction.
 *
 * Invariants: everything that can be refused without knowing what else is queued is refused here, before the queue; a
 * frame made here needs no second look. Frames from outside (`pendingOfFrame`) are untrusted and checked wholly.
 */
import { MmsbError } from '../../errors.js'
import type { CompileOptions, InputPage } from '../../kernels/inputs.js'
import {
  compileDerivation,
  decodeDefinition,
  derivationOf,
  encodeDefinition,
  sameDerivation,
} from '../../kernels/op-catalogue.js'
import { alignedCopyOf } from '../../state/bytes.js'
import { validateDelta } from '../../state/delta.js'
import {
  type CommandCursor,
  type CreatePageCommand,
  commandAt,
  type DefineFunctionCommand,
  eachCommand,
  type Frame,
  patchPageId,
  type RedefinePageCommand,
} from '../../state/frame/frame.js'
import type { CreatePageFields } from '../../state/frame/layout.js'
import { decodeFrame } from '../../state/frame/reader.js'
import { FrameWriter } from '../../state/frame/writer.js'
import { checkShape, elementCount, formatShape, sameShape } from '../../state/shape.js'
import type {
  DeltaInput,
  Derivation,
  DerivedDefinition,
  PageDefinition,
  SourceDefinition,
} from '../../state/types.js'
import { fillBits } from '../../state/value.js'
import { DTYPE_INFO, type Dtype } from '../../wire/dtype.js'
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
import { LOCATIONS, type Location, NAME_PATTERN } from '../../wire/page.js'
import type { DerivedRecord, PageRecord, Registry } from '../pages/registry.js'
import type { TransactionInput } from '../types.js'
import { decodeFunction, encodeFunction, type FunctionChange, type Redefinition } from './functions.js'
import type { DeltaCounts, Pending, Precondition } from './pending.js'

const NAME = new RegExp(NAME_PATTERN)
const UNCOMMITTED = { step: undefined, version: 0, createdEpoch: 0 }
const NO_DELTAS: DeltaCounts = { dense: 0, sparse: 0, masked: 0 }

export interface TransactionMeta {
  readonly key?: string
  readonly source?: string
  readonly intent?: unknown
}

export function checkName(name: string): void {
  if (!NAME.test(name)) {
    throw new MmsbError(
      'INVALID_REQUEST',
      `"${name.slice(0, 80)}" is not a valid name: it must match ${NAME_PATTERN}`,
    )
  }
}

/** A page record for a new source page. Throws INVALID_REQUEST, INVALID_DELTA (fill). */
export function sourceRecord(id: number, name: string, definition: SourceDefinition): PageRecord {
  checkName(name)
  const { dtype, location = 'auto', fill = 0 } = definition
  const { sizeBytes } = dtypeInfo(dtype)
  checkLocation(location)
  const shape = checkShape(definition.shape, dtype)
  const elements = elementCount(shape)
  return {
    id,
    name,
    kind: 'source',
    dtype,
    shape,
    elements,
    bytes: elements * sizeBytes,
    location,
    fill: fillBits(dtype, fill),
    derived: undefined,
    ...UNCOMMITTED,
  }
}

/** Where the inputs of a definition are found. */
export type DerivationRooms = Required<Pick<CompileOptions, 'functions' | 'pastOf' | 'self'>> & {
  readonly inputOf: (name: string) => InputPage
}

/** A page record for a new derived page. Throws what the op's signature and shape rule say. */
export function derivedRecord(
  id: number,
  name: string,
  definition: DerivedDefinition,
  { inputOf, ...rooms }: DerivationRooms,
): PageRecord {
  checkName(name)
  const { derive, location = 'auto' } = definition
  checkLocation(location)
  if (definition.dtype !== undefined) dtypeInfo(definition.dtype)
  const asked =
    definition.shape === undefined ? undefined : checkShape(definition.shape, definition.dtype ?? 'bool')
  const compiled = compileDerivation(derive, inputOf, { ...rooms, dtype: definition.dtype, shape: asked })
  const shape = checkShape(compiled.shape, compiled.dtype)
  const elements = elementCount(shape)
  return {
    id,
    name,
    kind: 'derived',
    dtype: compiled.dtype,
    shape,
    elements,
    bytes: elements * DTYPE_INFO[compiled.dtype].sizeBytes,
    location,
    fill: 0n,
    derived: {
      opCode: compiled.opCode,
      opVersion: compiled.opVersion,
      inputs: compiled.inputs,
      params: compiled.params,
      derive: compiled.canonical,
      definition: encodeDefinition(compiled),
      costNs: elements * compiled.costPerElementNs,
      ...(compiled.asks === undefined ? {} : { asks: compiled.asks }),
    },
    ...UNCOMMITTED,
  }
}

/** In what `page`, which lies at `location`, is not what was asked for; undefined where it is just that. */
export function differenceOf(page: PageRecord, wanted: PageRecord, location: Location): string | undefined {
  if (page.kind !== wanted.kind) return `it is ${page.kind}`
  // By names, not bytes: which hidden page keeps a past is no part of what was asked for.
  const derives = page.derived?.derive
  if (derives !== undefined && !sameDerivation(derives, wanted.derived?.derive as Derivation))
    return `it is derived by ${JSON.stringify(derives)}`
  if (page.dtype !== wanted.dtype) return `its dtype is ${page.dtype}`
  if (!sameShape(page.shape, wanted.shape)) return `its shape is ${formatShape(page.shape)}`
  if (![page.location, location, 'auto'].includes(wanted.location)) return `its location is ${location}`
  return page.fill === wanted.fill ? undefined : 'its fill is another'
}

export function isDerivedDefinition(definition: PageDefinition): definition is DerivedDefinition {
  return 'derive' in definition
}

/** Pages to create together, compiled at a world age. */
export function pendingOfCreates(
  pages: readonly PageRecord[],
  functionsAge: number,
  meta: TransactionMeta = {},
): Pending {
  const writer = new FrameWriter(frameMeta(meta))
  for (const page of pages) writer.createPage(createCommand(page))
  return { ...EMPTY, frame: writer.finish(), key: meta.key, creates: pages, functionsAge }
}

/** A function to define or delete, with the pages it redefines. */
export function pendingOfFunction(
  change: FunctionChange,
  redefines: readonly Redefinition[],
  meta: TransactionMeta = {},
): Pending {
  const writer = new FrameWriter(frameMeta(meta))
  writer.defineFunction(change.name, encodeFunction(change))
  for (const { id, derived } of redefines) writer.redefinePage(id, derived.definition)
  const functionsAge = change.worldAge - 1
  return { ...EMPTY, frame: writer.finish(), key: meta.key, change, redefines, functionsAge }
}

/** Pages to delete together, each before what it derives from. */
export function pendingOfDeletes(ids: readonly number[], meta: TransactionMeta = {}): Pending {
  const writer = new FrameWriter(frameMeta(meta))
  for (const id of ids) writer.deletePage(id)
  return { ...EMPTY, frame: writer.finish(), key: meta.key, deletes: ids }
}

/** One delta to one page: the hot path of PATCH. */
export function pendingOfDelta(
  page: PageRecord,
  delta: DeltaInput,
  meta: TransactionMeta,
  expectVersion: number | undefined,
): Pending {
  checkWritable(page)
  const preconditions = expectVersion === undefined ? NONE : [{ pageId: page.id, version: expectVersion }]
  const { key, source, intent } = meta
  const writer = new FrameWriter({ key, source, intent, expect: preconditions })
  writer.delta(page.id, page.dtype, page.elements, delta)
  // Written out: spreading objects would take longer than all of the above.
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
    const page = registry.require(op.page)
    checkWritable(page)
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
 * A frame from outside: checked wholly. Source pages it creates get their ids from `nextId`; derived pages are made by
 * name (Bus.derive), since a frame would have to carry compiled code. Throws INVALID_REQUEST, INVALID_DELTA and the like.
 */
export function pendingOfFrame(registry: Registry, bytes: Uint8Array, nextId: () => number): Pending {
  const frame = decodeFrame(alignedCopyOf(bytes))
  const touched = new Touched()
  const creates: PageRecord[] = []
  let page: PageRecord | undefined
  eachCommand(frame, (cursor) => {
    switch (cursor.type) {
      case COMMAND_DELTA:
        // Runs of deltas to one page are common: look it up once.
        if (page === undefined || page.id !== cursor.pageId) page = writablePage(registry, cursor.pageId)
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
        throw new MmsbError('INVALID_REQUEST', 'Functions are not defined by frames.')
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

/** What reading a logged frame needs to know of the state before it. */
export interface LogRooms {
  readonly nameOf: (id: number) => string
  readonly elementsOf: (id: number) => number
  readonly worldAge: number
}

/** A frame from our own log: what it names exists and fits, since it was checked before it was written. */
export function pendingOfLoggedFrame(frame: Frame, rooms: LogRooms): Pending {
  const touched = new Touched()
  const creates: PageRecord[] = []
  const createdNames = new Map<number, string>()
  const redefines: Redefinition[] = []
  let change: FunctionChange | undefined
  // A page may read the past of one that comes after it.
  eachCommand(frame, (cursor) => {
    if (cursor.type !== COMMAND_CREATE_PAGE) return
    const { id, name } = commandAt(frame, cursor) as CreatePageCommand
    createdNames.set(id, name)
  })
  const nameOf = (id: number): string => createdNames.get(id) ?? rooms.nameOf(id)
  eachCommand(frame, (cursor) => {
    if (cursor.type === COMMAND_DELTA) {
      touched.delta(cursor)
    } else if (cursor.type === COMMAND_CREATE_PAGE) {
      const command = commandAt(frame, cursor) as CreatePageCommand
      creates.push(recordOfLoggedCreate(command, nameOf))
    } else if (cursor.type === COMMAND_DEFINE_FUNCTION) {
      const { name, definition } = commandAt(frame, cursor) as DefineFunctionCommand
      change = decodeFunction(name, definition, rooms.worldAge)
    } else if (cursor.type === COMMAND_REDEFINE_PAGE) {
      const { pageId, definition } = commandAt(frame, cursor) as RedefinePageCommand
      redefines.push({ id: pageId, derived: derivedOfLogged(definition, rooms.elementsOf(pageId), nameOf) })
    } else if (cursor.type === COMMAND_DELETE_PAGE) {
      touched.deletes.push(cursor.pageId)
    }
  })
  return {
    frame: frame.bytes,
    key: frame.key,
    preconditions: NONE,
    writes: touched.writes,
    creates,
    deletes: touched.deletes,
    deltas: touched.counts,
    ...(change === undefined ? {} : { change, redefines }),
  }
}

/** The record of a page as its create command in the log describes it. `nameOf` names its inputs. */
export function recordOfLoggedCreate(command: CreatePageFields, nameOf: (id: number) => string): PageRecord {
  const { id, name, dtype, shape, location, kind, fill } = command
  const elements = elementCount(shape)
  const bytes = elements * DTYPE_INFO[dtype].sizeBytes
  const base = { id, name, kind, dtype, shape, elements, bytes, location, fill, ...UNCOMMITTED }
  if (kind === 'source') return { ...base, derived: undefined }
  return { ...base, derived: derivedOfLogged(command.definition, elements, nameOf) }
}

function derivedOfLogged(bytes: Uint8Array, elements: number, nameOf: (id: number) => string): DerivedRecord {
  const definition = decodeDefinition(bytes)
  const { opCode, opVersion, inputs, asks } = definition
  return {
    opCode,
    opVersion,
    inputs,
    params: definition.params.slice(),
    derive: derivationOf(definition, nameOf),
    definition: bytes.slice(),
    // Measured from the first execution on; until then one nanosecond an element.
    costNs: elements,
    ...(asks === undefined ? {} : { asks }),
  }
}

/** The create command of a page as a frame of its own: how checkpoints keep definitions. */
export function definitionFrame(page: PageRecord): Uint8Array {
  const writer = new FrameWriter({})
  writer.createPage(createCommand(page))
  return writer.finish()
}

/** What the deltas and deletions of a frame touch, gathered command by command. */
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

const NONE: readonly Precondition[] = []
const EMPTY = { preconditions: NONE, writes: [], creates: [], deletes: [], deltas: NO_DELTAS }

function recordOfForeignCreate(command: CreatePageCommand, nextId: () => number): PageRecord {
  const { name, dtype, shape, location, fill } = command
  if (command.kind === 'derived') {
    throw new MmsbError('INVALID_REQUEST', 'A frame cannot create derived pages; use PUT /v1/pages/{name}.')
  }
  if (command.id !== PAGE_ID_UNASSIGNED) {
    throw new MmsbError(
      'INVALID_REQUEST',
      `A page to create must have the id ${PAGE_ID_UNASSIGNED}: the bus chooses it.`,
    )
  }
  return { ...sourceRecord(nextId(), name, { dtype, shape, location }), fill }
}

function writablePage(registry: Registry, id: number): PageRecord {
  const page = registry.byId(id)
  if (page === undefined) throw new MmsbError('PAGE_NOT_FOUND', `There is no page with id ${id}.`)
  checkWritable(page)
  return page
}

function createCommand(page: PageRecord): Parameters<FrameWriter['createPage']>[0] {
  const { id, name, dtype, shape, location, kind, fill } = page
  return { id, name, dtype, shape, location, kind, fill, definition: page.derived?.definition ?? NO_BYTES }
}

const NO_BYTES = new Uint8Array(0)

/** What a frame says about its transaction. FrameWriter encodes and bounds it. */
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

/** @throws MmsbError PAGE_READ_ONLY */
export function checkWritable(page: Pick<PageRecord, 'kind' | 'name'>): void {
  if (page.kind === 'derived') {
    throw new MmsbError('PAGE_READ_ONLY', `Page "${page.name}" is derived; it cannot be written.`)
  }
}

function checkLocation(location: string): void {
  if (!(LOCATIONS as readonly string[]).includes(location)) {
    throw new MmsbError('INVALID_REQUEST', `location: "${location}" is none of ${LOCATIONS.join(', ')}.`)
  }
}

function dtypeInfo(dtype: string): (typeof DTYPE_INFO)[Dtype] {
  if (!Object.hasOwn(DTYPE_INFO, dtype)) {
    throw new MmsbError(
      'INVALID_REQUEST',
      `dtype: "${dtype}" is none of ${Object.keys(DTYPE_INFO).join(', ')}.`,
    )
  }
  return DTYPE_INFO[dtype as Dtype]
}
