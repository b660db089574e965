/**
 * mmsb/client for browsers: plain modules that need no bundler. Node loads node.ts instead, which differs
 * only in how it opens a WebSocket.
 */
import { openSocket } from './browser.js'
import { Client, type ClientOptions } from './client.js'

/**
 * A client of the server at `url`, such as `http://127.0.0.1:7411`. Sends nothing until the first call.
 * @throws MmsbError INVALID_REQUEST
 */
export const connect = (url: string | URL, options: ClientOptions = {}): Client =>
  new Client(url, openSocket, options)

export type { Dtype, TypedArray } from '../wire/dtype.js'
export type { Client, ClientOptions } from './client.js'
export { type ErrorCode, MmsbError } from './errors.js'
export type { Mirror, MirrorOptions, MirrorSet } from './stream/mirror.js'
export type { MirroredPage } from './stream/mirrored-page.js'
export type { Subscription } from './stream/subscription.js'
export type { Writer } from './stream/writer.js'
export type * from './types.js'
