/**
 * The HTTP server: a Fastify app over a bus, built apart from listening so that tests can inject requests.
 *
 * Invariants: every request is checked against the schemas in schemas/, and refused if it has a field they do
 * not name; every answer follows these schemas or is a problem document; what serves every request of a route
 * is made once: at start, or for the first that needs it.
 *
 * Null because callbacks of Node have it.
 *
 * Floors, lowest first: answers, challenge, client-certificates, health; context; metrics, reply; request,
 * schemas; authentication, observe; framework, stream; admin, routes, documents; app; starting.
 */
import { Server as SecureServer } from 'node:tls'
import type { Auditor } from '../audit/auditor.js'
import type { Authenticator } from '../auth/authenticator.js'
import type { LimitBook } from '../auth/limits/limit-book.js'
import { PrincipalUsages } from '../auth/limits/usages.js'
import { Tickets } from '../auth/tickets.js'
import type { EngineBus } from '../engine/bus.js'
import { VERSION } from '../engine/version.js'
import { hubOf } from '../stream/hub.js'
import { Answers } from './answers.js'
import { authenticate } from './authentication.js'
import type { ProtectedResource } from './challenge.js'
import { ClientCertificates } from './client-certificates.js'
import type { App, AppContext } from './context.js'
import { asyncApiRoute } from './documents/asyncapi.js'
import { openApiRoutes, registerOpenApi } from './documents/openapi.js'
import { protectedResourceRoute } from './documents/protected-resource.js'
import { shownScope } from './documents/shown.js'
import {
  type Admission,
  admitRequests,
  createFastify,
  type FrameworkOptions,
  listenOn,
  type Tls,
} from './framework.js'
import { healthOf, type Report } from './health.js'
import { createMetrics } from './metrics.js'
import { auditRoutes } from './observe/audit.js'
import { logRequests } from './observe/logging.js'
import { type Tracing, traceRequests } from './observe/tracing.js'
import { historyGuard } from './reply/history.js'
import { refuseWrite } from './reply/read-only.js'
import { limitBodies } from './request/body-budget.js'
import type { Connections } from './request/connections.js'
import { NO_ORIGINS } from './request/origin-guard.js'
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
import { ticketRoutes } from './routes/tickets.js'
import { timeRoutes } from './routes/time.js'
import { transactionRoutes } from './routes/transactions.js'
import type { StreamServer } from './stream/websocket.js'

export interface AppOptions extends Admission, FrameworkOptions {
  readonly bus: EngineBus
  /** Says who sends a request. Default: everybody may do everything. */
  readonly authenticator?: Authenticator | undefined
  /** The limits of principals. Default: they have none, and what they use is not counted. */
  readonly principalLimits?: LimitBook | undefined
  /** Whether the level of the logger may change later. */
  readonly mayChangeLevel?: boolean | undefined
  /** Set where the authenticator accepts the tokens of an issuer. */
  readonly resource?: ProtectedResource | undefined
  /** Gets what belongs into the audit trail. Default: there is none. */
  readonly auditor?: Auditor | undefined
  /** Default: nothing is traced. */
  readonly tracing?: Tracing | undefined
  /** A WebSocket that is silent for longer than this is closed. */
  readonly pingIntervalMs?: number
}

/** An app whose listeners and connections another one may take over. */
export interface Serving {
  readonly connections: Connections
}

export interface MmsbApp {
  readonly app: App
  readonly stream: StreamServer
  /** What principals use of their limits. */
  readonly usages: PrincipalUsages | undefined
  readonly report: Report
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
  /** Uses another certificate for connections that come from now on. @throws Error if it is not one */
  renewTls(tls: Tls): void
  /** Ends the connections that are still open. */
  cutOff(): void
  /** Finishes requests under way, closes streams, stops listening. The bus stays open. */
  close(): Promise<void>
}

/** Builds the app; it is ready for `inject` and `listen` when this resolves. */
export async function buildApp(options: AppOptions): Promise<MmsbApp> {
  const { bus } = options
  const bare = createFastify(bus.limits, options)
  const { app, connections, upgrades } = bare
  const context: AppContext = {
    bus,
    hub: hubOf(bus),
    answers: new Answers(bus.limits),
    authenticator: options.authenticator,
    tickets: new Tickets(),
    resource: options.resource,
    auditor: options.auditor,
    certificates: certificatesOf(app, options),
    usages: options.principalLimits && new PrincipalUsages(options.principalLimits, bus.tallies),
    openRequests: connections,
    isStopping: false,
  }
  bus.limits.measure('maxOpenRequests', () => connections.count)
  admitRequests(bare, bus.limits, options)
  logRequests(app, options.mayChangeLevel)
  if (options.tracing !== undefined) traceRequests(app, options.tracing)
  authenticate(app, context)
  if (options.auditor !== undefined) auditRoutes(app, options.auditor)
  if (bus.isReadOnly) app.addHook('onRequest', refuseWrite)
  limitBodies(app, bus.limits)
  app.addHook(
    'preHandler',
    historyGuard(() => context.bus.historyId),
  )
  await documentRoutes(app, options)
  pageRoutes(app)
  transactionRoutes(app)
  functionRoutes(app, context)
  graphRoutes(app, context)
  stateRoutes(app, context)
  timeRoutes(app, context)
  subscriptionRoutes(app, context)
  ticketRoutes(app, context)
  const metrics = createMetrics(context)
  healthRoutes(app, context, metrics)
  const endEvents = eventRoutes(app, context)
  // Only page data may be sent as raw bytes: this parser does not reach the routes above.
  await app.register(async (scope: App) => {
    scope.addContentTypeParser('application/octet-stream', { parseAs: 'buffer' }, (_request, body, done) => {
      done(null, body)
    })
    dataReadRoutes(scope, context)
    dataWriteRoutes(scope)
  })
  const stream = await streamRoutes(app, context, upgrades.inOrder, options)
  await app.ready()
  const close = async (): Promise<void> => {
    context.isStopping = true
    endEvents()
    await Promise.all([stream.close(), connections.stop()])
    await app.close()
  }
  return {
    app,
    stream,
    usages: context.usages,
    listen: (host, port, addressesOf) => listenOn(bare, host, port, addressesOf),
    report: { health: () => healthOf(context), metrics: () => metrics.metrics() },
    takeOver: (other) => connections.takeOver(other.connections),
    renewTls: renewerOf(app, context, options.tls),
    cutOff: () => connections.cutOff(),
    close,
  }
}

function certificatesOf(
  app: App,
  { authenticator, allowedOrigins = NO_ORIGINS }: AppOptions,
): ClientCertificates | undefined {
  if (authenticator?.certificates === undefined) return undefined
  return new ClientCertificates(app.server, authenticator.certificates, allowedOrigins)
}

/** Puts another certificate to use, and other authorities of client certificates. */
function renewerOf(
  { server }: App,
  { certificates }: AppContext,
  first: Tls | undefined,
): (tls: Tls) => void {
  let ca = first?.ca
  return (tls: Tls): void => {
    if (!(server instanceof SecureServer)) return
    server.setSecureContext({ ...tls, minVersion: 'TLSv1.2' })
    if (tls.ca === ca) return
    ca = tls.ca
    certificates?.renew()
  }
}

async function documentRoutes(app: App, { resource }: AppOptions): Promise<void> {
  await registerOpenApi(app, VERSION)
  await shownScope(app, async (scope) => {
    await openApiRoutes(scope)
    asyncApiRoute(scope, VERSION)
    if (resource !== undefined) protectedResourceRoute(scope, resource)
  })
}
