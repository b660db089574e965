/** The messages of the stream: their texts, their sizes, and that each thing is gathered and encoded once. */
import t from 'tap'
import type { PageChange } from '../../src/engine/types.js'
import { MmsbError } from '../../src/errors.js'
import { STREAM_LARGE_BYTES, STREAM_LARGE_PAGES } from '../../src/limits.js'
import {
  ChangeMessage,
  jsonHead,
  jsonTail,
  jsonTailTexts,
  PagePart,
  SnapshotMessage,
  type SnapshotPage,
  type StreamMessage,
} from '../../src/stream/messages.js'

const HISTORY = 'h'

function change(given: Partial<PageChange> = {}): PageChange {
  const ranges = Uint32Array.of(1, 2)
  return { pageId: 7, page: 'a', kind: 'source', dtype: 'u16', shape: [2, 4], ranges, ...given }
}

/** A part whose elements are their own places, and how often it was gathered. */
function part(given: Partial<PageChange> = {}) {
  const asked: [number, number[]][] = []
  const made = new PagePart(change(given), (pageId, ranges) => {
    asked.push([pageId, [...ranges]])
    const places: number[] = []
    for (let i = 0; i < ranges.length; i += 2)
      for (let k = 0; k < ranges[i + 1]!; k++) places.push(ranges[i]! + k)
    return Uint16Array.from(places)
  })
  return { part: made, asked }
}

/** So many bytes of u16 from the first element on. */
const large = (bytes: number) => ({ shape: [bytes / 2], ranges: Uint32Array.of(0, bytes / 2) })

const page = (name: string, values: Uint16Array): SnapshotPage => {
  return { name, id: 1, kind: 'source', dtype: 'u16', shape: [values.length], version: 3, values }
}

t.test('a part is gathered once, and a deletion never', async (t) => {
  const { part: one, asked } = part()
  t.equal(one.valueBytes, 4)
  t.same([one.values(), one.values()], [Uint16Array.of(1, 2), Uint16Array.of(1, 2)])
  t.equal(one.values(), one.values())
  t.same(asked, [[7, [1, 2]]])
  t.same(one.gather(Uint32Array.of(2, 1)), Uint16Array.of(2))
  t.equal(one.uncut, one.change)
  const gone = part({ kind: 'deleted', ranges: new Uint32Array(0) })
  t.same([gone.part.values(), gone.part.valueBytes, gone.asked], [new Uint16Array(0), 0, []])
})

t.test('the text of a part, for each mode and kind; made once', async (t) => {
  const { part: one, asked } = part()
  t.equal(one.json('none'), '{"page":"a","kind":"source"}')
  t.equal(one.json('ranges'), '{"page":"a","kind":"source","ranges":[[1,2]]}')
  t.same(asked, [], 'nothing is gathered for these')
  for (let i = 0; i < 2; i++)
    t.equal(one.json('values'), '{"page":"a","kind":"source","ranges":[[1,2]],"values":[1,2]}')
  t.equal(asked.length, 1)
  const created = part({ kind: 'created', ranges: Uint32Array.of(0, 1, 3, 2) }).part
  t.equal(created.json('none'), '{"page":"a","kind":"created","dtype":"u16","shape":[2,4]}')
  t.equal(
    created.json('values'),
    '{"page":"a","kind":"created","dtype":"u16","shape":[2,4],"ranges":[[0,1],[3,2]],"values":[0,3,4]}',
  )
  const gone = part({ kind: 'deleted', ranges: new Uint32Array(0) }).part
  t.equal(gone.json('values'), '{"page":"a","kind":"deleted","ranges":[],"values":[]}')
})

t.test('the text of a large part comes in pieces, which stay', async (t) => {
  const { part: just } = part(large(STREAM_LARGE_BYTES))
  t.same([...just.jsonTexts('values')], [just.json('values')])
  const { part: more, asked } = part(large(STREAM_LARGE_BYTES + 2))
  t.same([...more.jsonTexts('ranges')], [more.json('ranges')])
  const texts = [...more.jsonTexts('values')]
  t.ok(texts.length > 3)
  t.ok(texts.every((text) => text.length < STREAM_LARGE_BYTES))
  t.equal(texts.join(''), part(large(STREAM_LARGE_BYTES + 2)).part.json('values'))
  t.same([...more.jsonTexts('values')], texts)
  t.equal([...more.jsonTexts('values')][1], texts[1])
  t.equal(asked.length, 1)
})

t.test('what is encoded for a protocol is made once', async (t) => {
  const message = new ChangeMessage(1, 1, [], 'values')
  let made = 0
  t.equal(message.isEncoded('x'), false)
  for (let i = 0; i < 3; i++)
    t.equal(
      message.encoded('x', () => ++made),
      1,
    )
  t.equal(
    message.encoded('y', () => ++made),
    2,
  )
  t.equal(
    message.encoded('x', () => ++made),
    1,
  )
  t.same([message.isEncoded('x'), message.isEncoded('z')], [true, false])
})

t.test('the size of a change; from where on it is large', async (t) => {
  const parts = [part(), part({ ranges: Uint32Array.of(0, 3, 5, 1) })]
  const all = parts.map((one) => one.part)
  const sizes = (['none', 'ranges', 'values'] as const).map(
    (mode) => new ChangeMessage(3, 4, all, mode).valueBytes,
  )
  t.same(sizes, [0, 0, 12])
  const message = new ChangeMessage(3, 4, all, 'values')
  t.same([message.first, message.epoch, message.isLarge, message.valueBytes], [3, 4, false, 12])
  new ChangeMessage(3, 4, all, 'ranges').gather()
  t.same(
    parts.map(({ asked }) => asked.length),
    [0, 0],
  )
  message.gather()
  t.same(
    parts.map(({ asked }) => asked.length),
    [1, 1],
  )
  const isLarge = (bytes: number, count = 1) =>
    new ChangeMessage(
      1,
      1,
      Array.from({ length: count }, () => part(large(bytes)).part),
      'values',
    ).isLarge
  t.same([isLarge(STREAM_LARGE_BYTES), isLarge(STREAM_LARGE_BYTES + 2)], [false, true])
  t.same([isLarge(2, STREAM_LARGE_PAGES), isLarge(2, STREAM_LARGE_PAGES + 1)], [false, true])
})

t.test('the size of a snapshot; from where on it is large', async (t) => {
  const isLarge = (elements: number, pages = 1) =>
    new SnapshotMessage(
      1,
      HISTORY,
      Array.from({ length: pages }, () => page('a', new Uint16Array(elements))),
    ).isLarge
  const most = STREAM_LARGE_BYTES / 2
  t.same([isLarge(most), isLarge(most + 1)], [false, true])
  t.same([isLarge(1, STREAM_LARGE_PAGES), isLarge(1, STREAM_LARGE_PAGES + 1)], [false, true])
  const message = new SnapshotMessage(5, HISTORY, [
    page('a', new Uint16Array(2)),
    page('b', new Uint16Array(3)),
  ])
  t.same([message.epoch, message.history, message.valueBytes, message.pages.length], [5, HISTORY, 10, 2])
  t.doesNotThrow(() => message.gather())
})

t.test('the text of each message', async (t) => {
  t.equal(jsonHead('change', undefined), '{"type":"change"')
  t.equal(jsonHead('change', 'a"b'), '{"type":"change","id":"a\\"b"')
  const error = new MmsbError('NOT_FOUND', 'no', { limit: 'x' })
  const cases: readonly [StreamMessage, object][] = [
    [
      { type: 'subscribed', epoch: 3, history: HISTORY },
      { epoch: 3, history: HISTORY },
    ],
    [{ type: 'progress', epoch: 3 }, { epoch: 3 }],
    [{ type: 'unsubscribed', epoch: 0 }, { epoch: 0 }],
    [{ type: 'compacted', minEpoch: 4 }, { minEpoch: 4 }],
    [{ type: 'overflow', resumeFrom: 5 }, { resumeFrom: 5 }],
    [
      { type: 'error', error },
      { code: 'NOT_FOUND', detail: 'no', hint: error.hint, limit: 'x' },
    ],
  ]
  for (const [message, rest] of cases)
    t.same(JSON.parse(jsonHead(message.type, 's') + jsonTail(message)), {
      type: message.type,
      id: 's',
      ...rest,
    })
})

t.test('a message with pages: the same text at once and in pieces', async (t) => {
  for (const count of [0, 1, 3]) {
    const parts = Array.from({ length: count }, () => part().part)
    const changed = new ChangeMessage(2, 3, parts, 'values')
    const text = jsonTail(changed)
    t.equal(text, `,"epoch":3,"first":2,"changes":[${parts.map((one) => one.json('values')).join(',')}]}`)
    t.equal([...jsonTailTexts(changed)].join(''), text)
    const names = ['a', 'b', 'c'].slice(0, count)
    const whole = new SnapshotMessage(
      3,
      HISTORY,
      names.map((name) => page(name, Uint16Array.of(1, 2))),
    )
    const pages = names.map((name) => `"${name}":{"dtype":"u16","shape":[2],"version":3,"values":[1,2]}`)
    t.equal(jsonTail(whole), `,"epoch":3,"history":"h","pages":{${pages.join(',')}}}`)
    t.equal([...jsonTailTexts(whole)].join(''), jsonTail(whole))
  }
})
