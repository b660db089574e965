/** What every command that talks to a server does when it cannot: one line, an exit code, no stack. */
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import t from 'tap'
import { COMMANDS } from '../../../../src/cli/command-table.js'
import { freePort } from '../../../support/free-port.js'
import { run } from '../../process.js'
import { ended } from './server.js'

/** Operands that a command needs. */
const OPERANDS: Readonly<Record<string, readonly string[]>> = { get: ['a'], set: ['a', '1'], watch: ['a'] }

/** The commands that have an address to ask by default. */
async function serverCommands(): Promise<string[][]> {
  const found: string[][] = []
  for (const [name, { load }] of Object.entries(COMMANDS)) {
    const { help } = await load()
    if (help.flags.url?.env === 'MMSB_URL') found.push([name, ...(OPERANDS[name] ?? [])])
  }
  return found
}

t.test('nobody listens there', async (t) => {
  const url = `http://127.0.0.1:${await freePort()}`
  const commands = await serverCommands()
  t.ok(commands.length >= 6)
  for (const [name, ...operands] of commands) {
    const { run: command } = await COMMANDS[name!]!.load()
    const { code, line } = await ended(command, [...operands, '--url', url.replace('//', '//me:secret@')])
    t.equal(code, 1, String(name))
    t.match(line, /^cannot reach http:\/\/127\.0\.0\.1:\d+: .*ECONNREFUSED.*; is the server running there\?$/)
    t.notMatch(line, /secret/)
  }
  const { code, stdout, stderr } = await run(['status', '--url', url])
  t.same([code, stdout], [1, ''])
  t.match(stderr, /^mmsb: cannot reach [^\n]+\n$/)
})

t.test('somebody else listens there, or nobody answers', async (t) => {
  const server = createServer((request, response) => {
    if (request.url?.startsWith('/silent/') !== true) response.writeHead(200).end('<html>\u001b[2J</html>')
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  for (const [name, ...operands] of await serverCommands()) {
    const { run: command } = await COMMANDS[name!]!.load()
    const other = await ended(command, [...operands, '--url', url])
    t.equal(other.code, 1, String(name))
    t.match(other.line, /^http:\S+ does not answer as an mmsb server does: /)
    const silent = await ended(command, [...operands, '--url', `${url}/silent`, '--timeout', '100ms'])
    t.equal(silent.code, 1, String(name))
    t.match(silent.line, /^http:\S+ has not answered in time; --timeout sets the time$/)
  }
  t.notMatch((await run(['status', '--url', url])).stderr, '\u001b')
})

t.test('wrong usage', async (t) => {
  for (const [name, ...operands] of await serverCommands()) {
    const { run: command } = await COMMANDS[name!]!.load()
    for (const [flags, message] of [
      [['--url', 'http//me:secret@x'], /--url: .* is not a URL/],
      [['--url', 'ftp://me:secret@x'], /does not begin with http/],
      [['--url', 'http://me%:secret@x'], /write % .* as %25/],
      [['--timeout', 'soon'], /--timeout: "soon" is not a time/],
      [['--fly'], /--fly/],
    ] as const) {
      const { code, line } = await ended(command, [...operands, ...flags])
      t.equal(code, 2, `${name} ${flags.join(' ')}`)
      t.match(line, message)
      t.notMatch(line, /secret/)
    }
  }
  const { code, stdout, stderr } = await run(['status', '--timeout', 'soon'])
  t.same([code, stdout], [2, ''])
  t.match(stderr, /^mmsb: --timeout: "soon" [^\n]+\nmmsb: see `mmsb status --help`\n$/)
})

t.test('the help of every command has an example that begins as the command does', async (t) => {
  for (const [name, { load }] of Object.entries(COMMANDS)) {
    const { help } = await load()
    t.ok(help.examples.length > 0, name)
    for (const [line] of help.examples) t.match(line, new RegExp(`\\bmmsb ${name}\\b`), name)
    t.match(help.usage, new RegExp(`^mmsb ${name}\\b`), name)
  }
})
