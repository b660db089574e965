/** The table that `make bench` prints. Formats only. */
import { isBusy, type Machine } from './machine.js'
import type { Result, Skip } from './types.js'

export function printTable(rows: readonly (Result | Skip)[], machine: Machine, quick: boolean): void {
  const print = (line: string) => process.stdout.write(`${line}\n`)
  print('')
  print(
    `${machine.cpu}, ${machine.cores} cores, ${machine.memoryGiB} GiB, ${machine.fileSystem}; ${machine.gpu ?? 'no GPU'}`,
  )
  print(
    `Node ${machine.node}, Linux ${machine.kernel}, commit ${machine.commit}${quick ? '; QUICK: not to be reported' : ''}`,
  )
  print('')
  if (isBusy(machine)) print(`BUSY: the load was ${machine.loadBefore.toFixed(1)}; not to be reported\n`)
  for (const row of rows) {
    if ('skipped' in row) {
      print(`${row.name}\n    skipped: ${row.skipped}`)
      continue
    }
    print(row.name)
    print(`    ${line(row)}`)
    for (const [name, value] of Object.entries(row.details ?? {})) {
      print(`      ${name}: ${typeof value === 'number' ? figure(value) : value}`)
    }
  }
  print('')
}

function line({ mmsb, baseline, unit, against, ratio, budget }: Result): string {
  if (mmsb === null) return `${figure(baseline)} ${unit}`
  const verdict = budget === null ? 'no budget' : `budget ${budget.text}: ${budget.met ? 'met' : 'MISSED'}`
  const share = ratio === null ? '' : `${ratio.toFixed(2)} x of `
  return `${figure(mmsb)} ${unit} = ${share}${figure(baseline)} (${against}); ${verdict}`
}

function figure(value: number): string {
  const digits = Math.abs(value) >= 1000 ? 0 : Math.abs(value) >= 10 ? 1 : 3
  return value.toLocaleString('en-US', { maximumFractionDigits: digits })
}
