/** The document that names the issuer whose tokens this server accepts (RFC 9728). */

import { EVERY_SCOPE } from '../../auth/scopes.js'
import { MmsbError } from '../../errors.js'
import { type ProtectedResource, RESOURCE_PATH, resourceUrl } from '../challenge.js'
import type { App } from '../context.js'

export function protectedResourceRoute(app: App, resource: ProtectedResource): void {
  app.get(RESOURCE_PATH, { schema: { hide: true } }, (request, reply) => {
    const url = resourceUrl(request, resource)
    if (url === undefined) throw new MmsbError('INVALID_REQUEST', 'Host: is not the address of a server')
    void reply.send({
      resource: url,
      authorization_servers: [resource.issuer],
      bearer_methods_supported: ['header'],
      scopes_supported: EVERY_SCOPE,
      resource_name: 'MMSB',
    })
  })
}
