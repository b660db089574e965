/**
 * The op catalogue: each op's code, documentation, shape, dtype and parameter block, and the
 * definitions it refuses.
 */
import { readFileSync } from 'node:fs'
import t from 'tap'
import { native } from '../../src/ffi/library.js'
import { FUNCTION_NAMES } from '../../src/kernels/expression/functions.js'
import { CONSTANTS, KEYWORDS } from '../../src/kernels/expression/names.js'
import { OPS } from '../../src/kernels/op-catalogue.js'
import type { UncheckedDerivation } from '../../src/state/types.js'
import { DTYPES, type Dtype } from '../../src/wire/dtype.js'
import { REDUCE_FUNCTIONS } from '../../src/wire/ops.js'
import { ROOT } from '../lib/place.js'
import { refusal } from '../lib/refusal.js'
import { OP_RECORDS } from '../reference/records.js'
import { compile } from './pages.js'

const words = (block: Uint8Array): number[] => [...new Uint32Array(block.slice().buffer)]

t.test('ops have the codes and versions of the native library', async (t) => {
  const { ops } = JSON.parse(native().mmsb_catalogue()) as { ops: Record<string, unknown> }
  t.same(
    ops,
    Object.fromEntries(
      [...OPS.values()].map(({ name, code, version }) => {
        const old = Array.from({ length: version - 1 }, (_, i) => version - 1 - i)
        return [name, { code, version, old }]
      }),
    ),
  )
})

const OPS_PAGE = readFileSync(`${ROOT}docs/guide/OPS.md`, 'utf8')

/** A definition as the page writes it: its pages are placeholders without quotes. */
function shownDefinition({ op, inputs, ...parameters }: UncheckedDerivation): string {
  const json = (value: unknown): string =>
    JSON.stringify(value, undefined, 1)
      .replace(/\[\s+|\s+\]/g, (end) => end.trim())
      .replace(/\s+/g, ' ')
  const pages = Object.entries(inputs).map(([role, page]) => `"${role}": ${page}`)
  const rest = Object.entries(parameters).map(([name, value]) => `, "${name}": ${json(value)}`)
  return `{"op": "${op}", "inputs": {${pages.join(', ')}}${rest.join('')}}`
}

t.test('docs/guide/OPS.md has the row of each op, and a section that begins with its example', async (t) => {
  const list = (names: readonly string[]): string => names.map((name) => `\`${name}\``).join(' ') || 'none'
  const rows = [...OPS.values()].map(({ name, code, version, roles, parameters, dirtyRule }) => {
    const inputs = roles === 'named' ? 'any names' : list(roles)
    return `| \`${name}\` | ${code} | ${version} | ${inputs} | ${list(parameters)} | ${dirtyRule} |`
  })
  t.same(OPS_PAGE.match(/^\| `\w+` \| \d+ \| .*$/gm), rows)
  for (const { name, roles, parameters, example } of OPS.values()) {
    const section = `### ${name}\n\n\`${shownDefinition(example)}\`. `
    t.ok(OPS_PAGE.includes(section), `a section that begins with\n${section}`)
    if (roles !== 'named') t.same(Object.keys(example.inputs), roles, `${name}: the inputs of its example`)
    const given = Object.keys(example).filter((field) => field !== 'op' && field !== 'inputs')
    t.same(given.sort(), parameterNames(parameters), `${name}: the parameters of its example`)
  }
})

const parameterNames = (parameters: readonly string[]): string[] =>
  parameters.map((name) => name.replace('?', ''))

t.test('docs/internals/ADD-AN-OP.md names at most seven files, and its example is in each', async (t) => {
  const text = readFileSync(`${ROOT}docs/internals/ADD-AN-OP.md`, 'utf8')
  const files = [...text.matchAll(/^\| `([\w./-]+\.\w+)`.* \|$/gm)].map(([, path]) => path!)
  t.ok(files.length > 1 && files.length <= 7, `${files.length} files`)
  for (const file of files) {
    t.match(readFileSync(`${ROOT}${file}`, 'utf8'), /flip/, file)
  }
})

t.test('docs/guide/OPS.md lists the functions and words of the language', async (t) => {
  const text = OPS_PAGE
  const functionTable = text.slice(text.indexOf('| function |'), text.indexOf('### Types'))
  const documented = [...functionTable.matchAll(/^\| (`.*?) \| /gm)].flatMap(([, cell]) =>
    [...cell!.matchAll(/`(\w+)\(/g)].map(([, name]) => name),
  )
  t.same(
    [...new Set(documented)].sort(),
    FUNCTION_NAMES.filter((name) => !DTYPES.includes(name as Dtype)).sort(),
  )
  for (const word of [...KEYWORDS, ...Object.keys(CONSTANTS), ...DTYPES, ...REDUCE_FUNCTIONS]) {
    t.match(text, new RegExp(`\`${word}\``), word)
  }
})

t.test('shape, dtype and block of each op', async (t) => {
  for (const [derive, dtype, shape, block] of OP_RECORDS.flatMap(([, { results }]) => results)) {
    const compiled = compile(derive)
    const text = JSON.stringify(derive)
    t.same([compiled.dtype, compiled.shape], [dtype, shape], text)
    if (block !== undefined) t.same(words(compiled.params), block, text)
    t.ok(compiled.costPerElementNs > 0)
    t.same(compile(compiled.canonical).canonical, compiled.canonical, 'canonical form is a fixed point')
  }
})

t.test('the canonical form fills in defaults and counts axes from 0', async (t) => {
  t.strictSame(compile({ op: 'reduce', inputs: { x: 'cube' }, fn: 'sum', axes: [-1, 0] }).canonical, {
    op: 'reduce',
    inputs: { x: 'cube' },
    axes: [0, 2],
    fn: 'sum',
    keepdims: false,
  })
  t.strictSame(compile({ inputs: { b: 'vector', a: 'prices' }, op: 'matmul' }).canonical, {
    op: 'matmul',
    inputs: { a: 'prices', b: 'vector' },
    semiring: 'plus_times',
  })
  t.strictSame(compile({ op: 'map', inputs: { b: 'qty', a: 'qty' }, expr: ' a + b' }).inputs, [
    { role: 'b', page: 'qty', id: 2 },
    { role: 'a', page: 'qty', id: 2 },
  ])
})

t.test("a dtype that is asked for becomes the page's", async (t) => {
  t.equal(compile({ op: 'reduce', inputs: { x: 'cube' }, fn: 'sum' }, 'f32').dtype, 'f32')
  t.equal(compile({ op: 'map', inputs: { a: 'qty' }, expr: 'a/2' }, 'i32').dtype, 'i32')
  t.equal(compile({ op: 'cast', inputs: { x: 'qty' }, dtype: 'u8' }, 'u8').dtype, 'u8')
  t.match(
    refusal(() => compile({ op: 'cast', inputs: { x: 'qty' }, dtype: 'u8' }, 'u16')),
    /^INVALID_REQUEST the cast is to u8 but the page asks for u16/,
  )
})

t.test('bad definitions: each with its code and what is wrong', async (t) => {
  const x = { x: 'prices' }
  const cases: (readonly [unknown, RegExp])[] = [
    [null, /^INVALID_REQUEST derive must be an object/],
    [[], /^INVALID_REQUEST derive must be an object/],
    [{ inputs: x }, /^INVALID_REQUEST op must be a name; the ops are copy, cast, map/],
    [{ op: 'convolve', inputs: x }, /^INVALID_REQUEST there is no op 'convolve'/],
    [{ op: 'toString', inputs: x }, /^INVALID_REQUEST there is no op 'toString'/],
    ...OP_RECORDS.flatMap(([, { refusals }]) => refusals),
  ]
  for (const [derive, message] of cases) {
    t.match(
      refusal(() => compile(derive as Record<string, unknown>)),
      message,
    )
  }
})
