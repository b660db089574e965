/**
 * The state of a bus as the store writes it into a checkpoint, and what the engine wants kept beside it.
 */
import { MmsbError } from '../errors.js'
import type { NativeContext } from '../ffi/context.js'
import type { CheckpointSource } from '../store/types.js'
import { definitionFrame } from './door.js'
import type { Registry } from './registry.js'
import type { CommitResult } from './types.js'

/** What a checkpoint keeps for the engine, as JSON. */
export interface CheckpointExtra {
  readonly format: 1
  /** Idempotency keys and their answers, oldest first. */
  readonly answers: readonly (readonly [string, CommitResult])[]
}

export interface CheckpointState {
  readonly registry: Registry
  readonly context: NativeContext
  readonly epoch: number
  readonly timestampMs: number
  readonly digest: Uint8Array
  readonly nextPageId: number
  readonly answers: ReadonlyMap<string, CommitResult>
}

/** The source must be read while no epoch is in flight. */
export function checkpointSource(state: CheckpointState): CheckpointSource {
  const pages = [...state.registry.all()].sort((a, b) => a.id - b.id)
  const extra: CheckpointExtra = { format: 1, answers: [...state.answers] }
  return {
    header: {
      epoch: state.epoch,
      timestampMs: state.timestampMs,
      digest: state.digest,
      nextPageId: state.nextPageId,
      extra: JSON.stringify(extra),
    },
    pages: pages.map((page) => ({
      id: page.id,
      version: page.version,
      createdEpoch: page.createdEpoch,
      bytes: page.bytes,
      meta: definitionFrame(page),
    })),
    read(pageId, offset, length) {
      const out = new Uint8Array(length)
      state.context.readPage(pageId, offset, out)
      return out
    },
  }
}

/** Reads back what `checkpointSource` kept. Throws INTERNAL for a format of a newer version. */
export function parseCheckpointExtra(text: string): CheckpointExtra {
  const extra = JSON.parse(text) as { format: number }
  if (extra.format !== 1)
    throw new MmsbError('INTERNAL', `The checkpoint has an unknown format: ${extra.format}.`)
  return extra as CheckpointExtra
}
