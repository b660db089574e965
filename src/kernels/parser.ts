/**
 * The grammar of expressions: Python's, without chained comparisons. One pass: as a construct is recognised, the typer
 * turns it into IR, so there is no tree and no recursion but the parser's own, which is bounded.
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
 *   atom        = number | name | name "(" expression { "," expression } ")" | "(" expression ")"
 */
import type { MmsbError } from '../errors.js'
import { EXPRESSION_MAX_DEPTH } from '../limits.js'
import { applyFunction, isFunction } from './functions.js'
import { expressionError, type Token, tokenize } from './lexer.js'
import type { ArithmeticOperator, ComparisonOperator, Expression, Typer } from './typing.js'

/** Words with a meaning of their own; inputs cannot have these names. */
export const KEYWORDS: ReadonlySet<string> = new Set(['and', 'or', 'not', 'if', 'else'])

/** Named numbers. */
export const CONSTANTS: Readonly<Record<string, number | boolean>> = {
  inf: Number.POSITIVE_INFINITY,
  nan: Number.NaN,
  pi: Math.PI,
  true: true,
  false: false,
  True: true,
  False: false,
}

const COMPARISONS: ReadonlySet<string> = new Set(['==', '!=', '<', '<=', '>', '>='])

/** Parses `text`; `inputs` maps a name to its place. @throws MmsbError INVALID_EXPRESSION */
export function parseExpression(text: string, inputs: ReadonlyMap<string, number>, typer: Typer): Expression {
  return new Parser(tokenize(text), inputs, typer).whole()
}

class Parser {
  readonly #tokens: readonly Token[]
  readonly #inputs: ReadonlyMap<string, number>
  readonly #typer: Typer
  #next = 0
  #depth = 0

  constructor(tokens: readonly Token[], inputs: ReadonlyMap<string, number>, typer: Typer) {
    this.#tokens = tokens
    this.#inputs = inputs
    this.#typer = typer
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
    const input = this.#inputs.get(text)
    if (input !== undefined) {
      if (called) throw expressionError(column, `'${text}' is an input, not a function`)
      return this.#typer.input(input)
    }
    if (isFunction(text)) {
      if (!called) throw expressionError(column, `'${text}' is a function; write ${text}(...)`)
      this.#next++
      return applyFunction(this.#typer, text, this.#arguments(), column)
    }
    if (KEYWORDS.has(text)) throw this.#unexpected(token, 'where a value should be')
    if (called) throw expressionError(column, `unknown function '${text}'`)
    const constant = Object.hasOwn(CONSTANTS, text) ? CONSTANTS[text] : undefined
    if (constant !== undefined) {
      return typeof constant === 'boolean' ? this.#typer.bool(constant) : this.#typer.float(constant)
    }
    const names = [...this.#inputs.keys()].join(', ')
    throw expressionError(column, `unknown name '${text}'; the inputs are ${names === '' ? 'none' : names}`)
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
const CLOSE: ReadonlySet<string> = new Set([')'])
const COMMA: ReadonlySet<string> = new Set([','])
