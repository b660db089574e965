/**
 * `make bench`: measures each thing beside its baseline in the same run, prints the ratios with their
 * budgets, and appends one JSON line per result, with the facts of the machine, to bench/results/.
 *
 * Each row runs in a process of its own, so that no row inherits another one's heap or compiled code.
 * Exit code 0: everything ran (budgets missed are shown, not failed). 1: something could not be measured,
 * and says why.
 */
import { fork } from 'node:child_process'
import { appendFileSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { isBusy, machineFacts, shortName } from './lib/machine.js'
import { ROWS } from './lib/rows.js'
import { printTable } from './lib/table.js'
import type { Result, Skip } from './lib/types.js'

const HERE = fileURLToPath(new URL('.', import.meta.url))
const HELP = `make bench BENCH_ARGS="..."

  --only A,B     only these rows: ${Object.keys(ROWS).join(', ')}
  --quick        one short pair each: to see that it works, not to report; kept only with --json
  --json PATH    append the JSON lines to PATH instead of bench/results/<date>-<machine>.jsonl
  --help
`

/** In the child: runs one row and sends what it found to the parent. */
async function runRow(name: string, dir: string, quick: boolean): Promise<void> {
  const say = (line: string) => process.stderr.write(`  ${line}\n`)
  const row = await ROWS[name]!()
  try {
    const results = await row({ quick, dir, say })
    await new Promise((resolve) => process.send!(results, resolve))
    process.exit(0)
  } catch (error) {
    process.stderr.write(`${(error as Error).stack}\n`)
    process.exit(1) // baselines may still run; they are ended on the way out
  }
}

/** In the parent: one row in a process and a folder of its own. */
async function isolated(name: string, quick: boolean): Promise<(Result | Skip)[]> {
  const dir = mkdtempSync(join(HERE, '..', 'build', `bench-${name}-`))
  const child = fork(
    fileURLToPath(import.meta.url),
    ['--row', name, '--dir', dir, ...(quick ? ['--quick'] : [])],
    {
      execArgv: ['--import', 'tsx'],
    },
  )
  try {
    return await new Promise((resolve, reject) => {
      let results: (Result | Skip)[] | null = null
      child.on('message', (message) => {
        results = message as (Result | Skip)[]
      })
      child.on('exit', (code) => {
        if (code === 0 && results !== null) resolve(results)
        else reject(new Error(`the row ${name} ended with code ${code}`))
      })
    })
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      only: { type: 'string' },
      quick: { type: 'boolean', default: false },
      json: { type: 'string' },
      help: { type: 'boolean', default: false },
      row: { type: 'string' },
      dir: { type: 'string' },
    },
  })
  if (values.help) return void process.stdout.write(HELP)
  if (values.row !== undefined) return runRow(values.row, values.dir!, values.quick)
  const names = values.only?.split(',') ?? Object.keys(ROWS)
  const unknown = names.filter((name) => !(name in ROWS))
  if (unknown.length > 0) throw new Error(`no such row: ${unknown.join(', ')}\n${HELP}`)

  mkdirSync(join(HERE, 'results'), { recursive: true })
  mkdirSync(join(HERE, '..', 'build'), { recursive: true })
  const machine = machineFacts(HERE)
  if (isBusy(machine)) process.stderr.write(`the machine is busy (load ${machine.loadBefore.toFixed(1)})\n`)
  const date = new Date().toISOString()
  const results = join(HERE, 'results', `${date.slice(0, 10)}-${shortName(machine)}.jsonl`)
  const file = values.json ?? (values.quick ? null : results)
  const found: (Result | Skip)[] = []
  for (const name of names) {
    process.stderr.write(`${name}\n`)
    try {
      const results = await isolated(name, values.quick)
      found.push(...results)
      const lines = results.map((result) =>
        JSON.stringify({ date, row: name, quick: values.quick, ...result, machine }),
      )
      if (file !== null) appendFileSync(file, lines.map((line) => `${line}\n`).join(''))
    } catch (error) {
      process.exitCode = 1
      found.push({ name, skipped: (error as Error).message })
    }
  }
  printTable(found, machine, values.quick)
  if (file !== null) process.stdout.write(`appended to ${file}\n`)
}

// Leaving by process.exit lets the handlers run that end child servers.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(130))
try {
  await main()
} catch (error) {
  process.stderr.write(`${(error as Error).message}\n`)
  process.exitCode = 1
}
