/** What WebSockets leave in the audit trail: transactions as JSON, and binary frames. */
import t from 'tap'
import { framesIn } from '../../../src/http/observe/session-audit.js'
import { JSON_PIECE_BYTES } from '../../../src/limits.js'
import type { CreatePageFields } from '../../../src/state/frame/layout.js'
import { FrameWriter } from '../../../src/state/frame/writer.js'
import { PAGE_ID_UNASSIGNED } from '../../../src/wire/frame.js'
import { decodeMessages } from '../../stream/binary.js'
import { Client } from '../../stream/helpers.js'
import { listen, SOURCE } from '../helpers.js'
import { ALL, type Audited, audited } from './audited.js'

const NEW_PAGE: Omit<CreatePageFields, 'name'> = {
  id: PAGE_ID_UNASSIGNED,
  dtype: 'u8',
  shape: [4],
  location: 'auto',
  kind: 'source',
  fill: 0n,
  definition: new Uint8Array(0),
}

const creating = (...names: string[]): Buffer => {
  const writer = new FrameWriter({})
  for (const name of names) writer.createPage({ ...NEW_PAGE, name })
  return Buffer.from(writer.finish())
}

const deleting = ({ bus }: Audited, ...names: string[]): Buffer => {
  const writer = new FrameWriter({})
  for (const name of names) writer.deletePage(bus.page(name).id)
  return Buffer.from(writer.finish())
}

const writing = ({ bus }: Audited, name: string, key?: string): Buffer => {
  const writer = new FrameWriter(key === undefined ? {} : { key })
  writer.delta(bus.page(name).id, 'f32', 4, { offset: 0, values: [1] })
  return Buffer.from(writer.finish())
}

const binaryClient = async (served: Audited, headers = {}): Promise<Client> =>
  Client.open((await listen(served)).port, ['mmsb.v1.bin'], { headers: { 'x-request-id': 'ws', ...headers } })

/** The answers to the first frames: their epochs, or the codes of their refusals. */
async function answers(client: Client, frames: number): Promise<(number | string)[]> {
  const found = new Map<number, number | string>()
  const read = (): boolean => {
    for (const { type, sequence = 0, count = 1, epoch = 0, code } of client.binary.flatMap(decodeMessages)) {
      if (type === 'ack') for (let i = 0; i < count; i++) found.set(sequence + i, epoch)
      if (type === 'refusal') found.set(sequence, code as string)
    }
    return found.size === frames
  }
  await client.until(read, `answers to ${frames} frames`)
  return [...found].sort(([a], [b]) => a - b).map(([, answer]) => answer)
}

t.test('the frames of a message', async (t) => {
  const frame = creating('a')
  const lengths = (message: Uint8Array): number[] => framesIn(message).map(({ length }) => length)
  t.same(lengths(Buffer.concat([frame, frame])), [frame.length, frame.length])
  t.same(lengths(Buffer.concat([frame, Buffer.from('x')])), [frame.length, 1])
  t.same(lengths(frame.subarray(0, 40)), [40], 'a frame that is cut')
  t.same(lengths(Buffer.alloc(100)), [100])
  t.same(lengths(Buffer.alloc(0)), [])
})

t.test('frames that create and delete pages have lines, those that write have none', async (t) => {
  const served = await audited(t, { principals: { boss: ALL, desk: ['define:d.*', 'read:d.*'] } })
  await served.bus.create('w', SOURCE as never)
  const client = await binaryClient(served, served.as('boss'))
  client.send(
    Buffer.concat([creating('a', 'b'), writing(served, 'w'), writing(served, 'w', 'k'), creating('w')]),
  )
  t.match(await answers(client, 4), [2, Number, Number, 'PAGE_EXISTS'])
  const boss = { principal: 'boss', requestId: 'of-boss', ip: '127.0.0.1', action: 'commitFrame' }
  t.match(await served.written(), [
    { ...boss, outcome: 'refused', pages: ['w'], code: 'PAGE_EXISTS' },
    { ...boss, outcome: 'done', pages: ['a', 'b'], epoch: 2 },
  ])
  client.send(deleting(served, 'b', 'a'))
  await answers(client, 5)
  t.match(await served.written(), [{ ...boss, outcome: 'done', pages: ['b', 'a'] }], 'names of what is gone')
  client.socket.terminate()
})

t.test('a frame that its sender may not commit has a line', async (t) => {
  const served = await audited(t, { principals: { boss: ALL, desk: ['define:d.*', 'read:d.*'] } })
  const client = await binaryClient(served, served.as('desk'))
  client.send(Buffer.concat([creating('d.a'), creating('e.a')]))
  t.match(await answers(client, 2), [1, 'PAGE_NOT_FOUND'])
  t.match(await served.written(), [
    { principal: 'desk', action: 'commitFrame', outcome: 'refused', pages: ['e.a'], code: 'PAGE_NOT_FOUND' },
    { principal: 'desk', action: 'commitFrame', outcome: 'done', pages: ['d.a'], epoch: 1 },
  ])
  client.socket.terminate()
})

t.test('writes have lines on request, frames of one answer together', async (t) => {
  const served = await audited(t, { withWrites: true })
  for (const name of ['w', 'v']) await served.bus.create(name, SOURCE as never)
  const client = await binaryClient(served)
  client.send(Buffer.concat([writing(served, 'w'), writing(served, 'v'), writing(served, 'w')]))
  await answers(client, 3)
  t.match(await served.written(), [
    { requestId: 'ws', action: 'commitFrame', outcome: 'done', pages: ['w', 'v'], count: 3, epoch: 3 },
  ])
  client.send({ type: 'transaction', id: 't', ops: [{ page: 'v', offset: 0, values: [2] }] })
  client.send({ type: 'transaction', id: 'u', ops: [{ page: 'none', offset: 0, values: [2] }] })
  await client.until(() => client.messages.length === 2)
  const lines = await served.written()
  t.match(
    lines.toSorted((a, b) => String(a.outcome).localeCompare(String(b.outcome))),
    [
      { action: 'commitTransaction', outcome: 'done', pages: ['v'], epoch: 4 },
      { action: 'commitTransaction', outcome: 'refused', pages: ['none'], code: 'PAGE_NOT_FOUND' },
    ],
  )
  client.socket.terminate()
})

t.test('closed: frames wait for their line, and are refused if there can be none', async (t) => {
  const served = await audited(t, { fail: 'closed' })
  await served.bus.create('w', SOURCE as never)
  const client = await binaryClient(served)
  client.send(Buffer.concat([creating('a'), writing(served, 'w')]))
  client.send(writing(served, 'w'))
  client.send({ type: 'transaction', id: 't', ops: [{ page: 'w', offset: 0, values: [2] }] })
  t.match(await answers(client, 3), [2, Number, Number])
  await client.until(() => client.messages.length === 1)
  t.match(client.messages[0], { type: 'ack', id: 't' }, 'what comes behind is answered too')
  t.match(await served.written(), [
    { action: 'commitFrame', outcome: 'begun', requestId: 'ws' },
    { action: 'commitFrame', outcome: 'done', pages: ['a'], epoch: 2 },
  ])
  served.fault.isOn = true
  client.send(Buffer.concat([creating('b'), creating('c'), deleting(served, 'a')]))
  client.send(writing(served, 'w'))
  client.send(writing(served, 'w', 'k'))
  const [, , , ...later] = await answers(client, 8)
  t.match(later, ['AUDIT_FAILED', 'AUDIT_FAILED', 'AUDIT_FAILED', Number, Number])
  served.fault.isOn = false
  t.same(
    [...served.bus.pages().pages].map(({ name }) => name),
    ['a', 'w'],
  )
  client.socket.terminate()
})

t.test('closed, with writes: no write without its line', async (t) => {
  const served = await audited(t, { fail: 'closed', withWrites: true })
  await served.bus.create('w', SOURCE as never)
  const client = await binaryClient(served)
  const transaction = (id: string, page: string, padding = 0): object => ({
    ...{ type: 'transaction', id, intent: 'x'.repeat(padding), ops: [{ page, offset: 0, values: [2] }] },
  })
  client.send(writing(served, 'w'))
  client.send(transaction('one', 'w'))
  client.send(transaction('two', 'none'))
  client.send(`${JSON.stringify(transaction('large', 'w'))}${' '.repeat(JSON_PIECE_BYTES)}`)
  client.send(transaction('three', 'w'))
  await client.until(() => client.messages.length === 4 && client.binary.length > 0)
  t.same(client.messages.map(({ id, code }) => `${id} ${code ?? 'done'}`).sort(), [
    'large done',
    'one done',
    'three done',
    'two PAGE_NOT_FOUND',
  ])
  const lines = await served.written()
  t.equal(lines.filter(({ outcome }) => outcome === 'begun').length, 5)
  t.equal(lines.filter(({ outcome }) => outcome === 'done').length, 4)
  const { epoch } = served.bus
  served.fault.isOn = true
  client.send(writing(served, 'w'))
  client.send(transaction('four', 'w'))
  await client.until(() => client.messages.length === 5)
  t.match(client.messages[4], { type: 'error', id: 'four', code: 'AUDIT_FAILED' })
  t.equal((await answers(client, 2))[1], 'AUDIT_FAILED')
  const { body } = await served.call('PATCH', '/v1/pages/w/data', { offset: 0, values: [1] })
  t.match(body, { code: 'AUDIT_FAILED' })
  t.equal(served.bus.epoch, epoch)
  client.socket.terminate()
})
