/** The outgoing side of a connection: in order, in one write a turn, counted while it is queued. */
import t from 'tap'
import { type MessageEncoder, type Outlet, SocketSink } from '../../../src/http/stream/socket-sink.js'
import { STREAM_FREE_BYTES } from '../../../src/limits.js'
import { LimitGuard } from '../../../src/operator-limits.js'
import { ChangeMessage, PagePart, type StreamMessage } from '../../../src/stream/messages.js'
import { StreamQueues } from '../../../src/stream/queues.js'
import { turn } from '../../lib/wait.js'
import { FakeClock } from '../../stream/fakes.js'

/** A socket that notes what happens to it, and takes large pieces when the test says so. */
class FakeOutlet {
  readonly log: string[] = []
  readonly taken: (() => void)[] = []
  writable = true
  writableLength = 0
  writableNeedDrain = false

  cork(): void {
    this.log.push('cork')
  }
  uncork(): void {
    this.log.push('uncork')
  }
  write(piece: Buffer, onTaken?: () => void): boolean {
    this.log.push(piece.length > 99 ? `${piece.length} bytes` : piece.toString())
    if (onTaken !== undefined) this.taken.push(onTaken)
    return true
  }
  destroy(error?: Error): void {
    this.log.push(`destroyed: ${error?.message}`)
  }
}

const link = () => ({ bytesWritten: 0, writableLength: 0, cuts: 0, destroy: () => {} })

/** Messages are their types; a change is large, and ready when the test says so. */
function setup() {
  const outlet = new FakeOutlet()
  const limits = new LimitGuard({ streamBudgetBytes: 2 ** 20 })
  const queues = new StreamQueues(limits, new FakeClock())
  const encoded: string[] = []
  let ready: (error?: Error) => void = () => {}
  const done = new Promise<void>((resolve, reject) => {
    ready = (error) => (error === undefined ? resolve() : reject(error))
  })
  const encoder: MessageEncoder = {
    encode: (id, { type }) => {
      encoded.push(`${type} ${id}`)
      return [Buffer.from(`${type} ${id}`)]
    },
    later: ({ type }) => (type === 'change' ? done : undefined),
  }
  const under = link()
  const sink = new SocketSink(outlet as unknown as Outlet, { queues, link: under as never, encoder })
  const used = () => new Map(limits.uses()).get('streamBudgetBytes')
  return { outlet, queues, sink, encoded, ready, used, under }
}

const small: StreamMessage = { type: 'progress', epoch: 1 }

function largeOf(bytes: number): ChangeMessage {
  const ranges = Uint32Array.of(0, bytes)
  const change = { pageId: 1, page: 'a', kind: 'source', dtype: 'u8', shape: [bytes], ranges } as const
  return new ChangeMessage(1, 1, [new PagePart(change, () => new Uint8Array(0))], 'values')
}

t.test('what is written in one turn goes out in one', async (t) => {
  const one = setup()
  const other = setup()
  one.sink.send('1', small)
  one.sink.send('2', small)
  other.sink.send('3', small)
  t.same(one.outlet.log, ['cork', 'progress 1', 'progress 2'])
  await turn()
  t.same(one.outlet.log.slice(3), ['uncork'])
  t.same(other.outlet.log, ['cork', 'progress 3', 'uncork'])
  one.sink.uncork()
  t.equal(one.outlet.log.length, 4, 'once')
  one.sink.write([Buffer.from('x')])
  await turn()
  t.same(one.outlet.log.slice(4), ['cork', 'x', 'uncork'], 'and again in a later turn')
})

t.test('what is behind a large message waits for it, in order', async (t) => {
  const { sink, outlet, encoded, ready, used } = setup()
  const order: string[] = []
  sink.onWritten = () => order.push(`written ${outlet.log.length}`)
  t.equal(sink.isCongested, false)
  sink.whenWritten(() => order.push('nothing waited'))
  t.same(order, [], 'not at once')
  await turn()
  t.same(order, ['nothing waited'])
  order.length = 0
  sink.send('1', largeOf(1_000))
  sink.send('2', small)
  sink.whenWritten(() => order.push('all before'))
  sink.write([Buffer.from('abc'), Buffer.from('d')])
  t.same([outlet.log, encoded], [[], ['progress 2']])
  outlet.writableLength = 5
  t.same([sink.queuedBytes, sink.sharedBytes, used()], [5 + 1_000 + 'progress 2'.length + 4, 1_000, 1_000])
  t.equal(sink.isCongested, true)
  ready()
  await turn()
  t.same(outlet.log, ['cork', 'change 1', 'progress 2', 'abc', 'd', 'uncork'])
  t.same(order, ['written 2', 'all before', 'written 5'])
  t.same([sink.queuedBytes, sink.sharedBytes, used(), sink.isCongested], [5, 0, 0, false])
  sink.send('3', small)
  t.equal(outlet.log.at(-1), 'progress 3', 'at once again')
  t.equal(order.length, 3, 'which is not worth a call')
})

t.test('what is encoded later is counted once for all that wait for it', async (t) => {
  const { queues, sink, ready, used } = setup()
  const other = setup()
  const second = new SocketSink(other.outlet as unknown as Outlet, {
    queues,
    link: link() as never,
    encoder: { encode: () => [], later: () => Promise.resolve() },
  })
  const message = largeOf(1_000)
  sink.send('1', message)
  second.send('1', message)
  t.equal(used(), 1_000)
  await turn()
  t.equal(used(), 1_000, 'one waits still')
  ready()
  await turn()
  t.equal(used(), 0)
})

t.test('a message that cannot be encoded ends the connection', async (t) => {
  const { sink, outlet, ready } = setup()
  sink.send('1', largeOf(1))
  ready(new Error('no'))
  await turn()
  t.same(outlet.log, ['destroyed: no'])
})

t.test('a large piece is shared, and counted until the socket has taken it', async (t) => {
  const { sink, outlet, used } = setup()
  const [most, more] = [Buffer.alloc(STREAM_FREE_BYTES), Buffer.alloc(STREAM_FREE_BYTES + 1)]
  sink.write([most])
  t.same([outlet.taken.length, sink.sharedBytes, used()], [0, 0, 0])
  sink.write([more, most])
  t.same([outlet.taken.length, sink.sharedBytes, used()], [1, more.length, more.length])
  outlet.taken[0]!()
  t.same([sink.sharedBytes, used()], [0, 0])
})

t.test('what the socket says of its queue', async (t) => {
  const { sink, outlet, under, queues, used } = setup()
  outlet.writableNeedDrain = true
  outlet.writableLength = 2 * STREAM_FREE_BYTES
  Object.assign(under, { bytesWritten: 70, writableLength: 30, destroy: () => under.cuts++ })
  t.same([sink.isCongested, sink.queuedBytes, sink.takenBytes], [true, 2 * STREAM_FREE_BYTES, 40])
  t.equal(used(), 0)
  sink.observe()
  t.equal(used(), 2 * STREAM_FREE_BYTES)
  sink.gone()
  t.equal(used(), 0)
  t.equal(queues.isFull, false)
  sink.cut()
  t.equal(under.cuts, 1)
})

t.test('what is ready is encoded ahead, and not sent', async (t) => {
  const { sink, outlet, encoded } = setup()
  sink.prepare('1', small)
  sink.prepare('1', largeOf(1))
  t.same([encoded, outlet.log], [['progress 1'], []])
})

t.test('after the end nothing is written, encoded or made', async (t) => {
  const { sink, outlet, encoded, ready } = setup()
  sink.write([Buffer.from('a')])
  let ran = 0
  sink.send('1', largeOf(1))
  sink.whenWritten(() => ran++)
  sink.closed()
  t.same(outlet.log, ['cork', 'a', 'uncork'], 'what was written before is sent')
  sink.send('2', small)
  sink.prepare('2', small)
  sink.write([Buffer.from('b')])
  ready()
  await turn()
  t.same([outlet.log.length, encoded, ran], [3, [], 0])
  const fresh = setup()
  fresh.sink.closed()
  fresh.sink.write([Buffer.from('b')])
  const ended = setup()
  ended.outlet.writable = false
  ended.sink.send('1', small)
  t.same([fresh.outlet.log, ended.outlet.log], [[], []])
})
