/** Windows on pages: messages carry the window of a page and nothing else of it. */
import fc from 'fast-check'
import t from 'tap'
import { patternSet } from '../../../src/state/pattern.js'
import { unionRanges } from '../../../src/state/ranges.js'
import { cutRanges, rangesOf, viewportsOf } from '../../../src/stream/views/viewport.js'
import { listen, type Served, serve } from '../../http/helpers.js'
import { Draw } from '../../lib/draw.js'
import { type BinaryChange, type BinaryMessage, decodeMessages } from '../binary.js'
import { Client, type Message, Mirror } from '../helpers.js'

type Test = Parameters<typeof serve>[0]
type Bounds = [start: number, stop: number][]

/** The elements of a page inside a window, row-major, one by one. */
function elementsIn(bounds: Bounds, shape: readonly number[]): number[] {
  let elements = [0]
  for (const [axis, [start, stop]] of bounds.entries()) {
    const steps = Array.from({ length: stop - start }, (_, i) => start + i)
    elements = elements.flatMap((element) => steps.map((step) => element * shape[axis]! + step))
  }
  return elements
}

const flat = (ranges: Uint32Array): number[] => {
  const out: number[] = []
  for (let i = 0; i < ranges.length; i += 2) for (let j = 0; j < ranges[i + 1]!; j++) out.push(ranges[i]! + j)
  return out
}

const axis = fc.tuple(fc.integer({ min: 1, max: 5 }), fc.nat(4), fc.nat(4)).map(([size, a, b]) => ({
  size,
  start: Math.min(a, b, size - 1),
  stop: Math.min(Math.max(a, b) + 1, size),
}))

t.test('ranges are cut to the window, whatever its rank', async (t) => {
  const cutsRight = fc.property(
    fc.array(axis, { maxLength: 4 }),
    fc.array(fc.nat(700), { maxLength: 12 }),
    (axes, marks) => {
      const shape = axes.map(({ size }) => size)
      const bounds = axes.map(({ start, stop }): [number, number] => [start, stop])
      const total = shape.reduce((product, size) => product * size, 1)
      const touched = marks.filter((mark) => mark < total)
      const ranges = touched.reduce<Uint32Array>(
        (all, at) => unionRanges(all, Uint32Array.of(at, 1)),
        new Uint32Array(0),
      )
      const window = viewportsOf({ p: bounds }, patternSet(['p'])).windowOf('p', shape)!
      const elements = elementsIn(bounds, shape)
      const { inside, read } = cutRanges(window, ranges)
      const seen = flat(ranges).filter((element) => elements.includes(element))
      return (
        JSON.stringify(flat(rangesOf(window))) === JSON.stringify(elements) &&
        JSON.stringify(flat(read)) === JSON.stringify(seen) &&
        JSON.stringify(flat(inside)) === JSON.stringify(seen.map((element) => elements.indexOf(element)))
      )
    },
  )
  t.doesNotThrow(() => fc.assert(cutsRight, { numRuns: 2000 }))
})

interface Streamed extends Served {
  connect(protocol?: string): Promise<Client>
}

async function stream(t: Test): Promise<Streamed> {
  const served = await serve(t)
  const { port } = await listen(served)
  const connect = async (protocol = 'mmsb.v1.json') => {
    const client = await Client.open(port, [protocol])
    t.teardown(() => client.socket.terminate())
    return client
  }
  return { ...served, connect }
}

const sameBytes = (a: Float32Array, b: Float32Array): boolean =>
  Buffer.compare(Buffer.from(a.buffer), Buffer.from(b.buffer)) === 0

const SIDE = 2048
const WINDOW = 256

/** A binary message in the form that a mirror takes. */
const plain = (message: BinaryMessage): Message => {
  const values = (change: BinaryChange) => ({ ...change, values: Array.from(change.values as Float32Array) })
  const changes = (message.changes ?? []).map(values)
  if (message.type !== 'snapshot') return { ...message, changes } as Message
  const pages = Object.fromEntries(changes.map((change) => [change.page, change]))
  return { ...message, pages } as unknown as Message
}

t.test(
  'a window of 256 x 256 of a page of 2048 x 2048 equals the server’s slice at each epoch',
  async (t) => {
    const { bus, connect } = await stream(t)
    await bus.create('map', { dtype: 'f32', shape: [SIDE, SIDE] })
    await bus.create('other', { dtype: 'f32', shape: [2] })
    const [top, left] = [900, 1700]
    const slice = {
      map: [
        [top, top + WINDOW],
        [left, left + WINDOW],
      ],
    }
    const rows = Array.from({ length: WINDOW }, (_, row) => row)
    const here = () => {
      const page = bus.read('map') as Float32Array
      const start = (row: number) => (top + row) * SIDE + left
      return Float32Array.from(rows.flatMap((row) => [...page.subarray(start(row), start(row) + WINDOW)]))
    }
    const [json, binary] = [await connect(), await connect('mmsb.v1.bin')]
    const subscribe = { type: 'subscribe', id: 's', pages: ['map', 'other'], slice, from: 'snapshot' }
    json.send(subscribe)
    binary.send(subscribe)
    const decoded: Message[] = []
    const messages = () => {
      for (const message of binary.binary.slice(decoded.length))
        decoded.push(...decodeMessages(message).map(plain))
      return decoded
    }
    await json.until(() => json.messages.length === 2)
    await binary.until(() => messages().length === 2)

    const draw = new Draw(11)
    const expected = new Map<number, Float32Array>()
    let before = here()
    const commit = async (delta: Parameters<typeof bus.patch>[1]) => {
      const { epoch } = await bus.patch('map', delta)
      const after = here()
      if (Buffer.compare(Buffer.from(before.buffer), Buffer.from(after.buffer)) !== 0)
        expected.set(epoch, after)
      before = after
    }
    const value = () => Math.fround(draw.int(1, 1e6) / 7)
    const around = (row: number, column: number) => (top + row) * SIDE + left + column
    for (let round = 0; round < 12; round++) {
      const offset = around(draw.int(-40, WINDOW + 40), draw.int(-40, WINDOW + 40))
      const values = Array.from({ length: draw.int(1, 300) }, value)
      if (round % 3 === 0) await commit({ offset, values })
      else if (round % 3 === 1) {
        const indices = Array.from({ length: 20 }, () => around(draw.int(-200, 400), draw.int(-200, 300)))
        await commit({ indices, values: indices.map(value) })
      } else
        await commit({ offset: around(round, -left), values: new Float32Array(3 * SIDE).fill(round + 1) })
    }
    // Up to the first element of a row of the window, and from the one after its last.
    for (const column of [-5, WINDOW]) await commit({ offset: around(3, column), values: [1, 2, 3, 4, 5] })
    for (const column of [-5, WINDOW - 1])
      await commit({ offset: around(3, column), values: Array(6).fill(9) })
    await commit({ offset: 0, values: new Float32Array(SIDE * SIDE).fill(0.5) })
    await commit({ offset: 0, values: [7] })
    const { epoch } = await bus.patch('other', { values: [1] })

    await json.until(() => json.messages.at(-1)?.epoch === epoch)
    await binary.until(() => messages().at(-1)?.epoch === epoch)
    for (const [name, got] of [
      ['JSON', json.messages],
      ['binary', messages()],
    ] as const) {
      const mirror = new Mirror()
      const seen: number[] = []
      for (const message of got) {
        mirror.apply(message)
        if (message.type !== 'change' || message.epoch === epoch) continue
        seen.push(message.epoch!)
        const values = Float32Array.from(mirror.pages.get('map') as number[])
        t.ok(sameBytes(values, expected.get(message.epoch!)!), `${name}: epoch ${message.epoch}`)
      }
      t.same(mirror.faults, [])
      t.same(seen, [...expected.keys()], `${name}: epochs that change nothing inside are not told`)
    }
    const whole = messages().at(-2)!
    t.same(whole.changes![0]!.ranges, [[0, WINDOW * WINDOW]], 'a window that changed wholly is one range')
    t.ok(Math.max(...binary.binary.map(({ length }) => length)) < WINDOW * WINDOW * 4 + 200)
  },
)

t.test('windows with folding, with ranges only, and from an epoch gone by', async (t) => {
  const { bus, connect } = await stream(t)
  const client = await connect()
  const base = {
    type: 'subscribe',
    pages: ['grid.*'],
    slice: {
      'grid.a': [
        [1, 3],
        [2, 4],
      ],
    },
  }
  client.send({ ...base, id: 'folded', from: 'snapshot', maxRate: 5 })
  client.send({ ...base, id: 'live' })
  await client.ask({ ...base, id: 'ranges', data: 'ranges' })
  const { epoch } = await bus.create('grid.a', { dtype: 'i32', shape: [4, 5] })
  for (let i = 1; i <= 30; i++) await bus.patch('grid.a', { offset: (i * 7) % 17, values: [i, i, i] })
  const window = () => {
    const page = [...bus.read('grid.a')]
    return [7, 8, 12, 13].map((element) => page[element])
  }
  const live = () => client.changes('live')
  await client.until(() => live().length > 10)
  const from = await connect()
  from.send({ ...base, id: 'live', from: epoch - 1 })
  await bus.patch('grid.a', { offset: 13, values: [99] })
  const last = bus.epoch
  await client.until(() => live().at(-1)?.epoch === last && client.changes('folded').at(-1)?.epoch === last)
  await from.until(() => from.changes('live').at(-1)?.epoch === last)
  t.same(from.changes('live'), live(), 'from an epoch gone by: the same')
  t.match(live()[0]!.changes, [{ page: 'grid.a', kind: 'created', shape: [2, 2], ranges: [[0, 4]] }])
  const folded = new Mirror()
  for (const message of client.messages) if (message.id === 'folded') folded.apply(message)
  t.same(folded.pages.get('grid.a'), window())
  t.ok(client.changes('folded').some(({ first, epoch }) => first! < epoch!))
  const ranges = (id: string) => client.changes(id).map(({ epoch, changes }) => [epoch, changes![0]!.ranges])
  t.same(ranges('ranges'), ranges('live'))
  await bus.delete('grid.a')
  await client.until(() => live().some(({ changes }) => changes![0]!.kind === 'deleted'))
})

t.test('windows that do not fit are refused, at once or when the page comes', async (t) => {
  const { bus, connect } = await stream(t)
  await bus.create('a', { dtype: 'f32', shape: [4, 6] })
  const client = await connect()
  const cases: [unknown, string][] = [
    [
      {
        a: [
          [0, 5],
          [0, 6],
        ],
      },
      'SHAPE_MISMATCH',
    ],
    [{ a: [[0, 4]] }, 'SHAPE_MISMATCH'],
    [{ a: [] }, 'SHAPE_MISMATCH'],
    [
      {
        a: [
          [0, 1],
          [0, 1],
          [0, 1],
        ],
      },
      'SHAPE_MISMATCH',
    ],
    [
      {
        a: [
          [2, 2],
          [0, 6],
        ],
      },
      'INVALID_REQUEST',
    ],
    [
      {
        a: [
          [3, 1],
          [0, 6],
        ],
      },
      'INVALID_REQUEST',
    ],
    [
      {
        a: [
          [-1, 1],
          [0, 6],
        ],
      },
      'INVALID_REQUEST',
    ],
    [
      {
        a: [
          [0, 1.5],
          [0, 6],
        ],
      },
      'INVALID_REQUEST',
    ],
    [
      {
        a: [
          [0, 1, 2],
          [0, 6],
        ],
      },
      'INVALID_REQUEST',
    ],
    [
      {
        a: [
          ['0', 1],
          [0, 6],
        ],
      },
      'INVALID_REQUEST',
    ],
    [{ a: [0, 1] }, 'INVALID_REQUEST'],
    [{ a: 'all' }, 'INVALID_REQUEST'],
    [{ b: [[0, 1]] }, 'INVALID_REQUEST'],
    [[[0, 1]], 'INVALID_REQUEST'],
    ['{"__proto__":[[0,1]]}', 'INVALID_REQUEST'],
  ]
  for (const [slice, code] of cases) {
    const text = typeof slice === 'string' ? slice : JSON.stringify(slice)
    const before = client.messages.length
    client.send(`{"type":"subscribe","id":"s","pages":["a","later"],"slice":${text}}`)
    await client.until(() => client.messages.length > before)
    t.match(client.messages.at(-1), { type: 'error', id: 's', code }, text)
  }
  const slice = { later: [[1, 3]] }
  t.match(await client.ask({ type: 'subscribe', id: 'fits', pages: ['*'], slice }), { type: 'subscribed' })
  await bus.create('later', { dtype: 'u8', shape: [3], fill: 4 })
  const created = await client.next((m) => m.type === 'change')
  t.match(created, { changes: [{ page: 'later', shape: [2], values: [4, 4] }] })
  await bus.delete('later')
  await bus.create('later', { dtype: 'u8', shape: [2] })
  t.match(await client.next((m) => m.id === 'fits' && m.type === 'error'), { code: 'SHAPE_MISMATCH' })
  await bus.patch('a', { values: [1] })
  t.match(await client.ask({ type: 'unsubscribe', id: 'fits' }), { type: 'error' }, 'it has ended')
})
