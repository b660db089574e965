/**
 * Edits of files that make the checksums right again, so that the code behind the checksums sees what no disk
 * would show it: lengths, counts, offsets and epochs that lie, records twice, in another order, or gone.
 * Everything follows from the draw.
 */

import { crc32 } from 'node:zlib'
import Database from 'better-sqlite3'
import { crc32c } from '../../src/ffi/library.js'
import { decodeEventHeader, EVENT_FILE_HEADER_BYTES } from '../../src/state/event-file.js'
import {
  type FileRow,
  META_KEYS,
  type MetaKey,
  type PageRow,
  RootHash,
} from '../../src/store/checkpoint/format.js'
import { decodeSegmentHeader, encodeVoid, peekRecordHeader, viewOf } from '../../src/store/log/record.js'
import type { Draw } from '../lib/draw.js'

const SEGMENT_HEADER_BYTES = 4096
const RECORD_HEADER_BYTES = 64
const COMMAND_DELTA = 4
const NUMBERS = [
  0, 1, 2, 7, 8, 63, 64, 255, 256, 4095, 65_536, 0x7fff_ffff, 0x8000_0000, 0xffff_fff8, 0xffff_ffff,
]

/**
 * A number that is odd where a length, a count or an id belongs: a known one, or a neighbour of
 * what is there.
 */
function odd(draw: Draw, before: number): number {
  if (draw.chance(0.5)) return draw.pick(NUMBERS)
  return (before + draw.pick([-8, -4, -1, 1, 4, 8, 64])) >>> 0
}

/** The records of a segment, whole and in order. */
function recordsOf(bytes: Uint8Array): Uint8Array[] {
  const view = viewOf(bytes)
  const records: Uint8Array[] = []
  for (let at = SEGMENT_HEADER_BYTES; ; ) {
    const header = peekRecordHeader(bytes, view, at)
    if (header === undefined) return records
    records.push(bytes.slice(at, at + header.byteLength))
    at += header.byteLength
  }
}

/** The forged segment, and whether its replay must find other states than the log recorded. */
export interface Forged {
  readonly bytes: Uint8Array
  readonly what: string
  readonly mustDiverge: boolean
}

/** Edits one segment. Undefined where it holds nothing that the edit could change. */
export function forgeSegment(draw: Draw, bytes: Uint8Array): Forged | undefined {
  const segment = decodeSegmentHeader(bytes, crc32c)
  if (typeof segment === 'string') return undefined
  if (draw.chance(0.1)) return forgeSegmentHeader(draw, bytes)
  const records = recordsOf(bytes)
  const index = draw.int(0, records.length - 1)
  const record = records[index]
  if (record === undefined) return undefined
  const seal = (forged: Uint8Array): void => {
    const view = viewOf(forged)
    view.setUint32(8, crc32c(forged.subarray(12, RECORD_HEADER_BYTES), segment.headerSeed), true)
    view.setUint32(4, crc32c(forged.subarray(8), segment.recordSeed), true)
  }
  let mustDiverge = false
  const edit = draw.pick([
    'field',
    'field',
    'frame',
    'frame',
    'value',
    'twice',
    'gone',
    'swapped',
    'cut',
    'void',
  ])
  switch (edit) {
    case 'field': {
      const at = draw.pick([0, 12, 16, 20, 24, 28, 32, 48, 52, 56, 60])
      viewOf(record).setUint32(at, odd(draw, viewOf(record).getUint32(at, true)), true)
      seal(record)
      break
    }
    case 'frame':
      if (record.length < RECORD_HEADER_BYTES + 8) return undefined
      forgeFrame(draw, record)
      seal(record)
      break
    case 'value':
      mustDiverge = forgeValue(draw, record) && index < records.length - 2
      seal(record)
      break
    case 'twice':
      records.splice(draw.int(0, records.length), 0, record)
      break
    case 'gone':
      records.splice(index, 1)
      break
    case 'swapped':
      records.splice(index, 1)
      records.splice(draw.int(0, records.length), 0, record)
      break
    case 'cut':
      records.splice(index)
      break
    default: {
      const epoch = Number(viewOf(record).getBigUint64(16, true)) + draw.pick([0, 0, -1, 1])
      const mark = { eachSynced: true, unsynced: 0 }
      records.splice(index + 1, 0, encodeVoid(epoch, 1, segment, mark, crc32c))
    }
  }
  return { bytes: assembled(bytes, records), what: `${edit} at record ${index}`, mustDiverge }
}

function assembled(before: Uint8Array, records: readonly Uint8Array[]): Uint8Array {
  const length = records.reduce((sum, record) => sum + record.length, SEGMENT_HEADER_BYTES)
  const bytes = new Uint8Array(Math.max(before.length, length))
  bytes.set(before.subarray(0, SEGMENT_HEADER_BYTES))
  let at = SEGMENT_HEADER_BYTES
  for (const record of records) {
    bytes.set(record, at)
    at += record.length
  }
  return bytes
}

function forgeSegmentHeader(draw: Draw, before: Uint8Array): Forged {
  const bytes = before.slice()
  const view = viewOf(bytes)
  const at = draw.pick([8, 12, 16, 32, 36, 40, 44, 48])
  view.setUint32(at, odd(draw, view.getUint32(at, true)), true)
  const sum = crc32c(bytes.subarray(0, SEGMENT_HEADER_BYTES - 4))
  view.setUint32(SEGMENT_HEADER_BYTES - 4, sum, true)
  return { bytes, what: `segment header at ${at}`, mustDiverge: false }
}

/** A field of the frame's header or of its commands, four bytes or one: dtypes and kinds are bytes. */
function forgeFrame(draw: Draw, record: Uint8Array): void {
  const from = RECORD_HEADER_BYTES
  const at = from + draw.int(0, Math.min(record.length - from, 200) - 1)
  if (draw.chance(0.4)) {
    record[at] = draw.int(0, 255)
    return
  }
  const aligned = at - (at % 4)
  viewOf(record).setUint32(aligned, odd(draw, viewOf(record).getUint32(aligned, true)), true)
}

/** Another value in the first delta of a record. Returns whether there is one. */
function forgeValue(draw: Draw, record: Uint8Array): boolean {
  const view = viewOf(record)
  const at = RECORD_HEADER_BYTES
  if (record.length < at + 80 || view.getUint32(at + 16, true) !== 0) return false
  const padded = (length: number): number => Math.ceil(length / 8) * 8
  const [key, source] = [view.getUint16(at + 20, true), view.getUint16(at + 22, true)]
  const command = at + 32 + padded(key) + padded(source) + padded(view.getUint32(at + 24, true))
  if (view.getUint16(command, true) !== COMMAND_DELTA || view.getUint8(command + 12) !== 0) return false
  const count = view.getUint32(command + 20, true)
  const index = draw.int(0, count - 1)
  view.setFloat64(command + 32 + index * 8, draw.int(1, 1e9) + 0.25, true)
  return true
}

/** Edits an event file: its header, or an entry. */
export function forgeEvents(draw: Draw, before: Uint8Array): Uint8Array {
  const bytes = Buffer.from(before)
  decodeEventHeader(bytes)
  const entries: Buffer[] = []
  for (let at = EVENT_FILE_HEADER_BYTES; at < bytes.length; at += bytes.readUInt32LE(at))
    entries.push(Buffer.from(bytes.subarray(at, at + bytes.readUInt32LE(at))))
  const index = draw.int(0, entries.length - 1)
  const entry = entries[index]!
  const head = Buffer.from(bytes.subarray(0, EVENT_FILE_HEADER_BYTES))
  switch (draw.int(0, 4)) {
    case 0: {
      const at = draw.pick([4, 8, 12, 16, 20])
      head.writeUInt32LE(odd(draw, head.readUInt32LE(at)), at)
      head.writeUInt32LE(crc32(head.subarray(0, EVENT_FILE_HEADER_BYTES - 4)), EVENT_FILE_HEADER_BYTES - 4)
      break
    }
    case 1:
      entries.splice(draw.int(0, entries.length), 0, entry)
      break
    case 2:
      entries.splice(index, 1)
      break
    default: {
      const at = draw.int(0, Math.min(30, entry.length / 4 - 3)) * 4
      if (draw.chance(0.5)) entry[at + draw.int(0, 3)] = draw.int(0, 255)
      else entry.writeUInt32LE(odd(draw, entry.readUInt32LE(at)), at)
      entry.writeUInt32LE(crc32(entry.subarray(0, entry.length - 8)), entry.length - 8)
    }
  }
  return Buffer.concat([head, ...entries])
}

/** Edits a row of a checkpoint and makes its root hash right again. */
export function forgeCheckpoint(draw: Draw, file: string): string {
  const db = new Database(file)
  try {
    const edit = draw.pick(CHECKPOINT_EDITS)
    edit.run(draw, db)
    const root = new RootHash()
    for (const key of META_KEYS) {
      const row = db.prepare('SELECT value FROM meta WHERE key = ?').get(key) as { value: Buffer } | undefined
      if (row !== undefined) root.meta(key as MetaKey, Buffer.from(row.value))
    }
    for (const row of db.prepare('SELECT * FROM file ORDER BY idx').all()) root.file(row as FileRow)
    for (const row of db.prepare('SELECT * FROM page ORDER BY id').all()) root.page(row as PageRow)
    for (const row of db.prepare('SELECT id, chunks, data FROM pack ORDER BY id').all()) {
      const { id, chunks, data } = row as { id: number; chunks: Buffer; data: Buffer }
      root.pack(id, chunks, data.length)
    }
    db.prepare("UPDATE meta SET value = ? WHERE key = 'root'").run(root.digest())
    return edit.name
  } finally {
    db.close()
  }
}

interface RowEdit {
  readonly name: string
  readonly run: (draw: Draw, db: Database.Database) => void
}

function bytesEdit(table: string, column: string): RowEdit {
  return {
    name: `bytes of ${table}.${column}`,
    run: (draw, db) => {
      const rows = db.prepare(`SELECT id, ${column} AS bytes FROM ${table}`).all() as {
        id: number
        bytes: Buffer
      }[]
      const { id, bytes } = draw.pick(rows)
      if (bytes.length === 0) return
      const forged = Buffer.from(bytes)
      const at = draw.int(0, Math.min(bytes.length, 256) - 1)
      if (draw.chance(0.5) || at + 4 > bytes.length) forged[at] = draw.int(0, 255)
      else forged.writeUInt32LE(odd(draw, forged.readUInt32LE(at)), at)
      const cut = draw.chance(0.2) ? forged.subarray(0, draw.int(0, forged.length)) : forged
      db.prepare(`UPDATE ${table} SET ${column} = ? WHERE id = ?`).run(cut, id)
    },
  }
}

const CHECKPOINT_EDITS: readonly RowEdit[] = [
  bytesEdit('page', 'meta'),
  bytesEdit('page', 'refs'),
  bytesEdit('pack', 'chunks'),
  {
    name: 'a number of a page',
    run: (draw, db) => {
      const column = draw.pick(['version', 'created_epoch', 'bytes', 'id'])
      db.prepare(`UPDATE page SET ${column} = ? WHERE id = (SELECT max(id) FROM page)`).run(
        draw.pick(NUMBERS),
      )
    },
  },
  {
    name: 'a page that is gone',
    run: (_draw, db) => db.prepare('DELETE FROM page WHERE id = (SELECT min(id) FROM page)').run(),
  },
  {
    name: 'a value of meta',
    run: (draw, db) => {
      const key = draw.pick(META_KEYS)
      const value = draw.pick([
        '',
        '0',
        '-1',
        '1e400',
        '18446744073709551615',
        '{',
        '{"format":1,"answers":[[1]]}',
        '{"format":1,"answers":[null]}',
        'null',
      ])
      db.prepare('UPDATE meta SET value = ? WHERE key = ?').run(Buffer.from(value), key)
    },
  },
  {
    name: 'another file',
    run: (draw, db) =>
      db
        .prepare('INSERT OR REPLACE INTO file VALUES (?, ?, ?)')
        .run(
          draw.pick([1, 2, 65_535]),
          draw.pick(['../../etc/passwd', '', '0'.repeat(20)]),
          Buffer.alloc(32),
        ),
  },
]

/** Edits the numbers of the catalog. Sums are left as they are, or the rows are removed. */
export function forgeCatalog(draw: Draw, file: string): void {
  const db = new Database(file)
  try {
    const sql = draw.pick([
      'DELETE FROM block',
      'DELETE FROM checkpoint',
      "UPDATE meta SET value = 'zz'",
      'UPDATE block SET stop = stop + 8',
      'UPDATE block SET segment = 99',
      'UPDATE block SET pages = NULL',
      "UPDATE checkpoint SET file = '../x', epoch = epoch + 1",
      'UPDATE checkpoint SET epoch = 9007199254740993',
      'PRAGMA user_version = 99',
      'DROP TABLE block',
    ])
    db.exec(sql)
  } finally {
    db.close()
  }
}

/** Edits backup.json: the text of a value, or a file of its list. */
export function forgeManifest(draw: Draw, text: string): string {
  const manifest = JSON.parse(text) as Record<string, unknown> & { files: Record<string, unknown>[] }
  const values = ['../evil', '/etc/passwd', '', null, -1, 0, 1e308, 2 ** 53, [], {}, true, 'x'.repeat(64)]
  const into = draw.chance(0.4) ? manifest : draw.pick(manifest.files)
  switch (draw.int(0, 3)) {
    case 0:
      delete into[draw.pick(Object.keys(into))]
      break
    case 1:
      manifest.files.push(draw.pick(manifest.files))
      break
    case 2:
      manifest.files.splice(draw.int(0, manifest.files.length - 1), 1)
      break
    default:
      into[draw.pick(Object.keys(into))] = draw.pick(values)
  }
  return JSON.stringify(manifest)
}

/** Edits the header of a .npy file: its dict, its version, its length. */
export function forgeNpy(draw: Draw, before: Uint8Array): Uint8Array {
  const dataAt = 10 + viewOf(before).getUint16(8, true)
  const dict = draw.pick([
    "{'descr': '<f8', 'fortran_order': True, 'shape': (2, 5), }",
    "{'descr': '>f8', 'fortran_order': False, 'shape': (10,), }",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (4294967296, 4294967296), }",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (0, 5), }",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (1e3,), }",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1,10), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (10,), }",
    "{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (10,), }",
    "{'shape': (10,), 'shape': (11,), 'descr': '<f8', 'fortran_order': False}",
    `{${"'a': {".repeat(5_000)}`,
    '',
  ])
  const text = Buffer.from(`${dict}\n`, 'latin1')
  const head = Buffer.from(before.subarray(0, 10))
  head[6] = draw.pick([1, 1, 1, 2, 3, 0, 255])
  head.writeUInt16LE(draw.chance(0.7) ? text.length : draw.pick([0, 1, 65_535]), 8)
  return Buffer.concat([head, text, before.subarray(dataAt)])
}
