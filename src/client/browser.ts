/** Opens WebSockets on platforms that have them: browsers, workers, newer versions of Node. */
import { MmsbError } from './errors.js'
import type { OpenSocket, SocketLike } from './stream/connection.js'

type SocketType = new (url: string, protocols: string | string[]) => SocketLike

export const openSocket: OpenSocket = (url, protocols) => {
  const { WebSocket } = globalThis as { WebSocket?: unknown }
  if (WebSocket === undefined) {
    throw new MmsbError({ code: 'PROTOCOL', detail: 'this platform has no WebSocket' })
  }
  return new (WebSocket as SocketType)(url, protocols)
}
