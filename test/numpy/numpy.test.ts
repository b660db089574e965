/**
 * An independent check: every op of the catalogue, over every dtype it takes and random shapes, against
 * NumPy. Integers and selections must be equal, floats within TOLERANCE of the largest value of the result.
 * One Python process computes all cases.
 *
 * Needs a python3 with numpy. Without one the test is skipped and says so; in CI it fails.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { OPS } from '../../src/kernels/op-catalogue.js'
import { DTYPE_INFO, DTYPES, type Dtype, type TypedArray } from '../../src/wire/dtype.js'
import { NativeRunner } from '../kernels/native.js'
import { Draw } from '../lib/draw.js'
import { ROOT } from '../lib/place.js'
import type { NumpyCase } from '../reference/ops/record.js'
import { OP_RECORDS } from '../reference/records.js'

/** Of f32 and f64 results, relative to the largest finite value in them, or to 1. */
const TOLERANCE: Readonly<Partial<Record<Dtype, number>>> = { f32: 2e-5, f64: 1e-10 }
const ROUNDS = 3

const hasNumpy = (python: string): boolean => spawnSync(python, ['-c', 'import numpy']).status === 0
const python = ['python3', '/usr/bin/python3'].find(hasNumpy)

// ---- the two sides ----------------------------------------------------------------------------------------

interface Computed {
  readonly made: NumpyCase
  readonly dtype: Dtype
  readonly shape: readonly number[]
  readonly values: TypedArray
}

function computeAll(): Computed[] {
  const runner = new NativeRunner()
  const computed: Computed[] = []
  for (const [op, record] of OP_RECORDS) {
    for (const dtype of DTYPES) {
      for (let round = 0; round < ROUNDS; round++) {
        const draw = new Draw(OPS.get(op)!.code * 1000 + DTYPE_INFO[dtype].code * 10 + round)
        for (const made of record.numpy(draw, dtype)) {
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
    const script = `${ROOT}test/numpy/compute.py`
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
  const computed = computeAll()
  t.same([...new Set(computed.map(({ made }) => made.derive.op))], [...OPS.keys()], 'every op has cases')
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
