/**
 * The memory of a real server while callers ask for more than it may hold: large answers, readers that do not
 * read, bodies that do not end. The peak is what the kernel has seen, not a sample.
 */
import { readFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { Process } from '../cli/process.js'
import { folder } from '../lib/folder.js'

// A loaded machine is slow, but not wrong.
t.setTimeout(240_000)

const M = 2 ** 20
/** The page `big`: 16 MiB; its text has 21 MB. */
const BIG = { dtype: 'f32', shape: [2048, 2048], fill: 1.25 }
/** Four budgets of 32 MiB, and what a heap needs to make and free text of that size. */
const GROWTH_MAX_BYTES = 384 * M
const FLAGS = ['answer', 'request', 'stream', 'message'].flatMap((name) => [`--${name}-budget`, '32m'])

interface Running {
  readonly url: string
  /** How far the process has grown at most since it held the page. */
  readonly growth: () => number
  readonly open: (head: string) => Socket
  readonly send: (method: string, path: string, body: unknown) => Promise<Response>
}

async function start(t: Test): Promise<Running> {
  const server = new Process(['serve', '--port', '0', '--data-dir', folder(t), ...FLAGS])
  t.teardown(() => server.end('SIGKILL'))
  const url = await server.ready()
  const { port } = new URL(url)
  const sockets: Socket[] = []
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
  })
  const send = (method: string, path: string, body: unknown): Promise<Response> =>
    fetch(`${url}${path}`, {
      method,
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
    })
  await (await send('PUT', '/v1/pages/big', BIG)).text()
  const bytesOf = (field: string): number => {
    const status = readFileSync(`/proc/${server.child.pid}/status`, 'utf8')
    return Number(new RegExp(`${field}:\\s+(\\d+)`).exec(status)?.[1]) * 1024
  }
  const before = bytesOf('VmRSS')
  return {
    url,
    send,
    growth: () => bytesOf('VmHWM') - before,
    open: (head) => {
      const socket = connect(Number(port), '127.0.0.1')
      socket.on('error', () => {})
      socket.write(`${head}\r\nhost: localhost\r\n\r\n`)
      sockets.push(socket)
      return socket
    },
  }
}

async function drained(response: Response): Promise<number> {
  let bytes = 0
  for await (const chunk of response.body ?? []) bytes += chunk.length
  return bytes
}

/** Whether the server still answers others, with what it holds on the way. */
async function metricsOf(url: string): Promise<string> {
  return (await fetch(`${url}/metrics`)).text()
}

const bounded = (t: Test, { growth }: Running): void => {
  t.ok(growth() < GROWTH_MAX_BYTES, `the process grew by ${Math.round(growth() / M)} MiB`)
}

t.test('one page, asked for 400 times in one request', async (t) => {
  const server = await start(t)
  const names = Array<string>(400).fill('big')
  const whole = await drained(await fetch(`${server.url}/v1/read?pages=${names}`))
  t.ok(whole > 16 * M && whole < 32 * M, `sent once: ${whole} bytes`)
  const ops = [{ page: 'big', values: [2] }]
  const tried = await drained(await server.send('POST', '/v1/whatif', { ops, read: names }))
  t.ok(tried > 16 * M && tried < 32 * M, `the same in what-if: ${tried} bytes`)
  bounded(t, server)
})

t.test('60 readers that do not read', async (t) => {
  const server = await start(t)
  const names = Array(400).fill('big')
  for (let i = 0; i < 15; i++) {
    server.open('GET /v1/pages/big/data HTTP/1.1').pause()
    server.open('GET /v1/pages/big/data HTTP/1.1\r\naccept: application/json').pause()
    server.open(`GET /v1/read?pages=${names} HTTP/1.1`).pause()
    server.open('GET /v1/events?pages=big&from=snapshot HTTP/1.1').pause()
    // So that the snapshots differ, and nothing of them is shared.
    await (await server.send('PATCH', '/v1/pages/big/data', { values: [i] })).text()
  }
  await sleep(1_000)
  const metrics = await metricsOf(server.url)
  t.match(metrics, /mmsb_limit_refusals_total\{limit="answer-budget"\} [1-9]/)
  t.match(metrics, /mmsb_limit_used\{limit="stream-budget"\} [1-9]/)
  bounded(t, server)
})

t.test('30 half-sent bodies of 64 MiB, for a page that is not there and for one that is', async (t) => {
  const server = await start(t)
  const chunk = Buffer.alloc(M)
  const sendHalf = (page: string): Promise<void> => {
    const socket = server.open(
      `PUT /v1/pages/${page}/data HTTP/1.1\r\ncontent-type: application/octet-stream\r\ncontent-length: ${64 * M}`,
    )
    return new Promise((resolve) => {
      let left = 8
      const next = (): void => {
        if (left-- > 0 && !socket.destroyed) socket.write(chunk, next)
        else resolve()
      }
      socket.once('close', () => resolve())
      next()
    })
  }
  await Promise.all(Array.from({ length: 30 }, () => sendHalf('none')))
  const metrics = await metricsOf(server.url)
  t.match(metrics, /mmsb_limit_used\{limit="request-budget"\} 0/, 'nothing of them is held')
  const held = server.growth()
  t.ok(held < 192 * M, `the process grew by ${Math.round(held / M)} MiB`)
  await Promise.all(Array.from({ length: 30 }, () => sendHalf('big')))
  t.match(await metricsOf(server.url), /mmsb_limit_refusals_total\{limit="request-budget"\} [1-9]/)
  bounded(t, server)
})
