/**
 * A reader that stops reading: memory stays bounded, other readers are unaffected, and the reader can resume.
 */
import t from 'tap'
import { STREAM_QUEUE_MAX_BYTES, STREAM_RECENT_MAX_BYTES } from '../../../src/limits.js'
import { Client, Mirror } from '../../stream/helpers.js'
import { listen, serve } from '../helpers.js'

const ELEMENTS = 64 * 1024
/** Enough to fill the sockets' own buffers and the queue several times over. */
const COMMITS = 400

t.test('lossless overflows, latest folds, others see every epoch', async (t) => {
  const { bus, server, ...rest } = await serve(t)
  const { port } = await listen({ bus, server, ...rest })
  await bus.create('wide', { dtype: 'u8', shape: [ELEMENTS] })
  const open = async () => {
    const client = await Client.open(port)
    t.teardown(() => client.socket.terminate())
    return client
  }
  const [stalled, folding, good] = [await open(), await open(), await open()]
  await stalled.ask({ type: 'subscribe', id: 's', pages: ['wide'], policy: 'lossless' })
  await folding.ask({ type: 'subscribe', id: 's', pages: ['wide'], policy: 'latest' })
  await good.ask({ type: 'subscribe', id: 's', pages: ['wide'], data: 'ranges' })
  const from = bus.epoch
  stalled.socket.pause()
  folding.socket.pause()
  const baseline = process.memoryUsage().arrayBuffers
  let peak = 0
  for (let i = 1; i <= COMMITS; i++) {
    // Three digits per value make the text of one epoch about 256 KiB.
    await bus.write('wide', new Uint8Array(ELEMENTS).fill(100 + (i % 100)))
    peak = Math.max(peak, process.memoryUsage().arrayBuffers - baseline)
  }
  await good.until(() => good.changes('s').length === COMMITS)
  t.ok(peak < 4 * STREAM_QUEUE_MAX_BYTES + STREAM_RECENT_MAX_BYTES, `at most ${peak} bytes more`)

  stalled.socket.resume()
  const overflow = await stalled.next((m) => m.type === 'overflow')
  const seen = stalled.changes('s').map(({ epoch }) => epoch)
  t.same(
    seen,
    Array.from({ length: seen.length }, (_, i) => from + 1 + i),
    'no epoch is missing before the end',
  )
  t.equal(overflow.resumeFrom, from + seen.length)
  t.ok(seen.length < COMMITS)
  t.match(await stalled.ask({ type: 'subscribe', id: 's', pages: ['wide'], from: 'snapshot' }), {
    type: 'subscribed',
  })

  folding.socket.resume()
  await folding.until(() => folding.messages.at(-1)?.epoch === bus.epoch)
  const mirror = new Mirror()
  for (const message of [
    {
      type: 'snapshot',
      epoch: from,
      pages: { wide: { dtype: 'u8', shape: [ELEMENTS], version: 1, values: Array(ELEMENTS).fill(0) } },
    },
    ...folding.messages,
  ]) {
    mirror.apply(message)
  }
  t.same(mirror.faults, [])
  t.same(mirror.pages.get('wide'), [...bus.read('wide')])
  t.ok(
    folding.changes('s').some(({ first, epoch }) => first! < epoch!),
    'some were folded',
  )
})
