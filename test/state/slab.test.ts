/** Slabs are used again once nobody holds them, and never before. */
import t from 'tap'
import { type Slab, SlabAllocator } from '../../src/state/slab.js'

const SIZE = 64

/** A slab that is full, with so many holders. */
function filled(slabs: SlabAllocator, holders: number): Slab {
  const slab = slabs.withRoom(SIZE)
  t.equal(slab.used, 0)
  slab.used = SIZE
  slab.holders += holders
  return slab
}

t.test('pieces lie in one slab as long as there is room', async (t) => {
  const slabs = new SlabAllocator(SIZE)
  const slab = slabs.withRoom(SIZE - 8)
  slab.used = SIZE - 8
  t.equal(slabs.withRoom(8), slab, 'the last piece fits')
  slab.used = SIZE
  const next = slabs.withRoom(8)
  t.not(next, slab)
  t.equal(slab.words.buffer, slab.bytes.buffer)
  slabs.release(slab)
  next.used = SIZE
  t.not(slabs.withRoom(8), slab, 'a slab that is used once never comes again')
})

t.test('a slab starts over when its last holder has released it', async (t) => {
  const slabs = new SlabAllocator(SIZE, 1)
  const first = filled(slabs, 2)
  const second = filled(slabs, 1)
  t.not(second, first, 'somebody holds it')
  slabs.release(first)
  const third = filled(slabs, 1)
  t.notOk([first, second].includes(third), 'somebody still holds it')
  slabs.release(first)
  slabs.release(second)
  t.equal(filled(slabs, 1), first)
  t.notOk([first, second, third].includes(filled(slabs, 1)), 'one slab was kept to be used again, not two')
})

t.test('a full slab that nobody holds any more is used again at once', async (t) => {
  const slabs = new SlabAllocator(SIZE, 1)
  const slab = filled(slabs, 1)
  slabs.release(slab)
  t.equal(filled(slabs, 0), slab)
})
