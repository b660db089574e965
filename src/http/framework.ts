/**
 * The framework with its own answers replaced by ours, before it has routes: what the server, the server that
 * still recovers and the admin listener have in common.
 *
 * Invariants: every request is first judged by its headers, its Host and its Origin; every refusal is a
 * problem document. Knows nothing of the bus.
 *
 * Null because callbacks of Node have it.
 */
import { lookup } from 'node:dns/promises'
import { type IncomingMessage, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import Fastify, { type FastifyBaseLogger, type FastifyRequest, LogController } from 'fastify'
import { MmsbError } from '../errors.js'
import { HTTP_HEADERS_MAX_BYTES, HTTP_PARAM_MAX_LENGTH, LISTEN_BACKLOG, TIMEOUT_CHECK_MS } from '../limits.js'
import type { LimitGuard } from '../operator-limits.js'
import { STREAM_PATH } from '../wire/messages.js'
import type { App, OpenRequests } from './context.js'
import { HEALTH_PATHS } from './health.js'
import { REQUEST_ID_HEADER, requestIdOf } from './observe/request-id.js'
import { handleError, pathOf, sendProblem, shownPath } from './reply/problem.js'
import { NOT_KEPT_HEADERS } from './reply/safety-headers.js'
import { buildSerializer } from './reply/serializers.js'
import { unroutedAnswerer } from './request/allowed-methods.js'
import { tooLongBody } from './request/body-budget.js'
import { Connections } from './request/connections.js'
import { allowOrigin, answerPreflight } from './request/cors.js'
import { isSmallJson, parseJson, parseSmallJson } from './request/json.js'
import { answerMalformed, answerOddRequests } from './request/malformed-requests.js'
import { refusedHeaders } from './request/negotiate.js'
import { type Guard, loopbackGuard, NO_ORIGINS } from './request/origin-guard.js'
import { closeAfterAnswer, trackUpgrades, type Upgrades } from './request/upgrades.js'
import { validatorCompiler } from './request/validation.js'

/** Who may send requests. */
export interface Admission {
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
}

/** The first hook of every request, WebSocket handshakes too: it refuses before a body is read. */
export function admitRequests(
  { app, connections, upgrades }: BareApp,
  limits: LimitGuard,
  options: Admission,
): void {
  const { allowedOrigins = NO_ORIGINS } = options
  const { isUpgrade } = upgrades
  const guard = options.guard ?? loopbackGuard('127.0.0.1', () => boundPort(app), allowedOrigins)
  const answerUnrouted = unroutedAnswerer(app)
  app.addHook('onRequest', (request, reply, next) => {
    if (isRead(request.raw)) void reply.headers(NOT_KEPT_HEADERS)
    const wantsUpgrade = isUpgrade(request)
    void reply.header(REQUEST_ID_HEADER, request.id)
    if (wantsUpgrade) closeAfterAnswer(request, reply)
    const refused =
      refusedHeaders(request.raw) ??
      refusedOrigin(guard, request) ??
      oneTooMany(request, connections, limits) ??
      tooLongBody(request.raw, limits)
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

export const isRead = ({ method }: IncomingMessage): boolean => method === 'GET' || method === 'HEAD'

/** Probes of an orchestrator name the server by whatever address they reach it at; a web page is no probe. */
function refusedOrigin(guard: Guard, { headers, url, raw }: FastifyRequest): MmsbError | undefined {
  const refused = guard(headers, url)
  if (refused === undefined || !isRead(raw) || !HEALTH_PATHS.has(pathOf(url))) return refused
  const isOfPage = headers.origin !== undefined || headers['sec-fetch-site'] === 'cross-site'
  return isOfPage ? refused : undefined
}

/** The error for a request above the number that may be read or answered at once. */
function oneTooMany(
  { url }: FastifyRequest,
  openRequests: OpenRequests,
  limits: LimitGuard,
): MmsbError | undefined {
  const { maxOpenRequests } = limits.values
  if (openRequests.count <= maxOpenRequests || HEALTH_PATHS.has(pathOf(url))) return undefined
  return limits.refusal('maxOpenRequests', `${maxOpenRequests} requests are being read or answered`)
}

export interface BareApp {
  readonly app: App
  readonly connections: Connections
  readonly upgrades: Upgrades
}

/** The certificate of a server, and its key, in PEM. */
export interface Tls {
  readonly cert: string
  readonly key: string
  /** Authorities of client certificates; undefined: clients are not asked for one. */
  readonly ca?: string | undefined
}

/** What the framework is told at its start. */
export interface FrameworkOptions {
  /** Gets errors inside the server. Default: they are dropped. */
  readonly logger?: FastifyBaseLogger | undefined
  /** Default: plain HTTP. */
  readonly tls?: Tls | undefined
  /** Addresses and networks (CIDR) of proxies whose X-Forwarded headers count. Default: none. */
  readonly trustedProxies?: readonly string[] | undefined
}

export function createFastify(limits: LimitGuard, options: FrameworkOptions): BareApp {
  const { logger, tls, trustedProxies = [] } = options
  const { headersTimeoutMs, bodyTimeoutMs, idleTimeoutMs } = limits.values
  // admitRequests() answers a request without Host with a problem document.
  const server = {
    maxHeaderSize: HTTP_HEADERS_MAX_BYTES,
    requireHostHeader: false,
    headersTimeout: Math.min(headersTimeoutMs, bodyTimeoutMs),
    connectionsCheckingInterval: TIMEOUT_CHECK_MS,
  }
  const secured = {
    ...server,
    ...tls,
    minVersion: 'TLSv1.2',
    handshakeTimeout: headersTimeoutMs,
    requestCert: tls?.ca !== undefined,
    // An answer can say what is wrong with a certificate; an end of the handshake cannot.
    rejectUnauthorized: false,
  } as const
  const app = Fastify({
    ...(logger === undefined ? {} : { loggerInstance: logger }),
    logController: new LogController({ disableRequestLogging: true }),
    genReqId: requestIdOf,
    ...(trustedProxies.length === 0 ? {} : { trustProxy: [...trustedProxies] }),
    // One logger for all requests: making a child for each costs more than the rest of a small request.
    childLoggerFactory: (parent) => parent,
    bodyLimit: limits.values.maxBodyBytes,
    schemaController: { compilersFactory: { buildSerializer } },
    // A stopping server answers what it still accepts; the framework's own refusal is not a problem document.
    return503OnClosing: false,
    // The types know HTTPS as another kind of app; nothing that the routes use differs.
    ...((tls === undefined ? { http: server } : { https: secured }) as { readonly http: typeof server }),
    // Node answers these with 408 through clientErrorHandler.
    requestTimeout: bodyTimeoutMs,
    keepAliveTimeout: idleTimeoutMs,
    clientErrorHandler: (error, socket) =>
      answerMalformed(error, socket, connections.pendingResponse(socket)),
    routerOptions: { maxParamLength: HTTP_PARAM_MAX_LENGTH },
    frameworkErrors: (error, request, reply) => {
      // No hook runs for these.
      void reply.header(REQUEST_ID_HEADER, request.id)
      if (upgrades.isUpgrade(request)) closeAfterAnswer(request, reply)
      void handleError(error, request, reply)
    },
  }).withTypeProvider<TypeBoxTypeProvider>()
  app.decorateReply('problem', undefined)
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
  const { maxBodyBytes, maxJsonBytes } = limits.values
  const options = { parseAs: 'buffer', bodyLimit: Math.min(maxBodyBytes, maxJsonBytes) } as const
  app.addContentTypeParser<Buffer>('application/json', options, (_request, body, done) => {
    // Some clients send a content type with every request, even one without a body.
    if (body.length === 0) done(null)
    else if (isSmallJson(body)) done(null, parseSmallJson(body, 'body', limits))
    else parseJson(body, 'body', limits).then((value) => done(null, value), done)
  })
}

/** Lets the routes answer upgrades like any request; see request/upgrades.ts. */
export function routeUpgrades({ app, upgrades }: BareApp): void {
  upgrades.inOrder.on('upgrade', (request, socket: Duplex) => {
    const response = new ServerResponse(request)
    response.assignSocket(socket as Parameters<ServerResponse['assignSocket']>[0])
    app.routing(request, response)
  })
}

/** Listens on one port of each address of a host. Fails if the first address is not available. */
export async function listenOn(
  { app, connections }: BareApp,
  host: string,
  port: number,
  addressesOf = addressesFor,
): Promise<void> {
  const [first = host, ...others] = await addressesOf(host)
  await app.listen({ host: first, port, backlog: LISTEN_BACKLOG })
  // One address of a name is enough.
  for (const other of others) await connections.listenAlso(other, boundPort(app)!).catch(() => {})
  await connections.acceptMore()
}

/** The addresses to listen on for a host. */
async function addressesFor(host: string): Promise<readonly string[]> {
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
