/**
 * The older checkpoint that a new one is written against: where each chunk already lies, and which files are too thin to
 * be referred to any longer.
 *
 * Invariants: only tables whose root hash matched are believed; a chunk taken over from a thin file is checked against its
 * hash; a chunk in a thin file is never referred to, so that the file is needed no more once the new checkpoint is there.
 */
import { CHECKPOINT_CHUNK_BYTES, CHECKPOINT_FILES_MAX, CHECKPOINT_THIN_SHARE } from '../../limits.js'
import { type ChunkEntry, chunkEntry, closeFamily, type FileTables, openFamily } from './file-reader.js'
import type { CheckpointFolder } from './folder.js'
import { type ChunkRef, chunkCount, chunkHash, readRef } from './format.js'

/** A chunk of the base: where it lies, by the base's numbering of files. */
export interface BaseChunk extends ChunkRef {
  readonly entry: ChunkEntry
}

export interface CheckpointBase {
  readonly epoch: number
  /** The base's file and those it refers to. */
  readonly family: readonly FileTables[]
  /** Files that may be referred to, by index. */
  readonly isThin: readonly boolean[]
  /** Chunks that may be referred to, by their hash. */
  find(hash: Buffer): BaseChunk | undefined
  /** The chunks of a page: null for one of zeros. Throws when the base has no such page. */
  chunksOf(pageId: number, bytes: number): (BaseChunk | null)[]
  /** The bytes of a chunk, checked. */
  read(chunk: BaseChunk): Buffer
  close(): void
}

/** Opens the base; throws when it, or a file it refers to, is not there or not sound. */
export function openBase(place: CheckpointFolder, epoch: number, busId: string): CheckpointBase {
  const family = openFamily(place, epoch, busId)
  const rows = new Map((family[0] as FileTables).rows.map((row) => [row.id, row]))
  const known = new Map<string, BaseChunk>()
  const liveBytes = family.map(() => 0)
  const chunkOf = (refs: Uint8Array, index: number): BaseChunk | null => {
    const ref = readRef(refs, index)
    if (ref.pack === 0) return null
    const chunks = family[ref.file]?.packs.get(ref.pack)
    const entry = chunks === undefined ? undefined : chunkEntry(chunks, ref.slot)
    if (entry === undefined) throw new Error('the base refers to a chunk that is not there')
    return { ...ref, entry }
  }
  for (const row of rows.values()) {
    for (let i = 0; i < chunkCount(row.bytes); i++) {
      const chunk = chunkOf(row.refs, i)
      if (chunk === null) continue
      const key = chunk.entry.hash.toString('latin1')
      if (known.has(key)) continue
      known.set(key, chunk)
      liveBytes[chunk.file] = (liveBytes[chunk.file] ?? 0) + chunk.entry.length
    }
  }
  const isThin = thinFiles(family, liveBytes, place)
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

/** Files of which little is still used, and, when there are too many, those of which least is. */
function thinFiles(
  family: readonly FileTables[],
  liveBytes: readonly number[],
  place: CheckpointFolder,
): boolean[] {
  const isThin = family.map(
    ({ name }, i) => (liveBytes[i] ?? 0) < place.sizeBytes(name) * CHECKPOINT_THIN_SHARE,
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
