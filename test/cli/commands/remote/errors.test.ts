/** What every command that talks to a server does when it cannot: one line, an exit code, no stack. */
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import t from 'tap'
import { COMMANDS } from '../../../../src/cli/command-table.js'
import { run } from '../../process.js'

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

/** A port on which nobody listens. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

t.test('nobody listens there', async (t) => {
  const url = `http://127.0.0.1:${await freePort()}`
  const commands = await serverCommands()
  t.ok(commands.length >= 6)
  for (const command of commands) {
    const { code, stdout, stderr } = await run([...command, '--url', url.replace('//', '//me:secret@')])
    t.same([code, stdout], [1, ''], command.join(' '))
    t.match(
      stderr,
      /^mmsb: cannot reach http:\/\/127\.0\.0\.1:\d+: [^\n]*ECONNREFUSED[^\n]*; is the server running there\?\n$/,
    )
    t.notMatch(stderr, /secret/)
  }
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
  for (const command of await serverCommands()) {
    const other = await run([...command, '--url', url])
    t.same([other.code, other.stdout], [1, ''], command.join(' '))
    t.match(other.stderr, /^mmsb: http:\S+ does not answer as an mmsb server does: [^\n]+\n$/)
    t.notMatch(other.stderr, '\u001b')
    const silent = await run([...command, '--url', `${url}/silent`, '--timeout', '300ms'])
    t.same([silent.code, silent.stdout], [1, ''], command.join(' '))
    t.match(silent.stderr, /^mmsb: http:\S+ has not answered in time; --timeout sets the time\n$/)
  }
})

t.test('wrong usage', async (t) => {
  for (const command of await serverCommands()) {
    for (const [flags, message] of [
      [['--url', 'http//me:secret@x'], /--url: .* is not a URL/],
      [['--url', 'ftp://me:secret@x'], /does not begin with http/],
      [['--url', 'http://me%:secret@x'], /write % .* as %25/],
      [['--timeout', 'soon'], /--timeout: "soon" is not a time/],
      [['--fly'], /--fly/],
    ] as const) {
      const { code, stdout, stderr } = await run([...command, ...flags])
      t.same([code, stdout], [2, ''], `${command[0]} ${flags.join(' ')}`)
      t.match(stderr, message)
      t.match(stderr, new RegExp(`^mmsb: [^\\n]+\\nmmsb: see \`mmsb ${command[0]} --help\`\\n$`))
      t.notMatch(stderr, /secret/)
    }
  }
})

t.test('the help of every command has an example that begins as the command does', async (t) => {
  for (const [name, { load }] of Object.entries(COMMANDS)) {
    const { help } = await load()
    t.ok(help.examples.length > 0, name)
    for (const [line] of help.examples) t.match(line, new RegExp(`\\bmmsb ${name}\\b`), name)
    t.match(help.usage, new RegExp(`^mmsb ${name}\\b`), name)
  }
})
