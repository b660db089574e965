/** Bytes that are no request, requests that never end, and hosts that are not this one. */
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Abuser, CUT, type Field } from '../field.js'

/** Random bytes, or a good request with random bytes in it. */
async function garbage(field: Field): Promise<void> {
  const bytes = Buffer.from(field.draw.values('u8', field.draw.int(1, 20_000)) as Uint8Array)
  const head = field.draw.pick([
    '',
    'GET / HTTP/1.1\r\n',
    'PATCH /v1/pages/used/data HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\n',
    'GET /v1/pages/%ff%00 HTTP/1.1\r\nhost: ',
  ])
  await field.raw(Buffer.concat([Buffer.from(head), bytes]), 1_000)
}

/** WebSocket frames that break the protocol: reserved bits, no mask, lengths of 2^63. */
async function badFrames(field: Field): Promise<void> {
  const socket = await field.connect()
  if (socket === undefined) return
  const key = Buffer.alloc(16, field.draw.int(0, 255)).toString('base64')
  socket.write(
    `GET /v1/stream HTTP/1.1\r\nhost: 127.0.0.1:${field.port}\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: ${key}\r\nsec-websocket-protocol: mmsb.v1.json\r\n\r\n`,
  )
  let bytes = 0
  socket.on('data', (chunk: Buffer) => {
    bytes += chunk.length
  })
  await Promise.race([once(socket, 'data'), sleep(2_000)])
  const lengths = Buffer.from([0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4])
  const noise = Buffer.from(field.draw.values('u8', field.draw.int(2, 2_000)) as Uint8Array)
  socket.write(field.draw.chance(0.3) ? lengths : noise)
  await Promise.race([once(socket, 'close'), sleep(1_000)])
  field.count(bytes === 0 ? CUT : socket.destroyed ? 'closed' : 'stays open')
  socket.destroy()
}

/** A header that grows by one byte a second. */
async function slowHeaders(field: Field): Promise<void> {
  const socket = await field.connect()
  if (socket === undefined) return
  socket.write('GET /v1/status HTTP/1.1\r\nhost: 127.0.0.1\r\nx-slow: ')
  for (let i = 0; i < 12 && !socket.destroyed; i++) {
    socket.write('a')
    await sleep(1_000)
  }
  field.count(socket.destroyed ? 'closed' : 'stays open')
  socket.destroy()
}

async function badHosts(field: Field): Promise<void> {
  const host = field.draw.pick(['evil.example', '169.254.169.254', 'localhost.evil.example:80'])
  const origin = field.draw.pick([{}, { origin: 'http://evil.example' }])
  await field.get('/v1/status', { host, ...origin })
  await field.raw('GET /v1/status HTTP/1.1\r\nhost: 127.0.0.1\r\nhost: evil.example\r\n\r\n', 1_000)
  await field.get('/v1/status', { 'sec-fetch-site': 'cross-site' })
}

/** Connects and hangs up, or connects and says nothing. */
async function connections(field: Field): Promise<void> {
  const socket = await field.connect()
  if (socket === undefined) return
  await sleep(field.draw.chance(0.5) ? 0 : field.draw.int(0, 1_000))
  field.count('connected')
  socket.destroy()
}

/** Headers beyond every limit, and targets that are no address of this server. */
async function headers(field: Field): Promise<void> {
  const [name, value] = field.draw.pick([
    ['cookie', 'a'.repeat(100_000)],
    ['accept', 'image/png'],
    ['range', `bytes=${'0-1,'.repeat(1_000)}0-1`],
    ['content-type', 'text/plain'],
  ])
  await field.get(field.draw.pick(['/v1/pages/used/data', '/v1/read?pages=%00', `/${'x/'.repeat(3_000)}`]), {
    [name as string]: value,
  })
}

export const SOCKETS: readonly Abuser[] = [
  {
    name: 'garbage',
    does: 'sends random bytes to the port',
    expects: ['INVALID_REQUEST'],
    lanes: 4,
    act: garbage,
  },
  {
    name: 'bad-frames',
    does: 'breaks the WebSocket protocol',
    expects: ['closed'],
    lanes: 4,
    act: badFrames,
  },
  {
    name: 'slow-headers',
    does: 'sends one byte of a header a second, 50 times at once',
    expects: ['closed'],
    lanes: 50,
    act: slowHeaders,
  },
  {
    name: 'bad-hosts',
    does: 'asks with foreign hosts, origins and sites',
    expects: ['FORBIDDEN'],
    lanes: 2,
    act: badHosts,
  },
  {
    name: 'connections',
    does: 'connects, says nothing and hangs up, 100 at once',
    expects: ['connected'],
    lanes: 100,
    act: connections,
  },
  {
    name: 'headers',
    does: 'sends 100,000 bytes of headers, thousands of ranges, odd targets',
    expects: ['HEADERS_TOO_LARGE'],
    lanes: 2,
    act: headers,
  },
]
