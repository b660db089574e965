/**
 * Rebuilding the state at start: the newest checkpoint, then every record of the log after it, through the same staging
 * and the same native execution as when it was live.
 *
 * Invariants: epochs follow one another without a gap; before each record the state's digest equals the one the record
 * carries, else start is refused, since the log and the state would tell different stories.
 */
import { MmsbError } from '../errors.js'
import { COMMAND_CREATE_PAGE, decodeFrame, splitFrames } from '../state/frame.js'
import type { Store } from '../store/store.js'
import type { LogRecord } from '../store/types.js'
import { Batch, installPage, type StageRooms } from './batch.js'
import { parseCheckpointExtra } from './checkpoint.js'
import { pendingOfLoggedFrame, recordOfLoggedCreate } from './door.js'
import { hex } from './inspect.js'
import type { BusOptions, CommitResult } from './types.js'

const PROGRESS_INTERVAL_MS = 1_000

export interface Recovered {
  readonly epoch: number
  readonly digest: Uint8Array
  readonly nextPageId: number
  readonly timestampMs: number
  readonly answers: readonly (readonly [string, CommitResult])[]
}

interface Progress {
  epoch: number
  digest: Uint8Array
  nextPageId: number
  timestampMs: number
  readonly answers: (readonly [string, CommitResult])[]
}

/** Fills the rooms from the store. Throws INTERNAL when checkpoint and log do not agree. */
export async function recover(
  rooms: StageRooms,
  store: Store,
  onNotice: BusOptions['onNotice'],
): Promise<Recovered> {
  const progress = loadCheckpoint(rooms, store)
  const startedMs = performance.now()
  let reportedMs = startedMs
  let replayed = 0
  for (const record of store.records(progress.epoch)) {
    replayRecord(rooms, record, progress)
    replayed++
    const nowMs = performance.now()
    if (nowMs - reportedMs < PROGRESS_INTERVAL_MS) continue
    reportedMs = nowMs
    const message = `recovering: epoch ${record.epoch} of ${store.recovery.newestEpoch}`
    onNotice?.({ level: 'info', message })
    await new Promise((resolve) => setImmediate(resolve))
  }
  if (replayed > 0) {
    const ms = Math.round(performance.now() - startedMs)
    onNotice?.({
      level: 'info',
      message: `recovered epoch ${progress.epoch}: ${replayed} epochs replayed in ${ms} ms`,
    })
  }
  return progress
}

function loadCheckpoint(rooms: StageRooms, store: Store): Progress {
  const progress: Progress = {
    epoch: 0,
    digest: rooms.context.stateDigest(),
    nextPageId: 1,
    timestampMs: 0,
    answers: [],
  }
  const reader = store.openCheckpoint()
  if (reader === null) return progress
  try {
    const { header } = reader
    for (const page of reader.pages) {
      const [command] = decodeFrame(page.meta).commands
      if (command?.type !== COMMAND_CREATE_PAGE)
        throw new MmsbError('INTERNAL', `Checkpoint: page ${page.id} has no definition.`)
      const record = recordOfLoggedCreate(command, (id) => rooms.registry.byId(id)?.name ?? `#${id}`)
      record.version = page.version
      record.createdEpoch = page.createdEpoch
      installPage(rooms, record)
    }
    reader.load((pageId, offset, bytes) => rooms.context.loadPage(pageId, offset, bytes))
    progress.epoch = header.epoch
    progress.timestampMs = header.timestampMs
    progress.nextPageId = header.nextPageId
    progress.answers.push(...parseCheckpointExtra(header.extra).answers)
    progress.digest = rooms.context.stateDigest()
    checkDigest(progress.digest, header.digest, `the checkpoint of epoch ${header.epoch}`)
    return progress
  } finally {
    reader.close()
  }
}

function replayRecord(rooms: StageRooms, record: LogRecord, progress: Progress): void {
  if (record.epoch !== progress.epoch + 1) {
    throw new MmsbError(
      'INTERNAL',
      `The log goes on at epoch ${record.epoch}, but the state is at ${progress.epoch}.`,
    )
  }
  checkDigest(progress.digest, record.digestBefore, `the log before epoch ${record.epoch}`)
  const batch = new Batch(record.epoch, rooms)
  const created = new Map<number, string>()
  const nameOf = (id: number): string => created.get(id) ?? rooms.registry.byId(id)?.name ?? `#${id}`
  const pendings = splitFrames(record.frames).map((bytes) => {
    const pending = pendingOfLoggedFrame(decodeFrame(bytes), nameOf)
    for (const page of pending.creates) {
      created.set(page.id, page.name)
      progress.nextPageId = Math.max(progress.nextPageId, page.id + 1)
    }
    batch.stage(pending)
    return pending
  })
  const result = rooms.context.execute(batch.plan().steps, record.frames)
  result.eachChangedId((id) => {
    const page = rooms.registry.byId(id)
    if (page !== undefined) page.version = record.epoch
  })
  progress.digest = result.stateDigest()
  batch.publish()
  if (batch.deleted.length > 0) progress.digest = rooms.context.stateDigest()
  progress.epoch = record.epoch
  progress.timestampMs = record.timestampMs
  for (const pending of pendings) {
    if (pending.key === undefined) continue
    const ids = [...pending.writes, ...pending.creates.map((page) => page.id)]
    const pages = ids
      .flatMap((id) => rooms.registry.byId(id) ?? [])
      .map((page) => [page.name, page.version] as const)
    progress.answers.push([pending.key, { epoch: record.epoch, pages: Object.fromEntries(pages) }])
  }
}

function checkDigest(actual: Uint8Array, expected: Uint8Array, where: string): void {
  if (Buffer.compare(actual, expected) === 0) return
  throw new MmsbError(
    'INTERNAL',
    `The state diverges at ${where}: its digest is ${hex(actual)}, recorded was ${hex(expected)}.`,
  )
}
