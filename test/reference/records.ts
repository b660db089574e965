/** The records of all ops, by name. Which ops there are, the catalogue says; each must have a record. */
import { OPS } from '../../src/kernels/op-catalogue.js'
import { convRecords } from './ops/conv.js'
import { copyRecords } from './ops/copy.js'
import { distanceRecords } from './ops/distance.js'
import { indexedRecords } from './ops/indexed.js'
import { laneRecords } from './ops/lanes.js'
import { mapRecords } from './ops/map.js'
import { matmulRecords } from './ops/matmul.js'
import { moveRecords } from './ops/move.js'
import type { OpRecord, OpRecords } from './ops/record.js'
import { reduceRecords } from './ops/reduce.js'
import { selectRecords } from './ops/select.js'

const ALL: OpRecords = {
  ...copyRecords,
  ...mapRecords,
  ...reduceRecords,
  ...matmulRecords,
  ...selectRecords,
  ...laneRecords,
  ...convRecords,
  ...distanceRecords,
  ...indexedRecords,
  ...moveRecords,
}

export function recordOf(op: string): OpRecord {
  const record = ALL[op]
  if (record === undefined) throw new Error(`no record of ${op} in test/reference/ops`)
  return record
}

/** In the order of the catalogue. */
export const OP_RECORDS: readonly (readonly [op: string, OpRecord])[] = [...OPS.keys()].map((op) => [
  op,
  recordOf(op),
])
