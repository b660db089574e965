/**
 * The route PATCH /v1/pages/:name/data on a bare Fastify that does nothing: it parses the body, as JSON or as
 * bytes, and answers an object of the same shape through a response schema. No log, no state, no checks.
 */
import Fastify from 'fastify'

const app = Fastify({ logger: false })
let epoch = 0

app.addContentTypeParser('application/octet-stream', { parseAs: 'buffer' }, (_request, body, done) => {
  done(null, body)
})
const integer = { type: 'integer' }
const response = {
  type: 'object',
  properties: { epoch: integer, version: integer, page: { type: 'string' } },
}
app.patch<{ Params: { name: string } }>(
  '/v1/pages/:name/data',
  { schema: { response: { 200: response } } },
  async (request) => {
    epoch += 1
    return { epoch, version: epoch, page: request.params.name }
  },
)

await app.listen({ port: 0, host: '127.0.0.1' })
process.stdout.write(`listening on ${(app.server.address() as { port: number }).port}\n`)
