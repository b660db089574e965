/**
 * Cuts the text of an expression into tokens with their columns. Does not know the grammar: keywords,
 * functions and inputs are all names here.
 */
import { MmsbError } from '../../errors.js'
import { EXPRESSION_MAX_LENGTH } from '../../limits.js'

export type Token =
  | { readonly kind: 'integer'; readonly column: number; readonly text: string; readonly value: bigint }
  | { readonly kind: 'float'; readonly column: number; readonly text: string; readonly value: number }
  | { readonly kind: 'name' | 'symbol' | 'end'; readonly column: number; readonly text: string }

/** An error in an expression; columns count from 1. */
export function expressionError(column: number, detail: string): MmsbError {
  return new MmsbError('INVALID_EXPRESSION', `column ${column}: ${detail}`)
}

const SPACE = /[ \t\r\n]*/y
const NAME = /[A-Za-z_][A-Za-z0-9_]*/y
const HEX = /0[xX][0-9A-Fa-f]+/y
const NUMBER = /(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?/y
const SYMBOL = /\*\*|\/\/|<=|>=|==|!=|[-+*/%<>(),]/y

/** Advice for symbols of other languages. */
const ADVICE: Readonly<Record<string, string>> = {
  '=': "use '==' to compare",
  '&': "use 'and', or bitand(a, b)",
  '|': "use 'or', or bitor(a, b)",
  '^': "use '**' for powers, or bitxor(a, b)",
  '!': "use 'not'",
  '?': "use 'a if c else b' or where(c, a, b)",
  '[': 'an expression cannot index; it is applied to each element',
}

/** The newest tokens: a text is read several times in a row, and many pages have the same one. */
let newest: { readonly text: string; readonly tokens: readonly Token[] } | undefined

/** The tokens of `text`; the last one is `end`. @throws MmsbError INVALID_EXPRESSION */
export function tokenize(text: string): readonly Token[] {
  if (newest?.text !== text) newest = { text, tokens: readTokens(text) }
  return newest.tokens
}

function readTokens(text: string): Token[] {
  if (text.length > EXPRESSION_MAX_LENGTH) {
    throw new MmsbError(
      'INVALID_EXPRESSION',
      `the expression has ${text.length} characters; at most ${EXPRESSION_MAX_LENGTH}`,
    )
  }
  const tokens: Token[] = []
  let at = 0
  const take = (pattern: RegExp): string | undefined => {
    pattern.lastIndex = at
    const found = pattern.exec(text)?.[0]
    if (found !== undefined) at += found.length
    return found
  }
  for (;;) {
    take(SPACE)
    const column = at + 1
    if (at >= text.length) {
      tokens.push({ kind: 'end', column, text: '' })
      return tokens
    }
    const name = take(NAME)
    if (name !== undefined) {
      tokens.push({ kind: 'name', column, text: name })
      continue
    }
    const digits = take(HEX) ?? take(NUMBER)
    if (digits !== undefined) {
      tokens.push(numberToken(digits, column, text, at))
      continue
    }
    const symbol = take(SYMBOL)
    if (symbol === undefined) throw unexpected(text, at)
    tokens.push({ kind: 'symbol', column, text: symbol })
  }
}

function numberToken(digits: string, column: number, text: string, end: number): Token {
  const next = text[end]
  if (next !== undefined && /[A-Za-z0-9_.]/.test(next)) {
    throw expressionError(end + 1, `unexpected '${next}' in a number`)
  }
  if (/^(0[xX][0-9A-Fa-f]+|[0-9]+)$/.test(digits)) {
    return { kind: 'integer', column, text: digits, value: BigInt(digits) }
  }
  const value = Number(digits)
  if (!Number.isFinite(value))
    throw expressionError(column, `${digits} does not fit f64; write inf for infinity`)
  return { kind: 'float', column, text: digits, value }
}

function unexpected(text: string, at: number): MmsbError {
  const character = String.fromCodePoint(text.codePointAt(at)!)
  const advice = ADVICE[character]
  return expressionError(at + 1, `unexpected ${JSON.stringify(character)}${advice ? `; ${advice}` : ''}`)
}
