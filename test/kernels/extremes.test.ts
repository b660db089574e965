/**
 * Results at the ends of the range of numbers: infinities, differences that overflow, axes without elements.
 */
import t from 'tap'
import type { TypedArray } from '../../src/wire/dtype.js'
import { NativeRunner } from './native.js'

const runner = new NativeRunner()
t.teardown(() => runner.close())

const { POSITIVE_INFINITY: INF, MAX_VALUE: MAX, NaN: NAN } = Number

function quantileOf(values: readonly number[], q: number, version?: number): number {
  const pages = { x: { dtype: 'f64', shape: [values.length], values: Float64Array.from(values) } } as const
  return Number(runner.run({ op: 'quantile', inputs: { x: 'x' }, q }, pages, undefined, version).values[0])
}

t.test('quantile between far neighbours', (t) => {
  for (const [values, q, wanted] of [
    [[-INF, 1], 0.25, -INF],
    [[-INF, 1], 0.75, -INF],
    [[1, INF], 0.25, INF],
    [[1, INF], 0.75, INF],
    [[-INF, INF], 0.5, NAN],
    [[-INF, INF], 0, -INF],
    [[-INF, INF], 1, INF],
    [[INF, INF], 0.5, INF],
    [[1, 2, INF], 0.5, 2],
    [[-MAX, MAX], 0.5, 0],
    [[-MAX, MAX], 0.75, MAX / 2],
    [[-MAX, MAX], 0.25, -MAX / 2],
    [[-1e308, 1.5e308], 0.5, 2.5e307],
    [[0, 10], 0.25, 2.5],
  ] as const)
    t.ok(Object.is(quantileOf(values, q), wanted), `${values} at ${q}: ${wanted}`)
  t.ok(Number.isNaN(quantileOf([1, INF], 0.75, 1)), 'version 1, which older pages keep')
  t.equal(quantileOf([-MAX, MAX], 0.5, 1), -INF)
  t.end()
})

function countsOf(values: readonly number[], bins: number, range: readonly [number, number]): number[] {
  const pages = { x: { dtype: 'f64', shape: [values.length], values: Float64Array.from(values) } } as const
  return [...(runner.run({ op: 'histogram', inputs: { x: 'x' }, bins, range }, pages).values as Uint32Array)]
}

t.test('histogram over a range wider than the largest number', (t) => {
  const values = [-1e308, -6e307, -5e307, -1, 0, 1, 5e307, 6e307, 1e308, 1.1e308, INF, NAN]
  t.same(countsOf(values, 4, [-1e308, 1e308]), [2, 2, 2, 3])
  t.same(countsOf(values, 1, [-1e308, 1e308]), [9])
  t.same(countsOf([-MAX, 0, MAX], 2, [-MAX, MAX]), [1, 2])
  const fine = countsOf([-MAX, -1, 0, MAX], 100_000, [-MAX, MAX])
  t.same(
    [0, 49_999, 50_000, 99_999].map((bin) => fine[bin]),
    [1, 1, 1, 1],
  )
  t.same(countsOf(values, 4, [-8, 8]), [0, 1, 2, 0], 'a usual range')
  t.end()
})

t.test('topk with k 0 has no elements, also on an axis without any', (t) => {
  const none = (shape: readonly number[], values: TypedArray, output: string) =>
    runner.run({ op: 'topk', inputs: { x: 'x' }, k: 0, output }, { x: { dtype: 'f32', shape, values } })
  for (const output of ['values', 'indices']) {
    for (const shape of [[0], [3, 0], [0, 3], [2, 3]]) {
      const size = shape.reduce((product, n) => product * n, 1)
      const { compiled, values } = none(shape, new Float32Array(size), output)
      t.same(compiled.shape, [...shape.slice(0, -1), 0])
      t.equal(values.length, 0)
    }
  }
  t.end()
})
