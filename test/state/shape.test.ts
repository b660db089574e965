/** Shapes: element counts, strides, axes, broadcasting, and the shapes that no page can have. */
import t from 'tap'
import {
  broadcastShapes,
  checkShape,
  elementCount,
  normalizeAxes,
  normalizeAxis,
  rowMajorStrides,
  sameShape,
} from '../../src/state/shape.js'
import { refusal } from '../lib/refusal.js'

t.test('counts and strides are row-major', async (t) => {
  t.equal(elementCount([]), 1)
  t.equal(elementCount([4, 0, 3]), 0)
  t.equal(elementCount([4, 3]), 12)
  t.same(rowMajorStrides([4, 3, 2]), [6, 2, 1])
  t.same(rowMajorStrides([]), [])
  t.ok(sameShape([1, 2], [1, 2]))
  t.notOk(sameShape([1, 2], [1, 2, 1]))
})

t.test('shapes that a page cannot have are refused with the reason', async (t) => {
  t.same(checkShape([], 'f64'), [])
  t.same(checkShape([0, 5], 'f64'), [0, 5])
  t.same(checkShape([2 ** 32 - 1], 'u8'), [2 ** 32 - 1])
  const cases: [unknown, string, RegExp][] = [
    ['[4]', 'f32', /shape must be an array/],
    [[1, 1, 1, 1, 1, 1, 1, 1, 1], 'f32', /9 axes/],
    [[4, -1], 'f32', /axis 1 has size -1/],
    [[1.5], 'f32', /axis 0 has size 1.5/],
    [['4'], 'f32', /axis 0 has size "4"/],
    [[Number.NaN], 'f32', /axis 0 has size NaN/],
    [[2 ** 16, 2 ** 16], 'u8', /4294967296 elements/],
    [[2 ** 31], 'f64', /17179869184 bytes/],
    [new Array(8).fill(2 ** 32 - 1), 'u8', /elements/],
  ]
  for (const [shape, dtype, message] of cases) {
    const text = refusal(() => checkShape(shape, dtype as 'f32'))
    t.match(text, /^INVALID_REQUEST /)
    t.match(text, message)
  }
})

t.test('axes count from either end', async (t) => {
  const x = { name: 'x', shape: [4, 3, 2] }
  t.equal(normalizeAxis(-1, x), 2)
  t.equal(normalizeAxis(0, x), 0)
  t.same(normalizeAxes([-1, 0], x), [0, 2])
  t.same(normalizeAxes([], x), [])
  t.match(
    refusal(() => normalizeAxis(3, x)),
    /^SHAPE_MISMATCH axis 3 is out of range: x has shape \[4, 3, 2\], axes -3 to 2/,
  )
  t.match(
    refusal(() => normalizeAxis(-4, x)),
    /^SHAPE_MISMATCH/,
  )
  t.match(
    refusal(() => normalizeAxis(0, { name: 'x', shape: [] })),
    /^SHAPE_MISMATCH axis 0: x has no axes/,
  )
  t.match(
    refusal(() => normalizeAxis('0', x)),
    /^INVALID_REQUEST axis must be an integer/,
  )
  t.match(
    refusal(() => normalizeAxes([0, -3], x)),
    /^INVALID_REQUEST axes names axis 0 twice/,
  )
  t.match(
    refusal(() => normalizeAxes(1, x)),
    /^INVALID_REQUEST axes must be an array/,
  )
})

t.test('broadcasting follows NumPy and names the axes that do not fit', async (t) => {
  const shapes = (...list: number[][]) => list.map((shape, i) => ({ name: 'abc'[i]!, shape }))
  t.same(broadcastShapes(shapes([4, 1, 3], [2, 1])), [4, 2, 3])
  t.same(broadcastShapes(shapes([], [5])), [5])
  t.same(broadcastShapes(shapes([0], [1])), [0])
  t.same(broadcastShapes(shapes([1], [0, 1], [3])), [0, 3])
  t.same(broadcastShapes([]), [])
  t.match(
    refusal(() => broadcastShapes(shapes([4, 3], [1, 1], [7, 4, 2]))),
    /^SHAPE_MISMATCH .*a \[4, 3\] has size 3 on axis 1, c \[7, 4, 2\] has size 2 on axis 2/,
  )
  t.match(
    refusal(() => broadcastShapes(shapes([0], [2]))),
    /^SHAPE_MISMATCH/,
  )
})
