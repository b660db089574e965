/**
 * What the abusers find: pages that are large, pages behind convolutions, a function that many pages use, and
 * a past with large deltas. Made before the first window.
 */
import type { Client } from '../../src/client/client.js'
import { connect } from '../../src/client/node.js'

/** 16 MiB. */
export const BIG_ELEMENTS = 2 * 1024 ** 2
export const CONVS = 12
export const USERS = 200
/** The epoch after the large deltas, for those who read the past. */
export const PAST_EPOCHS = 40

export async function setStage(url: string): Promise<void> {
  const client = connect(url)
  try {
    await makeBig(client)
    await makeCones(client)
    await client.defineFunction('abused', { params: ['x'], expr: 'x * 2 + 1' })
    await client.create('used', { dtype: 'f64', shape: [16] })
    await client.createMany(
      Array.from({ length: USERS }, (_, i) => ({
        name: `user.${i}`,
        derive: { op: 'map', inputs: { x: 'used' }, expr: `abused(x) + ${i}` },
      })),
    )
    for (let i = 0; i < PAST_EPOCHS; i++)
      await client.patch('cone.base', { offset: i, values: Float64Array.of(i) })
  } finally {
    await client.close()
  }
}

async function makeBig(client: Client): Promise<void> {
  await client.create('big', { dtype: 'f64', shape: [BIG_ELEMENTS] })
  for (let i = 0; i < 3; i++)
    await client.patch('big', { offset: 0, values: new Float64Array(BIG_ELEMENTS / 4).fill(i + 0.1) })
}

async function makeCones(client: Client): Promise<void> {
  await client.create('cone.base', { dtype: 'f64', shape: [4_096] })
  await client.create('cone.kernel', { dtype: 'f64', shape: [256], fill: 0.001 })
  for (let i = 0; i < CONVS; i++)
    await client.derive(`cone.${i}`, {
      op: 'conv',
      inputs: { x: 'cone.base', kernel: 'cone.kernel' },
      boundary: 'wrap',
    })
}
