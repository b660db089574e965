/**
 * From a checkpoint and the records after it to a state, through the same staging and the same native execution as when
 * it was live. Recovery, replay and verification all go this way.
 *
 * Invariants: epochs follow one another without a gap; before each record the state's digest equals the one the record
 * carries, else INTERNAL is thrown, since the log and the state would tell different stories.
 */
import { MmsbError } from '../../errors.js'
import type { ExecuteResult } from '../../ffi/context.js'
import { decodeFrame, splitFrames } from '../../state/frame/reader.js'
import { scanFrames } from '../../state/frame/scan.js'
import type { CheckpointReader, LogRecord } from '../../store/types.js'
import { COMMAND_CREATE_PAGE } from '../../wire/frame.js'
import { parseCheckpointExtra, tableOfCheckpoint } from '../checkpoints/contents.js'
import { pendingOfLoggedFrame, recordOfLoggedCreate } from '../commands/transactions.js'
import { Batch, installPages, type StageRooms } from '../commit/batch.js'
import { hex } from '../pages/describe.js'
import type { PageRecord } from '../pages/registry.js'
import type { CommitResult } from '../types.js'

/** Where a state that is being rebuilt stands. */
export interface Progress {
  epoch: number
  digest: Uint8Array
  nextPageId: number
  timestampMs: number
  /** Idempotency keys and their answers, oldest first; undefined when nobody wants them. */
  readonly answers: (readonly [string, CommitResult])[] | undefined
}

/** What a watcher of a replay is shown of one epoch, after its execution and before its deletions are final. */
export interface ReplayedEpoch {
  readonly record: LogRecord
  readonly result: ExecuteResult
  /** Pages created and deleted, in order. A page may be in both. */
  readonly created: readonly PageRecord[]
  readonly deleted: readonly PageRecord[]
  /** It changed more of the structure than these: stepping back over it is not possible. */
  readonly isOneWay: boolean
}

export interface ReplayWatcher {
  /** A page's bytes have changed; its version is still the old one. */
  changing?(page: PageRecord): void
  /** The registry is still that of the epoch before. */
  executed?(epoch: ReplayedEpoch): void
}

/** The state before the first epoch. The rooms must be empty. */
export function emptyProgress(rooms: StageRooms, wantsAnswers: boolean): Progress {
  return {
    epoch: 0,
    digest: rooms.context.stateDigest(),
    nextPageId: 1,
    timestampMs: 0,
    answers: wantsAnswers ? [] : undefined,
  }
}

/** Fills empty rooms from a checkpoint. Throws INTERNAL when its bytes do not have its digest. */
export function loadCheckpoint(rooms: StageRooms, reader: CheckpointReader, wantsAnswers: boolean): Progress {
  const { header } = reader
  // Pasts have no definition: those who read them say whose they are.
  const pages = reader.pages.filter(({ meta }) => meta.byteLength > 0)
  const commands = pages.map((page) => {
    const [command] = decodeFrame(page.meta).commands
    if (command?.type !== COMMAND_CREATE_PAGE)
      throw new MmsbError('INTERNAL', `Checkpoint: page ${page.id} has no definition.`)
    return command
  })
  const names = new Map(commands.map(({ id, name }) => [id, name]))
  const records = pages.map(({ version, createdEpoch }, i) => {
    const command = commands[i] as (typeof commands)[number]
    return { ...recordOfLoggedCreate(command, (id) => names.get(id) ?? `#${id}`), version, createdEpoch }
  })
  installPages(rooms, records)
  const extra = parseCheckpointExtra(header.extra)
  rooms.registry.functions = tableOfCheckpoint(extra)
  reader.load((pageId, offset, bytes) => rooms.context.loadPage(pageId, offset, bytes))
  const digest = rooms.context.stateDigest()
  checkDigest(digest, header.digest, `the checkpoint of epoch ${header.epoch}`)
  return {
    epoch: header.epoch,
    digest,
    nextPageId: header.nextPageId,
    timestampMs: header.timestampMs,
    answers: wantsAnswers ? [...extra.answers] : undefined,
  }
}

/** Takes the state from one epoch to the next. */
export function replayRecord(
  rooms: StageRooms,
  record: LogRecord,
  progress: Progress,
  watcher: ReplayWatcher = {},
): void {
  if (record.epoch !== progress.epoch + 1) {
    throw new MmsbError(
      'INTERNAL',
      `The log goes on at epoch ${record.epoch}, but the state is at ${progress.epoch}.`,
    )
  }
  checkDigest(progress.digest, record.digestBefore, `the log before epoch ${record.epoch}`)
  const { onlyDeltas, keyed } = scanFrames(record.frames)
  if (onlyDeltas && !(keyed && progress.answers !== undefined)) replayDeltas(rooms, record, progress, watcher)
  else replayStaged(rooms, record, progress, watcher)
  progress.epoch = record.epoch
  progress.timestampMs = record.timestampMs
}

const NO_PAGES: readonly PageRecord[] = []

/** Most epochs: nothing is created or deleted, and the record says itself which pages the deltas write. */
function replayDeltas(
  rooms: StageRooms,
  record: LogRecord,
  progress: Progress,
  watcher: ReplayWatcher,
): void {
  const plan = rooms.graph.plan(Array.from(record.touchedPages))
  const result = rooms.context.execute(plan.steps, record.frames)
  watcher.executed?.({ record, result, created: NO_PAGES, deleted: NO_PAGES, isOneWay: false })
  moveVersions(rooms, result, record.epoch, watcher)
  progress.digest = result.stateDigest()
}

function replayStaged(
  rooms: StageRooms,
  record: LogRecord,
  progress: Progress,
  watcher: ReplayWatcher,
): void {
  const batch = new Batch(record.epoch, rooms)
  const { registry } = rooms
  const created = new Map<number, PageRecord>()
  const pageOf = (id: number): PageRecord | undefined => created.get(id) ?? registry.byId(id)
  const logRooms = {
    nameOf: (id: number) => pageOf(id)?.name ?? `#${id}`,
    elementsOf: (id: number) => pageOf(id)?.elements ?? 0,
    worldAge: registry.functions.worldAge,
  }
  const pendings = splitFrames(record.frames).map((bytes) => {
    const pending = pendingOfLoggedFrame(decodeFrame(bytes), logRooms)
    for (const page of pending.creates) {
      created.set(page.id, page)
      const ids = [page.id, ...(page.derived?.inputs ?? []).map(({ id }) => id)]
      progress.nextPageId = Math.max(progress.nextPageId, ...ids.map((id) => id + 1))
    }
    if (batch.stage(pending) !== 'staged')
      throw new MmsbError('INTERNAL', `Epoch ${record.epoch} cannot be staged as it was.`)
    return pending
  })
  const result = rooms.context.execute(batch.plan().steps, record.frames)
  const { created: createdPages, deleted, isOneWay } = batch
  watcher.executed?.({ record, result, created: createdPages, deleted, isOneWay })
  moveVersions(rooms, result, record.epoch, watcher)
  progress.digest = result.stateDigest()
  batch.publish()
  if (batch.deleted.length > 0) progress.digest = rooms.context.stateDigest()
  if (progress.answers === undefined) return
  for (const pending of pendings) {
    if (pending.key === undefined) continue
    const ids = [...pending.writes, ...pending.creates.map((page) => page.id)]
    const pages = ids
      .flatMap((id) => rooms.registry.byId(id) ?? [])
      .map((page) => [page.name, page.version] as const)
    progress.answers.push([pending.key, { epoch: record.epoch, pages: Object.fromEntries(pages) }])
  }
}

function moveVersions(rooms: StageRooms, result: ExecuteResult, epoch: number, watcher: ReplayWatcher): void {
  result.eachChangedId((id) => {
    const page = rooms.registry.byId(id)
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
