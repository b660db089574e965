/**
 * Users' functions: the checks that a definition must pass, and which functions and inputs a text uses.
 *
 * Invariants: a function is text over its parameters, typed anew at each call; its name and parameters are
 * not words of the language. This file does not know tables of functions, epochs or pages.
 */
import { MmsbError } from '../../errors.js'
import { EXPRESSION_MAX_LENGTH, FUNCTION_MAX_PARAMETERS } from '../../limits.js'
import { isFunction } from './functions.js'
import { expressionError, type Token, tokenize } from './lexer.js'
import { checkInputName, type FunctionBody, type FunctionLookup, KEYWORDS } from './names.js'
import { parseBody } from './parser.js'
import { ANY_MEANING } from './typing.js'

/**
 * Checks a definition: names, syntax, the functions it calls. Types are checked at each call.
 * @throws MmsbError INVALID_REQUEST, INVALID_EXPRESSION
 */
export function checkFunction(name: string, body: FunctionBody, functions: FunctionLookup): void {
  checkNewName('function', name)
  const { params, expr } = body
  if (typeof expr !== 'string' || expr.length > EXPRESSION_MAX_LENGTH) {
    throw new MmsbError('INVALID_REQUEST', `expr must be text of at most ${EXPRESSION_MAX_LENGTH} characters`)
  }
  if (!Array.isArray(params) || params.length > FUNCTION_MAX_PARAMETERS) {
    throw new MmsbError(
      'INVALID_REQUEST',
      `params must be a list of at most ${FUNCTION_MAX_PARAMETERS} names`,
    )
  }
  for (const [i, param] of params.entries()) {
    if (typeof param !== 'string') throw new MmsbError('INVALID_REQUEST', `params[${i}] is not a name`)
    checkNewName('parameter', param)
    if (params.indexOf(param) < i)
      throw new MmsbError('INVALID_REQUEST', `parameter '${param}' is listed twice`)
  }
  parseBody(name, body, ANY_MEANING, (called) => (called === name ? body : functions(called)))
}

function checkNewName(what: string, name: string): void {
  try {
    checkInputName(name)
  } catch (error) {
    if (!(error instanceof MmsbError)) throw error
    throw new MmsbError(error.code, error.message.replace(/^input/, what))
  }
}

/** The users' functions that a text calls, each once. */
export function calledFunctions(expr: string): string[] {
  const tokens = tokenize(expr)
  const names = new Set<string>()
  for (const [i, { kind, text }] of tokens.entries()) {
    const isCall = kind === 'name' && tokens[i + 1]?.text === '('
    if (isCall && !isFunction(text) && !KEYWORDS.has(text)) names.add(text)
  }
  return [...names]
}

/** Which inputs a text uses plainly, and which in prev(...). @throws MmsbError INVALID_EXPRESSION */
export function usesOfInputs(
  expr: string,
  roles: readonly string[],
): { plain: Set<string>; prev: Set<string> } {
  const tokens = tokenize(expr)
  const plain = new Set<string>()
  const prev = new Set<string>()
  const isPast = (i: number): boolean => isName(tokens[i - 2], 'prev') && tokens[i - 1]?.text === '('
  for (const [i, token] of tokens.entries()) {
    if (token.kind !== 'name' || !roles.includes(token.text)) continue
    if (isPast(i)) prev.add(token.text)
    else plain.add(token.text)
  }
  return { plain, prev }
}

const isName = (token: Token | undefined, text: string): boolean =>
  token?.kind === 'name' && token.text === text

/** The error for prev(x) where input x is a past already. */
export function pastOfPast(expr: string, role: string): MmsbError {
  const tokens = tokenize(expr)
  const at = tokens.findIndex((token, i) => isName(token, role) && isName(tokens[i - 2], 'prev'))
  return expressionError((tokens[at]?.column ?? 0) || 1, `prev: input '${role}' is a past already`)
}
