/**
 * Which methods a path takes, from the routes themselves: what a request with another one is told (RFC 9110, 15.5.6), and the
 * answer to OPTIONS.
 */
import type { FastifyReply, FastifyRequest } from 'fastify'
import { MmsbError } from '../../errors.js'
import type { App } from '../context.js'
import { pathOf, sendProblem } from '../reply/problem.js'

interface Taken {
  readonly paths: RegExp
  readonly methods: Set<string>
}

/** Watches the routes that are added from now on; returns what answers a request that none of them took. */
export function answerUntaken(app: App): (request: FastifyRequest, reply: FastifyReply) => void {
  const routes = new Map<string, Taken>()
  app.addHook('onRoute', ({ url, method }) => {
    const route = routes.get(url) ?? { paths: patternOf(url), methods: new Set() }
    for (const one of [method].flat()) route.methods.add(one)
    routes.set(url, route)
  })
  const allowed = (path: string): readonly string[] => {
    const methods = [...routes.values()]
      .filter(({ paths }) => paths.test(path))
      .flatMap((r) => [...r.methods])
    return methods.length === 0 ? [] : [...new Set([...methods, 'OPTIONS'])].sort()
  }
  return (request, reply) => {
    const { method } = request
    const path = pathOf(request.url)
    const methods = allowed(path)
    if (methods.length === 0) {
      void sendProblem(reply, new MmsbError('NOT_FOUND', `no route ${method} ${shown(path)}`))
      return
    }
    const allow = methods.join(', ')
    void reply.header('allow', allow)
    if (method === 'OPTIONS') void reply.code(204).send()
    else
      void sendProblem(
        reply,
        new MmsbError('METHOD_NOT_ALLOWED', `${method} ${shown(path)}: it takes ${allow}`),
      )
  }
}

const shown = (path: string): string => path.slice(0, 200)

/** The paths of a route: a parameter is one segment, a star is anything. */
function patternOf(url: string): RegExp {
  const parts = url.split(/(:[A-Za-z]+|\*)/).map((part) => {
    if (part === '*') return '.*'
    return part.startsWith(':') ? '[^/]+' : part.replace(/[.\\+?^${}()|[\]]/g, '\\$&')
  })
  return new RegExp(`^${parts.join('')}$`)
}
