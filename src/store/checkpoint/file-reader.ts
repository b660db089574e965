/**
 * Reads checkpoint files: verifies a checkpoint completely, including the chunks it refers to in other files,
 * and hands out its pages and chunks.
 *
 * Invariants: a reader exists only for a checkpoint whose tables, and those of every file it refers to, match
 * their root hashes, and whose every chunk matches its own hash. Opening never changes a file. Knows nothing
 * of what pages mean.
 */
import type Database from 'better-sqlite3'
import { CHECKPOINT_CHUNK_BYTES } from '../../limits.js'
import { atOnce, type Sliced } from '../../slices.js'
import { textOf } from '../os/errors.js'
import type { CheckpointHeader, CheckpointInfo, CheckpointPage, CheckpointReader, OnChunk } from '../types.js'
import { type CheckpointFolder, checkpointEpochs, fileOf } from './folder.js'
import {
  CHECKPOINT_APPLICATION_ID,
  CHECKPOINT_SCHEMA_VERSION,
  CHUNK_ENTRY_BYTES,
  CHUNK_HASH_BYTES,
  checkpointName,
  checkpointStem,
  chunkCount,
  chunkHash,
  type FileRow,
  META_KEYS,
  type MetaKey,
  type PageRow,
  REF_BYTES,
  RootHash,
  readRef,
} from './format.js'

class Damage extends Error {}

/** Chunks, and rows of tables, between two places where reading may be interrupted. */
const CHUNKS_PER_CHECK = 16
const ROWS_PER_CHECK = 256

/** The tables of one file, checked against its root hash, without the bytes of the chunks. */
export interface FileTables {
  readonly stem: string
  readonly name: string
  readonly db: Database.Database
  readonly meta: ReadonlyMap<MetaKey, Buffer>
  readonly files: readonly FileRow[]
  readonly rows: readonly PageRow[]
  /** The list of chunks of each pack. */
  readonly packs: ReadonlyMap<number, Buffer>
  readonly root: Buffer
}

/** Opens a file and checks its tables. Throws when it is missing or not sound. The caller closes `db`. */
function* openingTables(folder: CheckpointFolder, stem: string): Sliced<FileTables> {
  const name = fileOf(folder, stem)
  if (name === undefined) throw new Damage('the file is missing')
  const db = folder.open(name)
  let opened: FileTables | undefined
  try {
    opened = { stem, name, db, ...(yield* readingTables(db)) }
    return opened
  } finally {
    if (opened === undefined) db.close()
  }
}

function* readingTables(db: Database.Database): Sliced<Omit<FileTables, 'stem' | 'name' | 'db'>> {
  if (db.pragma('application_id', { simple: true }) !== CHECKPOINT_APPLICATION_ID) {
    throw new Damage('it is not a checkpoint')
  }
  const version = Number(db.pragma('user_version', { simple: true }))
  if (version < 1 || version > CHECKPOINT_SCHEMA_VERSION)
    throw new Damage(`its version ${version} is not known to this release`)
  const root = new RootHash()
  const meta = readMeta(db, root)
  const files = version === 1 ? [] : (db.prepare('SELECT * FROM file ORDER BY idx').all() as FileRow[])
  for (const row of files) root.file(row)
  const rows: PageRow[] = []
  for (;;) {
    const after = rows.at(-1)?.id ?? -1
    const more = db.prepare(SELECT_PAGES).all(after, ROWS_PER_CHECK) as PageRow[]
    for (const row of more) root.page(row)
    rows.push(...more)
    if (more.length < ROWS_PER_CHECK) break
    yield
  }
  const packs = new Map<number, Buffer>()
  const select = db.prepare('SELECT id, chunks, length(data) AS bytes FROM pack ORDER BY id')
  for (const pack of select.iterate() as IterableIterator<{ id: number; chunks: Buffer; bytes: number }>) {
    root.pack(pack.id, pack.chunks, pack.bytes)
    packs.set(pack.id, pack.chunks)
    if (packs.size % ROWS_PER_CHECK === 0) yield
  }
  const stored = db.prepare("SELECT value FROM meta WHERE key = 'root'").get() as
    | { value: Buffer }
    | undefined
  const digest = root.digest()
  if (stored === undefined || !digest.equals(stored.value))
    throw new Damage('its tables do not match their hash')
  return { meta, files, rows, packs, root: digest }
}

function readMeta(db: Database.Database, root: RootHash): Map<MetaKey, Buffer> {
  const select = db.prepare('SELECT value FROM meta WHERE key = ?')
  const meta = new Map<MetaKey, Buffer>()
  for (const key of META_KEYS) {
    const row = select.get(key) as { value: Buffer } | undefined
    if (row === undefined || !Buffer.isBuffer(row.value)) throw new Damage(`its ${key} is missing`)
    root.meta(key, row.value)
    meta.set(key, row.value)
  }
  return meta
}

const SELECT_PAGES = 'SELECT * FROM page WHERE id > ? ORDER BY id LIMIT ?'

/**
 * The tables of a checkpoint (number 0) and of the files it refers to, in the order of its references'
 * numbers.
 */
export function openFamily(folder: CheckpointFolder, epoch: number, busId: string | undefined): FileTables[] {
  return atOnce(openingFamily(folder, epoch, busId))
}

function* openingFamily(
  folder: CheckpointFolder,
  epoch: number,
  busId: string | undefined,
): Sliced<FileTables[]> {
  const family: FileTables[] = []
  let isWhole = false
  try {
    const own = yield* openingTables(folder, checkpointStem(epoch))
    family.push(own)
    const text = (key: MetaKey): string => own.meta.get(key)?.toString('utf8') ?? ''
    if (busId !== undefined && text('bus_id') !== busId) throw new Damage('it belongs to another bus')
    if (Number(text('epoch')) !== epoch) throw new Damage('its name and its epoch differ')
    for (const { idx, name, root } of own.files) {
      if (idx !== family.length) throw new Damage('its list of files has a gap')
      family.push(yield* openingReferred(folder, name, root))
    }
    isWhole = true
    return family
  } finally {
    if (!isWhole) closeFamily(family)
  }
}

function* openingReferred(folder: CheckpointFolder, stem: string, root: Buffer): Sliced<FileTables> {
  let tables: FileTables | undefined
  try {
    tables = yield* openingTables(folder, stem)
  } catch (error) {
    throw new Damage(`the file ${stem}, whose chunks it needs: ${textOf(error)}`)
  }
  if (tables.root.equals(root)) return tables
  tables.db.close()
  throw new Damage(`the file ${stem}, whose chunks it needs, has changed`)
}

export function closeFamily(family: readonly FileTables[]): void {
  for (const { db } of family) db.close()
}

export interface ChunkEntry {
  readonly hash: Buffer
  readonly offset: number
  readonly length: number
}

/** The entry of a chunk in a pack's list; undefined when there is no such chunk. */
export function chunkEntry(chunks: Buffer, slot: number): ChunkEntry | undefined {
  const at = slot * CHUNK_ENTRY_BYTES
  if (at + CHUNK_ENTRY_BYTES > chunks.length) return undefined
  return {
    hash: chunks.subarray(at, at + CHUNK_HASH_BYTES),
    offset: chunks.readUInt32LE(at + CHUNK_HASH_BYTES),
    length: chunks.readUInt32LE(at + CHUNK_HASH_BYTES + 4),
  }
}

export class CheckpointFile implements CheckpointReader {
  readonly header: CheckpointHeader
  readonly pages: readonly CheckpointPage[]
  readonly info: CheckpointInfo
  readonly #family: readonly FileTables[]
  readonly #uses: readonly PackUses[]

  /** For openCheckpointFile only, which verifies the chunks. */
  constructor(family: readonly FileTables[], uses: readonly PackUses[]) {
    const own = family[0] as FileTables
    this.#family = family
    this.#uses = uses
    this.header = headerOf(own.meta)
    this.pages = pagesOf(own)
    this.info = infoOf(own)
  }

  /** Passes over the packs of each file once, in their order on disk. The bytes are valid during the call. */
  load(onChunk: OnChunk, wants?: (pageId: number) => boolean): void {
    atOnce(this.loading(onChunk, wants))
  }

  *loading(onChunk: OnChunk, wants?: (pageId: number) => boolean): Sliced<void> {
    for (const [file, packs] of this.#uses.entries()) {
      const tables = this.#family[file] as FileTables
      for (const { data, chunks, used } of packsOf(
        tables,
        wants === undefined ? packs : usesFor(packs, wants),
      )) {
        // A chunk that is stored once may be used by a whole page.
        for (const [i, { slot, pageId, offset }] of used.entries()) {
          onChunk(pageId, offset, bytesOf(data, chunkEntry(chunks, slot) as ChunkEntry))
          if (i % CHUNKS_PER_CHECK === 0) yield
        }
      }
    }
  }

  close(): void {
    closeFamily(this.#family)
  }
}

function headerOf(meta: ReadonlyMap<MetaKey, Buffer>): CheckpointHeader {
  const text = (key: MetaKey): string => meta.get(key)?.toString('utf8') ?? ''
  return {
    epoch: Number(text('epoch')),
    timestampMs: Number(text('timestamp_ms')),
    digest: new Uint8Array(meta.get('digest') ?? []),
    nextPageId: Number(text('next_page_id')),
    extra: text('extra'),
  }
}

function infoOf({ db, meta, name }: FileTables): CheckpointInfo {
  const number = (key: MetaKey): number => Number(meta.get(key)?.toString('utf8'))
  return {
    epoch: number('epoch'),
    pages: number('pages'),
    bytes: number('bytes'),
    newBytes: db.prepare('SELECT coalesce(sum(length(data)), 0) FROM pack').pluck().get() as number,
    ms: 0,
    file: name,
  }
}

/**
 * The list entry of a checkpoint, with its tables checked but not its chunks; undefined when it cannot be
 * read. In slices.
 */
export function* readingInfo(
  folder: CheckpointFolder,
  epoch: number,
  busId: string | undefined,
): Sliced<CheckpointInfo | undefined> {
  try {
    const family = yield* openingFamily(folder, epoch, busId)
    const info = infoOf(family[0] as FileTables)
    closeFamily(family)
    return info
  } catch {
    return undefined
  }
}

const pagesOf = ({ rows }: FileTables): CheckpointPage[] =>
  rows.map(({ id, version, created_epoch, bytes, meta }) => ({
    id,
    version,
    createdEpoch: created_epoch,
    bytes,
    meta,
  }))

/**
 * The list of pages of a checkpoint, with its tables checked but not its chunks; undefined like readingInfo.
 */
export function readPages(
  folder: CheckpointFolder,
  epoch: number,
  busId: string | undefined,
): CheckpointPage[] | undefined {
  try {
    const family = openFamily(folder, epoch, busId)
    closeFamily(family)
    return pagesOf(family[0] as FileTables)
  } catch {
    return undefined
  }
}

interface ChunkUse {
  readonly slot: number
  readonly pageId: number
  readonly offset: number
}

/** Where the chunks of one file are used, by pack. */
type PackUses = Map<number, ChunkUse[]>

/** Finds the uses of every chunk, by file. Throws when a reference names no chunk of the right length. */
function* findingUses(family: readonly FileTables[]): Sliced<PackUses[]> {
  const uses: PackUses[] = family.map(() => new Map())
  let seen = 0
  for (const row of (family[0] as FileTables).rows) {
    const count = chunkCount(row.bytes)
    if (row.refs.length !== count * REF_BYTES)
      throw new Damage(`page ${row.id} has ${row.refs.length} bytes of references`)
    for (let i = 0; i < count; i++) {
      if (++seen % ROWS_PER_CHECK === 0) yield
      const { pack, slot, file } = readRef(row.refs, i)
      if (pack === 0) continue
      const offset = i * CHECKPOINT_CHUNK_BYTES
      const chunks = family[file]?.packs.get(pack)
      const entry = chunks === undefined ? undefined : chunkEntry(chunks, slot)
      if (entry?.length !== Math.min(CHECKPOINT_CHUNK_BYTES, row.bytes - offset))
        throw new Damage(`page ${row.id} refers to a chunk that is not there`)
      const packs = uses[file] as PackUses
      const list = packs.get(pack)
      if (list === undefined) packs.set(pack, [{ slot, pageId: row.id, offset }])
      else list.push({ slot, pageId: row.id, offset })
    }
  }
  return uses
}

/** The uses by pages that are wanted. */
function usesFor(packs: PackUses, wants: (pageId: number) => boolean): PackUses {
  const uses: PackUses = new Map()
  for (const [pack, all] of packs) {
    const wanted = all.filter(({ pageId }) => wants(pageId))
    if (wanted.length > 0) uses.set(pack, wanted)
  }
  return uses
}

const bytesOf = (data: Buffer, { offset, length }: ChunkEntry): Buffer =>
  data.subarray(offset, offset + length)

/** A pack that has used chunks: entries of its list, as findingUses has seen. */
interface UsedPack {
  readonly pack: number
  readonly data: Buffer
  readonly chunks: Buffer
  readonly used: readonly ChunkUse[]
}

function* packsOf({ db, packs }: FileTables, uses: PackUses): Generator<UsedPack> {
  const select = db.prepare('SELECT data FROM pack WHERE id = ?').pluck()
  for (const [pack, chunks] of packs) {
    const used = uses.get(pack)
    if (used !== undefined) yield { pack, data: select.get(pack) as Buffer, chunks, used }
  }
}

/** Checks each used chunk against its hash. */
function* verifyChunks(tables: FileTables, uses: PackUses, isOwn: boolean): Sliced<void> {
  for (const { pack, data, chunks, used } of packsOf(tables, uses)) {
    for (const slot of new Set(used.map((use) => use.slot))) {
      const entry = chunkEntry(chunks, slot) as ChunkEntry
      if (chunkHash(bytesOf(data, entry)).equals(entry.hash)) continue
      const where = isOwn ? '' : ` of the file ${tables.stem}`
      throw new Damage(`chunk ${slot} of pack ${pack}${where} does not match its hash`)
    }
    yield
  }
}

/**
 * Opens a checkpoint and verifies it completely. Returns the reader, or what is wrong with the checkpoint.
 */
export function openCheckpointFile(
  folder: CheckpointFolder,
  epoch: number,
  busId: string | undefined,
): CheckpointFile | string {
  return atOnce(openingCheckpointFile(folder, epoch, busId))
}

/** Whether a checkpoint can be opened and every chunk of it is right. */
export function isSoundCheckpoint(
  folder: CheckpointFolder,
  epoch: number,
  busId: string | undefined,
): boolean {
  const opened = openCheckpointFile(folder, epoch, busId)
  if (typeof opened === 'string') return false
  opened.close()
  return true
}

/** Epochs of the sound checkpoints at or after an epoch, newest first. */
export function soundCheckpointsFrom(
  folder: CheckpointFolder,
  epoch: number,
  busId: string | undefined,
): number[] {
  return checkpointEpochs(folder).filter((at) => at >= epoch && isSoundCheckpoint(folder, at, busId))
}

/** The same as openCheckpointFile, in slices. */
export function* openingCheckpointFile(
  folder: CheckpointFolder,
  epoch: number,
  busId: string | undefined,
): Sliced<CheckpointFile | string> {
  let family: FileTables[] = []
  let opened: CheckpointFile | undefined
  try {
    if (!folder.list().includes(checkpointName(epoch))) return 'the file is missing'
    family = yield* openingFamily(folder, epoch, busId)
    const uses = yield* findingUses(family)
    for (const [i, tables] of family.entries()) yield* verifyChunks(tables, uses[i] as PackUses, i === 0)
    opened = new CheckpointFile(family, uses)
    return opened
  } catch (error) {
    return textOf(error)
  } finally {
    if (opened === undefined) closeFamily(family)
  }
}
