/** Rates: what is let in, when, and what a change does. */
import t from 'tap'
import { TokenBucket } from '../../../src/auth/limits/token-bucket.js'

t.test('so much at once after a pause, then the rate', async (t) => {
  let nowMs = 0
  const bucket = new TokenBucket(100, 200, () => nowMs)
  t.equal(bucket.waitMs, 0)
  t.ok(bucket.isFull)
  bucket.take(200)
  t.notOk(bucket.isFull)
  t.equal(bucket.waitMs, 1, 'nothing is left')
  nowMs = 1
  t.equal(bucket.waitMs, 0)
  nowMs = 1000
  bucket.take(100)
  t.equal(bucket.waitMs, 1)
  nowMs = 100_000
  t.ok(bucket.isFull, 'no more is saved up than may be used at once')
  bucket.take(200)
  t.equal(bucket.waitMs, 1)
})

t.test('what is too large is let in once, and paid for by a pause', async (t) => {
  let nowMs = 0
  const bucket = new TokenBucket(100, 100, () => nowMs)
  bucket.take(1100)
  t.equal(bucket.waitMs, 10_000)
  nowMs = 9_999
  t.equal(bucket.waitMs, 1)
  nowMs = 10_001
  t.equal(bucket.waitMs, 0)
})

t.test('another rate counts from now on', async (t) => {
  let nowMs = 0
  const bucket = new TokenBucket(100, 100, () => nowMs)
  bucket.take(200)
  t.equal(bucket.waitMs, 1000)
  bucket.change(1000, 1000)
  t.equal(bucket.waitMs, 100)
  nowMs = 5000
  bucket.change(10, 10)
  t.ok(bucket.isFull)
  bucket.take(10)
  t.equal(bucket.waitMs, 1)
})
