/** A reader that is far behind: how much it is given at once, and what is left of it when it leaves. */
import t from 'tap'
import { STREAM_CATCH_UP_SLICE_MS } from '../../../src/limits.js'
import { turn } from '../../lib/wait.js'
import { answered, type FakeSink, set, setup } from '../fakes.js'

/** Messages between two looks at the clock. */
const STEPS = 64

/** A reader of 1,000 epochs that are in memory: how many messages it is sent in each turn. */
function messagesPerTurn(messageMs: number): number[] {
  const { bus, clock, connect } = setup()
  connect().connection.subscribe('w', { pages: ['a'] })
  for (let i = 0; i < 1000; i++) bus.commit(set('a', [0, i + 1]))
  const { sink, connection } = connect()
  let nowMs = clock.nowMs()
  clock.nowMs = () => nowMs
  let messages = 0
  sink.send = (_id, { type }) => {
    if (type !== 'change') return
    messages++
    nowMs += messageMs
  }
  const turns: number[] = []
  connection.subscribe('s', { pages: ['a'], from: 1 })
  do {
    turns.push(messages)
    messages = 0
  } while (clock.step())
  return turns
}

t.test('far behind, it is given as much as fits into a slice, then the event loop has a turn', async (t) => {
  const whole = Array(15).fill(STEPS)
  t.same(messagesPerTurn(STREAM_CATCH_UP_SLICE_MS / STEPS), [...whole, 40], 'a slice is full at a look')
  t.same(messagesPerTurn(STREAM_CATCH_UP_SLICE_MS / STEPS / 2), [...Array(7).fill(2 * STEPS), 104])
  t.same(messagesPerTurn(0), [1000], 'no turn is given up while no time has passed')
})

t.test('who leaves while it waits for its turn, or for the log, is not sent anything more', async (t) => {
  for (const place of ['memory', 'log'] as const) {
    const { bus, clock, connect } = setup()
    if (place === 'memory') connect().connection.subscribe('w', { pages: ['a'] })
    for (let i = 0; i < 200; i++) bus.commit(set('a', [0, i + 1]))
    const { sink, connection } = connect()
    let nowMs = clock.nowMs()
    clock.nowMs = () => nowMs++
    const signals: AbortSignal[] = []
    const { pastChanges } = bus
    bus.pastChanges = (query, options?: { readonly signal: AbortSignal }) => {
      if (options !== undefined) signals.push(options.signal)
      return pastChanges.call(bus, query)
    }
    connection.subscribe('s', { pages: ['a'], from: 1 })
    const { timerCount } = clock
    connection.unsubscribe('s')
    if (place === 'memory') t.equal(clock.timerCount, timerCount - 1, 'its turn is given up')
    t.same(
      signals.map(({ aborted }) => aborted),
      place === 'memory' ? [] : [true],
      'the log is not read for it any more',
    )
    const { length } = sink.got
    for (let i = 0; i < 20; i++) {
      await turn()
      clock.advance(1)
    }
    t.equal(sink.got.length, length, place)
    t.match(sink.got.at(-1), { type: 'unsubscribed', epoch: place === 'memory' ? STEPS + 1 : 1 })
  }
})

const told = ({ got }: FakeSink) =>
  got.filter(({ type }) => type === 'change').map(({ epoch, changes }) => [epoch, changes?.[0]?.values])

t.test(
  'epochs whose values are not in memory come from the log, and those after it from memory',
  async (t) => {
    const { bus, clock, connect } = setup()
    connect().connection.subscribe('w', { pages: ['a'], data: 'none' })
    for (let i = 2; i < 5; i++) bus.commit(set('a', [0, i]))
    connect().connection.subscribe('v', { pages: ['a'] })
    for (let i = 5; i < 8; i++) bus.commit(set('a', [0, i]))
    const { sink, connection } = connect()
    connection.subscribe('s', { pages: ['a'], from: 1 })
    await answered(clock)
    t.same(
      told(sink),
      [2, 3, 4, 5, 6, 7].map((epoch) => [epoch, [epoch]]),
    )
    t.equal(bus.asked, 1)
  },
)

t.test('pieces of the log in which nothing changed for it are behind it too', async (t) => {
  const { bus, clock, connect } = setup()
  bus.commit(set('a', [0, 2]))
  for (let i = 0; i < 10; i++) bus.commit(set('b', [0, i + 1]))
  const { sink, connection } = connect()
  connection.subscribe('s', { pages: ['a'], from: 1 })
  await answered(clock)
  t.equal(bus.asked, Math.ceil((bus.epoch - 1) / bus.pieceEpochs))
  bus.commit(set('a', [0, 9]))
  t.same(told(sink), [
    [2, [2]],
    [bus.epoch, [9]],
  ])
})

t.test('one that leaves does not take the log from another that waits for the same', async (t) => {
  const { bus, clock, connect } = setup()
  bus.pieceTurns = 3
  for (let i = 2; i < 8; i++) bus.commit(set('a', [0, i]))
  const [first, second] = [connect(), connect()]
  let signal: AbortSignal | undefined
  const { pastChanges } = bus
  bus.pastChanges = (query, options?: { readonly signal: AbortSignal }) => {
    signal ??= options?.signal
    return pastChanges.call(bus, query)
  }
  for (const { connection } of [first, second]) connection.subscribe('s', { pages: ['a'], from: 1 })
  t.equal(bus.asked, 1, 'asked once for both')
  first.connection.unsubscribe('s')
  t.notOk(signal?.aborted)
  await answered(clock)
  t.equal(told(second.sink).length, 6)
})
