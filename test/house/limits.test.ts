/**
 * Every limit has a test that crosses it. For a constant of src/limits.ts and src/wire/limits.ts that
 * is a test that imports it, so that it follows the constant to both of its sides; for one that an
 * option replaces, a test that sets the option to something small. For an operator's limit it is a test
 * that sets the limit and looks at its refusal or its count. What no test crosses stands in NOT_CROSSED
 * with the reason.
 */
import t from 'tap'
import ts from 'typescript'
import { OPERATOR_LIMITS } from '../../src/operator-limits.js'
import { type Source, sourcesOf, sourcesUnder } from './source.js'

/** Constants that are too large to be crossed, and the option that shrinks them. */
const OPTIONS: Readonly<Record<string, string>> = {
  CHECKPOINTS_KEPT: 'checkpointsKept',
  DURABLE_HOLD_BYTES: 'durableHoldBytes',
  DURABLE_HOLD_MS: 'durableHoldMs',
  SEGMENT_BYTES: 'segmentBytes',
  STREAM_PING_INTERVAL_MS: 'pingIntervalMs',
}

const REASONS = {
  pause: 'says how long something waits or how often it looks; what comes out is the same',
  slice: 'says how much is done before other work gets its turn; what comes out is the same',
  place: 'says what is kept, and where; what is read is the same',
  large: 'crossing it takes a test many seconds, or hundreds of MiB',
  format: 'part of a format, whose bytes other tests compare',
  told: 'a number that others are told, not a bound of ours',
} as const

const NOT_CROSSED: Readonly<Record<string, keyof typeof REASONS>> = {
  ACCEPTS_PER_TURN: 'slice',
  ADMIN_METRICS_WAIT_MS: 'pause',
  ANSWER_SLICE_MS: 'slice',
  COMPILE_SLICE_MS: 'slice',
  DIGEST_CHUNK_BYTES: 'format',
  HISTORY_SCAN_EPOCHS: 'large',
  HTTP_DEFAULT_PORT: 'told',
  HTTP_ERROR_LINGER_MS: 'pause',
  ISSUER_PAUSE_MS: 'pause',
  ISSUER_REFRESH_MS: 'pause',
  JSON_SLICE_MS: 'slice',
  LISTEN_BACKLOG: 'told',
  PAST_ANSWER_EPOCHS: 'slice',
  PAST_IDLE_MS: 'pause',
  PAST_LOOK_AHEAD_EPOCHS: 'slice',
  PAST_SLICE_MS: 'slice',
  REFUSED_BODY_MAX_MS: 'pause',
  REPLAY_JUMP_EPOCHS: 'large',
  REPLAY_KEPT_SHARE: 'place',
  REPLAY_UNDO_BYTES: 'place',
  REPLAY_UNDO_EPOCHS: 'place',
  SEGMENT_FORMAT_VERSION: 'format',
  STOP_REQUESTS_MS: 'pause',
  STREAM_GATHER_NAME_BYTES: 'slice',
  STREAM_GATHER_PAGE_BYTES: 'slice',
  STREAM_GOODBYE_MS: 'pause',
  TIMEOUT_CHECK_MS: 'pause',
  VERIFY_IDLE_MS: 'pause',
}

/** The names of the constants that a file exports. */
function constantsOf({ tree }: Source): string[] {
  return tree.statements.flatMap((statement) => {
    if (!ts.isVariableStatement(statement)) return []
    return statement.declarationList.declarations.map(({ name }) => name.getText(tree))
  })
}

/** What a file imports by name from one of `targets`. */
function importedFrom({ tree, imports }: Source, targets: readonly string[]): string[] {
  return tree.statements.flatMap((statement) => {
    if (!ts.isImportDeclaration(statement) || !ts.isStringLiteral(statement.moduleSpecifier)) return []
    const { text } = statement.moduleSpecifier
    const target = imports.find(({ name }) => name === text)?.target ?? ''
    const bindings = statement.importClause?.namedBindings
    if (!targets.includes(target) || bindings === undefined || !ts.isNamedImports(bindings)) return []
    return bindings.elements.map(({ name, propertyName }) => (propertyName ?? name).text)
  })
}

/** Fields that a file gives in objects. */
function fieldsOf({ tree }: Source): Set<string> {
  const fields = new Set<string>()
  const visit = (node: ts.Node): void => {
    if (ts.isPropertyAssignment(node) || ts.isShorthandPropertyAssignment(node))
      fields.add(node.name.getText(tree))
    ts.forEachChild(node, visit)
  }
  visit(tree)
  return fields
}

interface House {
  /** The files that hold the constants. */
  readonly limits: readonly Source[]
  readonly tests: readonly Source[]
  readonly options: Readonly<Record<string, string>>
  readonly notCrossed: Readonly<Record<string, string>>
}

/** Constants without a test, and entries of the two lists that are no longer needed. */
function complaints({ limits, tests, options, notCrossed }: House): string[] {
  const paths = limits.map(({ path }) => path)
  const imported = new Set(tests.flatMap((test) => importedFrom(test, paths)))
  const fields = new Set(tests.flatMap((test) => [...fieldsOf(test)]))
  const constants = limits.flatMap(constantsOf)
  const listed = [...Object.keys(options), ...Object.keys(notCrossed)]
  return [
    ...constants
      .filter((name) => !imported.has(name) && notCrossed[name] === undefined)
      .filter((name) => options[name] === undefined || !fields.has(options[name]))
      .map((name) => `${name}: no test crosses it`),
    ...listed.filter((name) => !constants.includes(name)).map((name) => `${name}: there is no such limit`),
    ...listed
      .filter((name) => imported.has(name))
      .map((name) => `${name}: a test names it, so it need not be listed`),
  ]
}

/** Operator's limits that no test sets and sees refuse. */
function uncrossedByOperators(
  tests: readonly Source[],
  limits: Readonly<Record<string, { flag: string }>>,
): string[] {
  const read = tests.map((test) => ({ text: test.text, fields: fieldsOf(test) }))
  const isCrossed = (name: string, flag: string): boolean =>
    read.some(({ text, fields }) => {
      const isSet = fields.has(name) || text.includes(`'--${flag}'`)
      return isSet && (text.includes(`--${flag}`) || text.includes(`'${name}'`))
    })
  return Object.entries(limits).flatMap(([name, { flag }]) => (isCrossed(name, flag) ? [] : [name]))
}

t.test('a limit without a test is found', async (t) => {
  const limits = sourcesOf({
    'src/limits.ts': 'export const A_MAX = 1\nexport const B_MAX = 2\nexport const C_MS = 3',
  })
  const tests = sourcesOf({
    'test/a.test.ts': "import { A_MAX } from '../src/limits.js'\nopen({ bMax: A_MAX })\n// C_MS",
  })
  const found = (options: Record<string, string>, notCrossed: Record<string, string>): string[] =>
    complaints({ limits, tests, options, notCrossed })
  t.same(found({}, {}), ['B_MAX: no test crosses it', 'C_MS: no test crosses it'])
  t.same(found({ B_MAX: 'bMax' }, { C_MS: 'pause' }), [])
  t.same(found({ B_MAX: 'bMin' }, { C_MS: 'pause' }), ['B_MAX: no test crosses it'])
  t.match(found({ A_MAX: 'bMax' }, { D: 'pause', B_MAX: 'years', C_MS: 'pause' }), [
    /^D: there is no/,
    /^A_MAX: a test names/,
  ])
  const sets = sourcesOf({
    'test/b.test.ts': "open({ maxCats: 1 }); t.match(e, '--max-cats')",
    'test/c.test.ts': 'open({ maxDogs: 1 })',
  })
  t.same(uncrossedByOperators(sets, { maxCats: { flag: 'max-cats' }, maxDogs: { flag: 'max-dogs' } }), [
    'maxDogs',
  ])
})

const TESTS = sourcesUnder('test').filter(
  ({ path }) => path.endsWith('.test.ts') && !path.startsWith('test/house/'),
)

t.test('every constant is crossed by a test that names it', async (t) => {
  const limits = sourcesUnder('src').filter(({ path }) => /^src\/(wire\/)?limits\.ts$/.test(path))
  t.same(complaints({ limits, tests: TESTS, options: OPTIONS, notCrossed: NOT_CROSSED }), [])
})

t.test('every limit of an operator is set by a test that sees it refuse', async (t) => {
  t.same(uncrossedByOperators(TESTS, OPERATOR_LIMITS), [])
})
