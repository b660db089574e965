/**
 * The library says what is wrong with what it is handed: options wholly, arguments as far as nobody
 * behind does.
 */
import { runInNewContext } from 'node:vm'
import t, { type Test } from 'tap'
import * as checks from '../../src/engine/arguments.js'
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
  t.same([checks.BACKENDS, checks.FSYNC_MODES], [checks.BACKENDS.toSorted(), ['always', 'interval', 'off']])
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

t.test('each check takes what is right, to its bounds, and says what is wrong', async (t) => {
  const { isText, isFlag, isCallable, isNumber, isTexts, isTextLists, isSignal, isOneOf, isWhole } = checks
  const whole = isWhole(2, 5)
  for (const [check, right, wrong] of [
    [isText, ['a'], ['', 5, undefined, null]],
    [isFlag, [true, false], ['true', 0, undefined]],
    [isCallable, [() => 1], [{}, 'f', undefined]],
    [isNumber, [0, -1.5, Number.NaN], ['1', 1n, undefined]],
    [isTexts, [[], ['a'], ['a', '']], ['a', [5], ['a', 5], undefined]],
    [isTextLists, [[], [[]], [['a'], ['b', 'c']]], ['a', ['a'], [[5]], [['a'], 'b'], [undefined], {}]],
    [isSignal, [new AbortController().signal], [{}, undefined, null]],
    [isOneOf(['a', 'b']), ['a', 'b'], ['c', '', undefined]],
    [whole, [2, 3, 5], [1, 6, 2.5, '3', Number.NaN, 2n]],
    [isWhole(0), [0, Number.MAX_SAFE_INTEGER], [-1, 2 ** 53]],
  ] as const) {
    for (const value of right) t.equal(check(value, ''), undefined, String(value))
    for (const value of wrong) t.match(check(value, ''), /^is not \S/, String(value))
  }
  t.equal(whole(9, ''), 'is not a whole number from 2 to 5')
})

t.test('arguments by themselves', async (t) => {
  const said = (run: () => void): string => {
    try {
      run()
      return 'fine'
    } catch (error) {
      return error instanceof MmsbError && error.code === 'INVALID_REQUEST' ? error.message : `raw ${error}`
    }
  }
  const names = 'offset, indices, mask, values, merge'
  const none = 'there is no such field of'
  const { checkPatch, checkWrite, checkFrame, checkFunctionBody, checkTransaction, checkWhatIf } = checks
  const { checkDefinition, checkDefinitions, checkBusOptions, checkFields, isFlag } = checks
  const op = { page: 'p', offset: 1, indices: [1], mask: [1], values: [1], merge: 'add' }
  const { page: _, ...delta } = op
  const options = { key: 'k', source: 's', intent: 1, expectVersion: 0 }
  const transaction = { ops: [op], expect: [{ page: 'p', version: 0 }], source: 's', intent: 1, key: 'k' }
  const page = { name: 'x', definition: { dtype: 'u8', shape: [1], location: 'cpu', fill: 1 } }
  for (const [run, wanted] of [
    [() => checkPatch('p', delta, options), 'fine'],
    [() => checkPatch('p', {}, {}), 'fine'],
    [() => checkPatch(undefined, {}, {}), 'name: is missing'],
    [() => checkPatch('p', { ofset: 1 }, {}), `ofset: ${none} delta; there are ${names}`],
    [() => checkPatch('p', { page: 'p' }, {}), `page: ${none} delta; there are ${names}`],
    [
      () => checkPatch('p', {}, { keys: 1 }),
      `keys: ${none} options; there are key, source, intent, expectVersion`,
    ],
    [() => checkPatch('p', {}, { key: 5 }), 'key: 5 is not a string'],
    [() => checkPatch('p', {}, { source: 5 }), 'source: 5 is not a string'],
    [() => checkPatch('p', {}, { expectVersion: -1 }), /^expectVersion: -1 is not a whole number from 0 to /],
    [() => checkWrite('p', [1], options), 'fine'],
    [() => checkWrite('p', new Float32Array(1), {}), 'fine'],
    [() => checkWrite('p', 'text', {}), 'values: "text" is not a list'],
    [() => checkWrite(5, [1], {}), 'name: 5 is not a string'],
    [() => checkWrite('p', [1], { when: 1 }), /^when: there is no such field of options/],
    [() => checkFrame(new Uint8Array(1)), 'fine'],
    [() => checkFrame(Buffer.from('a')), 'fine'],
    [() => checkFrame(undefined), 'frame: is missing'],
    [() => checkFrame(new Uint16Array(1)), /^frame: .* is not a Uint8Array$/],
    [() => checkFunctionBody('f', { params: [], expr: 'x' }), 'fine'],
    [() => checkFunctionBody(5, { params: [], expr: 'x' }), 'name: 5 is not a string'],
    [() => checkFunctionBody('f', { params: ['a', 5], expr: 'x' }), 'params[1]: 5 is not a string'],
    [() => checkFunctionBody('f', { params: [] }), 'expr: is missing'],
    [() => checkFunctionBody('f', { expr: 'x' }), 'params: is missing'],
    [
      () => checkFunctionBody('f', { params: [], expr: 'x', e: 1 }),
      `e: ${none} function; there are params, expr`,
    ],
    [() => checkTransaction(transaction), 'fine'],
    [() => checkTransaction({ ops: [] }), 'fine'],
    [
      () => checkTransaction({ ops: [], op: 1 }),
      `op: ${none} transaction; there are ops, expect, source, intent, key`,
    ],
    [() => checkTransaction({ ops: [], key: 5 }), 'key: 5 is not a string'],
    [() => checkTransaction({ ops: [op, { page: 5 }] }), 'ops[1].page: 5 is not a string'],
    [() => checkTransaction({ ops: [null] }), 'ops[0]: null is not an object'],
    [() => checkTransaction({ ops: [{ page: 'p', at: 1 }] }), `at: ${none} ops[0]; there are ${names}, page`],
    [() => checkTransaction({ ops: [], expect: [5] }), 'expect[0]: 5 is not an object'],
    [() => checkTransaction({ ops: [], expect: [{ version: 1 }] }), 'expect[0].page: is missing'],
    [
      () =>
        checkTransaction({
          ops: [],
          expect: [
            { page: 'p', version: 0 },
            { page: 'p', version: 0.5 },
          ],
        }),
      /^expect\[1\]\.version: 0\.5 is not a whole number from 0 to /,
    ],
    [() => checkWhatIf({ ops: [op], read: ['p'] }), 'fine'],
    [() => checkWhatIf({ ops: [], read: ['p', 5] }), 'read[1]: 5 is not a string'],
    [() => checkWhatIf({ ops: [5], read: [] }), 'ops[0]: 5 is not an object'],
    [() => checkWhatIf({ ops: [], read: [], key: 'k' }), `key: ${none} what-if; there are ops, read`],
    [() => checkDefinition('x', page.definition), 'fine'],
    [() => checkDefinition('x', { derive: {}, dtype: 'u8', shape: [1], location: 'cpu' }), 'fine'],
    [
      () => checkDefinition('x', { derive: {}, fill: 1 }),
      /^fill: .*; there are derive, dtype, shape, location$/,
    ],
    [() => checkDefinition('x', { size: 1 }), /^size: .*; there are dtype, shape, location, fill$/],
    [() => checkDefinitions([page]), 'fine'],
    [() => checkDefinitions([page, 5]), 'pages[1]: 5 is not an object'],
    [() => checkDefinitions([page, { name: 'y' }]), 'definition: is missing'],
    [() => checkDefinitions({}), /^pages: .* is not a list$/],
    [() => checkBusOptions({ dataDir: 'd', readOnly: true, untilEpoch: 3 }), 'fine'],
    [() => checkBusOptions({ dataDir: 'd', readOnly: false }), 'fine'],
    [() => checkBusOptions({ readOnly: true }), 'readOnly: there is no dataDir to read'],
    [() => checkBusOptions({ dataDir: 'd', untilEpoch: 3 }), 'untilEpoch: needs readOnly'],
    [
      () => checkBusOptions({ limits: { maxPages: 0 } }),
      /^limits\.maxPages: 0 is not a whole number from 1 to /,
    ],
    [() => checkFields('it', { a: undefined, b: true }, { a: isFlag, b: isFlag }), 'fine'],
    [() => checkFields('it', { toString: 1 }, { a: isFlag }), `toString: ${none} it; there are a`],
    [() => checkFields('it', { a: 5 }, { a: isFlag }, 'in.'), 'in.a: 5 is not true or false'],
  ] as const) {
    if (typeof wanted === 'string') t.equal(said(run), wanted)
    else t.match(said(run), wanted)
  }
})
