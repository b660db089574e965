/** One listener for each signal, however many wait for it. */
import { getEventListeners } from 'node:events'
import t from 'tap'
import { onAbort } from '../../../src/client/http/abort.js'

const listenersOf = (signal: AbortSignal): number => getEventListeners(signal, 'abort').length

t.test('all who wait are called, once, in their order', (t) => {
  const controller = new AbortController()
  const { signal } = controller
  const called: string[] = []
  const undo = [
    onAbort(signal, () => called.push('a')),
    onAbort(signal, () => called.push('b')),
    onAbort(signal, () => called.push('c')),
  ]
  t.equal(listenersOf(signal), 1)
  undo[1]!()
  t.equal(listenersOf(signal), 1, 'others wait still')
  controller.abort()
  t.same(called, ['a', 'c'])
  t.equal(listenersOf(signal), 0)
  controller.abort()
  for (const step of undo) step()
  t.same(called, ['a', 'c'])
  t.end()
})

t.test('the last one who leaves takes the listener away, and the next one brings another', (t) => {
  const controller = new AbortController()
  const { signal } = controller
  const called: string[] = []
  const first = onAbort(signal, () => called.push('first'))
  first()
  t.equal(listenersOf(signal), 0)
  const second = onAbort(signal, () => called.push('second'))
  t.equal(listenersOf(signal), 1)
  first()
  t.equal(listenersOf(signal), 1, 'to leave twice does not end the wait of another')
  const third = onAbort(signal, () => called.push('third'))
  second()
  t.equal(listenersOf(signal), 1)
  controller.abort()
  t.same(called, ['third'])
  third()
  t.end()
})

t.test('who leaves late does not take away who waits after the signal fired', (t) => {
  // A signal fires once, but the program may say so itself.
  const { signal } = new AbortController()
  const called: string[] = []
  const first = onAbort(signal, () => called.push('first'))
  signal.dispatchEvent(new Event('abort'))
  onAbort(signal, () => called.push('second'))
  first()
  t.equal(listenersOf(signal), 1)
  signal.dispatchEvent(new Event('abort'))
  t.same(called, ['first', 'second'])
  t.end()
})

t.test('one may take away another while they are called', (t) => {
  const controller = new AbortController()
  const called: string[] = []
  const undo: (() => void)[] = []
  onAbort(controller.signal, () => {
    called.push('a')
    for (const step of undo) step()
  })
  undo.push(onAbort(controller.signal, () => called.push('b')))
  onAbort(controller.signal, () => called.push('c'))
  controller.abort()
  t.same(called, ['a', 'c'])
  t.end()
})

t.test('no signal, or one that has fired already, never calls', (t) => {
  const fail = () => t.fail('called')
  onAbort(undefined, fail)()
  const signal = AbortSignal.abort()
  const undo = onAbort(signal, fail)
  t.equal(listenersOf(signal), 0)
  undo()
  t.end()
})

t.test('each signal has its own', (t) => {
  const one = new AbortController()
  const other = new AbortController()
  const called: string[] = []
  onAbort(one.signal, () => called.push('one'))
  onAbort(other.signal, () => called.push('other'))
  other.abort()
  t.same(called, ['other'])
  t.same([listenersOf(one.signal), listenersOf(other.signal)], [1, 0])
  t.end()
})
