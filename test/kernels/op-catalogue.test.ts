/** The op catalogue: each op's code, documentation, shape, dtype and parameter block, and the definitions it refuses. */
import { readFileSync } from 'node:fs'
import t from 'tap'
import { native } from '../../src/ffi/library.js'
import { FUNCTION_NAMES } from '../../src/kernels/expression/functions.js'
import { CONSTANTS, KEYWORDS } from '../../src/kernels/expression/names.js'
import { OPS } from '../../src/kernels/op-catalogue.js'
import { REDUCE_FUNCTIONS } from '../../src/kernels/ops/reduce.js'
import { DTYPES, type Dtype } from '../../src/wire/dtype.js'
import { refusal } from '../lib/refusal.js'
import { compile } from './pages.js'

const words = (block: Uint8Array): number[] => [...new Uint32Array(block.slice().buffer)]

t.test('ops have the codes and versions of the native library', async (t) => {
  const { ops } = JSON.parse(native().mmsb_catalogue()) as { ops: Record<string, unknown> }
  t.same(
    ops,
    Object.fromEntries([...OPS.values()].map(({ name, code, version }) => [name, { code, version }])),
  )
})

t.test('docs/guide/OPS.md lists the ops, parameters, functions and words of the language', async (t) => {
  const text = readFileSync(new URL('../../docs/guide/OPS.md', import.meta.url), 'utf8')
  const rows = [...text.matchAll(/^\| `(\w+)` \| (\d+) \| (\d+) \| (.*?) \| (.*?) \| (.*?) \|$/gm)].map(
    (row) => row.slice(1),
  )
  const list = (names: readonly string[]): string => names.map((name) => `\`${name}\``).join(' ') || 'none'
  const wanted = [...OPS.values()].map(({ name, code, version, roles, parameters, dirtyRule }) => [
    name,
    String(code),
    String(version),
    roles === 'named' ? 'any names' : list(roles),
    list(parameters),
    dirtyRule,
  ])
  t.same(rows, wanted)
  for (const { name } of OPS.values())
    t.match(text, new RegExp(`^### ${name}$`, 'm'), `a section for ${name}`)
  const functionTable = text.slice(text.indexOf('| function |'), text.indexOf('### Types'))
  const documented = [...functionTable.matchAll(/^\| (`.*?) \| /gm)].flatMap(([, cell]) =>
    [...cell!.matchAll(/`(\w+)\(/g)].map(([, name]) => name),
  )
  t.same(
    [...new Set(documented)].sort(),
    FUNCTION_NAMES.filter((name) => !DTYPES.includes(name as Dtype)).sort(),
  )
  for (const word of [...KEYWORDS, ...Object.keys(CONSTANTS), ...DTYPES, ...REDUCE_FUNCTIONS]) {
    t.match(text, new RegExp(`\`${word}\``), word)
  }
})

t.test('shape, dtype and block of each op', async (t) => {
  const cases: [Record<string, unknown>, Dtype, number[], number[] | undefined][] = [
    [{ op: 'copy', inputs: { x: 'cube' } }, 'i16', [2, 4, 3], []],
    [{ op: 'cast', inputs: { x: 'cube' }, dtype: 'f32' }, 'f32', [2, 4, 3], []],
    [{ op: 'map', inputs: { a: 'prices', b: 'qty' }, expr: 'a*b' }, 'f32', [4, 3], undefined],
    [{ op: 'map', inputs: { a: 'empty', b: 'vector' }, expr: 'a+b' }, 'f64', [0, 3], undefined],
    [{ op: 'map', inputs: { a: 'scalar' }, expr: 'a > 0' }, 'bool', [], undefined],
    [{ op: 'reduce', inputs: { x: 'prices' }, fn: 'sum' }, 'f32', [], [0, 3, 0, 0]],
    [{ op: 'reduce', inputs: { x: 'prices' }, fn: 'mean', axes: [-1] }, 'f32', [4], [4, 2, 0, 0]],
    [
      { op: 'reduce', inputs: { x: 'cube' }, fn: 'sum', axes: [2, 0], keepdims: true },
      'i64',
      [1, 4, 1],
      [0, 5, 1, 0],
    ],
    [{ op: 'reduce', inputs: { x: 'cube' }, fn: 'var', axes: [1] }, 'f64', [2, 3], [5, 2, 0, 0]],
    [{ op: 'reduce', inputs: { x: 'flags' }, fn: 'prod', axes: [0] }, 'u64', [3], [1, 1, 0, 0]],
    [{ op: 'reduce', inputs: { x: 'cube' }, fn: 'max', axes: [0] }, 'i16', [4, 3], [3, 1, 0, 0]],
    [{ op: 'reduce', inputs: { x: 'cube' }, fn: 'any', axes: [0, 1] }, 'bool', [3], [6, 3, 0, 0]],
    [{ op: 'reduce', inputs: { x: 'cube' }, fn: 'argmin', axes: [0] }, 'u32', [4, 3], [9, 1, 0, 0]],
    [{ op: 'reduce', inputs: { x: 'empty' }, fn: 'sum', axes: [0] }, 'u64', [3], [0, 1, 0, 0]],
    [{ op: 'reduce', inputs: { x: 'empty' }, fn: 'max', axes: [1] }, 'u8', [0], [3, 2, 0, 0]],
    [{ op: 'reduce', inputs: { x: 'scalar' }, fn: 'count' }, 'u32', [], [8, 0, 0, 0]],
    [{ op: 'matmul', inputs: { a: 'prices', b: 'vector' } }, 'f64', [4], [0, 0]],
    [{ op: 'matmul', inputs: { b: 'flags', a: 'qty' } }, 'i32', [3], [0, 0]],
    [{ op: 'matmul', inputs: { a: 'qty', b: 'vector' } }, 'f64', [], [0, 0]],
    [{ op: 'matmul', inputs: { a: 'cube', b: 'ints' }, semiring: 'min_plus' }, 'i64', [2, 4, 3], [1, 0]],
    [{ op: 'matmul', inputs: { a: 'flags', b: 'flags' }, semiring: 'or_and' }, 'bool', [3, 3], [3, 0]],
    [{ op: 'matmul', inputs: { a: 'flags', b: 'flags' } }, 'bool', [3, 3], [0, 0]],
    [{ op: 'matmul', inputs: { a: 'cube', b: 'wide' }, semiring: 'or_and' }, 'bool', [2, 4, 2], [3, 0]],
    [{ op: 'quantile', inputs: { x: 'prices' }, q: 0.5, axis: -2 }, 'f32', [3], [0, 0x3fe0_0000, 0, 0]],
    [{ op: 'quantile', inputs: { x: 'cube' }, q: 1 }, 'f64', [], [0, 0x3ff0_0000, 0xffff_ffff, 0]],
    [{ op: 'topk', inputs: { x: 'prices' }, k: 2, output: 'values' }, 'f32', [4, 2], [2, 1, 1, 1]],
    [
      { op: 'topk', inputs: { x: 'prices' }, k: 4, axis: 0, output: 'indices', largest: false },
      'u32',
      [4, 3],
      [4, 0, 0, 0],
    ],
    [{ op: 'scan', inputs: { x: 'cube' }, fn: 'prod', axis: 0 }, 'i64', [2, 4, 3], [1, 0]],
    [{ op: 'scan', inputs: { x: 'flags' }, fn: 'max' }, 'bool', [3, 3], [3, 1]],
    [{ op: 'conv', inputs: { x: 'cube', kernel: 'flags' } }, 'i16', [2, 4, 3], [0, 0]],
    [{ op: 'conv', inputs: { x: 'cube', kernel: 'vector' }, boundary: 'edge' }, 'f64', [2, 4, 3], [2, 0]],
    [{ op: 'window', inputs: { x: 'cube' }, fn: 'mean', size: 9, axis: -2 }, 'f64', [2, 4, 3], [4, 9, 1, 0]],
    [{ op: 'sort', inputs: { x: 'empty' }, axis: 0 }, 'u8', [0, 3], [0, 0]],
    [{ op: 'sort', inputs: { x: 'empty' }, descending: true }, 'u8', [0, 3], [1, 1]],
    [{ op: 'gather', inputs: { x: 'cube', indices: 'ints' }, axis: 1 }, 'i16', [2, 3, 3, 3], [1, 0]],
    [{ op: 'gather', inputs: { x: 'vector', indices: 'qty' } }, 'f64', [3], [0, 0]],
    [
      { op: 'scatter', inputs: { x: 'vector', indices: 'qty', values: 'scalar' }, merge: 'add' },
      'f64',
      [3],
      [0, 1],
    ],
    [{ op: 'bincount', inputs: { x: 'cube' }, length: 7 }, 'u32', [7], [7, 0]],
    [
      { op: 'histogram', inputs: { x: 'prices' }, bins: 4, range: [0, 2] },
      'u32',
      [4],
      [4, 0, 0, 0, 0, 0x4000_0000],
    ],
    [{ op: 'transpose', inputs: { x: 'cube' } }, 'i16', [3, 4, 2], [2, 1, 0, 0]],
    [{ op: 'transpose', inputs: { x: 'cube' }, axes: [1, -1, 0] }, 'i16', [4, 3, 2], [1, 2, 0, 0]],
    [{ op: 'transpose', inputs: { x: 'scalar' } }, 'f32', [], []],
    [{ op: 'reshape', inputs: { x: 'cube' }, shape: [-1, 6] }, 'i16', [4, 6], [2, 4, 6, 0]],
    [{ op: 'reshape', inputs: { x: 'scalar' }, shape: [1, 1, 1] }, 'f32', [1, 1, 1], [3, 1, 1, 1]],
    [{ op: 'reshape', inputs: { x: 'empty' }, shape: [5, 0] }, 'u8', [5, 0], [2, 5, 0, 0]],
    [
      { op: 'slice', inputs: { x: 'prices' }, start: [-2], step: [null, -2] },
      'f32',
      [2, 2],
      [2, 2, 1, 0, 2, 2, 0xffff_fffe, 0],
    ],
    [{ op: 'slice', inputs: { x: 'vector' }, start: [2], stop: [1] }, 'f64', [0], [0, 0, 1, 0]],
    [{ op: 'concat', inputs: { a: 'prices', b: 'flags' } }, 'f32', [7, 3], [0, 0]],
    [{ op: 'concat', inputs: { b: 'wide', a: 'flags' }, axis: -1 }, 'u64', [3, 5], [1, 0]],
    [{ op: 'distance', inputs: { queries: 'prices', vectors: 'ints' }, metric: 'l2' }, 'f32', [4, 3], [1, 0]],
    [{ op: 'distance', inputs: { queries: 'qty', vectors: 'ints' }, metric: 'dot' }, 'f64', [3], [0, 0]],
  ]
  for (const [derive, dtype, shape, block] of cases) {
    const compiled = compile(derive)
    const text = JSON.stringify(derive)
    t.same([compiled.dtype, compiled.shape], [dtype, shape], text)
    if (block !== undefined) t.same(words(compiled.params), block, text)
    t.ok(compiled.costPerElementNs > 0)
    t.same(compile(compiled.canonical).canonical, compiled.canonical, 'canonical form is a fixed point')
  }
})

t.test('the canonical form fills in defaults and counts axes from 0', async (t) => {
  t.strictSame(compile({ op: 'reduce', inputs: { x: 'cube' }, fn: 'sum', axes: [-1, 0] }).canonical, {
    op: 'reduce',
    inputs: { x: 'cube' },
    axes: [0, 2],
    fn: 'sum',
    keepdims: false,
  })
  t.strictSame(compile({ inputs: { b: 'vector', a: 'prices' }, op: 'matmul' }).canonical, {
    op: 'matmul',
    inputs: { a: 'prices', b: 'vector' },
    semiring: 'plus_times',
  })
  t.strictSame(compile({ op: 'map', inputs: { b: 'qty', a: 'qty' }, expr: ' a + b' }).inputs, [
    { role: 'b', page: 'qty', id: 2 },
    { role: 'a', page: 'qty', id: 2 },
  ])
})

t.test("a dtype that is asked for becomes the page's", async (t) => {
  t.equal(compile({ op: 'reduce', inputs: { x: 'cube' }, fn: 'sum' }, 'f32').dtype, 'f32')
  t.equal(compile({ op: 'map', inputs: { a: 'qty' }, expr: 'a/2' }, 'i32').dtype, 'i32')
  t.equal(compile({ op: 'cast', inputs: { x: 'qty' }, dtype: 'u8' }, 'u8').dtype, 'u8')
  t.match(
    refusal(() => compile({ op: 'cast', inputs: { x: 'qty' }, dtype: 'u8' }, 'u16')),
    /^INVALID_REQUEST the cast is to u8 but the page asks for u16/,
  )
})

t.test('bad definitions: each with its code and what is wrong', async (t) => {
  const x = { x: 'prices' }
  const cases: [unknown, RegExp][] = [
    [null, /^INVALID_REQUEST derive must be an object/],
    [[], /^INVALID_REQUEST derive must be an object/],
    [{ inputs: x }, /^INVALID_REQUEST op must be a name; the ops are copy, cast, map/],
    [{ op: 'convolve', inputs: x }, /^INVALID_REQUEST there is no op 'convolve'/],
    [{ op: 'toString', inputs: x }, /^INVALID_REQUEST there is no op 'toString'/],
    [{ op: 'copy' }, /^INVALID_REQUEST inputs must be an object/],
    [{ op: 'copy', inputs: ['prices'] }, /^INVALID_REQUEST inputs must be an object/],
    [{ op: 'copy', inputs: { x: 7 } }, /^INVALID_REQUEST input x must be the name of a page/],
    [{ op: 'copy', inputs: { x: 'nowhere' } }, /^PAGE_NOT_FOUND/],
    [{ op: 'copy', inputs: { x: 'qty', y: 'qty' } }, /^INVALID_REQUEST copy has no input 'y'; it takes x/],
    [{ op: 'matmul', inputs: { a: 'qty' } }, /^INVALID_REQUEST matmul needs input b; it takes a and b/],
    [
      { op: 'copy', inputs: x, axis: 1 },
      /^INVALID_REQUEST copy has no parameter 'axis'; its parameters: none/,
    ],
    [
      { op: 'reduce', inputs: x, fn: 'sum', axis: 1 },
      /^INVALID_REQUEST reduce has no parameter 'axis'; its parameters: axes, fn, keepdims/,
    ],
    [{ op: 'reduce', inputs: x }, /^INVALID_REQUEST reduce needs fn/],
    [
      { op: 'reduce', inputs: x, fn: 'median' },
      /^INVALID_REQUEST fn is "median"; it must be one of sum, prod/,
    ],
    [{ op: 'reduce', inputs: x, fn: 'sum', axes: 1 }, /^INVALID_REQUEST axes must be an array/],
    [{ op: 'reduce', inputs: x, fn: 'sum', axes: [0, -2] }, /^INVALID_REQUEST axes names axis 0 twice/],
    [
      { op: 'reduce', inputs: x, fn: 'sum', axes: [2] },
      /^SHAPE_MISMATCH axes: 2 is out of range: x \(prices\) has shape \[4, 3\]/,
    ],
    [
      { op: 'reduce', inputs: x, fn: 'sum', keepdims: 1 },
      /^INVALID_REQUEST keepdims is 1; it must be true or false/,
    ],
    [
      { op: 'reduce', inputs: { x: 'empty' }, fn: 'min' },
      /^SHAPE_MISMATCH min needs at least one element: x \(empty\) \[0, 3\] has size 0 on axis 0/,
    ],
    [{ op: 'reduce', inputs: { x: 'empty' }, fn: 'argmax', axes: [0] }, /^SHAPE_MISMATCH argmax needs/],
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
    [
      { op: 'map', inputs: { a: 'tall', b: 'flat' }, expr: 'a+b' },
      /^INVALID_REQUEST the result of shape \[70000, 70000\]/,
    ],
    [{ op: 'quantile', inputs: x, q: 1.5 }, /^INVALID_REQUEST q is 1.5; it must be a number from 0 to 1/],
    [{ op: 'quantile', inputs: x, q: Number.NaN }, /^INVALID_REQUEST q is NaN/],
    [{ op: 'quantile', inputs: x, q: '0.5' }, /^INVALID_REQUEST q is "0.5"/],
    [
      { op: 'quantile', inputs: x, q: Number.POSITIVE_INFINITY },
      /^INVALID_REQUEST q is Infinity; it must be a number/,
    ],
    [{ op: 'quantile', inputs: x, q: 0.5, axis: '0' }, /^INVALID_REQUEST axis must be an integer/],
    [
      { op: 'quantile', inputs: { x: 'empty' }, q: 0.5 },
      /^SHAPE_MISMATCH quantile needs at least one element: x \(empty\) \[0, 3\] has no elements/,
    ],
    [
      { op: 'topk', inputs: x, k: 4, output: 'values' },
      /^SHAPE_MISMATCH k is 4 but x \(prices\) \[4, 3\] has size 3 on axis 1/,
    ],
    [
      { op: 'topk', inputs: x, k: 0, output: 'values' },
      /^INVALID_REQUEST k is 0; it must be an integer from 1/,
    ],
    [{ op: 'topk', inputs: x, k: 1 }, /^INVALID_REQUEST topk needs output/],
    [{ op: 'topk', inputs: x, k: 1, output: 'both' }, /^INVALID_REQUEST output is "both"/],
    [
      { op: 'topk', inputs: { x: 'scalar' }, k: 1, output: 'values' },
      /^SHAPE_MISMATCH axis -1: x \(scalar\) has no axes/,
    ],
    [
      { op: 'scan', inputs: x, fn: 'mean' },
      /^INVALID_REQUEST fn is "mean"; it must be one of sum, prod, min, max/,
    ],
    [{ op: 'scan', inputs: { x: 'scalar' }, fn: 'sum' }, /^SHAPE_MISMATCH axis -1: x \(scalar\) has no axes/],
    [
      { op: 'window', inputs: x, fn: 'sum', size: 0 },
      /^INVALID_REQUEST size is 0; it must be an integer from 1/,
    ],
    [
      { op: 'conv', inputs: { x: 'vector', kernel: 'flags' } },
      /^SHAPE_MISMATCH x \(vector\) has 1 axes; with kernel/,
    ],
    [
      { op: 'conv', inputs: { x: 'cube', kernel: 'cube' } },
      /^SHAPE_MISMATCH kernel \(cube\) has 3 axes; a kernel has/,
    ],
    [
      { op: 'conv', inputs: { x: 'prices', kernel: 'empty' } },
      /^SHAPE_MISMATCH kernel \(empty\) \[0, 3\] has size 0 on/,
    ],
    [
      { op: 'conv', inputs: { x: 'prices', kernel: 'flags' }, boundary: 'mirror' },
      /^INVALID_REQUEST boundary is "mirror"/,
    ],
    [
      { op: 'gather', inputs: { x: 'prices', indices: 'vector' } },
      /^SHAPE_MISMATCH indices \(vector\) is f64; indices are/,
    ],
    [
      { op: 'gather', inputs: { x: 'prices', indices: 'qty' }, axis: 2 },
      /^SHAPE_MISMATCH axis 2 is out of range: x/,
    ],
    [
      { op: 'scatter', inputs: { x: 'prices', indices: 'qty', values: 'vector' } },
      /^SHAPE_MISMATCH values \(vector\) \[3\] must have shape \[3, 3\], or one element/,
    ],
    [
      { op: 'scatter', inputs: { x: 'prices', indices: 'qty', values: 'scalar' }, merge: 'xor' },
      /^SHAPE_MISMATCH merge xor is not defined for f32/,
    ],
    [
      { op: 'bincount', inputs: x, length: 3 },
      /^SHAPE_MISMATCH x \(prices\) is f32; bincount counts integers/,
    ],
    [{ op: 'histogram', inputs: x, bins: 0, range: [0, 1] }, /^INVALID_REQUEST bins is 0/],
    [
      { op: 'histogram', inputs: x, bins: 2, range: [1, 1] },
      /^INVALID_REQUEST range must be two finite numbers/,
    ],
    [
      { op: 'transpose', inputs: x, axes: [0] },
      /^SHAPE_MISMATCH axes has 1 entries; x \(prices\) \[4, 3\] has 2/,
    ],
    [{ op: 'transpose', inputs: x, axes: [0, -2] }, /^INVALID_REQUEST axes names axis 0 twice/],
    [
      { op: 'reshape', inputs: x, shape: [5, -1] },
      /^SHAPE_MISMATCH x \(prices\) \[4, 3\] has 12 elements; no size/,
    ],
    [
      { op: 'reshape', inputs: x, shape: [13] },
      /^SHAPE_MISMATCH x \(prices\) \[4, 3\] has 12 elements; shape/,
    ],
    [{ op: 'reshape', inputs: x, shape: [-1, -1] }, /^INVALID_REQUEST shape has -1 twice/],
    [{ op: 'reshape', inputs: x, shape: Array(9).fill(1) }, /^INVALID_REQUEST shape has 9 axes/],
    [{ op: 'slice', inputs: x, step: [0] }, /^INVALID_REQUEST step is 0/],
    [
      { op: 'slice', inputs: x, start: [0, 0, 0] },
      /^SHAPE_MISMATCH start has 3 entries; x \(prices\) has 2 axes/,
    ],
    [{ op: 'slice', inputs: x, start: [0.5] }, /^INVALID_REQUEST start is 0.5/],
    [
      { op: 'concat', inputs: { a: 'prices', b: 'wide' } },
      /^SHAPE_MISMATCH a \(prices\) \[4, 3\] has size 3 on axis 1, b \(wide\) \[3, 2\] has size 2; they may differ on axis 0/,
    ],
    [
      { op: 'concat', inputs: { a: 'prices', b: 'cube' } },
      /^SHAPE_MISMATCH a \(prices\) \[4, 3\] has 2 axes, b/,
    ],
    [
      { op: 'concat', inputs: { a: 'ints', b: 'wide' }, axis: 1 },
      /^SHAPE_MISMATCH a \(ints\) is i64 and b \(wide\) is u64/,
    ],
    [
      { op: 'distance', inputs: { queries: 'wide', vectors: 'ints' }, metric: 'l2' },
      /^SHAPE_MISMATCH queries \(wide\) \[3, 2\] has size 2 on axis 1, vectors/,
    ],
    [
      { op: 'distance', inputs: { queries: 'qty', vectors: 'vector' }, metric: 'l2' },
      /^SHAPE_MISMATCH vectors \(vector\) has 1 axes/,
    ],
    [{ op: 'cast', inputs: x }, /^INVALID_REQUEST cast needs dtype/],
    [{ op: 'cast', inputs: x, dtype: 'float' }, /^INVALID_REQUEST dtype is "float"/],
    [{ op: 'map', inputs: {}, expr: '1' }, /^INVALID_REQUEST map takes 1 to 64 inputs, not 0/],
    [{ op: 'map', inputs: { a: 'qty' } }, /^INVALID_REQUEST map needs expr/],
    [{ op: 'map', inputs: { a: 'qty' }, expr: 7 }, /^INVALID_REQUEST expr is 7; it must be a string/],
    [{ op: 'map', inputs: { 'a.b': 'qty' }, expr: '1' }, /^INVALID_REQUEST input name "a.b"/],
    [{ op: 'map', inputs: { exp: 'qty' }, expr: '1' }, /^INVALID_EXPRESSION input name 'exp' is a function/],
    [{ op: 'map', inputs: { a: 'qty' }, expr: 'a + b' }, /^INVALID_EXPRESSION column 5: unknown name 'b'/],
    [
      { op: 'map', inputs: { a: 'prices', b: 'wide' }, expr: 'a+b' },
      /^SHAPE_MISMATCH shapes do not broadcast: a \(prices\) \[4, 3\] has size 4 on axis 0, b \(wide\) \[3, 2\] has size 3 on axis 0/,
    ],
  ]
  for (const [derive, message] of cases) {
    t.match(
      refusal(() => compile(derive as Record<string, unknown>)),
      message,
    )
  }
})
