/** Waiting for idle moments, holds one after another, and how a bus ends. */
import t from 'tap'
import { IdleGate } from '../../../src/engine/commit/idle-gate.js'
import { Lifecycle } from '../../../src/engine/commit/lifecycle.js'
import { turn } from '../../lib/wait.js'

function gateOf() {
  const order: string[] = []
  const state = { isIdle: false }
  const gate = new IdleGate({ isIdle: () => state.isIdle, onRelease: () => order.push('released') })
  const note = (what: string) => () => {
    order.push(what)
  }
  return { gate, order, state, note }
}

t.test('between: now, or when it is woken', async (t) => {
  const { gate, order, state, note } = gateOf()
  gate.between(note('later'))
  t.ok(gate.hasWaiters)
  t.same(order, [])
  state.isIdle = true
  gate.between(note('now'))
  t.same(order, ['now'])
  gate.wake()
  t.same(order, ['now', 'later'])
  t.notOk(gate.hasWaiters)
  gate.wake()
  t.same(order, ['now', 'later'], 'once')
})

t.test('idle and next', async (t) => {
  const { gate, order, state, note } = gateOf()
  void gate.idle().then(note('idle'))
  void gate.next().then(note('next'))
  await turn()
  t.same(order, [])
  gate.wake()
  await turn()
  t.same(order, ['idle', 'next'])
  state.isIdle = true
  void gate.idle().then(note('idle at once'))
  void gate.next().then(note('next one'))
  await turn()
  t.same(order.slice(2), ['idle at once'])
  gate.wake()
  await turn()
  t.equal(order.at(-1), 'next one')
})

t.test('one that waits again while it is woken is woken the next time', async (t) => {
  const { gate } = gateOf()
  let count = 0
  const again = (): void => {
    count++
    gate.between(again)
  }
  gate.between(again)
  gate.wake()
  t.equal(count, 1)
  gate.wake()
  t.equal(count, 2)
})

t.test(
  'a hold waits until it is idle, and the next for the one before, whether it fails or not',
  async (t) => {
    const { gate, order, state } = gateOf()
    let end: () => void = () => {}
    const first = gate.hold(async () => {
      order.push('first')
      await new Promise<void>((resolve) => {
        end = resolve
      })
      throw new Error('broken')
    })
    const second = gate.hold(async () => {
      order.push('second')
      return 2
    })
    t.ok(gate.isHeld, 'from the call on')
    await turn()
    gate.wake()
    await turn()
    t.same(order, [], 'it is not idle yet')
    state.isIdle = true
    gate.wake()
    await turn()
    t.same(order, ['first'])
    end()
    await t.rejects(first, { message: 'broken' })
    t.equal(await second, 2)
    t.same(order, ['first', 'released', 'second', 'released'])
    t.notOk(gate.isHeld)
  },
)

t.test('a pause holds, and waits for nothing', async (t) => {
  const { gate, order } = gateOf()
  gate.pause()
  gate.pause()
  gate.resume()
  t.ok(gate.isHeld)
  gate.resume()
  t.notOk(gate.isHeld)
  t.same(order, [])
})

// ---- lifecycle --------------------------------------------------------------------------------------------

/** What a bus in this state answers: writes, reads. */
function answers(lifecycle: Lifecycle): string[] {
  const ask = (refuse: () => void): string => {
    try {
      refuse()
      return 'fine'
    } catch (error) {
      return `${(error as { code: string }).code} ${(error as Error).message}`
    }
  }
  return [
    String(lifecycle.isWritable),
    ask(() => lifecycle.refuseWrites()),
    ask(() => lifecycle.refuseWhenStopped()),
    ask(() => lifecycle.refuseWhenFailed()),
  ]
}

t.test('a bus that runs, is read-only, closes, is closed', async (t) => {
  const lifecycle = new Lifecycle()
  t.same(answers(lifecycle), ['true', 'fine', 'fine', 'fine'])
  t.notOk(lifecycle.isReadOnly)
  const only = new Lifecycle()
  only.beReadOnly()
  t.ok(only.isReadOnly)
  const [writable, write, ...reads] = answers(only)
  t.same([writable, reads], ['false', ['fine', 'fine']])
  t.match(write, /^READ_ONLY /)
  lifecycle.beginClose()
  const closing = 'BUS_FAILED The bus is closing.'
  t.same(answers(lifecycle), ['false', closing, closing, 'fine'], 'reads go on')
  lifecycle.endClose()
  const closed = 'BUS_FAILED The bus has stopped: the bus is closed'
  t.same(answers(lifecycle), ['false', closed, closed, closed])
})

t.test('the first failure stays', async (t) => {
  const lifecycle = new Lifecycle()
  const told: string[] = []
  const end = lifecycle.onFailure((reason) => told.push(`ended ${reason}`))
  lifecycle.onFailure((reason) => told.push(reason))
  end()
  t.equal(lifecycle.failure, undefined)
  t.ok(lifecycle.fail(new Error('disk')))
  t.notOk(lifecycle.fail('other'))
  lifecycle.endClose()
  t.equal(lifecycle.failure, 'disk')
  t.same(told, [], 'nobody is told before it is cleaned up')
  lifecycle.tellFailure()
  t.same(told, ['disk'])
  const stopped = 'BUS_FAILED The bus has stopped: disk'
  t.same(answers(lifecycle), ['false', stopped, stopped, stopped])
  const other = new Lifecycle()
  other.fail('a text')
  t.equal(other.failure, 'a text')
})
