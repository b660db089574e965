/**
 * The native context through koffi: deltas, steps, results of any size, refusals and memory that native
 * threads read.
 */
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import t from 'tap'
import { NativeContext } from '../../src/ffi/context.js'
import { buildInfo, crc32c, deviceCount, nativeCatalogue } from '../../src/ffi/library.js'
import { FrameWriter } from '../../src/state/frame/writer.js'
import { DTYPE_INFO } from '../../src/wire/dtype.js'
import { turn } from '../lib/wait.js'

const f32 = DTYPE_INFO.f32.code

function context(quotaBytes = 0): NativeContext {
  const made = new NativeContext({ backend: 'cpu', threads: 1, quotaBytes })
  t.teardown(() => made.close())
  return made
}

const page = (id: number, shape: readonly number[], fill = 0n) => ({
  id,
  dtypeCode: f32,
  shape,
  location: 0,
  fill,
})

function frameOf(id: number, elements: number, offset: number, values: readonly number[]): Uint8Array {
  const writer = new FrameWriter({})
  writer.delta(id, 'f32', elements, { offset, values })
  return writer.finish()
}

t.test('CRC-32C gives the check values of RFC 3720', async (t) => {
  t.equal(crc32c(Buffer.from('123456789')), 0xe3069283)
  t.equal(crc32c(new Uint8Array(32)), 0x8a9136aa)
  t.equal(crc32c(new Uint8Array(32).fill(0xff)), 0x62a8ab43)
  t.equal(crc32c(Buffer.from('6789'), crc32c(Buffer.from('12345'))), 0xe3069283, 'in two parts')
})

t.test('the library says what it is', async (t) => {
  t.match(buildInfo(), { cuda: Boolean, isa: /x86-64/ })
  t.match(nativeCatalogue(), { ops: { copy: { code: 1 } }, ir: { add: 3 } })
})

t.test('deltas change pages, steps follow, the result tells what changed', async (t) => {
  const ctx = context()
  ctx.createPages([page(1, [8]), page(2, [8])])
  const step = ctx.createStep({
    opCode: 1,
    opVersion: 1,
    outPage: 2,
    inputPages: [1],
    params: new Uint8Array(0),
  })
  const empty = ctx.stateDigest()
  const result = ctx.execute(Uint32Array.of(step), frameOf(1, 8, 2, [5, 0, 7]))
  const changes: [number, number[]][] = []
  result.eachChange((id, ranges) => changes.push([id, [...ranges]]))
  t.same(
    changes,
    [
      [1, [2, 1, 4, 1]],
      [2, [2, 1, 4, 1]],
    ],
    'exact runs: the zero between was written over a zero',
  )
  t.match(result.steps(), [{ step, changed: true }])
  const out = new Float32Array(8)
  ctx.readPage(2, 0, out)
  t.same([...out], [0, 0, 5, 0, 7, 0, 0, 0])
  const packed = new Float32Array(3)
  ctx.gather(2, Uint32Array.of(2, 1, 4, 2), packed)
  t.same([...packed], [5, 7, 0])
  t.same(result.stateDigest(), ctx.stateDigest())
  ctx.execute(Uint32Array.of(step), frameOf(1, 8, 2, [0, 0, 0]))
  t.same(ctx.stateDigest(), empty, 'the same bytes give the same digest')
})

t.test('an asynchronous execution gives the same, and can be waited for', async (t) => {
  const ctx = context()
  ctx.createPages([page(1, [8]), page(2, [8])])
  const step = ctx.createStep({
    opCode: 1,
    opVersion: 1,
    outPage: 2,
    inputPages: [1],
    params: new Uint8Array(0),
  })
  const result = await ctx.executeAsync(Uint32Array.of(step), frameOf(1, 8, 0, [1]))
  t.equal(result.changedPages, 2)
  const running = ctx.executeAsync(Uint32Array.of(step), frameOf(1, 8, 0, [2]))
  t.equal(ctx.waitSync().changedPages, 2)
  const out = new Float32Array(1)
  ctx.readPage(2, 0, out)
  t.equal(out[0], 2)
  await running
})

t.test('a result larger than the buffer is fetched whole', async (t) => {
  const ctx = context()
  const count = 20_000
  ctx.createPages(Array.from({ length: count }, (_, i) => page(i + 1, [1])))
  const writer = new FrameWriter({})
  for (let i = 0; i < count; i++) writer.delta(i + 1, 'f32', 1, { values: [1] })
  const frame = writer.finish()
  t.equal(ctx.execute(new Uint32Array(0), frame).changedPages, count)
  const ids = new Set<number>()
  const writer2 = new FrameWriter({})
  for (let i = 0; i < count; i++) writer2.delta(i + 1, 'f32', 1, { values: [2] })
  ;(await ctx.executeAsync(new Uint32Array(0), writer2.finish())).eachChangedId((id) => ids.add(id))
  t.equal(ids.size, count)
})

t.test('what does not fit is refused and changes nothing', async (t) => {
  const ctx = context(4096)
  ctx.createPages([page(1, [8])])
  const digest = ctx.stateDigest()
  t.throws(() => ctx.createPages([page(2, [8]), page(3, [10_000])]), { code: 'OUT_OF_MEMORY' })
  t.throws(() => ctx.createPages([page(1, [8])]), { code: 'INTERNAL' })
  t.throws(() => ctx.readPage(1, 16, new Uint8Array(17)), { code: 'INTERNAL' })
  t.throws(() => ctx.readPage(9, 0, new Uint8Array(1)), { code: 'INTERNAL' })
  t.throws(() =>
    ctx.createStep({ opCode: 999, opVersion: 1, outPage: 1, inputPages: [1], params: new Uint8Array(0) }),
  )
  t.throws(() => ctx.execute(new Uint32Array(0), frameOf(9, 8, 0, [1])), { code: 'INVALID_DELTA' })
  t.throws(() => ctx.execute(new Uint32Array(0), frameOf(1, 100, 50, [1])), { code: 'INVALID_DELTA' })
  t.same(ctx.stateDigest(), digest)
  t.equal(ctx.memory().pageCount, 1)
})

t.test(
  'CUDA is refused where there is no device',
  { skip: deviceCount() > 0 && 'a CUDA device is there' },
  async (t) => {
    t.throws(() => new NativeContext({ backend: 'cuda', threads: 1, quotaBytes: 0 }), {
      code: 'UNSUPPORTED_LOCATION',
    })
  },
)

t.test('what an execution on another thread reads outlives a garbage collection', async (t) => {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  const elements = 12_000_000
  const ctx = context()
  ctx.createPages([page(1, [elements])])
  const start = (): { bytes: WeakRef<ArrayBufferLike>; running: Promise<unknown> } => {
    const writer = new FrameWriter({})
    writer.delta(1, 'f32', elements, { offset: 0, values: new Float32Array(elements).fill(1) })
    const frame = writer.finish()
    return { bytes: new WeakRef(frame.buffer), running: ctx.executeAsync(new Uint32Array(0), frame) }
  }
  const { bytes, running } = start()
  let isRunning = true
  const done = running.then(() => {
    isRunning = false
  })
  await new Promise((resolve) => setTimeout(resolve, 1))
  collect()
  t.ok(isRunning, 'collected while it ran')
  t.ok(bytes.deref() !== undefined)
  await done
  await turn()
  collect()
  t.equal(bytes.deref(), undefined, 'and is let go afterwards')
})
