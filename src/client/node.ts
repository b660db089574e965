/**
 * mmsb/client for Node. Version 20 has no WebSocket of its own, so this uses `ws`, which browsers never load.
 */
import { WebSocket } from 'ws'
import { Client, type ClientOptions } from './client.js'
import { fetchWith, tlsOf } from './node-tls.js'
import type { OpenSocket, SocketLike } from './stream/connection.js'
import type { TlsOptions } from './types.js'

const openerWith =
  (tls: TlsOptions): OpenSocket =>
  (url, protocols) =>
    new WebSocket(url, protocols, {
      perMessageDeflate: false,
      ...(tls as object),
    }) as unknown as SocketLike

/**
 * A client of the server at `url`, such as `http://127.0.0.1:7411`. Sends nothing until the first call.
 * @throws MmsbError INVALID_REQUEST
 */
export function connect(url: string | URL, options: ClientOptions = {}): Client {
  const tls = tlsOf(url, Object(options) as TlsOptions)
  if (tls === undefined) return new Client(url, openerWith({}), options)
  const { ca: _ca, cert: _cert, key: _key, ...others } = options
  return new Client(url, openerWith(tls), { fetch: fetchWith(tls), ...others })
}

export { MmsbError } from './errors.js'
export type * from './index.js'
