/**
 * Compiles an expression: text and typed inputs in, an IR program out. parser.ts has the grammar, typing.ts
 * the types, functions.ts the functions and names.ts the other names; docs/guide/OPS.md describes the
 * language for users.
 */
import { MmsbError } from '../../errors.js'
import { IR_MAX_INPUTS } from '../../limits.js'
import type { Dtype } from '../../wire/dtype.js'
import type { Ir } from './ir.js'
import { IrBuilder } from './ir-builder.js'
import { checkInputName, type FunctionLookup, inputOfPast } from './names.js'
import { parseExpression } from './parser.js'
import { Typer } from './typing.js'

export interface ExpressionInput {
  readonly name: string
  readonly dtype: Dtype
}

export interface CompiledExpression {
  readonly ir: Ir
  readonly dtype: Dtype
}

/** Programs by text and types, for each table of functions: many pages often have the same expression. */
const COMPILED = new WeakMap<FunctionLookup, Map<string, CompiledExpression>>()
const COMPILED_MAX = 64

/**
 * Compiles an expression over `inputs`, in this order. The past of an input counts as an input of its own,
 * named `prev(x)`. With `dtype` the result is cast; `functions` finds the functions that users defined.
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
  if (functions === undefined) return compileAnew(text, inputs, dtype, functions)
  const known = COMPILED.get(functions) ?? new Map<string, CompiledExpression>()
  COMPILED.set(functions, known)
  const key = JSON.stringify([text, dtype, inputs.map((input) => [input.name, input.dtype])])
  let compiled = known.get(key)
  if (compiled === undefined) {
    compiled = compileAnew(text, inputs, dtype, functions)
    if (known.size >= COMPILED_MAX) known.clear()
    known.set(key, compiled)
  }
  return compiled
}

function compileAnew(
  text: string,
  inputs: readonly ExpressionInput[],
  dtype: Dtype | undefined,
  functions: FunctionLookup | undefined,
): CompiledExpression {
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
