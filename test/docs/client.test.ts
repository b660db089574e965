/** The programs of docs/CLIENT.md run as they stand and print what is shown, one after the other against a fresh server; its tables are true. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { startServer } from '../../examples/server.js'
import { Client } from '../../src/client/client.js'
import { blocksOf, readDocument, tableRowsOf } from './markdown.js'
import { runProgram } from './program.js'

const DOCUMENT = readDocument('docs/CLIENT.md')

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
