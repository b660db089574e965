/**
 * A data folder is one place: whatever happens to its path while a bus has it open, nothing is written into
 * another folder, and a bus whose folder is gone stops and says so.
 */
import fs from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { Bus } from '../../src/index.js'
import { folder } from '../lib/folder.js'
import { until } from '../lib/wait.js'

const SEGMENT_BYTES = 64 * 1024

async function open(t: Test, dataDir: string): Promise<Bus> {
  const bus = await Bus.open({ dataDir, backend: 'cpu', threads: 1, segmentBytes: SEGMENT_BYTES })
  t.teardown(() => bus.close())
  return bus
}

/** A bus with one page that fills a segment with few writes. */
async function filled(t: Test, dataDir: string): Promise<Bus> {
  const bus = await open(t, dataDir)
  await bus.create('a', { dtype: 'f64', shape: [2_000] })
  await writeTo(bus, 4)
  return bus
}

async function writeTo(bus: Bus, epoch: number): Promise<void> {
  while (bus.epoch < epoch) await bus.write('a', new Float64Array(2_000).fill(bus.epoch))
}

/** Everything below a folder, with sizes. */
const contents = (dir: string): string[] =>
  fs
    .readdirSync(dir, { recursive: true, encoding: 'utf8' })
    .map((name) => `${name} ${fs.statSync(path.join(dir, name)).size}`)
    .sort()

t.test('a relative path is resolved once', async (t) => {
  const here = process.cwd()
  const dir = folder(t)
  const elsewhere = folder(t)
  t.teardown(() => process.chdir(here))
  process.chdir(dir)
  const bus = await open(t, './data')
  process.chdir(elsewhere)
  await bus.create('a', { dtype: 'f64', shape: [2_000] })
  await writeTo(bus, 12)
  await bus.checkpoint()
  t.match(await bus.verify(), { ok: true })
  await bus.close()
  t.same(fs.readdirSync(elsewhere), [])
  const again = await open(t, path.join(dir, 'data'))
  t.equal(again.epoch, 12)
})

for (const [what, happen] of [
  ['renamed', (dir: string) => fs.renameSync(dir, `${dir}-moved`)],
  ['deleted', (dir: string) => fs.rmSync(dir, { recursive: true })],
  [
    'replaced by a copy',
    (dir: string) => {
      fs.renameSync(dir, `${dir}-moved`)
      fs.cpSync(`${dir}-moved`, dir, { recursive: true })
    },
  ],
  ['without its log', (dir: string) => fs.renameSync(path.join(dir, 'log'), path.join(dir, 'gone'))],
  [
    'without its newest segment',
    (dir: string) => {
      const names = fs.readdirSync(path.join(dir, 'log')).filter((name) => name.endsWith('.seg'))
      fs.rmSync(path.join(dir, 'log', names.sort().at(-1) as string))
    },
  ],
] as const) {
  t.test(`a folder that is ${what} while it is open stops the bus`, async (t) => {
    const dir = path.join(folder(t), 'data')
    const bus = await filled(t, dir)
    happen(dir)
    await until(() => bus.failure !== null, 'the bus stops without being asked')
    t.match(bus.failure, /removed|another folder/)
    await t.rejects(bus.patch('a', { offset: 0, values: [1] }), { code: 'BUS_FAILED' })
    await t.rejects(bus.checkpoint(), { code: 'BUS_FAILED' })
    await bus.close()
  })
}

t.test('a bus that was made at the old path is left alone', async (t) => {
  const dir = path.join(folder(t), 'data')
  const old = await filled(t, dir)
  fs.renameSync(dir, `${dir}-moved`)
  const other = await open(t, dir)
  await other.create('b', { dtype: 'u8', shape: [3] })
  await t.rejects(writeTo(old, 40), { code: 'BUS_FAILED', message: /another folder/ })
  await old.close()
  await other.patch('b', { offset: 0, values: [7] })
  const before = contents(path.join(dir, 'log'))
  await t.rejects(old.checkpoint(), { code: 'BUS_FAILED' })
  t.same(contents(path.join(dir, 'log')), before)
  await other.close()
  const again = await open(t, dir)
  t.equal(again.epoch, 2)
  const moved = await open(t, `${dir}-moved`)
  t.ok(moved.epoch >= 4)
})

t.test(
  'the past is never read from another folder, and missing files are not called compacted',
  async (t) => {
    const dir = path.join(folder(t), 'data')
    const bus = await filled(t, dir)
    await writeTo(bus, 20)
    const first = path.join(dir, 'log', '00000000000000000001.seg')
    t.match(await bus.epochInfo(2), { epoch: 2 })
    fs.renameSync(first, path.join(dir, 'aside'))
    await t.rejects(bus.readMany(['a'], { epoch: 3 }), { code: 'BUS_FAILED', message: /missing/ })
    await t.rejects(bus.epochInfo(2), { code: 'BUS_FAILED', message: /missing/ })
    fs.renameSync(path.join(dir, 'aside'), first)
    t.match(await bus.epochInfo(2), { epoch: 2 })
    fs.renameSync(dir, `${dir}-moved`)
    fs.cpSync(`${dir}-moved`, dir, { recursive: true })
    await t.rejects(bus.epochInfo(3), { code: 'BUS_FAILED', message: /another folder/ })
  },
)

t.test('a folder that is open is locked, even after lock.db is gone', async (t) => {
  const dir = path.join(folder(t), 'data')
  const bus = await filled(t, dir)
  const second = () => Bus.open({ dataDir: dir, backend: 'cpu', threads: 1 })
  await t.rejects(second(), { code: 'FOLDER_LOCKED', message: /in use by process/ })
  fs.rmSync(path.join(dir, 'lock.db'))
  await t.rejects(second(), { code: 'FOLDER_LOCKED', message: /in use by process/ })
  await until(() => fs.existsSync(path.join(dir, 'lock.db')), 'lock.db is made again')
  await writeTo(bus, 12)
  await bus.close()
  const again = await open(t, dir)
  t.equal(again.epoch, 12)
})
