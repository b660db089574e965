/** Fixed limits of the HTTP face: each at its value, and one beyond. What counts comes down again. */
import { EventEmitter } from 'node:events'
import { connect as connectSocket, type Socket } from 'node:net'
import { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { Answers } from '../../src/http/answers.js'
import { answerWhileReading, mayBeLarge } from '../../src/http/reply/early-answer.js'
import { renderParts, renderPieces } from '../../src/http/reply/json-values.js'
import { PagesBody } from '../../src/http/schemas/pages.js'
import { UnsubscribeMessage } from '../../src/http/schemas/stream.js'
import { Check } from '../../src/http/typebox.js'
import {
  ANSWER_FREE_BYTES,
  HTTP_HEADERS_MAX_BYTES,
  HTTP_PARAM_MAX_LENGTH,
  JSON_PIECE_BYTES,
  JSON_PIECE_ELEMENTS,
  OCTETS_PIECE_BYTES,
  PAGES_AT_ONCE_MAX,
  READ_SLICE_BYTES,
  REFUSED_BODY_MAX_BYTES,
  REQUEST_FREE_BYTES,
  STREAM_ID_MAX_LENGTH,
} from '../../src/limits.js'
import { LimitGuard, type LimitName } from '../../src/operator-limits.js'
import { Client } from '../stream/helpers.js'
import { listen, serve } from './helpers.js'

t.test('pages of every size at which reading or writing goes another way', async (t) => {
  const { call, bus } = await serve(t)
  const sizes = [
    JSON_PIECE_ELEMENTS,
    JSON_PIECE_BYTES,
    ANSWER_FREE_BYTES,
    OCTETS_PIECE_BYTES,
    READ_SLICE_BYTES,
  ]
  for (const size of new Set(sizes.flatMap((size) => [size - 1, size, size + 1]))) {
    const name = `p${size}`
    await bus.create(name, { dtype: 'u8', shape: [size] })
    const values = Buffer.alloc(size).map((_, i) => (i * 7 + size) & 0xff)
    t.equal((await call('PUT', `/v1/pages/${name}/data`, values)).status, 200)
    const octets = await call('GET', `/v1/pages/${name}/data`, undefined, {
      accept: 'application/octet-stream',
    })
    t.ok(octets.raw.equals(values), `${size} bytes`)
    const { body } = await call('GET', `/v1/pages/${name}/data`, undefined, { accept: 'application/json' })
    t.ok(Buffer.from(body.values as number[]).equals(values), `${size} numbers in JSON`)
    const turned = Array.from(values, (value) => 255 - value)
    t.equal((await call('PUT', `/v1/pages/${name}/data`, { values: turned })).status, 200)
    t.ok(Buffer.from(turned).equals(bus.read(name) as Uint8Array), `${size} numbers written as JSON`)
  }
})

t.test('JSON is sent in pieces beyond so many values, or bytes', async (t) => {
  const page = (length: number) => ({ dtype: 'u8' as const, values: new Uint8Array(length) })
  t.type(renderPieces(['[', page(JSON_PIECE_ELEMENTS), ']']), 'string')
  t.ok(renderPieces(['[', page(JSON_PIECE_ELEMENTS), page(1), ']']) instanceof Readable)
  t.ok(Buffer.isBuffer(renderParts([new Uint8Array(ANSWER_FREE_BYTES)])))
  t.ok(renderParts([new Uint8Array(ANSWER_FREE_BYTES + 1)]) instanceof Readable)
})

t.test('answers count beyond a few bytes, until they have ended', async (t) => {
  const answers = new Answers(new LimitGuard())
  const raw = Object.assign(new EventEmitter(), { socket: null })
  answers.reserve({ raw, request: {} } as never, ANSWER_FREE_BYTES)
  t.equal(answers.bytes, 0)
  answers.reserve({ raw, request: {} } as never, ANSWER_FREE_BYTES + 1)
  t.equal(answers.bytes, ANSWER_FREE_BYTES + 1)
  raw.emit('finish')
  raw.emit('close')
  t.equal(answers.bytes, 0)
})

t.test('request bodies count beyond a few bytes', async (t) => {
  const large = (headers: Record<string, string>): boolean => mayBeLarge({ headers } as never)
  t.notOk(large({ 'content-length': String(REQUEST_FREE_BYTES) }))
  t.ok(large({ 'content-length': String(REQUEST_FREE_BYTES + 1) }))
  t.ok(large({ 'content-length': '100000000' }))
  t.ok(large({ 'transfer-encoding': 'chunked' }))
  t.notOk(large({}))
})

t.test('the rest of a refused body is read up to a number of bytes', async (t) => {
  const request = Object.assign(new EventEmitter(), { resume: () => request })
  const answer = answerWhileReading(request as never, 'no')
  let isOver = false
  answer.on('end', () => {
    isOver = true
  })
  answer.resume()
  const piece = Buffer.alloc(1024 ** 2)
  for (let bytes = 0; bytes < REFUSED_BODY_MAX_BYTES; bytes += piece.length) request.emit('data', piece)
  await new Promise(setImmediate)
  t.notOk(isOver)
  request.emit('data', Buffer.alloc(1))
  await new Promise(setImmediate)
  t.ok(isOver)
  t.equal(request.listenerCount('data'), 0)
})

t.test('the headers of a request, and a parameter in its path', async (t) => {
  const served = await serve(t)
  const { port } = await listen(served)
  const status = (bytes: number): Promise<string> =>
    new Promise((resolve, reject) => {
      const head = ['GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX: ', '\r\n\r\n']
      const padding = 'x'.repeat(bytes - head.join('').length)
      const socket = connectSocket(port, '127.0.0.1', () => socket.write(head.join(padding)))
      let text = ''
      socket.setEncoding('utf8').on('data', (piece) => {
        text += piece
      })
      socket.on('close', () => resolve(text.split('\r\n')[0]!)).on('error', reject)
    })
  t.match(await status(HTTP_HEADERS_MAX_BYTES - 256), /^HTTP\/1\.1 200 /)
  t.match(await status(HTTP_HEADERS_MAX_BYTES + 256), /^HTTP\/1\.1 431 /)
  const path = async (length: number) =>
    (await served.call('GET', `/v1/pages/${'x'.repeat(length)}`)).body.detail
  t.not(await path(HTTP_PARAM_MAX_LENGTH), await path(HTTP_PARAM_MAX_LENGTH + 1))
})

t.test('pages in one request, and the length of an id', async (t) => {
  const pages = (count: number) => ({
    pages: Array.from({ length: count }, (_, i) => ({ name: `p${i}`, dtype: 'u8', shape: [1] })),
  })
  t.ok(Check(PagesBody, pages(PAGES_AT_ONCE_MAX)))
  t.notOk(Check(PagesBody, pages(PAGES_AT_ONCE_MAX + 1)))
  const message = (length: number) => ({ type: 'unsubscribe', id: 'x'.repeat(length) })
  t.ok(Check(UnsubscribeMessage, message(STREAM_ID_MAX_LENGTH)))
  t.notOk(Check(UnsubscribeMessage, message(STREAM_ID_MAX_LENGTH + 1)))
})

t.test('all that is counted up comes down when those who caused it are gone', async (t) => {
  const served = await serve(t)
  const { bus } = served
  const { port } = await listen(served)
  const uses = (): [LimitName, number][] => bus.limits.uses().map(([name, used]) => [name, used])
  const until = async (isMet: (used: number) => boolean): Promise<void> => {
    for (let i = 0; i < 1_000 && !uses().every(([, used]) => isMet(used)); i++) await sleep(10)
    for (const [name, used] of uses()) t.ok(isMet(used), `${name}: ${used}`)
  }
  await until((used) => used === 0)
  const size = 4 * 1024 ** 2
  await bus.create('big', { dtype: 'u8', shape: [size] })
  await bus.defineFunction('f', { params: ['x'], expr: 'x + 1' })
  const sockets: Socket[] = []
  const raw = (text: string, bytes = 0): void => {
    const socket = connectSocket(port, '127.0.0.1', () => {
      socket.write(text)
      socket.write(Buffer.alloc(bytes, 0x20))
    })
    socket.on('error', () => {}).pause()
    sockets.push(socket)
  }
  // Answers that are not read, a body and a message of which the rest does not come.
  for (let i = 0; i < 4; i++)
    raw('GET /v1/pages/big/data HTTP/1.1\r\nhost: localhost\r\naccept: application/json\r\n\r\n')
  raw(
    `PUT /v1/pages/big/data HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/octet-stream\r\ncontent-length: ${size}\r\n\r\n`,
    size / 2,
  )
  const clients = [await Client.open(port), await Client.open(port)]
  const [sending, reading] = clients
  const inner = (sending!.socket as unknown as { _socket: Socket })._socket
  const head = Buffer.alloc(14)
  head.writeUInt16BE(0x01ff, 0)
  head.writeUIntBE(size, 4, 6)
  inner.write(head)
  inner.write(Buffer.alloc(size / 2, 0x20))
  await reading!.ask({ type: 'subscribe', id: 's', pages: ['big'] })
  reading!.socket.pause()
  await bus.write('big', new Uint8Array(size).fill(7))
  await until((used) => used > 0)
  for (const socket of sockets) socket.destroy()
  for (const { socket } of clients) socket.terminate()
  await bus.delete('big')
  await bus.deleteFunction('f')
  await until((used) => used === 0)
})
