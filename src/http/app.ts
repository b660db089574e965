/**
 * The HTTP server: a Fastify app over a bus, built apart from listening so that tests can inject requests.
 *
 * Invariants: every request is checked against the schemas in schemas/, and refused if it has a field they do
 * not name; every answer follows these schemas or is a problem document; a request does no work that could be
 * done once at start.
 *
 * Null because callbacks of Node have it.
 *
 * Floors, lowest first: answers, health; context; metrics, reply; request, schemas; stream; routes,
 * documents; app; starting.
 */
import { lookup } from 'node:dns/promises'
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import Fastify, { type FastifyBaseLogger, LogController } from 'fastify'
import type { EngineBus } from '../engine/bus.js'
import { VERSION } from '../engine/version.js'
import { MmsbError } from '../errors.js'
import { HTTP_HEADERS_MAX_BYTES, HTTP_PARAM_MAX_LENGTH, TIMEOUT_CHECK_MS } from '../limits.js'
import type { LimitGuard } from '../operator-limits.js'
import { hubOf } from '../stream/hub.js'
import { HTTP_BODY_MAX_BYTES } from '../wire/limits.js'
import { STREAM_PATH } from '../wire/messages.js'
import { Answers } from './answers.js'
import type { App, AppContext } from './context.js'
import { asyncApiRoute } from './documents/asyncapi.js'
import { registerOpenApi } from './documents/openapi.js'
import { historyGuard } from './reply/history.js'
import { handleError, pathOf, sendProblem, shownPath } from './reply/problem.js'
import { unroutedAnswerer } from './request/allowed-methods.js'
import { limitBodies } from './request/body-budget.js'
import { Connections } from './request/connections.js'
import { allowOrigin, answerPreflight } from './request/cors.js'
import { isSmallJson, parseJson, parseSmallJson } from './request/json.js'
import { answerMalformed, answerOddRequests } from './request/malformed-requests.js'
import { refusedHeaders } from './request/negotiate.js'
import { type Guard, loopbackGuard, NO_ORIGINS } from './request/origin-guard.js'
import { closeAfterAnswer, type IsUpgrade, trackUpgrades, type Upgrades } from './request/upgrades.js'
import { validatorCompiler } from './request/validation.js'
import { dataReadRoutes } from './routes/data-read.js'
import { dataWriteRoutes } from './routes/data-write.js'
import { eventRoutes } from './routes/events.js'
import { functionRoutes } from './routes/functions.js'
import { graphRoutes } from './routes/graph.js'
import { healthRoutes } from './routes/health.js'
import { pageRoutes } from './routes/pages.js'
import { stateRoutes } from './routes/state.js'
import { streamRoutes } from './routes/stream.js'
import { subscriptionRoutes } from './routes/subscriptions.js'
import { timeRoutes } from './routes/time.js'
import { transactionRoutes } from './routes/transactions.js'
import type { StreamServer } from './stream/websocket.js'

export interface AppOptions {
  readonly bus: EngineBus
  /**
   * Decides which requests are refused for their Host or Origin. Default: only programs on this machine are
   * served.
   */
  readonly guard?: Guard
  /**
   * Origins, such as `http://localhost:5173`, whose pages may read the answers. The guard must accept them.
   * Default: none.
   */
  readonly allowedOrigins?: ReadonlySet<string>
  /** A WebSocket that is silent for longer than this is closed. */
  readonly pingIntervalMs?: number
  /** Gets errors inside the server. Default: they are dropped. */
  readonly logger?: FastifyBaseLogger
}

/** An app whose listeners and connections another one may take over. */
export interface Serving {
  readonly connections: Connections
}

export interface MmsbApp {
  readonly app: App
  readonly stream: StreamServer
  /**
   * Listens on one port of `host`; for `localhost` on each of its addresses. Fails if the first address is
   * not available.
   */
  listen(
    host: string,
    port: number,
    addressesOf?: (host: string) => Promise<readonly string[]>,
  ): Promise<void>
  /** Serves where the other app listens, and its connections, from now on. */
  takeOver(other: Serving): Promise<void>
  /** Ends the connections that are still open. */
  cutOff(): void
  /** Finishes requests under way, closes streams, stops listening. The bus stays open. */
  close(): Promise<void>
}

/** Builds the app; it is ready for `inject` and `listen` when this resolves. */
export async function buildApp(options: AppOptions): Promise<MmsbApp> {
  const { bus } = options
  const { app, connections, upgrades } = createFastify(bus.limits, options.logger)
  const answers = new Answers(bus.limits)
  const context: AppContext = { bus, hub: hubOf(bus), answers, isStopping: false }
  admitRequests(app, upgrades.isUpgrade, options)
  limitBodies(app, bus.limits)
  app.addHook(
    'preHandler',
    historyGuard(() => context.bus.historyId),
  )
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
  // Only page data may be sent as raw bytes: this parser does not reach the routes above.
  await app.register(async (scope: App) => {
    scope.addContentTypeParser('application/octet-stream', { parseAs: 'buffer' }, (_request, body, done) => {
      done(null, body)
    })
    dataReadRoutes(scope, context)
    dataWriteRoutes(scope, context)
  })
  const stream = await streamRoutes(app, context, upgrades.inOrder, options.pingIntervalMs)
  await app.ready()
  const listen: MmsbApp['listen'] = async (host, port, addressesOf = addressesFor) => {
    const [first = host, ...others] = await addressesOf(host)
    await app.listen({ host: first, port })
    // One address of a name is enough.
    for (const other of others) await connections.listenAlso(other, boundPort(app)!).catch(() => {})
  }
  const close = async (): Promise<void> => {
    context.isStopping = true
    endEvents()
    await Promise.all([stream.close(), connections.stop()])
    await app.close()
  }
  return {
    app,
    stream,
    listen,
    takeOver: (other) => connections.takeOver(other.connections),
    cutOff: () => connections.cutOff(),
    close,
  }
}

/** The first hook of every request, WebSocket handshakes too: it refuses before a body is read. */
export function admitRequests(
  app: App,
  isUpgrade: IsUpgrade,
  options: Pick<AppOptions, 'allowedOrigins' | 'guard'>,
): void {
  const { allowedOrigins = NO_ORIGINS } = options
  const guard = options.guard ?? loopbackGuard('127.0.0.1', () => boundPort(app), allowedOrigins)
  const answerUnrouted = unroutedAnswerer(app)
  app.addHook('onRequest', (request, reply, next) => {
    const wantsUpgrade = isUpgrade(request)
    if (wantsUpgrade) closeAfterAnswer(request, reply)
    const refused = refusedHeaders(request.raw) ?? guard(request.headers, request.url)
    const { origin } = request.headers
    const isAllowed = origin !== undefined && allowedOrigins.has(origin)
    if (isAllowed) allowOrigin(reply, origin)
    if (refused !== undefined) void sendProblem(reply, refused)
    else if (isAllowed && answerPreflight(request, reply)) return
    else if (wantsUpgrade && pathOf(request.url) !== STREAM_PATH) {
      void sendProblem(reply, new MmsbError('NOT_FOUND', `no WebSocket at ${shownPath(request.url)}`))
    } else if (request.is404) answerUnrouted(request, reply)
    else next()
  })
}

/** The framework with its own answers replaced by ours, before it has routes. */
interface BareApp {
  readonly app: App
  readonly connections: Connections
  readonly upgrades: Upgrades
}

export function createFastify(limits: LimitGuard, logger: FastifyBaseLogger | undefined): BareApp {
  const { headersTimeoutMs, bodyTimeoutMs, idleTimeoutMs } = limits.values
  const app = Fastify({
    ...(logger === undefined ? {} : { loggerInstance: logger }),
    logController: new LogController({ disableRequestLogging: true }),
    // One logger for all requests: making a child for each costs more than the rest of a small request.
    childLoggerFactory: (parent) => parent,
    bodyLimit: HTTP_BODY_MAX_BYTES,
    // A stopping server answers what it still accepts; the framework's own refusal is not a problem document.
    return503OnClosing: false,
    // admitRequests() answers a request without Host with a problem document.
    http: {
      maxHeaderSize: HTTP_HEADERS_MAX_BYTES,
      requireHostHeader: false,
      headersTimeout: Math.min(headersTimeoutMs, bodyTimeoutMs),
      connectionsCheckingInterval: TIMEOUT_CHECK_MS,
    },
    // Node answers these with 408 through clientErrorHandler.
    requestTimeout: bodyTimeoutMs,
    keepAliveTimeout: idleTimeoutMs,
    clientErrorHandler: (error, socket) =>
      answerMalformed(error, socket, connections.pendingResponse(socket)),
    routerOptions: { maxParamLength: HTTP_PARAM_MAX_LENGTH },
    frameworkErrors: (error, request, reply) => {
      // No hook runs for these.
      if (upgrades.isUpgrade(request)) closeAfterAnswer(request, reply)
      void handleError(error, request, reply)
    },
  }).withTypeProvider<TypeBoxTypeProvider>()
  app.removeContentTypeParser('text/plain')
  addJsonParser(app, limits)
  app.setValidatorCompiler(validatorCompiler)
  app.setErrorHandler(handleError)
  answerOddRequests(app.server)
  const connections = new Connections(app.server)
  const upgrades = trackUpgrades(app.server, (socket) => connections.pendingResponse(socket))
  return { app, connections, upgrades }
}

function addJsonParser(app: App, limits: LimitGuard): void {
  const options = { parseAs: 'buffer', bodyLimit: limits.values.maxJsonBytes } as const
  app.addContentTypeParser<Buffer>('application/json', options, (_request, body, done) => {
    // Some clients send a content type with every request, even one without a body.
    if (body.length === 0) done(null)
    else if (isSmallJson(body)) done(null, parseSmallJson(body, 'body', limits))
    else parseJson(body, 'body', limits).then((value) => done(null, value), done)
  })
}

/** The addresses to listen on for a host. */
export async function addressesFor(host: string): Promise<readonly string[]> {
  // Another name may have addresses the user does not know of.
  if (host !== 'localhost') return [host]
  try {
    return [...new Set((await lookup(host, { all: true })).map(({ address }) => address))]
  } catch {
    // Listening on it then fails and says why.
    return [host]
  }
}

/** The port the app listens on; undefined before it does. */
export function boundPort(app: App): number | undefined {
  const address = app.server.address()
  return address === null || typeof address === 'string' ? undefined : address.port
}
