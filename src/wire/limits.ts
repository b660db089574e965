/** Limits of the server that a client has to know. Units last. */

/** The server refuses larger request bodies. */
export const HTTP_BODY_MAX_BYTES = 64 * 1024 ** 2
/** The server closes a WebSocket that sends a larger message. */
export const STREAM_MESSAGE_MAX_BYTES = 16 * 1024 ** 2
/** A subscription receives at least one message in this time, if only `progress`. */
export const STREAM_PROGRESS_INTERVAL_MS = 5_000
