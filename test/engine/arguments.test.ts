/**
 * The library says what is wrong with what it is handed: options wholly, arguments as far as nobody
 * behind does.
 */
import { runInNewContext } from 'node:vm'
import t, { type Test } from 'tap'
import { BACKENDS, FSYNC_MODES } from '../../src/engine/arguments.js'
import { Bus, MmsbError } from '../../src/index.js'

// What programs without types, or with wrong ones, hand in.
type Anything = never

async function refusal(run: () => unknown): Promise<string> {
  try {
    const made = await run()
    if (made instanceof Bus) await made.close()
  } catch (error) {
    return error instanceof MmsbError ? `${error.code} ${error.message}` : `raw ${String(error)}`
  }
  return 'accepted'
}

t.test('options of a bus: unknown names and values say which, what came and what is allowed', async (t) => {
  const cases: [unknown, string | RegExp][] = [
    [null, 'options: null is not an object'],
    ['./data', 'options: "./data" is not an object'],
    [[], 'options: an array is not an object'],
    [
      { foo: 1 },
      /^foo: there is no such field of options; there are dataDir, readOnly, untilEpoch, backend, fsync, .*onNotice.*$/,
    ],
    [{ backend: 'zz' }, 'backend: "zz" is not one of auto, cpu, cuda'],
    [{ backend: null }, 'backend: null is not one of auto, cpu, cuda'],
    [{ fsync: 'zz', dataDir: t.testdir() }, 'fsync: "zz" is not one of always, interval, off'],
    [{ threads: -1 }, 'threads: -1 is not a whole number from 1 to 1024'],
    [{ threads: 1.5 }, /^threads: 1.5 /],
    [{ threads: 1025 }, /^threads: 1025 /],
    [{ threads: '2' }, /^threads: "2" /],
    [{ memoryLimitBytes: 'x' }, /^memoryLimitBytes: "x" is not a whole number from 1 to /],
    [{ memoryLimitBytes: 0 }, /^memoryLimitBytes: 0 /],
    [{ memoryLimitBytes: Number.NaN }, /^memoryLimitBytes: NaN /],
    [{ dataDir: 5 }, /^dataDir: 5 is not a non-empty string/],
    [{ dataDir: '' }, /^dataDir: "" is not a non-empty string/],
    [{ segmentBytes: 1024 }, /^segmentBytes: 1024 is not a whole number from 8192 to /],
    [{ durableHoldMs: -1 }, /^durableHoldMs: -1 /],
    [{ durableHoldBytes: Number.POSITIVE_INFINITY }, /^durableHoldBytes: Infinity /],
    [{ checkpoints: 5 }, 'checkpoints: 5 is not an object'],
    [{ checkpoints: { everyEpoch: 5 } }, /^checkpoints.everyEpoch: there is no such field of checkpoints/],
    [{ checkpoints: { everyEpochs: -5 } }, /^checkpoints.everyEpochs: -5 is not a whole number from 0 to /],
    [{ checkpoints: { atClose: 'no' } }, 'checkpoints.atClose: "no" is not true or false'],
    [{ retention: { maxEpochs: 0 } }, /^retention.maxEpochs: 0 is not a whole number from 1 to /],
    [{ retention: { age: 1 } }, /^retention.age: there is no such field of retention; there are maxAgeMs/],
    [{ onNotice: console }, 'onNotice: an object is not a function'],
  ]
  for (const [options, message] of cases) {
    const text = await refusal(() => Bus.open(options as Anything))
    if (typeof message === 'string') t.equal(text, `INVALID_REQUEST ${message}`)
    else {
      t.match(text, /^INVALID_REQUEST /)
      t.match(text.replace('INVALID_REQUEST ', ''), message)
    }
  }
  t.equal(await refusal(() => Bus.open({ backend: 'cpu', threads: undefined } as Anything)), 'accepted')
  t.equal(await refusal(() => Bus.open({ backend: 'cpu', threads: 1, checkpoints: {} })), 'accepted')
  t.same([BACKENDS, FSYNC_MODES], [BACKENDS.toSorted(), ['always', 'interval', 'off']])
})

type Call = [what: string, call: (bus: Bus, given: Anything) => unknown, given: readonly unknown[]]

const NO_OBJECT = [undefined, null, 5, 'text', true, Symbol.iterator, () => 1]
const NO_TEXT = [undefined, null, 5, {}, [], Symbol.iterator]
const NO_LIST = [undefined, null, 5, {}, 'text', { length: 2 }]
const OP = { page: 'p', values: [1] }

const CALLS: readonly Call[] = [
  ['create: name', (bus, name) => bus.create(name, { dtype: 'u8', shape: [1] }), NO_TEXT],
  ['create: definition', (bus, given) => bus.create('x', given), [...NO_OBJECT, {}, [], { dtype: 'u8' }]],
  ['create: dtype', (bus, dtype) => bus.create('x', { dtype, shape: [1] }), [undefined, 'zz', 5, {}]],
  ['create: shape', (bus, shape) => bus.create('x', { dtype: 'u8', shape }), [undefined, null, 4, '4', [-1]]],
  ['create: fields', (bus, given) => bus.create('x', given), [{ dtype: 'u8', shape: [1], colour: 1 }]],
  ['derive: name', (bus, name) => bus.derive(name, { op: 'copy', inputs: { x: 'p' } }), NO_TEXT],
  ['derive', (bus, derive) => bus.derive('x', derive), [...NO_OBJECT, {}, [], { op: 'copy' }, { op: 5 }]],
  [
    'derive: options',
    (bus, options) => bus.derive('x', { op: 'copy', inputs: { x: 'p' } }, options),
    [{ fill: 1 }, { dtype: 'zz' }, { shape: 4 }, { location: 'moon' }, 'text'],
  ],
  ['createMany', (bus, pages) => bus.createMany(pages), [...NO_LIST, [null], [{}], [{ name: 'x' }]]],
  ['patch: name', (bus, name) => bus.patch(name, { values: [1] }), NO_TEXT],
  ['patch: delta', (bus, delta) => bus.patch('p', delta), [...NO_OBJECT, {}, [], { values: 1 }]],
  ['patch: offset', (bus, offset) => bus.patch('p', { offset, values: [1] }), [1.5, '1', {}, Number.NaN]],
  ['patch: options', (bus, options) => bus.patch('p', { values: [1] }, options), [null, 5, 'text']],
  [
    'patch: what options say',
    (bus, options) => bus.patch('p', { values: [1] }, options),
    [{ key: 5 }, { source: {} }, { expectVersion: '1' }, { expectVersion: -1 }, { intent: 1n }],
  ],
  ['write: name', (bus, name) => bus.write(name, [1, 1]), NO_TEXT],
  ['write: values', (bus, values) => bus.write('p', values), NO_LIST],
  ['write: options', (bus, options) => bus.write('p', [1, 1], options), [null, 5, { key: {} }]],
  ['transact', (bus, given) => bus.transact(given), [...NO_OBJECT, {}, [], { ops: {} }, { op: [] }]],
  ['transact: ops', (bus, op) => bus.transact({ ops: [op] }), [...NO_OBJECT, { values: [1] }, { page: 'p' }]],
  [
    'transact: the rest',
    (bus, given: object) => bus.transact({ ops: [OP], ...given }),
    [{ expect: 5 }, { expect: [null] }, { expect: [{ page: 'p' }] }, { expect: [{ version: 1 }] }],
  ],
  [
    'transact: its head',
    (bus, given: object) => bus.transact({ ops: [OP], ...given }),
    [{ key: 5 }, { source: 5 }, { intent: 1n }],
  ],
  [
    'whatIf',
    (bus, given) => bus.whatIf(given),
    [...NO_OBJECT, {}, { ops: [OP] }, { ops: [null], read: ['p'] }],
  ],
  ['whatIf: read', (bus, read) => bus.whatIf({ ops: [OP], read }), [...NO_LIST, [5], []]],
  ['submit', (bus, frame) => bus.submit(frame), [undefined, null, 5, [], 'text', new Uint16Array(32)]],
  [
    'defineFunction',
    (bus, body) => bus.defineFunction('f', body),
    [...NO_OBJECT, {}, { params: [5], expr: 'x' }, { params: [] }],
  ],
  ['subscribe', (bus, options) => bus.subscribe(options), [...NO_OBJECT, {}, [], { pages: 'p' }]],
  [
    'subscribe: options',
    (bus, given: object) => bus.subscribe({ pages: ['p'], ...given }),
    [
      ...[{ page: 'p' }, { pages: [5] }, { pages: [] }, { from: 'then' }, { from: -1 }, { from: 1.5 }],
      ...[
        { data: 'all' },
        { policy: 'x' },
        { maxRate: 0 },
        { maxRate: '1' },
        { durable: 5 },
        { durable: '' },
      ],
      ...[{ slice: 5 }, { slice: { p: 5 } }, { slice: { p: [[0]] } }],
    ],
  ],
]

const shown = (given: unknown): string =>
  typeof given === 'object' && given !== null
    ? Object.entries(given).flat().map(String).join()
    : String(given)

async function open(t: Test): Promise<Bus> {
  const bus = await Bus.open({ backend: 'cpu', threads: 1 })
  t.teardown(() => bus.close())
  await bus.create('p', { dtype: 'u8', shape: [2] })
  return bus
}

t.test('arguments of another shape are INVALID_REQUEST, never a raw error, and change nothing', async (t) => {
  const bus = await open(t)
  const { epoch, digest } = bus.status()
  for (const [what, call, given] of CALLS) {
    for (const one of given) {
      const text = await refusal(() => call(bus, one as Anything))
      t.match(text, /^INVALID_REQUEST \S/, `${what}: ${shown(one)}`)
    }
  }
  t.match(bus.status(), { epoch, digest, pages: 1 })
  t.match(await bus.patch('p', { values: [1] }), { epoch: epoch + 1 })
})

t.test('bytes of another realm are bytes', async (t) => {
  const bus = await open(t)
  const foreign = runInNewContext('new Uint8Array(40)') as Uint8Array
  t.match(await refusal(() => bus.submit(foreign)), /frame: does not begin with MSF1/)
})

t.test('the message says where', async (t) => {
  const bus = await open(t)
  for (const [call, message] of [
    [() => bus.patch('p', undefined as Anything), 'delta: is missing'],
    [() => bus.patch(5 as Anything, { values: [1] }), 'name: 5 is not a string'],
    [() => bus.transact({} as Anything), 'ops: is missing'],
    [() => bus.transact({ ops: [OP, null as Anything] }), 'ops[1]: null is not an object'],
    [() => bus.subscribe(undefined as Anything), 'options: is missing'],
    [() => bus.subscribe({} as Anything), 'pages: is missing'],
    [() => bus.create('x', undefined as Anything), 'definition: is missing'],
  ] as const)
    t.equal(await refusal(call), `INVALID_REQUEST ${message}`)
})
