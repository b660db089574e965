/**
 * A server in this process, a proxy in front of it that can cut connections, clients behind the proxy,
 * and some pages.
 */
import type { Test } from 'tap'
import type { ClientOptions } from '../../src/client/client.js'
import { type Client, connect } from '../../src/client/node.js'
import type { AppOptions } from '../../src/http/app.js'
import type { Bus } from '../../src/index.js'
import { listen, serve } from '../http/helpers.js'
import { type CuttingProxy, startProxy } from './proxy.js'

export interface Started {
  readonly bus: Bus
  readonly proxy: CuttingProxy
  /** A client that goes through the proxy. */
  client(options?: ClientOptions): Client
}

export async function started(t: Test, appOptions: Partial<AppOptions> = {}): Promise<Started> {
  const served = await serve(t, { dataDir: t.testdir(), fsync: 'off' }, appOptions)
  const { port } = await listen(served)
  const proxy = await startProxy(t, port)
  const client = (options: ClientOptions = {}): Client => {
    const made = connect(proxy.url, options)
    t.teardown(() => made.close())
    return made
  }
  return { bus: served.bus, proxy, client }
}

export const SIZE = 64
export const code = (code: string) => ({ code })

export async function makePages(bus: Bus): Promise<void> {
  await bus.create('src', { dtype: 'i32', shape: [SIZE] })
  await bus.create('wide', { dtype: 'u64', shape: [2] })
  await bus.derive('twice', { op: 'map', inputs: { s: 'src' }, expr: 's * 2' })
  await bus.derive('sum', { op: 'reduce', inputs: { x: 'src' }, fn: 'sum' })
}
