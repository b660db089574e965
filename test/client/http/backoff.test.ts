/** Delays, sleeping and deadlines, on a clock that the test moves. */
import { getEventListeners } from 'node:events'
import t from 'tap'
import { backoffMs, deadline, sleep } from '../../../src/client/http/backoff.js'
import { BACKOFF_FIRST_MS, BACKOFF_LAST_MS, TIMER_MAX_MS } from '../../../src/client/limits.js'
import { turns } from '../../lib/wait.js'
import { clockOf, fate } from '../played.js'

const listenersOf = (signal: AbortSignal): number => getEventListeners(signal, 'abort').length

t.test('the longest delay doubles up to a bound, and is drawn from', (t) => {
  const drawn = { random: 1 }
  t.intercept(Math, 'random', { value: () => drawn.random })
  t.same([0, 1, 2, 3, 4, 5].map(backoffMs), [50, 100, 200, 400, 800, 1_600])
  t.same([6, 7, 16, 17, 2_000].map(backoffMs), new Array(5).fill(BACKOFF_LAST_MS))
  drawn.random = 0.25
  t.equal(backoffMs(0), BACKOFF_FIRST_MS / 4)
  t.equal(backoffMs(9), BACKOFF_LAST_MS / 4)
  drawn.random = 0
  t.equal(backoffMs(9), 0)
  t.end()
})

t.test('a sleep ends with its time, or with its signal', async (t) => {
  const clock = clockOf(t)
  const controller = new AbortController()
  const { signal } = controller
  const short = sleep(20, signal)
  const long = sleep(30, signal)
  t.same(clock.waits, [20, 30])
  clock.pass(19)
  t.equal(await fate(short), 'pending')
  clock.pass(1)
  t.same([await fate(short), await fate(long)], ['done', 'pending'])
  t.equal(listenersOf(signal), 1)
  controller.abort('enough')
  t.equal(await fate(long), 'enough')
  t.same([clock.waits, listenersOf(signal)], [[], 0], 'nothing is left behind')
  const late = sleep(10, signal)
  t.equal(await fate(late), 'enough', 'of a signal that has fired already')
  t.same(clock.waits, [])
  const other = new AbortController()
  const whole = sleep(5, other.signal)
  clock.pass(5)
  await whole
  t.equal(listenersOf(other.signal), 0)
})

t.test('a deadline fires in its time, and not when it was ended', async (t) => {
  const clock = clockOf(t)
  const one = deadline(20, [])
  const ended = deadline(20, [])
  t.equal(one.leftMs(), 20)
  clock.pass(19)
  t.same([one.signal.aborted, one.leftMs()], [false, 1])
  ended.end()
  clock.pass(1)
  t.same([one.signal.aborted, ended.signal.aborted], [true, false])
  t.match(one.signal.reason, { code: 'TIMEOUT', status: 0, detail: 'no answer within 20 ms' })
  t.equal(one.leftMs(), 0)
  t.same(clock.waits, [])
})

t.test('a time that begins again', async (t) => {
  const clock = clockOf(t)
  const { signal, restart, end } = deadline(20, [])
  clock.pass(15)
  restart()
  t.same(clock.waits, [20], 'the old one does not run on')
  clock.pass(19)
  t.equal(signal.aborted, false)
  clock.pass(1)
  t.equal(signal.aborted, true)
  restart()
  end()
  t.same(clock.waits, [])
})

t.test('no time, no limit, and a limit longer than a timer takes', async (t) => {
  const clock = clockOf(t)
  const none = deadline(0, [])
  t.match([none.signal.aborted, none.signal.reason], [true, { code: 'TIMEOUT' }])
  t.match(deadline(-1, []).signal.reason, { code: 'TIMEOUT' })
  none.restart()
  t.same(clock.waits, [], 'what is over needs no timer')
  const endless = deadline(Infinity, [])
  t.same([clock.waits, endless.leftMs()], [[], Infinity])
  endless.restart()
  t.same(clock.waits, [])
  const long = deadline(TIMER_MAX_MS + 1, [])
  t.same(clock.waits, [TIMER_MAX_MS], 'a timer of more would run at once')
  t.equal(long.leftMs(), TIMER_MAX_MS + 1)
  long.end()
  const shortest = deadline(1, [])
  clock.pass(1)
  t.equal(shortest.signal.aborted, true)
})

t.test('it fires with the signals that it was given, and lets go of them', async (t) => {
  clockOf(t)
  const [a, b] = [new AbortController(), new AbortController()]
  const one = deadline(20, [undefined, a.signal, b.signal])
  const other = deadline(20, [a.signal])
  t.same([listenersOf(a.signal), listenersOf(b.signal)], [1, 1])
  other.end()
  t.same([listenersOf(a.signal), listenersOf(b.signal)], [1, 1])
  b.abort('b')
  t.same([one.signal.aborted, one.signal.reason], [true, 'b'])
  a.abort('a')
  t.equal(one.signal.reason, 'b', 'the first counts')
  t.equal(other.signal.aborted, false, 'it had ended')
  one.end()
  const c = new AbortController()
  deadline(20, [c.signal, undefined]).end()
  t.equal(listenersOf(c.signal), 0)
  const fired = deadline(20, [c.signal, a.signal])
  t.same([fired.signal.aborted, fired.signal.reason], [true, 'a'])
  fired.end()
  t.equal(listenersOf(c.signal), 0)
  await turns()
})
