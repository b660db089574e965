/** Random queries and headers on a read: each answer is one that HTTP has for it, and each of those comes. */
import fc from 'fast-check'
import t from 'tap'
import { serve } from '../helpers.js'

const ANSWERS = [200, 206, 304, 400, 404, 406, 410, 416]

t.test('any query and headers on a read', async (t) => {
  const { bus, call } = await serve(t)
  await bus.create('u8', { dtype: 'u8', shape: [4] })
  for (let i = 0; i < 6; i++) await bus.patch('u8', { values: [i] })
  const text = fc.string({ unit: 'grapheme-ascii', maxLength: 12 })
  const small = fc.nat(6).map(String)
  const headers = fc.record(
    {
      range: fc.oneof(
        text,
        text.map((s) => `bytes=${s}`),
        fc.tuple(small, small).map(([first, last]) => `bytes=${first}-${last}`),
      ),
      accept: fc.oneof(text, fc.constantFrom('*/*', 'application/json', 'application/octet-stream')),
      'if-none-match': fc.oneof(
        text,
        text.map((s) => `"${s}"`),
        fc.constant('*'),
      ),
      'if-range': text,
    },
    { requiredKeys: [] },
  )
  const query = fc.record(
    {
      offset: fc.oneof(text, fc.nat().map(String), small),
      count: fc.oneof(text, small),
      epoch: fc.oneof(text, fc.nat(9).map(String)),
    },
    { requiredKeys: [] },
  )
  const seen = new Set<number>()
  await fc.assert(
    fc.asyncProperty(headers, query, async (given, q) => {
      const search = new URLSearchParams(Object.entries(q) as [string, string][])
      const { status } = await call(
        'GET',
        `/v1/pages/u8/data?${search}`,
        undefined,
        given as Record<string, string>,
      )
      seen.add(status)
      return ANSWERS.includes(status)
    }),
    { numRuns: 2000 },
  )
  t.same([...seen].sort(), ANSWERS, 'each of them came')
})
