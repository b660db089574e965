/**
 * What a name can mean in an expression: a keyword, a constant, an input, the past of an input, or a
 * function that users define. A name has one meaning, so an input or a function cannot take one that the
 * language has already.
 *
 * Knows no grammar and no types: the parser looks names up here.
 */
import { MmsbError } from '../../errors.js'
import { isFunction } from './functions.js'

/** Words with a meaning of their own; inputs cannot have these names. */
export const KEYWORDS: ReadonlySet<string> = new Set(['and', 'or', 'not', 'if', 'else', 'prev'])

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

/** A function that users define: an expression over its parameters. */
export interface FunctionBody {
  readonly params: readonly string[]
  readonly expr: string
}

/** Finds a function that users defined; undefined when there is none of this name. */
export type FunctionLookup = (name: string) => FunctionBody | undefined

const INPUT_NAME = /^[A-Za-z_][A-Za-z0-9_]{0,63}$/
const PAST_NAME = /^prev\((.*)\)$/

/** The name of the past of an input in an expression. */
export const pastName = (role: string): string => `prev(${role})`

/** The input whose past a name stands for; undefined for a plain name. */
export const inputOfPast = (name: string): string | undefined => PAST_NAME.exec(name)?.[1]

/**
 * Checks the name of an input.
 * @throws MmsbError INVALID_REQUEST when it is not an identifier, INVALID_EXPRESSION when the language has
 *   the name already
 */
export function checkInputName(name: string): void {
  if (!INPUT_NAME.test(name)) {
    throw new MmsbError(
      'INVALID_REQUEST',
      `input name ${JSON.stringify(name.slice(0, 80))} must be a letter or '_', then letters, digits or '_', 64 at most`,
    )
  }
  if (isFunction(name) || KEYWORDS.has(name) || Object.hasOwn(CONSTANTS, name)) {
    const what = isFunction(name) ? 'a function' : KEYWORDS.has(name) ? 'a keyword' : 'a constant'
    throw new MmsbError(
      'INVALID_EXPRESSION',
      `input name '${name}' is ${what} of the language; choose another`,
    )
  }
}
