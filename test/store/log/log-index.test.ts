/**
 * The index of the log while the store is open: what the catalog is told and when, where a read may begin
 * meanwhile, and what happens when the catalog fails.
 *
 * Long because each state of the index is met by each call.
 */
import t from 'tap'
import { INDEX_BATCH_ROWS, INDEX_BLOCK_BYTES } from '../../../src/limits.js'
import { packPages } from '../../../src/store/log/index-blocks.js'
import { LogIndex, type PlacedRecord } from '../../../src/store/log/log-index.js'
import type { Catalog, IndexBlock } from '../../../src/store/types.js'
import { Gate } from '../../lib/gate.js'
import { turn, turns } from '../../lib/wait.js'
import { noCatalog } from '../helpers.js'

/** A record that makes a block by itself, or one of several. The segment begins every 100 epochs. */
const placed = (epoch: number, byteLength = INDEX_BLOCK_BYTES): PlacedRecord => ({
  segment: epoch - ((epoch - 1) % 100),
  offset: 4096 + ((epoch - 1) % 100) * byteLength,
  byteLength,
  record: { epoch, touchedPages: Uint32Array.of(epoch) },
})

const blockOf = (epoch: number): IndexBlock => {
  const { segment, offset, byteLength } = placed(epoch)
  const [firstEpoch, lastEpoch] = [epoch, epoch]
  return { segment, offset, end: offset + byteLength, firstEpoch, lastEpoch, pages: packPages([epoch]) }
}
const blocks = (from: number, to: number): IndexBlock[] =>
  Array.from({ length: to - from + 1 }, (_, i) => blockOf(from + i))

/** A catalog that notes what it is told, and answers when it may. */
class Notes {
  /** What each call was told. */
  readonly calls: string[] = []
  readonly added: IndexBlock[] = []
  /** What calls of this name wait for, or fail with. */
  gate: Partial<Record<keyof Catalog, () => Promise<void>>> = {}
  readonly catalog: Catalog = {
    ...noCatalog(),
    addBlocks: async (blocks) => {
      this.calls.push(`add ${blocks[0]?.firstEpoch}-${blocks.at(-1)?.lastEpoch}`)
      await this.gate.addBlocks?.()
      this.added.push(...blocks)
    },
    clearBlocks: async () => {
      this.calls.push('clear')
      await this.gate.clearBlocks?.()
      this.added.length = 0
    },
    blockOf: async (epoch) => {
      this.calls.push(`ask ${epoch}`)
      await this.gate.blockOf?.()
      return this.added.find((block) => block.firstEpoch <= epoch && epoch <= block.lastEpoch)
    },
    close: async () => {
      this.calls.push('close')
    },
  }

  /** The calls since the last look. */
  get told(): string[] {
    return this.calls.splice(0)
  }
}

/** An index and what it hears: `durable` is the newest durable epoch, `log` what a scan finds. */
function started() {
  const notes = new Notes()
  const state = {
    durable: 1e9,
    notices: [] as string[],
    scans: [] as string[],
    log: [] as PlacedRecord[],
    /** Called before each record of a scan. */
    beforeRecord: async (_epoch: number): Promise<void> => {},
  }
  const index = new LogIndex({
    catalog: notes.catalog,
    onNotice: (level, message) => state.notices.push(`${level}: ${message}`),
    durableEpoch: () => state.durable,
    scan: async function* (from, to) {
      state.scans.push(`${from}-${to}`)
      for (const found of state.log) {
        if (found.record.epoch < from || found.record.epoch > to) continue
        await state.beforeRecord(found.record.epoch)
        yield found
      }
    },
  })
  const add = (from: number, to: number): void => {
    for (let epoch = from; epoch <= to; epoch++) index.add(placed(epoch))
  }
  return { index, notes, state, add }
}

t.test('blocks are handed over in batches, in order, each once', async (t) => {
  const { index, notes, add } = started()
  add(1, INDEX_BATCH_ROWS - 1)
  await turn()
  t.same(notes.told, [], 'one fewer than a batch waits')
  add(64, 64)
  await turn()
  t.same(notes.told, ['add 1-64'])
  t.equal(index.indexedEpoch, 64)
  add(65, 127)
  await turn()
  t.same(notes.told, [])
  add(128, 128)
  await turn()
  t.same(notes.told, ['add 65-128'])
  t.strictSame(notes.added, blocks(1, 128))
  t.equal(index.indexedEpoch, 128)
})

t.test('only durable blocks are handed over', async (t) => {
  const { index, notes, state, add } = started()
  state.durable = 63
  add(1, 64)
  await turn()
  t.same(notes.told, [], '63 of 64 are durable: that is no batch')
  state.durable = 64
  add(65, 65)
  await turn()
  t.same(notes.told, ['add 1-64'])
  t.equal(index.indexedEpoch, 64)
  state.durable = 65
  index.endSegment()
  await turn()
  t.same(notes.told, ['add 65-65'])
  state.durable = 65
  add(66, 66)
  index.endSegment()
  await turn()
  t.same(notes.told, [], 'there is nothing durable')
  t.equal(index.indexedEpoch, 65)
})

t.test('the end of a segment ends its block and hands over what there is', async (t) => {
  const { index, notes } = started()
  index.add(placed(1, 100))
  index.add(placed(2, 100))
  index.endSegment()
  await turn()
  t.same(notes.told, ['add 1-2'])
  index.add(placed(3))
  index.endSegment()
  index.endSegment()
  await turn()
  t.same(notes.told, ['add 3-3'], 'no block without records')
  t.strictSame(
    notes.added.map(({ offset, end }) => [offset, end]),
    [
      [4096, 4096 + 200],
      [4096 + 2 * INDEX_BLOCK_BYTES, 4096 + 3 * INDEX_BLOCK_BYTES],
    ],
  )
})

t.test('one batch at a time; what comes meanwhile goes with the next', async (t) => {
  const { index, notes, add } = started()
  const first = new Gate()
  notes.gate.addBlocks = first.wait
  add(1, 64)
  add(65, 140)
  index.endSegment()
  await turn()
  t.same(notes.told, ['add 1-64'])
  t.equal(index.indexedEpoch, 0, 'not before the catalog has them')
  first.open()
  await turn()
  t.equal(index.indexedEpoch, 64)
  t.same(notes.told, [])
  add(141, 141)
  await turn()
  t.same(notes.told, ['add 65-141'])
  t.strictSame(notes.added, blocks(1, 141))
})

t.test('where a read may begin: the block being built, one that waits, one of the catalog', async (t) => {
  const { index, notes, add } = started()
  add(1, 64)
  await turn()
  add(65, 66)
  index.add(placed(67, 100))
  index.add(placed(68, 100))
  t.same(notes.told, ['add 1-64'])
  for (const epoch of [65, 66]) t.strictSame(await index.blockOf(epoch), blockOf(epoch))
  for (const epoch of [67, 68]) {
    const { segment, offset } = placed(67, 100)
    t.match(await index.blockOf(epoch), { segment, offset, firstEpoch: 67, lastEpoch: 68 })
  }
  t.same(notes.told, [], 'the catalog is not asked for those')
  for (const epoch of [1, 64]) t.strictSame(await index.blockOf(epoch), blockOf(epoch))
  t.equal(await index.blockOf(69), undefined)
  t.same(notes.told, ['ask 1', 'ask 64', 'ask 69'])
})

t.test('a catalog that fails ends the index, not the log', async (t) => {
  const { index, notes, state, add } = started()
  notes.gate.addBlocks = async () => {
    throw new Error('the disk is full')
  }
  add(1, 64)
  await turn()
  const said = 'warn: the log index has stopped; reads of old epochs will be slower: the disk is full'
  t.same(state.notices, [said])
  t.same(notes.told, ['add 1-64'])
  t.equal(index.indexedEpoch, 0)
  add(65, 200)
  index.endSegment()
  index.fail(new Error('again'))
  await turn()
  t.same(notes.told, [], 'it is told nothing more')
  t.same(state.notices, [said], 'and it is said once')
  for (const epoch of [1, 64, 65, 200]) t.equal(await index.blockOf(epoch), undefined)
  t.same(notes.told, [], 'nor asked')
  await index.close()
  t.same(notes.told, ['close'])
})

t.test('a block that was being built when the index failed still says where it began', async (t) => {
  const { index, notes } = started()
  index.add(placed(1, 100))
  index.fail(new Error('x'))
  t.match(await index.blockOf(1), { firstEpoch: 1, lastEpoch: 1, offset: 4096 })
  index.endSegment()
  t.equal(await index.blockOf(1), undefined)
  await index.close()
  t.same(notes.told, ['close'])
})

t.test('a block that was being built when the index failed goes on', async (t) => {
  const { index, notes, state } = started()
  state.log = [placed(1), placed(2)]
  index.add(placed(3, 100))
  index.fail(new Error('x'))
  index.add(placed(4, 100))
  await index.rebuild()
  index.add(placed(5, 100))
  index.endSegment()
  await turn()
  t.same(notes.told, ['clear', 'add 1-2', 'add 3-5'])
  t.same([...(notes.added.at(-1)?.pages ?? [])], [3, 1, 1], 'with the pages of all its records')
})

t.test('the scan of older records waits for the catalog, which may fail', async (t) => {
  const { index, notes, state } = started()
  state.log = Array.from({ length: 130 }, (_, i) => placed(i + 1))
  const adding = new Gate()
  notes.gate.addBlocks = adding.wait
  let newest = 0
  state.beforeRecord = async (epoch) => {
    newest = epoch
  }
  index.catchUp(1, 130)
  await turn()
  t.same([newest, index.indexedEpoch], [64, 0])
  adding.fail(new Error('full'))
  await turn()
  t.same([newest, index.indexedEpoch], [64, 0])
  t.match(state.notices, [/has stopped; .*: full/])
  t.same(notes.told, ['add 1-64'])
})

t.test('a catalog that fails is not told the block that was being built', async (t) => {
  const { index, notes } = started()
  index.add(placed(1, 100))
  index.fail(new Error('x'))
  await index.close()
  t.same(notes.told, ['close'])
})

t.test('what an older run left out is indexed while records come', async (t) => {
  const { index, notes, state, add } = started()
  state.log = Array.from({ length: 230 }, (_, i) => placed(i + 1))
  const at70 = new Gate()
  const at100 = new Gate()
  state.beforeRecord = (epoch) =>
    epoch === 70 ? at70.wait() : epoch === 100 ? at100.wait() : Promise.resolve()
  index.catchUp(5, 230)
  add(231, 300)
  index.endSegment()
  await turn()
  t.same(state.scans, ['5-230'])
  t.same(notes.told, ['add 5-68'], 'records that come meanwhile wait')
  t.equal(index.indexedEpoch, 68)
  at70.open()
  await turn()
  t.same(notes.told, [])
  at100.open()
  await turns(5)
  t.same(notes.told, ['add 69-132', 'add 133-196', 'add 197-230', 'add 231-300'])
  t.strictSame(notes.added, blocks(5, 300))
  t.equal(index.indexedEpoch, 300)
  t.same(state.notices, [])
})

t.test('blocks that are indexed later end with their segments', async (t) => {
  const { index, notes, state } = started()
  state.log = [99, 100, 101, 102].map((epoch) => placed(epoch, 100))
  index.catchUp(99, 102)
  await turns(3)
  t.same(
    notes.added.map(({ segment, firstEpoch, lastEpoch }) => [segment, firstEpoch, lastEpoch]),
    [
      [1, 99, 100],
      [101, 101, 102],
    ],
  )
  t.equal(index.indexedEpoch, 102)
})

t.test('nothing to index: what waits is handed over if it is a batch', async (t) => {
  for (const [count, told] of [
    [63, []],
    [64, ['add 1-64']],
  ] as const) {
    const { index, notes, state, add } = started()
    state.durable = 0
    add(1, count)
    state.durable = count
    index.catchUp(1, 0)
    await turn()
    t.same(notes.told, told)
    t.same(state.scans, [])
  }
  const { index, state } = started()
  state.log = [placed(1)]
  index.catchUp(1, 1)
  await turn()
  t.same(state.scans, ['1-1'], 'a single epoch')
  t.equal(index.indexedEpoch, 1)
})

t.test('a log that cannot be read ends the index', async (t) => {
  const { index, notes, state, add } = started()
  state.log = [placed(1)]
  state.beforeRecord = async () => {
    throw new Error('gone')
  }
  index.catchUp(1, 1)
  add(2, 2)
  await turn()
  t.same(state.notices, ['warn: the log index has stopped; reads of old epochs will be slower: gone'])
  t.same(notes.told, [])
  t.equal(await index.blockOf(2), undefined)
})

t.test('a damaged row: the index is built again from the log', async (t) => {
  const { index, notes, state, add } = started()
  state.log = Array.from({ length: 66 }, (_, i) => placed(i + 1))
  add(1, 64)
  await turn()
  add(65, 65)
  index.add(placed(66, 100))
  t.same(notes.told, ['add 1-64'])
  notes.gate.blockOf = async () => {
    throw new Error('a row is damaged')
  }
  const scanned = new Gate()
  state.beforeRecord = (epoch) => (epoch === 1 ? scanned.wait() : Promise.resolve())
  t.equal(await index.blockOf(3), undefined, 'the read begins at the start of the segment')
  await turn()
  t.same(notes.told, ['ask 3', 'clear'])
  t.equal(index.indexedEpoch, 0)
  t.equal(await index.blockOf(4), undefined)
  await turn()
  t.same(notes.told, ['ask 4'], 'it is built once')
  const said = 'warn: the log index is damaged and is being rebuilt: a row is damaged'
  t.same(state.notices, [said, said])
  scanned.open()
  await turns(3)
  t.same(state.scans, ['1-64'], 'up to the first that waits')
  t.same(notes.told, ['add 1-64', 'add 65-65'])
  t.strictSame(notes.added, blocks(1, 65))
  notes.gate = {}
  t.strictSame(await index.blockOf(3), blockOf(3))
})

t.test('building again: before the first record that is kept, up to the newest durable epoch', async (t) => {
  const inMemory = started()
  inMemory.state.log = [placed(1), placed(2)]
  inMemory.index.add(placed(3, 100))
  await inMemory.index.rebuild()
  t.same(inMemory.state.scans, ['1-2'], 'the block being built is not scanned')
  const alone = started()
  alone.state.log = [placed(1), placed(2)]
  alone.state.durable = 2
  await alone.index.rebuild()
  t.same(alone.state.scans, ['1-2'])
  t.same(alone.notes.told, ['clear', 'add 1-2'], 'all of it when it resolves')
  t.equal(alone.index.indexedEpoch, 2)
})

t.test('building again revives an index that had failed, and waits for what is under way', async (t) => {
  const { index, notes, state, add } = started()
  index.fail(new Error('x'))
  state.durable = 1
  state.log = [placed(1)]
  await index.rebuild()
  t.same(notes.told, ['clear', 'add 1-1'])
  const adding = new Gate()
  notes.gate.addBlocks = adding.wait
  state.durable = 65
  add(2, 65)
  let done = false
  const rebuilt = index.rebuild().then(() => {
    done = true
  })
  await turn()
  t.same(notes.told, ['add 2-65'], 'the batch that is on its way comes first')
  state.log = Array.from({ length: 65 }, (_, i) => placed(i + 1))
  adding.open()
  const clearing = new Gate()
  notes.gate = { clearBlocks: clearing.wait }
  await turn()
  t.same(notes.told, ['clear'])
  t.same(state.scans, ['1-1'], 'nothing is scanned before the old rows are gone')
  t.notOk(done)
  clearing.open()
  await rebuilt
  t.same(notes.told, ['add 1-64', 'add 65-65'])
  t.strictSame(notes.added, blocks(1, 65))
})

t.test('building again waits for the scan that is under way', async (t) => {
  const { index, notes, state } = started()
  state.log = [placed(1), placed(2)]
  state.durable = 2
  const second = new Gate()
  state.beforeRecord = (epoch) => (epoch === 2 ? second.wait() : Promise.resolve())
  index.catchUp(1, 2)
  const rebuilt = index.rebuild()
  await turn()
  t.same(notes.told, [])
  second.open()
  await rebuilt
  t.same(notes.told, ['add 1-2', 'clear', 'add 1-2'])
})

t.test('a rebuilding that fails ends the index', async (t) => {
  const { index, notes, state } = started()
  notes.gate = {
    blockOf: async () => {
      throw new Error('damaged')
    },
    clearBlocks: async () => {
      throw new Error('not cleared')
    },
  }
  t.equal(await index.blockOf(1), undefined)
  await turn()
  t.match(state.notices, [/damaged/, /has stopped; .*: not cleared/])
  t.equal(await index.blockOf(1), undefined)
  t.same(notes.told, ['ask 1', 'clear'])
})

t.test('closing hands over all that is durable, then closes the catalog', async (t) => {
  const { index, notes, state, add } = started()
  const adding = new Gate()
  notes.gate.addBlocks = adding.wait
  add(1, 64)
  add(65, 66)
  index.add(placed(67, 100))
  let done = false
  const closed = index.close().then(() => {
    done = true
  })
  await turn()
  t.same(notes.told, ['add 1-64'])
  adding.open()
  const rest = new Gate()
  notes.gate.addBlocks = rest.wait
  await turn()
  t.same(notes.told, ['add 65-67'], 'with the block that was being built')
  t.notOk(done)
  rest.open()
  await closed
  t.same(notes.told, ['close'])
  t.same(state.notices, [])
})

t.test('closing leaves out what is not durable', async (t) => {
  const { index, notes, state, add } = started()
  state.durable = 1
  add(1, 2)
  await index.close()
  t.same(notes.told, ['add 1-1', 'close'])
})

t.test('closing while older records are indexed stops at the next one, without a gap', async (t) => {
  const { index, notes, state, add } = started()
  state.log = Array.from({ length: 70 }, (_, i) => placed(i + 1))
  const at70 = new Gate()
  state.beforeRecord = (epoch) => (epoch === 70 ? at70.wait() : Promise.resolve())
  index.catchUp(1, 70)
  add(71, 71)
  index.add(placed(72, 100))
  await turn()
  const closed = index.close()
  await turn()
  t.same(notes.told, ['add 1-64'], 'the catalog is open as long as the scan runs')
  at70.open()
  await closed
  t.same(notes.told, ['close'], 'epochs 65 to 70 are missing, so those behind are not told')
  t.equal(index.indexedEpoch, 64)
})

t.test('a catalog that fails after the close is no news', async (t) => {
  const { index, state } = started()
  await index.close()
  index.fail(new Error('closed'))
  t.same(state.notices, [])
})
