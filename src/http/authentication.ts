/**
 * Who sends a request, and what the route needs them to be allowed.
 *
 * Invariants: every route says what it needs (`config.needs`); an app with one that does not cannot start. A
 * request is judged before its body is read and before a page is looked up. Handlers get the bus of the
 * sender's principal as `request.bus`; what it may do with which page is decided there
 * (src/auth/guarded-bus.ts).
 */
import type { IncomingHttpHeaders } from 'node:http'
import type { FastifyReply, FastifyRequest, onRequestHookHandler, RouteOptions } from 'fastify'
import { type Authenticator, type Login, unauthorized, watchLogin } from '../auth/authenticator.js'
import { type ClientBus, GuardedBus } from '../auth/guarded-bus.js'
import { FailedLogins } from '../auth/limits/failed-logins.js'
import type { PrincipalUsages } from '../auth/limits/usages.js'
import type { Principal } from '../auth/principals.js'
import type { Verb } from '../auth/scopes.js'
import type { Tickets } from '../auth/tickets.js'
import type { EngineBus } from '../engine/bus.js'
import { MmsbError } from '../errors.js'
import { BEARER_PROTOCOL, STREAM_PATH } from '../wire/messages.js'
import { addChallenge } from './challenge.js'
import type { ClientCertificates } from './client-certificates.js'
import type { App, AppContext } from './context.js'
import { handleError, pathOf } from './reply/problem.js'

/**
 * What a route needs: nothing; a known sender; or a verb on the pages that it names. Verbs that do not look
 * at pages are needed as a whole.
 */
export type Needs = 'nothing' | 'login' | readonly Verb[]

declare module 'fastify' {
  interface FastifyContextConfig {
    readonly needs?: Needs
  }
  interface FastifyRequest {
    /** The bus as the sender may use it. */
    readonly bus: ClientBus
    /** Set where the sender may not use all of the bus. */
    guardedBus: GuardedBus | undefined
    /** Undefined on a server without authentication. */
    login: Login | undefined
  }
}

/** The login of the last request of a connection. */
interface Seen {
  readonly authorization: string
  /** A promise while it is found out. */
  login: Login | Promise<Login>
}

/** Verbs that are judged here, because no page decides. */
const WITHOUT_PAGES: ReadonlySet<Verb> = new Set(['admin', 'metrics'])

/** Gives requests their bus, and refuses those that may not use the route. */
export function authenticate(app: App, context: AppContext): void {
  const { bus, authenticator, tickets, certificates, auditor, usages } = context
  app.decorateRequest('guardedBus', undefined)
  app.decorateRequest('bus', {
    getter(this: FastifyRequest) {
      return this.guardedBus ?? bus
    },
  })
  app.decorateRequest('login', undefined)
  const routes: RouteOptions[] = []
  const open = new OpenPaths()
  app.addHook('onRoute', (route) => {
    routes.push(route)
    const hooks = route.onRequest === undefined ? [] : [route.onRequest].flat()
    // After the hook of the app, which knows the sender by then.
    if (authenticator !== undefined) route.onRequest = [...hooks, whoMay(route)]
  })
  app.addHook('onReady', (done) => {
    const undecided = routes.filter(({ config }) => config?.needs === undefined)
    // A mistake of the program: nobody can know who may use them.
    for (const { url, config } of routes) if (config?.needs === 'nothing') open.add(url)
    if (undecided.length > 0)
      done(new Error(`routes that do not say what they need: ${undecided.map(({ url }) => url).join(', ')}`))
    else done()
  })
  if (authenticator === undefined) return
  const busOf = busesOf(bus, usages)
  app.decorate('addChallenge', (request, reply, error) => {
    addChallenge(request, reply, error, context.resource)
    if (certificates?.isStale(request.raw.socket) === true) void reply.header('connection', 'close')
  })
  const logins = new Logins(authenticator, certificates)
  const failures = new FailedLogins()
  const deny = (request: FastifyRequest, reply: FastifyReply, error: unknown): void => {
    if (!(error instanceof MmsbError) || error.code !== 'UNAUTHORIZED') {
      void refuse(request, reply, error)
      return
    }
    auditor?.loginFailed({ ip: request.ip, requestId: request.id })
    // Who sends no credentials has not tried any.
    const waitS = hasCredentials(request) ? failures.add(request.ip) : undefined
    void refuse(request, reply, waitS === undefined ? error : tooManyFailures(waitS))
  }
  app.addHook('onRequest', (request, reply, next) => {
    const admit = (login: Login): void => {
      request.login = login
      request.guardedBus = busOf(login.principal)
      next()
    }
    try {
      // Nearly every request comes on a connection that is known, so that is asked before anything else.
      const known = ticketLogin(request, tickets) ?? logins.known(request)
      if (known !== undefined) {
        admit(known)
        return
      }
      // The framework would make the options of the route anew for every request.
      if (open.has(pathOf(request.url))) {
        next()
        return
      }
      const login = logins.find(request)
      // A promise for what is known already would delay every request.
      if (login instanceof Promise) login.then(admit, (error) => deny(request, reply, error))
      else admit(login)
    } catch (error) {
      deny(request, reply, error)
    }
  })
}

/** Makes the bus of each principal, once. */
function busesOf(bus: EngineBus, usages: PrincipalUsages | undefined): (principal: Principal) => GuardedBus {
  const buses = new WeakMap<Principal, GuardedBus>()
  return (principal) => {
    let own = buses.get(principal)
    if (own === undefined) {
      own = new GuardedBus(bus, principal, usages)
      buses.set(principal, own)
    }
    return own
  }
}

/**
 * Finds out who sends a request. A connection nearly always sends one token. It is looked up when it comes
 * first, and remembered with its connection alone, so that nobody can find out another one's by how long a
 * comparison takes.
 */
class Logins {
  readonly #authenticator: Authenticator
  readonly #certificates: ClientCertificates | undefined
  readonly #seen = new WeakMap<object, Seen>()

  constructor(authenticator: Authenticator, certificates: ClientCertificates | undefined) {
    this.#authenticator = authenticator
    this.#certificates = certificates
  }

  /** The login that the connection had before, if it sends the same token and that counts. */
  known({ headers, raw }: FastifyRequest): Login | undefined {
    const seen = this.#seen.get(raw.socket)
    if (seen === undefined || seen.authorization !== headers.authorization) return undefined
    const { login } = seen
    return !(login instanceof Promise) && login.isValid() ? login : undefined
  }

  find({ raw }: FastifyRequest): Login | Promise<Login> {
    const { headers, socket } = raw
    const { authorization } = headers
    const seen = this.#seen.get(socket)
    // Requests of one connection that come at once stay in their order if they wait for the same promise.
    if (seen !== undefined && seen.authorization === authorization && counts(seen.login)) return seen.login
    const credential = credentialOf(headers)
    const login =
      credential === undefined ? this.#certificates?.loginOf(raw) : this.#authenticator.login(credential)
    if (login === undefined) throw unauthorized('This server needs credentials.')
    if (authorization === undefined) return login
    const found: Seen = { authorization, login }
    this.#seen.set(socket, found)
    if (login instanceof Promise) {
      login.then(
        (known) => {
          found.login = known
        },
        () => {
          if (this.#seen.get(socket) === found) this.#seen.delete(socket)
        },
      )
    }
    return login
  }
}

const counts = (login: Login | Promise<Login>): boolean => login instanceof Promise || login.isValid()

/**
 * Paths that need nothing, as they are written in a URL: one that is written in another way needs a login.
 */
class OpenPaths {
  readonly #paths = new Set<string>()
  readonly #prefixes: string[] = []

  /** `url` is that of a route; what follows a `*` may be anything. */
  add(url: string): void {
    if (url.endsWith('*')) this.#prefixes.push(url.slice(0, -1))
    else this.#paths.add(url)
  }

  has(path: string): boolean {
    return this.#paths.has(path) || this.#prefixes.some((prefix) => path.startsWith(prefix))
  }
}

/** A hook that refuses those who lack what a route needs, as far as no page decides. */
function whoMay(route: RouteOptions): onRequestHookHandler {
  return (request, reply, next) => {
    const { login } = request
    try {
      if (login !== undefined) refuseWithout(route.config?.needs, login.principal)
      next()
    } catch (error) {
      void refuse(request, reply, error)
    }
  }
}

function refuseWithout(needs: Needs | undefined, { scopes }: Principal): void {
  if (needs === undefined || typeof needs === 'string') return
  for (const verb of needs) {
    if (!WITHOUT_PAGES.has(verb) || scopes.allowsAll(verb)) continue
    throw new MmsbError('FORBIDDEN', `This needs the scope ${verb}:*.`, { scope: `${verb}:*` })
  }
}

function refuse(request: FastifyRequest, reply: FastifyReply, error: unknown): FastifyReply {
  return handleError(error, request, reply)
}

/** Where a ticket counts. */
const TICKET_PATHS: ReadonlySet<string> = new Set([STREAM_PATH, '/v1/events'])

/** The login of the ticket that a request sends. It is used up then. @throws MmsbError UNAUTHORIZED */
function ticketLogin(request: FastifyRequest, tickets: Tickets): Login | undefined {
  if (!request.url.includes('ticket') || !TICKET_PATHS.has(request.routeOptions.url ?? '')) return undefined
  const query = request.query as { ticket?: unknown }
  const { ticket } = query
  if (ticket === undefined) return undefined
  // The schemas of the routes do not know it.
  delete query.ticket
  const login = typeof ticket === 'string' ? tickets.redeem(ticket) : undefined
  if (login === undefined) throw unauthorized('ticket: is not one that counts.')
  return login
}

/**
 * The token of a request: in Authorization, or for a WebSocket of a browser among the subprotocols. Undefined
 * if it has none.
 */
function credentialOf(headers: IncomingHttpHeaders): string | undefined {
  const { authorization } = headers
  if (authorization !== undefined) {
    const token = /^Bearer +([^\s]+) *$/i.exec(authorization)?.[1]
    if (token !== undefined) return token
    throw unauthorized('Authorization: is not "Bearer TOKEN".')
  }
  const offered = headers.upgrade === undefined ? '' : (headers['sec-websocket-protocol'] ?? '')
  const bearer = offered.split(',').find((protocol) => protocol.trim().startsWith(BEARER_PROTOCOL))
  if (bearer === undefined) return undefined
  return Buffer.from(bearer.trim().slice(BEARER_PROTOCOL.length), 'base64url').toString('utf8')
}

function hasCredentials({ headers, url }: FastifyRequest): boolean {
  const isInProtocols = headers['sec-websocket-protocol']?.includes(BEARER_PROTOCOL) === true
  return headers.authorization !== undefined || isInProtocols || url.includes('ticket')
}

/** `login` says that this means what 401 does: other credentials may be sent at once. */
const tooManyFailures = (retryAfterS: number): MmsbError =>
  new MmsbError('RATE_LIMITED', 'Too many logins from this address have failed.', {
    login: 'failed',
    retryAfterS,
  })

/** Calls back once, when the login of a request counts no longer. Returns what stops watching. */
export function whileLoggedIn(
  { login, id, ip }: FastifyRequest,
  { authenticator, auditor }: AppContext,
  onEnd: () => void,
): () => void {
  if (login === undefined || authenticator === undefined) return () => {}
  return watchLogin(authenticator, login, () => {
    void auditor?.note({
      ...{ requestId: id, principal: login.principal.id, ip },
      ...{ action: 'loginEnded', outcome: 'refused', code: 'UNAUTHORIZED' },
    })
    onEnd()
  })
}
