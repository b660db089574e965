/** A server with a few pages, and clients of its stream that end with the test. */
import type { Test } from 'tap'
import type { BusOptions } from '../../../src/engine/types.js'
import { Client } from '../../stream/helpers.js'
import { listen, type Served, serve } from '../helpers.js'

export interface StreamServer extends Served {
  readonly port: number
  connect(protocols?: string[]): Promise<Client>
}

export async function streamServer(t: Test, options: BusOptions = {}): Promise<StreamServer> {
  const served = await serve(t, options)
  const { port } = await listen(served)
  await served.bus.create('prices', { dtype: 'f32', shape: [4] })
  await served.bus.derive('risk.a', { op: 'map', inputs: { p: 'prices' }, expr: 'p*2' })
  await served.bus.derive('risk.b', { op: 'reduce', inputs: { x: 'risk.a' }, fn: 'sum' })
  const connect = async (protocols?: string[]): Promise<Client> => {
    const client = await Client.open(port, protocols)
    t.teardown(() => client.socket.terminate())
    return client
  }
  return { ...served, port, connect }
}
