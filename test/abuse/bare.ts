/**
 * A bare Fastify, which does nothing but answer /livez: what this machine allows beside the same abusers.
 * Prints its port.
 */
import Fastify from 'fastify'

const app = Fastify()
app.get('/livez', async () => ({ alive: true }))
await app.listen({ host: '127.0.0.1', port: 0 })
const address = app.server.address()
process.send?.(typeof address === 'object' && address !== null ? address.port : 0)
process.once('disconnect', () => process.exit())
