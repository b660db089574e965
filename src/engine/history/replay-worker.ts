/**
 * The replay thread: rebuilt states of the data folder that serve one request at a time. The protocol is
 * ReplayRequest in replay-client.ts.
 *
 * Invariants: it only reads the folder, and no record beyond the epochs of the request, which the caller
 * knows to be written. Every request is answered, with a value or with an error from the table. A cancelled
 * request ends soon.
 */
import { setPriority } from 'node:os'
import { parentPort, workerData } from 'node:worker_threads'
import { MmsbError } from '../../errors.js'
import { crc32c, ExecutionCancelled } from '../../ffi/library.js'
import { REPLAY_IDLE_MS, REPLAY_NICE } from '../../limits.js'
import { BinaryList, type JsonParts, jsonParts } from '../../state/json-parts.js'
import { patternSetOf } from '../../state/pattern.js'
import { valuesToJson } from '../../state/value.js'
import { HistoryReader } from '../../store/history.js'
import { textOf } from '../../store/os/errors.js'
import type { EpochInfo, EpochList, EpochOp, PageHistory } from '../types.js'
import { Timelines } from './cones/timelines.js'
import { pastEpochs } from './past-changes.js'
import { diffPast } from './past-diff.js'
import type { ReplayAnswer, ReplayMessage, ReplayRequest, ReplayWorkerData } from './replay-client.js'
import { epochPast, epochsPast, historyPast, peekPast, readPast } from './replay-queries.js'
import { Interrupted } from './timeline.js'
import { verifyPast } from './verify.js'

const { dir, identity, isReadOnly, quotaBytes, cancelled, ended, progress } = workerData as ReplayWorkerData

/**
 * Whoever reads the past waits for those who write the present: on Linux this is the priority of this thread
 * alone, and of those that it starts.
 */
if (process.platform === 'linux') setPriority(REPLAY_NICE)

/** Number of the current request. */
let current = 0
/** When the current request is given up. */
let untilMs = Number.POSITIVE_INFINITY

let idle: NodeJS.Timeout | undefined

class Cancelled extends Interrupted {}

class TooLong extends Interrupted {}

function pause(epoch: number): void {
  if (Atomics.load(cancelled, 0) >= current) throw new Cancelled('the request was cancelled')
  if (performance.now() >= untilMs)
    throw new TooLong(`The replay was given up at epoch ${epoch}, because it takes too long.`)
  Atomics.store(progress, 0, BigInt(epoch))
}

const reader = new HistoryReader({ dir, identity, crc32c, isOffline: isReadOnly })
const timelines = new Timelines({ reader, quotaBytes, cancelledBy: ended, onPause: pause })

function answer(caller: number, request: ReplayRequest): unknown {
  const visible =
    'visible' in request && request.visible !== undefined ? patternSetOf(request.visible) : undefined
  const asker = { timelines, caller, visible }
  switch (request.kind) {
    case 'peek':
      return peekPast(asker, request.epoch, request.name)
    case 'read':
      return readPast(asker, request.epoch, request.pages)
    case 'epoch':
      return epochPast(asker, request.epoch)
    case 'epochs':
      return epochsPast(asker, request.query)
    case 'history':
      return historyPast(asker, request.name, request.query)
    case 'diff':
      return diffPast(asker, request.from, request.to, request.names)
    case 'changes':
      return pastEpochs(asker, request.query, request.sliceMs)
    case 'verify':
      return verifyPast({ reader, quotaBytes, cancelledBy: ended, onPause: pause, ...request })
  }
}

/** What an epoch did, with its lists as JSON values. */
function plainEpoch(info: EpochInfo): EpochInfo {
  const transactions = info.transactions.map(({ ops, ...rest }) => ({ ...rest, ops: ops.map(plainOp) }))
  return { ...info, transactions }
}

function plainOp(op: EpochOp): EpochOp {
  const fields = Object.entries(op).map(([name, field]: [string, unknown]) => {
    return [name, field instanceof BinaryList ? valuesToJson(field.dtype, field.values) : field]
  })
  return Object.fromEntries(fields) as EpochOp
}

/** The answer in the form that the request asks for. */
function formed(request: ReplayRequest, value: unknown): unknown {
  if (request.kind === 'history' && request.mustExist === true) {
    const { name, versions, next } = value as PageHistory
    if (versions.length === 0 && next === null) {
      throw new MmsbError('PAGE_NOT_FOUND', `There was no page "${name}" in these epochs.`)
    }
  }
  if ('asJson' in request && request.asJson === true) return jsonParts(value)
  if (request.kind === 'epoch') return plainEpoch(value as EpochInfo)
  if (request.kind !== 'epochs') return value
  const { epochs, next } = value as EpochList
  return { epochs: epochs.map(plainEpoch), next }
}

/** Buffers of the pages read, or of the parts of JSON, which can be transferred instead of copied. */
function buffersOf(value: unknown): ArrayBuffer[] {
  const { parts } = value as Partial<JsonParts>
  const items: readonly unknown[] = Array.isArray(value) ? value : (parts ?? [])
  return items.map((item) => {
    const bytes = item instanceof Uint8Array ? item : (item as { values: ArrayBufferView }).values
    return bytes.buffer as ArrayBuffer
  })
}

function failureOf(error: unknown): ReplayAnswer {
  if (error instanceof ExecutionCancelled) {
    const detail = 'The replay was given up within an epoch, because it takes too long.'
    return { failure: { code: 'COST_EXCEEDED', detail } }
  }
  if (error instanceof MmsbError) {
    return { failure: { code: error.code, detail: error.message, extra: error.extra } }
  }
  if (error instanceof TooLong) return { failure: { code: 'COST_EXCEEDED', detail: error.message } }
  return { failure: { code: 'INTERNAL', detail: textOf(error) } }
}

parentPort?.on('message', ({ id, number, caller, limitMs, request }: ReplayMessage) => {
  current = number
  untilMs = performance.now() + (limitMs ?? Number.POSITIVE_INFINITY)
  try {
    pause(0)
    const value = formed(request, answer(caller, request))
    parentPort?.postMessage({ id, value: { value } satisfies ReplayAnswer }, buffersOf(value))
  } catch (error) {
    parentPort?.postMessage({ id, value: failureOf(error) })
  }
  timelines.trim(false)
  clearTimeout(idle)
  idle = setTimeout(() => timelines.trim(true), REPLAY_IDLE_MS)
})
