/** Invalid arguments of calls are refused with a code and a reason, before anything is sent. */
import t, { type Test } from 'tap'
import { type Client, connect, MmsbError } from '../../src/client/node.js'
import { HTTP_BODY_MAX_BYTES } from '../../src/wire/limits.js'
import { listen, serve } from '../http/helpers.js'

async function started(t: Test): Promise<{ bus: Client; url: string }> {
  const { url } = await listen(await serve(t))
  const bus = connect(url)
  t.teardown(() => bus.close())
  await bus.create('a', { dtype: 'f64', shape: [3] })
  await bus.create('b', { dtype: 'bool', shape: [9] })
  await bus.create('i', { dtype: 'i64', shape: [2] })
  return { bus, url }
}

// Values that a program without types may hand in.
type Any = (...args: unknown[]) => Promise<unknown>
const untyped = (bus: Client): Readonly<Record<string, Any>> =>
  new Proxy(bus, {
    get: (of, name) => (of as unknown as Record<PropertyKey, Any>)[name]!.bind(of),
  }) as unknown as Readonly<Record<string, Any>>

const circular: Record<string, unknown> = {}
circular.me = circular

/** Method, arguments, code, words. */
type Row = readonly [method: string, args: readonly unknown[], code: string, words: RegExp]
const BAD_VALUES = [
  7,
  true,
  {},
  new Set([1]),
  new ArrayBuffer(8),
  'abc',
  null,
  undefined,
  new DataView(new ArrayBuffer(8)),
]
const BAD_NAMES = [undefined, null, 5, {}, '', '.', '..', '\ud800', 'a,b']

const VALUES: readonly Row[] = BAD_VALUES.flatMap((values): Row[] => [
  ['patch', ['a', { values }], 'INVALID_DELTA', /^values: /],
  ['patch', ['a', { indices: [0], values }], 'INVALID_DELTA', /^values: /],
  ['write', ['a', values], 'INVALID_DELTA', /^values: /],
  ['transact', [{ ops: [{ page: 'a', values }] }], 'INVALID_DELTA', /^ops\[0\]\.values: /],
  ['whatIf', [{ ops: [{ page: 'a', values }], read: ['a'] }], 'INVALID_DELTA', /^ops\[0\]\.values: /],
])
const ELEMENTS: readonly Row[] = [null, undefined, {}, Symbol('s'), () => 1, circular].map(
  (element): Row => ['patch', ['a', { values: [1, element] }], 'INVALID_DELTA', /^values\[1\]: /],
)
const OCTETS: readonly Row[] = [[1, 2, 3], 'abc', 5, undefined, null, {}].map(
  (octets): Row => ['patch', ['i', { octets }], 'INVALID_DELTA', /^octets: /],
)
const DEFINITION = { dtype: 'u8', shape: [], values: [1] }
const NAMES: readonly Row[] = BAD_NAMES.flatMap((name): Row[] => [
  ...['create', 'derive', 'defineFunction'].map(
    (method): Row => [method, [name, DEFINITION], 'INVALID_REQUEST', /^name: /],
  ),
  ...['page', 'delete', 'read', 'history', 'function', 'deleteFunction', 'deleteDurable'].map(
    (method): Row => [method, [name], 'INVALID_REQUEST', /^name: /],
  ),
  ['patch', [name, { values: [1] }], 'INVALID_REQUEST', /^name: /],
  ['write', [name, [1]], 'INVALID_REQUEST', /^name: /],
  ['readMany', [['a', name]], 'INVALID_REQUEST', /^names\[1\]: /],
  ['diff', [{ from: 1, pages: [name] }], 'INVALID_REQUEST', /^query\.pages\[0\]: /],
])
const REST: readonly Row[] = [
  ['create', ['x'], 'INVALID_REQUEST', /^definition: is missing/],
  ['create', ['x', null], 'INVALID_REQUEST', /^definition: null/],
  ['create', ['x', { dtype: 'u8', shape: [1n] }], 'INVALID_REQUEST', /1 has no form in JSON/],
  ['create', ['x', { dtype: 'u8', shape: [], fill: {} }], 'INVALID_REQUEST', /^definition\.fill: an object/],
  ['createMany', [], 'INVALID_REQUEST', /^pages: is missing/],
  ['createMany', [[null]], 'INVALID_REQUEST', /^pages\[0\]: null/],
  ['derive', ['x'], 'INVALID_REQUEST', /^derive: is missing/],
  ['derive', ['x', { op: 'map', k: 2n }], 'INVALID_REQUEST', /^definition: k: 2 has no form in JSON/],
  ['derive', ['x', { op: 'map', k: Number.NaN }], 'INVALID_REQUEST', /^definition: k: NaN/],
  ['pages', [null], 'INVALID_REQUEST', /^query: null/],
  ['pages', [{ limits: 1 }], 'INVALID_REQUEST', /^limits: query has no such field/],
  ['read', ['a', null], 'INVALID_REQUEST', /^options: null/],
  ['read', ['a', { offset: 'x' }], 'INVALID_REQUEST', /^offset: "x" is not a safe integer/],
  ['readMany', [], 'INVALID_REQUEST', /^names: is missing/],
  ['readMany', ['a'], 'INVALID_REQUEST', /^names: "a" is not a list/],
  ['patch', ['a'], 'INVALID_REQUEST', /^delta: is missing/],
  ['patch', ['a', null], 'INVALID_REQUEST', /^delta: null/],
  ['patch', ['a', { value: [1] }], 'INVALID_REQUEST', /^value: delta has no such field/],
  [
    'patch',
    ['a', { octets: new Uint8Array(8), values: [1] }],
    'INVALID_REQUEST',
    /^values: delta has no such/,
  ],
  ['patch', ['a', { offset: 1n, values: [1] }], 'INVALID_REQUEST', /^offset: 1 is not a safe integer/],
  ['patch', ['a', { indices: [1n], values: [1] }], 'INVALID_REQUEST', /^indices\[0\]: 1 /],
  ['patch', ['a', { indices: '01', values: [1, 2] }], 'INVALID_REQUEST', /^indices: "01"/],
  [
    'patch',
    ['a', { indices: new DataView(new ArrayBuffer(8)), values: [1] }],
    'INVALID_REQUEST',
    /^indices: /,
  ],
  ['patch', ['b', { mask: [2, 0], values: [1] }], 'INVALID_REQUEST', /^mask: a list/],
  ['patch', ['a', { merge: 1n, values: [1] }], 'INVALID_REQUEST', /^merge: 1 /],
  [
    'patch',
    ['a', { values: [1] }, { expectversion: 1 }],
    'INVALID_REQUEST',
    /^expectversion: options has no/,
  ],
  ['patch', ['a', { values: [1] }, { expectVersion: 'x' }], 'INVALID_REQUEST', /^expectVersion: "x"/],
  ['patch', ['a', { values: [1] }, { key: 5 }], 'INVALID_REQUEST', /^key: 5/],
  ['patch', ['a', { values: [1] }, { key: '' }], 'INVALID_REQUEST', /^key: is empty/],
  ['patch', ['a', { values: [1] }, { signal: {} }], 'INVALID_REQUEST', /^signal: .* is not an AbortSignal/],
  ['transact', [], 'INVALID_REQUEST', /^transaction: is missing/],
  ['transact', [{}], 'INVALID_REQUEST', /^ops: is missing/],
  ['transact', [{ ops: {} }], 'INVALID_REQUEST', /^ops: an object is not a list/],
  ['transact', [{ ops: [null] }], 'INVALID_REQUEST', /^ops\[0\]: null/],
  ['transact', [{ ops: [{ values: [1] }] }], 'INVALID_REQUEST', /^ops\[0\]\.page: is missing/],
  [
    'transact',
    [{ ops: [{ page: 'i', octets: new Uint8Array(8) }] }],
    'INVALID_REQUEST',
    /^ops\[0\]\.octets: /,
  ],
  ['transact', [{ ops: [], intent: circular }], 'INVALID_REQUEST', /^intent: .*circular/],
  ['transact', [{ ops: [], intent: { a: 1n } }], 'INVALID_REQUEST', /^intent: a: 1 has no form/],
  ['transact', [{ ops: [], intent: () => 1 }], 'INVALID_REQUEST', /^intent: a function has no form/],
  ['transact', [{ ops: [], source: 4 }], 'INVALID_REQUEST', /^source: 4/],
  ['transact', [{ ops: [], expect: 5 }], 'INVALID_REQUEST', /^expect: 5/],
  ['transact', [{ ops: [], expect: [null] }], 'INVALID_REQUEST', /^expect\[0\]: null/],
  [
    'transact',
    [{ ops: [], expect: [{ page: 'a', version: 'x' }] }],
    'INVALID_REQUEST',
    /^expect\[0\]\.version: "x"/,
  ],
  [
    'transact',
    [{ ops: [], expect: [{ page: 'a' }] }],
    'INVALID_REQUEST',
    /^expect\[0\]\.version: is missing/,
  ],
  [
    'transact',
    [{ ops: [] }, { expectVersion: 1 }],
    'INVALID_REQUEST',
    /^expectVersion: options has no such field/,
  ],
  ['whatIf', [], 'INVALID_REQUEST', /^input: is missing/],
  ['whatIf', [{ ops: [] }], 'INVALID_REQUEST', /^read: is missing/],
  ['epoch', [], 'INVALID_REQUEST', /^epoch: /],
  ['epoch', ['../status'], 'INVALID_REQUEST', /^epoch: /],
  ['epochs', [{ from: 1.5 }], 'INVALID_REQUEST', /^from: 1\.5/],
  ['diff', [], 'INVALID_REQUEST', /^query: is missing/],
  ['diff', [{}], 'INVALID_REQUEST', /^query\.from: is missing/],
  ['verify', [{ from: 1n }], 'INVALID_REQUEST', /^from: 1 /],
  ['defineFunction', ['f'], 'INVALID_REQUEST', /^definition: is missing/],
  ['status', [{ signal: {} }], 'INVALID_REQUEST', /^signal: /],
  ['status', [{ timeoutMs: Number.NaN }], 'INVALID_REQUEST', /^timeoutMs: NaN/],
  ['status', [{ timeoutMs: 'x' }], 'INVALID_REQUEST', /^timeoutMs: "x"/],
  ['status', [{ timeoutMs: -1 }], 'INVALID_REQUEST', /^timeoutMs: -1/],
  ['mirror', [], 'INVALID_REQUEST', /^name: is missing/],
  ['mirrorAll', [], 'INVALID_REQUEST', /^patterns: is missing/],
  ['mirrorAll', [['a'], null], 'INVALID_REQUEST', /^options: null/],
]

t.test('an invalid argument rejects with its code, naming the argument, and nothing is sent', async (t) => {
  const { bus } = await started(t)
  const before = (await bus.stats()).epoch
  for (const [method, args, code, words] of [...VALUES, ...ELEMENTS, ...OCTETS, ...NAMES, ...REST]) {
    const shown = `${method}(${args.map(String).join(', ')}): ${words}`
    const error: unknown = await untyped(bus)[method]!(...args).then(
      (answer) => answer,
      (error: unknown) => error,
    )
    t.ok(error instanceof MmsbError, shown)
    t.match(error, { code, detail: words, status: 0, hint: /nothing was sent/ }, shown)
  }
  t.equal((await bus.status()).epoch, before)
})

t.test('octets are the bytes of any view or buffer', async (t) => {
  const { bus } = await started(t)
  const ones = BigInt64Array.of(-1n)
  const shared = new Uint8Array(new SharedArrayBuffer(8)).fill(255)
  for (const octets of [
    new Uint8Array(ones.buffer),
    ones,
    ones.buffer,
    new DataView(ones.buffer),
    shared,
    shared.buffer,
  ]) {
    await bus.write('i', [0, 0])
    await bus.patch('i', { octets, offset: 1 })
    t.same((await bus.read('i')).values, BigInt64Array.of(0n, -1n))
  }
  const gone = Float64Array.of(1, 2, 3)
  structuredClone(gone.buffer, { transfer: [gone.buffer] })
  const refused = { code: 'INVALID_DELTA', detail: /its buffer was transferred/ }
  await t.rejects(bus.write('a', gone), refused)
  await t.rejects(bus.patch('a', { values: gone }), refused)
  await t.rejects(bus.patch('a', { octets: gone.buffer }), refused)
  await bus.write('a', new Float64Array(new SharedArrayBuffer(24)).fill(3))
  t.same((await bus.read('a')).values, Float64Array.of(3, 3, 3))
})

t.test('a page is filled with what was asked for, also where JSON has no word for it', async (t) => {
  const { bus } = await started(t)
  for (const fill of [Number.NaN, Infinity, -Infinity, -0, 1.5]) {
    const name = `f${fill}`.replace('-', 'm')
    await bus.create(name, { dtype: 'f64', shape: [1], fill })
    t.ok(Object.is((await bus.read(name)).values[0], fill), String(fill))
    await bus.createMany([{ name: `${name}many`, dtype: 'f32', shape: [1], fill }])
    t.ok(Object.is((await bus.read(`${name}many`)).values[0], fill), `${fill}, of many`)
  }
  await bus.createMany([{ name: 'wide', dtype: 'i64', shape: [1], fill: -(2n ** 63n) }])
  t.same((await bus.read('wide')).values, BigInt64Array.of(-(2n ** 63n)))
})

t.test('what is no server, and options that mean nothing, are told by connect', async (t) => {
  const { bus, url } = await started(t)
  const asUrl = connect(new URL(`${url}/`))
  t.teardown(() => asUrl.close())
  t.equal(asUrl.url, url)
  t.equal((await asUrl.status()).version, (await bus.status()).version)
  const given = connect as unknown as (url?: unknown, options?: unknown) => Client
  for (const bad of [
    undefined,
    null,
    5,
    {},
    '',
    'nonsense',
    'ftp://x',
    'http://u:p@x',
    'http://x/?a',
    'http://x/#a',
  ]) {
    t.throws(() => given(bad), { code: 'INVALID_REQUEST', detail: /^url: / }, String(bad))
  }
  const refused: readonly (readonly [options: unknown, words: RegExp])[] = [
    [null, /^options: null/],
    [{ timeout: 1 }, /^options\.timeout: options has no such field/],
    [{ timeoutMs: Number.NaN }, /^options\.timeoutMs: NaN/],
    [{ timeoutMs: -1 }, /^options\.timeoutMs: -1/],
    [{ retries: 'x' }, /^options\.retries: "x"/],
    [{ protocol: 'xml' }, /^options\.protocol: "xml" is not one of binary, json/],
    [{ queueMaxBytes: Number.NaN }, /^options\.queueMaxBytes: NaN/],
    [{ silenceMaxMs: 0 }, /^options\.silenceMaxMs: 0/],
    [{ fetch: 5 }, /^options\.fetch: 5/],
    [{ headers: 'x' }, /^options\.headers: "x"/],
    [{ headers: { a: 5 } }, /^options\.headers\.a: 5/],
    [{ headers: { a: 'ключ' } }, /^options\.headers: /],
  ]
  for (const [options, detail] of refused)
    t.throws(() => given(url, options), { code: 'INVALID_REQUEST', detail })
  const subprotocol = connect(url, {
    headers: new Headers({ 'X-A': 'b' }),
    timeoutMs: Infinity,
    retries: Infinity,
  })
  t.teardown(() => subprotocol.close())
  t.match(await subprotocol.status(), { epoch: 3 })
  await t.rejects(bus.status({ timeoutMs: 0 }), { code: 'TIMEOUT' })
  t.match(await bus.status({ timeoutMs: Infinity }), { epoch: 3 }, 'no limit')
  t.match(await bus.status({ timeoutMs: 2 ** 40 }), { epoch: 3 }, 'more than a timer can wait')
})

t.test('a key goes where it can go, as the same key', async (t) => {
  const { bus } = await started(t)
  for (const key of ['ключ', 'a\nb', ' a', 'é']) {
    const first = await bus.transact({ ops: [{ page: 'a', values: [1], merge: 'add' }] }, { key })
    t.same(await bus.transact({ ops: [{ page: 'a', values: [1], merge: 'add' }] }, { key }), first)
    // In a header it is the same key: the server knows that another request had it.
    if (key === 'é')
      await t.rejects(bus.patch('a', { values: [9] }, { key }), { code: 'IDEMPOTENCY_MISMATCH' })
    else
      await t.rejects(bus.patch('a', { values: [1] }, { key }), { code: 'INVALID_REQUEST', detail: /^key: / })
  }
  t.same((await bus.read('a')).values, Float64Array.of(4, 0, 0))
})

t.test('a body that the server would refuse is not sent', async (t) => {
  const { bus } = await started(t)
  const large = new Uint8Array(HTTP_BODY_MAX_BYTES + 8)
  const refused = {
    code: 'PAYLOAD_TOO_LARGE',
    status: 0,
    detail: /at most 67108864 bytes; this has 67108872/,
  }
  await t.rejects(bus.patch('i', { octets: large }), refused)
  await t.rejects(bus.write('i', new BigInt64Array(large.buffer)), refused)
  const text = 'é'.repeat(HTTP_BODY_MAX_BYTES / 2)
  await t.rejects(bus.defineFunction('f', { params: [], expr: text }), {
    code: 'PAYLOAD_TOO_LARGE',
    status: 0,
  })
})
