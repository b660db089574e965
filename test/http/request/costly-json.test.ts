/** Parsing of JSON from clients, at length: any value, and texts that are made to cost much hold nobody. */
import fc from 'fast-check'
import t from 'tap'
import { parseJson } from '../../../src/http/request/json.js'
import { JSON_PIECE_BYTES } from '../../../src/limits.js'
import { LimitGuard } from '../../../src/operator-limits.js'

const parse = (text: string): Promise<unknown> => parseJson(Buffer.from(text), 'body', new LimitGuard())

const LONG = 'x'.repeat(JSON_PIECE_BYTES)
const numbers = (count: number): string => Array.from({ length: count }, (_, i) => i / 3).join()

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
