/**
 * Writes the table of docs/guide/LIMITS.md from src/operator-limits.ts: `npx tsx scripts/limits-table.ts`.
 * A test compares the two.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { LIMIT_NAMES, limitVariable, OPERATOR_LIMITS, showLimit } from '../src/operator-limits.js'

const DOCUMENT = new URL('../docs/guide/LIMITS.md', import.meta.url)
const HEAD = '| flag | environment | default | refusal | maximum |\n|---|---|---|---|---|\n'

/** The table with its head, one line for each limit. */
export function limitsTable(): string {
  const rows = LIMIT_NAMES.map((name) => {
    const { flag, unit, standard, code, help } = OPERATOR_LIMITS[name]
    return `| \`--${flag}\` | \`${limitVariable(flag)}\` | ${showLimit(unit, standard)} | ${code} | ${help} |\n`
  })
  return HEAD + rows.join('')
}

/** The document with its table replaced. */
export function withLimitsTable(document: string): string {
  const start = document.indexOf(HEAD)
  if (start < 0) throw new Error('docs/guide/LIMITS.md has no table of limits')
  const end = document.indexOf('\n\n', start) + 1
  return document.slice(0, start) + limitsTable() + document.slice(end)
}

if (process.argv[1] === new URL(import.meta.url).pathname) {
  writeFileSync(DOCUMENT, withLimitsTable(readFileSync(DOCUMENT, 'utf8')))
}
