/**
 * The HTTP face: a Fastify app over a bus, built apart from listening, so that tests can inject requests.
 *
 * Invariants: what enters is checked against the schemas in schemas/ and refused if it has anything they do not name; what
 * leaves is an answer of theirs or a problem document; a request costs no work that could be done once at start.
 */
import { lookup } from 'node:dns/promises'
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import Fastify, { type FastifyBaseLogger, type FastifyRequest, LogController } from 'fastify'
import type { Bus } from '../engine/bus.js'
import { VERSION } from '../engine/version.js'
import { MmsbError } from '../errors.js'
import { HTTP_HEADERS_MAX_BYTES, HTTP_PARAM_MAX_LENGTH } from '../limits.js'
import { hubOf } from '../stream/hub.js'
import { HTTP_BODY_MAX_BYTES } from '../wire/limits.js'
import type { App, AppContext } from './context.js'
import { asyncApiRoute } from './documents/asyncapi.js'
import { registerOpenApi } from './documents/openapi.js'
import { handleError, sendProblem } from './reply/problem.js'
import { answerUntaken } from './request/allowed-methods.js'
import { type Connections, trackConnections } from './request/connections.js'
import { answerPreflight, nameOrigin } from './request/cors.js'
import { answerClientError, answerOddities } from './request/malformed-requests.js'
import { type Guard, loopbackGuard, NO_ORIGINS } from './request/origin-guard.js'
import { validatorCompiler } from './request/validation.js'
import { dataReadRoutes } from './routes/data-read.js'
import { dataWriteRoutes } from './routes/data-write.js'
import { eventRoutes } from './routes/events.js'
import { functionRoutes } from './routes/functions.js'
import { graphRoutes } from './routes/graph.js'
import { healthRoutes } from './routes/health.js'
import { pageRoutes } from './routes/pages.js'
import { stateRoutes } from './routes/state.js'
import { subscriptionRoutes } from './routes/subscriptions.js'
import { timeRoutes } from './routes/time.js'
import { transactionRoutes } from './routes/transactions.js'
import { attachStream, type StreamServer } from './stream/websocket.js'

export interface AppOptions {
  readonly bus: Bus
  /** Who may speak to the server; default: programs on this machine. */
  readonly guard?: Guard
  /** Origins, such as `http://localhost:5173`, whose pages may read the answers; the guard must let them in. Default: none. */
  readonly allowedOrigins?: ReadonlySet<string>
  /** How often a WebSocket must show a sign of life. */
  readonly pingIntervalMs?: number
  /** Where errors inside the server go; default: nowhere. */
  readonly logger?: FastifyBaseLogger
}

export interface MmsbApp {
  readonly app: App
  readonly stream: StreamServer
  /** Listens; on every address of `localhost`, with one port. Fails when the first cannot be had. */
  listen(
    host: string,
    port: number,
    addressesOf?: (host: string) => Promise<readonly string[]>,
  ): Promise<void>
  /** Finishes what is under way, says goodbye to streams, stops listening. The bus stays open. */
  close(): Promise<void>
}

const NO_HOST = new MmsbError('INVALID_REQUEST', 'headers: HTTP/1.1 needs Host')

/** Builds the app; it is ready for `inject` and `listen` when this resolves. */
export async function buildApp(options: AppOptions): Promise<MmsbApp> {
  const { app, connections } = createFastify(options.logger)
  const { allowedOrigins = NO_ORIGINS } = options
  const guard = options.guard ?? loopbackGuard('127.0.0.1', () => boundPort(app), allowedOrigins)
  const context: AppContext = { bus: options.bus, hub: hubOf(options.bus), guard, isStopping: false }
  const answerOther = answerUntaken(app)
  app.addHook('onRequest', (request, reply, next) => {
    const refused = lacksHost(request) ? NO_HOST : guard(request.headers)
    const { origin } = request.headers
    const isNamed = origin !== undefined && allowedOrigins.has(origin)
    if (isNamed) nameOrigin(reply, origin)
    if (refused !== null) void sendProblem(reply, refused)
    else if (isNamed && answerPreflight(request, reply)) return
    // Before its body is read: nobody wants it.
    else if (request.is404) answerOther(request, reply)
    else next()
  })
  await registerOpenApi(app, VERSION)
  asyncApiRoute(app, VERSION)
  pageRoutes(app, context)
  transactionRoutes(app, context)
  functionRoutes(app, context)
  graphRoutes(app, context)
  stateRoutes(app, context)
  timeRoutes(app, context)
  subscriptionRoutes(app, context)
  healthRoutes(app, context)
  const endEvents = eventRoutes(app, context)
  // Raw bytes are taken for page data alone: this parser does not reach the routes above.
  await app.register(async (scope: App) => {
    scope.addContentTypeParser('application/octet-stream', { parseAs: 'buffer' }, (_request, body, done) => {
      done(null, body)
    })
    dataReadRoutes(scope, context)
    dataWriteRoutes(scope, context)
  })
  const stream = attachStream(app.server, context, app.log, options.pingIntervalMs)
  await app.ready()
  const listen: MmsbApp['listen'] = async (host, port, addressesOf = addressesFor) => {
    const [first = host, ...others] = await addressesOf(host)
    await app.listen({ host: first, port })
    // Of a name one address is enough.
    for (const other of others) await connections.listenAlso(other, boundPort(app)!).catch(() => {})
  }
  const close = async (): Promise<void> => {
    context.isStopping = true
    endEvents()
    await Promise.all([stream.close(), connections.stop()])
    await app.close()
  }
  return { app, stream, listen, close }
}

function createFastify(logger: FastifyBaseLogger | undefined): { app: App; connections: Connections } {
  const app = Fastify({
    ...(logger === undefined ? {} : { loggerInstance: logger }),
    logController: new LogController({ disableRequestLogging: true }),
    // One logger for all requests: a child each costs more than the rest of a small request.
    childLoggerFactory: (parent) => parent,
    bodyLimit: HTTP_BODY_MAX_BYTES,
    // What a stopping server still takes it answers; the framework's own refusal is not of the table.
    return503OnClosing: false,
    // One without Host gets a problem document, below.
    http: { maxHeaderSize: HTTP_HEADERS_MAX_BYTES, requireHostHeader: false },
    clientErrorHandler: (error, socket) =>
      answerClientError(error, socket, connections.responseOwedOn(socket)),
    routerOptions: { maxParamLength: HTTP_PARAM_MAX_LENGTH },
    frameworkErrors: (error, request, reply) => {
      void handleError(error, request, reply)
    },
  }).withTypeProvider<TypeBoxTypeProvider>()
  app.removeContentTypeParser('text/plain')
  const parseJson = app.getDefaultJsonParser('error', 'error')
  // Clients that name the type of every request send it with those that have no body too.
  app.addContentTypeParser<string>('application/json', { parseAs: 'string' }, (request, body, done) => {
    if (body.length === 0) done(null)
    else parseJson(request, body, done)
  })
  app.setValidatorCompiler(validatorCompiler)
  app.setErrorHandler(handleError)
  answerOddities(app.server)
  const connections = trackConnections(app.server)
  return { app, connections }
}

/** RFC 9112, 3.2. */
const lacksHost = ({ headers, raw }: FastifyRequest): boolean =>
  headers.host === undefined && raw.httpVersion === '1.1'

async function addressesFor(host: string): Promise<readonly string[]> {
  // Any other name may have addresses that nobody thought of.
  if (host !== 'localhost') return [host]
  try {
    return [...new Set((await lookup(host, { all: true })).map(({ address }) => address))]
  } catch {
    // To listen on it says what is wrong with it.
    return [host]
  }
}

/** The port the app listens on; undefined before it does. */
export function boundPort(app: App): number | undefined {
  const address = app.server.address()
  return address === null || typeof address === 'string' ? undefined : address.port
}
