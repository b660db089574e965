/** Limits of definitions, expressions, functions and shapes: each at its value, and one beyond. */
import t from 'tap'
import { compileExpression } from '../../src/kernels/expression/compile.js'
import { decodeIr } from '../../src/kernels/expression/ir.js'
import { checkFunction } from '../../src/kernels/expression/user-functions.js'
import { decodeDefinition, encodeDefinition } from '../../src/kernels/op-catalogue.js'
import {
  DEFINITION_MAX_BYTES,
  EXPRESSION_MAX_DEPTH,
  EXPRESSION_MAX_INLINED_TOKENS,
  EXPRESSION_MAX_LENGTH,
  FUNCTION_MAX_PARAMETERS,
  IR_MAX_INPUTS,
  PAGE_ID_MAX,
  PAGE_MAX_BYTES,
  PAGE_MAX_ELEMENTS,
  WINDOW_MAX_SIZE,
} from '../../src/limits.js'
import { checkShape } from '../../src/state/shape.js'
import { refusal } from '../lib/refusal.js'
import { compile } from './pages.js'

const X = [{ name: 'x', dtype: 'f32' as const }]
const typed = (text: string): string => refusal(() => compileExpression(text, X))

t.test('the length and depth of an expression', async (t) => {
  t.equal(typed('x'.padEnd(EXPRESSION_MAX_LENGTH)), 'accepted')
  t.match(typed('x'.padEnd(EXPRESSION_MAX_LENGTH + 1)), /^INVALID_EXPRESSION the expression has/)
  const nested = (depth: number): string => `${'('.repeat(depth)}x${')'.repeat(depth)}`
  // The text itself is one level.
  t.equal(typed(nested(EXPRESSION_MAX_DEPTH - 1)), 'accepted')
  t.match(typed(nested(EXPRESSION_MAX_DEPTH)), /nested more than/)
})

t.test('the inputs of an expression and of a page', async (t) => {
  const many = (count: number) =>
    Array.from({ length: count }, (_, i) => ({ name: `a${i}`, dtype: 'f32' as const }))
  t.equal(
    refusal(() => compileExpression('a0', many(IR_MAX_INPUTS))),
    'accepted',
  )
  t.match(
    refusal(() => compileExpression('a0', many(IR_MAX_INPUTS + 1))),
    /^INVALID_REQUEST 65 inputs/,
  )
  const inputs = (count: number) => Object.fromEntries(many(count).map(({ name }) => [name, 'qty']))
  const derive = (count: number) => refusal(() => compile({ op: 'concat', inputs: inputs(count), axis: 0 }))
  t.equal(derive(IR_MAX_INPUTS), 'accepted')
  t.match(derive(IR_MAX_INPUTS + 1), /^INVALID_REQUEST concat takes 1 to 64 inputs, not 65/)
})

t.test('the parameters of a function and the words that calls put in', async (t) => {
  const make = (count: number) => {
    const params = Array.from({ length: count }, (_, i) => `p${i}`)
    return refusal(() => checkFunction('f', { params, expr: 'p0' }, () => undefined))
  }
  t.equal(make(FUNCTION_MAX_PARAMETERS), 'accepted')
  t.match(make(FUNCTION_MAX_PARAMETERS + 1), /^INVALID_REQUEST params must be a list of at most 64 names/)
  // A body of 2^k - 1 words and its end: so many calls use up exactly what is allowed.
  const words = 2 ** 12
  const body = { params: [], expr: `1${' + 1'.repeat(words / 2 - 1)}` }
  const calls = (count: number): string =>
    refusal(() =>
      compileExpression(Array(count).fill('f()').join(' + '), X, undefined, (name) =>
        name === 'f' ? body : undefined,
      ),
    )
  t.equal(calls(EXPRESSION_MAX_INLINED_TOKENS / words), 'accepted')
  t.match(calls(EXPRESSION_MAX_INLINED_TOKENS / words + 1), /more than 262144 words together/)
})

t.test('the bytes of a definition', async (t) => {
  const bytes = (length: number): string => refusal(() => decodeIr(new Uint8Array(length)))
  t.match(bytes(DEFINITION_MAX_BYTES), /does not begin with MIR1/)
  t.match(bytes(DEFINITION_MAX_BYTES + 1), /1048577 bytes; a program has/)
  const long = compile({ op: 'map', inputs: { x: 'qty' }, expr: 'x' })
  const define = (text: number): string =>
    refusal(() => encodeDefinition({ ...long, params: new Uint8Array(text) }))
  t.equal(define(DEFINITION_MAX_BYTES - 1024), 'accepted')
  t.match(define(DEFINITION_MAX_BYTES), /^PAYLOAD_TOO_LARGE the definition needs \d+ bytes/)
})

t.test('the size of a window', async (t) => {
  const window = (size: number): string =>
    refusal(() => compile({ op: 'window', inputs: { x: 'tall' }, fn: 'sum', size, axis: 0 }))
  t.equal(window(WINDOW_MAX_SIZE), 'accepted')
  t.match(window(WINDOW_MAX_SIZE + 1), /^INVALID_REQUEST size is 1048577/)
})

t.test('the elements and bytes of a page, and its id', async (t) => {
  const shape = (sizes: readonly number[], dtype: 'u8' | 'f64'): string =>
    refusal(() => checkShape(sizes, dtype))
  t.equal(shape([PAGE_MAX_ELEMENTS], 'u8'), 'accepted')
  t.match(shape([PAGE_MAX_ELEMENTS + 1], 'u8'), /axis 0 has size 4294967296/)
  t.match(shape([2 ** 16, 2 ** 16], 'u8'), /has 4294967296 elements/)
  t.equal(shape([PAGE_MAX_BYTES / 8], 'f64'), 'accepted')
  t.match(shape([PAGE_MAX_BYTES / 8 + 1], 'f64'), /needs 8589934600 bytes/)
  const bincount = (length: number): string =>
    refusal(() => compile({ op: 'bincount', inputs: { x: 'qty' }, length }))
  t.equal(bincount(PAGE_MAX_BYTES / 8), 'accepted')
  t.match(bincount(PAGE_MAX_ELEMENTS + 1), /^INVALID_REQUEST length is 4294967296/)
  const logged = (id: number): string => {
    const text = JSON.stringify({ op: 'copy', version: 1, inputs: { x: id } })
    return refusal(() =>
      decodeDefinition(Buffer.from(text.padEnd(Math.ceil((text.length + 1) / 8) * 8, '\0'))),
    )
  }
  t.equal(logged(PAGE_ID_MAX), 'accepted')
  t.match(logged(PAGE_ID_MAX + 1), /input x is no page id/)
})
