/**
 * The functions of the expression language: their names, numbers of arguments, and the typer's call for each.
 * docs/guide/OPS.md lists the same names (a test compares). Users' functions are looked up after these.
 */
import { DTYPES, type Dtype } from '../../wire/dtype.js'
import { expressionError } from './lexer.js'
import type { Expression, Meaning } from './typing.js'

type Apply = (typer: Meaning, args: readonly Expression[], column: number) => Expression

interface FunctionEntry {
  readonly least: number
  readonly most: number
  readonly apply: Apply
}

/** A function of exactly `count` arguments. */
const takes = (count: number, apply: Apply): FunctionEntry => ({ least: count, most: count, apply })

const floatFunction = (op: 'sqrt' | 'exp' | 'log' | 'log2' | 'sin' | 'cos' | 'tan' | 'tanh'): FunctionEntry =>
  takes(1, (typer, [a], column) => typer.transcendental(op, a!, column))

const roundingFunction = (op: 'floor' | 'ceil' | 'round' | 'trunc'): FunctionEntry =>
  takes(1, (typer, [a], column) => typer.rounding(op, a!, column))

const bitFunction = (op: 'bitand' | 'bitor' | 'bitxor' | 'shl' | 'shr'): FunctionEntry =>
  takes(2, (typer, [a, b], column) => typer.bits(op, a!, b!, column))

const extremum = (op: 'min' | 'max'): FunctionEntry => ({
  least: 2,
  most: Number.POSITIVE_INFINITY,
  apply: (typer, args, column) => args.reduce((a, b) => typer.extremum(op, a, b, column)),
})

const castFunction = (dtype: Dtype): FunctionEntry =>
  takes(1, (typer, [a], column) => typer.cast(a!, dtype, column))

const FUNCTIONS: ReadonlyMap<string, FunctionEntry> = new Map([
  ['abs', takes(1, (typer, [a], column) => typer.magnitude('abs', a!, column))],
  ['sign', takes(1, (typer, [a], column) => typer.magnitude('sign', a!, column))],
  ['sqrt', floatFunction('sqrt')],
  ['exp', floatFunction('exp')],
  ['log', floatFunction('log')],
  ['log2', floatFunction('log2')],
  ['sin', floatFunction('sin')],
  ['cos', floatFunction('cos')],
  ['tan', floatFunction('tan')],
  ['tanh', floatFunction('tanh')],
  ['floor', roundingFunction('floor')],
  ['ceil', roundingFunction('ceil')],
  ['round', roundingFunction('round')],
  ['trunc', roundingFunction('trunc')],
  ['min', extremum('min')],
  ['max', extremum('max')],
  ['clamp', takes(3, clamp)],
  ['pow', takes(2, (typer, [a, b], column) => typer.arithmetic('**', a!, b!, column))],
  ['isnan', takes(1, (typer, [a], column) => typer.isNan(a!, column))],
  ['fma', takes(3, (typer, [a, b, c], column) => typer.fma(a!, b!, c!, column))],
  ['where', takes(3, (typer, [c, a, b], column) => typer.select(c!, a!, b!, column))],
  ['bitand', bitFunction('bitand')],
  ['bitor', bitFunction('bitor')],
  ['bitxor', bitFunction('bitxor')],
  ['shl', bitFunction('shl')],
  ['shr', bitFunction('shr')],
  ...DTYPES.map((dtype): [string, FunctionEntry] => [dtype, castFunction(dtype)]),
])

function clamp(typer: Meaning, args: readonly Expression[], column: number): Expression {
  const [x, low, high] = args
  return typer.extremum('min', typer.extremum('max', x!, low!, column), high!, column)
}

/** Names of all functions, for the test of the documentation. */
export const FUNCTION_NAMES: readonly string[] = [...FUNCTIONS.keys()]

export function isFunction(name: string): boolean {
  return FUNCTIONS.has(name)
}

/** @throws MmsbError INVALID_EXPRESSION */
export function applyFunction(
  typer: Meaning,
  name: string,
  args: readonly Expression[],
  column: number,
): Expression {
  const { least, most, apply } = FUNCTIONS.get(name)!
  if (args.length < least || args.length > most) {
    const wanted = least === most ? `${least}` : `at least ${least}`
    throw expressionError(
      column,
      `${name} takes ${wanted} argument${least === 1 ? '' : 's'}, not ${args.length}`,
    )
  }
  return apply(typer, args, column)
}
