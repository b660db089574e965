/** Budgets of bytes in flight. */
import t from 'tap'
import { ByteBudget } from '../src/byte-budget.js'
import { LimitGuard } from '../src/operator-limits.js'

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
