/**
 * What inspecting a folder finds, for each state of its catalog and its checkpoints, and how it says so.
 * Nothing is changed, and no checkpoint stays open that is not handed out.
 */
import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { Slices } from '../../../src/slices.js'
import { type CheckpointFolder, checkpointFolder } from '../../../src/store/checkpoint/folder.js'
import { checkpointName } from '../../../src/store/checkpoint/format.js'
import { CheckpointTasks } from '../../../src/store/checkpoint/tasks.js'
import { realDisk } from '../../../src/store/os/disk.js'
import { inspectFolder } from '../../../src/store/recovery/inspect.js'
import type { CatalogFindings, CheckpointInfo } from '../../../src/store/types.js'
import { appendAll, crc32c, framesOf, noCatalog, openStore, scratch } from '../helpers.js'

const SEGMENTS = { segmentBytes: 8192 }

/** Epochs 1..20 in small segments, checkpoints of some. */
const folderAt = (async () => {
  const dir = scratch()
  const tasks = new CheckpointTasks(checkpointFolder(path.join(dir, 'checkpoints')))
  const checkpointThread = () => ({
    ask: (r: Parameters<typeof tasks.handle>[0]) => tasks.handle(r),
    end: async () => {},
  })
  const store = await openStore(dir, { ...SEGMENTS, catalog: noCatalog(), checkpointThread })
  for (const epoch of [6, 12, 15]) {
    await appendAll(store, store.newestEpoch + 1, epoch, 500)
    await store.checkpoint({
      header: { epoch, timestampMs: 1, digest: framesOf(1, 16), nextPageId: 2, extra: '{}' },
      pages: [{ id: 1, version: epoch, createdEpoch: 1, bytes: 90, meta: framesOf(2, 40) }],
      read: (_, offset, into) => into.set(framesOf(epoch, 90).subarray(offset, offset + into.length)),
    })
  }
  await appendAll(store, 16, 20, 500)
  await store.close()
  return { dir, busId: store.busId }
})()

const infoOf = (epoch: number, ms = 1): CheckpointInfo => ({
  ...{ epoch, pages: 1, bytes: 90, newBytes: 90, ms, file: checkpointName(epoch) },
})

interface Given {
  readonly catalog?: CatalogFindings | Error
  readonly untilEpoch?: number
  /** Changes the copy of the folder first. */
  readonly before?: (dir: string) => void
}

async function inspect({ catalog, untilEpoch, before }: Given = {}) {
  const { dir: from, busId } = await folderAt
  const dir = scratch()
  fs.cpSync(from, dir, { recursive: true })
  before?.(dir)
  let open = 0
  const folder = checkpointFolder(path.join(dir, 'checkpoints'))
  const checkpoints: CheckpointFolder = {
    ...folder,
    open: (name) => {
      const db = folder.open(name)
      const close = db.close.bind(db)
      open++
      db.close = () => {
        if (db.open) open--
        return close()
      }
      return db
    },
  }
  const known = [6, 12, 15].map((epoch) => infoOf(epoch, 99))
  const given: CatalogFindings | Error = catalog ?? {
    state: 'read',
    busId,
    lastEpoch: 20,
    checkpoints: known,
  }
  const placed: number[] = []
  const found = await inspectFolder(
    {
      log: { disk: realDisk(), logDir: path.join(dir, 'log'), crc32c },
      checkpoints,
      catalog: {
        open: async () => {
          if (given instanceof Error) throw given
          return given
        },
      },
    },
    ({ record }) => placed.push(record.epoch),
    new Slices(undefined),
    untilEpoch === undefined ? undefined : { untilEpoch },
  )
  found.checkpoint?.close()
  t.equal(open, 0, 'no other checkpoint stays open')
  const { row, notes, refusal, indexedEpoch, isIndexLost, checkpoint } = found
  const list = found.checkpoints.map(({ epoch, ms }) => `${epoch} ${ms}`)
  const at = checkpoint?.header.epoch
  return { row: row.row, notes, refusal, indexedEpoch, isIndexLost, at, list, placed, log: found.log }
}

const catalogOf = async (lastEpoch: number, changes = {}): Promise<CatalogFindings> => {
  const { busId } = await folderAt
  return { state: 'read', busId, lastEpoch, checkpoints: [], ...changes } as CatalogFindings
}

t.test('everything is as it should be', async (t) => {
  const found = await inspect()
  t.match(found, { row: 'A', indexedEpoch: 20, isIndexLost: false, at: 15, list: ['15 99', '12 99', '6 99'] })
  t.same(found.notes, [])
  t.same(found.placed, [], 'the index covers all of it')
  t.equal(found.log.newestEpoch, 20)
})

t.test('an index that is behind: what it lacks of the last segment is handed over', async (t) => {
  const { log } = await inspect()
  const last = log.segments.at(-1)?.header.firstEpoch as number
  for (const indexed of [0, last - 1, last, 19]) {
    const found = await inspect({ catalog: await catalogOf(indexed) })
    t.match(found, { row: 'B', indexedEpoch: indexed, isIndexLost: false, at: 15 })
    const from = Math.max(last, indexed + 1)
    t.same(
      found.placed,
      Array.from({ length: 21 - from }, (_, i) => from + i),
    )
    t.same(found.notes, [])
  }
})

t.test('an index that cannot be used is built again, and its list of checkpoints is not used', async (t) => {
  const cases: [CatalogFindings | Error, string][] = [
    [{ state: 'lost', why: 'it is damaged' }, '(it is damaged)'],
    [{ state: 'lost', why: 'it is missing' }, '(it is missing)'],
    [new Error('the disk is full'), '(the disk is full)'],
    [await catalogOf(20, { busId: 'cd'.repeat(16) }), '(it belongs to another bus)'],
  ]
  for (const [catalog, why] of cases) {
    const found = await inspect({ catalog })
    t.match(found, { row: 'C', indexedEpoch: 0, isIndexLost: true, at: 15 })
    t.same(found.notes, [`the log index cannot be used ${why}; it is rebuilt from the log`])
    t.notOk(found.list.some((entry) => entry.endsWith(' 99')))
    t.equal(found.list.length, 3)
  }
})

t.test('an index that is ahead proves a loss', async (t) => {
  const found = await inspect({ catalog: await catalogOf(21) })
  t.equal(found.row, 'R2')
  const why = 'the log ends at epoch 20, but the index shows that epoch 21 was durable'
  t.equal(found.refusal, `${why} (recovery row R2)`)
  t.match(await inspect({ catalog: await catalogOf(20) }), { row: 'A' })
})

t.test('an empty folder', async (t) => {
  const empty = (dir: string): void => {
    for (const part of ['log', 'checkpoints']) fs.rmSync(path.join(dir, part), { recursive: true })
  }
  const missing = await inspect({ before: empty, catalog: { state: 'lost', why: 'it is missing' } })
  t.match(missing, { row: 'A', notes: [], isIndexLost: false, at: undefined, list: [] })
  const broken = await inspect({ before: empty, catalog: { state: 'lost', why: 'it is damaged' } })
  t.match(broken, { row: 'C', isIndexLost: true })
  const other = await inspect({ before: empty, catalog: await catalogOf(0, { busId: 'cd'.repeat(16) }) })
  t.match(other, { row: 'A', isIndexLost: false })
  t.match(await inspect({ before: empty, catalog: await catalogOf(1) }), { row: 'R2' })
})

const fileIn = (dir: string, epoch: number): string => path.join(dir, 'checkpoints', checkpointName(epoch))
function flip(file: string): void {
  const bytes = fs.readFileSync(file)
  bytes[100] = (bytes[100] as number) ^ 255
  fs.writeFileSync(file, bytes)
}

t.test('checkpoints that are missing or damaged: an older one, or the whole log', async (t) => {
  const one = await inspect({ before: (dir) => fs.rmSync(fileIn(dir, 15)) })
  t.match(one, { row: 'G', at: 12, list: ['12 99', '6 99'] })
  t.same(one.notes, ['checkpoint 15: the file is missing; checkpoint 12 is used instead'])
  const two = await inspect({
    before: (dir) => {
      flip(fileIn(dir, 15))
      fs.rmSync(fileIn(dir, 12))
    },
  })
  t.match(two, { row: 'G', at: 6, list: ['6 99'] })
  t.match(two.notes, [
    /^checkpoint 15: .+; checkpoint 12: the file is missing; checkpoint 6 is used instead$/,
  ])
  const all = await inspect({
    before: (dir) => {
      for (const epoch of [6, 12, 15]) fs.rmSync(fileIn(dir, epoch))
    },
  })
  t.match(all, { row: 'G', at: undefined, list: [] })
  t.match(all.notes, [/checkpoint 6: the file is missing; the whole log is replayed$/])
  const none = await inspect({
    catalog: await catalogOf(20),
    before: (dir) => {
      for (const epoch of [6, 12, 15]) fs.rmSync(fileIn(dir, epoch))
    },
  })
  t.match(none, { row: 'A', at: undefined, list: [], notes: [] })
  const older = await inspect({ before: (dir) => fs.rmSync(fileIn(dir, 12)) })
  t.match(older, { row: 'A', at: 15, list: ['15 99', '6 99'] }, 'an older one that is missing is left out')
})

/** Removes the segments before the one that holds the epoch. */
const logFrom = (epoch: number) => (dir: string) => {
  const names = fs.readdirSync(path.join(dir, 'log')).sort()
  const firsts = names.map((name) => Number.parseInt(name, 10))
  const kept = firsts.findLastIndex((first) => first <= epoch)
  for (const name of names.slice(0, kept)) fs.rmSync(path.join(dir, 'log', name))
  return firsts[kept] as number
}

t.test('a log that begins later needs a checkpoint that reaches it', async (t) => {
  let first = 0
  const found = await inspect({ before: (dir) => (first = logFrom(11)(dir)) })
  t.match(found, { row: 'A', at: 15 })
  t.ok(first > 1 && first <= 11)
  const without = await inspect({
    catalog: await catalogOf(20),
    before: (dir) => {
      logFrom(11)(dir)
      fs.rmSync(path.join(dir, 'checkpoints'), { recursive: true })
    },
  })
  t.equal(without.row, 'R3')
  t.equal(without.refusal, `there is no checkpoint, and the log begins at epoch ${first} (recovery row R3)`)
  const tooOld = await inspect({
    before: (dir) => {
      logFrom(19)(dir)
      for (const epoch of [12, 15]) fs.rmSync(fileIn(dir, epoch))
    },
  })
  t.equal(tooOld.row, 'R3')
  t.match(
    tooOld.refusal,
    /^no usable checkpoint, and the log begins at epoch \d+: checkpoint 15: .+; checkpoint 12: /,
  )
  t.same([tooOld.at, tooOld.list], [undefined, []])
})

t.test(
  'a checkpoint right before the first epoch of the log reaches it; one before that does not',
  async (t) => {
    const { log } = await inspect()
    const firsts = log.segments.map(({ header }) => header.firstEpoch)
    for (const first of firsts.slice(1)) {
      const newest = [15, 12, 6].find((epoch) => epoch <= first - 1)
      if (newest === undefined) continue
      const found = await inspect({
        before: (dir) => {
          logFrom(first)(dir)
          for (const epoch of [6, 12, 15]) if (epoch > newest) fs.rmSync(fileIn(dir, epoch))
        },
        catalog: await catalogOf(20, { checkpoints: [infoOf(newest)] }),
      })
      t.equal(found.row, newest + 1 >= first ? 'A' : 'R3', `checkpoint ${newest}, log from ${first}`)
    }
  },
)

t.test('a checkpoint that is ahead of the log proves a loss', async (t) => {
  const before = (dir: string): void => fs.copyFileSync(fileIn(dir, 15), fileIn(dir, 21))
  const found = await inspect({ before })
  t.equal(found.row, 'R4')
  const why = 'the log ends at epoch 20, but a checkpoint shows that epoch 21 was durable'
  t.equal(found.refusal, `${why} (recovery row R4)`)
  const listed = await inspect({ catalog: await catalogOf(20, { checkpoints: [infoOf(22)] }) })
  t.match(listed, { row: 'R4', refusal: /epoch 22 was durable/ }, 'one that is only listed')
})

const lastOf = (dir: string): string => {
  const names = fs.readdirSync(path.join(dir, 'log')).sort()
  return path.join(dir, 'log', names.at(-1) as string)
}

t.test('torn bytes are told, and cut by who writes', async (t) => {
  const before = (dir: string): void => {
    const bytes = fs.readFileSync(lastOf(dir))
    fs.writeFileSync(lastOf(dir), Buffer.concat([bytes.subarray(0, -64), Buffer.alloc(33, 7)]))
  }
  const found = await inspect({ before })
  t.match(found, { row: 'D', at: 15 })
  t.same(found.notes, ['cut 33 bytes of a write that was never durable, behind epoch 20'])
  const only = await inspect({ before, untilEpoch: 20 })
  t.match(only, { row: 'A', notes: [] }, 'they lie behind the epoch that is read')
})

t.test('damage of the log refuses, whatever the rest is', async (t) => {
  const before = (dir: string): void => {
    const bytes = fs.readFileSync(lastOf(dir))
    bytes[4200] = (bytes[4200] as number) ^ 1
    fs.writeFileSync(lastOf(dir), bytes)
  }
  const found = await inspect({ before })
  t.equal(found.row, 'R1')
  t.match(found.refusal, /^segment .* \(recovery row R1\)$/)
  t.same([found.at, found.list], [undefined, []])
})

t.test('damage of the first record refuses to read even nothing', async (t) => {
  const found = await inspect({
    untilEpoch: 0,
    before: (dir) => {
      fs.rmSync(path.join(dir, 'checkpoints'), { recursive: true })
      const [first, ...later] = fs.readdirSync(path.join(dir, 'log')).sort()
      for (const name of later) fs.rmSync(path.join(dir, 'log', name))
      const file = path.join(dir, 'log', first as string)
      const bytes = fs.readFileSync(file)
      bytes[4200] = (bytes[4200] as number) ^ 1
      fs.writeFileSync(file, bytes)
    },
  })
  t.match(found, { row: 'R1', refusal: /the record of epoch 1 is damaged/ })
})

t.test('read until an epoch, what comes later counts as not there', async (t) => {
  const found = await inspect({ untilEpoch: 12 })
  t.match(found, { row: 'A', at: 12, list: ['12 99', '6 99'], log: { newestEpoch: 12 } })
  t.match(await inspect({ untilEpoch: 15 }), { at: 15 })
  t.match(await inspect({ untilEpoch: 14 }), { at: 12 })
  t.match(await inspect({ untilEpoch: 20 }), { row: 'A', at: 15 })
  t.match(await inspect({ untilEpoch: 4 }), { row: 'A', at: undefined, list: [] })
  const detail = 'Epoch 21 is not in the log; the newest is 20.'
  await t.rejects(inspect({ untilEpoch: 21 }), { code: 'EPOCH_NOT_FOUND', message: detail })
  const lost = await inspect({ untilEpoch: 12, catalog: { state: 'lost', why: 'it is damaged' } })
  t.same(lost.notes, ['the log index cannot be used (it is damaged)'], 'nothing is rebuilt')
})
