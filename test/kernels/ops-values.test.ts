/** Every op on random pages: what the native library computes equals the plain reference, bit for bit. */
import fc from 'fast-check'
import t from 'tap'
import { MmsbError } from '../../src/errors.js'
import { OPS } from '../../src/kernels/op-catalogue.js'
import { DTYPES, type Dtype } from '../../src/wire/dtype.js'
import { Draw } from '../lib/draw.js'
import { referenceEval, sameElement } from '../reference/evaluate.js'
import type { Definition, OpRecord } from '../reference/ops/record.js'
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
function compare(definition: Definition, asked: Dtype | undefined, version?: number): boolean {
  const { derive, pages } = definition
  let native: ReturnType<NativeRunner['run']>
  try {
    native = runner.run(derive, pages, asked, version)
  } catch (error) {
    if (error instanceof MmsbError && error.code === 'SHAPE_MISMATCH') return false
    throw error
  }
  const wanted = referenceEval(derive, pages, asked, version)
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

for (const [op, { withPages, old, runs = 100 }] of OP_RECORDS) {
  const newest = OPS.get(op)!.version
  t.test(`${op}: a reference for each earlier version`, async (t) => t.equal(old?.length ?? 0, newest - 1))
  if (withPages === undefined) continue
  for (let version = 1; version <= newest; version++) testVersion(op, version, withPages, runs)
}

function testVersion(
  op: string,
  version: number,
  withPages: NonNullable<OpRecord['withPages']>,
  runs: number,
): void {
  t.test(`${op} version ${version}: equal bit for bit`, async (t) => {
    let ran = 0
    fc.assert(
      fc.property(fc.infiniteStream(fc.nat()), (numbers) => {
        const draw = shrinkable(numbers)
        const definition = withPages(draw)
        // A cast has a dtype already.
        const asked = op !== 'cast' && draw.chance(0.2) ? draw.pick(DTYPES) : undefined
        if (compare(definition, asked, version)) ran++
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
