/**
 * README's commands give the answers it shows. Its shell blocks run in order, in one shell, against a fresh
 * server; the watcher runs as a second process; the server is killed and started again where README does it.
 * The library's program and, after the tour, the first program of CLIENT.md run too.
 *
 * Only the port and the data folder differ from what a reader types. An answer introduced as "shortened"
 * shows some fields, the others show all; the watcher's lines are compared as text.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import t from 'tap'
import { type Server, startServer } from '../../examples/server.js'
import { plainEnvironment } from '../lib/environment.js'
import { ROOT } from '../lib/place.js'
import { sleep } from '../lib/wait.js'
import { type Block, blocksOf, readDocument } from './markdown.js'
import { runProgram } from './program.js'

const blocks = blocksOf(readDocument('README.md'))
const PORT = '7411'
const HOLDER = 'data/holder.txt'
const WATCH = 'examples/watch.ts'
const WAIT_MS = 45_000

/** A shell that keeps its variables from block to block. */
class Shell {
  readonly #bash = spawn('bash', ['--norc', '-s'], {
    cwd: ROOT,
    env: plainEnvironment(),
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  readonly #lines = createInterface({ input: this.#bash.stdout })[Symbol.asyncIterator]()

  async run(script: string): Promise<{ output: string; code: number }> {
    this.#bash.stdin.write(`${script}\necho; echo "--end $?"\n`)
    const output: string[] = []
    for (;;) {
      const { value, done } = await this.#lines.next()
      if (done === true) throw new Error('the shell has ended')
      const end = /^--end (\d+)$/.exec(value)
      if (end !== null) return { output: output.join('\n').trim(), code: Number(end[1]) }
      output.push(value)
    }
  }

  end(): void {
    this.#bash.stdin.end()
  }
}

interface Watcher {
  readonly child: ChildProcess
  readonly lines: string[]
}

function startWatcher(command: string, server: Server): Watcher {
  const child = spawn('bash', ['-c', `exec ${command.trim()} --url ${server.url}`], {
    cwd: ROOT,
    env: plainEnvironment(),
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const lines: string[] = []
  createInterface({ input: child.stdout }).on('line', (line) => {
    lines.push(line)
  })
  return { child, lines }
}

/** The next line that is no progress report, which comes only when nothing happens for seconds. */
async function nextLine({ lines }: Watcher): Promise<string | undefined> {
  const deadline = Date.now() + WAIT_MS
  while (Date.now() < deadline) {
    const line = lines.shift()
    if (line !== undefined && !line.startsWith('{"type":"progress"')) return line
    if (line === undefined) await sleep(10)
  }
  return undefined
}

t.test("the tour's commands give the answers shown", { timeout: 110_000 }, async (t) => {
  const dir = t.testdir({ data: {} })
  const dataDir = join(dir, 'data')
  let server = await startServer({ dataDir })
  const port = new URL(server.url).port
  const shell = new Shell()
  let watcher: Watcher | undefined
  t.teardown(async () => {
    shell.end()
    watcher?.child.kill()
    await server.stop()
  })

  let output = ''
  const run: Readonly<Record<string, (block: Block) => Promise<void>>> = {
    async sh({ text }) {
      if (text.includes(WATCH)) {
        watcher = startWatcher(text, server)
        return
      }
      const isKill = text.startsWith('kill -9 ')
      const command = text.replaceAll(PORT, port).replaceAll(HOLDER, `${dataDir}/holder.txt`)
      const answer = await shell.run(isKill ? command.replace('kill -9 ', 'echo ') : command)
      t.equal(answer.code, 0, text)
      output = answer.output
      if (!isKill) return
      t.equal(output, String(server.pid), 'the process to kill is the server')
      watcher?.child.kill()
      await server.kill()
      server = await startServer({ dataDir, args: ['--port', port] })
    },
    async text({ text }) {
      t.equal(output, text.trim())
    },
    async watcher({ text }) {
      // Every bus has a history of its own.
      const sameHistory = (line = ''): string =>
        line.replace(/"history":"[\da-f]+\.[\da-f]+"/, '"history":""')
      t.equal(sameHistory(await nextLine(watcher!)), sameHistory(text.trim()))
    },
    async json({ text, before }) {
      const shown = JSON.parse(text)
      if (before.includes('shortened')) t.match(JSON.parse(output), shown)
      else t.same(JSON.parse(output), shown)
    },
  }
  const tour = blocks.filter(({ language }) => language in run)
  t.ok(tour.length >= 15, 'there is a tour')
  for (const block of tour) await run[block.language]!(block)

  const [program, shown] = blocksOf(readDocument('docs/guide/CLIENT.md'))
  const file = join(dir, 'program.mts')
  writeFileSync(file, program!.text.replaceAll(`127.0.0.1:${PORT}`, `127.0.0.1:${port}`))
  t.same(
    await runProgram(file),
    { code: 0, output: shown!.text },
    'the first program of CLIENT.md runs after it',
  )
})

t.test('the library program runs as it stands', { timeout: 60_000 }, async (t) => {
  const program = blocks.find(({ language }) => language === 'ts')!
  const dir = t.testdir()
  writeFileSync(join(dir, 'program.mts'), program.text)
  const { code, output } = await runProgram(join(dir, 'program.mts'))
  t.equal(code, 0)
  t.equal(output.trim(), '3 Float32Array(5) [ 0, 84, 0, 0, 0 ]')
  t.ok(readDocument('README.md').includes(`\`${output.trim()}\``), 'README shows what it prints')
})
