/**
 * Definitions as the log stores them: they come back whole, and one that does not fit its pages is refused.
 */
import fc from 'fast-check'
import t from 'tap'
import {
  checkDefinition,
  decodeDefinition,
  derivationOf,
  encodeDefinition,
} from '../../src/kernels/op-catalogue.js'
import type { Dtype } from '../../src/wire/dtype.js'
import { refusal } from '../lib/refusal.js'
import { OP_RECORDS } from '../reference/records.js'
import { compile, nameOf, PAGES } from './pages.js'

const DERIVATIONS = OP_RECORDS.flatMap(([, { results }]) => results.map(([derive]) => derive))

const restore = (bytes: Uint8Array, out: { dtype: Dtype; shape: readonly number[] }) => {
  const definition = decodeDefinition(bytes)
  const inputs = definition.inputs.map(
    ({ id }) => Object.values(PAGES).find((page) => page.id === id) ?? PAGES.scalar!,
  )
  return { definition, cost: checkDefinition(definition, inputs, out) }
}

t.test('a logged definition comes back whole', async (t) => {
  for (const derive of DERIVATIONS) {
    const compiled = compile(derive)
    const bytes = encodeDefinition(compiled)
    t.equal(bytes.length % 8, 0)
    const { definition, cost } = restore(bytes, compiled)
    t.equal(definition.op, compiled.op)
    t.equal(definition.opCode, compiled.opCode)
    t.equal(definition.opVersion, compiled.opVersion)
    t.same(
      definition.inputs,
      compiled.inputs.map(({ role, id }) => ({ role, id })),
    )
    t.same(definition.params, compiled.params)
    t.strictSame(derivationOf(definition, nameOf), compiled.canonical)
    t.equal(cost.costPerElementNs, compiled.costPerElementNs)
    const text = Buffer.from(bytes.subarray(0, bytes.indexOf(0))).toString()
    t.match(
      text,
      new RegExp(`^\\{"op":"${compiled.op}","version":${compiled.opVersion},"inputs":\\{"`),
      'keys in the documented order',
    )
  }
})

t.test('a definition that does not fit its pages is refused', async (t) => {
  const check = (
    derive: Record<string, unknown>,
    change: (bytes: Uint8Array, block: DataView) => void,
    out?: object,
  ): string => {
    const compiled = compile(derive)
    const bytes = encodeDefinition(compiled)
    const start = bytes.length - compiled.params.length
    change(bytes, new DataView(bytes.buffer, start))
    return refusal(() => restore(bytes, { ...compiled, ...out }))
  }
  const cast = { op: 'cast', inputs: { x: 'cube' }, dtype: 'f32' }
  const map = { op: 'map', inputs: { ask: 'prices', b: 'qty' }, expr: 'ask*b + 1 if ask > 0 else 2' }
  const reduce = { op: 'reduce', inputs: { x: 'cube' }, fn: 'sum', axes: [2, 0], keepdims: true }
  const matmul = { op: 'matmul', inputs: { a: 'cube', b: 'ints' }, semiring: 'min_plus' }
  const quantile = { op: 'quantile', inputs: { x: 'cube' }, q: 0.05, axis: 1 }
  const topk = { op: 'topk', inputs: { x: 'prices' }, k: 2, output: 'indices' }
  const nothing = (): void => undefined
  t.match(
    check(map, nothing, { shape: [4, 4] }),
    /^INVALID_REQUEST definition: map gives shape \[4, 3\], the page has \[4, 4\]/,
  )
  t.match(check(map, nothing, { dtype: 'u8' }), /^INVALID_REQUEST definition: map gives f32, the page is u8/)
  t.match(check(cast, nothing, { dtype: 'u8' }), /cast gives f32, the page is u8/)
  t.equal(check(reduce, nothing, { dtype: 'f32' }), 'accepted', 'the executor casts')
  t.match(
    check(reduce, (_, block) => block.setUint32(0, 11, true)),
    /the parameter block has function 11/,
  )
  t.match(
    check(reduce, (_, block) => block.setUint32(4, 8, true)),
    /names axis 3 of x \[2, 4, 3\]/,
  )
  t.match(
    check(reduce, (_, block) => block.setUint32(4, 0, true)),
    /names no axis/,
  )
  t.match(
    check(reduce, (_, block) => block.setUint32(4, 256, true)),
    /block of reduce is malformed/,
  )
  t.match(
    check(reduce, (_, block) => block.setUint32(8, 2, true)),
    /block has keepdims 2/,
  )
  t.match(
    check(reduce, (_, block) => block.setUint32(0, 1, true)),
    /its text says .*"fn":"sum".*, its block otherwise/,
  )
  t.match(
    check(matmul, (_, block) => block.setUint32(0, 4, true)),
    /block has semiring 4/,
  )
  t.match(
    check(quantile, (_, block) => block.setFloat64(0, 2, true)),
    /block of quantile is malformed/,
  )
  t.match(
    check(quantile, (_, block) => block.setFloat64(0, Number.NaN, true)),
    /block of quantile is malformed/,
  )
  t.match(
    check(quantile, (_, block) => block.setUint32(8, 3, true)),
    /names axis 3/,
  )
  t.match(
    check(topk, (_, block) => block.setUint32(0, 0, true)),
    /topk gives shape \[4, 0\], the page has \[4, 2\]/,
  )
  t.match(
    check(topk, (_, block) => block.setUint32(0, 5, true)),
    /^SHAPE_MISMATCH k is 5/,
  )
  t.match(
    check(topk, (_, block) => block.setUint32(8, 2, true)),
    /block has output 2/,
  )
  t.match(
    check(map, (_, block) => block.setUint32(0, 0, true)),
    /^INVALID_REQUEST IR: does not begin with MIR1/,
  )

  const other = (text: string, block = new Uint8Array(0)): string => {
    const json = Buffer.from(`${text}\0`)
    const bytes = new Uint8Array(Math.ceil(json.length / 8) * 8 + block.length)
    bytes.set(json)
    bytes.set(block, bytes.length - block.length)
    return refusal(() => restore(bytes, PAGES.cube!))
  }
  t.equal(other('{"op":"copy","version":1,"inputs":{"x":8}}'), 'accepted')
  t.match(
    other('{"op":"copy","version":2,"inputs":{"x":8}}'),
    /copy of version 2; this build has versions up to 1/,
  )
  t.match(other('{"op":"warp","version":1,"inputs":{"x":8}}'), /there is no op "warp"/)
  t.match(other('{"op":"copy","version":1,"inputs":{"x":-1}}'), /input x is no page id/)
  t.match(other('{"op":"copy","version":1,"inputs":{"y":8}}'), /copy has no input 'y'/)
  t.match(other('{"op":"copy","version":1}'), /no inputs/)
  t.match(other('{"op":"copy","version":1,"inputs":{"x":8},"extra":1}'), /its text says \{"extra":1\}/)
  t.match(
    other('{"op":"copy","version":1,"inputs":{"x":8}}', new Uint8Array(8)),
    /block has 8 bytes instead of 0/,
  )
  t.match(other('[1]'), /its text is not a JSON object/)
  t.match(other('{"op"'), /its text is not JSON/)
  t.match(
    refusal(() => decodeDefinition(new Uint8Array(0))),
    /no text before its block/,
  )
  t.match(
    refusal(() => decodeDefinition(Buffer.from('{"op":"copy"}'))),
    /no text before its block/,
  )
})

t.test('any change of a logged definition ends in a definition or a typed error', async () => {
  const samples = DERIVATIONS.map((derive) => {
    const compiled = compile(derive)
    return { bytes: encodeDefinition(compiled), compiled }
  })
  fc.assert(
    fc.property(
      fc.nat(samples.length - 1),
      fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 4 }),
      fc.option(fc.nat(), { nil: undefined }),
      (which, edits, cut) => {
        const { bytes, compiled } = samples[which]!
        const copy = bytes.slice(0, cut === undefined ? bytes.length : cut % bytes.length)
        for (const [at, value] of edits) if (copy.length > 0) copy[at % copy.length] = value
        const text = refusal(() => restore(copy, compiled))
        return text === 'accepted' || /^(INVALID_REQUEST|INVALID_EXPRESSION|SHAPE_MISMATCH) /.test(text)
      },
    ),
    { numRuns: 5000 },
  )
})
