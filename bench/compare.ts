/**
 * `make bench-compare BEFORE=../checkout`: is this build slower than another one? Each figure is measured in
 * alternating pairs, before and after, so that what slows the machine slows both.
 *
 * A ratio above 1 means that this build is slower. The 95 % interval of the median ratio comes from order
 * statistics (the sign test), which assumes nothing of the noise. A figure fails when its whole interval lies
 * above the bound. Exit code 0: none failed. 1: one failed, or could not be measured.
 *
 * Both sides are measured by this checkout's code, over the public interface alone; both must be built.
 */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { appendFileSync, existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { machineFacts } from './lib/machine.js'
import { ROWS } from './lib/rows.js'
import { median, medianInterval } from './lib/stats.js'
import type { Figure } from './lib/types.js'

const ROOT = fileURLToPath(new URL('..', import.meta.url))
const COMPARABLE = ['rest', 'websocket', 'propagation', 'deltas', 'latency']
const HELP = `make bench-compare BEFORE=DIR BENCH_ARGS="..."

  BEFORE         a checkout of the other version, built with \`make build\`
  --only A,B     only these rows: ${COMPARABLE.join(', ')}
  --pairs N      alternating pairs (default 15)
  --bound R      a figure fails when its whole 95 % interval lies above this ratio (default 1.05)
  --json PATH    append a line of JSON for each figure
  --help
`

type FromChild = { readonly figure: Figure } | { readonly value: number } | { readonly done: true }

interface Compared extends Figure {
  readonly before: number
  readonly after: number
  /** Cost of this build over cost of the other: above 1 is slower. */
  readonly ratio: number
  readonly low: number
  readonly high: number
  readonly pairs: number
}

/** In the child: runs one row of one build, and measures when it is told to. */
async function runRow(name: string, dir: string): Promise<void> {
  const send = (message: FromChild): void => void process.send!(message)
  const inbox: ('measure' | 'next')[] = []
  let wake = (): void => {}
  process.on('message', (message) => {
    inbox.push(message as 'measure' | 'next')
    wake()
  })
  const told = async (): Promise<'measure' | 'next'> => {
    while (inbox.length === 0) await new Promise<void>((resolve) => (wake = resolve))
    return inbox.shift()!
  }
  const seen = new Set<string>()
  const row = await ROWS[name]!()
  await row({
    quick: true,
    dir,
    say: () => {},
    compared: async (figure, measure) => {
      if (seen.has(figure.name)) return
      seen.add(figure.name)
      await measure()
      send({ figure })
      while ((await told()) === 'measure') send({ value: await measure() })
    },
  })
  await new Promise((resolve) => process.send!({ done: true }, resolve))
  process.exit(0)
}

/** One build's side of a row. */
class Side {
  readonly #child: ChildProcess
  readonly #inbox: FromChild[] = []
  #wake = (): void => {}
  #isGone = false

  constructor(row: string, tree: string, dir: string) {
    this.#child = fork(fileURLToPath(import.meta.url), ['--row', row, '--dir', dir], {
      execArgv: ['--import', 'tsx'],
      env: { ...process.env, MMSB_BENCH_TREE: tree },
    })
    this.#child.on('message', (message) => {
      this.#inbox.push(message as FromChild)
      this.#wake()
    })
    this.#child.on('exit', () => {
      this.#isGone = true
      this.#wake()
    })
  }

  async next(): Promise<FromChild> {
    while (this.#inbox.length === 0) {
      if (this.#isGone) throw new Error('a side of the comparison ended before its time')
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
    return this.#inbox.shift()!
  }

  async measure(): Promise<number> {
    this.#child.send('measure')
    const answer = await this.next()
    if (!('value' in answer)) throw new Error('a side of the comparison did not measure')
    return answer.value
  }

  go(): void {
    this.#child.send('next')
  }

  async end(): Promise<void> {
    if (this.#isGone) return
    this.#child.kill('SIGTERM')
    await once(this.#child, 'exit')
  }
}

async function compareRow(row: string, before: string, pairs: number): Promise<Compared[]> {
  mkdirSync(join(ROOT, 'build'), { recursive: true })
  const dirs = [before, ROOT].map(() => mkdtempSync(join(ROOT, 'build', `compare-${row}-`)))
  const sides = [new Side(row, before, dirs[0]!), new Side(row, ROOT, dirs[1]!)] as const
  const found: Compared[] = []
  try {
    for (;;) {
      const [first, second] = [await sides[0].next(), await sides[1].next()]
      if ('done' in first && 'done' in second) return found
      if (!('figure' in first && 'figure' in second) || first.figure.name !== second.figure.name)
        throw new Error(`the two builds measure different things in ${row}`)
      found.push(await compareFigure(first.figure, sides[0], sides[1], pairs))
      for (const side of sides) side.go()
    }
  } finally {
    await Promise.all(sides.map((side) => side.end()))
    for (const dir of dirs) rmSync(dir, { recursive: true, force: true })
  }
}

async function compareFigure(figure: Figure, before: Side, after: Side, count: number): Promise<Compared> {
  const [befores, afters]: [number[], number[]] = [[], []]
  for (let pair = 0; pair < count; pair++) {
    if (pair % 2 === 0) befores.push(await before.measure())
    afters.push(await after.measure())
    if (pair % 2 === 1) befores.push(await before.measure())
  }
  const ratios = befores.map((value, pair) => {
    const ratio = afters[pair]! / value
    return figure.better === 'lower' ? ratio : 1 / ratio
  })
  const [low, high] = medianInterval(ratios)
  const result = {
    ...figure,
    before: median(befores),
    after: median(afters),
    ratio: median(ratios),
    low,
    high,
  }
  process.stderr.write(`  ${lineOf(result)}\n`)
  return { ...result, pairs: count }
}

const lineOf = (found: Omit<Compared, 'pairs'>): string => {
  const interval = `${found.ratio.toFixed(3)} [${found.low.toFixed(3)}, ${found.high.toFixed(3)}]`
  return `${interval}  ${shown(found.before)} -> ${shown(found.after)}  ${found.name}`
}

const shown = (value: number): string => value.toPrecision(4)

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      before: { type: 'string' },
      only: { type: 'string' },
      pairs: { type: 'string', default: '15' },
      bound: { type: 'string', default: '1.05' },
      json: { type: 'string' },
      help: { type: 'boolean', default: false },
      row: { type: 'string' },
      dir: { type: 'string' },
    },
  })
  if (values.help) return void process.stdout.write(HELP)
  if (values.row !== undefined) return runRow(values.row, values.dir!)
  const names = values.only?.split(',') ?? COMPARABLE
  const unknown = names.filter((name) => !COMPARABLE.includes(name))
  if (unknown.length > 0) throw new Error(`not to be compared: ${unknown.join(', ')}\n${HELP}`)
  if (values.before === undefined) throw new Error(`which build before?\n${HELP}`)
  const before = resolve(values.before)
  for (const tree of [before, ROOT]) {
    if (!existsSync(join(tree, 'dist/index.js'))) throw new Error(`${tree} is not built`)
  }
  const bound = Number(values.bound)
  const pairs = Number(values.pairs)
  if (!Number.isInteger(pairs) || pairs < 6) throw new Error('--pairs: a whole number from 6 on')
  const found: Compared[] = []
  for (const name of names) {
    process.stderr.write(`${name}\n`)
    found.push(...(await compareRow(name, before, pairs)))
  }
  if (values.json !== undefined) {
    const machine = machineFacts(fileURLToPath(new URL('.', import.meta.url)))
    const date = new Date().toISOString()
    const lines = found.map((figure) => `${JSON.stringify({ date, ...figure, bound, machine })}\n`)
    appendFileSync(values.json, lines.join(''))
  }
  const slower = found.filter(({ low }) => low > bound)
  process.stdout.write('ratio [95 % interval], above 1 is slower; before -> after\n')
  for (const figure of found)
    process.stdout.write(`${figure.low > bound ? 'SLOWER ' : '       '}${lineOf(figure)}\n`)
  process.stdout.write(`${found.length} figures, ${slower.length} slower than ${bound}\n`)
  if (slower.length > 0) process.exitCode = 1
}

// Leaving by process.exit lets the handlers run that end child servers.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(130))
try {
  await main()
} catch (error) {
  process.stderr.write(`${(error as Error).stack}\n`)
  process.exitCode = 1
}
