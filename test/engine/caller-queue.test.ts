/** Callers take turns, and the requests of each keep their order. */
import t from 'tap'
import { CallerQueue } from '../../src/engine/caller-queue.js'

t.test('callers are served in turn', async (t) => {
  const queue = new CallerQueue<string>()
  const other = {}
  for (const request of ['a1', 'a2', 'a3']) queue.push('a', request)
  queue.push(other, 'b1')
  queue.push('c', 'c1')
  queue.push(other, 'b2')
  t.equal(queue.size, 6)
  t.equal(queue.sizeOf(other), 2)
  const served: string[] = []
  for (let next = queue.shift(); next !== undefined; next = queue.shift()) served.push(next)
  t.same(served, ['a1', 'b1', 'c1', 'a2', 'b2', 'a3'])
  t.equal(queue.size, 0)
  t.equal(queue.sizeOf('a'), 0)
})

t.test('what is removed is not served', async (t) => {
  const queue = new CallerQueue<string>()
  queue.push('a', 'a1')
  queue.push('b', 'b1')
  queue.push('b', 'b2')
  t.equal(queue.remove('a', 'a1'), true)
  t.equal(queue.remove('a', 'a1'), false)
  t.equal(queue.remove('b', 'a1'), false, 'it is not one of the caller')
  t.equal(queue.remove('b', 'b1'), true)
  t.equal(queue.size, 1)
  t.same(queue.clear(), ['b2'])
  t.equal(queue.shift(), undefined)
})
