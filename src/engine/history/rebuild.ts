/**
 * Rebuilding a state from a checkpoint and the records after it, through the same staging and the same native
 * execution as the live bus. Recovery, replay and verification all use this.
 *
 * Invariants: epochs follow one another without a gap. Before each record, the state's digest must equal the
 * one that the record carries; otherwise log and state contradict each other and INTERNAL is thrown.
 *
 * A state can also be rebuilt for a cone alone: a set of pages with all that they derive from. Other pages do
 * not exist in it, and what records do to them is left out. Such a state has a digest of its own, which
 * cannot be compared with the log's.
 */
import { MmsbError } from '../../errors.js'
import type { ExecuteResult } from '../../ffi/context.js'
import { EMPTY_PLAN, type Plan } from '../../graph/graph.js'
import { atOnce, type Sliced } from '../../slices.js'
import type { CreatePageCommand } from '../../state/frame/frame.js'
import { pickDeltas } from '../../state/frame/pick.js'
import { decodeFrame, splitFrames } from '../../state/frame/reader.js'
import { scanFrames } from '../../state/frame/scan.js'
import type { CheckpointPage, CheckpointReader, LogRecord } from '../../store/types.js'
import { COMMAND_CREATE_PAGE } from '../../wire/frame.js'
import { parseCheckpointExtra, tableOfCheckpoint } from '../checkpoints/contents.js'
import type { Pending, Redefinition } from '../commands/pending.js'
import { readingLoggedFrame } from '../commands/transactions.js'
import { Batch } from '../commit/batch.js'
import { fingerprintOf } from '../idempotency/fingerprint.js'
import type { IdempotencyKeys } from '../idempotency/keys.js'
import { hex } from '../pages/describe.js'
import type { EngineState } from '../pages/engine-state.js'
import { installingBlankPages } from '../pages/install.js'
import { recordOfLoggedCreate } from '../pages/page-records.js'
import { priced } from '../pages/price.js'
import type { PageRecord } from '../pages/registry.js'

/** The position of a state that is being rebuilt. */
export interface Progress {
  epoch: number
  digest: Uint8Array
  nextPageId: number
  timestampMs: number
  /** Idempotency keys and their answers; undefined when they are not needed. */
  readonly answers: IdempotencyKeys | undefined
  /** Pages that records define get estimates (pages/price.ts); those of a checkpoint do not. */
  isPriced: boolean
}

/** One epoch of a replay, after its execution and before its deletions become final. */
export interface ReplayedEpoch {
  readonly record: LogRecord
  readonly result: ExecuteResult
  /** Pages created and deleted, in order. A page can be in both. */
  readonly created: readonly PageRecord[]
  readonly deleted: readonly PageRecord[]
  /** It changed more than these pages, so it cannot be undone. */
  readonly isOneWay: boolean
}

export interface ReplayWatcher {
  /** The page's bytes have changed; its version is still the old one. */
  changing?(page: PageRecord): void
  /** The registry is still that of the previous epoch. */
  executed?(epoch: ReplayedEpoch): void
}

/** Ids of pages, with all that they derive from. */
export type Cone = ReadonlySet<number>

/** The state before the first epoch. `state` must be empty. */
export function emptyProgress(state: EngineState, answers?: IdempotencyKeys): Progress {
  return {
    epoch: 0,
    digest: state.context.stateDigest(),
    nextPageId: 1,
    timestampMs: 0,
    answers,
    isPriced: false,
  }
}

/**
 * Fills an empty state from a checkpoint, with a cone's pages or with all. Throws INTERNAL when all bytes do
 * not have its digest.
 */
export function loadCheckpoint(
  state: EngineState,
  reader: CheckpointReader,
  answers: IdempotencyKeys | undefined,
  cone?: Cone,
): Progress {
  return atOnce(loadingCheckpoint(state, reader, answers, { cone }))
}

/** The same in slices. `onBytes` gets the bytes of each piece that was loaded. */
export function* loadingCheckpoint(
  state: EngineState,
  reader: CheckpointReader,
  answers: IdempotencyKeys | undefined,
  { cone, onBytes }: { readonly cone?: Cone | undefined; readonly onBytes?: (count: number) => void },
): Sliced<Progress> {
  const { header } = reader
  // Pasts have no definition; the pages that read them name the page that each belongs to.
  const pages = reader.pages.filter(({ id, meta }) => meta.byteLength > 0 && cone?.has(id) !== false)
  const commands: CreatePageCommand[] = []
  for (const page of pages) {
    commands.push(definitionOf(page))
    if (commands.length % PAGES_PER_CHECK === 0) yield
  }
  const names = new Map(commands.map(({ id, name }) => [id, name]))
  const records: PageRecord[] = []
  for (const [i, { version, createdEpoch }] of pages.entries()) {
    const record = recordOfLoggedCreate(commands[i]!, (id) => names.get(id) ?? `#${id}`)
    records.push({ ...record, version, createdEpoch })
    if (i % PAGES_PER_CHECK === 0) yield
  }
  yield* installingBlankPages(state, records)
  const extra = parseCheckpointExtra(header.extra)
  state.registry.functions = tableOfCheckpoint(extra)
  for (const entry of answers === undefined ? [] : extra.answers)
    answers?.remember(entry[0], entry[1], entry[2])
  yield* reader.loading(
    (pageId, offset, bytes) => {
      state.context.loadPage(pageId, offset, bytes)
      onBytes?.(bytes.byteLength)
    },
    cone === undefined ? undefined : (pageId) => state.graph.node(pageId) !== undefined,
  )
  const digest = state.context.stateDigest()
  if (cone === undefined) checkDigest(digest, header.digest, `the checkpoint of epoch ${header.epoch}`)
  return {
    epoch: header.epoch,
    digest,
    nextPageId: header.nextPageId,
    timestampMs: header.timestampMs,
    answers,
    isPriced: false,
  }
}

/** Pages between two places where loading and staging may be interrupted. */
const PAGES_PER_CHECK = 64

function definitionOf(page: CheckpointPage): CreatePageCommand {
  const [command] = decodeFrame(page.meta).commands
  if (command?.type !== COMMAND_CREATE_PAGE)
    throw new MmsbError('INTERNAL', `Checkpoint: page ${page.id} has no definition.`)
  return command
}

/**
 * Moves the state, which may be that of a cone, from one epoch to the next. Returns 'untouched' when the
 * record does nothing to the cone; then the watcher was not called.
 */
export function replayRecord(
  state: EngineState,
  record: LogRecord,
  progress: Progress,
  watcher: ReplayWatcher = {},
  cone?: Cone,
): 'replayed' | 'untouched' {
  const staged = atOnce(stagingPart(state, record, progress, watcher, cone))
  if (staged === undefined) return 'untouched'
  staged.finish(state.context.execute(staged.plan.steps, staged.frames))
  return 'replayed'
}

/** A record whose plan is to be executed with its frames, and what follows then. */
export interface StagedRecord {
  readonly plan: Plan
  readonly frames: Uint8Array
  /** Bytes of the pages that the record creates: executing it fills them. */
  readonly createdBytes: number
  readonly finish: (result: ExecuteResult) => void
}

/** Prepares, in slices, the step from one epoch to the next; the caller executes it, then calls `finish`. */
export function* stagingRecord(
  state: EngineState,
  record: LogRecord,
  progress: Progress,
): Sliced<StagedRecord> {
  return (yield* stagingPart(state, record, progress, {}, undefined)) as StagedRecord
}

/** Undefined when the record does nothing to the cone. */
function* stagingPart(
  state: EngineState,
  record: LogRecord,
  progress: Progress,
  watcher: ReplayWatcher,
  cone: Cone | undefined,
): Sliced<StagedRecord | undefined> {
  if (record.epoch !== progress.epoch + 1) {
    throw new MmsbError(
      'INTERNAL',
      `The log continues at epoch ${record.epoch}, but the state is at ${progress.epoch}.`,
    )
  }
  if (cone === undefined)
    checkDigest(progress.digest, record.digestBefore, `the log before epoch ${record.epoch}`)
  const { onlyDeltas, keyed } = scanFrames(record.frames)
  const part = partOf(record, cone)
  progress.epoch = record.epoch
  progress.timestampMs = record.timestampMs
  if (record.isVoid === true) return stageVoid(record, watcher)
  // The past of a page follows it one epoch later, whatever that epoch touches.
  if (onlyDeltas && part.touched.length === 0 && cone !== undefined && state.graph.pasts.length === 0)
    return undefined
  const isPlain = onlyDeltas && !(keyed && progress.answers !== undefined)
  return isPlain
    ? stageDeltas(state, record, part, progress, watcher)
    : yield* stagingCommands(state, record, part, progress, watcher)
}

const NO_PAGES: readonly PageRecord[] = []

/** The epoch changes nothing, not even pages that read the past. */
function stageVoid(record: LogRecord, watcher: ReplayWatcher): StagedRecord {
  return {
    plan: EMPTY_PLAN,
    frames: record.frames,
    createdBytes: 0,
    finish: (result) =>
      watcher.executed?.({ record, result, created: NO_PAGES, deleted: NO_PAGES, isOneWay: false }),
  }
}

/** What a record does to the pages of a cone; without a cone, all that it does. */
interface Part {
  readonly cone: Cone | undefined
  readonly touched: readonly number[]
  /** The frames, or one frame with the deltas to the cone. */
  readonly frames: Uint8Array
}

function partOf(record: LogRecord, cone: Cone | undefined): Part {
  const all = Array.from(record.touchedPages)
  const touched = cone === undefined ? all : all.filter((id) => cone.has(id))
  const isWhole = cone === undefined || touched.length === all.length
  return {
    cone,
    touched,
    frames: isWhole ? record.frames : pickDeltas(record.frames, (id) => cone.has(id)),
  }
}

function pendingWithin(pending: Pending, cone: Cone | undefined): Pending {
  if (cone === undefined) return pending
  const { writes, creates, deletes, redefines } = pending
  return {
    ...pending,
    writes: writes.filter((id) => cone.has(id)),
    creates: creates.filter(({ id }) => cone.has(id)),
    deletes: deletes.filter((id) => cone.has(id)),
    ...(redefines === undefined ? {} : { redefines: redefines.filter(({ id }) => cone.has(id)) }),
  }
}

/** Most epochs create and delete nothing, and the record itself lists the pages that its deltas write. */
function stageDeltas(
  state: EngineState,
  record: LogRecord,
  { touched, frames }: Part,
  progress: Progress,
  watcher: ReplayWatcher,
): StagedRecord {
  const plan = state.graph.plan(touched)
  return {
    plan,
    frames,
    createdBytes: 0,
    finish: (result) => {
      watcher.executed?.({ record, result, created: NO_PAGES, deleted: NO_PAGES, isOneWay: false })
      moveVersions(state, result, record.epoch, watcher)
      progress.digest = result.stateDigest()
    },
  }
}

function* stagingCommands(
  state: EngineState,
  record: LogRecord,
  { cone, frames }: Part,
  progress: Progress,
  watcher: ReplayWatcher,
): Sliced<StagedRecord> {
  const batch = new Batch(record.epoch, state)
  const { registry } = state
  const created = new Map<number, PageRecord>()
  const pageOf = (id: number): PageRecord | undefined => created.get(id) ?? registry.byId(id)
  const frameDeps = {
    nameOf: (id: number) => pageOf(id)?.name ?? `#${id}`,
    elementsOf: (id: number) => pageOf(id)?.elements ?? 0,
    worldAge: registry.functions.worldAge,
  }
  const pendings: Pending[] = []
  for (const bytes of splitFrames(record.frames)) {
    const read = pendingWithin(yield* readingLoggedFrame(decodeFrame(bytes), frameDeps), cone)
    for (const page of read.creates) created.set(page.id, page)
    const pending = progress.isPriced ? yield* pricing(read, pageOf) : read
    for (const page of pending.creates) {
      const ids = [page.id, ...(page.derived?.inputs ?? []).map(({ id }) => id)]
      progress.nextPageId = Math.max(progress.nextPageId, ...ids.map((id) => id + 1))
    }
    if ((yield* batch.staging(pending)) !== 'staged')
      throw new MmsbError('INTERNAL', `Epoch ${record.epoch} cannot be staged as it was.`)
    pendings.push(pending)
  }
  return {
    plan: batch.plan(),
    frames,
    createdBytes: batch.createdBytes,
    finish: (result) => {
      const { created: createdPages, deleted, isOneWay } = batch
      watcher.executed?.({ record, result, created: createdPages, deleted, isOneWay })
      moveVersions(state, result, record.epoch, watcher)
      progress.digest = result.stateDigest()
      batch.publish()
      if (batch.deleted.length > 0) progress.digest = state.context.stateDigest()
      if (progress.answers !== undefined) rememberAnswers(state, batch, pendings, progress.answers)
    },
  }
}

/** The same transaction with the estimates of what it defines. */
function* pricing(pending: Pending, pageOf: (id: number) => PageRecord | undefined): Sliced<Pending> {
  for (const [i, page] of pending.creates.entries()) {
    if (page.derived !== undefined) page.derived = priced(page.derived, page.elements, pageOf)
    if (i % PAGES_PER_CHECK === PAGES_PER_CHECK - 1) yield
  }
  if (pending.redefines === undefined) return pending
  const redefines: Redefinition[] = []
  for (const { id, derived } of pending.redefines) {
    redefines.push({ id, derived: priced(derived, pageOf(id)?.elements ?? 0, pageOf) })
    if (redefines.length % PAGES_PER_CHECK === 0) yield
  }
  return { ...pending, redefines }
}

/** What the writers of an epoch were answered, by idempotency key. */
function rememberAnswers(
  state: EngineState,
  batch: Batch,
  pendings: readonly Pending[],
  answers: IdempotencyKeys,
): void {
  for (const pending of pendings) {
    if (pending.key === undefined) continue
    const ids = [...pending.writes, ...pending.creates.map((page) => page.id)]
    const pages = ids
      .flatMap((id) => state.registry.byId(id) ?? batch.deletedPage(id) ?? [])
      .map((page) => [page.name, page.version] as const)
    const answer = { epoch: batch.epoch, pages: Object.fromEntries(pages) }
    answers.remember(pending.key, answer, fingerprintOf(pending.frame))
  }
}

function moveVersions(
  state: EngineState,
  result: ExecuteResult,
  epoch: number,
  watcher: ReplayWatcher,
): void {
  result.eachChangedId((id) => {
    const page = state.registry.byId(id)
    if (page === undefined) return
    watcher.changing?.(page)
    page.version = epoch
  })
}

/** Throws INTERNAL, naming both digests, when they differ. */
export function checkDigest(actual: Uint8Array, expected: Uint8Array, where: string): void {
  if (Buffer.compare(actual, expected) === 0) return
  throw new MmsbError(
    'INTERNAL',
    `The state diverges at ${where}: its digest is ${hex(actual)}, recorded was ${hex(expected)}.`,
  )
}
