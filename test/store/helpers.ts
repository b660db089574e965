/** Shared by the store's tests: a simple CRC-32C, records, scratch folders, stores without threads. */
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { CatalogDb } from '../../src/store/catalog/catalog-db.js'
import type { StoreOptions } from '../../src/store/options.js'
import { Store } from '../../src/store/store.js'
import type { Catalog, LogRecord } from '../../src/store/types.js'
import { NO_LOCK } from '../support/simdisk.js'

const TABLE = new Uint32Array(256)
for (let i = 0; i < 256; i++) {
  let c = i
  for (let bit = 0; bit < 8; bit++) c = c & 1 ? (c >>> 1) ^ 0x82f6_3b78 : c >>> 1
  TABLE[i] = c
}

/** CRC-32C by table: slow and simple. */
export function crc32c(bytes: Uint8Array, seed = 0): number {
  let crc = ~seed >>> 0
  for (let i = 0; i < bytes.length; i++) crc = (TABLE[(crc ^ (bytes[i] ?? 0)) & 255] ?? 0) ^ (crc >>> 8)
  return ~crc >>> 0
}

const folders: string[] = []
process.on('exit', () => {
  for (const dir of folders) fs.rmSync(dir, { recursive: true, force: true })
})

/** A new temporary folder, removed when the process ends. */
export function scratch(): string {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'mmsb-store-'))
  folders.push(dir)
  return dir
}

/** Bytes computed from the epoch alone, so that a reader knows what it should find. */
export function framesOf(epoch: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length)
  let x = (epoch * 2654435761) >>> 0
  for (let i = 0; i < length; i++) {
    x = (x * 1664525 + 1013904223) >>> 0
    bytes[i] = x >>> 24
  }
  return bytes
}

export function recordOf(epoch: number, length = 40 + (epoch % 5) * 24): LogRecord {
  return {
    epoch,
    timestampMs: 1_700_000_000_000 + epoch,
    digestBefore: framesOf(epoch + 7, 16),
    frameCount: 1 + (epoch % 3),
    frames: framesOf(epoch, length),
    touchedPages: Uint32Array.of(1, 2 + (epoch % 4), 100 + epoch),
  }
}

/** A copy of a record's fields that can be compared. */
export function plain(record: LogRecord): unknown {
  const { epoch, timestampMs, digestBefore, frameCount, frames, touchedPages } = record
  return {
    epoch,
    timestampMs,
    digestBefore: Buffer.from(digestBefore).toString('hex'),
    frameCount,
    frames: Buffer.from(frames).toString('hex'),
    touchedPages: [...touchedPages],
  }
}

/** catalog.db without its thread: the same code, faster. */
export function inlineCatalog(dir: string): Catalog {
  const db = new CatalogDb(dir)
  return {
    open: async () => db.open(),
    begin: async (busId, anew) => db.begin(busId, anew),
    addBlocks: async (blocks) => db.addBlocks(blocks),
    clearBlocks: async () => db.clearBlocks(),
    dropBlocksBefore: async (epoch) => db.dropBlocksBefore(epoch),
    blockOf: async (epoch) => db.blockOf(epoch),
    addCheckpoint: async (info) => db.addCheckpoint(info),
    removeCheckpoint: async (epoch) => db.removeCheckpoint(epoch),
    close: async () => db.close(),
  }
}

/** A catalog that forgets everything between processes. */
export function noCatalog(): Catalog {
  return {
    open: async () => ({ state: 'lost', why: 'it is missing' }),
    begin: async () => {},
    addBlocks: async () => {},
    clearBlocks: async () => {},
    dropBlocksBefore: async () => {},
    blockOf: async () => undefined,
    addCheckpoint: async () => {},
    removeCheckpoint: async () => {},
    close: async () => {},
  }
}

export function openStore(dir: string, options: Partial<StoreOptions> = {}): Promise<Store> {
  return Store.open({
    dir,
    fsync: 'always',
    crc32c,
    segmentBytes: 64 * 1024,
    catalog: options.disk === undefined ? inlineCatalog(dir) : noCatalog(),
    ...(options.disk === undefined ? {} : { lock: () => NO_LOCK }),
    ...options,
  })
}

/** Appends records from..to, one after the other. */
export async function appendAll(store: Store, from: number, to: number, length?: number): Promise<void> {
  for (let epoch = from; epoch <= to; epoch++) {
    const record = recordOf(epoch, length)
    await store.reserve(record.frames.length)
    await store.append(record)
  }
}

export function epochsIn(store: Store, fromEpoch = 0): number[] {
  const epochs: number[] = []
  for (const record of store.records(fromEpoch)) epochs.push(record.epoch)
  return epochs
}

export function epochsTo(newest: number, from = 1): number[] {
  return Array.from({ length: Math.max(0, newest - from + 1) }, (_, i) => from + i)
}
