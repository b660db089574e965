/**
 * mmsb/client for Node. Version 20 has no WebSocket of its own, so this uses `ws`, which browsers never load.
 */
import { WebSocket } from 'ws'
import { Client, type ClientOptions } from './client.js'
import type { OpenSocket, SocketLike } from './stream/connection.js'

const openSocket: OpenSocket = (url, protocols) =>
  new WebSocket(url, protocols, { perMessageDeflate: false }) as unknown as SocketLike

/**
 * A client of the server at `url`, such as `http://127.0.0.1:7411`. Sends nothing until the first call.
 * @throws MmsbError INVALID_REQUEST
 */
export const connect = (url: string | URL, options: ClientOptions = {}): Client =>
  new Client(url, openSocket, options)

export { MmsbError } from './errors.js'
export type * from './index.js'
