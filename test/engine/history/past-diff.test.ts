/** A difference between two epochs names exactly the elements whose bytes differ. */
import t from 'tap'
import { diffPast } from '../../../src/engine/history/past-diff.js'
import type { DiffResult } from '../../../src/engine/types.js'
import { NativeContext } from '../../../src/ffi/context.js'
import type { Bus } from '../../../src/index.js'
import { CHANGED_RANGES_MAX } from '../../../src/limits.js'
import { asker, type LiveEpoch, type LivePast, pastOf, tellStory } from '../../lib/past.js'

const past = await pastOf(t, tellStory)
const { epochs } = past
const newest = epochs.length - 1

const ask = (of: LivePast = past) => asker(of)

/** Writes to these places, as many in each epoch as are kept apart. */
async function scatter(bus: Bus, page: string, places: readonly number[]): Promise<void> {
  for (let i = 0; i < places.length; i += CHANGED_RANGES_MAX) {
    const indices = places.slice(i, i + CHANGED_RANGES_MAX)
    await bus.patch(page, { indices, values: indices.map(() => 7) })
  }
}

/** The same, from what was live. A page is another one if its id is. */
function expected(from: LiveEpoch, to: LiveEpoch): DiffResult['pages'] {
  const pages: Record<string, DiffResult['pages'][string]> = {}
  for (const name of [...new Set([...Object.keys(from.pages), ...Object.keys(to.pages)])].sort()) {
    const [before, after] = [from.pages[name], to.pages[name]]
    if (after === undefined) pages[name] = { ranges: [], deleted: true }
    else if (before?.id !== after.id) {
      const { length } = after.values
      pages[name] = { ranges: length === 0 ? [] : [[0, length]], created: true }
    } else {
      const ranges: [number, number][] = []
      for (const [i, value] of [...after.values].entries()) {
        if (Object.is(value, before.values[i])) continue
        const last = ranges.at(-1)
        if (last !== undefined && last[0] + last[1] === i) last[1]++
        else ranges.push([i, 1])
      }
      if (ranges.length > 0) pages[name] = { ranges }
    }
  }
  return pages
}

t.test('between any two epochs', async (t) => {
  const asker = ask()
  for (let from = 0; from <= newest; from++) {
    for (let to = from; to <= newest; to += 1 + ((from + to) % 4)) {
      const wanted = { from, to, pages: expected(epochs[from]!, epochs[to]!) }
      const found = diffPast(asker, from, to, undefined)
      t.same(found, wanted, `${from} to ${to}`)
      t.same(Object.keys(found.pages), Object.keys(wanted.pages), 'sorted by name')
    }
  }
})

t.test('of some pages', async (t) => {
  const asker = ask()
  const { pages } = diffPast(asker, 4, 20, undefined)
  for (const names of [['a'], ['b', 'c'], ['d', 'e'], ['none']].slice(0, 2)) {
    const wanted = Object.entries(pages).filter(([name]) => names.includes(name))
    t.same(diffPast(asker, 4, 20, names).pages, Object.fromEntries(wanted), names.join())
  }
  t.same(diffPast(asker, 5, 16, ['none', 'e']).pages, {
    none: { ranges: [], deleted: true },
    e: { ranges: [[0, 2]], created: true },
  })
  t.same(diffPast(asker, 7, 8, ['a']).pages, {}, 'the same bytes')
  t.throws(() => diffPast(asker, 1, 4, ['a', 'e']), { code: 'PAGE_NOT_FOUND' })
  t.throws(() => diffPast(asker, 10, 17, ['d', 'x']), { code: 'PAGE_NOT_FOUND' })
})

t.test('a page that is another one under its name in between', async (t) => {
  const past = await pastOf(t, async (bus) => {
    await bus.create('x', { dtype: 'i32', shape: [2] }) // 1
    await bus.delete('x') // 2
    await bus.create('x', { dtype: 'i32', shape: [2] }) // 3
    await bus.create('y', { dtype: 'i32', shape: [2] }) // 4
    await bus.delete('y') // 5
    await bus.patch('x', { values: [1] }) // 6
    await bus.patch('x', { values: [0] }) // 7
  })
  const asker = ask(past)
  t.same(diffPast(asker, 1, 3, undefined).pages, { x: { ranges: [[0, 2]], created: true } })
  t.same(diffPast(asker, 3, 5, undefined).pages, {}, 'one that came and went')
  t.same(diffPast(asker, 3, 7, undefined).pages, {}, 'changed and changed back')
  t.same(diffPast(asker, 3, 6, ['x']).pages, { x: { ranges: [[0, 1]] } })
})

t.test('more changed places than are kept apart', async (t) => {
  const places = 4_500
  const stride = 3
  const size = places * stride + 4
  const past = await pastOf(t, async (bus) => {
    await bus.create('x', { dtype: 'u8', shape: [size] })
    await bus.create('w', { dtype: 'i64', shape: [size] })
    const indices = Array.from({ length: places }, (_, i) => 1 + i * stride)
    await scatter(bus, 'x', indices)
    await scatter(bus, 'w', indices)
    // Two of them change back, and one becomes wider.
    await bus.transact({ ops: [{ page: 'x', indices: [1, 1 + 5 * stride, 8 + stride], values: [0, 0, 9] }] })
  })
  const { epochs } = past
  const last = epochs.length - 1
  for (const [from, to] of [
    [2, last - 1],
    [2, last],
    [last - 1, last],
  ] as const)
    t.same(
      diffPast(ask(past), from, to, undefined).pages,
      expected(epochs[from]!, epochs[to]!),
      `${from} to ${to}`,
    )
})

t.test('of many changed places, the smallest gaps between them are closed', async (t) => {
  const [places, far] = [5_000, 180_000]
  const past = await pastOf(t, async (bus) => {
    await bus.create('x', { dtype: 'u8', shape: [200_000] })
    const rest = Array.from({ length: places - 1 }, (_, i) => far + 3 * i)
    await scatter(bus, 'x', [0, ...rest])
  })
  const { gather } = NativeContext.prototype
  let bytes = 0
  NativeContext.prototype.gather = function (this: NativeContext, id, ranges, out) {
    bytes += out.byteLength
    gather.call(this, id, ranges, out)
  }
  t.teardown(() => {
    NativeContext.prototype.gather = gather
  })
  const { pages } = diffPast(ask(past), 1, past.epochs.length - 1, undefined)
  t.equal(pages.x!.ranges.length, places)
  t.ok(bytes > 2 * 2 * places && bytes <= 2 * 3 * places, `${bytes} bytes were compared`)
})
