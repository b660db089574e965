/**
 * The route PATCH /v1/pages/:name/data on a bare Fastify that does nothing: it parses the body, as JSON or as
 * bytes, and answers an object of the same shape through a response schema. No log, no state, no checks. With
 * the files of a certificate and its key as arguments it speaks TLS.
 */
import { readFileSync } from 'node:fs'
import Fastify, { type FastifyInstance } from 'fastify'

const [cert, key] = process.argv.slice(2).map((file) => readFileSync(file))
const app: FastifyInstance =
  cert === undefined || key === undefined
    ? Fastify({ logger: false })
    : (Fastify({ logger: false, https: { cert, key } }) as unknown as FastifyInstance)
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
