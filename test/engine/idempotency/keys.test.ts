/** How many idempotency keys are remembered: the oldest are forgotten, and a repeat counts once. */
import t from 'tap'
import { IdempotencyKeys } from '../../../src/engine/idempotency/keys.js'
import { IDEMPOTENCY_KEYS_MAX } from '../../../src/limits.js'
import { LimitGuard } from '../../../src/operator-limits.js'

const answer = (epoch: number) => ({ epoch, pages: {} }) as never

t.test('the oldest keys are forgotten beyond the limit', async (t) => {
  const keys = new IdempotencyKeys(new LimitGuard({ maxIdempotencyBytes: 2 ** 36 }))
  for (let i = 0; i < IDEMPOTENCY_KEYS_MAX; i++) keys.remember(`k${i}`, answer(i), undefined)
  keys.remember('k0', answer(0), undefined)
  t.equal(keys.entries().length, IDEMPOTENCY_KEYS_MAX)
  t.not(keys.firstUse('k1'), undefined, 'nothing is forgotten at the limit')
  keys.remember('new', answer(1), undefined)
  t.equal(keys.entries().length, IDEMPOTENCY_KEYS_MAX)
  t.equal(keys.firstUse('k1'), undefined, 'the oldest one')
  t.not(keys.firstUse('k2'), undefined)
  t.not(keys.firstUse('k0'), undefined, 'remembered anew, so no longer the oldest')
})

t.test(
  'the bytes of keys come down when they are forgotten, and a key that is remembered anew counts once',
  async (t) => {
    const guard = new LimitGuard({ maxIdempotencyBytes: 10 * 1024 })
    const keys = new IdempotencyKeys(guard)
    const forgotten = (): number => new Map(guard.refusals()).get('maxIdempotencyBytes') ?? 0
    for (let i = 0; i < 1_000; i++) keys.remember('same', answer(i), undefined)
    t.equal(forgotten(), 0)
    for (let i = 0; i < 200; i++) keys.remember(`k${i}`, answer(i), undefined)
    const kept = keys.entries().length
    t.ok(kept > 20 && kept < 40, `${kept} keys of about 260 bytes in 10 KiB`)
    t.equal(forgotten(), 201 - kept)
    for (let i = 0; i < 200; i++) keys.remember(`k${i}`, answer(i), undefined)
    t.equal(keys.entries().length, kept, 'as many after another round')
  },
)
