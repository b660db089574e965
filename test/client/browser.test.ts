/**
 * The client in a browser: headless Chromium loads it as plain modules, without a bundler, from a page whose
 * origin the server allows, and uses it against the real server.
 */

import { once } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join, normalize } from 'node:path'
import type { Page } from 'playwright-core'
import t, { type Test } from 'tap'
import { type Server, startServer } from '../../examples/server.js'
import { connect } from '../../src/client/node.js'
import { ROOT } from '../lib/place.js'
import { launchChromium, skipWithoutChromium as skip } from '../support/chromium.js'

const DIST = `${ROOT}dist`

/** Serves the files of the built client, and an empty page. */
async function serveFiles(t: Test): Promise<string> {
  const server = createServer((request, response) => {
    const path = normalize(request.url ?? '/')
    const file = join(DIST, path)
    if (path.endsWith('.js') && existsSync(file)) {
      response.writeHead(200, { 'content-type': 'text/javascript' }).end(readFileSync(file))
    } else if (path === '/') {
      response.writeHead(200, { 'content-type': 'text/html' }).end('<!doctype html><title>client</title>')
    } else {
      response.writeHead(404).end()
    }
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

async function openPage(t: Test, origin: string): Promise<Page> {
  const browser = await launchChromium(t)
  const page = await browser.newPage()
  await page.goto(origin)
  return page
}

interface Wanted {
  readonly url: string
  readonly protocol: 'binary' | 'json'
}

/** Runs in the browser, so it cannot use anything else in this file. */
async function useClient({ url, protocol }: Wanted): Promise<Record<string, unknown>> {
  const path = '/client/index.js'
  const { connect, MmsbError } = (await import(path)) as typeof import('../../src/client/index.js')
  const bus = connect(url, { protocol })
  const name = `page_${protocol}`
  await bus.create(name, { dtype: 'i64', shape: [4] })
  await bus.derive(`twice_${protocol}`, { op: 'map', inputs: { x: name }, expr: 'x * 2' })
  const mirror = await bus.mirror(`twice_${protocol}`)
  const subscription = bus.subscribe({ pages: [name], from: (await bus.status()).epoch })
  await bus.patch(name, { offset: 1, values: BigInt64Array.of(2n ** 53n + 1n, -3n) })
  const writer = bus.writer()
  const answers = await Promise.all(
    [1, 2, 3].map(() => writer.patch(name, { indices: [0], values: [1], merge: 'add' })),
  )
  await writer.close()
  const seen: number[] = []
  for await (const { epoch } of subscription) {
    seen.push(epoch)
    if (epoch === answers[2]!.epoch) break
  }
  await mirror.until(answers[2]!.epoch)
  const refused = await bus.page('none').then(
    () => 'found',
    (error: unknown) => (error instanceof MmsbError ? error.code : String(error)),
  )
  const { values } = await bus.read(name)
  await bus.close()
  return {
    values: [...values].map(String),
    mirrored: [...mirror.values].map(String),
    kind: values.constructor.name,
    isAscending: seen.every((epoch, i) => i === 0 || epoch > seen[i - 1]!),
    refused,
  }
}

t.test('in Chromium, from a page of a named origin', { timeout: 90_000, skip }, async (t) => {
  const origin = await serveFiles(t)
  const server: Server = await startServer({
    dataDir: t.testdir(),
    env: { MMSB_ALLOW_ORIGIN: origin },
    args: ['--fsync', 'off'],
  })
  t.teardown(() => server.stop())
  const page = await openPage(t, origin)
  for (const protocol of ['binary', 'json'] as const) {
    const result = await page.evaluate(useClient, { url: server.url, protocol })
    t.same(
      result,
      {
        values: ['3', '9007199254740993', '-3', '0'],
        mirrored: ['6', '18014398509481986', '-6', '0'],
        kind: 'BigInt64Array',
        isAscending: true,
        refused: 'PAGE_NOT_FOUND',
      },
      protocol,
    )
  }
  const bus = connect(server.url)
  t.same((await bus.read('page_binary')).values, BigInt64Array.of(3n, 2n ** 53n + 1n, -3n, 0n))
  await bus.close()
})

t.test('from a page of another origin nothing works', { timeout: 90_000, skip }, async (t) => {
  const origin = await serveFiles(t)
  const server = await startServer({
    dataDir: t.testdir(),
    args: ['--fsync', 'off', '--allow-origin', 'http://localhost:1'],
  })
  t.teardown(() => server.stop())
  const page = await openPage(t, origin)
  const codes = await page.evaluate(async (url: string) => {
    const path = '/client/index.js'
    const { connect } = (await import(path)) as typeof import('../../src/client/index.js')
    const bus = connect(url, { retries: 0 })
    const socket = await new Promise((resolve) => {
      const { WebSocket } = globalThis as unknown as { WebSocket: new (url: string) => EventTarget }
      const socket = new WebSocket(`${url.replace('http', 'ws')}/v1/stream`)
      socket.addEventListener('open', () => resolve('open'))
      socket.addEventListener('error', () => resolve('refused'))
    })
    const call = await bus
      .create('a', { dtype: 'u8', shape: [1] })
      .catch((error: { code: string }) => error.code)
    return { socket, call }
  }, server.url)
  t.same(codes, { socket: 'refused', call: 'NETWORK' })
  const bus = connect(server.url)
  t.equal((await bus.status()).epoch, 0, 'nothing was done')
  await bus.close()
})
