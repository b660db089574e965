/** The operator's limits: flags, variables, options of the library, refusals and their counts. */
import t from 'tap'
import { parseFlags } from '../src/cli/flags.js'
import { LIMIT_FLAGS, limitsOf } from '../src/cli/limit-flags.js'
import { Bus } from '../src/index.js'
import { LIMIT_NAMES, LimitGuard, OPERATOR_LIMITS, showLimit } from '../src/operator-limits.js'

t.test('a flag or its variable sets a limit, in the unit that the help shows', async (t) => {
  const given = parseFlags(['--max-past-requests', '7', '--answer-budget', '2m'], LIMIT_FLAGS, {
    MMSB_MAX_STEP_COST: '250ms',
    MMSB_MAX_PAST_REQUESTS: '9',
  })
  t.same(limitsOf(given), { maxPastRequests: 7, answerBudgetBytes: 2 * 1024 ** 2, maxStepCostMs: 250 })
  for (const name of LIMIT_NAMES) {
    const { flag, unit, standard, least, most } = OPERATOR_LIMITS[name]
    for (const value of [standard, least, most]) {
      const shown = parseFlags([`--${flag}`, showLimit(unit, value)], LIMIT_FLAGS, {})
      t.same(limitsOf(shown), { [name]: value }, `${flag} ${value}`)
    }
  }
})

t.test('a value outside the limits of a limit is refused by name', async (t) => {
  for (const args of [
    ['--max-past-requests', '0'],
    ['--max-json-bytes', '9g'],
    ['--max-json-depth', '7'],
    ['--headers-timeout', '2h'],
    ['--body-timeout', '10'],
  ]) {
    t.throws(() => limitsOf(parseFlags(args, LIMIT_FLAGS, {})), new RegExp(args[0]!), args.join(' '))
  }
  await t.rejects(Bus.open({ limits: { maxPastRequests: 0 } }), { code: 'INVALID_REQUEST' })
  await t.rejects(Bus.open({ limits: { maxCats: 1 } as never }), { code: 'INVALID_REQUEST' })
})

t.test('a refusal names the flag and is counted', async (t) => {
  const guard = new LimitGuard({ maxPastRequests: 3 })
  const error = guard.refusal('maxPastRequests', '3 requests wait.', { waiting: 3 })
  t.match(error, { code: 'OVERLOADED', message: '3 requests wait.' })
  t.same(error.extra, { limit: '--max-past-requests', max: 3, waiting: 3 })
  guard.count('maxPastRequests')
  t.equal(new Map(guard.refusals()).get('maxPastRequests'), 2)
  t.equal(new Map(guard.refusals()).get('maxJsonDepth'), 0)
  t.equal(guard.values.maxJsonDepth, OPERATOR_LIMITS.maxJsonDepth.standard)
})
