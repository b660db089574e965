/** Work that takes long: what the server must refuse, and what it must bear. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Abuser, Field } from '../field.js'

/** Estimated at minutes where the limit is milliseconds. */
async function conv(field: Field): Promise<void> {
  await field.json('PUT', '/v1/pages/conv.x', { dtype: 'f64', shape: [700, 700] })
  await field.json('PUT', '/v1/pages/conv.y', {
    derive: { op: 'conv', inputs: { x: 'conv.x', kernel: 'conv.x' }, boundary: 'wrap' },
  })
  await sleep(20)
}

async function matmul(field: Field): Promise<void> {
  await field.json('PUT', '/v1/pages/matmul.a', { dtype: 'f64', shape: [1_500, 1_500] })
  await field.json('PUT', '/v1/pages/matmul.b', {
    derive: { op: 'matmul', inputs: { a: 'matmul.a', b: 'matmul.a' } },
  })
  await sleep(20)
}

/** Half of its what-ifs cost too much, half are cheap. */
async function whatIf(field: Field): Promise<void> {
  const isLarge = field.draw.chance(0.5)
  const read = isLarge ? ['cone.0', 'cone.1'] : ['user.0']
  const ops = isLarge
    ? [{ page: 'cone.base', offset: 0, values: Array(4_096).fill(1) }]
    : [{ page: 'used', offset: 0, values: [field.draw.int(0, 9)] }]
  await field.json('POST', '/v1/whatif', { ops, read })
}

/** A function that 200 pages use. */
async function redefine(field: Field): Promise<void> {
  const expr = `x * ${field.draw.int(1, 1e6)} + 1`
  await field.json('PUT', '/v1/functions/abused', { params: ['x'], expr })
}

export const COSTS: readonly Abuser[] = [
  {
    name: 'conv',
    does: 'defines a convolution of 700 x 700 with itself',
    expects: ['COST_EXCEEDED'],
    lanes: 2,
    act: conv,
  },
  {
    name: 'matmul',
    does: 'defines a product of 1500 x 1500 with itself',
    expects: ['COST_EXCEEDED'],
    lanes: 2,
    act: matmul,
  },
  {
    name: 'what-if',
    does: 'what-ifs behind 12 convolutions and behind 200 pages, without a pause',
    expects: ['200'],
    lanes: 4,
    act: whatIf,
  },
  {
    name: 'redefine',
    does: 'redefines a function that 200 pages use, without a pause',
    expects: ['200'],
    lanes: 2,
    act: redefine,
  },
]
