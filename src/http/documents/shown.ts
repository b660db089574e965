/**
 * The scope of what a browser shows: pages and documents about the server itself, for everybody. They are
 * compressed and may be kept, unlike data and events.
 *
 * Invariant: its pages load nothing from elsewhere, and no other site frames them.
 */
import { constants } from 'node:zlib'
import compress from '@fastify/compress'
import etag from '@fastify/etag'
import helmet from '@fastify/helmet'
import type { App } from '../context.js'
import { SAFETY_HEADERS } from '../reply/safety-headers.js'

/** Documents are compressed anew for each request; the best quality would take a second. */
const BROTLI_QUALITY = 5
const COMPRESS_FROM_BYTES = 1024

/** Registers `routes`, which everybody may use. */
export async function shownScope(app: App, routes: (scope: App) => Promise<void>): Promise<void> {
  await app.register(async (scope: App) => {
    scope.addHook('onRoute', (route) => {
      route.config = { ...route.config, needs: 'nothing' }
    })
    scope.addHook('onRequest', (_request, reply, next) => {
      // Those of pages are set below.
      for (const name of Object.keys(SAFETY_HEADERS)) void reply.removeHeader(name)
      // Kept, but asked for again each time: 304 if nothing has changed.
      void reply.header('cache-control', 'no-cache')
      next()
    })
    await scope.register(helmet, {
      contentSecurityPolicy: { useDefaults: false, directives: DIRECTIVES },
      // Whether every server of this name speaks TLS is for its operator to say.
      strictTransportSecurity: false,
    })
    // The same tag for every encoding, so it is a weak one.
    await scope.register(etag, { weak: true })
    await scope.register(compress, {
      encodings: ['br', 'gzip'],
      threshold: COMPRESS_FROM_BYTES,
      brotliOptions: { params: { [constants.BROTLI_PARAM_QUALITY]: BROTLI_QUALITY } },
    })
    await routes(scope)
  })
}

const SELF = "'self'"
const NOTHING = "'none'"
/** Swagger UI sets styles of elements, and shows icons that it holds itself. */
const DIRECTIVES = {
  defaultSrc: [NOTHING],
  scriptSrc: [SELF],
  styleSrc: [SELF, "'unsafe-inline'"],
  imgSrc: [SELF, 'data:'],
  connectSrc: [SELF],
  fontSrc: [SELF],
  baseUri: [NOTHING],
  formAction: [NOTHING],
  frameAncestors: [NOTHING],
}
