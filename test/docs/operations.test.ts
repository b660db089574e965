/**
 * OPERATIONS.md lists the flags and commands of the command line; CHANGELOG.md lists the versions of formats.
 */
import { execFileSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import t from 'tap'
import { withLimitsTable } from '../../scripts/limits-table.js'
import { OPS } from '../../src/kernels/op-catalogue.js'
import { LIMIT_NAMES, OPERATOR_LIMITS } from '../../src/operator-limits.js'
import { CATALOG_SCHEMA_VERSION } from '../../src/store/catalog/catalog-db.js'
import { plainEnvironment } from '../lib/environment.js'
import { ROOT } from '../lib/place.js'
import { readDocument, tableRowsOf } from './markdown.js'

const OPERATIONS = readDocument('docs/guide/OPERATIONS.md')
const help = (...args: string[]): string =>
  execFileSync(process.execPath, [`${ROOT}/bin/mmsb.js`, ...args, '--help'], {
    encoding: 'utf8',
    env: plainEnvironment(),
  })

t.test('the tables of flags are the help of `mmsb serve`', async (t) => {
  const shown = [...help('serve').matchAll(/^ {2}(--\S+(?: [A-Z:]+)?) {2,}(.+)$/gm)].map(([, flag, text]) => {
    const [, meaning, otherwise = '', twin = ''] =
      /^(.*?)(?: \(default ([^)]*)\))?(?: \[(\w+)\])?$/.exec(text!) ?? []
    return [`\`${flag}\``, twin && `\`${twin}\``, otherwise, meaning]
  })
  t.ok(shown.length > 10)
  const isLimit = ([flag]: readonly (string | undefined)[]): boolean =>
    LIMIT_NAMES.some((name) => flag!.startsWith(`\`--${OPERATOR_LIMITS[name].flag} `))
  t.same(
    tableRowsOf(OPERATIONS).filter(([flag]) => flag!.startsWith('`--')),
    shown.filter((row) => row[0] !== '`--help`' && !isLimit(row)),
  )
  t.equal(shown.filter(isLimit).length, LIMIT_NAMES.length)
})

t.test('LIMITS.md has the table of src/operator-limits.ts', async (t) => {
  const document = readDocument('docs/guide/LIMITS.md')
  t.equal(document, withLimitsTable(document), 'npx tsx scripts/limits-table.ts writes it')
})

t.test('every command is described', async (t) => {
  const commands = [...help().matchAll(/^ {2}([a-z]+) {2,}/gm)].map(([, name]) => name!)
  t.ok(commands.length > 5)
  for (const name of commands) t.match(OPERATIONS, new RegExp(`\\bmmsb(\\.js)? ${name}\\b`), name)
})

t.test('CHANGELOG.md has the versions that the code has', async (t) => {
  const rows = new Map(tableRowsOf(readDocument('CHANGELOG.md')).map(([what, version]) => [what, version]))
  const abi = /MMSB_ABI_VERSION (\d+)/.exec(readFileSync(`${ROOT}/src/kernels/native/abi.h`, 'utf8'))
  t.equal(rows.get('C ABI of the native library'), abi?.[1])
  const names = readdirSync(`${ROOT}/src`, { recursive: true, encoding: 'utf8' }).filter((name) =>
    name.endsWith('.ts'),
  )
  const code = names.map((name) => readFileSync(`${ROOT}/src/${name}`, 'utf8')).join('\n')
  for (const [what, constant] of [
    ['frame', 'FRAME_VERSION'],
    ['expression IR', 'IR_VERSION'],
    ['log segment', 'SEGMENT_FORMAT_VERSION'],
    ['checkpoint', 'CHECKPOINT_SCHEMA_VERSION'],
  ] as const) {
    const version = new RegExp(`\\b${constant} = (\\d+)`).exec(code)?.[1]
    t.equal(rows.get(what)?.split(';')[0], version, what)
  }
  t.equal(rows.get('catalog (schema)'), String(CATALOG_SCHEMA_VERSION))
  const risen = [...OPS.values()].filter(({ version }) => version > 1)
  const listed = risen.map(({ name, version }) => `\`${name}\` ${version}`)
  t.equal(rows.get('ops'), listed.length === 0 ? '1' : `1, but ${listed.join(', ')}`)
})
