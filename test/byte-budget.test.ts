/** Budgets of bytes in flight. */
import t from 'tap'
import { ByteBudget } from '../src/byte-budget.js'
import { Receiving } from '../src/http/stream/receiving.js'
import { LimitGuard, OPERATOR_LIMITS } from '../src/operator-limits.js'

t.test('a budget holds in all and for each owner; what is too large is let in alone', async (t) => {
  const limits = new LimitGuard({ answerBudgetBytes: 1000, answerBudgetPerConnectionBytes: 600 })
  const budget = new ByteBudget(limits, {
    all: 'answerBudgetBytes',
    each: 'answerBudgetPerConnectionBytes',
    what: 'answers',
  })
  const [a, b, c] = [{}, {}, {}]
  const first = budget.take(a, 500)
  t.throws(() => budget.take(a, 101), { code: 'OVERLOADED', extra: { max: 600 } })
  const second = budget.take(b, 500)
  t.throws(() => budget.take(c, 1), { code: 'OVERLOADED', extra: { max: 1000 } })
  t.throws(() => second.grow(1), { code: 'OVERLOADED' })
  t.equal(budget.used, 1000)
  first.release()
  first.release()
  t.equal(budget.used, 500, 'released once')
  t.throws(() => budget.take(c, 5000), { code: 'OVERLOADED' }, 'not alone')
  second.release()
  const large = budget.take(c, 5000)
  large.grow(5000)
  t.throws(() => budget.take(a, 1), { code: 'OVERLOADED' })
  large.release()
  t.equal(budget.used, 0)
  t.same(
    limits.refusals().filter(([, count]) => count > 0),
    [
      ['answerBudgetBytes', 4],
      ['answerBudgetPerConnectionBytes', 1],
    ],
  )
})

t.test('the messages and the request bodies of one connection', async (t) => {
  const bytes = 64 * 1024
  for (const [all, each, values] of [
    ['messageBudgetBytes', 'messageBudgetPerConnectionBytes', { messageBudgetPerConnectionBytes: bytes }],
    ['requestBudgetBytes', 'requestBudgetPerConnectionBytes', { requestBudgetPerConnectionBytes: bytes }],
  ] as const) {
    const limits = new LimitGuard(values)
    const budget = new ByteBudget(limits, { all, each, what: 'bytes' })
    const owner = {}
    const first = budget.take(owner, bytes - 1)
    const second = budget.take(owner, 1)
    t.throws(() => second.grow(1), {
      code: 'OVERLOADED',
      extra: { limit: `--${OPERATOR_LIMITS[each].flag}` },
    })
    t.throws(() => budget.refuseWithoutRoom(owner, 1), { code: 'OVERLOADED' })
    budget.refuseWithoutRoom({}, 1)
    t.equal(new Map(limits.refusals()).get(each), 2)
    first.release()
    second.grow(1)
    second.release()
    t.equal(budget.used, 0)
  }
})

t.test('a connection that sends a large message while another one is parsed', async (t) => {
  const limits = new LimitGuard({ messageBudgetPerConnectionBytes: 1024 ** 2 })
  const budget = new ByteBudget(limits, {
    all: 'messageBudgetBytes',
    each: 'messageBudgetPerConnectionBytes',
    what: 'messages',
  })
  const refused: unknown[] = []
  const receiving = new Receiving(budget, (error) => refused.push(error))
  receiving.onPiece(600 * 1024)
  const lease = receiving.onMessage()
  receiving.onPiece(400 * 1024)
  t.same(refused, [])
  receiving.onPiece(400 * 1024)
  t.match(refused, [{ code: 'OVERLOADED', extra: { limit: '--message-budget-per-connection' } }])
  lease?.release()
  receiving.end()
  t.equal(budget.used, 0)
})
