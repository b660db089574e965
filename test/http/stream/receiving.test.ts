/** What a WebSocket receives is counted while it is on the way, from where on it is large. */
import t from 'tap'
import { ByteBudget } from '../../../src/byte-budget.js'
import { Receiving } from '../../../src/http/stream/receiving.js'
import { STREAM_SMALL_MESSAGE_MAX_BYTES } from '../../../src/limits.js'
import { LimitGuard } from '../../../src/operator-limits.js'

const FREE = 2 * STREAM_SMALL_MESSAGE_MAX_BYTES

function setup(bodyBudgetBytes = 10 * FREE) {
  const limits = new LimitGuard({
    answerBudgetBytes: bodyBudgetBytes,
    answerBudgetPerConnectionBytes: bodyBudgetBytes,
  })
  const budget = new ByteBudget(limits, {
    all: 'answerBudgetBytes',
    each: 'answerBudgetPerConnectionBytes',
    what: 'messages',
  })
  const refusals: unknown[] = []
  const receiving = new Receiving(budget, (error) => refusals.push(error))
  return { budget, receiving, refusals }
}

t.test('a message is counted from its first byte on, once it is large', async (t) => {
  const { budget, receiving } = setup()
  receiving.onPiece(FREE - 1)
  receiving.onPiece(1)
  t.equal(budget.used, 0)
  receiving.onPiece(1)
  t.equal(budget.used, FREE + 1)
  receiving.onPiece(0)
  receiving.onPiece(10)
  t.equal(budget.used, FREE + 11)
  const lease = receiving.onMessage()
  t.equal(budget.used, FREE + 11, 'while it is parsed too')
  lease!.release()
  t.equal(budget.used, 0)
  receiving.onPiece(FREE)
  t.equal(receiving.onMessage(), undefined, 'a small one has none')
  receiving.onPiece(FREE)
  t.equal(budget.used, 0, 'the next begins anew')
})

t.test('pings in between are not part of it', async (t) => {
  const { budget, receiving } = setup()
  receiving.onPiece(FREE + 5)
  t.equal(budget.used, FREE + 5)
  receiving.onControl(4)
  receiving.onPiece(10)
  t.equal(budget.used, FREE + 5, 'what it took is not counted twice')
  receiving.onPiece(1)
  t.equal(budget.used, FREE + 6)
  receiving.onMessage()!.release()
  receiving.onPiece(3)
  receiving.onControl(100)
  receiving.onPiece(FREE)
  t.equal(budget.used, 0, 'never below nothing')
  receiving.onPiece(1)
  t.equal(budget.used, FREE + 1)
})

t.test('one without room is refused once, and gives back what it took', async (t) => {
  const { budget, receiving, refusals } = setup(2 * FREE)
  const other = budget.take({}, FREE / 2)
  receiving.onPiece(FREE + 1)
  t.same([budget.used, refusals], [FREE / 2 + FREE + 1, []])
  receiving.onPiece(FREE)
  receiving.onPiece(FREE)
  t.match(refusals, [{ code: 'OVERLOADED' }])
  t.equal(refusals.length, 1)
  receiving.end()
  t.equal(budget.used, FREE / 2)
  other.release()
  receiving.onPiece(2 * FREE)
  t.same([budget.used, refusals.length], [0, 1], 'nothing is counted after the end')
  receiving.end()
})
