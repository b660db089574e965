/**
 * Deltas with zeros of both signs, infinities and NaN of several bits, in one lane of a vector loop
 * and in two: each merge gives what the plain reference gives, and exactly what differs in its bits
 * counts as changed.
 */
import t from 'tap'
import { Bus } from '../../../src/index.js'
import { DTYPE_INFO, type TypedArray } from '../../../src/wire/dtype.js'
import { bitsOf, type FloatDtype, ODD_LENGTHS, ONE_NAN, placed, placements } from '../../lib/odd-numbers.js'
import { fit, operate } from '../../reference/element.js'

const OPERATORS = { add: '+', min: 'min', max: 'max' } as const
const MERGES = ['set', 'add', 'min', 'max'] as const

const empty = (dtype: FloatDtype, length: number): TypedArray =>
  DTYPE_INFO[dtype].view(new ArrayBuffer(length * DTYPE_INFO[dtype].sizeBytes), 0, length)

/** The elements, each one place further. */
function turned(dtype: FloatDtype, values: TypedArray): TypedArray {
  const { sizeBytes } = DTYPE_INFO[dtype]
  const bytes = Buffer.from(values.buffer)
  const out = empty(dtype, values.length)
  Buffer.from(out.buffer).set(Buffer.concat([bytes.subarray(-sizeBytes), bytes.subarray(0, -sizeBytes)]))
  return out
}

/** Runs of places whose bits differ, as offset and count. */
function runsOf(before: readonly unknown[], after: readonly unknown[]): number[] {
  const runs: number[] = []
  for (const [i, bits] of after.entries()) {
    if (bits === before[i]) continue
    if (runs.length > 0 && runs.at(-2)! + runs.at(-1)! === i) runs[runs.length - 1]!++
    else runs.push(i, 1)
  }
  return runs
}

/** The bits that a merge must give. */
function wantedBits(dtype: FloatDtype, merge: (typeof MERGES)[number], now: TypedArray, given: TypedArray) {
  if (merge === 'set') return bitsOf(dtype, given)
  const out = empty(dtype, now.length)
  for (let i = 0; i < now.length; i++) {
    out[i] = fit(dtype, operate(OPERATORS[merge], dtype, Number(now[i]), Number(given[i]))) as never
  }
  return bitsOf(dtype, out).map((bits, i) => (Number.isNaN(out[i]) ? ONE_NAN[dtype] : bits))
}

for (const dtype of ['f32', 'f64'] as const) {
  t.test(`${dtype}: merges, and what changed`, async (t) => {
    const bus = await Bus.open({ backend: 'cpu', threads: 1 })
    t.teardown(() => bus.close())
    let changed: number[] = []
    bus.onCommit(({ changes }) => {
      changed = changes.flatMap(({ ranges }) => [...ranges])
    })
    for (const length of ODD_LENGTHS) {
      const name = `x${length}`
      await bus.create(name, { dtype, shape: [length] })
      const everywhere = Array.from({ length }, (_, i) => i)
      const mask = new Uint8Array(Math.ceil(length / 8)).fill(255)
      if (length % 8 !== 0) mask[mask.length - 1] = 2 ** (length % 8) - 1
      for (const [i, placement] of placements(length).entries()) {
        if (length > 100 && i % 5 !== 0) continue
        const now = placed(dtype, length, placement)
        const given = turned(dtype, now)
        for (const [j, merge] of MERGES.entries()) {
          await bus.write(name, now)
          changed = []
          const where = [{ offset: 0 }, { indices: everywhere }, { mask }][(i + j) % 3]!
          await bus.patch(name, { ...where, values: given, ...(merge === 'set' ? {} : { merge }) } as never)
          const wanted = wantedBits(dtype, merge, now, given)
          const got = bitsOf(dtype, bus.read(name))
          const what = `${length} ${merge} ${JSON.stringify(placement)}`
          if (got.some((bits, place) => bits !== wanted[place])) t.same(got, wanted, what)
          const runs = runsOf(bitsOf(dtype, now), wanted)
          if (runs.join() !== changed.join()) t.same(changed, runs, `${what}: what changed`)
        }
      }
    }
    t.pass('compared')
  })

  t.test(`${dtype}: only the sign of a zero, or the bits of a NaN`, async (t) => {
    const bus = await Bus.open({ backend: 'cpu', threads: 1 })
    t.teardown(() => bus.close())
    for (const length of [...ODD_LENGTHS, 1_025]) {
      const name = `x${length}`
      await bus.create(name, { dtype, shape: [length] })
      await bus.derive(`copy${length}`, { op: 'copy', inputs: { x: name } })
      await bus.derive(`last${length}`, { op: 'copy', inputs: { x: `copy${length}` } })
      const computed = (page: string): number | undefined =>
        bus.executionLog().steps.find((step) => step.page === `${page}${length}`)?.elementsComputed
      for (let place = 0; place < length; place += length > 100 ? 41 : 1) {
        const write = (odd: 'nan' | 'negative nan' | '-0' | '+0'): Promise<unknown> =>
          bus.write(name, placed(dtype, length, { background: 5, odd: [[place, odd]] }))
        const digestAfter = async (odd: Parameters<typeof write>[0]): Promise<string> => {
          await write(odd)
          return bus.status().digest
        }
        const zero = await digestAfter('+0')
        const minus = await digestAfter('-0')
        const steps = [computed('copy'), computed('last')]
        if (zero === minus || steps.join() !== '1,1') t.fail(`${length}: -0 at ${place} computes ${steps}`)
        const nan = await digestAfter('nan')
        const other = await digestAfter('negative nan')
        const cut = [computed('copy'), computed('last')]
        if (nan === other || cut.join() !== '1,') t.fail(`${length}: a NaN at ${place} computes ${cut}`)
        const before = bus.epoch
        await write('negative nan')
        if (bus.executionLog().steps.length > 0 && bus.epoch !== before)
          t.fail(`${length}: the same at ${place}`)
      }
    }
    t.pass('compared')
  })
}
