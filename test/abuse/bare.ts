/**
 * A bare Fastify. Alone it does nothing but answer /livez: what this machine allows beside the abusers. With
 * the argument `target` it also takes in whatever they send, up to 64 MiB at a time, and answers `{}`: what
 * they do to a server that keeps nothing and computes nothing. Tells its parent its port.
 */
import Fastify from 'fastify'

const BODY_MAX_BYTES = 64 * 1024 ** 2

const app = Fastify({ bodyLimit: BODY_MAX_BYTES })
app.get('/livez', async () => ({ alive: true }))
if (process.argv[2] === 'target') {
  app.addContentTypeParser('*', { parseAs: 'buffer' }, (_request, _body, done) => done(null))
  app.all('/*', async () => ({}))
}
await app.listen({ host: '127.0.0.1', port: 0 })
const address = app.server.address()
process.send?.(typeof address === 'object' && address !== null ? address.port : 0)
process.once('disconnect', () => process.exit())
