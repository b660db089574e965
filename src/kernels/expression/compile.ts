/**
 * The expression compiler's door: text and typed inputs in, an IR program out. The language is in parser.ts, its types
 * in typing.ts and its functions in functions.ts; docs/guide/OPS.md describes it for users.
 */
import { MmsbError } from '../../errors.js'
import { IR_MAX_INPUTS } from '../../limits.js'
import type { Dtype } from '../../state/dtype.js'
import { isFunction } from './functions.js'
import type { Ir } from './ir.js'
import { IrBuilder } from './ir-builder.js'
import { CONSTANTS, KEYWORDS, parseExpression } from './parser.js'
import { Typer } from './typing.js'
import type { FunctionLookup } from './user-functions.js'

export interface ExpressionInput {
  readonly name: string
  readonly dtype: Dtype
}

export interface CompiledExpression {
  readonly ir: Ir
  readonly dtype: Dtype
}

const INPUT_NAME = /^[A-Za-z_][A-Za-z0-9_]{0,63}$/
const PAST_NAME = /^prev\((.*)\)$/

/** The name that an expression knows the past of an input by. */
export const pastName = (role: string): string => `prev(${role})`

/** The input whose past a name stands for, or undefined. */
export const inputOfPast = (name: string): string | undefined => PAST_NAME.exec(name)?.[1]

/**
 * Checks the name that an expression knows an input by.
 * @throws MmsbError INVALID_REQUEST for what is no identifier, INVALID_EXPRESSION for one that has a meaning already
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

/**
 * Compiles an expression over `inputs`, in this order; the past of an input is one of its own, named `prev(x)`. `dtype`
 * asks for a cast of the result; `functions` finds those that users defined.
 * @throws MmsbError INVALID_EXPRESSION with the column, INVALID_REQUEST
 */
export function compileExpression(
  text: string,
  inputs: readonly ExpressionInput[],
  dtype?: Dtype,
  functions?: FunctionLookup,
): CompiledExpression {
  if (inputs.length > IR_MAX_INPUTS) {
    throw new MmsbError(
      'INVALID_REQUEST',
      `${inputs.length} inputs; an expression has at most ${IR_MAX_INPUTS}`,
    )
  }
  const places = new Map<string, number>()
  for (const [i, { name }] of inputs.entries()) {
    checkInputName(inputOfPast(name) ?? name)
    places.set(name, i)
  }
  const builder = new IrBuilder(inputs.map((input) => input.dtype))
  const typer = new Typer(builder)
  const parsed = parseExpression(text, places, typer, functions)
  const settled = typer.settle(dtype === undefined ? parsed : typer.cast(parsed, dtype, 1), 1)
  return { ir: builder.finish(settled), dtype: builder.dtypeOf(settled) }
}
