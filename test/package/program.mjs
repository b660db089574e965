// Uses both entries of the installed package, as a program of its user. Argument: the address of a server.
import { Bus } from 'mmsb'
import { connect } from 'mmsb/client'

const bus = await Bus.open({ dataDir: 'a library' })
await bus.create('prices', { dtype: 'f32', shape: [5] })
await bus.derive('twice', { op: 'map', inputs: { p: 'prices' }, expr: 'p * 2' })
await bus.patch('prices', { offset: 1, values: [42] })
console.log(`bus ${[...bus.read('twice')]}`)
await bus.close()

const client = connect(process.argv[2])
await client.create('quotes', { dtype: 'f64', shape: [3] })
await client.derive('worth', { op: 'map', inputs: { q: 'quotes' }, expr: 'q * 100' })
await client.patch('quotes', { offset: 2, values: [29.5] })
console.log(`client ${[...(await client.read('worth')).values]}`)
await client.close()
console.log(`node ${process.versions.node.split('.')[0]}`)
