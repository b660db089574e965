/** Parsing of JSON from clients: in pieces it gives what JSON.parse gives, and costly texts hold nobody. */
import fc from 'fast-check'
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
  t.strictSame(await parse('["\ufffd"]'), ['\ufffd'], 'what stands for a fault elsewhere is no fault itself')
})

t.test('any value parses as JSON.parse does, whatever lies between its tokens', async (t) => {
  const space = fc.constantFrom('', ' ', '\n')
  const filler = fc.constantFrom(`"${LONG}"`, `[${numbers(12_000)}]`, `{"f":[${numbers(12_000)}]}`)
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.oneof(fc.json(), filler), { minLength: 1, maxLength: 6 }),
      space,
      async (parts, gap) => {
        const text = `[${gap}${parts.join(`${gap},${gap}`)}${gap},"${LONG}"]`
        t.strictSame(await parse(text), JSON.parse(text))
        const named = `{${parts.map((part, i) => `${gap}"${i % 3}"${gap}:${gap}${part}`).join()},"z":"${LONG}"}`
        t.strictSame(await parse(named), JSON.parse(named))
      },
    ),
    { numRuns: 60 },
  )
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

t.test('no text holds the event loop', async (t) => {
  const until = 6 * 1024 ** 2
  const texts: string[] = []
  for (const make of [
    (i: number) => `{"q${i.toString(36)}":1}`,
    (i: number) => `"s${i.toString(36)}"`,
    () => '[]',
    () => '0.1',
  ]) {
    const parts: string[] = []
    for (let i = 0, size = 0; size < until; i++) {
      const part = make(i)
      parts.push(part)
      size += part.length + 1
    }
    texts.push(`[${parts.join()}]`)
  }
  texts.push('['.repeat(5_000_000), `{"values":[${'{},'.repeat(2_000_000)}{}]}`)
  for (const text of texts) {
    const bytes = Buffer.from(text)
    // Of the processor's time: what else the machine does is not counted.
    const cpuMs = (): number => process.cpuUsage().user / 1e3
    let worstMs = 0
    let lastMs = cpuMs()
    const timer = setInterval(() => {
      worstMs = Math.max(worstMs, cpuMs() - lastMs)
      lastMs = cpuMs()
    }, 1)
    await parseJson(bytes, 'body', new LimitGuard()).catch(() => {})
    worstMs = Math.max(worstMs, cpuMs() - lastMs)
    clearInterval(timer)
    t.comment(`${text.slice(0, 12)}: ${worstMs.toFixed(0)} ms`)
    t.ok(worstMs < 250, `${text.slice(0, 12)}: ${worstMs.toFixed(0)} ms`)
  }
})
