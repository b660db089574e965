/**
 * matmul. The order of accumulation is the documented one (docs/internals/DETERMINISM.md), so
 * results are exact.
 */
import { DTYPE_INFO, DTYPES, type Dtype } from '../../../src/wire/dtype.js'
import { fusedMultiplyAdd, operate, type Scalar } from '../element.js'
import { commonDtype } from '../expression.js'
import { broadcast, broadcastIndex, castTensor, coordinatesOf, type ReferenceOp, sizeOf } from '../tensor.js'
import { drawPage, tamePage } from './drawing.js'
import type { OpRecord, OpRecords } from './record.js'

const compute: ReferenceOp = ({ a, b }, derive) => {
  const semiring = String(derive.semiring ?? 'plus_times')
  const dtype = semiring === 'or_and' ? 'bool' : commonDtype([a!.dtype, b!.dtype])
  const left = castTensor(a!, dtype)
  const right = castTensor(b!, dtype)
  const shapeA = left.shape.length === 1 ? [1, ...left.shape] : left.shape
  const shapeB = right.shape.length === 1 ? [...right.shape, 1] : right.shape
  const [rows, depth] = shapeA.slice(-2) as [number, number]
  const columns = shapeB.at(-1)!
  const batchA = shapeA.slice(0, -2)
  const batchB = shapeB.slice(0, -2)
  const batch = broadcast([batchA, batchB])
  const values: Scalar[] = []
  for (let matrix = 0; matrix < sizeOf(batch); matrix++) {
    const coordinates = coordinatesOf(matrix, batch)
    const atA = broadcastIndex(coordinates, batchA) * rows * depth
    const atB = broadcastIndex(coordinates, batchB) * depth * columns
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        let sum = ZEROS[semiring]!(dtype)
        for (let k = 0; k < depth; k++) {
          const x = left.values[atA + row * depth + k]!
          const y = right.values[atB + k * columns + column]!
          sum = SEMIRINGS[semiring]!(dtype, sum, x, y)
        }
        values.push(sum)
      }
    }
  }
  const tail = [...(left.shape.length > 1 ? [rows] : []), ...(right.shape.length > 1 ? [columns] : [])]
  return { dtype, shape: [...batch, ...tail], values }
}

const SEMIRINGS: Readonly<Record<string, (dtype: Dtype, sum: Scalar, x: Scalar, y: Scalar) => Scalar>> = {
  plus_times: (dtype, sum, x, y) =>
    dtype === 'bool' ? (sum as bigint) | ((x as bigint) & (y as bigint)) : fusedMultiplyAdd(dtype, x, y, sum),
  min_plus: (dtype, sum, x, y) => operate('min', dtype, sum, operate('+', dtype, x, y)),
  max_plus: (dtype, sum, x, y) => operate('max', dtype, sum, operate('+', dtype, x, y)),
  or_and: (_, sum, x, y) => (sum as bigint) | ((x as bigint) & (y as bigint)),
}

/** What a chain begins with. */
const ZEROS: Readonly<Record<string, (dtype: Dtype) => Scalar>> = {
  plus_times: (dtype) => (DTYPE_INFO[dtype].kind === 'float' ? 0 : 0n),
  min_plus: (dtype) => DTYPE_INFO[dtype].max ?? Number.POSITIVE_INFINITY,
  max_plus: (dtype) => DTYPE_INFO[dtype].min ?? Number.NEGATIVE_INFINITY,
  or_and: () => 0n,
}

const matmul: OpRecord = {
  compute,
  work: ({ a }) => a?.shape.at(-1) ?? 1,
  overPages: (draw, pages) => {
    const a = draw.pick(pages)
    const fitting = pages.filter((page) => page.shape.length > 0 && page.shape.at(-2) === a.shape.at(-1))
    if (fitting.length === 0) return undefined
    const semiring = draw.pick(Object.keys(SEMIRINGS))
    return { op: 'matmul', inputs: { a: a.name, b: draw.pick(fitting).name }, semiring }
  },
  withPages: (draw) => {
    const size = (): number => draw.pick([0, 1, 2, 3, 5, 8, 17, 33])
    const depth = draw.chance(1 / 8) ? 300 : size()
    const batch = [[], [], [2], [1], [2, 1], [3]] as const
    const a = draw.chance(0.25) ? [depth] : [...draw.pick(batch), size(), depth]
    const b = draw.chance(0.25) ? [depth] : [...draw.pick(batch), depth, size()]
    const dtypes = draw.chance(0.5) ? DTYPES : (['f32', 'f64'] as const)
    return {
      derive: {
        op: 'matmul',
        inputs: { a: 'a', b: 'b' },
        semiring: draw.pick(['plus_times', 'plus_times', 'min_plus', 'max_plus', 'or_and']),
      },
      pages: { a: drawPage(draw, draw.pick(dtypes), a), b: drawPage(draw, draw.pick(dtypes), b) },
    }
  },
  runs: 300,
  numpy: (draw, dtype) =>
    Object.keys(SEMIRINGS)
      .filter((semiring) => dtype !== 'bool' || !semiring.endsWith('_plus'))
      .map((semiring) => {
        const depth = draw.pick([1, 3, 8, 33])
        const batch = draw.pick([[], [2], [3, 1]])
        const a = draw.chance(0.2) ? [depth] : [...batch, draw.int(1, 9), depth]
        const b = draw.chance(0.2) ? [depth] : [...draw.pick([[], [2]]), depth, draw.int(1, 9)]
        return {
          derive: { op: 'matmul', inputs: { a: 'a', b: 'b' }, semiring },
          pages: { a: tamePage(draw, dtype, a), b: tamePage(draw, dtype, b) },
        }
      }),
  results: [
    [{ op: 'matmul', inputs: { a: 'prices', b: 'vector' } }, 'f64', [4], [0, 0]],
    [{ op: 'matmul', inputs: { b: 'flags', a: 'qty' } }, 'i32', [3], [0, 0]],
    [{ op: 'matmul', inputs: { a: 'qty', b: 'vector' } }, 'f64', [], [0, 0]],
    [{ op: 'matmul', inputs: { a: 'cube', b: 'ints' }, semiring: 'min_plus' }, 'i64', [2, 4, 3], [1, 0]],
    [{ op: 'matmul', inputs: { a: 'flags', b: 'flags' }, semiring: 'or_and' }, 'bool', [3, 3], [3, 0]],
    [{ op: 'matmul', inputs: { a: 'flags', b: 'flags' } }, 'bool', [3, 3], [0, 0]],
    [{ op: 'matmul', inputs: { a: 'cube', b: 'wide' }, semiring: 'or_and' }, 'bool', [2, 4, 2], [3, 0]],
  ],
  refusals: [
    [{ op: 'matmul', inputs: { a: 'qty' } }, /^INVALID_REQUEST matmul needs input b; it takes a and b/],
    [
      { op: 'matmul', inputs: { a: 'vector', b: 'prices' } },
      /^SHAPE_MISMATCH a \(vector\) \[3\] has size 3 on axis 0, b \(prices\) \[4, 3\] has size 4 on axis 0/,
    ],
    [{ op: 'matmul', inputs: { a: 'scalar', b: 'vector' } }, /^SHAPE_MISMATCH a \(scalar\) has no axes/],
    [
      { op: 'matmul', inputs: { a: 'ints', b: 'wide' } },
      /^SHAPE_MISMATCH a \(ints\) is i64 and b \(wide\) is u64: no dtype holds both/,
    ],
    [
      { op: 'matmul', inputs: { a: 'flags', b: 'flags' }, semiring: 'min_plus' },
      /^SHAPE_MISMATCH min_plus is not defined for bool/,
    ],
    [
      { op: 'matmul', inputs: { a: 'vector', b: 'vector' }, semiring: 'times' },
      /^INVALID_REQUEST semiring is "times"/,
    ],
    [
      { op: 'matmul', inputs: { a: 'tall', b: 'flat' } },
      /^INVALID_REQUEST the result of shape \[70000, 70000\] has 4900000000 elements/,
    ],
  ],
  long: [
    { op: 'matmul', inputs: { a: 'few', b: 'across' } },
    { op: 'matmul', inputs: { a: 'wide', b: 'across' } },
    { op: 'matmul', inputs: { a: 'wide', b: 'across' }, semiring: 'min_plus' },
  ],
  conformance: () => [
    ['product', { op: 'matmul', inputs: { a: 'grid', b: 'weights' } }],
    ['paths', { op: 'matmul', inputs: { a: 'grid', b: 'weights' }, semiring: 'min_plus' }],
  ],
}

export const matmulRecords: OpRecords = { matmul }
