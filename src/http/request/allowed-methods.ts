/**
 * Which methods a path allows, learned from the routes themselves: for the answer to OPTIONS, and for the
 * `Allow` header of a request with another method (RFC 9110, 15.5.6).
 */
import type { FastifyReply, FastifyRequest } from 'fastify'
import { MmsbError } from '../../errors.js'
import type { App } from '../context.js'
import { pathOf, sendProblem, shownPath } from '../reply/problem.js'

interface AllowedMethods {
  readonly path: RegExp
  readonly methods: Set<string>
}

/**
 * Watches the routes that are added from now on. Returns a function that answers a request without a route.
 */
export function unroutedAnswerer(app: App): (request: FastifyRequest, reply: FastifyReply) => void {
  const routes = new Map<string, AllowedMethods>()
  app.addHook('onRoute', ({ url, method }) => {
    const route = routes.get(url) ?? { path: patternOf(url), methods: new Set() }
    for (const one of [method].flat()) route.methods.add(one)
    routes.set(url, route)
  })
  return ({ method, url }, reply) => {
    const methods = methodsOf(pathOf(url), routes.values())
    if (methods.length === 0) {
      void sendProblem(reply, new MmsbError('NOT_FOUND', `no route ${method} ${shownPath(url)}`))
      return
    }
    const allow = methods.join(', ')
    void reply.header('allow', allow)
    if (method === 'OPTIONS') {
      void reply.code(204).send()
      return
    }
    const detail = `${method} ${shownPath(url)}: allowed methods are ${allow}`
    void sendProblem(reply, new MmsbError('METHOD_NOT_ALLOWED', detail))
  }
}

function methodsOf(path: string, routes: Iterable<AllowedMethods>): readonly string[] {
  const methods = new Set<string>()
  for (const route of routes)
    if (route.path.test(path)) for (const method of route.methods) methods.add(method)
  return methods.size === 0 ? [] : [...methods.add('OPTIONS')].sort()
}

/** Matches the paths of a route: a parameter is one segment, a star matches anything. */
function patternOf(url: string): RegExp {
  const parts = url.split(/(:[A-Za-z]+|\*)/).map((part) => {
    if (part === '*') return '.*'
    return part.startsWith(':') ? '[^/]+' : part.replace(/[.\\+?^${}()|[\]]/g, '\\$&')
  })
  return new RegExp(`^${parts.join('')}$`)
}
