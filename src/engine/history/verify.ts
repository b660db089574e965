/**
 * Verification: replays the log from a checkpoint or from its beginning, compares the digest of the state at
 * each epoch with the one recorded, and each checkpoint on the way with the state.
 *
 * Invariants: nothing is changed. Verification ends at the first divergence and names its epoch and, when it
 * can be determined, its page. A damaged checkpoint is a problem, not a divergence, since the log alone can
 * rebuild the state.
 *
 * Null because VerifyResult, a public type, promises it.
 */
import { MmsbError } from '../../errors.js'
import { NativeContext } from '../../ffi/context.js'
import type { HistoryReader } from '../../store/history.js'
import { DTYPE_INFO } from '../../wire/dtype.js'
import { hex } from '../pages/describe.js'
import type { PageRecord } from '../pages/registry.js'
import type { VerifyResult } from '../types.js'
import { Timeline } from './timeline.js'

export interface VerifyOptions {
  readonly reader: HistoryReader
  readonly from: number
  readonly to: number
  /** The expected digest of the state at `to`, when it is known. */
  readonly digest?: Uint8Array
  readonly quotaBytes?: number
  readonly onPause?: (epoch: number) => void
  /** See TimelineOptions. */
  readonly cancelledBy?: Int32Array
}

/** Replays from..to. Throws EPOCH_COMPACTED when `from` cannot be rebuilt. */
export function verifyPast(options: VerifyOptions): VerifyResult {
  const { reader, from, to } = options
  const problems: string[] = []
  const sound = new Map<number, string>()
  for (const epoch of reader.checkpointEpochs().reverse()) {
    const checkpoint = reader.openCheckpoint(epoch)
    if (typeof checkpoint === 'string') {
      // A running server may have deleted it since it was listed.
      if (!reader.checkpointEpochs().includes(epoch)) continue
      problems.push(`checkpoint ${epoch}: ${checkpoint}`)
      continue
    }
    sound.set(epoch, hex(checkpoint.header.digest))
    checkpoint.close()
  }
  const timeline = new Timeline({
    reader,
    undoEpochs: 0,
    neverJump: true,
    ...(options.quotaBytes === undefined ? {} : { quotaBytes: options.quotaBytes }),
    ...(options.onPause === undefined ? {} : { onPause: options.onPause }),
    ...(options.cancelledBy === undefined ? {} : { cancelledBy: options.cancelledBy }),
  })
  try {
    const divergence = walk(timeline, options, sound)
    const reached = divergence?.epoch ?? to
    const ok = divergence === undefined && problems.length === 0
    const epochs = Math.max(0, reached - from)
    return { ok, from, to, epochs, divergence: divergence ?? null, problems }
  } finally {
    timeline.close()
  }
}

type Divergence = NonNullable<VerifyResult['divergence']>

/** Replays from checkpoint to checkpoint, so that each is compared. */
function walk(
  timeline: Timeline,
  options: VerifyOptions,
  sound: ReadonlyMap<number, string>,
): Divergence | undefined {
  const { from, to, reader } = options
  const stops = [from, ...[...sound.keys()].filter((epoch) => epoch > from && epoch < to)]
  const seen = { epoch: from, changed: [] as string[] }
  for (const stop of [...stops, to]) {
    try {
      timeline.seek(stop, ({ record, result }) => {
        seen.epoch = record.epoch
        seen.changed = []
        result.eachChangedId((id) => {
          const page = timeline.registry.byId(id)
          if (page !== undefined) seen.changed.push(page.name)
        })
      })
    } catch (error) {
      if (!(error instanceof MmsbError) || error.code !== 'INTERNAL') throw error
      // A record that does not fit shows that the epoch before it diverged; an unreadable one is itself the
      // divergence.
      const own = error.extra?.epoch
      return typeof own === 'number'
        ? { epoch: own, page: null, detail: error.message }
        : { epoch: seen.epoch, page: only(seen.changed) ?? null, detail: error.message }
    }
    const expected =
      sound.get(stop) ?? (stop === to && options.digest !== undefined ? hex(options.digest) : undefined)
    const differs = expected !== undefined && expected !== hex(timeline.digest)
    const page = differs ? pageUnlike(timeline, reader, stop) : wrongDigest(timeline)
    if (differs || page !== undefined) {
      const detail = differs
        ? `The state's digest at epoch ${stop} is ${hex(timeline.digest)}, recorded was ${expected}.`
        : `The digest kept for page "${page}" is not the digest of its bytes.`
      return { epoch: stop, page: page ?? null, detail }
    }
  }
  return undefined
}

const only = (names: readonly string[]): string | undefined => (names.length === 1 ? names[0] : undefined)

/** The first page whose bytes differ from the checkpoint at this epoch. */
function pageUnlike(timeline: Timeline, reader: HistoryReader, epoch: number): string | undefined {
  const checkpoint = reader.openCheckpoint(epoch)
  if (typeof checkpoint === 'string') return wrongDigest(timeline)
  try {
    const unlike = new Set<number>()
    checkpoint.load((pageId, offset, bytes) => {
      const page = timeline.registry.byId(pageId)
      if (page === undefined) return
      const own = new Uint8Array(bytes.length)
      timeline.context.readPage(pageId, offset, own)
      if (Buffer.compare(own, bytes) !== 0) unlike.add(pageId)
    })
    const first = Math.min(...unlike)
    return unlike.size === 0 ? undefined : timeline.registry.byId(first)?.name
  } finally {
    checkpoint.close()
  }
}

/** The first page whose incrementally updated digest differs from the digest of all its bytes. */
function wrongDigest(timeline: Timeline): string | undefined {
  const scratch = new NativeContext({ backend: 'cpu', threads: 1, quotaBytes: 0 })
  try {
    for (const page of timeline.registry.all()) {
      if (recomputedDigest(scratch, timeline, page) !== hex(timeline.context.pageDigest(page.id)))
        return page.name
    }
    return undefined
  } finally {
    scratch.close()
  }
}

const PIECE_BYTES = 1024 ** 2

function recomputedDigest(scratch: NativeContext, timeline: Timeline, page: PageRecord): string {
  const { id, dtype, shape, bytes } = page
  scratch.createPages([{ id, dtypeCode: DTYPE_INFO[dtype].code, shape, location: 1, fill: 0n }])
  for (let at = 0; at < bytes; at += PIECE_BYTES) {
    const piece = new Uint8Array(Math.min(PIECE_BYTES, bytes - at))
    timeline.context.readPage(id, at, piece)
    scratch.loadPage(id, at, piece)
  }
  const digest = hex(scratch.pageDigest(id))
  scratch.destroyPages(Uint32Array.of(id))
  return digest
}
