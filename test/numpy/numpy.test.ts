/**
 * An independent check: every op of the catalogue, over every dtype it takes and random shapes, against NumPy. Integers and
 * selections must be equal; floats within TOLERANCE of the largest value of the result. One Python process computes all cases.
 *
 * Needs a python3 with numpy. Without one the test is skipped and says so, except in CI, where it must be there.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { OPS } from '../../src/kernels/op-catalogue.js'
import { elementCount } from '../../src/state/shape.js'
import type { Derivation } from '../../src/state/types.js'
import { DTYPE_INFO, DTYPES, type Dtype, type TypedArray } from '../../src/wire/dtype.js'
import { Draw } from '../engine/property/random.js'
import { NativeRunner, type TestPage } from '../kernels/native.js'

/** Of f32 and f64 results, relative to the largest finite value in them, or to 1. */
const TOLERANCE: Readonly<Partial<Record<Dtype, number>>> = { f32: 2e-5, f64: 1e-10 }
const ROUNDS = 3

const hasNumpy = (python: string): boolean => spawnSync(python, ['-c', 'import numpy']).status === 0
const python = ['python3', '/usr/bin/python3'].find(hasNumpy)

// ---- cases ------------------------------------------------------------------------------------------------------------

interface Case {
  readonly derive: Derivation
  readonly pages: Readonly<Record<string, TestPage>>
  /** What NumPy evaluates in place of an expression. */
  readonly numpy?: string
}

const isFloat = (dtype: Dtype): boolean => DTYPE_INFO[dtype].kind === 'float'
const isInteger = (dtype: Dtype): boolean => ['signed', 'unsigned'].includes(DTYPE_INFO[dtype].kind)

/** Small numbers with many ties; floats with fractions, and NaN where the op treats it as NumPy does. */
function drawPage(draw: Draw, dtype: Dtype, shape: readonly number[], nans = false): TestPage {
  const { view, sizeBytes, kind } = DTYPE_INFO[dtype]
  const count = elementCount(shape)
  const values = view(new ArrayBuffer(count * sizeBytes), 0, count)
  for (let i = 0; i < count; i++) {
    if (kind === 'float') {
      values[i] = nans && draw.chance(0.03) ? Number.NaN : draw.int(-400, 400) / 8 + draw.int(0, 1) / 3
    } else {
      const value = kind === 'bool' ? draw.int(0, 1) : draw.int(kind === 'signed' ? -60 : 0, 60)
      values[i] = (sizeBytes === 8 ? BigInt(value) : value) as never
    }
  }
  return { dtype, shape, values }
}

function drawShape(draw: Draw, least: number, most: number): number[] {
  const shape = Array.from({ length: draw.int(least, most) }, () => draw.pick([0, 1, 2, 3, 5, 8, 17, 33]))
  while (elementCount(shape) > 4000) shape[draw.int(0, shape.length - 1)] = draw.int(1, 3)
  return shape
}

const signed = (draw: Draw, axis: number, rank: number): number => (draw.chance(0.5) ? axis : axis - rank)

/** An axis of a random shape, with elements on it. */
function drawAxis(draw: Draw, most = 3): { shape: number[]; axis: number; own: number } {
  const shape = drawShape(draw, 1, most)
  const own = draw.int(0, shape.length - 1)
  if (shape[own] === 0) shape[own] = 4
  return { shape, own, axis: signed(draw, own, shape.length) }
}

const x = { x: 'x' }

/** For each op, the cases of one dtype. */
const CASES: Readonly<Record<string, (draw: Draw, dtype: Dtype) => Case[]>> = {
  copy: (draw, dtype) => [
    { derive: { op: 'copy', inputs: x }, pages: { x: drawPage(draw, dtype, drawShape(draw, 0, 4), true) } },
  ],
  cast: (draw, dtype) =>
    DTYPES.map((to) => ({
      derive: { op: 'cast', inputs: x, dtype: to },
      pages: { x: drawPage(draw, dtype, drawShape(draw, 0, 3), true) },
    })),
  map: mapCases,
  reduce: (draw, dtype) =>
    ['sum', 'prod', 'min', 'max', 'mean', 'var', 'any', 'all', 'count', 'argmin', 'argmax'].map((fn) => {
      const { shape } = drawAxis(draw)
      if (shape.includes(0)) shape.splice(0, shape.length, 7, 6)
      const axes = shape.map((_, axis) => axis).filter(() => draw.chance(0.6))
      const listed = axes.length === 0 ? {} : { axes: axes.map((axis) => signed(draw, axis, shape.length)) }
      return {
        derive: { op: 'reduce', inputs: x, fn, ...listed, keepdims: draw.chance(0.5) },
        pages: { x: drawPage(draw, dtype, fn === 'prod' ? [3, 2, 2].slice(0, shape.length) : shape, true) },
      }
    }),
  scan: (draw, dtype) =>
    ['sum', 'prod', 'min', 'max'].map((fn) => {
      const { shape, axis } = drawAxis(draw)
      const small = fn === 'prod' && isFloat(dtype) ? shape.map((size) => Math.min(size, 5)) : shape
      return { derive: { op: 'scan', inputs: x, fn, axis }, pages: { x: drawPage(draw, dtype, small, true) } }
    }),
  matmul: (draw, dtype) =>
    ['plus_times', 'min_plus', 'max_plus', 'or_and']
      .filter((semiring) => dtype !== 'bool' || !semiring.endsWith('_plus'))
      .map((semiring) => {
        const depth = draw.pick([1, 3, 8, 33])
        const batch = draw.pick([[], [2], [3, 1]])
        const a = draw.chance(0.2) ? [depth] : [...batch, draw.int(1, 9), depth]
        const b = draw.chance(0.2) ? [depth] : [...draw.pick([[], [2]]), depth, draw.int(1, 9)]
        return {
          derive: { op: 'matmul', inputs: { a: 'a', b: 'b' }, semiring },
          pages: { a: drawPage(draw, dtype, a), b: drawPage(draw, dtype, b) },
        }
      }),
  quantile: (draw, dtype) =>
    [0, 0.05, 0.5, 0.77, 1].map((q) => {
      const { shape, axis } = drawAxis(draw)
      return {
        derive: { op: 'quantile', inputs: x, q, axis },
        pages: { x: drawPage(draw, dtype, shape, draw.chance(0.3)) },
      }
    }),
  topk: (draw, dtype) =>
    ['indices', 'values'].map((output) => {
      const { shape, axis, own } = drawAxis(draw)
      const k = draw.int(1, shape[own]!)
      return {
        derive: { op: 'topk', inputs: x, k, axis, output, largest: draw.chance(0.5) },
        pages: { x: drawPage(draw, dtype, shape, true) },
      }
    }),
  sort: (draw, dtype) =>
    [false, true]
      .map((descending) => {
        const { shape, axis } = drawAxis(draw)
        return {
          derive: { op: 'sort', inputs: x, axis, descending },
          pages: { x: drawPage(draw, dtype, draw.chance(0.3) ? [700] : shape, true) },
        }
      })
      .map((made) => ({
        ...made,
        derive: made.pages.x.shape.length === 1 ? { ...made.derive, axis: 0 } : made.derive,
      })),
  conv: (draw, dtype) =>
    ['zero', 'wrap', 'edge'].map((boundary) => {
      const kernel = draw.chance(0.5)
        ? [draw.pick([1, 2, 3, 5, 6])]
        : [draw.pick([1, 2, 3, 4]), draw.pick([1, 3, 5])]
      const shape = drawShape(draw, kernel.length, 3)
      const taps = draw.chance(0.3)
        ? draw.pick(DTYPES.filter((name) => isFloat(name) || name === dtype))
        : dtype
      return {
        derive: { op: 'conv', inputs: { x: 'x', kernel: 'kernel' }, boundary },
        pages: { x: drawPage(draw, dtype, shape), kernel: drawPage(draw, taps, kernel) },
      }
    }),
  window: (draw, dtype) =>
    ['sum', 'min', 'max', 'mean'].map((fn) => {
      const { shape, axis } = drawAxis(draw)
      return {
        derive: { op: 'window', inputs: x, fn, size: draw.pick([1, 2, 3, 5, 8, 40]), axis },
        pages: { x: drawPage(draw, dtype, shape, true) },
      }
    }),
  gather: (draw, dtype) => [
    ...DTYPES.filter(isInteger).map((of) => {
      const { shape, axis } = drawAxis(draw)
      const indices = drawPage(draw, of, draw.pick([[], [9], [3, 4]]))
      return {
        derive: { op: 'gather', inputs: { x: 'x', indices: 'indices' }, axis },
        pages: { x: drawPage(draw, dtype, shape), indices },
      }
    }),
  ],
  scatter: (draw, dtype) =>
    ['set', 'add', 'min', 'max', ...(isFloat(dtype) ? [] : ['and', 'or', 'xor'])].map((merge) => {
      const { shape, axis, own } = drawAxis(draw)
      const indices = drawPage(draw, draw.pick(DTYPES.filter(isInteger)), draw.pick([[], [30], [5, 4]]))
      const full = [...shape.slice(0, own), ...indices.shape, ...shape.slice(own + 1)]
      const values = drawPage(draw, draw.pick([dtype, dtype, 'i16', 'f32']), draw.chance(0.2) ? [] : full)
      return {
        derive: {
          op: 'scatter',
          inputs: { x: 'x', indices: 'indices', values: 'values' },
          axis,
          merge,
        },
        pages: { x: drawPage(draw, dtype, shape), indices, values },
      }
    }),
  bincount: (draw, dtype) =>
    isFloat(dtype)
      ? []
      : [
          {
            derive: { op: 'bincount', inputs: x, length: draw.pick([0, 1, 20, 61, 200]) },
            pages: { x: drawPage(draw, dtype, drawShape(draw, 0, 3)) },
          },
        ],
  histogram: (draw, dtype) => [
    {
      derive: {
        op: 'histogram',
        inputs: x,
        bins: draw.pick([1, 3, 10, 64]),
        range: draw.pick([
          [0, 1],
          [-25, 25.5],
          [3, 60],
        ]),
      },
      pages: { x: drawPage(draw, dtype, drawShape(draw, 0, 3), true) },
    },
  ],
  transpose: (draw, dtype) => {
    const shape = drawShape(draw, 0, 5)
    const axes = shape.map((_, axis) => axis).sort(() => (draw.chance(0.5) ? 1 : -1))
    const derive = draw.chance(0.3) ? { op: 'transpose', inputs: x } : { op: 'transpose', inputs: x, axes }
    return [{ derive, pages: { x: drawPage(draw, dtype, shape) } }]
  },
  reshape: (draw, dtype) => [
    {
      derive: { op: 'reshape', inputs: x, shape: [3, -1, 2] },
      pages: { x: drawPage(draw, dtype, [4, 3, 5]) },
    },
    {
      derive: { op: 'reshape', inputs: x, shape: [-1] },
      pages: { x: drawPage(draw, dtype, drawShape(draw, 0, 4)) },
    },
  ],
  slice: (draw, dtype) => {
    const shape = drawShape(draw, 0, 4)
    const bound = (size: number): number | null => (draw.chance(0.3) ? null : draw.int(-size - 2, size + 2))
    const step = shape.map(() => draw.pick([null, 1, 2, 3, -1, -2]))
    return [
      {
        derive: { op: 'slice', inputs: x, start: shape.map(bound), stop: shape.map(bound), step },
        pages: { x: drawPage(draw, dtype, shape) },
      },
    ]
  },
  concat: (draw, dtype) => {
    const { shape, axis, own } = drawAxis(draw)
    const other = draw.pick(DTYPES.filter((name) => !isInteger(name) || name === dtype))
    const second = shape.map((size, d) => (d === own ? draw.int(0, 5) : size))
    return [
      {
        derive: { op: 'concat', inputs: { a: 'a', b: 'b', c: 'a' }, axis },
        pages: { a: drawPage(draw, dtype, shape), b: drawPage(draw, other, second) },
      },
    ]
  },
  distance: (draw, dtype) =>
    ['dot', 'l2', 'cosine'].map((metric) => {
      const depth = draw.pick([1, 3, 31, 32, 33, 100])
      return {
        derive: { op: 'distance', inputs: { queries: 'queries', vectors: 'vectors' }, metric },
        pages: {
          queries: drawPage(draw, dtype, draw.chance(0.3) ? [depth] : [draw.int(1, 4), depth]),
          vectors: drawPage(draw, draw.pick([dtype, 'f32', 'f64']), [draw.int(1, 20), depth]),
        },
      }
    }),
}

/** Expressions, and the same in NumPy's words. */
const EXPRESSIONS: readonly (readonly [string, string])[] = [
  ['a + b', 'a + b'],
  ['a * b', 'a * b'],
  ['a / b', 'np.true_divide(a, b, dtype=a.dtype if a.dtype.kind == "f" else np.float64)'],
  ['a == b', 'a == b'],
  ['a <= b and a != 3', '(a <= b) & (a != 3)'],
  ['where(a > b, a, b)', 'np.where(a > b, a, b)'],
  ['min(a, b)', 'np.minimum(a, b)'],
  ['max(a, b, a)', 'np.maximum(a, b)'],
]
const ARITHMETIC: readonly (readonly [string, string])[] = [
  ['a - b', 'a - b'],
  ['a // b', 'a // b'],
  ['a % b', 'a % b'],
  ['a ** 2', 'a ** 2'],
  ['abs(a)', 'np.abs(a)'],
  ['sign(a)', 'np.sign(a)'],
  ['clamp(a, 3, 20)', 'np.clip(a, 3, 20)'],
]
const BITS: readonly (readonly [string, string])[] = [
  ['bitand(a, b)', 'a & b'],
  ['bitor(a, b)', 'a | b'],
  ['bitxor(a, b)', 'a ^ b'],
  ['shl(a, 3)', 'a << a.dtype.type(3)'],
  ['shr(a, 2)', 'a >> a.dtype.type(2)'],
]
const MATHS: readonly (readonly [string, string])[] = [
  ...['sqrt', 'exp', 'log', 'log2'].map(
    (name) => [`${name}(abs(a) / 8 + 1)`, `np.${name}(np.abs(a) / 8 + 1)`] as const,
  ),
  ...['sin', 'cos', 'tanh', 'floor', 'ceil', 'trunc'].map((name) => [`${name}(a)`, `np.${name}(a)`] as const),
  ['round(a)', 'np.rint(a)'],
  ['isnan(a)', 'np.isnan(a)'],
  ['tan(a / 64)', 'np.tan(a / 64)'],
  ['(abs(a) + 1) ** (b / 16)', '(np.abs(a) + 1) ** (b / 16)'],
]

function mapCases(draw: Draw, dtype: Dtype): Case[] {
  const list = [
    ...EXPRESSIONS,
    ...(dtype === 'bool' ? [] : ARITHMETIC),
    ...(isInteger(dtype) ? BITS : []),
    ...(isFloat(dtype) ? MATHS : []),
  ]
  return list.map(([expr, numpy]) => {
    const a = drawShape(draw, 0, 3)
    const b = a.map((size) => (draw.chance(0.3) ? 1 : size)).slice(draw.int(0, a.length))
    return {
      derive: { op: 'map', inputs: { a: 'a', b: 'b' }, expr },
      pages: { a: drawPage(draw, dtype, a, isFloat(dtype)), b: drawPage(draw, dtype, b) },
      numpy,
    }
  })
}

// ---- the two sides ----------------------------------------------------------------------------------------------------

interface Computed {
  readonly made: Case
  readonly dtype: Dtype
  readonly shape: readonly number[]
  readonly values: TypedArray
}

function computeAll(): Computed[] {
  const runner = new NativeRunner()
  const computed: Computed[] = []
  for (const [op, cases] of Object.entries(CASES)) {
    for (const dtype of DTYPES) {
      for (let round = 0; round < ROUNDS; round++) {
        const draw = new Draw(OPS.get(op)!.code * 1000 + DTYPE_INFO[dtype].code * 10 + round)
        for (const made of cases(draw, dtype)) {
          const { compiled, values } = runner.run(made.derive, made.pages)
          computed.push({ made, dtype: compiled.dtype, shape: compiled.shape, values })
        }
      }
    }
  }
  runner.close()
  return computed
}

/** What NumPy makes of the same inputs; each result at a multiple of 8. */
function askNumpy(
  interpreter: string,
  computed: readonly Computed[],
): { shapes: number[][]; data: Buffer; version: string } {
  const folder = mkdtempSync(join(tmpdir(), 'mmsb-numpy-'))
  try {
    const blobs: Buffer[] = []
    let at = 0
    const cases = computed.map(({ made, dtype }) => {
      const { op, inputs, ...parameters } = made.derive
      const pages = Object.entries(inputs).map(([role, name]) => {
        const page = made.pages[String(name)]!
        const bytes = Buffer.from(page.values.buffer, page.values.byteOffset, page.values.byteLength)
        const padded = Buffer.concat([bytes, Buffer.alloc((8 - (bytes.length % 8)) % 8)])
        const input = { dtype: page.dtype, shape: page.shape, at }
        blobs.push(padded)
        at += padded.length
        return [role, input] as const
      })
      const numpy = made.numpy === undefined ? {} : { numpy: made.numpy }
      return { op, dtype, inputs: Object.fromEntries(pages), parameters: { ...parameters, ...numpy } }
    })
    writeFileSync(join(folder, 'cases.json'), JSON.stringify(cases))
    writeFileSync(join(folder, 'inputs.bin'), Buffer.concat([...blobs, Buffer.alloc(8)]))
    const script = fileURLToPath(new URL('./compute.py', import.meta.url))
    const run = spawnSync(interpreter, [script, folder], { encoding: 'utf8' })
    if (run.status !== 0) throw new Error(`${interpreter} compute.py: ${run.stderr}`)
    const { shapes, numpy } = JSON.parse(readFileSync(join(folder, 'results.json'), 'utf8'))
    return { shapes, data: readFileSync(join(folder, 'results.bin')), version: numpy }
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** The first element that is not as NumPy has it, or undefined. */
function firstDifference(dtype: Dtype, got: TypedArray, wanted: TypedArray): string | undefined {
  const tolerance = TOLERANCE[dtype] ?? 0
  let largest = 1
  for (const value of wanted) {
    if (tolerance > 0 && Number.isFinite(value)) largest = Math.max(largest, Math.abs(value as number))
  }
  for (const [i, value] of got.entries()) {
    const other = wanted[i]!
    if (value === other || (Number.isNaN(value) && Number.isNaN(other))) continue
    const isNear = tolerance > 0 && Math.abs(Number(value) - Number(other)) <= tolerance * largest
    if (!isNear) return `element ${i} is ${value}, NumPy has ${other}`
  }
  return undefined
}

/** In CI there is no skipping. */
const skip = python === undefined && process.env.CI === undefined && 'skipped: no python3 with numpy'

t.test('every op agrees with NumPy, over every dtype', { skip }, async (t) => {
  if (python === undefined) {
    t.fail('python3 with numpy is missing; in CI it must be there')
    return
  }
  t.same(Object.keys(CASES).sort(), [...OPS.keys()].sort(), 'every op has cases')
  const computed = computeAll()
  const { shapes, data, version } = askNumpy(python, computed)
  t.comment(`${computed.length} cases against NumPy ${version}`)
  let at = 0
  const problems = new Map<string, string[]>([...OPS.keys()].map((op) => [op, []]))
  for (const [i, { made, dtype, shape, values }] of computed.entries()) {
    const { sizeBytes, view } = DTYPE_INFO[dtype]
    const bytes = values.length * sizeBytes
    const wanted = view(new Uint8Array(data.subarray(at, at + bytes)).slice().buffer, 0, values.length)
    at += Math.ceil(bytes / 8) * 8
    const isSameShape = JSON.stringify(shape) === JSON.stringify(shapes[i])
    const difference = isSameShape
      ? firstDifference(dtype, values, wanted)
      : `shape is [${shape}], NumPy has [${shapes[i]}]`
    const inputs = Object.entries(made.pages).map(([name, page]) => `${name} ${page.dtype}[${page.shape}]`)
    if (difference !== undefined) {
      problems
        .get(made.derive.op)!
        .push(`${JSON.stringify(made.derive)} of ${inputs.join(', ')}: ${difference}`)
    }
  }
  for (const [op, list] of problems) t.same(list.slice(0, 5), [], op)
})
