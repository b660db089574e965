/** Readers who want everything at once, again and again, or who ask and then do not read. */
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Abuser, CUT, type Field } from '../field.js'
import { CONVS, PAST_EPOCHS } from '../stage.js'

/** One page of 16 MiB, 400 times. */
async function sameName(field: Field): Promise<void> {
  const names = Array(400).fill('big').join(',')
  if (field.draw.chance(0.5)) await field.get(`/v1/read?pages=${names}`)
  else
    await field.json('POST', '/v1/whatif', {
      ops: [{ page: 'used', values: [1], offset: 0 }],
      read: Array(400).fill('big'),
    })
}

/** Asks for a large page and never reads the answer. */
async function notReading(field: Field): Promise<void> {
  const socket = await field.connect()
  if (socket === undefined) return
  socket.pause()
  const accept = field.draw.pick(['application/json', 'application/octet-stream'])
  const request = `GET /v1/pages/big/data HTTP/1.1\r\nhost: 127.0.0.1:${field.port}\r\naccept: ${accept}\r\n\r\n`
  socket.write(request.repeat(4))
  await Promise.race([once(socket, 'close'), sleep(field.draw.int(1_000, 4_000))])
  field.count(socket.destroyed ? CUT : 'not read')
  socket.destroy()
}

async function largeJson(field: Field): Promise<void> {
  await field.get('/v1/pages/big/data', { accept: 'application/json' })
}

async function polling(field: Field): Promise<void> {
  await field.get(
    field.draw.pick([
      '/metrics',
      '/v1/stats',
      '/v1/pages?limit=1000',
      '/v1/pages/big',
      '/v1/graph',
      '/v1/graph?format=dot',
      '/v1/functions',
    ]),
  )
}

async function epochs(field: Field): Promise<void> {
  await field.get('/v1/epochs?from=1')
}

/** Another epoch each time, so that nothing can be kept. */
async function past(field: Field): Promise<void> {
  const epoch = 30 + field.draw.int(0, PAST_EPOCHS)
  await field.get(`/v1/pages/cone.${field.draw.int(0, CONVS - 1)}/data?epoch=${epoch}`)
}

async function diff(field: Field): Promise<void> {
  await field.get(`/v1/diff?from=${field.draw.int(5, 60)}`)
}

async function verify(field: Field): Promise<void> {
  await field.json('POST', '/v1/verify', {})
}

export const READS: readonly Abuser[] = [
  {
    name: 'same-name',
    does: 'reads a page of 16 MiB 400 times in one request, also in a what-if',
    expects: ['200', 'OVERLOADED'],
    lanes: 2,
    act: sameName,
  },
  {
    name: 'not-reading',
    does: 'asks 4 times for 16 MiB and never reads, 60 times at once',
    expects: ['not read', CUT],
    lanes: 60,
    act: notReading,
  },
  {
    name: 'large-json',
    does: 'reads 16 MiB as JSON',
    expects: ['200', 'OVERLOADED'],
    lanes: 2,
    act: largeJson,
  },
  {
    name: 'polling',
    does: 'asks for metrics, stats, pages, graph and functions without a pause',
    expects: ['200'],
    lanes: 4,
    act: polling,
  },
  {
    name: 'epochs',
    does: 'asks for all epochs since the first',
    expects: ['200', 'OVERLOADED', 'COST_EXCEEDED', 'OUT_OF_MEMORY'],
    lanes: 2,
    act: epochs,
  },
  {
    name: 'past',
    does: 'reads convolutions of past epochs, another one each time',
    expects: ['200', 'OUT_OF_MEMORY'],
    lanes: 4,
    act: past,
  },
  {
    name: 'diff',
    does: 'compares old epochs with the newest',
    expects: ['200', 'OVERLOADED', 'COST_EXCEEDED', 'OUT_OF_MEMORY'],
    lanes: 2,
    act: diff,
  },
  {
    name: 'verify',
    does: 'verifies the whole log, again and again',
    expects: ['200', 'OUT_OF_MEMORY'],
    lanes: 2,
    act: verify,
  },
]
