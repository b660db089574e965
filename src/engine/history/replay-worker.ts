/**
 * The replay thread: a timeline over the data folder that serves one request at a time. The protocol is
 * ReplayRequest in replay-client.ts.
 *
 * Invariants: it only reads the folder, and no record beyond the epochs of the request, which the caller
 * knows to be written. Every request is answered, with a value or with an error from the table. A cancelled
 * request ends soon.
 */
import { parentPort, workerData } from 'node:worker_threads'
import { MmsbError } from '../../errors.js'
import { crc32c } from '../../ffi/library.js'
import { HistoryReader } from '../../store/history.js'
import { pastEpochs } from './past-changes.js'
import { diffPast } from './past-diff.js'
import type { ReplayAnswer, ReplayMessage, ReplayRequest, ReplayWorkerData } from './replay-client.js'
import { epochPast, epochsPast, historyPast, peekPast, readPast } from './replay-queries.js'
import { Timeline } from './timeline.js'
import { verifyPast } from './verify.js'

const { dir, identity, quotaBytes, cancelled, progress } = workerData as ReplayWorkerData

/** Number of the current request. */
let current = 0

class Cancelled extends Error {}

function pause(epoch: number): void {
  if (Atomics.load(cancelled, 0) >= current) throw new Cancelled('the request was cancelled')
  Atomics.store(progress, 0, BigInt(epoch))
}

const reader = new HistoryReader({ dir, identity, crc32c })
const timeline = new Timeline({ reader, quotaBytes, onPause: pause })

function answer(request: ReplayRequest): unknown {
  switch (request.kind) {
    case 'peek':
      return peekPast(timeline, request.epoch, request.name)
    case 'read':
      return readPast(timeline, request.epoch, request.pages)
    case 'epoch':
      return epochPast(timeline, request.epoch)
    case 'epochs':
      return epochsPast(timeline, request.query)
    case 'history':
      return historyPast(timeline, request.name, request.query)
    case 'diff':
      return diffPast(timeline, request.from, request.to, request.names)
    case 'changes':
      return pastEpochs(timeline, request.query)
    case 'verify':
      return verifyPast({ reader, quotaBytes, onPause: pause, ...request })
  }
}

/** Buffers that can be transferred instead of copied. */
function buffersOf(value: unknown): ArrayBuffer[] {
  if (!Array.isArray(value)) return []
  return value.flatMap((item: { values?: { buffer: ArrayBuffer } }) => item.values?.buffer ?? [])
}

function failureOf(error: unknown): ReplayAnswer {
  if (error instanceof MmsbError) {
    return { failure: { code: error.code, detail: error.message, extra: error.extra } }
  }
  return { failure: { code: 'INTERNAL', detail: error instanceof Error ? error.message : String(error) } }
}

parentPort?.on('message', ({ id, number, request }: ReplayMessage) => {
  current = number
  try {
    pause(0)
    const value = answer(request)
    parentPort?.postMessage({ id, value: { value } satisfies ReplayAnswer }, buffersOf(value))
  } catch (error) {
    parentPort?.postMessage({ id, value: failureOf(error) })
  }
})
