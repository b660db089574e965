/** What writers know about pages: asked for once, until it may be wrong. */
import t from 'tap'
import { KnownPages } from '../../../src/client/stream/known-pages.js'
import type { Page } from '../../../src/client/types.js'
import { turns } from '../../lib/wait.js'

/** Pages whose descriptions the test answers. */
function asking() {
  const asked: { name: string; answer: (page: Page) => void; refuse: (error: unknown) => void }[] = []
  const pages = new KnownPages((name) => {
    return new Promise((answer, refuse) => asked.push({ name, answer, refuse }))
  })
  return { pages, asked, names: () => asked.map(({ name }) => name) }
}

const described = (id: number, shape: number[] = [2, 3]): Page =>
  ({ id, name: 'not needed', dtype: 'f32', shape }) as unknown as Page

t.test('a page is read once, by all who ask meanwhile, and then known at once', async (t) => {
  const { pages, asked, names } = asking()
  const both = [pages.get('a'), pages.get('a')]
  t.equal(both[0], both[1])
  const other = pages.get('b')
  t.same(names(), ['a', 'b'])
  asked[0]!.answer(described(7))
  const wanted = { id: 7, dtype: 'f32', elements: 6 }
  t.same(await Promise.all(both), [wanted, wanted])
  t.same(pages.get('a'), wanted, 'not a promise')
  t.ok(pages.get('b') instanceof Promise)
  asked[1]!.answer(described(8, []))
  t.same(await other, { id: 8, dtype: 'f32', elements: 1 })
  t.equal(asked.length, 2)
})

t.test('what is forgotten is read again, and nothing else', async (t) => {
  const { pages, asked, names } = asking()
  for (const name of ['a', 'b']) void pages.get(name)
  for (const [id, { answer }] of asked.entries()) answer(described(id))
  await turns()
  pages.forget('a')
  t.match(pages.get('b'), { id: 1 })
  const again = pages.get('a')
  t.same(names(), ['a', 'b', 'a'])
  asked[2]!.answer(described(9))
  t.match(await again, { id: 9 })
  t.match(pages.get('a'), { id: 9 })
})

t.test('a page that could not be read is asked for again', async (t) => {
  const { pages, asked } = asking()
  const first = pages.get('a')
  asked[0]!.refuse('not found')
  await t.rejects(first as Promise<unknown>, 'not found' as never)
  const second = pages.get('a')
  t.equal(asked.length, 2)
  asked[1]!.answer(described(3))
  t.match(await second, { id: 3 })
})

t.test('an answer from before another history is not kept', async (t) => {
  const { pages, asked } = asking()
  const known = pages.get('known')
  asked[0]!.answer(described(1))
  await known
  const before = pages.get('a')
  pages.forgetAll()
  t.ok(pages.get('known') instanceof Promise)
  const after = pages.get('a')
  t.not(after, before)
  t.equal(asked.length, 4)
  asked[1]!.answer(described(5))
  t.match(await before, { id: 5 }, 'who asked gets it')
  t.equal(pages.get('a'), after, 'the newer question is still open')
  asked[3]!.answer(described(6))
  t.match(await after, { id: 6 })
  t.match(pages.get('a'), { id: 6 })

  const late = asking()
  const void_ = late.pages.get('a')
  late.pages.forgetAll()
  late.asked[0]!.answer(described(5))
  await void_
  t.ok(late.pages.get('a') instanceof Promise)
  t.equal(late.asked.length, 2)
})
