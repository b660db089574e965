/** Bodies that are wrong, endless, or never end. */
import { setTimeout as sleep } from 'node:timers/promises'
import { gzipSync } from 'node:zlib'
import { type Abuser, CUT, type Field, type Piece } from '../field.js'

const MIB = 1024 ** 2
const PATCH = '/v1/pages/used/data'

const OBJECTS = '{},'.repeat(100_000)
const BRACKETS = '['.repeat(MIB)
const NUMBERS = '1,'.repeat(100_000)
/** A small body that becomes 64 MiB when it is unpacked. */
const PACKED = gzipSync(Buffer.alloc(64 * MIB))

/** Objects where numbers belong: far above the largest body, or just below it. */
async function objects(field: Field): Promise<void> {
  const times = field.draw.chance(0.3) ? 223 : 26
  const pieces: Piece[] = [
    ['{"values":[', 1],
    [OBJECTS, times],
    ['{}]}', 1],
  ]
  await field.send('PATCH', PATCH, { pieces })
}

async function nesting(field: Field): Promise<void> {
  await field.send('PATCH', PATCH, { pieces: [[BRACKETS, field.draw.int(1, 7)]] })
}

/** Four million right numbers, and one field that does not exist. */
async function unknownField(field: Field): Promise<void> {
  const pieces: Piece[] = [
    ['{"values":[', 1],
    [NUMBERS, 40],
    ['1],"oops":1}', 1],
  ]
  await field.send('PATCH', PATCH, { pieces })
}

/** Says that 64 MiB come, sends a part, and waits. */
async function halfSent(field: Field): Promise<void> {
  const socket = await field.connect()
  if (socket === undefined) return
  const page = field.draw.pick(['big', 'not.there'])
  socket.write(
    `PUT /v1/pages/${page}/data HTTP/1.1\r\nhost: 127.0.0.1:${field.port}\r\ncontent-type: application/octet-stream\r\ncontent-length: ${64 * MIB}\r\n\r\n`,
  )
  let text = ''
  socket.on('data', (chunk: Buffer) => {
    text += chunk.toString('latin1')
  })
  const part = new Uint8Array(MIB)
  for (let sent = 0; sent < 60 && text === '' && !socket.destroyed; sent++) {
    socket.write(part)
    await sleep(50)
  }
  field.count(/"code":"([A-Z_]+)"/.exec(text)?.[1] ?? (text === '' ? 'left waiting' : CUT))
  await sleep(500)
  socket.destroy()
}

/** Names that change, so that pages are made until there is no more room; then takes some back. */
async function manyPages(field: Field): Promise<void> {
  const set = field.draw.int(0, 9)
  const pages = Array.from({ length: 3_000 }, (_, i) => ({
    name: `many.${set}.${i}`,
    dtype: 'f64',
    shape: [8],
  }))
  await field.json('POST', '/v1/pages', { pages })
  for (let i = 0; i < 20; i++) await field.send('DELETE', `/v1/pages/many.${set}.${field.draw.int(0, 2_999)}`)
}

/** Packed bytes must not become values, nor be unpacked. */
async function packed(field: Field): Promise<void> {
  const headers = { 'content-encoding': 'gzip' }
  const type = field.draw.pick(['application/octet-stream', 'application/json'])
  await field.send('PATCH', PATCH, { type, pieces: [[PACKED, 1]] }, headers)
}

export const BODIES: readonly Abuser[] = [
  {
    name: 'objects',
    does: 'sends {},{},... instead of numbers, 8 MiB and 67 MB of it',
    expects: ['PAYLOAD_TOO_LARGE'],
    lanes: 2,
    act: objects,
  },
  {
    name: 'nesting',
    does: 'sends up to 7 million opening brackets',
    expects: ['INVALID_REQUEST'],
    lanes: 2,
    act: nesting,
  },
  {
    name: 'unknown-field',
    does: 'sends 4 million numbers and one unknown field',
    expects: ['INVALID_REQUEST'],
    lanes: 2,
    act: unknownField,
  },
  {
    name: 'half-sent',
    does: 'sends a part of a body of 64 MiB and then nothing, 30 times at once',
    expects: ['PAGE_NOT_FOUND', 'OVERLOADED'],
    lanes: 30,
    act: halfSent,
  },
  {
    name: 'many-pages',
    does: 'creates 3,000 pages in one request, again and again',
    expects: ['200'],
    lanes: 2,
    act: manyPages,
  },
  {
    name: 'packed',
    does: 'sends gzip bytes, which would unpack to 64 MiB',
    expects: ['UNSUPPORTED_MEDIA_TYPE'],
    lanes: 2,
    act: packed,
  },
]
