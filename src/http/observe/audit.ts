/**
 * What the routes tell the audit trail.
 *
 * Invariants: every route that needs `define`, `functions` or `admin` is in the trail without being named
 * here, and so are those that say so themselves; routes that write are, if writes are wanted. A request has a
 * line once its sender is known, whatever becomes of it; refused logins have lines of their own. Other routes
 * pay nothing.
 *
 * Null because callbacks of the framework have it.
 */
import type {
  FastifyReply,
  FastifyRequest,
  onRequestHookHandler,
  onSendAsyncHookHandler,
  preHandlerAsyncHookHandler,
  preSerializationHookHandler,
  RouteOptions,
} from 'fastify'
import type { Action, Auditor } from '../../audit/auditor.js'
import type { Outcome } from '../../audit/line.js'
import type { Verb } from '../../auth/scopes.js'
import type { App } from '../context.js'

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Its requests are in the audit trail, although what it needs does not say so. */
    readonly audited?: true
  }
  interface FastifyRequest {
    /** Undefined for requests that are not in the audit trail. */
    audit: AuditNotes | undefined
  }
}

/** What is known of a request so far. */
interface AuditNotes {
  pages: readonly string[] | undefined
  epoch: number | undefined
}

const AUDITED_VERBS: ReadonlySet<Verb> = new Set(['define', 'functions', 'admin'])

/** Routes that are added from now on tell the auditor what they are used for. */
export function auditRoutes(app: App, auditor: Auditor): void {
  app.decorateRequest('audit', undefined)
  app.addHook('onRoute', (route) => {
    if (!isAudited(route, auditor.withWrites)) return
    const action = (route.schema as { operationId?: string } | undefined)?.operationId ?? route.url
    // Before the hook that asks whether the sender may use the route.
    route.onRequest = [notes, ...listOf(route.onRequest)]
    if (auditor.isClosed) route.preHandler = [...listOf(route.preHandler), begins(auditor, action)]
    route.preSerialization = [...listOf(route.preSerialization), result]
    route.onSend = [...listOf(route.onSend), ends(auditor, action)]
  })
}

function isAudited({ config, method }: RouteOptions, withWrites: boolean): boolean {
  const { needs, audited, onlyAsks } = config ?? {}
  if (audited === true) return true
  if (needs === undefined || typeof needs === 'string') return false
  if (needs.some((verb) => AUDITED_VERBS.has(verb))) return true
  return withWrites && method !== 'GET' && onlyAsks !== true && needs.includes('write')
}

const notes: onRequestHookHandler = (request, _reply, next) => {
  request.audit = { pages: undefined, epoch: undefined }
  next()
}

const begins =
  (auditor: Auditor, action: string): preHandlerAsyncHookHandler =>
  (request) =>
    auditor.begin(actionOf(request, action))

/** What an answer says, before it becomes text. */
const result: preSerializationHookHandler<unknown> = (request, _reply, payload, next) => {
  const { audit } = request
  if (audit !== undefined) {
    const { epoch, createdEpoch, pages } = Object(payload) as Record<string, unknown>
    const known = epoch ?? createdEpoch
    if (typeof known === 'number') audit.epoch = known
    if (Array.isArray(pages) && pages.every((page) => typeof page === 'string')) audit.pages = pages
  }
  next(null, payload)
}

const ends =
  (auditor: Auditor, action: string): onSendAsyncHookHandler<unknown> =>
  async (request, reply, payload) => {
    const { audit } = request
    const code = reply.problem?.code
    // Who is not known has no line here.
    if (audit !== undefined && code !== 'UNAUTHORIZED') {
      const entry = actionOf(request, action)
      const written = auditor.note({
        ...entry,
        pages: audit.pages ?? entry.pages,
        epoch: audit.epoch,
        outcome: outcomeOf(reply),
        code,
      })
      if (auditor.isClosed) await written
    }
    return payload
  }

function outcomeOf({ statusCode }: FastifyReply): Outcome {
  if (statusCode < 400) return 'done'
  return statusCode < 500 ? 'refused' : 'failed'
}

/** Who does what to what, as far as the request says. */
function actionOf(request: FastifyRequest, action: string): Action {
  const { name } = Object(request.params) as { name?: string }
  const { pages, ops } = Object(request.body) as { pages?: unknown; ops?: unknown }
  const isPage = request.routeOptions.url?.startsWith('/v1/pages') === true
  return {
    ...senderOf(request),
    action,
    pages: isPage && name !== undefined ? [name] : (namesIn(pages, 'name') ?? namesIn(ops, 'page')),
    target: isPage ? undefined : name,
  }
}

/** Who sends a request, as the trail names it. */
export const senderOf = ({
  id,
  ip,
  login,
}: FastifyRequest): Pick<Action, 'requestId' | 'principal' | 'ip'> => ({
  requestId: id,
  principal: login?.principal.id,
  ip,
})

/** The names in a list of a body, which may not have been checked. */
function namesIn(list: unknown, field: string): string[] | undefined {
  if (!Array.isArray(list)) return undefined
  const names = list.map((item) => (Object(item) as Record<string, unknown>)[field])
  return [...new Set(names.filter((name) => typeof name === 'string'))]
}

const listOf = <T>(hooks: T | T[] | undefined): T[] => (hooks === undefined ? [] : ([hooks].flat() as T[]))
