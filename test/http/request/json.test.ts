/** Parsing of JSON from clients: in pieces it gives what JSON.parse gives; what is refused, and where. */
import t from 'tap'
import { MmsbError } from '../../../src/errors.js'
import { parseJson } from '../../../src/http/request/json.js'
import { JSON_CONTAINERS_MAX, JSON_MEMBERS_MAX, JSON_PIECE_BYTES } from '../../../src/limits.js'
import { LimitGuard } from '../../../src/operator-limits.js'

const parse = (text: string | Buffer, limits = new LimitGuard()): Promise<unknown> =>
  parseJson(Buffer.from(text), 'body', limits)

async function refusalOf(text: string | Buffer, limits?: LimitGuard): Promise<string> {
  const error = await parse(text, limits).then(
    () => undefined,
    (cause: unknown) => cause,
  )
  if (!(error instanceof MmsbError)) throw new Error(`not refused: ${String(error)}`)
  return `${error.code} ${error.message}`
}

const LONG = 'x'.repeat(JSON_PIECE_BYTES)
const numbers = (count: number): string => Array.from({ length: count }, (_, i) => i / 3).join()

t.test('a large text parses as JSON.parse does', async (t) => {
  const texts = [
    `[${numbers(50_000)}]`,
    ` { "values" : [${numbers(50_000)}] , "offset" : 3 } `,
    `{"a":[[${numbers(20_000)}],[${numbers(20_000)}],1],"b":{"c":[${numbers(20_000)}],"d":{}},"a":2}`,
    `{"__proto__":[${numbers(20_000)}],"x":{"__proto__":1}}`,
    `["${LONG}\\"],[","\\\\",[${numbers(20_000)},"]"]]`,
    `[${' '.repeat(2 * JSON_PIECE_BYTES)}]`,
    `{${' '.repeat(2 * JSON_PIECE_BYTES)}}`,
    `"${LONG}${LONG}"`,
    `[{"k":"é${LONG}"},null,true,-0.0,1e5]`,
    `{${Array.from({ length: 20_000 }, (_, i) => `"k${i}":{"v":[${i}]}`).join()}}`,
  ]
  for (const text of texts) {
    t.ok(text.length > JSON_PIECE_BYTES)
    t.strictSame(await parse(text), JSON.parse(text))
  }
  t.strictSame(await parse('\ufeff[1]'), [1], 'a byte order mark is skipped')
  t.strictSame(await parse('"\u00ffa"'), '\u00ffa', 'and nothing that has a byte in common with it')
  await t.rejects(parse('\ufec0[1]'), { code: 'INVALID_REQUEST' })
  t.strictSame(await parse('["\ufffd"]'), ['\ufffd'], 'what stands for a fault elsewhere is no fault itself')
})

t.test('a large text that is not JSON is refused wherever the fault is', async (t) => {
  const many = numbers(20_000)
  const texts = [
    `[${many},]`,
    `[,${many}]`,
    `[${many},,${many}]`,
    `[[${many}],]`,
    `[,[${many}]]`,
    `[[${many}][${many}]]`,
    `[[${many}] 1]`,
    `[1 [${many}]]`,
    `[${many}}`,
    `{"a":[${many}}]`,
    `{[${many}]}`,
    `{"a" [${many}]}`,
    `{"a":}[${many}]`,
    `{1:[${many}]}`,
    `{"a":[${many}],}`,
    `{,"a":[${many}]}`,
    `[${many}`,
    `[${many}] x`,
    `[${many}]]`,
    `["${LONG}`,
    `{"a":"${LONG}\\"}`,
    `[${'nul,'.repeat(30_000)}1]`,
  ]
  for (const text of texts) {
    t.throws(() => JSON.parse(text))
    t.match(await refusalOf(text), /^INVALID_REQUEST body: is not JSON: /, text.slice(0, 12))
  }
})

t.test('a large text that ends too early is refused before any of it is parsed', async (t) => {
  for (const text of [`[${numbers(20_000)}`, `{"a":"${LONG}`, `["${LONG}\\"]`])
    t.equal(await refusalOf(text), 'INVALID_REQUEST body: is not JSON: it ends too early')
})

t.test('the first look at a large text gives way after each piece', async (t) => {
  // Each look at this clock ends a slice.
  let nowMs = 0
  t.intercept(performance, 'now', { value: () => (nowMs += 1000) })
  const pieces = 8
  let turns = 0
  let isOver = false
  const count = (): void => {
    turns++
    if (!isOver) setImmediate(count)
  }
  setImmediate(count)
  t.strictSame(await parse(`[${' '.repeat(pieces * JSON_PIECE_BYTES - 2)}]`), [])
  isOver = true
  t.ok(turns >= pieces - 1, `${turns} turns of the event loop`)
})

t.test('size, depth and counts have limits', async (t) => {
  const limits = new LimitGuard({ maxJsonBytes: 100_000, maxJsonDepth: 8 })
  const nested = (depth: number, inside = ''): string => '['.repeat(depth) + inside + ']'.repeat(depth)
  t.match(
    await refusalOf(' '.repeat(100_001), limits),
    /^PAYLOAD_TOO_LARGE body: JSON of more than 100000 bytes/,
  )
  for (const inside of ['', numbers(10_000).slice(0, 90_000)]) {
    await t.resolves(parse(nested(8), limits))
    t.match(await refusalOf(nested(9, inside), limits), /^INVALID_REQUEST body: is nested deeper than 8/)
  }
  t.strictSame(
    await parse(`"${'['.repeat(100)}"`, limits),
    '['.repeat(100),
    'brackets in strings do not count',
  )
  const counts = new Map(limits.refusals())
  t.equal(counts.get('maxJsonBytes'), 1)
  t.equal(counts.get('maxJsonDepth'), 2)
  t.match(await refusalOf(`[${'{},'.repeat(JSON_CONTAINERS_MAX)}1]`), /more than \d+ objects and arrays/)
  const fields = Array.from({ length: JSON_MEMBERS_MAX + 1 }, (_, i) => `"${i}":1`)
  t.match(await refusalOf(`{${fields.join()}}`), /an object has more than 65536 fields/)
})

t.test('bytes that are not UTF-8 are refused', async (t) => {
  for (const size of [0, JSON_PIECE_BYTES]) {
    const text = Buffer.concat([
      Buffer.from('["'),
      Buffer.alloc(size, 'x'),
      Buffer.of(0xc3, 0x28),
      Buffer.from('"]'),
    ])
    t.equal(await refusalOf(text), 'INVALID_REQUEST body: is not UTF-8')
  }
})

t.test('the limits themselves are allowed, at once and in pieces', async (t) => {
  const limits = new LimitGuard({ maxJsonBytes: 2 * JSON_PIECE_BYTES, maxJsonDepth: 8 })
  for (const size of [JSON_PIECE_BYTES, 2 * JSON_PIECE_BYTES]) {
    const text = `"${'x'.repeat(size - 2)}"`
    t.equal(text.length, size)
    t.strictSame(await parse(text, limits), JSON.parse(text))
  }
  const small = new LimitGuard({ maxJsonBytes: 1024 })
  t.equal(((await parse(`"${'x'.repeat(1022)}"`, small)) as string).length, 1022)
  t.match(await refusalOf(`"${'x'.repeat(1023)}"`, small), /^PAYLOAD_TOO_LARGE/)
  t.match(await refusalOf(`"${'x'.repeat(2 * JSON_PIECE_BYTES)}"`, limits), /^PAYLOAD_TOO_LARGE/)
  for (const [open, close] of [
    ['[', ']'],
    ['{"a":', '}'],
  ] as const) {
    const nested = (depth: number): string => `${open.repeat(depth)}1${close.repeat(depth)}`
    const wide = (depth: number): string => `[${nested(depth - 1)},"${LONG}"]`
    for (const make of [nested, wide]) {
      t.strictSame(await parse(make(8), limits), JSON.parse(make(8)))
      t.match(await refusalOf(make(9), limits), /nested deeper than 8/)
    }
    const side = `[${Array.from({ length: 50 }, () => nested(1)).join()}]`
    t.strictSame(await parse(side, limits), JSON.parse(side), 'side by side is not nested')
  }
})

t.test('as many objects, arrays and fields as are allowed', async (t) => {
  const containers = `[${'[],'.repeat(JSON_CONTAINERS_MAX - 2)}[]]`
  t.equal(((await parse(containers)) as unknown[]).length, JSON_CONTAINERS_MAX - 1)
  t.match(await refusalOf(`[${'[],'.repeat(JSON_CONTAINERS_MAX - 1)}[]]`), /objects and arrays/)
  const fields = (count: number): string => `{${Array.from({ length: count }, (_, i) => `"${i}":1`).join()}}`
  t.equal(Object.keys((await parse(fields(JSON_MEMBERS_MAX))) as object).length, JSON_MEMBERS_MAX)
  t.match(await refusalOf(fields(JSON_MEMBERS_MAX + 1)), /more than 65536 fields/)
})

t.test('what a small text may hold', async (t) => {
  t.strictSame(await parse(Buffer.of(0xef, 0xbb, 0xbf, 0x31)), 1, 'a byte order mark')
  t.strictSame(await parse(`\ufeff["${LONG}"]`), [LONG], 'and before a large one')
  t.match(await refusalOf(`\ufeff\ufeff1`), /is not JSON/, 'one mark')
  for (const long of ['', LONG])
    t.strictSame(await parse(`"\u03bf${long}"`), `\u03bf${long}`, 'a letter that ends like a mark')
  t.match(await refusalOf(Buffer.of(0xef, 0xbb, 0x80, 0x31)), /is not JSON/, 'one that begins like it')
  for (const text of ['', ' ', 'nul', '1 2', '{"a":1,}', '[1]]'])
    t.match(await refusalOf(text), /^INVALID_REQUEST body: is not JSON/)
  const quoted = await refusalOf(`"${'y'.repeat(5_000)}`)
  t.ok(quoted.length < 300, 'an error quotes little')
})

t.test('escapes, and brackets and commas in texts, between pieces', async (t) => {
  const commas = Array.from({ length: 12_000 }, () => '",[,,,,,,,,,,,,"').join()
  for (const text of [`[${commas}]`, `{"a":[${commas},[1]],"b":[${commas}]}`])
    t.strictSame(await parse(text), JSON.parse(text), 'no text is cut')
  const odd = String.raw`"\\\"[{,}]:\\"`
  const many = Array.from({ length: 12_000 }, (_, i) => (i % 3 === 0 ? odd : `${i}`)).join()
  const texts = [
    `[${many}]`,
    `{"a" : [${many}] , ${odd}:{"b":${odd}, "c":[${many}]}}`,
    `\t\r\n [\t[${many}]\r,\n1 ] \n`,
    `[[${many}],{"x":[${many}]},[${many}],"${LONG}"]`,
    `[1,[2],{"a":{"b":[3]}},[${many}],4,[${many}]]`,
  ]
  for (const text of texts) t.strictSame(await parse(text), JSON.parse(text))
  for (const text of [
    `[[${many}], ,1]`,
    `[1, [${many}] ,]`,
    `{"a":[${many}]`,
    `[[${many}]}`,
    `{"a":[${many}]]`,
    `[${many}]}`,
    `"${LONG}${'x'.repeat(9)}`,
    `"${LONG}\\`,
    `[${many}] ,`,
    `{"a":1,[${many}]}`,
    `{"a"=[${many}]}`,
  ])
    t.match(await refusalOf(text), /is not JSON/, text.slice(-9))
})
