/**
 * A bus on the emulated device beside one on the CPU, fed the same; in the middle the device fails
 * (MMSB_EMULATED_LOST). Prints what happened, as JSON. Run by cpu-failover.test.ts, in a process of its own,
 * with the emulated library.
 *
 *   cpu-failover.ts FOLDER durable|memory
 */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { MmsbError } from '../../src/errors.js'
import { Bus } from '../../src/index.js'
import { Draw, type PageSketch } from '../lib/draw.js'
import { drawDelta, drawDerivation, drawSources } from '../property/random.js'

const [dir, kind] = process.argv.slice(2) as [string, string]
const notices: string[] = []
const options = {
  backend: 'cuda',
  fsync: 'off',
  onNotice: ({ message }: { message: string }) => notices.push(message),
} as const
const durable = kind === 'durable' ? { dataDir: join(dir, 'data') } : {}
const bus = await Bus.open({ ...options, ...durable })
const twin = await Bus.open({ backend: 'cpu' })
const draw = new Draw(7)
const epochs: number[] = []
bus.onCommit(({ epoch }) => epochs.push(epoch))

const pages: PageSketch[] = drawSources(draw, 3)
const sources = [...pages]
for (const { name, dtype, shape } of sources)
  for (const each of [bus, twin]) await each.create(name, { dtype, shape })
await bus.create('placed', { dtype: 'f32', shape: [10], location: 'gpu' })
await twin.create('placed', { dtype: 'f32', shape: [10] })
const kept = { op: 'map', inputs: { x: 'placed' }, expr: 'prev(x) + x' } as const
for (const each of [bus, twin]) await each.derive('kept', kept)
for (let i = 0; i < 12; i++) {
  const derive = drawDerivation(draw, pages)
  if (derive === undefined) continue
  try {
    const made = await bus.derive(`d${i}`, derive)
    await twin.derive(`d${i}`, derive)
    pages.push({ name: `d${i}`, dtype: made.page.dtype, shape: made.page.shape, derive })
  } catch (error) {
    if (!(error instanceof MmsbError)) throw error
  }
}

async function step(): Promise<void> {
  const ops = [1, 2].map(() => {
    const page = draw.pick(sources)
    return { page: page.name, ...drawDelta(draw, page) }
  })
  ops.push({ page: 'placed', offset: draw.int(0, 9), values: [draw.int(0, 9)] })
  for (const each of [bus, twin]) await each.transact({ ops })
}

const failures: string[] = []
const note = (error: unknown): void => {
  failures.push(error instanceof MmsbError ? error.code : String(error))
}
const equal = (): boolean => pages.every(({ name }) => String(bus.read(name)) === String(twin.read(name)))

for (let i = 0; i < 5; i++) await step()
// Epochs of one shape, which go to the device as one captured graph from the third on.
for (let i = 0; i < 6; i++)
  for (const each of [bus, twin]) await each.patch('placed', { offset: 3, values: [i] })
const { graphs } = bus.status().device as { graphs?: { launched: number } }
const before = { backend: bus.status().backend, equal: equal(), launched: graphs?.launched ?? 0 }
writeFileSync(join(dir, 'lost'), '')
// Structure in the epoch in which it fails, and others waiting behind it.
const racing = [
  bus.createMany([
    { name: 'late', definition: { dtype: 'i32', shape: [4], fill: 3 } },
    { name: 'later', definition: { derive: { op: 'map', inputs: { x: 'late' }, expr: 'x * 2' } } },
  ]),
  bus.patch('placed', { offset: 0, values: [5] }),
  bus.defineFunction('twice', { params: ['x'], expr: 'x * 2' }),
]
for (const outcome of await Promise.allSettled(racing))
  if (outcome.status === 'rejected') note(outcome.reason)
const status = bus.status()
if (failures.length === 0) {
  await twin.create('late', { dtype: 'i32', shape: [4], fill: 3 })
  await twin.derive('later', { op: 'map', inputs: { x: 'late' }, expr: 'x * 2' })
  await twin.patch('placed', { offset: 0, values: [5] })
  for (let i = 0; i < 5; i++) await step()
  await bus.create('refused', { dtype: 'u8', shape: [1], location: 'gpu' }).catch(note)
}
const after = failures.includes('BUS_FAILED')
  ? {}
  : { equal: equal(), later: [...bus.read('later')], digest: bus.status().digest, epoch: bus.epoch }
const isEven = epochs.every((epoch, i) => i === 0 || epoch === (epochs[i - 1] as number) + 1)
await bus.close().catch(note)
console.log(JSON.stringify({ before, status, after, failures, notices, isEven }))
await twin.close()
