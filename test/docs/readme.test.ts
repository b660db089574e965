/**
 * README's commands run and give the answers it shows: its shell blocks, in order and in one shell, against a real
 * server that is fresh; the watcher as a second process; the library's lines as a program.
 *
 * Only the port differs from what a reader types. An answer introduced as "shortened" shows some fields; others show all.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import t from 'tap'
import { type Server, startServer } from '../../examples/server.js'
import { type Block, blocksOf, ROOT, readDocument } from './markdown.js'
import { runProgram } from './program.js'

const blocks = blocksOf(readDocument('README.md'))
const PORT = '7411'
const WATCH = 'examples/watch.ts'
const WAIT_MS = 10_000

/** A shell that keeps its variables from block to block. */
class Shell {
  readonly #bash = spawn('bash', ['-s'], { cwd: ROOT, stdio: ['pipe', 'pipe', 'inherit'] })
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
  readonly messages: { type: string; epoch?: number }[]
}

async function startWatcher(command: string, server: Server): Promise<Watcher> {
  const child = spawn('bash', ['-c', `exec ${command.trim()} --url ${server.url}`], {
    cwd: ROOT,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const messages: Watcher['messages'] = []
  await new Promise<void>((resolve, reject) => {
    child.on('exit', () => reject(new Error('the watcher has ended')))
    createInterface({ input: child.stdout }).on('line', (line) => {
      messages.push(JSON.parse(line))
      if (messages.length === 1) resolve()
    })
  })
  return { child, messages }
}

async function changeOf(watcher: Watcher, epoch: number): Promise<unknown> {
  const deadline = Date.now() + WAIT_MS
  for (;;) {
    const found = watcher.messages.find((message) => message.type === 'change' && message.epoch === epoch)
    if (found !== undefined || Date.now() > deadline) return found
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}

t.test("the tour's commands give the answers shown", { timeout: 60_000 }, async (t) => {
  const server = await startServer({ dataDir: t.testdir() })
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
        watcher = await startWatcher(text, server)
        t.equal(watcher.messages[0]!.type, 'subscribed')
        return
      }
      const answer = await shell.run(text.replaceAll(PORT, port))
      t.equal(answer.code, 0, text)
      output = answer.output
    },
    async text({ text }) {
      t.equal(output, text.trim())
    },
    async json({ text, before }) {
      const shown = JSON.parse(text)
      if (shown.type === 'change') t.same(await changeOf(watcher!, shown.epoch), shown)
      else if (before.includes('shortened')) t.match(JSON.parse(output), shown)
      else t.same(JSON.parse(output), shown)
    },
  }
  const tour = blocks.filter(({ language }) => language in run)
  t.ok(tour.length >= 10, 'there is a tour')
  for (const block of tour) await run[block.language]!(block)
})

t.test('the library lines run as they stand', { timeout: 60_000 }, async (t) => {
  const program = blocks.find(({ language }) => language === 'ts')!
  const dir = t.testdir()
  writeFileSync(join(dir, 'program.mts'), program.text)
  const { code, output } = await runProgram(join(dir, 'program.mts'))
  t.equal(code, 0)
  t.equal(output.replace(/\s+/g, ' ').trim(), '3 Float32Array(5) [ 0, 84, 0, 0, 0 ]')
})
