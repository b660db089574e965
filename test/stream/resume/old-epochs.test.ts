/**
 * Readers that begin at an old epoch get what a live reader got, whatever the boundary is between
 * log and memory.
 */
import t from 'tap'
import { STREAM_QUEUE_MAX_BYTES } from '../../../src/limits.js'
import type { Connection } from '../../../src/stream/connection.js'
import { turn, turns } from '../../lib/wait.js'
import { create, FAKE_HISTORY, type FakeSink, remove, set, setup } from '../fakes.js'

t.test('from an old epoch: the messages a live reader got, then live, whatever the boundary', async (t) => {
  let seed = 11
  const random = (below: number): number => {
    seed = (seed * 1103515245 + 12345) & 0x7fffffff
    return (seed >> 8) % below
  }
  let fromMemory = 0
  for (let round = 0; round < 60; round++) {
    const { bus, clock, connect } = setup()
    bus.pieceEpochs = 1 + random(6)
    const options = {
      pages: [['*'], ['a', 'p*'], ['b']][random(3)]!,
      data: (['values', 'ranges', 'none'] as const)[random(3)]!,
    }
    const live = connect()
    live.connection.subscribe('m', { ...options, from: 1 })
    const readers: { from: number; sink: FakeSink; connection: Connection }[] = []
    for (let i = 0; i < 80; i++) {
      const names = bus.pageNames()
      const name = names[random(names.length)]
      const dice = random(12)
      if (dice === 0) bus.commit(create(`p${random(1e6)}`, 1 + random(4)))
      else if (dice === 1 && name !== undefined && names.length > 1) bus.commit(remove(name))
      else if (name !== undefined) bus.commit(set(name, [random(bus.values(name).length), random(1000)]))
      if (random(4) === 0) {
        const from = random(bus.epoch + 1)
        const reader = { from, ...connect() }
        reader.sink.queuedBytes = random(2) * STREAM_QUEUE_MAX_BYTES
        const { asked } = bus
        reader.connection.subscribe('m', { ...options, from })
        if (bus.asked === asked && from < bus.epoch) fromMemory++
        readers.push(reader)
      }
      if (random(3) > 0) await turn()
      for (const { sink, connection } of readers) {
        if (sink.queuedBytes === 0 || random(3) > 0) continue
        sink.queuedBytes = 0
        connection.drained()
      }
      clock.advance(random(3))
    }
    for (const { sink, connection } of readers) {
      sink.queuedBytes = 0
      connection.drained()
    }
    await turns(100)
    const all = live.sink.got.filter(({ type }) => type === 'change')
    for (const { from, sink } of readers) {
      t.same(sink.got[0], { type: 'subscribed', id: 'm', epoch: from, history: FAKE_HISTORY })
      const got = sink.got.filter(({ type }) => type === 'change')
      t.same(
        got.filter(({ epoch }) => epoch! > 1),
        all.filter(({ epoch }) => epoch! > from),
        `from ${from} of ${bus.epoch}`,
      )
    }
  }
  t.ok(fromMemory > 0, `${fromMemory} went on from memory alone`)
})
