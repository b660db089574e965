/**
 * The mutants of a source: every small change that a person could make by mistake. A comparison is off by
 * one, a condition is turned around, a call or an await is missing.
 *
 * Left out: types, strings, texts of errors and logs, and what only describes (OpenAPI), since a test of such
 * a change would only repeat it.
 */
import ts from 'typescript'

export interface Mutant {
  readonly path: string
  /** From 1 on. */
  readonly line: number
  readonly start: number
  readonly end: number
  readonly replacement: string
  /** The functions around it, innermost first, by the names that V8 gives them. */
  readonly functions: readonly string[]
  /** Says what is changed, wherever the lines move: `src/wire/dtype.ts#isDtype: a < b -> a <= b`. */
  readonly id: string
}

interface Change {
  readonly node: ts.Node
  readonly replacement: string
  /** Stands for the node in the name of the mutant, if its text is long. */
  readonly from?: string
}

const K = ts.SyntaxKind

/** What stands in the place of an operator. */
const OPERATORS: Readonly<Partial<Record<ts.SyntaxKind, readonly string[]>>> = {
  [K.PlusToken]: ['-'],
  [K.MinusToken]: ['+'],
  [K.AsteriskToken]: ['/'],
  [K.SlashToken]: ['*'],
  [K.PercentToken]: ['*'],
  [K.LessThanToken]: ['<=', '>='],
  [K.LessThanEqualsToken]: ['<', '>'],
  [K.GreaterThanToken]: ['>=', '<='],
  [K.GreaterThanEqualsToken]: ['>', '<'],
  [K.EqualsEqualsEqualsToken]: ['!=='],
  [K.ExclamationEqualsEqualsToken]: ['==='],
  [K.AmpersandAmpersandToken]: ['||'],
  [K.BarBarToken]: ['&&'],
  [K.AmpersandToken]: ['|'],
  [K.BarToken]: ['&'],
  [K.LessThanLessThanToken]: ['>>'],
  [K.GreaterThanGreaterThanToken]: ['<<'],
  [K.GreaterThanGreaterThanGreaterThanToken]: ['<<'],
  [K.PlusEqualsToken]: ['-='],
  [K.MinusEqualsToken]: ['+='],
  [K.AsteriskEqualsToken]: ['/='],
  [K.QuestionQuestionEqualsToken]: ['='],
}

const METHODS: ReadonlyMap<string, string> = new Map([
  ['min', 'max'],
  ['max', 'min'],
  ['floor', 'ceil'],
  ['ceil', 'floor'],
  ['some', 'every'],
  ['every', 'some'],
  ['startsWith', 'endsWith'],
  ['endsWith', 'startsWith'],
])

/** Names of properties that only describe. */
const DESCRIPTIONS = new Set(['description', 'title', 'summary', 'example', 'examples', 'tags', 'help'])

/** Calls whose arguments are texts, or objects for a log. */
const LOGS = /(^|[.#])(log|logger|warn|info|debug|error|trace|onLog)(\.|$)|^console\./

function isText(node: ts.Expression): boolean {
  return (
    ts.isStringLiteralLike(node) ||
    ts.isTemplateExpression(node) ||
    (ts.isBinaryExpression(node) && (isText(node.left) || isText(node.right)))
  )
}

/** Nothing in this node is changed. */
function isLeftOut(node: ts.Node): boolean {
  if (ts.isTypeNode(node) || ts.isInterfaceDeclaration(node) || ts.isTypeAliasDeclaration(node)) return true
  if (ts.isImportDeclaration(node) || ts.isExportDeclaration(node)) return true
  if (ts.isTemplateExpression(node) || ts.isThrowStatement(node)) return true
  if (ts.isPropertyAssignment(node)) return DESCRIPTIONS.has(node.name.getText())
  return ts.isCallExpression(node) && LOGS.test(node.expression.getText())
}

function changesOf(node: ts.Node): Change[] {
  if (ts.isBinaryExpression(node)) {
    if (isText(node)) return []
    const { operatorToken } = node
    if (operatorToken.kind === K.QuestionQuestionToken) {
      return [node.left, node.right].map((side) => ({ node, replacement: `(${side.getText()})` }))
    }
    return (OPERATORS[operatorToken.kind] ?? []).map((replacement) => ({ node: operatorToken, replacement }))
  }
  if (node.kind === K.TrueKeyword) return [{ node, replacement: 'false' }]
  if (node.kind === K.FalseKeyword) return [{ node, replacement: 'true' }]
  if (ts.isPrefixUnaryExpression(node)) {
    const { operator, operand } = node
    if (operator === K.ExclamationToken) return [{ node, replacement: `(${operand.getText()})` }]
    if (operator === K.MinusToken) return [{ node, replacement: `(${operand.getText()})` }]
    if (operator === K.PlusPlusToken) return [{ node, replacement: `--${operand.getText()}` }]
    if (operator === K.MinusMinusToken) return [{ node, replacement: `++${operand.getText()}` }]
    return []
  }
  if (ts.isPostfixUnaryExpression(node)) {
    const other = node.operator === K.PlusPlusToken ? '--' : '++'
    return [{ node, replacement: node.operand.getText() + other }]
  }
  if (ts.isAwaitExpression(node)) return [{ node, replacement: `(${node.expression.getText()})` }]
  if (ts.isIfStatement(node) || ts.isConditionalExpression(node)) {
    const condition = ts.isIfStatement(node) ? node.expression : node.condition
    return ['true', 'false'].map((replacement) => ({ node: condition, replacement }))
  }
  if (ts.isExpressionStatement(node) && isEffect(node.expression)) return [{ node, replacement: ';' }]
  if (ts.isPropertyAccessExpression(node)) {
    const other = METHODS.get(node.name.text)
    return other !== undefined && ts.isCallExpression(node.parent) && node.parent.expression === node
      ? [{ node: node.name, replacement: other }]
      : []
  }
  if (ts.isBlock(node) && node.statements.length > 1 && ts.isFunctionLike(node.parent)) {
    return node.parent.type?.kind === K.VoidKeyword ? [{ node, replacement: '{}', from: 'body' }] : []
  }
  return []
}

/** A call or an assignment that stands alone. */
function isEffect(expression: ts.Expression): boolean {
  const inner = ts.isAwaitExpression(expression) ? expression.expression : expression
  if (ts.isCallExpression(inner)) {
    return !LOGS.test(inner.expression.getText()) && inner.expression.kind !== K.SuperKeyword
  }
  return ts.isBinaryExpression(inner) && inner.operatorToken.kind === K.EqualsToken
}

/** The name that V8 gives to a function; undefined if it has none or a compiler takes it away. */
function nameOf(node: ts.Node): string | undefined {
  if (ts.isConstructorDeclaration(node)) return node.parent.name?.text
  if (ts.isPropertyDeclaration(node)) return '<instance_members_initializer>'
  if (ts.isGetAccessor(node)) return `get ${node.name.getText()}`
  if (ts.isSetAccessor(node)) return `set ${node.name.getText()}`
  if (ts.isMethodDeclaration(node) || ts.isFunctionDeclaration(node)) return node.name?.getText()
  return undefined
}

/** The text of a node on one line. */
function short(text: string): string {
  const line = text.replace(/\s+/g, ' ')
  return line.length > 70 ? `${line.slice(0, 50)} ... ${line.slice(-15)}` : line
}

/** Where a change is seen in the name of a mutant: an operator with what it stands between. */
function shownOf({ node, replacement, from }: Change, tree: ts.SourceFile): string {
  if (from !== undefined) return `${from} -> ${replacement}`
  const { parent } = node
  const isPart = ts.isBinaryExpression(parent) && parent.operatorToken === node
  const isName = ts.isPropertyAccessExpression(parent) && parent.name === node
  const whole = isPart || isName ? parent : node
  const text = whole.getText(tree)
  const start = node.getStart(tree) - whole.getStart(tree)
  const changed = text.slice(0, start) + replacement + text.slice(start + node.getText(tree).length)
  return isPart || isName || text.length < 70
    ? `${short(text)} -> ${short(changed)}`
    : `${short(text)} -> ${short(replacement)}`
}

export function mutantsOf(path: string, text: string): Mutant[] {
  const tree = ts.createSourceFile(path, text, ts.ScriptTarget.ES2023, true)
  const mutants: Mutant[] = []
  const ids = new Map<string, number>()
  const visit = (node: ts.Node, functions: readonly string[]): void => {
    if (isLeftOut(node)) return
    const name = nameOf(node)
    const around = name === undefined ? functions : [name, ...functions]
    for (const change of changesOf(node)) {
      const start = change.node.getStart(tree)
      const base = `${path}#${around[0] ?? ''}: ${shownOf(change, tree)}`
      const count = (ids.get(base) ?? 0) + 1
      ids.set(base, count)
      mutants.push({
        path,
        line: tree.getLineAndCharacterOfPosition(start).line + 1,
        start,
        end: change.node.getEnd(),
        replacement: change.replacement,
        functions: around,
        id: count === 1 ? base : `${base} (${count})`,
      })
    }
    ts.forEachChild(node, (child) => visit(child, around))
  }
  visit(tree, [])
  return mutants
}
