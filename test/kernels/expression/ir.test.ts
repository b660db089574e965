/**
 * The IR: opcodes match the native library and the documentation, and any bytes decode to a program or
 * are refused.
 */
import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import t from 'tap'
import { native } from '../../../src/ffi/library.js'
import { compileExpression } from '../../../src/kernels/expression/compile.js'
import {
  decodeIr,
  encodeIr,
  IR_OPS,
  type Ir,
  type IrOp,
  isInDomain,
  printIr,
  valueDtype,
} from '../../../src/kernels/expression/ir.js'
import { IR_MAX_INSTRUCTIONS } from '../../../src/limits.js'
import { DTYPES, type Dtype } from '../../../src/wire/dtype.js'
import { ROOT } from '../../lib/place.js'
import { refusal } from '../../lib/refusal.js'

const codes = Object.fromEntries(Object.entries(IR_OPS).map(([name, { code }]) => [name, code]))

t.test('opcodes are those of the native library and of docs/internals/FORMAT.md', async (t) => {
  const { ir } = JSON.parse(native().mmsb_catalogue()) as { ir: Record<string, number> }
  t.same(ir, codes)
  const text = readFileSync(`${ROOT}docs/internals/FORMAT.md`, 'utf8')
  const table = text.slice(text.indexOf('| code | op | code | op |')).split('\n\n')[0]!
  const documented = [...table.matchAll(/\| (\d+) \| ([a-z0-9]+)/g)].map(([, code, name]) => [
    name,
    Number(code),
  ])
  t.same(Object.fromEntries(documented), codes)
})

/** Random well-typed programs, built instruction by instruction. */
const anyIr = fc
  .record({
    inputs: fc.array(fc.constantFrom(...DTYPES), { maxLength: 9 }),
    seed: fc.infiniteStream(fc.nat()),
    size: fc.nat(30),
  })
  .map(({ inputs, seed, size }): Ir => {
    const random = (below: number): number => seed.next().value! % below
    const instructions: { op: IrOp; dtype: Dtype; args: number[]; imm: bigint }[] = []
    const pick = (dtype: Dtype): number | undefined => {
      const fitting = instructions.flatMap((instruction, i) => (valueDtype(instruction) === dtype ? [i] : []))
      return fitting.length === 0 ? undefined : fitting[random(fitting.length)]
    }
    for (let i = 0; i <= size; i++) {
      const names = Object.keys(IR_OPS) as IrOp[]
      const op = names[random(names.length)]!
      const dtype = DTYPES[random(DTYPES.length)]!
      const { arity } = IR_OPS[op]
      const anything = instructions.length === 0 ? undefined : random(instructions.length)
      const args = Array.from({ length: arity }, (_, k) =>
        op === 'cast' ? anything : pick(op === 'select' && k === 0 ? 'bool' : dtype),
      )
      const usable = op !== 'input' && isInDomain(op, dtype) && args.every((arg) => arg !== undefined)
      const place = random(inputs.length + 1)
      if (op === 'input' && place < inputs.length) {
        instructions.push({ op, dtype: inputs[place]!, args: [], imm: BigInt(place) })
      } else if (usable) {
        const wide = BigInt(random(2 ** 31))
        const imm = op !== 'const' ? 0n : dtype === 'bool' ? wide & 1n : BigInt.asUintN(8, wide)
        instructions.push({ op, dtype, args: args as number[], imm })
      } else {
        instructions.push({ op: 'const', dtype: 'f64', args: [], imm: 0n })
      }
    }
    return { inputs, instructions, result: random(instructions.length) }
  })

t.test('the binary form comes back', async () => {
  fc.assert(
    fc.property(anyIr, (ir) => {
      const bytes = encodeIr(ir)
      if (bytes.length % 8 !== 0) return false
      return JSON.stringify(decodeIr(bytes), bigints) === JSON.stringify(ir, bigints)
    }),
    { numRuns: 1000 },
  )
})

const bigints = (_: string, value: unknown): unknown => (typeof value === 'bigint' ? `${value}n` : value)

const sample = (): Uint8Array =>
  encodeIr(
    compileExpression('where(a > 2, exp(b), -b) * 3', [
      { name: 'a', dtype: 'u8' },
      { name: 'b', dtype: 'f32' },
    ]).ir,
  )

t.test('bytes from anybody end in a program that can be encoded again, or in a typed error', async (t) => {
  const bytes = sample()
  const tryBytes = (any: Uint8Array): string =>
    refusal(() => {
      const again = encodeIr(decodeIr(any))
      if (Buffer.compare(again, any) !== 0) throw new Error('another program')
    })
  t.equal(tryBytes(bytes), 'accepted')
  for (let length = 0; length < bytes.length; length++) {
    t.match(tryBytes(bytes.slice(0, length)), /^INVALID_REQUEST IR: /)
  }
  for (let at = 0; at < bytes.length; at++) {
    for (let bit = 0; bit < 8; bit++) {
      const copy = bytes.slice()
      copy[at]! ^= 1 << bit
      const text = tryBytes(copy)
      if (text !== 'accepted' && !text.startsWith('INVALID_REQUEST IR: ')) t.fail(text)
    }
  }
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.nat(bytes.length - 1), fc.nat(255)), { minLength: 1, maxLength: 6 }),
      (edits) => {
        const copy = bytes.slice()
        for (const [at, value] of edits) copy[at] = value
        const text = tryBytes(copy)
        return text === 'accepted' || text.startsWith('INVALID_REQUEST IR: ')
      },
    ),
    { numRuns: 5000 },
  )
})

t.test('what a program says is wrong with it', async (t) => {
  const f32 = (op: IrOp, args: number[], imm = 0n) => ({ op, dtype: 'f32' as Dtype, args, imm })
  const program = (instructions: Ir['instructions'], result = 0, inputs: Dtype[] = ['f32']): string =>
    refusal(() => encodeIr({ inputs, instructions, result }))
  t.equal(program([f32('input', [])]), 'accepted')
  t.match(program([]), /0 instructions/)
  t.match(program(new Array(IR_MAX_INSTRUCTIONS + 1).fill(f32('input', []))), /4097 instructions/)
  t.match(program([f32('input', [])], 1), /the result is value 1 of 1/)
  t.match(program([f32('input', [], 1n)]), /there is no input 1/)
  t.match(program([f32('input', [])], 0, ['u8']), /input 0 is u8, not f32/)
  t.match(program([f32('neg', [0])]), /operand 0 is not an earlier value/)
  t.match(program([f32('input', []), f32('shl', [0, 0])]), /instruction 1 \(shl\): not defined for f32/)
  t.match(
    program([f32('input', []), { ...f32('neg', [0]), dtype: 'f64' }]),
    /operand 0 is f32 instead of f64/,
  )
  t.match(program([f32('input', []), f32('select', [0, 0, 0])]), /operand 0 is f32 instead of bool/)
  t.match(program([f32('const', [], 1n << 32n)]), /a constant wider than f32/)
  t.match(program([{ ...f32('const', [], 2n), dtype: 'bool' }]), /a constant wider than bool/)
  t.match(program([f32('input', []), f32('neg', [0], 1n)]), /its immediate is not 0/)
  t.match(program([f32('input', [])], 0, new Array(65).fill('f32')), /65 inputs; at most 64/)
})

t.test('a program prints one line per instruction', async (t) => {
  const names = ['a', 'b']
  t.equal(
    printIr(decodeIr(sample()), names),
    [
      'v0 = input u8 a',
      'v1 = const u8 2',
      'v2 = gt u8 v0, v1',
      'v3 = input f32 b',
      'v4 = exp f32 v3',
      'v5 = neg f32 v3',
      'v6 = select f32 v2, v4, v5',
      'v7 = const f32 3',
      'v8 = mul f32 v6, v7',
      'return v8',
    ].join('\n'),
  )
})
