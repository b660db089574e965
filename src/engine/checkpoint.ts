/**
 * The state of a bus as the store writes it into a checkpoint, and what the engine wants kept beside it.
 */
import { MmsbError } from '../errors.js'
import type { NativeContext } from '../ffi/context.js'
import type { Graph } from '../graph/graph.js'
import type { CheckpointPage, CheckpointSource } from '../store/types.js'
import { definitionFrame } from './door.js'
import { type FunctionRecord, FunctionTable } from './functions.js'
import type { PageRecord, Registry } from './registry.js'
import type { CommitResult } from './types.js'

/** What a checkpoint keeps for the engine, as JSON. */
export interface CheckpointExtra {
  readonly format: 1
  /** Idempotency keys and their answers, oldest first. */
  readonly answers: readonly (readonly [string, CommitResult])[]
  readonly worldAge?: number
  readonly functions?: readonly FunctionRecord[]
}

export interface CheckpointState {
  readonly registry: Registry
  readonly graph: Graph
  readonly context: NativeContext
  readonly epoch: number
  readonly timestampMs: number
  readonly digest: Uint8Array
  readonly nextPageId: number
  readonly answers: ReadonlyMap<string, CommitResult>
}

/** The source must be read while no epoch is in flight. */
export function checkpointSource(state: CheckpointState): CheckpointSource {
  const pages = [...state.registry.all()]
  const { functions } = state.registry
  const extra: CheckpointExtra = {
    format: 1,
    answers: [...state.answers],
    ...(functions.worldAge === 0 ? {} : { worldAge: functions.worldAge, functions: functions.all() }),
  }
  const pasts = state.graph.pasts.map((id): CheckpointPage => {
    const page = state.registry.byId(state.graph.node(id)?.pastOf as number) as PageRecord
    return { id, version: state.epoch, createdEpoch: page.createdEpoch, bytes: page.bytes, meta: NO_BYTES }
  })
  return {
    header: {
      epoch: state.epoch,
      timestampMs: state.timestampMs,
      digest: state.digest,
      nextPageId: state.nextPageId,
      extra: JSON.stringify(extra),
    },
    pages: [...pages.map(checkpointPage), ...pasts].sort((a, b) => a.id - b.id),
    read(pageId, offset, length) {
      const out = new Uint8Array(length)
      state.context.readPage(pageId, offset, out)
      return out
    },
  }
}

function checkpointPage(page: PageRecord): CheckpointPage {
  const { id, version, createdEpoch, bytes } = page
  return { id, version, createdEpoch, bytes, meta: definitionFrame(page) }
}

const NO_BYTES = new Uint8Array(0)

/** The functions that a checkpoint kept. */
export function tableOfCheckpoint({ worldAge = 0, functions = [] }: CheckpointExtra): FunctionTable {
  return new FunctionTable(worldAge, new Map(functions.map((record) => [record.name, record])))
}

/** Reads back what `checkpointSource` kept. Throws INTERNAL for a format of a newer version. */
export function parseCheckpointExtra(text: string): CheckpointExtra {
  const extra = JSON.parse(text) as { format: number }
  if (extra.format !== 1)
    throw new MmsbError('INTERNAL', `The checkpoint has an unknown format: ${extra.format}.`)
  return extra as CheckpointExtra
}
