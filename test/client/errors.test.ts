/** Errors of the client: made of what a server says, however little that is. */
import t from 'tap'
import {
  closedError,
  historyChanged,
  invalidDelta,
  invalidRequest,
  MmsbError,
  problemError,
  protocolError,
} from '../../src/client/errors.js'

t.test('an error says its code and why', (t) => {
  const cause = new Error('cause')
  const error = new MmsbError({ code: 'NETWORK', detail: 'no answer' }, { cause })
  t.ok(error instanceof Error)
  const { name, message, code, status, detail, hint, extra } = error
  t.same(
    { name, message, code, status, detail, hint, extra },
    {
      name: 'MmsbError',
      message: 'NETWORK: no answer',
      code: 'NETWORK',
      status: 0,
      detail: 'no answer',
      hint: '',
      extra: {},
    },
  )
  t.equal(error.cause, cause)
  t.equal(error.minEpoch, undefined)
  for (const [minEpoch, wanted] of [
    [0, 0],
    [12, 12],
    ['12', undefined],
  ])
    t.equal(problemError({ code: 'EPOCH_COMPACTED', detail: '', minEpoch }).minEpoch, wanted)
  t.end()
})

t.test('of a problem document', (t) => {
  const error = problemError(
    {
      type: 'about:blank',
      title: 'Not Found',
      id: 's1',
      status: 404,
      code: 'PAGE_NOT_FOUND',
      detail: 'there is no page "a"',
      hint: 'List them.',
      page: 'a',
      near: ['b'],
    },
    500,
  )
  const { code, status, detail, hint, extra } = error
  t.same(
    { code, status, detail, hint, extra },
    {
      code: 'PAGE_NOT_FOUND',
      status: 404,
      detail: 'there is no page "a"',
      hint: 'List them.',
      extra: { page: 'a', near: ['b'] },
    },
  )
  t.end()
})

t.test('of less than a problem document', (t) => {
  const table: [Record<string, unknown>, number | undefined, object][] = [
    // A message over the WebSocket names no status.
    [
      { code: 'PAGE_NOT_FOUND', detail: 'd' },
      undefined,
      { code: 'PAGE_NOT_FOUND', status: 404, detail: 'd', hint: '' },
    ],
    [{ code: 'PAGE_NOT_FOUND' }, 500, { status: 404, detail: 'the server gave no reason' }],
    [{ code: 'PAGE_NOT_FOUND', status: '404' }, 500, { status: 404 }],
    [{ code: 'PAGE_NOT_FOUND', status: 410 }, 500, { status: 410 }],
    [{ code: 'UNHEARD_OF', detail: 'd' }, 418, { code: 'PROTOCOL', status: 418, detail: 'd' }],
    [{ code: 'toString' }, 502, { code: 'PROTOCOL', status: 502 }],
    [{ code: 404, hint: 5 }, undefined, { code: 'PROTOCOL', status: 0, hint: '' }],
    [{}, 503, { code: 'PROTOCOL', status: 503, detail: 'the server gave no reason' }],
    [{ detail: 5, status: 400 }, 503, { status: 400, detail: 'the server gave no reason' }],
  ]
  for (const [fields, status, wanted] of table)
    t.match(problemError(fields, status), wanted, JSON.stringify(fields))
  t.end()
})

t.test('those of the client itself', (t) => {
  const refused = { status: 0, detail: 'why', hint: /nothing was sent/ }
  t.match(invalidDelta('why'), { ...refused, code: 'INVALID_DELTA' })
  t.match(invalidRequest('why'), { ...refused, code: 'INVALID_REQUEST' })
  t.match(protocolError('why'), { code: 'PROTOCOL', status: 0, detail: 'why' })
  t.match(closedError(), { code: 'CLOSED', status: 0, detail: 'the client has been closed' })
  t.match(closedError('mirror'), { code: 'CLOSED', detail: 'the mirror has been closed' })
  t.match(historyChanged('h'), {
    code: 'HISTORY_CHANGED',
    status: 409,
    detail: /present one is h$/,
    extra: { history: 'h' },
  })
  t.end()
})
