/**
 * The programs of docs/guide/CLIENT.md run as they stand and print what is shown, one after the other against
 * a fresh server; its tables are true.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { startServer } from '../../examples/server.js'
import { Client } from '../../src/client/client.js'
import {
  CALL_TIMEOUT_MS,
  READER_QUEUE_MAX_BYTES,
  SILENCE_MAX_MS,
  TRY_TIMEOUT_LEAST_MS,
} from '../../src/client/limits.js'
import { connect, MmsbError } from '../../src/client/node.js'
import type { Dtype } from '../../src/wire/dtype.js'
import { blocksOf, readDocument, tableRowsOf } from './markdown.js'
import { runProgram } from './program.js'

const DOCUMENT = readDocument('docs/guide/CLIENT.md')

t.test('the programs print what is shown', { timeout: 110_000 }, async (t) => {
  const blocks = blocksOf(DOCUMENT)
  const dir = t.testdir()
  mkdirSync(join(dir, 'data'))
  const server = await startServer({ dataDir: join(dir, 'data'), args: ['--fsync', 'off'] })
  t.teardown(() => server.stop())
  let count = 0
  for (const [i, { language, text }] of blocks.entries()) {
    if (language !== 'ts') continue
    const file = join(dir, `program${i}.mts`)
    writeFileSync(file, text.replaceAll('http://127.0.0.1:7411', server.url))
    const { code, output } = await runProgram(file)
    t.equal(code, 0, text)
    const shown = blocks[i + 1]
    t.equal(shown?.language, 'text', 'its output is shown')
    t.equal(output.trim(), shown?.text.trim())
    count++
  }
  t.ok(count >= 5)
})

t.test('the table of calls is the client', async (t) => {
  const rows = tableRowsOf(DOCUMENT).slice(0, 6)
  const named = rows.flatMap(([, methods]) => [...methods!.matchAll(/`(\w+)`/g)].map((match) => match[1]!))
  const arguments_ = ['offset', 'count']
  const methods = Object.getOwnPropertyNames(Client.prototype).filter((name) => name !== 'constructor')
  t.same(
    // `epoch` is both an argument and a call.
    [...new Set(named.filter((name) => !arguments_.includes(name)))].sort(),
    methods.filter((name) => name !== 'close').sort(),
  )
})

t.test('the table of options is what connect takes, with its defaults', async (t) => {
  const rows = tableRowsOf(DOCUMENT)
  const first = rows.findIndex(([name]) => name === '`headers`')
  const given = connect as unknown as (url: string, options: unknown) => Client
  const refused = caught(() => given('http://x', { nothing: 1 }))
  t.ok(refused instanceof MmsbError)
  const known = (refused as MmsbError).detail.replace(/^.*; it has /, '').split(', ')
  const table = rows.slice(first, first + known.length)
  t.same(
    table.map(([name]) => name!.slice(1, -1)),
    known,
  )
  const seconds = (ms: number): string => `${ms / 1_000} s`
  const defaults = Object.fromEntries(table.map(([name, value]) => [name!.slice(1, -1), value]))
  t.match(defaults, {
    timeoutMs: seconds(CALL_TIMEOUT_MS),
    tryTimeoutMs: `a third of \`timeoutMs\`, at least ${seconds(TRY_TIMEOUT_LEAST_MS)}`,
    retries: 'no limit',
    queueMaxBytes: `${READER_QUEUE_MAX_BYTES / 1024 ** 2} MiB`,
    silenceMaxMs: seconds(SILENCE_MAX_MS),
  })
})

t.test('the table of values is what pages take', async (t) => {
  const samples: Readonly<
    Record<string, { readonly good: readonly unknown[]; readonly bad: readonly unknown[] }>
  > = {
    bool: { good: [true, false, 0, 1], bad: [2, 'true'] },
    i32: { good: [-1, 7n], bad: [1.5, '1', true, 2 ** 31] },
    i64: { good: [-1n, '-9223372036854775808', 2 ** 53 - 1], bad: [2 ** 53, 2n ** 63n, 1.5, 'x', true] },
    f64: { good: [0.5, 'NaN', 'Infinity', '-Infinity'], bad: ['1.5', 'x', true] },
  }
  const dir = t.testdir()
  const server = await startServer({ dataDir: dir, args: ['--fsync', 'off'] })
  t.teardown(() => server.stop())
  const bus = connect(server.url)
  t.teardown(() => bus.close())
  const rows = tableRowsOf(DOCUMENT)
  for (const [dtype, { good, bad }] of Object.entries(samples)) {
    t.ok(
      rows.some(([named]) => named?.includes(`\`${dtype}\``)),
      `${dtype} is in the table`,
    )
    await bus.create(dtype, { dtype: dtype as Dtype, shape: [1] })
    for (const value of good) await t.resolves(bus.write(dtype, [value as number]), `${dtype}: ${value}`)
    for (const value of bad) {
      await t.rejects(bus.write(dtype, [value as number]), { code: 'INVALID_DELTA' }, `${dtype}: ${value}`)
    }
  }
})

t.test('a repeated write gets the first answer; another one under its key is refused', async (t) => {
  const server = await startServer({ dataDir: t.testdir(), args: ['--fsync', 'off'] })
  t.teardown(() => server.stop())
  const bus = connect(server.url)
  t.teardown(() => bus.close())
  for (const name of ['p', 'q']) await bus.create(name, { dtype: 'u8', shape: [1] })
  const { epoch } = await bus.patch('p', { values: [1] }, { key: 'k' })
  t.equal((await bus.patch('p', { values: [1] }, { key: 'k' })).epoch, epoch)
  await t.rejects(bus.patch('q', { values: [2] }, { key: 'k' }), { code: 'IDEMPOTENCY_MISMATCH' })
  t.same((await bus.read('q')).values, Uint8Array.of(0))
})

function caught(call: () => unknown): unknown {
  try {
    return call()
  } catch (error) {
    return error
  }
}
