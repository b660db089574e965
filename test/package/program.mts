// Compiled against the installed package, with --strict and without skipLibCheck.
import { Bus, type Change, MmsbError } from 'mmsb'
import { type Client, connect, type Page } from 'mmsb/client'

export async function onBus(): Promise<void> {
  await using bus = await Bus.open({ dataDir: 'a library' })
  await bus.create('prices', { dtype: 'f32', shape: [5] })
  await bus.derive('twice', { op: 'map', inputs: { p: 'prices' }, expr: 'p * 2' })
  const values: number = bus.read('twice').length
  for await (const change of bus.subscribe({ pages: ['twice'] })) {
    const seen: Change = change
    if (seen.epoch > values) break
  }
}

export async function onClient(client: Client = connect('http://127.0.0.1:7411')): Promise<Page> {
  try {
    await client.derive('total', { op: 'reduce', inputs: { x: 'prices' }, fn: 'sum' })
  } catch (error) {
    if (!(error instanceof MmsbError)) throw error
  }
  return client.page('total')
}

/** Declarations say what an op takes. */
export async function wrong(bus: Bus, client: Client): Promise<void> {
  const inputs = { x: 'prices' }
  // @ts-expect-error: there is no such op
  await bus.derive('d', { op: 'mapp', inputs, expr: 'x' })
  // @ts-expect-error: a map needs an expression
  await bus.derive('d', { op: 'map', inputs })
  // @ts-expect-error: there is no such function
  await bus.derive('d', { op: 'reduce', inputs, fn: 'total' })
  // @ts-expect-error: matmul has the inputs a and b
  await bus.derive('d', { op: 'matmul', inputs })
  // @ts-expect-error: sort has no such parameter
  await bus.derive('d', { op: 'sort', inputs, ascending: true })
  // @ts-expect-error: there is no such op
  await client.derive('d', { op: 'mapp', inputs, expr: 'x' })
  // @ts-expect-error: a map needs an expression
  await client.derive('d', { op: 'map', inputs })
  await client.derive('d', { op: 'map', inputs: { x: { prev: 'prices' } }, expr: 'x' })
}

/** The constructor is not for users. */
// @ts-expect-error
export const none = (): Bus => new Bus()
