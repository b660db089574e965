/**
 * A snapshot has the bytes of its epoch, whatever is executed while it is read: stores of a few elements,
 * stores at the place that is read next, and pages that are destroyed. It is compared with copies of the
 * pages, under many seeds.
 */
import t, { type Test } from 'tap'
import { Snapshot } from '../../../src/engine/checkpoints/snapshot.js'
import { NativeContext } from '../../../src/ffi/context.js'
import { CHECKPOINT_CHUNK_BYTES } from '../../../src/limits.js'
import { FrameWriter } from '../../../src/state/frame/writer.js'
import { DTYPE_INFO, type Dtype } from '../../../src/wire/dtype.js'
import { Draw } from '../../lib/draw.js'

const CHUNK = CHECKPOINT_CHUNK_BYTES
const SEEDS = 12
const COPY_OP = 1

interface Page {
  readonly id: number
  readonly dtype: Dtype
  readonly elements: number
}

/** Sizes on both sides of a chunk, and pages smaller than one. The last one is computed from `x`. */
const PAGES: readonly Page[] = [
  { id: 1, dtype: 'u8', elements: CHUNK - 1 },
  { id: 2, dtype: 'f32', elements: (3 * CHUNK) / 4 },
  { id: 3, dtype: 'i16', elements: CHUNK / 2 + 1 },
  { id: 4, dtype: 'f64', elements: 5 },
  { id: 5, dtype: 'u8', elements: 2 * CHUNK + 13 },
  { id: 6, dtype: 'u8', elements: 3 },
  { id: 7, dtype: 'f32', elements: (3 * CHUNK) / 4 },
]
const SOURCES = PAGES.slice(0, -1)
const X = PAGES[1] as Page

const sizeOf = ({ dtype, elements }: Page): number => elements * DTYPE_INFO[dtype].sizeBytes

class World {
  readonly context: NativeContext
  snapshot: Snapshot
  /** The pages as they were when the snapshot was made. */
  readonly before = new Map<number, Uint8Array>()
  readonly there = new Set(PAGES.map(({ id }) => id))
  readonly #draw: Draw
  readonly #step: number

  constructor(t: Test, draw: Draw, threads: number) {
    this.#draw = draw
    this.context = new NativeContext({ backend: 'cpu', threads, quotaBytes: 0 })
    t.teardown(() => this.context.close())
    const common = { location: 0, fill: 0n }
    this.context.createPages(
      PAGES.map(({ id, dtype, elements }) => ({
        ...common,
        id,
        dtypeCode: DTYPE_INFO[dtype].code,
        shape: [elements],
      })),
    )
    const params = new Uint8Array(0)
    this.#step = this.context.createStep({
      opCode: COPY_OP,
      opVersion: 1,
      outPage: 7,
      inputPages: [2],
      params,
    })
    for (const page of SOURCES) this.#execute([[page, 0, page.elements]])
    for (const page of PAGES) this.before.set(page.id, this.now(page))
    this.snapshot = new Snapshot(this.context, new Map(PAGES.map((page) => [page.id, sizeOf(page)])))
  }

  now(page: Page): Uint8Array {
    const bytes = new Uint8Array(sizeOf(page))
    this.context.readPage(page.id, 0, bytes)
    return bytes
  }

  /** Overwrites elements of pages in one epoch: page, first element, count. */
  write(...stores: readonly (readonly [page: Page, offset: number, count: number])[]): void {
    this.#execute(stores)
    this.snapshot.absorb()
  }

  #execute(stores: readonly (readonly [page: Page, offset: number, count: number])[]): void {
    const writer = new FrameWriter({})
    for (const [{ id, dtype, elements }, offset, count] of stores) {
      const values = DTYPE_INFO[dtype].view(new ArrayBuffer(count * DTYPE_INFO[dtype].sizeBytes), 0, count)
      // Never the byte that is there, so that every element of the store changes.
      const bytes = new Uint8Array(values.buffer)
      for (let i = 0; i < bytes.length; i++) bytes[i] = this.#draw.int(1, 120)
      writer.delta(id, dtype, elements, { offset, values })
    }
    this.context.execute(this.there.has(7) ? Uint32Array.of(this.#step) : new Uint32Array(0), writer.finish())
  }

  destroy(page: Page): void {
    this.snapshot.saveWhole(page.id)
    if (page.id === 7) this.context.destroyStep(this.#step)
    this.context.destroyPages(Uint32Array.of(page.id))
    this.there.delete(page.id)
  }

  /** Reads a piece, and says whether it has the bytes of then. */
  reads({ id }: Page, offset: number, length: number): boolean {
    const into = new Uint8Array(length).fill(0xee)
    this.snapshot.read(id, offset, into)
    const wanted = this.before.get(id)?.subarray(offset, offset + length)
    return Buffer.compare(into, wanted as Uint8Array) === 0
  }
}

/** Stores near the place that is read next, most of them of few elements. */
function storesNear(draw: Draw, there: ReadonlySet<number>, reading: Page, position: number) {
  const sources = SOURCES.filter(({ id }) => there.has(id))
  return Array.from({ length: draw.int(1, 3) }, () => {
    const near = sources.includes(reading) && draw.chance(0.6)
    // What is written to x is copied to the page that is computed from it.
    const page = reading.id === 7 && draw.chance(0.6) ? X : near ? reading : draw.pick(sources)
    const { sizeBytes } = DTYPE_INFO[page.dtype]
    const count = Math.min(page.elements, draw.chance(0.7) ? draw.int(1, 5) : draw.int(6, 20_000))
    const place = near || reading.id === 7 ? Math.floor(position / sizeBytes) : draw.int(0, page.elements)
    const about = draw.pick([place, place - 1, place - count, place + 1, place + CHUNK / sizeBytes - 1])
    return [page, Math.max(0, Math.min(page.elements - count, about)), count] as const
  })
}

for (const threads of [1, 3]) {
  t.test(`${SEEDS} seeds, on ${threads} threads`, async (t) => {
    for (let seed = 1; seed <= SEEDS; seed++) {
      const draw = new Draw(seed * 10 + threads)
      const world = new World(t, draw, threads)
      const wrong: string[] = []
      for (const page of PAGES) {
        for (let at = 0; at < sizeOf(page); ) {
          for (let writes = draw.int(0, 4); writes > 0; writes--)
            world.write(...storesNear(draw, world.there, page, at))
          const doomed = draw.pick(PAGES)
          if (draw.chance(0.04) && doomed !== X && world.there.has(doomed.id)) world.destroy(doomed)
          const length = Math.min(sizeOf(page) - at, draw.pick([1, 1, 2]) * CHUNK)
          if (!world.reads(page, at, length)) wrong.push(`page ${page.id} at ${at}`)
          at += length
        }
      }
      t.same(wrong, [], `seed ${seed}`)
      t.equal(world.snapshot.savedBytes, 0, `seed ${seed}: what was kept was read`)
      world.snapshot.end()
    }
  })
}

t.test('the place that is read next: kept from it on, and nothing before it', async (t) => {
  const world = new World(t, new Draw(1), 1)
  const { snapshot } = world
  const page = PAGES[4] as Page
  for (const { id, elements, dtype } of PAGES.slice(0, 4))
    snapshot.read(id, 0, new Uint8Array(sizeOf({ id, elements, dtype })))
  t.ok(world.reads(page, 0, CHUNK))
  world.write([page, CHUNK - 1, 1])
  t.equal(snapshot.savedBytes, 0, 'the last byte that was read')
  world.write([page, CHUNK, 1])
  t.equal(snapshot.savedBytes, CHUNK, 'the first byte that was not')
  world.write([page, CHUNK + 1, 1], [page, 2 * CHUNK - 1, 1])
  t.equal(snapshot.savedBytes, CHUNK, 'kept once')
  t.ok(world.reads(page, CHUNK, CHUNK))
  t.equal(snapshot.savedBytes, 0)
  world.write([page, 0, page.elements])
  t.equal(snapshot.savedBytes, 13, 'the rest of the page')
  t.ok(world.reads(page, 2 * CHUNK, 13))
  world.write([page, 2 * CHUNK + 12, 1])
  t.equal(snapshot.savedBytes, 0, 'a page that is read to its end')
  t.throws(() => snapshot.read(page.id, CHUNK, new Uint8Array(CHUNK)), { code: 'INTERNAL' })
  snapshot.end()
})

t.test('every element of a small store, at every place in a word', async (t) => {
  const world = new World(t, new Draw(2), 1)
  const wrong: string[] = []
  for (const page of SOURCES) {
    const { sizeBytes } = DTYPE_INFO[page.dtype]
    const length = Math.min(CHUNK, sizeOf(page))
    for (let first = 0; first <= 8 && first < page.elements; first++) {
      for (let count = 1; count * sizeBytes <= 16 && first + count <= page.elements; count++) {
        world.snapshot = new Snapshot(world.context, new Map([[page.id, sizeOf(page)]]))
        world.before.set(page.id, world.now(page))
        world.write([page, first, count])
        if (!world.reads(page, 0, length)) wrong.push(`page ${page.id}: ${count} from ${first}`)
        world.snapshot.end()
      }
    }
  }
  t.same(wrong, [])
})

t.test('pages that are not read are not kept', async (t) => {
  const world = new World(t, new Draw(3), 1)
  const { snapshot } = world
  snapshot.narrow(new Set([4, 5]))
  world.write([X, 0, 100])
  world.destroy(PAGES[0] as Page)
  t.equal(snapshot.savedBytes, 0)
  world.write([PAGES[3] as Page, 4, 1])
  t.equal(snapshot.savedBytes, 40)
  t.ok(world.reads(PAGES[3] as Page, 0, 40))
  world.destroy(PAGES[4] as Page)
  t.equal(snapshot.savedBytes, 2 * CHUNK + 13, 'a page that goes is kept as a whole')
  t.ok(world.reads(PAGES[4] as Page, 0, 2 * CHUNK))
  t.ok(world.reads(PAGES[4] as Page, 2 * CHUNK, 13))
  snapshot.end()
})
