/**
 * The base of a new checkpoint, an older one: where each of its chunks lies, and which of its files are
 * *thin*: so little of them is still used that new checkpoints no longer refer to them.
 *
 * Invariants: only tables whose root hash matched are trusted. A chunk copied from a thin file is checked
 * against its hash. No chunk of a thin file is referred to, so the file is no longer needed once the new
 * checkpoint exists.
 */
import { CHECKPOINT_CHUNK_BYTES, CHECKPOINT_FILES_MAX, CHECKPOINT_THIN_SHARE } from '../../limits.js'
import { type ChunkEntry, chunkEntry, closeFamily, type FileTables, openFamily } from './file-reader.js'
import type { CheckpointFolder } from './folder.js'
import { type ChunkRef, chunkCount, chunkHash, readRef } from './format.js'

/** A chunk of the base. `file` is the base's number of the file. */
export interface BaseChunk extends ChunkRef {
  readonly entry: ChunkEntry
}

export interface CheckpointBase {
  readonly epoch: number
  /** The base's file and those it refers to. */
  readonly family: readonly FileTables[]
  /** By index in `family`. */
  readonly isThin: readonly boolean[]
  /** The chunk with this hash, if one may be referred to. */
  find(hash: Buffer): BaseChunk | undefined
  /** The chunks of a page; undefined for a chunk of zeros. Throws when the base has no such page. */
  chunksOf(pageId: number, bytes: number): (BaseChunk | undefined)[]
  /** The bytes of a chunk, checked. */
  read(chunk: BaseChunk): Buffer
  close(): void
}

/** Opens the base. Throws when it, or a file it refers to, is missing or not sound. */
export function openBase(folder: CheckpointFolder, epoch: number, busId: string): CheckpointBase {
  const family = openFamily(folder, epoch, busId)
  try {
    return baseOf(folder, epoch, family)
  } catch (error) {
    closeFamily(family)
    throw error
  }
}

function baseOf(folder: CheckpointFolder, epoch: number, family: readonly FileTables[]): CheckpointBase {
  const rows = new Map((family[0] as FileTables).rows.map((row) => [row.id, row]))
  const known = new Map<string, BaseChunk>()
  const liveBytes = family.map(() => 0)
  const chunkOf = (refs: Uint8Array, index: number): BaseChunk | undefined => {
    const ref = readRef(refs, index)
    if (ref.pack === 0) return undefined
    const chunks = family[ref.file]?.packs.get(ref.pack)
    const entry = chunks === undefined ? undefined : chunkEntry(chunks, ref.slot)
    if (entry === undefined) throw new Error('the base refers to a chunk that is not there')
    return { ...ref, entry }
  }
  for (const row of rows.values()) {
    for (let i = 0; i < chunkCount(row.bytes); i++) {
      const chunk = chunkOf(row.refs, i)
      if (chunk === undefined) continue
      const key = chunk.entry.hash.toString('latin1')
      if (known.has(key)) continue
      known.set(key, chunk)
      liveBytes[chunk.file] = (liveBytes[chunk.file] ?? 0) + chunk.entry.length
    }
  }
  const isThin = thinFiles(family, liveBytes, folder)
  return {
    epoch,
    family,
    isThin,
    find(hash) {
      const chunk = known.get(hash.toString('latin1'))
      return chunk === undefined || isThin[chunk.file] === true ? undefined : chunk
    },
    chunksOf(pageId, bytes) {
      const row = rows.get(pageId)
      if (row === undefined || row.bytes !== bytes)
        throw new Error(`checkpoint ${epoch} does not have page ${pageId} with ${bytes} bytes`)
      return Array.from({ length: chunkCount(bytes) }, (_, i) => chunkOf(row.refs, i))
    },
    read: (chunk) => readChunk(family, chunk),
    close: () => closeFamily(family),
  }
}

/** Files of which little is used; if too many others remain, also those of which least is used. */
function thinFiles(
  family: readonly FileTables[],
  liveBytes: readonly number[],
  folder: CheckpointFolder,
): boolean[] {
  const isThin = family.map(
    ({ name }, i) => (liveBytes[i] ?? 0) < folder.sizeBytes(name) * CHECKPOINT_THIN_SHARE,
  )
  const kept = [...family.keys()]
    .filter((i) => !isThin[i])
    .sort((a, b) => (liveBytes[b] ?? 0) - (liveBytes[a] ?? 0))
  for (const i of kept.slice(CHECKPOINT_FILES_MAX - 1)) isThin[i] = true
  return isThin
}

function readChunk(family: readonly FileTables[], { file, pack, entry }: BaseChunk): Buffer {
  const { db } = family[file] as FileTables
  const data = db.prepare('SELECT data FROM pack WHERE id = ?').pluck().get(pack) as Buffer | undefined
  const bytes = data?.subarray(entry.offset, entry.offset + entry.length)
  if (bytes === undefined || bytes.length > CHECKPOINT_CHUNK_BYTES || !chunkHash(bytes).equals(entry.hash))
    throw new Error(`a chunk of the file ${family[file]?.stem} does not match its hash`)
  return bytes
}
