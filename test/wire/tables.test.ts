/** The tables of src/wire: what logs, files and clients of earlier versions rely on never changes. */
import t from 'tap'
import { ERRORS } from '../../src/errors.js'
import { align8 } from '../../src/wire/align.js'
import { ERROR_STATUS } from '../../src/wire/errors.js'
import * as frame from '../../src/wire/frame.js'
import * as limits from '../../src/wire/limits.js'
import { DATA_MODES, MARKERS, MESSAGE_CODES } from '../../src/wire/messages.js'
import { CHANGE_KINDS, FIRST_BITWISE_MERGE, LOCATIONS, MERGES, PAGE_KINDS } from '../../src/wire/page.js'

t.test('positions are codes', async (t) => {
  t.same(MERGES, ['set', 'add', 'min', 'max', 'and', 'or', 'xor'])
  t.equal(FIRST_BITWISE_MERGE, 4)
  t.same(LOCATIONS, ['auto', 'cpu', 'gpu', 'unified'])
  t.same(PAGE_KINDS, ['source', 'derived'])
  t.same(CHANGE_KINDS, ['source', 'derived', 'created', 'deleted'])
  t.same(DATA_MODES, ['none', 'ranges', 'values'])
})

t.test('codes of commands, deltas and messages', async (t) => {
  t.match(frame, {
    FRAME_MAGIC: Buffer.from('MSF1').readUInt32LE(),
    FRAME_VERSION: 1,
    FRAME_HEADER_BYTES: 32,
    FRAME_PRECONDITION_BYTES: 16,
    COMMAND_CREATE_PAGE: 1,
    COMMAND_DELETE_PAGE: 2,
    COMMAND_DEFINE_FUNCTION: 3,
    COMMAND_DELTA: 4,
    COMMAND_REDEFINE_PAGE: 5,
    PAGE_ID_UNASSIGNED: 2 ** 32 - 1,
    DELTA_HEADER_BYTES: 32,
    DELTA_DENSE: 0,
    DELTA_SPARSE: 1,
    DELTA_MASKED: 2,
    SPARSE_U32: 4,
    MASK_RAW: 0,
    MASK_RUNS: 1,
  })
  const names = ['subscribed', 'snapshot', 'change', 'progress', 'compacted', 'overflow']
  t.same(Object.keys(MESSAGE_CODES), [...names, 'unsubscribed', 'error', 'committed'])
  t.same(Object.values(MESSAGE_CODES), [3, 4, 5, 6, 7, 8, 9, 10, 11])
  t.ok(MARKERS.every((name) => name in MESSAGE_CODES))
})

t.test('the server has a title and a hint for every code, and the same status', async (t) => {
  const statuses = Object.entries(ERRORS).map(([code, { status }]) => [code, status])
  t.same(Object.fromEntries(statuses), ERROR_STATUS)
})

t.test('align8 rounds up to 8, beyond 2^32 as well', async (t) => {
  t.same([0, 1, 8, 9, 2 ** 40 + 1].map(align8), [0, 8, 8, 16, 2 ** 40 + 8])
})

t.test('limits that clients know', async (t) => {
  t.same(
    { ...limits },
    {
      HTTP_BODY_MAX_BYTES: 67_108_864,
      STREAM_MESSAGE_MAX_BYTES: 16_777_216,
      STREAM_PROGRESS_INTERVAL_MS: 5000,
    },
  )
  t.match(frame, {
    FRAME_MAX_BYTES: 67_108_864,
    FRAME_MAX_COMMANDS: 1_000_000,
    FRAME_MAX_PRECONDITIONS: 65_536,
    FRAME_KEY_MAX_BYTES: 256,
    FRAME_SOURCE_MAX_BYTES: 256,
    FRAME_INTENT_MAX_BYTES: 16_384,
  })
})
