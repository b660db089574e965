/** Every op on random pages: what the native library computes equals the plain reference, bit for bit. */
import fc from 'fast-check'
import t from 'tap'
import { MmsbError } from '../../src/errors.js'
import { DTYPES, type Dtype } from '../../src/wire/dtype.js'
import { Draw } from '../lib/draw.js'
import { referenceEval, sameElement } from '../reference/evaluate.js'
import type { Definition } from '../reference/ops/record.js'
import { OP_RECORDS } from '../reference/records.js'
import { NativeRunner } from './native.js'

const runner = new NativeRunner()
t.teardown(() => runner.close())

/** Draws from numbers that fast-check can shrink; it likes small ones, so they are spread. */
const shrinkable = (numbers: Iterator<number>): Draw =>
  new Draw(() => (Math.imul(numbers.next().value!, 0x9e37_79b1) >>> 0) / 2 ** 32)

const describe = ({ derive, pages }: Definition): string => {
  const list = Object.entries(pages).map(([name, { dtype, shape }]) => `${name} ${dtype} [${shape}]`)
  return `${JSON.stringify(derive)} of ${list.join(', ')}`
}

/** Runs one definition on both; returns false when it was refused. */
function compare(definition: Definition, asked: Dtype | undefined): boolean {
  const { derive, pages } = definition
  let native: ReturnType<NativeRunner['run']>
  try {
    native = runner.run(derive, pages, asked)
  } catch (error) {
    if (error instanceof MmsbError && error.code === 'SHAPE_MISMATCH') return false
    throw error
  }
  const wanted = referenceEval(derive, pages, asked)
  const head = JSON.stringify([native.compiled.dtype, native.compiled.shape])
  if (head !== JSON.stringify([wanted.dtype, wanted.shape])) {
    throw new Error(`${describe(definition)}: ${head}, should be ${wanted.dtype} [${wanted.shape}]`)
  }
  const at = wanted.values.findIndex((value, i) => !sameElement(native.values[i]!, value))
  if (at >= 0) {
    throw new Error(
      `${describe(definition)}: element ${at} is ${native.values[at]}, should be ${wanted.values[at]}`,
    )
  }
  return true
}

for (const [op, { withPages, runs = 100 }] of OP_RECORDS) {
  if (withPages === undefined) continue
  t.test(`${op}: equal bit for bit`, async (t) => {
    let ran = 0
    fc.assert(
      fc.property(fc.infiniteStream(fc.nat()), (numbers) => {
        const draw = shrinkable(numbers)
        const definition = withPages(draw)
        // A cast has a dtype already.
        const asked = op !== 'cast' && draw.chance(0.2) ? draw.pick(DTYPES) : undefined
        if (compare(definition, asked)) ran++
      }),
      { numRuns: runs },
    )
    t.ok(ran > runs / 3, `${ran} of ${runs} ran`)
  })
}

t.test('every op is compared but map, whose expressions have a test of their own', async (t) => {
  const left = OP_RECORDS.filter(([, { withPages }]) => withPages === undefined)
  t.same(
    left.map(([op]) => op),
    ['map'],
  )
})
