/**
 * The grammar of expressions: Python's, without chained comparisons. The parser works in one pass: it hands
 * each construct to the typer, which emits IR. There is no syntax tree, and the depth of the parser's
 * recursion is bounded.
 *
 *   expression  = disjunction [ "if" disjunction "else" expression ]
 *   disjunction = conjunction { "or" conjunction }
 *   conjunction = inversion { "and" inversion }
 *   inversion   = "not" inversion | comparison
 *   comparison  = sum [ ( "==" | "!=" | "<" | "<=" | ">" | ">=" ) sum ]
 *   sum         = term { ( "+" | "-" ) term }
 *   term        = factor { ( "*" | "/" | "//" | "%" ) factor }
 *   factor      = ( "-" | "+" ) factor | power
 *   power       = atom [ "**" factor ]
 *   atom        = number | name | "prev" "(" name ")" | call | "(" expression ")"
 *   call        = name "(" expression { "," expression } ")"
 *
 * A call of a user's function parses the function's body in place, with the arguments under the names of its
 * parameters. So the body becomes part of the program and is typed anew at each call.
 */
import { MmsbError } from '../../errors.js'
import { EXPRESSION_MAX_DEPTH, EXPRESSION_MAX_INLINED_TOKENS } from '../../limits.js'
import { applyFunction, isFunction } from './functions.js'
import { expressionError, type Token, tokenize } from './lexer.js'
import { CONSTANTS, type FunctionBody, type FunctionLookup, KEYWORDS, pastName } from './names.js'
import type { ArithmeticOperator, ComparisonOperator, Expression, Meaning } from './typing.js'

const COMPARISONS: ReadonlySet<string> = new Set(['==', '!=', '<', '<=', '>', '>='])

/** The names that a text can use. */
interface Scope {
  readonly names: ReadonlyMap<string, () => Expression>
  readonly functions: FunctionLookup
  /** The functions whose bodies the text is inside of, outermost first. */
  readonly inside: readonly string[]
  readonly depth: number
  /** How many tokens of function bodies may still be inlined. */
  readonly budget: { tokens: number }
}

/**
 * Parses `text`. `inputs` maps the name of an input to its number; the past of x has the name `prev(x)`.
 * @throws MmsbError INVALID_EXPRESSION
 */
export function parseExpression(
  text: string,
  inputs: ReadonlyMap<string, number>,
  typer: Meaning,
  functions: FunctionLookup = () => undefined,
): Expression {
  const names = new Map([...inputs].map(([name, place]) => [name, () => typer.input(place)]))
  const budget = { tokens: EXPRESSION_MAX_INLINED_TOKENS }
  return new Parser(tokenize(text), typer, { names, functions, inside: [], depth: 0, budget }).whole()
}

/**
 * Checks the body of the function `name`: syntax, names and numbers of arguments. @throws MmsbError
 * INVALID_EXPRESSION
 */
export function parseBody(
  name: string,
  { params, expr }: FunctionBody,
  typer: Meaning,
  functions: FunctionLookup,
): void {
  const names = new Map(params.map((param) => [param, () => typer.input(0)]))
  const budget = { tokens: EXPRESSION_MAX_INLINED_TOKENS }
  new Parser(tokenize(expr), typer, { names, functions, inside: [name], depth: 0, budget }).whole()
}

class Parser {
  readonly #tokens: readonly Token[]
  readonly #scope: Scope
  readonly #typer: Meaning
  #next = 0
  #depth: number

  constructor(tokens: readonly Token[], typer: Meaning, scope: Scope) {
    this.#tokens = tokens
    this.#scope = scope
    this.#typer = typer
    this.#depth = scope.depth
  }

  whole(): Expression {
    if (this.#peek().kind === 'end') throw expressionError(1, 'the expression is empty')
    const result = this.#expression()
    const rest = this.#peek()
    if (rest.kind !== 'end') throw this.#unexpected(rest, 'after the expression')
    return result
  }

  #expression(): Expression {
    this.#enter()
    const value = this.#disjunction()
    const word = this.#takeWord('if')
    if (word === undefined) return this.#leave(value)
    const condition = this.#disjunction()
    if (this.#takeWord('else') === undefined) throw this.#unexpected(this.#peek(), "where 'else' should be")
    return this.#leave(this.#typer.select(condition, value, this.#expression(), word.column))
  }

  #disjunction(): Expression {
    let left = this.#conjunction()
    for (let word = this.#takeWord('or'); word !== undefined; word = this.#takeWord('or')) {
      left = this.#typer.logical('or', left, this.#conjunction(), word.column)
    }
    return left
  }

  #conjunction(): Expression {
    let left = this.#inversion()
    for (let word = this.#takeWord('and'); word !== undefined; word = this.#takeWord('and')) {
      left = this.#typer.logical('and', left, this.#inversion(), word.column)
    }
    return left
  }

  #inversion(): Expression {
    const word = this.#takeWord('not')
    if (word === undefined) return this.#comparison()
    this.#enter()
    return this.#leave(this.#typer.not(this.#inversion(), word.column))
  }

  #comparison(): Expression {
    const left = this.#sum()
    const operator = this.#takeSymbol(COMPARISONS)
    if (operator === undefined) return left
    const right = this.#sum()
    const again = this.#peek()
    if (again.kind === 'symbol' && COMPARISONS.has(again.text)) {
      throw expressionError(again.column, "comparisons cannot be chained; write 'a < b and b < c'")
    }
    return this.#typer.compare(operator.text as ComparisonOperator, left, right, operator.column)
  }

  #sum(): Expression {
    let left = this.#term()
    for (let op = this.#takeSymbol(SUM); op !== undefined; op = this.#takeSymbol(SUM)) {
      left = this.#typer.arithmetic(op.text as ArithmeticOperator, left, this.#term(), op.column)
    }
    return left
  }

  #term(): Expression {
    let left = this.#factor()
    for (let op = this.#takeSymbol(TERM); op !== undefined; op = this.#takeSymbol(TERM)) {
      left = this.#typer.arithmetic(op.text as ArithmeticOperator, left, this.#factor(), op.column)
    }
    return left
  }

  #factor(): Expression {
    const sign = this.#takeSymbol(SUM)
    if (sign === undefined) return this.#power()
    this.#enter()
    const operand = this.#factor()
    const { column } = sign
    return this.#leave(
      sign.text === '-' ? this.#typer.negate(operand, column) : this.#typer.plus(operand, column),
    )
  }

  #power(): Expression {
    const base = this.#atom()
    const operator = this.#takeSymbol(POWER)
    if (operator === undefined) return base
    this.#enter()
    return this.#leave(this.#typer.arithmetic('**', base, this.#factor(), operator.column))
  }

  #atom(): Expression {
    const token = this.#peek()
    this.#next++
    switch (token.kind) {
      case 'integer':
        return this.#typer.integer(token.value)
      case 'float':
        return this.#typer.float(token.value)
      case 'name':
        return this.#name(token)
      case 'symbol':
        if (token.text !== '(') break
        return this.#closed(this.#expression())
      case 'end':
        break
    }
    throw this.#unexpected(token, 'where a value should be')
  }

  #name(token: Token): Expression {
    const { text, column } = token
    const called = this.#peek().text === '('
    const value = this.#scope.names.get(text)
    if (value !== undefined) {
      if (called) throw expressionError(column, `'${text}' is ${this.#aName}, not a function`)
      return value()
    }
    if (isFunction(text)) {
      if (!called) throw expressionError(column, `'${text}' is a function; write ${text}(...)`)
      this.#next++
      return applyFunction(this.#typer, text, this.#arguments(), column)
    }
    if (text === 'prev') return this.#prev(column)
    if (KEYWORDS.has(text)) throw this.#unexpected(token, 'where a value should be')
    const body = this.#scope.functions(text)
    if (body !== undefined) {
      if (!called) throw expressionError(column, `'${text}' is a function; write ${text}(...)`)
      this.#next++
      return this.#call(text, body, this.#arguments(), column)
    }
    if (called) throw expressionError(column, `unknown function '${text}'`)
    const constant = Object.hasOwn(CONSTANTS, text) ? CONSTANTS[text] : undefined
    if (constant !== undefined) {
      return typeof constant === 'boolean' ? this.#typer.bool(constant) : this.#typer.float(constant)
    }
    const known = [...this.#scope.names.keys()].filter((name) => !name.startsWith('prev('))
    const what = this.#scope.inside.length > 0 ? 'parameters' : 'inputs'
    const names = known.length === 0 ? 'none' : known.join(', ')
    throw expressionError(column, `unknown name '${text}'; the ${what} are ${names}`)
  }

  get #aName(): string {
    return this.#scope.inside.length > 0 ? 'a parameter' : 'an input'
  }

  /** prev(x): x is a name, not an expression. */
  #prev(column: number): Expression {
    const open = this.#takeSymbol(OPEN)
    const token = this.#peek()
    if (open === undefined || token.kind !== 'name') {
      throw expressionError(column, 'prev takes the name of an input, such as prev(x)')
    }
    this.#next++
    if (this.#scope.inside.length > 0) {
      throw expressionError(column, 'prev takes an input of the page; pass prev(x) to the function instead')
    }
    const value = this.#scope.names.get(pastName(token.text))
    if (value === undefined) throw expressionError(token.column, `prev: there is no input '${token.text}'`)
    return this.#closed(value())
  }

  /** The body of a function in place of its call. */
  #call(name: string, body: FunctionBody, args: readonly Expression[], column: number): Expression {
    const { params, expr } = body
    const { inside, functions, budget } = this.#scope
    if (args.length !== params.length) {
      const plural = params.length === 1 ? '' : 's'
      throw expressionError(column, `${name} takes ${params.length} argument${plural}, not ${args.length}`)
    }
    if (inside.includes(name)) {
      throw expressionError(column, `${[...inside, name].join(' -> ')}: functions cannot call themselves`)
    }
    this.#enter()
    try {
      const tokens = tokenize(expr)
      budget.tokens -= tokens.length
      if (budget.tokens < 0) {
        throw expressionError(
          column,
          `the functions called have more than ${EXPRESSION_MAX_INLINED_TOKENS} words together`,
        )
      }
      const names = new Map(params.map((param, i) => [param, () => args[i]!]))
      const scope = { names, functions, inside: [...inside, name], depth: this.#depth, budget }
      return this.#leave(new Parser(tokens, this.#typer, scope).whole())
    } catch (error) {
      if (!(error instanceof MmsbError) || error.code !== 'INVALID_EXPRESSION') throw error
      const isInside = error.message.startsWith('column ')
      throw expressionError(column, isInside ? `in ${name}, ${error.message}` : error.message)
    }
  }

  #arguments(): Expression[] {
    const list: Expression[] = []
    if (this.#takeSymbol(CLOSE) !== undefined) return list
    for (;;) {
      list.push(this.#expression())
      if (this.#takeSymbol(COMMA) === undefined) break
    }
    this.#closed(list)
    return list
  }

  #closed<T>(value: T): T {
    if (this.#takeSymbol(CLOSE) === undefined) {
      throw this.#unexpected(this.#peek(), "where ')' should be")
    }
    return value
  }

  #peek(): Token {
    return this.#tokens[this.#next]!
  }

  #takeSymbol(symbols: ReadonlySet<string>): Token | undefined {
    const token = this.#peek()
    if (token.kind !== 'symbol' || !symbols.has(token.text)) return undefined
    this.#next++
    return token
  }

  #takeWord(word: string): Token | undefined {
    const token = this.#peek()
    if (token.kind !== 'name' || token.text !== word) return undefined
    this.#next++
    return token
  }

  #enter(): void {
    if (++this.#depth > EXPRESSION_MAX_DEPTH) {
      throw expressionError(
        this.#peek().column,
        `nested more than ${EXPRESSION_MAX_DEPTH} deep; split it over several pages`,
      )
    }
  }

  #leave(value: Expression): Expression {
    this.#depth--
    return value
  }

  #unexpected(token: Token, where: string): MmsbError {
    const what = token.kind === 'end' ? 'the expression ends' : `unexpected '${token.text.slice(0, 40)}'`
    return expressionError(token.column, `${what} ${where}`)
  }
}

const SUM: ReadonlySet<string> = new Set(['+', '-'])
const TERM: ReadonlySet<string> = new Set(['*', '/', '//', '%'])
const POWER: ReadonlySet<string> = new Set(['**'])
const OPEN: ReadonlySet<string> = new Set(['('])
const CLOSE: ReadonlySet<string> = new Set([')'])
const COMMA: ReadonlySet<string> = new Set([','])
