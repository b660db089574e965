/**
 * Which bits a NaN has, by the way it came in (docs/internals/DETERMINISM.md, "One NaN"): bytes are kept as
 * they are, every other way in and every op give one NaN.
 */
import t, { type Test } from 'tap'
import { Bus } from '../../../src/index.js'
import type { Derivation } from '../../../src/state/types.js'
import { serve } from '../../http/helpers.js'

/** For each float: a NaN with a payload and a sign, a signalling one, and the one that computations give. */
const NANS = {
  f32: { odd: [0xffc1_2345n, 0x7f80_0001n], one: 0x7fc0_0000n },
  f64: { odd: [0xfff8_0000_0001_2345n, 0x7ff0_0000_0000_0001n], one: 0x7ff8_0000_0000_0000n },
} as const
type Float = keyof typeof NANS
type Floats = Float32Array | Float64Array
const DTYPES: readonly Float[] = ['f32', 'f64']

function ofBits(dtype: Float, bits: readonly bigint[]): Floats {
  if (dtype === 'f64') return new Float64Array(BigUint64Array.from(bits).buffer)
  return new Float32Array(Uint32Array.from(bits, Number).buffer)
}

function bitsOf(values: ArrayBufferView): bigint[] {
  const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength).slice()
  if (values instanceof Float64Array) return [...new BigUint64Array(bytes.buffer)]
  return [...new Uint32Array(bytes.buffer)].map(BigInt)
}

async function open(t: Test, dtype: Float, dataDir?: string): Promise<Bus> {
  const bus = await Bus.open({ backend: 'cpu', threads: 1, ...(dataDir === undefined ? {} : { dataDir }) })
  t.teardown(() => bus.close())
  await bus.create('x', { dtype, shape: [2] })
  return bus
}

for (const dtype of DTYPES) {
  const { odd, one } = NANS[dtype]
  const canonical = [one, one]

  t.test(`${dtype}: bytes are kept`, async (t) => {
    const dataDir = t.testdir()
    const bus = await open(t, dtype, dataDir)
    const values = ofBits(dtype, odd)
    const clear = () => bus.write('x', values.slice().fill(0))
    for (const [what, write] of [
      ['a typed array', () => bus.patch('x', { values })],
      ['a whole page', () => bus.write('x', values)],
      ['sparse', () => bus.patch('x', { indices: [0, 1], values })],
      ['masked', () => bus.patch('x', { mask: Uint8Array.of(3), values })],
      ['a transaction', () => bus.transact({ ops: [{ page: 'x', values }] })],
    ] as const) {
      await write()
      t.same(bitsOf(bus.read('x')), odd, what)
      await clear()
    }
    const { epoch } = await bus.write('x', values)
    await clear()
    t.same(bitsOf((await bus.data('x', { epoch })).values), odd, 'in the past')
    t.match(await bus.verify(), { ok: true })
  })

  t.test(`${dtype}: numbers in a list, and a fill, are the one NaN`, async (t) => {
    const bus = await open(t, dtype)
    const numbers = [...ofBits(dtype, odd)]
    for (const [what, write] of [
      ['a list', () => bus.patch('x', { values: numbers })],
      ['texts', () => bus.patch('x', { values: ['NaN', 'NaN'] })],
      ['sparse', () => bus.patch('x', { indices: [0, 1], values: numbers })],
      ['masked', () => bus.patch('x', { mask: Uint8Array.of(3), values: numbers })],
      ['a whole page', () => bus.write('x', numbers)],
    ] as const) {
      await write()
      t.same(bitsOf(bus.read('x')), canonical, what)
      await bus.patch('x', { values: [0, 0] })
    }
    for (const [i, fill] of [...numbers, 'NaN'].entries()) {
      await bus.create(`filled${i}`, { dtype, shape: [2], fill })
      t.same(bitsOf(bus.read(`filled${i}`)), canonical, `fill ${i}`)
    }
  })

  t.test(`${dtype}: every other merge gives the one NaN`, async (t) => {
    const bus = await open(t, dtype)
    for (const merge of ['add', 'min', 'max'] as const) {
      await bus.patch('x', { values: [1, 2] })
      await bus.patch('x', { values: ofBits(dtype, odd), merge })
      t.same(bitsOf(bus.read('x')), canonical, merge)
      await bus.write('x', ofBits(dtype, odd))
      await bus.patch('x', { values: [1, 2], merge })
      t.same(bitsOf(bus.read('x')), canonical, `${merge} to a NaN`)
    }
  })

  t.test(`${dtype}: every op gives the one NaN, also one that only moves elements`, async (t) => {
    const bus = await open(t, dtype)
    await bus.create('zero', { dtype: 'u32', shape: [2] })
    await bus.patch('zero', { values: [0, 1] })
    await bus.create('y', { dtype, shape: [2] })
    const x = { x: 'x' }
    const ops: Derivation[] = [
      { op: 'copy', inputs: x },
      { op: 'cast', inputs: x, dtype: 'f64' },
      { op: 'map', inputs: x, expr: 'x' },
      { op: 'map', inputs: x, expr: '-x' },
      { op: 'map', inputs: x, expr: 'where(true, x, 1)' },
      { op: 'map', inputs: x, expr: 'abs(x)' },
      { op: 'gather', inputs: { x: 'x', indices: 'zero' } },
      { op: 'scatter', inputs: { x: 'y', indices: 'zero', values: 'x' } },
      { op: 'scatter', inputs: { x: 'x', indices: 'zero', values: 'y' }, merge: 'add' },
      { op: 'transpose', inputs: x },
      { op: 'reshape', inputs: x, shape: [1, 2] },
      { op: 'slice', inputs: x, start: [0] },
      { op: 'concat', inputs: { a: 'x' } },
      { op: 'flip', inputs: x },
      { op: 'sort', inputs: x },
      { op: 'topk', inputs: x, k: 2, output: 'values' },
      { op: 'scan', inputs: x, fn: 'max' },
      { op: 'window', inputs: x, fn: 'min', size: 1 },
      { op: 'reduce', inputs: x, fn: 'max', axes: [0] },
    ]
    for (const [i, derive] of ops.entries()) await bus.derive(`d${i}`, derive)
    await bus.write('x', ofBits(dtype, odd))
    for (const [i, derive] of ops.entries()) {
      const bits = bitsOf(bus.read(`d${i}`))
      const wanted = derive.op === 'cast' ? NANS.f64.one : one
      t.ok(
        bits.every((word) => word === wanted),
        `${JSON.stringify(derive)}: ${bits.map((word) => word.toString(16))}`,
      )
    }
    const before = ops.map((_, i) => bitsOf(bus.read(`d${i}`)))
    await bus.patch('x', { values: [1, 2] })
    await bus.write('x', ofBits(dtype, odd))
    t.same(
      ops.map((_, i) => bitsOf(bus.read(`d${i}`))),
      before,
      'recomputed in part',
    )
  })

  t.test(`${dtype}: over HTTP, octets are kept and JSON has one NaN`, async (t) => {
    const { bus, call } = await serve(t)
    await bus.create('x', { dtype, shape: [2] })
    const values = ofBits(dtype, odd)
    for (const method of ['PUT', 'PATCH'] as const) {
      await call(method, '/v1/pages/x/data', Buffer.from(values.buffer))
      t.same(bitsOf(bus.read('x')), odd, method)
      const { body } = await call('GET', '/v1/pages/x/data', undefined, { accept: 'application/json' })
      t.same(body.values, ['NaN', 'NaN'])
      await call(method, '/v1/pages/x/data', { values: body.values })
      t.same(bitsOf(bus.read('x')), canonical, `${method} of that JSON`)
    }
    await call('PUT', '/v1/pages/filled', { dtype, shape: [2], fill: 'NaN' })
    t.same(bitsOf(bus.read('filled')), canonical, 'a fill')
  })
}
