/**
 * The messages of the stream: where it is served, its subprotocols, the names of JSON messages, and the
 * constants of binary ones ("WebSocket, binary" in docs/internals/FORMAT.md). Encoder and decoder are written
 * separately; tests compare them.
 */

export const STREAM_PATH = '/v1/stream'
export const JSON_PROTOCOL = 'mmsb.v1.json'
export const BINARY_PROTOCOL = 'mmsb.v1.bin'
/**
 * A browser sends its token as one more subprotocol: this and the token in base64url. It is not sent back.
 */
export const BEARER_PROTOCOL = 'mmsb.bearer.'
/** The code with which a WebSocket is closed whose token has expired or was taken away. */
export const LOGIN_ENDED = 4401

/** The name of a history: the id of a bus and a generation. */
export const HISTORY_PATTERN = '^[0-9a-f]{32}\\.[0-9a-f]{16}$'
/** The header that names the history of an answer, and in a request the one that the client knows. */
export const HISTORY_HEADER = 'mmsb-history'

/** What a subscriber may ask for. */
export const DATA_MODES = ['none', 'ranges', 'values'] as const
export const POLICIES = ['lossless', 'latest'] as const
export const STARTS = ['now', 'snapshot'] as const
/** In a binary change the mode is its position in DATA_MODES. */
export type DataMode = (typeof DATA_MODES)[number]
export type Policy = (typeof POLICIES)[number]

/** Messages that a client sends, in JSON. */
export const CLIENT_MESSAGES = ['subscribe', 'unsubscribe', 'commit', 'transaction'] as const
export type ClientMessageType = (typeof CLIENT_MESSAGES)[number]

/** Messages that carry an epoch and nothing else. */
export const MARKERS = ['subscribed', 'progress', 'unsubscribed', 'committed'] as const
export type Marker = (typeof MARKERS)[number]

/** Messages of subscriptions: the code of each in a binary message; in JSON it is the name. */
export const MESSAGE_CODES = {
  subscribed: 3,
  snapshot: 4,
  change: 5,
  progress: 6,
  compacted: 7,
  overflow: 8,
  unsubscribed: 9,
  error: 10,
  committed: 11,
} as const
export type MessageType = keyof typeof MESSAGE_CODES

/**
 * Answers to binary frames, by sequence number. JSON transactions are answered by `ack` and `error`, by id.
 */
export const ACK_CODE = 1
export const REFUSAL_CODE = 2

/**
 * Every binary message begins with this much: code, length of the id, length of the message, and an epoch.
 */
export const MESSAGE_HEAD_BYTES = 16
export const ACK_BYTES = 32
/** Of an error: status, and length of the JSON that follows. */
export const PROBLEM_HEAD_BYTES = 8
/** Of a change or snapshot: first epoch, number of pages, mode. */
export const BODY_HEAD_BYTES = 16
/** Of one page in a change or snapshot: length, kind, dtype, rank, length of the name, number of ranges. */
export const CHANGE_HEAD_BYTES = 16
/** At the end of `subscribed` and of a snapshot: the id of the bus and the generation. */
export const HISTORY_BYTES = 24
/** In a snapshot, each page is preceded by its version. */
export const VERSION_BYTES = 8
