/**
 * What an answer tells a client that lacks a token or a scope (RFC 6750, RFC 9728): the header
 * WWW-Authenticate, and the document about the issuer of tokens that it points to.
 */
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { MmsbError } from '../errors.js'

/** Where the document about the issuer is. */
export const RESOURCE_PATH = '/.well-known/oauth-protected-resource'

/** A server that accepts the tokens of an issuer. */
export interface ProtectedResource {
  readonly issuer: string
  /** The address of the server for its clients, without a trailing slash. Default: as a request names it. */
  readonly publicUrl?: string | undefined
}

/** What a Host header may be that is repeated in an answer. */
const HOST = /^[A-Za-z0-9.:[\]-]{1,255}$/

/** The address of this server for the sender of a request; undefined if its Host is none. */
export function resourceUrl(request: FastifyRequest, { publicUrl }: ProtectedResource): string | undefined {
  if (publicUrl !== undefined) return publicUrl
  const { host, protocol } = request
  return HOST.test(host) ? `${protocol}://${host}` : undefined
}

/** Adds to a refusal what the client needs for another attempt. */
export function addChallenge(
  request: FastifyRequest,
  reply: FastifyReply,
  { code, extra }: MmsbError,
  resource: ProtectedResource | undefined,
): void {
  const scope = extra?.scope
  const isForScope = code === 'FORBIDDEN' && typeof scope === 'string'
  if (code !== 'UNAUTHORIZED' && !isForScope) return
  const url = resource === undefined ? undefined : resourceUrl(request, resource)
  const parameters = [
    ...(url === undefined ? [] : [`resource_metadata="${url}${RESOURCE_PATH}"`]),
    ...(isForScope ? ['error="insufficient_scope"', `scope="${scope}"`] : []),
    // A client that has sent nothing has made no mistake.
    ...(!isForScope && request.headers.authorization !== undefined ? ['error="invalid_token"'] : []),
  ]
  void reply.header(
    'www-authenticate',
    `Bearer ${(parameters.length === 0 ? [REALM] : parameters).join(', ')}`,
  )
}

const REALM = 'realm="mmsb"'
